"""Figures of runs: what they show of any number of arms and seeds, and what they refuse."""

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from experiments import figures
from experiments.cli import parse as cli
from experiments.mnist import EXPERIMENT, RELEASED
from plasticity.figures.curves import figure_columns, learning_curves
from plasticity.figures.labels import labels_of
from plasticity.figures.style import COLORS, LINES
from plasticity.learning.column import Column
from plasticity.metrics import METRICS
from plasticity.protocol.columns import panels_of
from plasticity.results.record import RunFolder, open_run, read_run
from plasticity.runs import drawing
from plasticity.runs.drawing import draw_run
from tests.experiments.runs import (
    UPDATES,
    Stop,
    arm_folder,
    finish,
    interrupt,
    run_folder,
    snapshot,
    start,
    tiny_images,
)

pytestmark = pytest.mark.usefixtures("empty_folder")

IDENTITY = EXPERIMENT.identity(RELEASED.config, tiny_images())
COLUMNS = ("test_accuracy", "weight_norm", "gradient_norm")


def some_rows(count: int = 5, slope: float = 1.0, **columns: float) -> list[dict[str, float]]:
    return [{"task": t} | {name: 1 + slope * t for name in COLUMNS} | columns for t in range(count)]


def record(
    arms: dict[str, dict[str, Any]], rows: list[dict[str, float]] | None = None, **config: Any
) -> RunFolder:
    """Write a run of these arms; a name with a prime is an arm of the name without."""
    folder = open_run(Path("results"), f"mnist-x-seed{config.get('seed', 0)}", IDENTITY | config)
    for name, arm in arms.items():
        with folder.arm(name.rstrip("'"), arm) as opened:
            for row in some_rows() if rows is None else rows:
                opened.append(row, {})
    return folder


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def title_of(figure: Figure) -> str:
    return figure.get_suptitle()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Keep the figures that are drawn."""
    kept = []

    def keep(*arguments: Any, **more: Any) -> Figure:
        kept.append(learning_curves(*arguments, **more))
        return kept[-1]

    monkeypatch.setattr(drawing, "learning_curves", keep)
    return kept


# --- the command


def test_figures_draws_a_run_again_finished_or_not(
    tiny: list[str], stop: Stop, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stop.at(5 * UPDATES + 1, interrupt)
    assert start(*tiny) == 130
    folder = run_folder(tmp_path / "results")
    before = snapshot(folder)
    assert figures.main([str(folder)]) == 0
    unfinished = (tmp_path / f"{folder.name}.png").read_bytes()
    assert snapshot(folder) == before
    finish(tiny)
    capsys.readouterr()
    for target in ("again.png", "again"):
        assert figures.main([str(folder), target]) == 0
        assert capsys.readouterr().out == "again.png\n"
        assert (tmp_path / "again.png").read_bytes() == (folder / "figure.png").read_bytes()
        (tmp_path / "again.png").unlink()
    assert unfinished != (folder / "figure.png").read_bytes()


@pytest.mark.slow
@pytest.mark.draws
def test_figures_draws_a_run_by_its_config_whatever_it_is_called(
    tiny: list[str], tmp_path: Path
) -> None:
    finish(tiny).rename("cifar-or-so")
    assert figures.main(["cifar-or-so", "moved.png"]) == 0
    assert matplotlib.image.imread("moved.png").std() > 0


@pytest.mark.draws
@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["."], 1, "config.json: no such file"),
        (["gone"], 1, "gone"),
        (["other"], 1, "its experiment is 'tetris'"),
        (["nothing"], 1, "no rows"),
        (["run", "a.xyz"], 1, "xyz"),
        (["run", "gone/a.png"], 1, "gone/a.png"),
        (["short"], 1, "weight_norm"),
        (["broken"], 1, "edited or cut off"),
        (["edited"], 1, "arm.json"),
        ([], 2, "no run folder"),
        (["run", "a.png", "b.png"], 1, "a.png"),
        (["run", "--nonsense"], 2, "--nonsense"),
    ],
)
def test_figures_names_what_it_cannot_draw(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    status: int,
    part: str,
) -> None:
    arms = {"qnn": {"a": 1}}
    short = [{"task": 0, "test_accuracy": 0.5}]
    for seed, name, rows in ((0, "run", None), (1, "short", short), (2, "nothing", []),
                             (3, "broken", None), (4, "edited", None)):  # fmt: skip
        record(arms, rows, seed=seed).path.rename(name)
    record(arms, experiment="tetris").path.rename("other")
    (arm_folder(tmp_path / "broken", "qnn") / "rows.jsonl").write_text("{\n")
    (arm_folder(tmp_path / "edited", "qnn") / "arm.json").write_text('{\n  "a": 2\n}\n')
    before = snapshot(tmp_path)
    assert figures.main(arguments) == status
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert part in said
    assert len(said.splitlines()) <= 2
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["r\udcff", "a$^b$"])
def test_run_may_be_called_what_is_no_text_and_no_formula(name: str) -> None:
    folder = record({"mlp": {"a": 1}})
    moved = folder.path.rename(folder.path.with_name(name))
    assert figures.main([str(moved), "out.svg"]) == 0
    draw_run(EXPERIMENT, read_run(moved))


# --- when the figure of a run is drawn


def test_figure_is_drawn_again_once_there_are_more_rows_and_only_then() -> None:
    folder = record({"mlp": {"a": 1}})
    figure = draw_run(EXPERIMENT, folder)
    before = (figure.read_bytes(), figure.stat().st_mtime_ns)
    assert draw_run(EXPERIMENT, folder) == figure
    assert (figure.read_bytes(), figure.stat().st_mtime_ns) == before
    # Whatever the date: a clock may be set back.
    for file in (figure, folder.path / "table.md"):
        os.utime(file, (4e9, 4e9))
    with folder.arm("mlp", {"a": 1}) as arm:
        arm.append({"task": 5} | dict.fromkeys(COLUMNS, 3.0), {})
    draw_run(EXPERIMENT, folder)
    assert figure.read_bytes() != before[0]
    whole = figure.read_bytes()
    figure.write_bytes(whole[:-9])
    draw_run(EXPERIMENT, folder)
    assert figure.read_bytes() == whole
    again = figure.read_bytes()
    with folder.arm("mlp", {"a": 1}) as arm:
        arm.save_measured({2: {"fisher_x": 1.0}})
    draw_run(EXPERIMENT, folder)
    assert figure.read_bytes() != again


def test_rows_that_another_process_adds_while_the_figure_is_drawn_are_in_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = record({"mlp": {"a": 1}, "qnn": {"a": 2}})

    def meanwhile(*arguments: Any, **more: Any) -> Figure:
        figure = learning_curves(*arguments, **more)
        with folder.arm("qnn", {"a": 2}) as arm:
            arm.append({"task": 5} | dict.fromkeys(COLUMNS, 3.0), {})
        return figure

    with monkeypatch.context() as patch:
        patch.setattr(drawing, "learning_curves", meanwhile)
        figure = draw_run(EXPERIMENT, folder)
    first = figure.read_bytes()
    draw_run(EXPERIMENT, folder)
    assert figure.read_bytes() != first


# --- arms and panels


def test_figure_has_both_arms_and_a_running_mean() -> None:
    series = {label: [[{"task": t, "a": t / 60} for t in range(60)]] for label in ("one", "two")}
    panels = [Column("a", "label a"), Column("a", "label b", logarithmic=True)]
    figure = learning_curves(series, panels, "title")
    assert legend_of(figure) == ["one", "two"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["label a", "label b"]
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "log"]
    assert all(len(axes.lines) == 4 for axes in figure.axes)  # points and running mean
    assert "running mean of 6 tasks" in title_of(figure)
    assert "n = 1 seed;" in title_of(figure)
    assert title_of(figure).startswith("title\n")


@pytest.mark.parametrize("decades", [1, 2, 5, 9, 15, 30])
def test_logarithmic_axis_has_labels_over_few_and_many_decades(decades: int) -> None:
    rows = [{"task": t, "a": 10.0 ** (-decades * t)} for t in range(2)]
    figure = learning_curves({"one": [rows]}, [Column("a", "a", logarithmic=True)], "title")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    labels = [
        label.get_text()
        for at, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        if low <= at <= high
    ]
    assert 2 <= len(labels) <= 11
    assert len({*labels}) == len(labels)
    assert all(labels)
    if decades > 2:  # else there is room for others
        assert all(re.fullmatch(r"0?\.?0*10*|1e\D\d+", label) for label in labels)


@pytest.mark.parametrize(("last", "scale"), [(0.0, "linear"), (1.0, "log")])
def test_a_scale_is_logarithmic_where_something_has_a_logarithm(last: float, scale: str) -> None:
    rows = [{"task": t, "a": 0.0} for t in range(30)]
    series = {"one": [rows], "two": [[*rows, {"task": 30, "a": last}]]}
    figure = learning_curves(series, [Column("a", "label", logarithmic=True)], "title")
    assert [axes.get_yscale() for axes in figure.axes] == [scale]
    figure.savefig(io.BytesIO())


def test_released_arms_come_first_and_have_names_in_words(drawn: list[Figure]) -> None:
    arms = {"alien": {"a": 0}, "qnn": {"a": 1}, "mlp+toy": {"a": 1}, "mlp": {"a": 1}}
    draw_run(EXPERIMENT, record(arms))
    assert legend_of(drawn[0]) == ["classical (MLP)", "quantum (QNN)", "alien", "mlp+toy"]


def test_arms_of_one_name_are_told_apart_by_the_options_in_which_they_differ() -> None:
    def arm(**network: Any) -> dict[str, Any]:
        return {"network": {"class": "Mlp", "hidden": [16]} | network, "epochs": 1}

    arms = {
        Path("r/mlp-1"): arm(),
        Path("r/mlp-2"): arm(hidden=[8, 8]),
        Path("r/mlp-3"): arm(bounded_logits=True),
        Path("r/qnn-4"): arm(),
    }
    assert {path.name: label for path, label in labels_of(EXPERIMENT, arms).items()} == {
        "mlp-1": "classical (MLP), --mlp.hidden 16",
        "mlp-2": "classical (MLP), --mlp.hidden 8 8",
        "mlp-3": "classical (MLP), --mlp.bounded-logits --mlp.hidden 16",
        "qnn-4": "quantum (QNN)",
    }


def test_arm_that_has_an_option_as_by_default_says_so_beside_its_namesake() -> None:
    network = {"class": "Mlp", "hidden": [16]}
    arms = {
        Path("r/mlp-1"): {"network": network, "epochs": 1},
        Path("r/mlp-2"): {"network": network | {"bounded_logits": True}, "epochs": 1},
        Path("r/mlp-3"): {"network": network | {"bounded_logits": 2}, "epochs": 1},
    }
    assert [*labels_of(EXPERIMENT, arms).values()] == [
        "classical (MLP), default --mlp.bounded-logits",
        "classical (MLP), --mlp.bounded-logits",
        "classical (MLP), --mlp.bounded-logits 2",
    ]


def test_legend_has_the_options_of_all_parts_of_an_arm_as_one_types_them() -> None:
    words = [
        "--arms", "mlp", "qnn+reset-optimizer", "--mlp.hidden", "32", "8", "--mlp.unit-norm",
        "--mlp.epochs", "3", "--mlp.optimizer.learning-rate", "0.5",
    ]  # fmt: skip
    matched = ["--preset", "matched"]
    choice, _ = cli.parse(EXPERIMENT, [*matched, *words])
    changed = choice.arms
    choice, _ = cli.parse(EXPERIMENT, [*matched, "--arms", "mlp", "qnn"])
    plain = choice.arms
    often = [*matched, *words[:3], "--qnn+reset-optimizer.reset-optimizer.every", "2"]
    choice, _ = cli.parse(EXPERIMENT, often)
    other = choice.arms
    arms = {
        Path(f"r/{name}-{k}"): json.loads(json.dumps(arm.json()))
        for k, chosen in enumerate([plain, changed, other])
        for name, arm in chosen.items()
        if (name, k) != ("mlp", 2)
    }
    labels = {path.name: label for path, label in labels_of(EXPERIMENT, arms).items()}
    typed = " ".join(("--arms", "mlp", labels["mlp-1"].partition(", ")[2])).split()
    choice, _ = cli.parse(EXPERIMENT, [*matched, *typed])
    again = choice.arms
    assert again == {"mlp": changed["mlp"]}
    assert labels["mlp-0"] == (
        "classical (MLP), --mlp.epochs 1 --mlp.hidden 16 --mlp.optimizer.learning-rate 0.001"
    )
    option = "--qnn+reset-optimizer.reset-optimizer.every"
    assert labels["qnn+reset-optimizer-1"].endswith(f", default {option}")
    assert labels["qnn+reset-optimizer-2"].endswith(f", {option} 2")


@pytest.mark.parametrize("remedies", [3, [3], {"a": []}, [{"class": [1]}], [{}]])
def test_arm_that_holds_anything_has_a_label(remedies: Any) -> None:
    arms = {Path("r/mlp-1"): {"remedies": remedies, "network": 3}, Path("r/mlp-2"): {"a": None}}
    assert len({*labels_of(EXPERIMENT, arms).values()}) == 2


# --- colors


def colors_of(folder: RunFolder, drawn: list[Figure]) -> dict[str, str]:
    draw_run(EXPERIMENT, folder)
    return {
        line.get_label(): line.get_color()
        for line in drawn[-1].axes[0].lines
        if not line.get_label().startswith("_")
    }


def test_preset_arms_keep_their_colors_whatever_is_added(drawn: list[Figure]) -> None:
    arms = {name: json.loads(json.dumps(arm.json())) for name, arm in RELEASED.arms.items()}
    mlp, qnn = "classical (MLP)", "quantum (QNN)"
    assert colors_of(record({"qnn": arms["qnn"]}), drawn) == {qnn: COLORS[1]}
    assert colors_of(record(arms), drawn) == {mlp: COLORS[0], qnn: COLORS[1]}
    more = {"mlp" + "'" * k: {**arms["mlp"], "epochs": 2 + k} for k in range(3)}
    record({"zebra": {"a": 0}})
    found = colors_of(record(more), drawn)
    assert found.pop(qnn) == COLORS[1]
    assert found.pop(f"{mlp}, --mlp.epochs 1") == COLORS[0]
    assert found.pop("zebra") == COLORS[5]
    assert sorted(found.values()) == sorted(COLORS[2:5])


def test_arms_that_the_preset_does_not_have_take_the_next_colors_in_order_of_their_names(
    drawn: list[Figure],
) -> None:
    found = colors_of(record({"zebra": {"a": 0}, "alien": {"a": 0}, "mlp": {"a": 0}}), drawn)
    assert found == {"classical (MLP)": COLORS[0], "alien": COLORS[2], "zebra": COLORS[3]}


def test_namesakes_of_a_command_are_both_in_its_figure(
    tiny: list[str], drawn: list[Figure]
) -> None:
    finish(tiny)
    finish([*tiny, "--qnn.depth=3"])
    assert legend_of(drawn[0]) == ["classical (MLP)", "quantum (QNN)"]
    mlp, *qnns = legend_of(drawn[1])
    assert mlp == "classical (MLP)"
    assert sorted(qnns) == [f"quantum (QNN), --qnn.depth {depth}" for depth in (2, 3)]


@pytest.mark.draws
def test_eight_arms_have_curves_of_their_own_without_points(drawn: list[Figure]) -> None:
    path = draw_run(EXPERIMENT, record({f"arm{k}": {"a": k} for k in range(8)}))
    (figure,) = drawn
    assert legend_of(figure) == [f"arm{k}" for k in range(8)]
    for axes in figure.axes:
        looks = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
        assert len({*looks}) == len(looks) == 8
        # The first two are the preset's arms': theirs are free for nobody else.
        assert {look[0] for look in looks} == {*COLORS[1:]}
        assert {look[1] for look in looks} == {*LINES[:2]}
    assert "points" not in title_of(figure)
    assert matplotlib.image.imread(path).std() > 0
    # All of it is on the page.
    page = figure.bbox
    legend = figure.legends[0].get_window_extent()
    assert page.x0 <= legend.x0 < legend.x1 <= page.x1
    assert page.y0 <= legend.y0 < legend.y1 <= page.y1


def test_six_arms_still_have_points(drawn: list[Figure]) -> None:
    draw_run(EXPERIMENT, record({f"arm{k}": {"a": k} for k in range(6)}))
    assert all(len(axes.lines) == 12 for axes in drawn[0].axes)
    assert "points: one task each" in title_of(drawn[0])


def test_what_was_measured_beside_the_experiments_columns_has_panels_of_its_own(
    drawn: list[Figure],
) -> None:
    rows = [row | {"fisher_true": 2.0, "unknown": 1.0} for row in some_rows()]
    folder = record({"mlp": {"a": 1}}, rows)
    with folder.arm("mlp", {"a": 1}) as arm:
        arm.save_measured({1: {"logit_spread": 1.0}, 4: {"logit_spread": 3.0}})
    draw_run(EXPERIMENT, folder)
    (figure,) = drawn
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_ylabel() for axes in shown] == [
        *(panel.title for panel in panels_of(EXPERIMENT)), "fisher true", "logit spread", "unknown"
    ]  # fmt: skip
    # What is measured now and then has a point each time.
    points, _ = shown[-2].lines
    assert points.get_xdata().tolist() == [1, 4]
    assert points.get_ydata().tolist() == [1, 3]
    assert len(figure.axes) == 6  # two rows of panels, the last place is empty


def test_panels_are_those_of_the_experiment_where_nothing_else_was_measured() -> None:
    series = {"mlp": [some_rows()]}
    assert [c.name for c in figure_columns(EXPERIMENT, series)] == [*EXPERIMENT.panels]
    for name in {*METRICS} - {*EXPERIMENT.metrics}:
        measured = [row | {f"{name}_x": 1.0} for row in some_rows()]
        columns = [column.name for column in figure_columns(EXPERIMENT, {"mlp": [measured]})]
        assert columns == [*COLUMNS, f"{name}_x"]


def test_arm_whose_runs_have_none_of_a_column_is_left_out_of_its_panel(
    drawn: list[Figure],
) -> None:
    folder = record({"mlp": {"a": 1}}, [r | {"fisher_true": 1.0} for r in some_rows()])
    with folder.arm("qnn", {"a": 2}) as arm:
        for row in some_rows():
            arm.append(row, {})
    draw_run(EXPERIMENT, folder)
    (figure,) = drawn
    assert [len(axes.lines) for axes in figure.axes if axes.get_visible()] == [4, 4, 4, 2]
    assert legend_of(figure) == ["classical (MLP)", "quantum (QNN)"]


# --- seeds


def three_seeds(count: int = 5) -> list[str]:
    arms = {"mlp": {"a": 1}, "qnn": {"a": 2}}
    slopes = {0: 1.0, 1: 2.0, 2: 6.0}
    return [
        str(record(arms, some_rows(count, slope), seed=seed).path) for seed, slope in slopes.items()
    ]


@pytest.mark.draws
def test_figure_over_seeds_shows_means_and_their_intervals(drawn: list[Figure]) -> None:
    assert figures.main([*three_seeds(), "seeds.png"]) == 0
    (figure,) = drawn
    assert legend_of(figure) == ["classical (MLP)", "quantum (QNN)"]
    title, notes = title_of(figure).splitlines()
    assert title == "Permuted images (mnist), seeds 0, 1, 2"
    assert "n = 3 seeds" in notes
    assert "shaded: 95 % interval of the mean over seeds" in notes
    assert "points" not in notes
    t = np.arange(5)
    for axes, panel in zip(figure.axes, panels_of(EXPERIMENT), strict=True):
        values = 1 + np.outer([1.0, 2.0, 6.0], t)
        values = np.log(values) if panel.logarithmic else values
        # At task 0 all three are equal.
        ends = stats.t.interval(0.95, 2, values.mean(0)[1:], stats.sem(values[:, 1:]))
        mean, low, high = values.mean(0), *ends
        if panel.logarithmic:
            mean, low, high = np.exp(mean), np.exp(low), np.exp(high)
        low, high = np.clip(low, *panel.bounds), np.clip(high, *panel.bounds)
        assert len(axes.lines) == len(axes.collections) == 2
        for line, shade in zip(axes.lines, axes.collections, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), t)
            np.testing.assert_allclose(line.get_ydata(), mean)
            corners = shade.get_paths()[0].vertices
            for k in range(1, 5):
                at = corners[corners[:, 0] == t[k], 1]
                np.testing.assert_allclose([at.min(), at.max()], [low[k - 1], high[k - 1]])
    assert matplotlib.image.imread("seeds.png").std() > 0


def far_apart(count: int, columns: dict[str, list[float]]) -> list[str]:
    """Record runs of seeds that differ much; each has a column's value at every of its tasks."""
    runs = []
    for seed in range(count):
        rows = [{"task": t} | {c: of[seed] for c, of in columns.items()} for t in range(5)]
        runs.append(str(record({"mlp": {"a": 1}}, rows, seed=seed).path))
    return runs


