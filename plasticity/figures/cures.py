"""The figure of diagnoses: what aged networks learn after each intervention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plasticity.figures.style import COLORS
from plasticity.figures.titles import lines_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = {
    "reference": ("#000000", "|"),
    "cures": (COLORS[2], "o"),
    "helps": (COLORS[5], "^"),
    "harms": (COLORS[0], "v"),
    "no effect": ("#666666", "s"),
    "undecided": ("#666666", "D"),
    "does not apply": ("#999999", "x"),
    "one seed": (COLORS[1], "o"),
    "control": (COLORS[3], "P"),
}
"""Color and marker of a verdict."""
OTHER = ("#999999", "d")
"""Of all other words: there is no gap, or none is shown."""
ACROSS = 3
WIDTH, LINE = 4.6, 0.24
"""Of a panel and of an intervention in it, inches."""


@dataclass(frozen=True)
class Point:
    """An intervention.

    Attributes:
        name: In words.
        mean: Accuracy in points.
        interval: Of the mean; None of one seed.
        word: The verdict, or ``reference``.
    """

    name: str
    mean: float
    interval: tuple[float, float] | None
    word: str


@dataclass(frozen=True)
class Case:
    """What was done to one arm at one age; a panel.

    Attributes:
        title: Above it.
        points: In order, from the top.
    """

    title: str
    points: Sequence[Point]


def cures_figure(cases: Sequence[Case], title: str, abscissa: str) -> Figure:
    """Draw a panel a case: a line an intervention, the references as vertical lines.

    Args:
        cases: What is drawn.
        title: Above all.
        abscissa: What is on the horizontal axis.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    across = min(ACROSS, len(cases))
    down = -(-len(cases) // across)
    tall = max(len(case.points) for case in cases)
    height, top, bottom = LINE * tall + 0.5, 0.65, 1.05
    size = (WIDTH * across, down * (height + 0.35) + top + bottom)
    figure = Figure(size, dpi=150)
    figure.suptitle(lines_of(title, size[0], 11), fontsize=11, y=1 - 0.12 / size[1])
    grid = figure.add_gridspec(
        down, across, left=1.25 / size[0], right=1 - 0.15 / size[0], wspace=1.45 / (WIDTH - 1.4),
        top=1 - top / size[1], bottom=bottom / size[1], hspace=0.75 / height,
    )  # fmt: skip
    for place, case in enumerate(cases):
        axes = figure.add_subplot(grid[divmod(place, across)])
        _draw(axes, case)
        if place >= len(cases) - across:
            axes.set_xlabel(abscissa, fontsize=8)
    words = dict.fromkeys(p.word for case in cases for p in case.points if p.word != "reference")
    handles = []
    for word in words:
        color, marker = LOOKS.get(word.partition(",")[0], OTHER)
        inside = "white" if "fragile" in word else color
        handles.append(
            Line2D([], [], color=color, marker=marker, mfc=inside, linestyle="", label=word)
        )
    handles += [
        Line2D([], [], color="#000000", linestyle=":", label="aged, as it is"),
        Line2D([], [], color="#000000", linestyle="--", label="untrained"),
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=min(len(handles), 3 * across), fontsize=8,
        frameon=False, handletextpad=0.4, columnspacing=1.2,
    )  # fmt: skip
    return figure


def _draw(axes: Axes, case: Case) -> None:
    axes.set_title(case.title, fontsize=9)
    names = [point.name for point in case.points]
    for line, point in enumerate(case.points):
        color, marker = LOOKS.get(point.word.partition(",")[0], OTHER)
        if point.name in ("none", "untrained"):
            axes.axvline(point.mean, color="#000000", linewidth=0.9, alpha=0.6,
                         linestyle=":" if point.name == "none" else "--", zorder=0)  # fmt: skip
        if point.interval:
            axes.plot(point.interval, [line, line], color=color, linewidth=1.6)
        inside = "white" if "fragile" in point.word else color
        axes.plot(
            point.mean, line, marker=marker, color=color, mfc=inside, markersize=5.5, linestyle=""
        )
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
