"""Table and figure of networks on a device: accuracy, and whether the change over tasks stays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.parts.curves import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EARLY, LATE, CHANGE = "#0072B2", "#D55E00", "#000000"
NOISES = {"depolarizing": "depolarising", "readout_error": "readout error", "damping": "damping"}
"""Columns of noise, and what they are called."""
ABSCISSAS = {
    "shots": "shots per sample",
    "depolarizing": "depolarising probability per gate",
    "readout_error": "readout error per bit",
    "damping": "damping probability per gate and qubit",
}
Noise = tuple[float, ...]
NONE: Noise = (0.0,) * len(NOISES)
EXACT = (NONE, None)
NORMAL = 1.96
"""Standard errors in half of a 95 % interval."""


@dataclass(frozen=True)
class Ends:
    """The tasks whose means are compared.

    Attributes:
        early: At the beginning.
        late: At the end.
    """

    early: tuple[int, ...]
    late: tuple[int, ...]


def ends_of(tasks: Sequence[int]) -> Ends | None:
    """Return which of the tasks with a network are early and late; None where there is but one.

    Late are those of the second half of all tasks. Early are those of the first tenth, tasks 1 and
    2 at least, without task 0, which is learned by a network that has seen nothing; where that
    leaves none, all that are not late.

    Args:
        tasks: With a network, in order; the last is the last of all.
    """
    count = tasks[-1] + 1
    late = tuple(task for task in tasks if 2 * task >= count)
    others = [task for task in tasks if task not in late]
    early = tuple(task for task in others if 1 <= task <= max(2, count / 10))
    early = early or tuple(others)
    return Ends(early, late) if early and late else None


@dataclass(frozen=True)
class Estimate:
    """A number and half of its 95 % interval."""

    value: float
    half: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.half:.4f}"


def signed(estimate: Estimate) -> str:
    """Return a difference and its interval."""
    return f"{estimate.value:+.4f} ± {estimate.half:.4f}"


class OfArm:
    """An arm's rows by condition, and means over its early and late networks.

    Intervals are those of the test samples and of the shots, not of tasks or seeds. The networks of
    two tasks are taken to err independently: where tasks share their images that is on the safe
    side for late - early.

    Args:
        rows: Of device.jsonl.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows: dict[tuple[Noise, int | None], dict[int, Mapping[str, Any]]] = {}
        for row in rows:
            condition = tuple(row[name] for name in NOISES), row["shots"]
            self.rows.setdefault(condition, {})[row["task"]] = row
        self.tasks = sorted({row["task"] for row in rows})
        self.ends = ends_of(self.tasks)
        self.samples = sorted({row["samples"] for row in rows})

    def accuracy(self, condition: tuple[Noise, int | None], tasks: Sequence[int]) -> Estimate:
        """Return the mean accuracy over tasks, with the binomial interval."""
        return self._sum(condition, _weights(tasks), _accuracy)

    def change(self, condition: tuple[Noise, int | None]) -> Estimate:
        """Return late - early."""
        assert self.ends is not None
        return self._sum(condition, _difference(self.ends), _accuracy)

    def against_exact(self, condition: tuple[Noise, int | None]) -> Estimate:
        """Return late - early less its exact value, with the interval of paired samples."""
        assert self.ends is not None
        if condition == EXACT:
            return Estimate(0.0, 0.0)
        return self._sum(condition, _difference(self.ends), self._paired)

    def read_share(self, condition: tuple[Noise, int | None]) -> float:
        """Return the part of the shots that is read, a mean over all networks."""
        rows = self.rows[condition].values()
        return math.fsum(row["read_share"] for row in rows) / len(rows)

    def _sum(
        self, condition: tuple[Noise, int | None], weights: Mapping[int, float], of_row: Any
    ) -> Estimate:
        of_tasks = self.rows[condition]
        found = [(weight, *of_row(of_tasks[task])) for task, weight in weights.items()]
        value = math.fsum(weight * mean for weight, mean, _ in found)
        error = math.sqrt(math.fsum(weight**2 * variance for weight, _, variance in found))
        return Estimate(value, NORMAL * error)

    def _paired(self, row: Mapping[str, Any]) -> tuple[float, float]:
        """Return the difference from the exact accuracy, and its variance."""
        mean, n = row["accuracy"] - self.rows[EXACT][row["task"]]["accuracy"], row["samples"]
        # One more pair of each kind (Bonett and Price 2012): no change in n is no certainty.
        changed, difference = (n * row["changed"] + 2) / (n + 2), n * mean / (n + 2)
        return mean, (changed - difference**2) / (n + 2)