@pytest.mark.parametrize("count", [2, 3])
def test_intervals_over_seeds_do_not_set_the_limits_of_the_axes(
    drawn: list[Figure], count: int
) -> None:
    columns = {
        "test_accuracy": [0.9, 1.0, 0.8],
        "weight_norm": [1.0, 100.0, 0.01],
        "gradient_norm": [1e-3, 1.0, 1e3],
    }
    assert figures.main([*far_apart(count, columns), "a.png"]) == 0
    for axes, panel in zip(drawn[0].axes, panels_of(EXPERIMENT), strict=True):
        seen = np.array(columns[panel.name][:count])
        low, high = axes.get_ylim()
        if panel.logarithmic:
            assert low > 0
            low, high, seen = np.log(low), np.log(high), np.log(seen)
        margin = 0.06 * (seen.max() - seen.min())
        assert seen.min() - margin <= low <= seen.min()
        assert seen.max() <= high <= seen.max() + margin
        for shade in axes.collections:
            y = shade.get_paths()[0].vertices[:, 1]
            assert panel.bounds[0] <= y.min() <= y.max() <= panel.bounds[1]


def test_two_seeds_are_thin_lines_beside_their_mean_and_no_interval(drawn: list[Figure]) -> None:
    columns = dict(zip(COLUMNS, ([0.5, 0.7], [1.0, 4.0], [0.1, 10.0]), strict=True))
    assert figures.main([*far_apart(2, columns), "a.png"]) == 0
    notes = title_of(drawn[0])
    assert "thin: one seed each" in notes
    assert "shaded" not in notes
    for axes, mean in zip(drawn[0].axes, (0.6, 2.0, 1.0), strict=True):
        assert not axes.collections
        thick, *thin = axes.lines
        np.testing.assert_allclose(thick.get_ydata(), mean)
        assert len(thin) == 2
        assert all(line.get_linewidth() < thick.get_linewidth() / 2 for line in thin)
        assert {line.get_color() for line in thin} == {thick.get_color()}
    assert legend_of(drawn[0]) == ["classical (MLP)"]


