"""Many arms at a glance: a figure in which each has axes of its own, and a table of all."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plasticity.figures.curves import (
    FEWEST_FOR_AN_INTERVAL,
    Rows,
    bounded,
    decades,
    draw_arm,
    half_interval,
    notes,
    window_of,
)
from plasticity.figures.labels import COMPARED
from plasticity.figures.titles import lines_of
from plasticity.protocol.experiment import Definition, Panel
from plasticity.statistics.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 6
"""Arms in a row of the figure."""
OTHERS = "#BBBBBB"
FIRST, LAST = "#56B4E9", "#0072B2"


@dataclass(frozen=True)
class Change:
    """What a column of an arm was at first and is at last.

    Each is the mean over a tenth of the rows that have the column, at least one, and over seeds.

    Attributes:
        first: At the beginning.
        last: At the end.
        halves: Half the width of the 95 % intervals of both, over seeds; 0 of fewer than three.
    """

    first: float
    last: float
    halves: tuple[float, float] = (0.0, 0.0)


def change(runs: Sequence[Rows], column: str) -> Change | None:
    """Return how a column changed in the runs of an arm, one a seed; None where one has none."""
    ends: list[tuple[float, float]] = []
    for rows in runs:
        values = [row[column] for row in rows if column in row]
        if not values:
            return None
        tenth = max(1, len(values) // 10)
        ends.append((sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth))
    first, last = zip(*ends, strict=True)
    several = len(runs) >= FEWEST_FOR_AN_INTERVAL
    halves = (half_interval(first), half_interval(last)) if several else (0.0, 0.0)
    return Change(sum(first) / len(first), sum(last) / len(last), halves)


def compared(experiment: Definition[Any], series: Mapping[str, Sequence[Rows]]) -> list[Panel]:
    """Return what to compare arms by: the experiment's panels, and what tells why."""
    panels = {panel.column: panel for panel in COMPARED}
    panels |= {panel.column: panel for panel in experiment.panels}
    there = {c for runs in series.values() for rows in runs for row in rows for c in row}
    first = [panel.column for panel in experiment.panels]
    return [panels[column] for column in dict.fromkeys([*first, *panels]) if column in there]


def in_order_of_loss(series: Mapping[str, Sequence[Rows]], score: str) -> list[str]:
    """Return the arms' labels: the one whose score gained most comes first."""

    def gain(label: str) -> float:
        found = change(series[label], score)
        return math.inf if found is None else found.first - found.last

    return sorted(series, key=gain)


def table(experiment: Definition[Any], series: Mapping[str, Sequence[Rows]]) -> str:
    """Return a table in Markdown: each arm's columns, first and last, and the score's change."""
    score, words = experiment.score
    panels = compared(experiment, series)
    others = [panel for panel in panels if panel.column != score]
    titles = ["arm", f"{words}, first tenth", "last tenth", "change"]
    titles += [f"{panel.label}, first, last" for panel in others]
    lines = []
    for label in in_order_of_loss(series, score):
        found = change(series[label], score)
        cells = ["", "", ""]
        if found is not None:
            cells = [f"{found.first:.4f}", f"{found.last:.4f}", f"{found.last - found.first:+.4f}"]
        of_others = [change(series[label], panel.column) for panel in others]
        cells += ["" if c is None else f"{c.first:.3g}, {c.last:.3g}" for c in of_others]
        lines.append([label, *cells])
    return markdown_table(titles, lines)


