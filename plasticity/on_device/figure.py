"""Figure of networks on a device: accuracy against shots and noise, and its change over tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plasticity.figures.curves import Rows
from plasticity.figures.titles import lines_of
from plasticity.on_device.table import EXACT, NOISES, NONE, Noise, OfArm, in_words
from plasticity.statistics.estimates import WithInterval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANGE = "#000000"
ABSCISSAS = {
    "shots": "shots per sample",
    "depolarizing": "depolarizing probability per gate",
    "readout_error": "readout error per bit",
    "amplitude_damping": "amplitude damping per gate and qubit",
}


NARROWEST = 6.6
"""Inches: what the title and the legend need, however few panels there are."""
ACCURACIES, DIFFERENCES = (0.0, 1.0), (-1.0, 1.0)
"""Beyond these there is nothing, so intervals end there."""


def figure(arms: Mapping[str, Rows], title: str, looks: Sequence[int] = ()) -> Figure:
    """Draw accuracy, and late - early, against shots and each level of noise; two lines an arm.

    Args:
        arms: The rows of each arm's device.jsonl, by its label.
        title: Above all.
        looks: The number of each arm's color, as in the figure of its run; left out: counted.
    """
    from matplotlib.figure import Figure

    from plasticity.figures.style import style

    found = {label: OfArm(rows) for label, rows in arms.items()}
    panels = [
        column
        for column in ABSCISSAS
        if any(
            len(sweep(arm, column, noise)) > 1 for arm in found.values() for noise in noises(arm)
        )
    ]
    lines = [1 if arm.ends is None else 2 for arm in found.values()]
    heights = [2.5 * count + 0.75 for count in lines]
    size = max(NARROWEST, 3.3 * len(panels) + 0.4), sum(heights) + 0.8
    drawn = Figure(figsize=size, dpi=150, layout="constrained")
    parts: Any = drawn.subfigures(len(found), 1, height_ratios=heights, squeeze=False)[:, 0]
    numbers = [*looks] or [*range(len(found))]
    for part, (label, arm), count, look in zip(parts, found.items(), lines, numbers, strict=True):
        color = style(look)["color"]
        few, many = arm.samples[0], arm.samples[-1]
        samples = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        part.suptitle(f"{label}: n = {samples} test samples a task, one seed", fontsize=9)
        grid = part.subplots(count, len(panels), sharex="col", sharey="row", squeeze=False)
        for letter, axes in zip("abcdefgh", grid.flatten(), strict=False):
            axes.set_title(letter, fontsize=9, fontweight="bold", loc="left", pad=3)
        for column, name in enumerate(panels):
            draw_accuracy(grid[0, column], arm, name, color)
            if arm.ends is not None:
                draw_change(grid[1, column], arm, name)
            grid[-1, column].set_xlabel(ABSCISSAS[name], fontsize=8.5)
        grid[0, 0].set_ylabel("test accuracy", fontsize=8.5)
        if arm.ends is not None:
            grid[1, 0].set_ylabel("accuracy, late $-$ early", fontsize=8.5)
        part.legend(
            handles=legend(arm, color),
            loc="outside lower center",
            ncols=2,
            frameon=False,
            fontsize=8,
        )
    note = (
        "bars and bands: 95 % intervals of test samples and shots, not of tasks or seeds; they end "
        "at 0 and 1\n"
        "bars of late $-$ early: of its difference from the exact value, on the same samples"
    )
    drawn.suptitle(lines_of(f"{title}\n{note}", size[0], 8.5), fontsize=8.5)
    return drawn


def legend(arm: OfArm, of_arm: str) -> list[Any]:
    """Return what stands in the legend: which networks a color is of, which noise a line."""
    from matplotlib.lines import Line2D

    shown = [
        Line2D([], [], color=color, marker=marker, markersize=4, linewidth=1.3, label=label)
        for label, _, color, marker in groups_of(arm, of_arm)
    ]
    shown.append(Line2D([], [], color=CHANGE, linewidth=0.8, linestyle=":", label="exact value"))
    for noise in noises(arm)[1:]:
        said = ", ".join(f"{NOISES[n]} {v:g}" for n, v in zip(NOISES, noise, strict=True) if v)
        look = {"linestyle": "--", "markerfacecolor": "white", "marker": "s", "markersize": 4}
        label = f"dashed, hollow: at {said}"
        shown.append(Line2D([], [], color=CHANGE, linewidth=1.3, label=label, **look))  # type: ignore[arg-type]
    return shown


def groups_of(arm: OfArm, color: str) -> list[tuple[str, Sequence[int], str, str]]:
    """Return the tasks whose mean is a curve: what they are called, their color and marker.

    Late networks have the arm's color, early ones a lighter one.
    """
    if arm.ends is None:
        return [(in_words(arm.tasks), arm.tasks, color, "o")]
    early, late = in_words(arm.ends.early), in_words(arm.ends.late)
    return [
        (f"early ({early})", arm.ends.early, lighter(color), "o"),
        (f"late ({late})", arm.ends.late, color, "D"),
    ]


def lighter(color: str) -> str:
    """Return a color half as far from white."""
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = ((1 + part) / 2 for part in to_rgb(color))
    return str(to_hex((red, green, blue)))


def noises(arm: OfArm) -> list[Noise]:
    """Return the levels at which shots were counted, none first."""
    return [*dict.fromkeys([NONE, *(noise for noise, shots in arm.rows if shots is not None)])]


def sweep(arm: OfArm, column: str, noise: Noise = NONE) -> dict[float, tuple[Noise, int | None]]:
    """Return the conditions of a panel by their abscissas; infinitely many shots are the last."""
    if column == "shots":
        found = [condition for condition in arm.rows if condition[0] == noise]
        return {
            math.inf if shots is None else shots: (of, shots)
            for of, shots in sorted(found, key=lambda condition: condition[1] or math.inf)
        }
    if noise != NONE:
        return {}
    place = [*NOISES].index(column)
    others = [k for k in range(len(NOISES)) if k != place]
    conditions = [(of, s) for of, s in arm.rows if s is None and not any(of[k] for k in others)]
    return {of[place]: (of, s) for of, s in sorted(conditions, key=lambda c: c[0][place])}


def draw_accuracy(axes: Axes, arm: OfArm, column: str, of_arm: str) -> None:
    """Draw accuracy early and late, and their exact values as lines from side to side."""
    for _, tasks, color, marker in groups_of(arm, of_arm):
        exact = arm.accuracy(EXACT, tasks).estimate
        axes.axhline(exact, color=color, linewidth=0.8, linestyle=":", zorder=1)
        for noise in noises(arm):
            points = sweep(arm, column, noise)
            values = [arm.accuracy(condition, tasks) for condition in points.values()]
            _line(axes, column, [*points], values, color, marker, noise, ACCURACIES)
    _finish(axes, arm, column)


def draw_change(axes: Axes, arm: OfArm, column: str) -> None:
    """Draw late - early, and its exact value with its interval as a band."""
    exact = arm.change(EXACT)
    low, high = DIFFERENCES
    axes.axhspan(
        max(low, exact.estimate - exact.half_95), min(high, exact.estimate + exact.half_95),
        color="#DDDDDD", linewidth=0, zorder=0,
    )  # fmt: skip
    axes.axhline(exact.estimate, color=CHANGE, linewidth=0.8, linestyle=":", zorder=1)
    axes.axhline(0, color="#777777", linewidth=0.6, zorder=1)  # neither lost nor gained
    for noise in noises(arm):
        points = sweep(arm, column, noise)
        values = []
        for condition in points.values():
            value, half = arm.change(condition).estimate, arm.against_exact(condition).half_95
            values.append(WithInterval(value, (value - half, value + half)))
        _line(axes, column, [*points], values, CHANGE, "s", noise, DIFFERENCES)
    _finish(axes, arm, column)


def _line(
    axes: Axes,
    column: str,
    abscissas: Sequence[float],
    values: Sequence[WithInterval],
    color: str,
    marker: str,
    noise: Noise,
    bounds: tuple[float, float],
) -> None:
    """Draw a curve: with noise it is dashed and its points are hollow. Intervals end at the bounds.

    What is 0 or infinite stands apart, beyond a gap in the curve.
    """
    if len(values) < 2:
        return
    where = _places(column, abscissas)
    look: dict[str, Any] = {"color": color, "linewidth": 1.3, "markersize": 4, "elinewidth": 0.9}
    if noise != NONE:
        look |= {"linestyle": "--", "markerfacecolor": "white"}
        where = [1.2 * place for place in where]  # so that bars do not hide one another
    regular = [k for k, x in enumerate(abscissas) if 0 < x < math.inf]
    apart = [k for k in range(len(abscissas)) if k not in regular]
    for some, more in ((regular, {}), (apart, {"linestyle": "none"})):
        if some:
            axes.errorbar(
                [where[k] for k in some], [values[k].estimate for k in some],
                yerr=[*zip(*(_halves(values[k], bounds) for k in some), strict=True)],
                marker=marker, **look | more,
            )  # fmt: skip


def _halves(of: WithInterval, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return how far an interval reaches below and above its estimate, within the bounds."""
    low, high = max(bounds[0], of.estimate - of.half_95), min(bounds[1], of.estimate + of.half_95)
    return of.estimate - low, high - of.estimate