def test_seed_with_a_zero_leaves_a_gap_in_the_mean_on_a_logarithmic_axis(
    drawn: list[Figure],
) -> None:
    columns = {column: [0.0, 1.0, 2.0] for column in COLUMNS}
    assert figures.main([*far_apart(3, columns), "a.png"]) == 0
    for axes, panel in zip(drawn[0].axes, panels_of(EXPERIMENT), strict=True):
        assert np.isnan(axes.lines[0].get_ydata()).all() == panel.logarithmic


def test_figure_over_seeds_names_experiment_and_seeds(drawn: list[Figure]) -> None:
    for seed, name in enumerate(["mnist-quick-seed0-1a2b", "renamed"]):
        record({"mlp": {"a": 1}}, seed=seed).path.rename(name)
    assert figures.main(["mnist-quick-seed0-1a2b", "renamed", "a.png"]) == 0
    assert title_of(drawn[0]).startswith("Permuted images (mnist), seeds 0, 1\n")


def test_order_of_the_runs_does_not_matter(tmp_path: Path) -> None:
    runs = three_seeds()
    assert figures.main([*runs, "one.png"]) == 0
    assert figures.main([*reversed(runs), "two.png"]) == 0
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()


def test_seed_of_which_fewer_tasks_are_recorded_ends_the_mean_there(drawn: list[Figure]) -> None:
    runs = [str(record({"mlp": {"a": 1}}, some_rows(n), seed=n).path) for n in (7, 4)]
    assert figures.main([*runs, "a.png"]) == 0
    for axes in drawn[0].axes:
        assert axes.lines[0].get_xdata().tolist() == [0, 1, 2, 3]