def _accuracy(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return a row's accuracy and its variance."""
    n = row["samples"]
    p = (n * row["accuracy"] + 2) / (n + 4)  # Agresti and Coull 1998: nor is 0 or 1 of n
    return row["accuracy"], p * (1 - p) / (n + 4)


def _weights(tasks: Sequence[int]) -> dict[int, float]:
    return {task: 1 / len(tasks) for task in tasks}


def _difference(ends: Ends) -> dict[int, float]:
    minus = {task: -weight for task, weight in _weights(ends.early).items()}
    return _weights(ends.late) | minus


def in_words(tasks: Sequence[int]) -> str:
    """Return tasks as a text names them."""
    return f"task{'s' * (len(tasks) > 1)} {', '.join(map(str, tasks))}"


# --- table


def table(arms: Mapping[str, Rows]) -> str:
    """Return a table in Markdown, a line for each arm and condition, and what its numbers are."""
    lines = []
    for label, rows in arms.items():
        arm = OfArm(rows)
        few, many = arm.samples[0], arm.samples[-1]
        samples = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        lines += [f"## {label}", "", f"Test samples of a task: {samples}."]
        if arm.ends is None:
            lines += [f"One network, of {in_words(arm.tasks)}: there is no change over tasks.", ""]
        else:
            early, late = in_words(arm.ends.early), in_words(arm.ends.late)
            lines += [f"Early: mean over the networks of {early}. Late: of {late}.", ""]
        lines += [*_lines(arm), ""]
    lines += [
        "± is half of a 95 % interval, of test samples and shots. It does not tell how tasks or",
        "seeds differ. *Against exact* is late - early less its exact value, on the same samples.",
        "*Read* is the part of the shots that give one of the outcomes that are read.",
    ]
    return "\n".join(lines) + "\n"


def _lines(arm: OfArm) -> list[str]:
    noises = [name for name in NOISES if any(row[name] for row in _all(arm))]
    titles = [*(NOISES[name] for name in noises), "shots", "read"]
    titles += ["accuracy"] if arm.ends is None else ["early", "late"]
    titles += [] if arm.ends is None else ["late - early", "against exact"]
    lines = [titles, ["--:"] * len(titles)]
    for condition in arm.rows:
        levels, shots = dict(zip(NOISES, condition[0], strict=True)), condition[1]
        cells = [f"{levels[name]:g}" for name in noises]
        cells += ["∞" if shots is None else f"{shots:,}", f"{arm.read_share(condition):.4f}"]
        if arm.ends is None:
            cells.append(str(arm.accuracy(condition, arm.tasks)))
        else:
            cells += [str(arm.accuracy(condition, tasks)) for tasks in _both(arm.ends)]
            is_exact = condition == EXACT
            cells.append(signed(arm.change(condition)))
            cells.append("" if is_exact else signed(arm.against_exact(condition)))
        lines.append(cells)
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _all(arm: OfArm) -> list[Mapping[str, Any]]:
    return [row for rows in arm.rows.values() for row in rows.values()]


def _both(ends: Ends) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return ends.early, ends.late


# --- figure


def figure(arms: Mapping[str, Rows], title: str) -> Figure:
    """Draw accuracy, and late - early, against shots and each level of noise; two lines an arm."""
    from matplotlib.figure import Figure

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
    size = 3.3 * len(panels) + 0.4, sum(heights) + 0.5
    drawn = Figure(figsize=size, dpi=150, layout="constrained")
    parts: Any = drawn.subfigures(len(found), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (label, arm), count in zip(parts, found.items(), lines, strict=True):
        few, many = arm.samples[0], arm.samples[-1]
        samples = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        part.suptitle(f"{label}: n = {samples} test samples a task, one seed", fontsize=9)
        grid = part.subplots(count, len(panels), sharex="col", sharey="row", squeeze=False)
        for letter, axes in zip("abcdefgh", grid.flatten(), strict=False):
            axes.set_title(letter, fontsize=9, fontweight="bold", loc="left", pad=3)
        for column, name in enumerate(panels):
            draw_accuracy(grid[0, column], arm, name)
            if arm.ends is not None:
                draw_change(grid[1, column], arm, name)
            grid[-1, column].set_xlabel(ABSCISSAS[name], fontsize=8.5)
        grid[0, 0].set_ylabel("test accuracy", fontsize=8.5)
        if arm.ends is not None:
            grid[1, 0].set_ylabel("accuracy, late $-$ early", fontsize=8.5)
        part.legend(
            handles=legend(arm), loc="outside lower center", ncols=2, frameon=False, fontsize=8
        )
    note = (
        "bars and bands: 95 % intervals of test samples and shots, not of tasks or seeds\n"
        "bars of late $-$ early: of its difference from the exact value, on the same samples"
    )
    drawn.suptitle(f"{title}\n{note}", fontsize=8.5)
    return drawn


def legend(arm: OfArm) -> list[Any]:
    """Return what stands in the legend: which networks a colour is of, which noise a line."""
    from matplotlib.lines import Line2D

    shown = [
        Line2D([], [], color=colour, marker=marker, markersize=4, linewidth=1.3, label=label)
        for label, _, colour, marker in groups_of(arm)
    ]
    shown.append(Line2D([], [], color=CHANGE, linewidth=0.8, linestyle=":", label="exact value"))
    for noise in noises(arm)[1:]:
        said = ", ".join(f"{NOISES[n]} {v:g}" for n, v in zip(NOISES, noise, strict=True) if v)
        look = {"linestyle": "--", "markerfacecolor": "white", "marker": "s", "markersize": 4}
        label = f"dashed, hollow: at {said}"
        shown.append(Line2D([], [], color=CHANGE, linewidth=1.3, label=label, **look))  # type: ignore[arg-type]
    return shown


def groups_of(arm: OfArm) -> list[tuple[str, Sequence[int], str, str]]:
    """Return the tasks whose mean is a curve: what they are called, their colour and marker."""
    if arm.ends is None:
        return [(in_words(arm.tasks), arm.tasks, EARLY, "o")]
    early, late = in_words(arm.ends.early), in_words(arm.ends.late)
    return [
        (f"early ({early})", arm.ends.early, EARLY, "o"),
        (f"late ({late})", arm.ends.late, LATE, "D"),
    ]


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


def draw_accuracy(axes: Axes, arm: OfArm, column: str) -> None:
    """Draw accuracy early and late, and their exact values as lines from side to side."""
    for _, tasks, colour, marker in groups_of(arm):
        exact = arm.accuracy(EXACT, tasks).value
        axes.axhline(exact, color=colour, linewidth=0.8, linestyle=":", zorder=1)
        for noise in noises(arm):
            points = sweep(arm, column, noise)
            values = [arm.accuracy(condition, tasks) for condition in points.values()]
            _line(axes, column, [*points], values, colour, marker, noise)
    _finish(axes, arm, column)


def draw_change(axes: Axes, arm: OfArm, column: str) -> None:
    """Draw late - early, and its exact value with its interval as a band."""
    exact = arm.change(EXACT)
    axes.axhspan(
        exact.value - exact.half, exact.value + exact.half, color="#DDDDDD", linewidth=0, zorder=0
    )
    axes.axhline(exact.value, color=CHANGE, linewidth=0.8, linestyle=":", zorder=1)
    axes.axhline(0, color="#777777", linewidth=0.6, zorder=1)  # neither lost nor gained
    for noise in noises(arm):
        points = sweep(arm, column, noise)
        values = [
            Estimate(arm.change(condition).value, arm.against_exact(condition).half)
            for condition in points.values()
        ]
        _line(axes, column, [*points], values, CHANGE, "s", noise)
    _finish(axes, arm, column)


def _line(
    axes: Axes,
    column: str,
    abscissas: Sequence[float],
    values: Sequence[Estimate],
    colour: str,
    marker: str,
    noise: Noise,
) -> None:
    """Draw a curve: with noise it is dashed and its points are hollow.

    What is 0 or infinite stands apart, beyond a gap in the curve.
    """
    if len(values) < 2:
        return
    where = _places(column, abscissas)
    look: dict[str, Any] = {"color": colour, "linewidth": 1.3, "markersize": 4, "elinewidth": 0.9}
    if noise != NONE:
        look |= {"linestyle": "--", "markerfacecolor": "white"}
        where = [1.2 * place for place in where]  # so that bars do not hide one another
    regular = [k for k, x in enumerate(abscissas) if 0 < x < math.inf]
    apart = [k for k in range(len(abscissas)) if k not in regular]
    for some, more in ((regular, {}), (apart, {"linestyle": "none"})):
        if some:
            axes.errorbar(
                [where[k] for k in some], [values[k].value for k in some],
                yerr=[values[k].half for k in some], marker=marker, **look | more,
            )  # fmt: skip


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