def overview(
    experiment: Definition[Any],
    series: Mapping[str, Sequence[Rows]],
    title: str,
    panels: Sequence[Panel] = (),
) -> Figure:
    """Draw the score of each arm in axes of its own, and below how other columns changed.

    Args:
        experiment: Whose score is drawn, and whose panels are compared.
        series: The rows of each arm's runs, one run a seed, by the arm's label.
        title: Above all.
        panels: What is compared; by default the experiment's panels and what tells why.
    """
    from matplotlib.figure import Figure

    order = in_order_of_loss(series, experiment.score[0])
    down = -(-len(order) // ACROSS)
    heights = [1.45 * down + 0.5, 0.19 * len(order) + 1.1]
    figure = Figure(figsize=(14, sum(heights) + 0.5), dpi=150, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=heights, hspace=0.02)
    upper, lower = parts
    (score,) = (p for p in experiment.panels if p.column == experiment.score[0])
    _each_arm(upper, score, series, order, experiment.progress.unit)
    _changes(lower, panels or compared(experiment, series), series, order)
    note = notes(series, [score], experiment.progress.unit, points=True)
    figure.suptitle(lines_of(f"{title}\n{note}; gray: the other arms", 14), fontsize=9)
    return figure


def _each_arm(
    figure: Any, panel: Panel, series: Mapping[str, Sequence[Rows]], order: Sequence[str], unit: str
) -> None:
    """Draw a column of each arm in axes of its own, over the curves of all the others."""
    from matplotlib.ticker import MaxNLocator

    down = -(-len(order) // ACROSS)
    grid = figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False)
    window = window_of(series)
    grid = grid.flatten()
    for axes, label in zip(grid, order, strict=False):
        for other in [*(other for other in order if other != label), label]:  # on top of others
            own = other == label
            interval = draw_arm(
                axes, panel, series[other], unit=unit, window=window, label=other, line="-",
                points=own and len(series[other]) == 1, color=LAST if own else OTHERS,
                width=1.8 if own else 0.6,
            )  # fmt: skip
            if own and interval is not None:
                axes.fill_between(*interval, color=LAST, alpha=0.25, linewidth=0)
        # A word is not broken; a letter is some 0.6 of its height wide, and there are 2.1 inches.
        longest = max(map(len, label.split()), default=1)
        axes.set_title(wrapped(label, 32), fontsize=min(8, 72 * 2.1 / 0.6 / longest), pad=2)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for k, axes in enumerate(grid[: len(order)]):
        # Where there are none below it.
        axes.tick_params(labelbottom=k + ACROSS >= len(order))
    for axes in grid[len(order) :]:
        axes.set_visible(False)
    figure.supylabel(panel.label, fontsize=8)
    figure.supxlabel("task" if unit == "task" else "environment step", fontsize=8)


def _changes(
    figure: Any,
    panels: Sequence[Panel],
    series: Mapping[str, Sequence[Rows]],
    order: Sequence[str],
) -> None:
    """Draw each column's value at first and at last, an arm a line."""
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    places = range(len(order))
    for axes, panel in zip(grid, panels, strict=True):
        for place, label in zip(places, order, strict=True):
            found = change(series[label], panel.column)
            if found is None:
                continue
            axes.plot([found.first, found.last], [place, place], color=OTHERS, linewidth=1.5)
            ends = (found.first, FIRST, "o"), (found.last, LAST, "D")
            for (value, color, marker), half in zip(ends, found.halves, strict=True):
                low, high = bounded(panel, value - half, value + half)
                ends_at = [[max(0, value - low)], [max(0, high - value)]] if half else None
                axes.errorbar(
                    value, place, xerr=ends_at,
                    fmt=marker, color=color, markersize=4.5, elinewidth=1,
                )  # fmt: skip
        if panel.logarithmic:
            axes.set_xscale("log")
            decades(axes.xaxis, *axes.get_xlim(), narrow=True)
        axes.set_xlabel(wrapped(panel.label, 22), fontsize=7.5)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_yticks(places, order, fontsize=7.5)
    grid[0].set_ylim(len(order) - 0.4, -0.6)
    for marker, color, label in (("o", FIRST, "first tenth"), ("D", LAST, "last tenth")):
        grid[0].plot([], [], marker, color=color, markersize=4.5, label=label)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2,
                  frameon=False, fontsize=8)  # fmt: skip


def wrapped(text: str, width: int) -> str:
    """Return a text in lines of so many characters, broken at spaces only."""
    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False)