def test_arm_that_some_seeds_do_not_have_says_of_how_many_it_is(drawn: list[Figure]) -> None:
    runs = [record({"mlp": {"a": 1}}, seed=0), record({"mlp": {"a": 1}, "qnn": {"a": 2}}, seed=1)]
    assert figures.main([*(str(run.path) for run in runs), "a.png"]) == 0
    assert "n = 1 to 2 seeds" in title_of(drawn[0])


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"seed": 1, "batch_size": 3}, "differ in batch_size, not only in seed"),
        ({"seed": 1, "dataset": "sha256:1"}, "differ in dataset, not only in seed"),
        ({"seed": 1, "experiment": "cifar"}, "differ in experiment, not only in seed"),
        ({"seed": 1, "more": 2}, "differ in more, not only in seed"),
        ({}, "seeds 0, 0: some are equal"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(
    capsys: pytest.CaptureFixture[str], changes: dict[str, Any], part: str
) -> None:
    arms = {"mlp": {"a": 1}}
    record(arms).path.rename("one")
    record(arms, **changes).path.rename("two")
    before = snapshot(Path.cwd())
    assert figures.main(["one", "two", "seeds.png"]) == 2
    said = capsys.readouterr().err
    assert part in said
    assert len(said.splitlines()) == 1
    assert snapshot(Path.cwd()) == before


def test_commands_of_three_seeds_become_one_figure(
    tiny: list[str], tmp_path: Path, drawn: list[Figure]
) -> None:
    for seed in range(3):
        assert start(*tiny, f"--seed={seed}") == 0
    runs = [str(run) for run in sorted((tmp_path / "results").iterdir())]
    before = snapshot(tmp_path / "results")
    drawn.clear()
    assert figures.main([*runs, "seeds"]) == 0
    assert Path("seeds.png").exists()
    assert "n = 3 seeds" in title_of(drawn[0])
    assert snapshot(tmp_path / "results") == before


@pytest.mark.parametrize("count", [1, 2, 7, 24])
def test_legend_of_long_names_stays_inside_the_figure(count: int) -> None:
    rows = [{"task": 0, "test_accuracy": 0.5}, {"task": 1, "test_accuracy": 0.6}]
    series = {f"classical (MLP), --mlp.hidden {k} 256": [rows] for k in range(count)}
    figure = learning_curves(series, [Column("test_accuracy", "accuracy")] * 3, "title")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    inside, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= inside.x0
    assert inside.x1 <= whole.x1
    assert whole.y0 <= inside.y0


@pytest.mark.parametrize("count", [2, 7, 24])
def test_labels_of_panels_stay_inside_the_figure_however_many_rows_the_legend_has(
    count: int,
) -> None:
    rows = [dict.fromkeys(COLUMNS, 0.5) | {"task": t} for t in range(2)]
    series = {f"classical (MLP), --mlp.hidden {k} 256 --mlp.epochs 3": [rows] for k in range(count)}
    figure = learning_curves(series, panels_of(EXPERIMENT), "title")
    figure.draw_without_rendering()
    for axes in figure.axes:
        label, panel = axes.yaxis.label.get_window_extent(), axes.get_window_extent()
        assert panel.y0 - 5 <= label.y0 < label.y1 <= panel.y1 + 5
