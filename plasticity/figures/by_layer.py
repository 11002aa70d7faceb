"""What was measured of each layer or gate: a figure and a table of arms by their layers."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plasticity.figures.curves import (
    Rows,
    all_rows,
    draw_arm,
    finish,
    notes,
    window_of,
    with_axis,
)
from plasticity.figures.overview import change_of
from plasticity.figures.style import COLORS, LINES
from plasticity.figures.titles import lines_of
from plasticity.learning.column import Column
from plasticity.protocol.columns import column_of, columns_in
from plasticity.protocol.experiment import Definition
from plasticity.statistics.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMED = 6
"""Layers that have a color and a place in the legend; more are told apart by their shades."""


def quantities(
    experiment: Definition[Any], series: Mapping[str, Sequence[Rows]]
) -> dict[str, dict[int, Column]]:
    """Return what was measured by layers: for each quantity its columns, by the layer's number.

    Gates are layers here, too. The quantities are called as their columns are, without the number.
    """
    found: dict[str, dict[int, Column]] = {}
    for name, column in columns_in(experiment, all_rows(series)).items():
        quantity, _, number = name.rpartition("_")
        if column.by and number.isdigit():
            found.setdefault(quantity, {})[int(number)] = column
    return {quantity: dict(sorted(of.items())) for quantity, of in found.items()}


def label_of(experiment: Definition[Any], quantity: str) -> str:
    """Return what a quantity is called, without the layer."""
    column = column_of(experiment, f"{quantity}_")
    return column.label.removesuffix(f", {column.by}")


def by_layer(
    experiment: Definition[Any],
    series: Mapping[str, Sequence[Rows]],
    title: str,
    chosen: Sequence[str] = (),
) -> Figure:
    """Draw a row of axes for each quantity and a column for each arm; the curves are the layers.

    Args:
        experiment: Whose columns they are.
        series: The rows of each arm's runs, one run a seed, by the arm's label.
        title: Above all.
        chosen: Quantities, such as ``step``; by default all that were measured.
    """
    from matplotlib.figure import Figure

    there = quantities(experiment, series)
    shown = {name: there[name] for name in chosen} if chosen else there
    across, unit, window = len(series), experiment.progress.unit, window_of(series)
    width = 3.4 * across + 0.6
    figure = Figure(figsize=(width, 2.3 * len(shown) + 1.0), dpi=150, layout="constrained")
    grid = figure.subplots(len(shown), across, squeeze=False, sharex=True, sharey="row")
    of_rows: list[Column] = []
    named: dict[str, Any] = {}
    for place, (quantity, columns) in enumerate(shown.items()):
        first = next(iter(columns.values()))
        panel = _axis_of_all(experiment, quantity, columns, series, first)
        of_rows.append(panel)
        for k, (arm, runs) in enumerate(series.items()):
            axes = grid[place][k]
            intervals = []
            for number, column in columns.items():
                look = _look(number, max(columns))
                interval = draw_arm(
                    axes, dataclasses.replace(panel, name=column.name), runs, unit=unit,
                    window=window, label=f"{column.by} {number}", points=False, **look,
                )  # fmt: skip
                intervals.append((look["color"], interval))
            finish(axes, panel, unit)
            for color, interval in intervals:
                if interval is not None:
                    axes.fill_between(*interval, color=color, alpha=0.2, linewidth=0)
            axes.set_title("" if place else arm, fontsize=9)
            axes.set_ylabel("" if k else textwrap.fill(panel.title, 26), fontsize=8)
            if place < len(shown) - 1:
                axes.set_xlabel("")
            if max(columns) <= MOST_NAMED:
                for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                    named.setdefault(label, handle)
    figure.legend(
        [*named.values()], [*named], loc="outside lower center",
        ncols=max(1, min(len(named), int(width))), frameon=False, fontsize=8,
    )  # fmt: skip
    note = notes(series, of_rows, unit, points=False)
    if any(max(columns) > MOST_NAMED for columns in shown.values()):
        note += "; thin: one layer or gate each, the first ones dark"
    figure.suptitle(lines_of(f"{title}\n{note}", width), fontsize=9)
    return figure


def _axis_of_all(
    experiment: Definition[Any],
    quantity: str,
    columns: Mapping[int, Column],
    series: Mapping[str, Sequence[Rows]],
    first: Column,
) -> Column:
    """Return the axis that all layers of all arms share."""
    label = label_of(experiment, quantity)
    axes = [with_axis(column, series) for column in columns.values()]
    logarithmic = any(axis.logarithmic for axis in axes) and not any(
        row.get(column.name, 1) <= 0 for column in columns.values() for row in all_rows(series)
    )
    return dataclasses.replace(first, label=label, logarithmic=logarithmic)


def _look(number: int, most: int) -> dict[str, Any]:
    if most <= MOST_NAMED:
        return {"color": COLORS[(number - 1) % len(COLORS)], "line": LINES[0], "width": 1.8}
    from matplotlib import colormaps

    shade = 0.9 * (number - 1) / max(1, most - 1)
    return {"color": colormaps["viridis"](shade), "line": LINES[0], "width": 0.8}


def layer_table(
    experiment: Definition[Any], series: Mapping[str, Sequence[Rows]], chosen: Sequence[str] = ()
) -> str:
    """Return tables in Markdown: of each arm and layer, each quantity's first and last tenth.

    Layers have one table and gates another.

    Args:
        experiment: Whose columns they are.
        series: As of ``by_layer``.
        chosen: Quantities; by default all that were measured.
    """
    there = quantities(experiment, series)
    shown = {name: there[name] for name in chosen} if chosen else there
    tables = []
    for by in dict.fromkeys(c.by for columns in shown.values() for c in columns.values()):
        own = {q: of for q, of in shown.items() if next(iter(of.values())).by == by}
        labels = [f"{label_of(experiment, quantity)} (`{quantity}`)" for quantity in own]
        rows = []
        for arm, runs in series.items():
            for number in sorted({number for columns in own.values() for number in columns}):
                cells = [_ends(runs, columns.get(number)) for columns in own.values()]
                if any(cells):
                    rows.append([arm, str(number), *cells])
        titles = ["arm", by, *(f"{label}, first, last" for label in labels)]
        tables.append(markdown_table(titles, rows))
    return "\n".join(tables)


def _ends(runs: Sequence[Rows], column: Column | None) -> str:
    of = change_of(runs, column.name) if column else None
    return "" if of is None else f"{of.first.estimate:.3g}, {of.last.estimate:.3g}"
