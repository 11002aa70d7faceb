"""Figure and table of recorded runs: of few arms their curves, of many an overview."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plasticity.figures.curves import Rows, learning_curves, panels_of
from plasticity.figures.labels import labels_of, looks_of
from plasticity.figures.overview import overview, table
from plasticity.protocol.experiment import Definition, Panel
from plasticity.results.files import recorded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from plasticity.results.record import RunFolder

MOST_IN_ONE_PANEL = 8
"""Arms whose curves can be told apart in the same axes."""


def draw_run(experiment: Definition[Any], folder: RunFolder) -> Path:
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
        drawn = figure_of(experiment, series, folder.path.name, looks)
        folder.save_figure(figure.name, drawn)
        os.utime(figure, ns=(date, date))
        return figure


def series_of(
    experiment: Definition[Any],
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


def title_of(runs: Sequence[Any]) -> str:
    """Return the title of a figure of runs that differ in nothing but the seed."""
    if len(runs) == 1:
        return str(runs[0].path.name)
    names = sorted({run.path.name.partition("-seed")[0] for run in runs})
    seeds = ", ".join(map(str, sorted(run.config["seed"] for run in runs)))
    return f"{', '.join(names)}, seeds {seeds}"


def figure_of(
    experiment: Definition[Any],
    series: Mapping[str, Sequence[Rows]],
    title: str,
    looks: Sequence[int],
    panels: Sequence[Panel] = (),
) -> Figure:
    """Draw arms by their labels.

    Args:
        experiment: What they are runs of.
        series: As of ``series_of``.
        title: Above all.
        looks: The numbers of the arms' colors and lines.
        panels: What is drawn; by default the experiment's panels and all that was measured.
    """
    if len(series) > MOST_IN_ONE_PANEL:
        return overview(experiment, series, title, panels)
    unit = experiment.progress.unit
    panels = panels or panels_of(experiment, series)
    return learning_curves(series, panels, title, unit, looks)
