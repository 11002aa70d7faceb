"""Figures of few arms: a curve an arm, over tasks or steps, of one seed or of several."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plasticity.figures.titles import lines_of
from plasticity.learning.column import Column
from plasticity.protocol.columns import added_columns, panels_of
from plasticity.protocol.experiment import Definition
from plasticity.statistics.curves import FEWEST_FOR_AN_INTERVAL

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

MOST_WITH_POINTS = 6
"""Arms whose single tasks are drawn as points; points of more arms hide one another."""
PANELS_A_ROW = 3
LEGEND_ROW = 0.24
"""Inches."""


def figure_columns(
    experiment: Definition[Any], series: Mapping[str, Sequence[Rows]]
) -> list[Column]:
    """Return the experiment's panels, and each column that the rows have beside them.

    These were measured on demand, or a remedy says them of itself.
    """
    panels = panels_of(experiment)
    shown = {panel.name for panel in panels}
    added = added_columns(experiment, all_rows(series))
    return [*panels, *(column for name, column in added.items() if name not in shown)]


def all_rows(series: Mapping[str, Sequence[Rows]]) -> Rows:
    """Return the rows of all runs of all arms."""
    return [row for runs in series.values() for rows in runs for row in rows]


def learning_curves(
    series: Mapping[str, Sequence[Rows]],
    panels: Sequence[Column],
    title: str,
    unit: str = "task",
    looks: Sequence[int] | None = None,
) -> Figure:
    """Draw columns of the rows over the tasks or steps, one curve an arm.

    Args:
        series: The rows of each arm's runs, one run a seed, by the arm's label.
        panels: The columns; a curve leaves out rows without them.
        title: Above all panels.
        unit: The column of the rows that is the abscissa, in the singular.
        looks: The number of each arm's color and line; by default they are counted.
    """
    from matplotlib.figure import Figure

    from plasticity.figures.style import style

    panels = [with_axis(panel, series) for panel in panels]
    window, points = window_of(series), len(series) <= MOST_WITH_POINTS
    across = min(len(panels), PANELS_A_ROW)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(4 * across, 3.2 * down + 0.7), dpi=150, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).flatten()
    changes = changes_of(series, unit)
    for axes, panel in zip(grid, panels, strict=False):
        for step in changes:
            axes.axvline(step, color="#999999", linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
        intervals = [
            draw_arm(
                axes, panel, runs, unit=unit, window=window, label=label, **style(look),
                points=points,
            )
            for look, (label, runs) in zip(looks or itertools.count(), series.items(), strict=False)
        ]  # fmt: skip
        finish(axes, panel, unit)
        limits = axes.get_ylim()
        for look, interval in zip(looks or itertools.count(), intervals, strict=False):
            if interval is not None:
                color = style(look)["color"]
                axes.fill_between(*interval, color=color, alpha=0.2, linewidth=0)
        axes.set_ylim(limits)  # which the intervals do not decide
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
    columns = max(1, min(len(known), fitting))
    figure.legend(
        [named[label] for label in known], known,
        loc="outside lower center", ncols=columns, frameon=False,
    )  # fmt: skip
    further = -(-len(known) // columns) - 1
    figure.set_size_inches(4 * across, 3.2 * down + 0.7 + LEGEND_ROW * max(0, further))
    note = notes(series, panels, unit, points=points)
    if changes:
        note += "; vertical lines: the floor's friction changes"
    text = lines_of(f"{title}\n{note}", 4 * across)
    figure.suptitle(text, fontsize=9)
    height = figure.get_figheight() + 0.15 * (text.count("\n") - 1)
    figure.set_figheight(height)
    return figure


def is_wide(values: Sequence[np.ndarray]) -> bool:
    """Tell whether a column asks for a logarithmic axis.

    All its numbers are positive, and nine tenths of the arms' span more than a factor of ten.
    """
    import numpy as np

    kept = [v[np.isfinite(v)] for v in values]
    kept = [v for v in kept if len(v)]
    if not kept or min(v.min() for v in kept) <= 0:
        return False
    low, high = (min(np.quantile(v, 0.05) for v in kept), max(np.quantile(v, 0.95) for v in kept))
    return bool(high > 10 * low)


def with_axis(panel: Column, series: Mapping[str, Sequence[Rows]]) -> Column:
    """Return a column that says whether its axis is logarithmic, by its values if need be."""
    import numpy as np

    if panel.logarithmic is not None:
        return panel
    values = [
        np.array([row[panel.name] for rows in runs for row in rows if panel.name in row], float)
        for runs in series.values()
    ]
    return dataclasses.replace(panel, logarithmic=is_wide(values))


def changes_of(series: Mapping[str, Sequence[Rows]], unit: str) -> list[float]:
    """Return the steps after which the floor's friction is another one, in the order of steps."""
    rows = {row[unit]: row for runs in series.values() for of in runs for row in of if unit in row}
    steps = [step for step in sorted(rows) if "friction" in rows[step]]
    return [
        now
        for now, then in itertools.pairwise(steps)
        if rows[now]["friction"] != rows[then]["friction"]
    ]


