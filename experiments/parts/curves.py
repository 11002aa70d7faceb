"""Figures of recorded runs: a curve an arm, over tasks or steps, of one seed or of several."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.parts.experiment import LABELS, Experiment, Panel

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from plasticity.results.record import RunFolder

Rows = Sequence[Mapping[str, Any]]

MOST_WITH_POINTS = 6
"""Arms whose single tasks are drawn as points; points of more arms hide one another."""
PANELS_A_ROW = 3


def draw_run(experiment: Experiment[Any], folder: RunFolder) -> Path:
    """Draw all arms of a run that have rows, unless the figure is newer than these.

    Its date is that of the moment at which the rows were read: another process may add some while
    the figure is drawn.
    """
    with folder.locked():
        os.utime(folder.path / "lock")  # the clock of the disk
        date = (folder.path / "lock").stat().st_mtime_ns
        arms = folder.arms()
        files = [path / name for path in arms for name in ("rows.jsonl", "measured.jsonl")]
        figure, changed = folder.path / "figure.png", [f for f in files if f.exists()]
        if figure.exists() and all(
            file.stat().st_mtime_ns < figure.stat().st_mtime_ns for file in changed
        ):
            return figure
        rows = {path: recorded(path) for path in arms}
        labels = labels_of(experiment, {path: arms[path] for path in arms if rows[path]})
        series = {label: [rows[path]] for path, label in labels.items()}
        drawn = learning_curves(
            series, panels_of(experiment, series), folder.path.name, experiment.progress.unit
        )
        folder.save_figure(figure.name, drawn)
        os.utime(figure, ns=(date, date))
        return figure


def recorded(path: Path) -> list[dict[str, Any]]:
    """Return an arm's rows, with what was measured after training among their columns."""
    from plasticity.results.record import read_rows

    rows, measured = read_rows(path), {}
    if (path / "measured.jsonl").exists():
        measured = {row.get("task"): row for row in read_rows(path, "measured.jsonl")}
    return [measured.get(row["task"], {}) | row for row in rows] if measured else rows


def labels_of(
    experiment: Experiment[Any], arms: Mapping[Path, Mapping[str, Any]]
) -> dict[Path, str]:
    """Return what arms are called in a figure, by their folders, in the order of their curves.

    Arms of one name are told apart by the options in which they differ.
    """
    first = [*next(iter(experiment.presets.values())).arms]

    def place(path: Path) -> tuple[int, str]:
        name = arm_name(path)
        return (first.index(name) if name in first else len(first)), path.name

    ordered = sorted(arms, key=place)
    labels = {}
    for path in ordered:
        name = arm_name(path)
        namesakes = [_flat(arms[other]) for other in ordered if arm_name(other) == name]
        own = _flat(arms[path])
        differing = sorted({k for other in namesakes for k, _ in other.items() ^ own.items()})
        text = ", ".join(f"{key} {own[key]}" for key in differing if key in own)
        label = LABELS.get(name, name)
        # What is not in its JSON has the default of its class.
        text = text or f"default {', '.join(differing)}"
        labels[path] = label if len(namesakes) == 1 else f"{label}, {text}"
    return labels


def arm_name(path: Path) -> str:
    """Return the name of the arm that a folder is of."""
    return path.name.rpartition("-")[0]


def _flat(config: Any, prefix: str = "") -> dict[str, str]:
    """Return the numbers of a config by the dotted names of its fields."""
    if isinstance(config, Mapping):
        inside = (
            _flat(value, f"{prefix}{key}." if isinstance(value, Mapping) else f"{prefix}{key}")
            for key, value in config.items()
        )
        return {key: value for flat in inside for key, value in flat.items()}
    return {prefix: json.dumps(config)}


def panels_of(experiment: Experiment[Any], series: Mapping[str, Sequence[Rows]]) -> list[Panel]:
    """Return the experiment's panels, and one for each column that was measured beside them."""
    panels = list(experiment.panels)
    if experiment.metrics:
        from plasticity.metrics import METRICS

        asked = [name for name in METRICS if name not in experiment.metrics]
        columns = dict.fromkeys(
            c for runs in series.values() for rows in runs for r in rows for c in r
        )
        panels += [
            Panel(column, column.replace("_", " "))
            for name in asked
            for column in columns
            if column == name or column.startswith(f"{name}_")
        ]
    return panels