def _places(column: str, abscissas: Sequence[float]) -> list[float]:
    """Return where abscissas stand on a logarithmic axis: 0 and infinity beside the others."""
    finite = [x for x in abscissas if 0 < x < math.inf] or [1.0]
    beyond = {0.0: min(finite) / 6, math.inf: max(finite) * 10}
    return [beyond.get(x, x) for x in abscissas]


def _finish(axes: Axes, arm: OfArm, column: str) -> None:
    """Give a panel its scale, its ticks, and a mark where its axis is broken."""
    from matplotlib.ticker import NullLocator

    abscissas = sorted({x for noise in noises(arm) for x in sweep(arm, column, noise)})
    places = _places(column, abscissas)
    axes.set_xscale("log")
    labels = [_tick(x) for x in abscissas]
    finite = [x for x in abscissas if 0 < x < math.inf]
    shown = [k for k, x in enumerate(abscissas) if x not in finite or _is_power(x)]
    if len(shown) < 3:
        shown = [*range(len(abscissas))]
    axes.set_xticks([places[k] for k in shown], [labels[k] for k in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(places[0] / 1.7, places[-1] * 1.7)
    ends = [(places[0], places[1])] if abscissas[0] == 0 else []
    ends += [(places[-2], places[-1])] if abscissas[-1] == math.inf else []
    for low, high in ends:
        axes.text(
            math.sqrt(low * high), 0, "//", transform=axes.get_xaxis_transform(), ha="center",
            va="center", fontsize=8, clip_on=False,
        )  # fmt: skip
    axes.tick_params(labelsize=7.5)
    axes.margins(y=0.08)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _is_power(x: float) -> bool:
    return math.isclose(math.log10(x), round(math.log10(x)), abs_tol=1e-9)


def _tick(x: float) -> str:
    if x in (0, math.inf):
        return "0" if x == 0 else r"$\infty$"
    if _is_power(x):
        return f"$10^{{{round(math.log10(x))}}}$"
    return f"{x:g}"