def window_of(series: Mapping[str, Sequence[Rows]]) -> int:
    """Return of how many rows the running means are."""
    return max(1, max(len(rows) for runs in series.values() for rows in runs) // 10)


def notes(
    series: Mapping[str, Sequence[Rows]],
    panels: Sequence[Column],
    unit: str,
    *,
    points: bool,
) -> str:
    """Say what the curves are made of; ``points``: whether curves of one seed have them."""
    few, many = ("task", "tasks") if unit == "task" else ("update", "updates")
    window = window_of(series)
    num_seeds = {len(runs) for runs in series.values()}
    fewest, most = min(num_seeds), max(num_seeds)
    seeds = f"{fewest} to {most}" if fewest < most else f"{most}"
    parts = [f"n = {seeds} seed{'s' if most > 1 else ''}"]
    if most == 1 and points:
        parts.append(f"points: one {few} each")
    if window > 1:
        parts.append(f"lines: running mean of {window} {many}")
    if most > 1:
        of_seeds = [len(runs) for runs in series.values()]
        if any(1 < count < FEWEST_FOR_AN_INTERVAL for count in of_seeds):
            parts.append("thick: mean over seeds, thin: one seed each")
        if most >= FEWEST_FOR_AN_INTERVAL:
            parts.append("shaded: 95 % interval of the mean over seeds (Student's t)")
        if any(panel.logarithmic for panel in panels):
            parts.append("on logarithmic axes, means are geometric")
    elif any(panel.samples for panel in panels):
        parts.append("shaded: 95 % interval of an evaluation's mean")
    return "; ".join(parts)


def draw_arm(
    axes: Any,
    panel: Column,
    runs: Sequence[Rows],
    *,
    unit: str,
    window: int,
    label: str,
    points: bool,
    color: str,
    line: Any,
    width: float = 1.8,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Draw an arm's curve: of its only run, or of the mean over seeds.

    Two seeds are drawn beside their mean.

    Returns:
        Where there is an interval: the abscissas, its lower and its upper ends.
    """
    import numpy as np

    from plasticity.figures.style import plot_curve
    from plasticity.statistics.curves import over_seeds
    from plasticity.statistics.inference import t_interval

    abscissa = panel.abscissa or unit
    values = [{row[abscissa]: row for row in rows if panel.name in row} for rows in runs]
    # What all seeds have got to.
    x = np.array(sorted(set.intersection(*(set(of_run) for of_run in values))))
    if not len(x):  # no episode has ended yet
        return None
    y = np.array([[of_run[k][panel.name] for k in x] for of_run in values])
    smoothing = 1 if panel.samples or len(x) < len(runs[0]) // 2 else window
    if len(runs) == 1:
        plot_curve(
            axes, x, y[0], label=label, color=color, window=smoothing, line=line, points=points,
            width=width,
        )  # fmt: skip
        if not panel.samples:
            return None
        samples = [values[0][k][panel.samples] for k in x]
        ends = [t_interval(of) if len(of) > 1 else (of[0], of[0]) for of in samples]
        low, high = bounded(panel, *np.array(ends).T)
        # Episodes are enough for their interval to be seen whole.
        axes.update_datalim([*zip(x, low, strict=True), *zip(x, high, strict=True)])
        return x, low, high
    of = over_seeds(y, window=smoothing, logarithmic=bool(panel.logarithmic))
    plot_curve(
        axes, x, of.mean, label=label, color=color, window=1, line=line, points=False, width=width
    )
    for of_seed in of.seeds:
        axes.update_datalim([*zip(x, of_seed, strict=True)])
    if len(runs) < FEWEST_FOR_AN_INTERVAL:
        axes.plot(x, of.seeds.T, color=color, linewidth=0.7, alpha=0.6, linestyle=line)
        return None
    return x, *bounded(panel, of.low, of.high)


def bounded(panel: Column, low: Any, high: Any) -> tuple[Any, Any]:
    """Return the ends of intervals, cut where what is measured ends.

    Student's interval does not know that an accuracy is never above 1.
    """
    import numpy as np

    return np.maximum(low, panel.bounds[0]), np.minimum(high, panel.bounds[1])


def finish(axes: Any, panel: Column, unit: str) -> None:
    """Give a panel its scales and labels."""
    from matplotlib.ticker import EngFormatter

    drawn = axes.get_lines()
    # What is zero throughout, as a norm that is taken anew before each task, has no logarithm.
    if panel.logarithmic and (not drawn or any((line.get_ydata() > 0).any() for line in drawn)):
        axes.set_yscale("log")
        decades(axes.yaxis, *axes.get_ylim())
    if unit != "task":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set(xlabel="task" if unit == "task" else "environment step", ylabel=panel.title)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def decades(axis: Any, low: float, high: float, *, narrow: bool = False) -> None:
    """Label a logarithmic axis from ``low`` to ``high`` with a few plain numbers.

    On a narrow one, of more than a decade or so, there are at most four: more would touch.
    """
    import numpy as np
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    # Beside many decades, LogLocator would find no room for the numbers between, and label none.
    locator = LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,))
    if narrow and high > 20 * low:
        locator = LogLocator(numticks=4)
    axis.set_major_locator(locator)
    # 1e+06 is too wide beside its neighbors.
    power = FuncFormatter(lambda x, _: f"$10^{{{round(np.log10(x))}}}$" if x > 0 else "")
    axis.set_major_formatter(power if high > 1e5 and narrow else "{x:g}")
    axis.set_minor_formatter(NullFormatter())
