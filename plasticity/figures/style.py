"""Pictures: functions of numbers and an Axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from plasticity.statistics.curves import running_means

COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette: told apart by all common kinds of color vision."""

LINES = (
    "-",
    "--",
    ":",
    "-.",
    (0, (6, 1)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (1, 3)),
    (0, (8, 2, 1, 2)),
    (0, (4, 4)),
)


def style(number: int) -> dict[str, Any]:
    """Return color and line of the curve of a number: 54 that differ, those of one line first.

    Each line begins with another color, so that arms with one color are farther apart.
    """
    row = number // len(COLORS) % len(LINES)
    return {"color": COLORS[(number + row % 4) % len(COLORS)], "line": LINES[row]}


def plot_curve(
    axes: Axes,
    tasks: np.ndarray,
    values: np.ndarray,
    *,
    label: str,
    color: str,
    window: int,
    line: Any = "-",
    points: bool = True,
    width: float = 1.8,
) -> None:
    """Draw a curve over tasks: raw points, and a line through their running mean.

    Args:
        axes: Where to draw.
        tasks: ``(tasks,)`` indices.
        values: ``(tasks,)``.
        label: In the legend.
        color: Of points and line.
        window: Tasks of the running mean.
        line: Matplotlib's line style.
        points: Whether to draw the raw points.
        width: Of the line, in points.
    """
    if points:
        axes.plot(
            tasks, values, ".", color=color, markersize=4, alpha=0.45, markeredgewidth=0,
            rasterized=True,
        )  # fmt: skip
    smooth = running_means(values, window)
    axes.plot(tasks, smooth, color=color, linewidth=width, linestyle=line, label=label)
