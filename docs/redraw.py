"""Draw the figures of the pages, and write their tables, from ``docs/records``: no training.

    python docs/redraw.py

``bench.png`` is drawn by ``python -m experiments.bench``. ``ant.png`` and ``qdata.png`` need the
rows of long runs, which are not kept here: their pages name the commands.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from recorded import PREFIXES, RECORDS, pilot, with_tables  # noqa: E402

from plasticity.figures.overview import overview, table  # noqa: E402
from plasticity.protocol.experiment import LABELS, Definition  # noqa: E402

if TYPE_CHECKING:
    from plasticity.studies.numbers import Numbers

Rows = list[dict[str, float]]
COLUMNS = {
    "accuracies": "test_accuracy",
    "weight_norms": "weight_norm",
    "grad_norms": "gradient_norm",
}


def rows_of(found: Numbers, arm: str) -> list[Rows]:
    """Return an arm's rows, a list of them for each seed, as its runs had recorded them."""
    columns = {name: of for name in found.columns[arm] if (of := found.of(arm, name)) is not None}
    runs = []
    for seed in range(len(found.seeds(arm))):
        rows: Rows = [{"task": task} for task in range(found.tasks)]
        for name, values in columns.items():
            for task in np.flatnonzero(np.isfinite(values[seed])):
                rows[task][name] = float(values[seed, task])
        runs.append(rows)
    return runs


def series_of(found: Numbers, arms: Sequence[str]) -> dict[str, list[Rows]]:
    """Return the rows of arms by what the arms are called in a figure."""
    return {LABELS.get(arm, arm): rows_of(found, arm) for arm in arms}


def of_pilot(study: str, *, remedies: bool) -> tuple[Definition[Any], dict[str, list[Rows]]]:
    """Return the experiment of a pilot, and its networks, or the MLP with each remedy."""
    from plasticity.protocol.names import find_experiment as experiment_of

    found = pilot(study)
    arms = [arm for arm in found.study.arms if ("+" in arm) == remedies or arm == "mlp"]
    return experiment_of(found.study.experiment), series_of(found, arms)


PAGES = {
    "mnist-why": ("mnist-why", False, "Permuted images (mnist), preset why, 300 tasks"),
    "qdata-why": ("qdata-why", False, "Pairs of energy levels (qdata), preset why, 500 tasks"),
    "mnist-remedies": (
        "mnist-why",
        True,
        "Permuted images (mnist), preset why, 300 tasks, remedies",
    ),
}
"""By figure: the pilot, whether remedies are drawn, and the title."""


def table_of(name: str) -> str:
    """Return the table of a page on control arms or remedies."""
    study, remedies, _ = PAGES[name]
    return table(*of_pilot(study, remedies=remedies))


def draw_arms(name: str) -> None:
    """Draw the figure of such a page and write its table."""
    study, remedies, title = PAGES[name]
    overview(*of_pilot(study, remedies=remedies), title).savefig(HERE / f"{name}.png")
    (RECORDS / f"{name}.md").write_text(table_of(name))


def draw_quick() -> None:
    """Draw the figure of the preset quick."""
    from experiments.mnist import EXPERIMENT
    from plasticity.figures.curves import learning_curves
    from plasticity.protocol.columns import panels_of

    series = {}
    for arm, prefix in PREFIXES.items():
        arrays = np.load(RECORDS / "mnist-quick" / f"{prefix}_model_results.npz")
        rows = [{"task": task} for task in range(len(arrays["accuracies"]))]
        for array, column in COLUMNS.items():
            for row, value in zip(rows, arrays[array], strict=True):
                row[column] = float(value)
        series[LABELS[arm]] = [rows]
    title = "Permuted images (mnist), preset quick, seed 0"
    learning_curves(series, panels_of(EXPERIMENT), title).savefig(HERE / "mnist.png")


FOUND = {"mnist-why": "permuted MNIST", "qdata-why": "levels of the XXZ chain"}
FOUND_ARMS = {
    "stiefel": "#0072B2", "qnn": "#009E73", "mlp": "#D55E00", "stiefel-free": "#CC79A7",
}  # fmt: skip