def learning_curves(
    series: Mapping[str, Sequence[Rows]],
    panels: Sequence[Panel],
    title: str,
    unit: str = "task",
) -> Figure:
    """Draw columns of the rows over the tasks or steps, one curve an arm.

    Args:
        series: The rows of each arm's runs, one run a seed, by the arm's label.
        panels: The columns; a curve leaves out rows without them.
        title: Above all panels.
        unit: The column of the rows that is the abscissa, in the singular.
    """
    from matplotlib.figure import Figure

    from plasticity.results.plots import style

    num_seeds = {len(runs) for runs in series.values()}
    longest = max(len(rows) for runs in series.values() for rows in runs)
    window = max(1, longest // 10)
    across = min(len(panels), PANELS_A_ROW)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(4 * across, 3.2 * down + 0.7), dpi=150, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes, panel in zip(grid, panels, strict=False):
        for number, (label, runs) in enumerate(series.items()):
            draw_arm(
                axes, panel, runs, unit=unit, window=window, label=label, **style(number),
                points=len(series) <= MOST_WITH_POINTS,
            )  # fmt: skip
        finish(axes, panel, unit)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    named = {
        label: handle
        for axes in grid
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    known = [label for label in series if label in named]
    # A column takes its longest label, some 0.085 inches a character, and a sample of the line.
    fitting = int(4 * across / (0.085 * max(map(len, known), default=1) + 0.7))
    figure.legend(
        [named[label] for label in known], known,
        loc="outside lower center", ncols=max(1, min(len(known), fitting)), frameon=False,
    )  # fmt: skip
    figure.suptitle(f"{title}\n{notes(series, panels, unit, window, num_seeds)}", fontsize=9)
    return figure


def notes(
    series: Mapping[str, Sequence[Rows]],
    panels: Sequence[Panel],
    unit: str,
    window: int,
    num_seeds: set[int],
) -> str:
    """Say what the curves are made of."""
    few, many = ("task", "tasks") if unit == "task" else ("update", "updates")
    fewest, most = min(num_seeds), max(num_seeds)
    seeds = f"{fewest} to {most}" if fewest < most else f"{most}"
    parts = [f"n = {seeds} seed{'s' if most > 1 else ''}"]
    if most == 1 and len(series) <= MOST_WITH_POINTS:
        parts.append(f"points: one {few} each")
    if window > 1:
        parts.append(f"lines: running mean of {window} {many}")
    if most > 1:
        parts.append("shaded: 95 % interval of the mean over seeds")
    elif any(panel.samples for panel in panels):
        parts.append("shaded: 95 % interval of an evaluation's mean")
    return "; ".join(parts)


def draw_arm(
    axes: Any,
    panel: Panel,
    runs: Sequence[Rows],
    *,
    unit: str,
    window: int,
    label: str,
    points: bool,
    colour: str,
    line: str,
) -> None:
    """Draw an arm's curve: of its only run, or of the mean over seeds with its interval."""
    import numpy as np

    from plasticity.results.plots import plot_curve, running_mean

    abscissa = panel.abscissa or unit
    values = [{row[abscissa]: row for row in rows if panel.column in row} for rows in runs]
    # What all seeds have got to.
    x = np.array(sorted(set.intersection(*(set(of_run) for of_run in values))))
    if not len(x):  # no episode has ended yet
        return
    y = np.array([[of_run[k][panel.column] for k in x] for of_run in values])
    smoothing = 1 if panel.samples or len(x) < len(runs[0]) // 2 else window
    plot_curve(
        axes, x, y.mean(0), label=label, colour=colour, window=smoothing, line=line,
        points=points and len(runs) == 1,
    )  # fmt: skip
    if len(runs) > 1:
        means = np.stack([running_mean(of_run, smoothing) for of_run in y])
        middle, halves = means.mean(0), np.array([half_interval(at) for at in means.T])
    elif panel.samples:
        middle = y[0]
        halves = np.array([half_interval(values[0][k][panel.samples]) for k in x])
    else:
        return
    axes.fill_between(x, middle - halves, middle + halves, color=colour, alpha=0.2, linewidth=0)


def finish(axes: Any, panel: Panel, unit: str) -> None:
    """Give a panel its scales and labels."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    if panel.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    if unit != "task":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set(xlabel="task" if unit == "task" else "environment step", ylabel=panel.label)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def half_interval(samples: Sequence[float] | np.ndarray) -> float:
    """Return half the width of the mean's 95 % interval by Student's t, 0 for a single sample."""
    import numpy as np
    from scipy.special import stdtrit

    n = len(samples)
    return float(stdtrit(n - 1, 0.975) * np.std(samples, ddof=1) / np.sqrt(n)) if n > 1 else 0.0
