"""Figures of a study: columns over tasks, with intervals over seeds.

Layouts are counted in inches here: matplotlib's own search for them takes seconds a figure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity.figures.curves import decades, is_wide
from plasticity.figures.style import COLORS, style
from plasticity.figures.titles import lines_of
from plasticity.statistics.curves import FEWEST_FOR_AN_INTERVAL, over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_TOGETHER = 8
"""Arms whose curves can be told apart in the same axes."""
ACROSS = 6
"""Arms in a row of the others."""
SPAN = 20
"""Running means are over this part of the tasks."""
POINTS = 250
"""Of a curve: more cannot be seen, and make large files."""
GRAY = "#999999"
LOOKS = {
    "keeps": (COLORS[1], "o"),
    "loses less than the margin": (COLORS[4], "D"),
    "undecided": ("#666666", "s"),
    "nothing to lose": (GRAY, "X"),
    "loses, less than the margin (too few seeds)": (COLORS[0], "d"),
    "loses": (COLORS[0], "v"),
    "no word": (GRAY, "P"),
}
"""Color and marker of a verdict."""


def look_of(verdict: str) -> str:
    """Return which of the looks a verdict has: one that is incomplete or exploratory is no word."""
    return verdict if verdict in LOOKS else "no word"


@dataclass(frozen=True)
class Curve:
    """Means over seeds and the ends of their 95 % intervals.

    Attributes:
        tasks: ``(points,)``, where there is a value.
        mean: ``(points,)``.
        low: ``(points,)``, NaN of fewer than three seeds.
        high: The same.
    """

    tasks: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve(values: np.ndarray, *, window: int = 1, logarithmic: bool = False) -> Curve:
    """Return the curve of a column over tasks.

    Each seed is smoothed first; then mean and interval (Student's t) are over the seeds that have a
    value at a task.

    Args:
        values: ``(seeds, tasks)``, NaN where undefined.
        window: Neighboring tasks, centered, over whose defined ones each seed's running mean is.
        logarithmic: Take all means of logarithms; there is none where a seed is not positive.
    """
    of = over_seeds(values, window=window, logarithmic=logarithmic)
    (tasks,) = np.nonzero(np.isfinite(of.mean))
    tasks = tasks[:: max(1, -(-len(tasks) // POINTS))]
    return Curve(tasks, of.mean[tasks], of.low[tasks], of.high[tasks])


def within(of: Curve, bounds: tuple[float, float]) -> Curve:
    """Return a curve whose intervals end where what is measured ends."""
    return dataclasses.replace(
        of, low=np.maximum(of.low, bounds[0]), high=np.minimum(of.high, bounds[1])
    )


def over_tasks(
    series: Mapping[str, np.ndarray],
    label: str,
    title: str,
    *,
    verdicts: Mapping[str, str],
    reference: str,
    looks: Mapping[str, int],
    logarithmic: bool | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Figure:
    """Draw a column over tasks: of few arms in the same axes, else each arm in axes of its own.

    Args:
        series: ``(seeds, tasks)`` by arm, in the order in which they are drawn.
        label: Of the ordinate, with its unit.
        title: Above all.
        verdicts: In words, by arm; those that have one.
        reference: The arm that stands in gray behind each other.
        looks: The number of each arm's color and line, where several share axes.
        logarithmic: None: if the values ask for it.
        bounds: The least and the greatest value that there can be; intervals end there.
    """
    if logarithmic is None:
        logarithmic = is_wide([*series.values()])
    # Nothing but zeros, or less, has no logarithm.
    logarithmic = logarithmic and any((values > 0).any() for values in series.values())
    tasks = max(v.shape[1] for v in series.values())
    # What is measured now and then is drawn as it is.
    dense = all(np.isfinite(v).any(0).sum() > tasks / 2 for v in series.values())
    window = max(1, tasks // SPAN) if dense else 1
    curves = {
        arm: within(curve(values, window=window, logarithmic=logarithmic), bounds)
        for arm, values in series.items()
    }
    caption = _caption(series, window, logarithmic)
    if np.isfinite(bounds).any():
        ends = " and ".join(f"{end:g}" for end in bounds if np.isfinite(end))
        caption += f"; intervals end at {ends}"
    limits = _limits([*curves.values()], logarithmic)
    if len(series) <= MOST_TOGETHER:
        figure, grid = _together(curves, verdicts, looks, title, caption)
    else:
        figure, grid = _each(curves, verdicts, reference, title, caption)
    for axes in grid:
        axes.set_xlim(0, max(1, tasks - 1))
        if logarithmic:
            axes.set_yscale("log")
            decades(axes.yaxis, *limits, narrow=len(grid) > 1)
        axes.set_ylim(limits)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    if len(grid) == 1:
        grid[0].set(xlabel="task", ylabel=label)
    else:
        figure.supylabel(label, fontsize=9, x=0.1 / figure.get_figwidth(), ha="left")
        figure.supxlabel("task", fontsize=9, y=0.1 / figure.get_figheight(), va="bottom")
    return figure


def how_many(counts: set[int]) -> str:
    """Return how many seeds the arms have."""
    seeds = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{max(counts)}"
    return f"n = {seeds} seed{'s' if max(counts) > 1 else ''}"


def _caption(series: Mapping[str, np.ndarray], window: int, logarithmic: bool) -> str:
    counts = {len(values) for values in series.values()}
    parts = [how_many(counts)]
    mean = "geometric mean" if logarithmic else "mean"
    line = [f"{mean} over seeds"] if max(counts) > 1 else []
    line += [f"running mean of {window} tasks"] if window > 1 else []
    parts += [f"line: {' of the '.join(line)}"] if line else []
    if max(counts) >= FEWEST_FOR_AN_INTERVAL:
        parts.append("shaded: 95 % interval of the mean (Student's t)")
    return "; ".join(parts)


def _limits(curves: Sequence[Curve], logarithmic: bool) -> tuple[float, float]:
    """Return the ends of the ordinate: all means, and of the intervals what is not far from them.

    The wide interval of a single task would leave no room for the means of all.
    """
    ends = [np.concatenate([getattr(c, name) for c in curves]) for name in ("low", "mean", "high")]
    if logarithmic:
        ends = [np.log(end) for end in ends]
    lows, means, highs = (end[np.isfinite(end)] for end in ends)
    low, high = means.min(), means.max()
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    low = max(lows.min(initial=low), low - 2 * room) - room
    high = min(highs.max(initial=high), high + 2 * room) + room
    return (float(np.exp(low)), float(np.exp(high))) if logarithmic else (float(low), float(high))


def _draw(axes: Axes, of: Curve, color: str, width: float, label: str = "", **more: Any) -> None:
    sparse = len(of.tasks) < 40
    axes.plot(
        of.tasks, of.mean, color=color, linewidth=width, label=label,
        marker="." if sparse else "", markersize=4, **more,
    )  # fmt: skip
    axes.fill_between(of.tasks, of.low, of.high, color=color, alpha=0.22, linewidth=0)


def _together(
    curves: Mapping[str, Curve],
    verdicts: Mapping[str, str],
    looks: Mapping[str, int],
    title: str,
    caption: str,
) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    below = 0.6 + 0.2 * -(-len(curves) // 2)
    height = 3.6 + below + 0.6
    figure = Figure(figsize=(8, height), dpi=150)
    axes = figure.add_axes((0.75 / 8, below / height, 7.1 / 8, 3.6 / height))
    for arm, of in curves.items():
        look = style(looks[arm])
        words = f"{arm}: {verdicts[arm]}" if arm in verdicts else arm
        _draw(axes, of, look["color"], 1.8, words, linestyle=look["line"])
    figure.legend(loc="lower center", ncols=2, frameon=False, fontsize=8.5)
    write_title(figure, title, caption)
    return figure, [axes]


def _each(
    curves: Mapping[str, Curve],
    verdicts: Mapping[str, str],
    reference: str,
    title: str,
    caption: str,
) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    wide, high, left, above, below = 2.15, 1.15, 0.75, 0.55, 0.35
    down = -(-len(curves) // ACROSS)
    width, height = left + ACROSS * (wide + 0.15), above + below + down * (high + 0.42)
    figure = Figure(figsize=(width, height), dpi=150)
    grid: list[Axes] = []
    for k, (arm, of) in enumerate(curves.items()):
        row, column = divmod(k, ACROSS)
        corner = left + column * (wide + 0.15), height - above - (row + 1) * (high + 0.42) + 0.1
        box = (corner[0] / width, corner[1] / height, wide / width, high / height)
        axes = figure.add_axes(box)
        if arm != reference and reference in curves:
            _draw(axes, curves[reference], GRAY, 1.0)
        color = LOOKS[look_of(verdicts[arm])][0] if arm in verdicts else "black"
        _draw(axes, of, color, 1.6)
        words = verdicts.get(arm, "")
        # Some 0.6 of its height is a letter's width.
        size = min(8.0, 72 * wide / 0.58 / max(len(arm), 1))
        axes.annotate(arm, (0, 1), (0, 12), "axes fraction", "offset points", fontsize=size)
        axes.annotate(
            words, (0, 1), (0, 3), "axes fraction", "offset points", fontsize=7, color=color
        )
        axes.tick_params(
            labelsize=7, labelleft=column == 0, labelbottom=k + ACROSS >= len(curves), length=2
        )
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        grid.append(axes)
    behind = f"; gray: {reference}" if reference in curves else ""
    write_title(figure, title, caption + behind)
    return figure, grid


def write_title(figure: Figure, title: str, caption: str) -> None:
    """Write a title, and below it what the figure is made of, above all axes."""
    height = figure.get_figheight()
    figure.text(0.12 / figure.get_figwidth(), 1 - 0.1 / height, title, fontsize=10, va="top")
    figure.text(
        0.12 / figure.get_figwidth(), 1 - 0.3 / height,
        lines_of(caption, figure.get_figwidth(), 8), fontsize=8, va="top", color="#444444",
    )  # fmt: skip