def draw_found() -> None:
    """Draw README's figure: accuracy over tasks on both problems, two held arms and two free."""
    from matplotlib.figure import Figure
    from scipy.stats import t

    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    for axes, (study, words) in zip(figure.subplots(1, 2), FOUND.items(), strict=True):
        found = pilot(study)
        window = np.ones(15) / 15
        for arm, color in FOUND_ARMS.items():
            values = 100 * found.columns[arm]["test_accuracy"][found.complete[arm]]
            runs = np.array([np.convolve(run, window, "valid") for run in values])
            tasks, mean = np.arange(runs.shape[1]) + 7, runs.mean(0)
            half = t.ppf(0.975, len(runs) - 1) * runs.std(0, ddof=1) / np.sqrt(len(runs))
            axes.plot(tasks, mean, color=color, label=arm)
            low, high = (mean - half).clip(0, 100), (mean + half).clip(0, 100)
            axes.fill_between(tasks, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set(title=f"{words}, {len(runs)} seeds", xlabel="task", ylabel="test accuracy (%)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.5)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(HERE / "found.png")


def draw_devices() -> None:
    """Draw accuracy with noise and shots."""
    from plasticity.on_device.figure import figure
    from plasticity.results.record import read_rows

    titles = {
        "mnist": "Permuted images (mnist), preset released, 20 tasks, not 1,000, seed 0",
        "digits": "Permuted images (mnist), preset quick, 20 tasks, not 40, seed 0",
    }
    for name, title in titles.items():
        rows = read_rows(RECORDS / f"device-{name}", "device.jsonl")
        figure({LABELS["qnn"]: rows}, title, [1]).savefig(HERE / f"device-{name}.png")


def draw_diagnoses() -> None:
    """Draw what each intervention does to an MLP: on the digits, on MNIST and on the XXZ chain."""
    from plasticity.figures.cures import cures_figure
    from plasticity.studies.causes import cases_of, causes_of
    from plasticity.studies.diagnosed import load_diagnosis

    folder, title = RECORDS / "diagnose", "What cures an aged network"
    cases = {
        name: cases_of(causes_of(load_diagnosis(folder / f"{name}.npz")), f"{words}: ")
        for name, words in (("digits-mlp", "digits"), ("mnist-mlp", "MNIST"), ("xxz-mlp", "XXZ"))
    }
    abscissa = "mean test accuracy of the next tasks (%)"
    cures_figure(cases["digits-mlp"], title, abscissa).savefig(HERE / "diagnose.png")
    large = [*cases["mnist-mlp"], *cases["xxz-mlp"]]
    cures_figure(large, title, abscissa).savefig(HERE / "causes.png")


def draw_study(found: Numbers, prefix: str) -> None:
    """Draw the first two figures of a study's report."""
    from plasticity.figures.labels import looks_of_names
    from plasticity.figures.level_against_drop import level_against_drop
    from plasticity.figures.over_seeds import over_tasks
    from plasticity.protocol.names import find_experiment as experiment_of
    from plasticity.studies.findings import findings_of
    from plasticity.studies.report_text import title_of_study

    experiment, title = experiment_of(found.study.experiment), title_of_study(found.study)
    score, words = experiment.score
    arms, _ = findings_of(found, score)
    looks = looks_of_names(experiment.registry, found.study.arms)
    references = [reference for _, reference in found.study.compared]
    over_tasks(
        {one.arm: 100 * found.of(one.arm, score) for one in arms}, f"{words} (%)",
        f"{title}: {words} (%)", verdicts={one.arm: one.loss.verdict for one in arms},
        reference=max(references, key=references.count),
        looks=dict(zip(found.study.arms, looks, strict=True)), logarithmic=False, bounds=(0, 100),
    ).savefig(HERE / "studies" / f"{prefix}-accuracy.png")  # fmt: skip
    level_against_drop(
        arms, f"{title}: level against {arms[0].headline}", found.study.drop_margin
    ).savefig(HERE / "studies" / f"{prefix}-level.png")


def main() -> None:
    """Draw all of them."""
    from plasticity.studies.numbers import load_records

    draw_found()
    draw_quick()
    draw_devices()
    draw_diagnoses()
    for name in PAGES:
        draw_arms(name)
    for study in ("mnist-why", "qdata-why"):
        draw_study(pilot(study), f"pilot-{study}")
    draw_study(load_records(RECORDS / "studies" / "quick"), "quick")
    for page in ("pilot", "verdict"):
        path = HERE / "studies" / f"{page}.md"
        path.write_text(with_tables(path.read_text()))


if __name__ == "__main__":
    main()
