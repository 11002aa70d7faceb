"""Many arms at a glance: a figure in which each has axes of its own, and a table of all."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity.figures.curves import (
    Rows,
    all_rows,
    bounded,
    decades,
    draw_arm,
    notes,
    window_of,
    with_axis,
)
from plasticity.figures.titles import lines_of
from plasticity.learning.column import Column
from plasticity.protocol.columns import column_of, compared_columns
from plasticity.protocol.experiment import Definition
from plasticity.statistics.curves import FEWEST_FOR_AN_INTERVAL
from plasticity.statistics.estimates import Change, change
from plasticity.statistics.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 6
"""Arms in a row of the figure."""
MOST_CHANGES_ACROSS = 8
"""Columns in a row of the changes."""
OTHERS = "#BBBBBB"
FIRST, LAST = "#56B4E9", "#0072B2"


def change_of(runs: Sequence[Rows], column: str) -> Change | None:
    """Return how a column changed in the runs of an arm, one a seed; None where one has none."""
    of_runs = [[row[column] for row in rows if column in row] for rows in runs]
    if not all(of_runs):
        return None
    values = np.full((len(runs), max(map(len, of_runs))), np.nan)
    for row, of_run in zip(values, of_runs, strict=True):
        row[: len(of_run)] = of_run
    return change(values)


def several(columns: Sequence[Column], series: Mapping[str, Sequence[Rows]]) -> list[Column]:
    """Return the columns that at least two arms have: of the others there is nothing to compare.

    If there is a single arm, return all that it has.
    """

    def num_arms(name: str) -> int:
        return sum(change_of(runs, name) is not None for runs in series.values())

    return [column for column in columns if num_arms(column.name) >= min(2, len(series))]


def in_order_of_loss(series: Mapping[str, Sequence[Rows]], score: str) -> list[str]:
    """Return the arms' labels: the one whose score gained most comes first."""

    def gain(label: str) -> float:
        found = change_of(series[label], score)
        return math.inf if found is None else found.first.estimate - found.last.estimate

    return sorted(series, key=gain)


def table(experiment: Definition[Any], series: Mapping[str, Sequence[Rows]]) -> str:
    """Return tables in Markdown: each arm's columns, first and last, and the score's change.

    A column that a single arm of several has stands in a second table: as a rule, its remedy says
    it.
    """
    score, words = experiment.score
    order = in_order_of_loss(series, score)
    columns = compared_columns(experiment, all_rows(series))
    others = [column for column in several(columns, series) if column.name != score]
    titles = ["arm", f"{words}, first tenth", "last tenth", "change"]
    titles += [f"{column.title}, first, last" for column in others]
    lines = []
    for label in order:
        found = change_of(series[label], score)
        cells = ["", "", ""]
        if found is not None:
            first, last = found.first.estimate, found.last.estimate
            cells = [f"{first:.4f}", f"{last:.4f}", f"{last - first:+.4f}"]
        of_others = [change_of(series[label], column.name) for column in others]
        cells += ["" if of is None else ", ".join(_ends(of)) for of in of_others]
        lines.append([label, *cells])
    own = [column for column in columns if column.name != score and column not in others]
    rows = [
        [label, f"{column.title} (`{column.name}`)", *_ends(of)]
        for label in order
        for column in own
        if (of := change_of(series[label], column.name)) is not None
    ]
    more = markdown_table(["arm", "what it alone has", "first tenth", "last tenth"], rows)
    return markdown_table(titles, lines) + (f"\n{more}" if rows else "")


def _ends(of: Change) -> list[str]:
    return [f"{end.estimate:.3g}" for end in (of.first, of.last)]


def overview(
    experiment: Definition[Any],
    series: Mapping[str, Sequence[Rows]],
    title: str,
    panels: Sequence[Column] = (),
) -> Figure:
    """Draw the score of each arm in axes of its own, and below how other columns changed.

    Args:
        experiment: Whose score is drawn, and whose panels are compared.
        series: The rows of each arm's runs, one run a seed, by the arm's label.
        title: Above all.
        panels: What is compared; by default the experiment's panels and what tells why.
    """
    from matplotlib.figure import Figure

    if not panels:
        panels = several(compared_columns(experiment, all_rows(series)), series)
    panels = [with_axis(panel, series) for panel in panels]
    order = in_order_of_loss(series, experiment.score[0])
    down = -(-len(order) // ACROSS)
    lower_height = (0.19 * len(order) + 0.7) * rows_of_changes(panels) + 0.4
    heights = [1.45 * down + 0.5, lower_height]
    figure = Figure(figsize=(14, sum(heights) + 0.5), dpi=150, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=heights, hspace=0.02)
    upper, lower = parts
    score = column_of(experiment, experiment.score[0])
    _each_arm(upper, score, series, order, experiment.progress.unit)
    _changes(lower, panels, series, order)
    note = notes(series, [score], experiment.progress.unit, points=True)
    figure.suptitle(lines_of(f"{title}\n{note}; gray: the other arms", 14), fontsize=9)
    return figure


def _each_arm(
    figure: Any,
    panel: Column,
    series: Mapping[str, Sequence[Rows]],
    order: Sequence[str],
    unit: str,
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
    figure.supylabel(panel.title, fontsize=8)
    figure.supxlabel("task" if unit == "task" else "environment step", fontsize=8)


def _changes(
    figure: Any,
    panels: Sequence[Column],
    series: Mapping[str, Sequence[Rows]],
    order: Sequence[str],
) -> None:
    """Draw each column's value at first and at last, an arm a line."""
    down = rows_of_changes(panels)
    grid = figure.subplots(down, -(-len(panels) // down), sharey=True, squeeze=False)
    places = range(len(order))
    for axes, panel in zip(grid.flatten(), panels, strict=False):
        for place, label in zip(places, order, strict=True):
            found = change_of(series[label], panel.name)
            if found is None:
                continue
            first, last = found.first.estimate, found.last.estimate
            axes.plot([first, last], [place, place], color=OTHERS, linewidth=1.5)
            for end, color, marker in ((found.first, FIRST, "o"), (found.last, LAST, "D")):
                value, ends_at = end.estimate, None
                if end.interval_95 is not None and end.n >= FEWEST_FOR_AN_INTERVAL:
                    low, high = bounded(panel, *end.interval_95)
                    ends_at = [[max(0, value - low)], [max(0, high - value)]]
                axes.errorbar(
                    value, place, xerr=ends_at,
                    fmt=marker, color=color, markersize=4.5, elinewidth=1,
                )  # fmt: skip
        if panel.logarithmic:
            axes.set_xscale("log")
            decades(axes.xaxis, *axes.get_xlim(), narrow=True)
        axes.set_xlabel(wrapped(panel.title, 22), fontsize=7.5)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flatten()[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_yticks(places, order, fontsize=7.5)
        axes.set_ylim(len(order) - 0.4, -0.6)
    first = grid[0, 0]
    for marker, color, label in (("o", FIRST, "first tenth"), ("D", LAST, "last tenth")):
        first.plot([], [], marker, color=color, markersize=4.5, label=label)
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=2,
                  frameon=False, fontsize=8)  # fmt: skip


def rows_of_changes(panels: Sequence[Column]) -> int:
    """Return in how many rows the changes of columns stand."""
    return max(1, -(-len(panels) // MOST_CHANGES_ACROSS))


def wrapped(text: str, width: int) -> str:
    """Return a text in lines of so many characters, broken at spaces only."""
    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False)
