"""Figure and table of recorded runs: of few arms their curves, of many an overview."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.parts.curves import Rows, learning_curves, panels_of
from experiments.parts.experiment import Experiment
from experiments.parts.labels import labels_of, looks_of
from experiments.parts.overview import overview, table
from experiments.parts.titles import title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from plasticity.results.record import RunFolder

MOST_IN_ONE_PANEL = 8
"""Arms whose curves can be told apart in the same axes."""


def draw_run(experiment: Experiment[Any], folder: RunFolder) -> Path:
    """Draw and tabulate all arms of a run that have rows, unless the figure is newer than these.

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
        rows = {path: [recorded(path)] for path in arms}
        shown = {path: arms[path] for path in arms if rows[path][0]}
        series = series_of(experiment, shown, rows)
        looks = [*looks_of(experiment, shown).values()]
        folder.save_text("table.md", table(experiment, series))
        title = title_of(experiment, [folder], shown, done_of(experiment, series))
        drawn = figure_of(experiment, series, title, looks)
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


def series_of(
    experiment: Experiment[Any],
    arms: Mapping[Path, Mapping[str, Any]],
    runs: Mapping[Path, Sequence[Rows]],
) -> dict[str, Sequence[Rows]]:
    """Return the rows of each arm's runs, one run a seed, by its label.

    Args:
        experiment: What they are runs of.
        arms: The arms' configs by their folders.
        runs: The rows by the same folders.
    """
    return {label: runs[path] for path, label in labels_of(experiment, arms).items()}


def done_of(experiment: Experiment[Any], series: Mapping[str, Sequence[Rows]]) -> int:
    """Return how many tasks or steps the longest run has behind it."""
    last = [rows[-1] for runs in series.values() for rows in runs if rows]
    unit = experiment.progress.unit
    return max((experiment.progress.done(dict(row)) for row in last if unit in row), default=0)


def figure_of(
    experiment: Experiment[Any],
    series: Mapping[str, Sequence[Rows]],
    title: str,
    looks: Sequence[int],
) -> Figure:
    """Draw arms by their labels; ``looks`` are the numbers of their colours and lines."""
    if len(series) > MOST_IN_ONE_PANEL:
        return overview(experiment, series, title)
    unit = experiment.progress.unit
    return learning_curves(series, panels_of(experiment, series), title, unit, looks)
