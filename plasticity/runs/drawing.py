"""Figure and table of recorded runs: of few arms their curves, of many an overview."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plasticity._version import __version__
from plasticity.figures.curves import Rows, figure_columns, learning_curves
from plasticity.figures.labels import labels_of, looks_of
from plasticity.figures.overview import overview, table
from plasticity.figures.titles import title_of
from plasticity.learning.column import Column
from plasticity.protocol.experiment import Definition
from plasticity.results.reading import recorded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from plasticity.results.record import RunFolder

DRAWN = "drawn.json"
MOST_IN_ONE_PANEL = 8
"""Arms whose curves can be told apart in the same axes."""


def draw_run(experiment: Definition[Any], folder: RunFolder) -> Path:
    """Draw and tabulate all arms of a run that have rows, unless that was done with these rows.

    Dates do not tell: clocks are set back, and copies have the date of the copy. So the hash of
    what was drawn is kept in ``drawn.json``, with those of figure and table.
    """
    from plasticity.results.files import holds
    from plasticity.results.names import config_json

    with folder.locked():
        arms = folder.arms()
        rows = {path: [recorded(path)] for path in arms}
        shown = {path: arms[path] for path in arms if rows[path][0]}
        contents = [__version__, {path.name: [arms[path], *rows[path]] for path in shown}]
        source = hashlib.sha256(json.dumps([folder.path.name, contents]).encode()).hexdigest()
        figure = folder.path / "figure.png"

        def note() -> bytes:
            files = (figure, folder.path / "table.md")
            return config_json({"from": source} | {file.name: _sha256(file) for file in files})

        if holds(folder.path / DRAWN, note()):
            return figure
        series = series_of(experiment, shown, rows)
        looks = [*looks_of(experiment, shown).values()]
        folder.save_text("table.md", table(experiment, series))
        title = title_of(experiment, [folder], shown, done_of(experiment, series))
        folder.save_figure(figure.name, figure_of(experiment, series, title, looks))
        folder.save_text(DRAWN, note().decode())
        return figure


def _sha256(file: Path) -> str | None:
    """Return the hash of a file's content, or None where there is no such file."""
    from plasticity.results.disk import UnfitFile, read_file

    try:
        return hashlib.sha256(read_file(file)).hexdigest()
    except (FileNotFoundError, UnfitFile):
        return None


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


def done_of(experiment: Definition[Any], series: Mapping[str, Sequence[Rows]]) -> int:
    """Return how many tasks or steps the longest run has behind it."""
    last = [rows[-1] for runs in series.values() for rows in runs if rows]
    unit = experiment.progress.unit
    return max((experiment.progress.done(dict(row)) for row in last if unit in row), default=0)


def figure_of(
    experiment: Definition[Any],
    series: Mapping[str, Sequence[Rows]],
    title: str,
    looks: Sequence[int],
    panels: Sequence[Column] = (),
) -> Figure:
    """Draw arms by their labels.

    Args:
        experiment: What they are runs of.
        series: As of ``series_of``.
        title: Above all.
        looks: The numbers of the arms' colors and lines.
        panels: What is drawn; by default the experiment's panels and all that was measured.
    """
    # A folder may be called anything: what is no text, and what would begin a formula.
    title = title.encode("utf-8", "replace").decode().replace("$", r"\$")
    if len(series) > MOST_IN_ONE_PANEL:
        return overview(experiment, series, title, panels)
    unit = experiment.progress.unit
    panels = panels or figure_columns(experiment, series)
    return learning_curves(series, panels, title, unit, looks)
