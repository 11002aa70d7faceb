"""The figure in which a study's arms are compared: what is left against what was lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from plasticity.figures.over_seeds import LOOKS, how_many, write_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from plasticity.statistics.estimates import Estimate

GAP = 2.0
"""Between names, in points."""
FONT = 7.5
"""Of labels, in points."""


class Placed(Protocol):
    """An arm with what is drawn of it."""

    @property
    def arm(self) -> str:
        """Return its name."""

    @property
    def drop(self) -> Any:
        """Return what it lost, an ``Estimate`` with a ``verdict``."""

    @property
    def level(self) -> Estimate:
        """Return what is left."""


def level_against_drop(arms: Sequence[Placed], title: str, margin: float) -> Figure:
    """Draw what is lost against what is left, a labeled point an arm, with 95 % intervals.

    Upper left is best: it learns well, and goes on doing so.

    Args:
        arms: With scores from 0 to 1; they are drawn in per cent.
        title: Above all.
        margin: Of the drop; drawn beside zero.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 6.5 + 0.1 * max(0, len(arms) - 10)  # room for the labels
    figure = Figure(figsize=(10, height), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.08, 0.9 / height, 0.9, 1 - 1.5 / height))
    bars: list[tuple[float, float, float, float]] = []
    for one in arms:
        color, marker = LOOKS[one.drop.verdict]
        x, y = 100 * one.drop.estimate, 100 * one.level.estimate
        across, up = _interval(one.drop, (-100, 100)), _interval(one.level, (0, 100))
        axes.plot(across, (y, y), color=color, linewidth=1, alpha=0.6)
        axes.plot((x, x), up, color=color, linewidth=1, alpha=0.6)
        axes.plot(x, y, marker, color=color, markersize=6, markeredgecolor="white",
                  markeredgewidth=0.5, zorder=3)  # fmt: skip
        bars += [(across[0], y, across[1], y), (x, up[0], x, up[1])]
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(100 * margin, color="black", linewidth=0.8, linestyle=":")
    axes.set(
        xlabel="drop of accuracy, first less last tenth of tasks (points)",
        ylabel="level: accuracy of the last tenth of tasks (%)",
    )
    axes.margins(0.08)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    for words, (color, marker) in LOOKS.items():
        count = sum(one.drop.verdict == words for one in arms)
        axes.plot([], [], marker, color=color, label=f"{words} ({count})")
    axes.plot([], [], ":", color="black", linewidth=0.8, label="margin")
    figure.legend(*axes.get_legend_handles_labels(), loc="lower center", ncols=5, frameon=False,
                  fontsize=8.5)  # fmt: skip
    seeds = how_many({one.drop.n for one in arms})
    write_title(
        figure,
        title,
        f"{seeds}; points: means over seeds; lines: 95 % intervals of the means (Student's t), "
        "which end at 0 and 100 %",
    )
    points = np.array([(100 * o.drop.estimate, 100 * o.level.estimate) for o in arms])
    _place_labels(axes, [one.arm for one in arms], points, np.array(bars))
    return figure


def _interval(of: Estimate, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return the ends of an interval in per cent; it ends where there is no further value."""
    low, high = of.interval_95 or (of.estimate, of.estimate)
    return max(100 * low, bounds[0]), min(100 * high, bounds[1])


def _place_labels(axes: Axes, names: Sequence[str], points: np.ndarray, bars: np.ndarray) -> None:
    """Write names beside points, each where it covers no point and no other name.

    Of such places the nearest is taken; one over an interval or another name's line counts as
    farther away, and so does one whose own line would cross a name or a point. The line leads to
    names that are not next to their point. Crowded points choose first.
    """
    figure = axes.figure
    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    scale = figure.dpi / 72
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # what is written later moves them no more
    transform, back = axes.transData.transform, axes.transData.inverted().transform
    dots, radius, frame = transform(points), 5 * scale, axes.get_window_extent()
    corners = np.stack([transform(bars[:, :2]), transform(bars[:, 2:])])
    soft = np.hstack([corners.min(0), corners.max(0)])
    taken = np.hstack([dots - radius, dots + radius])
    lines = np.empty((0, 4))  # those that lead from names to points
    away = np.array([(np.cos(t), np.sin(t)) for t in np.linspace(0, 2 * np.pi, 32, endpoint=False)])
    # From right beside the point to the far corner of the axes.
    far = np.log(np.hypot(frame.width, frame.height) / radius) / np.log(1.18)
    distances = np.repeat(radius * 1.4 * 1.18 ** np.arange(int(far)), len(away))
    directions = np.tile(away, (int(far), 1))
    near = distances < 2.2 * radius
    along = np.linspace(0, 1, 30)[:, None]
    crowd = np.hypot(*(dots[:, None] - dots[None]).transpose(2, 0, 1)) < 60 * scale
    for place in np.argsort(-crowd.sum(1), kind="stable"):
        dot, name = dots[place], names[place]
        text = figure.text(0, 0, name, fontsize=FONT)
        box = text.get_window_extent(renderer)
        text.remove()
        half = np.array([box.width, box.height]) / 2 + GAP * scale
        # The name's nearest edge, not its center, is at this distance.
        ends = dot + distances[:, None] * directions
        centers = ends + half * np.clip(1.6 * directions, -1, 1)
        boxes = np.hstack([centers - half, centers + half])
        inside = (boxes[:, :2] > frame.min).all(1) & (boxes[:, 2:] < frame.max).all(1)
        free = inside & ~_meet(boxes, taken).any(1) & ~_meet(boxes, lines).any(1)
        if not free.any():
            free = inside & ~_meet(boxes, taken).any(1)
        # Its own point is no obstacle for a line.
        others = np.delete(taken, place, 0)
        cost = distances + 25 * scale * _meet(boxes, soft).sum(1)
        cost += np.where(near, 0, 40 * scale * _crossed(dot, ends, others).sum(1))
        best = int(np.where(free, cost, np.inf).argmin())
        taken = np.vstack([taken, boxes[best]])
        leader = None
        if not near[best]:
            line = np.tile(dot + along * (ends[best] - dot), 2)
            soft, lines = np.vstack([soft, line]), np.vstack([lines, line[5:]])
            leader = {
                "arrowstyle": "-",
                "color": "black",
                "linewidth": 0.4,
                "shrinkA": 0,
                "shrinkB": 3,
            }
        axes.annotate(
            name, tuple(back(dot)), tuple(back(centers[best])), "data", "data", fontsize=FONT,
            ha="center", va="center", arrowprops=leader,
        )  # fmt: skip


def _meet(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which boxes (left, bottom, right, top) overlap which others, ``(boxes, others)``."""
    apart = (boxes[:, None, :2] > others[None, :, 2:]) | (boxes[:, None, 2:] < others[None, :, :2])
    return np.logical_not(apart.any(2))


def _crossed(start: np.ndarray, ends: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return which straight lines from a point cross which boxes, ``(ends, boxes)``."""
    step = ends - start
    step = np.where(np.abs(step) < 1e-9, 1e-9, step)[:, None]
    # The parts of each line at which it is between a box's left and right, bottom and top.
    one, other = (boxes[None, :, :2] - start) / step, (boxes[None, :, 2:] - start) / step
    enters, leaves = np.minimum(one, other).max(2), np.maximum(one, other).min(2)
    result: np.ndarray = (enters <= leaves) & (leaves >= 0) & (enters <= 1)
    return result
