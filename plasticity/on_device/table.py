"""Table of networks on a device: accuracy, and whether its change over tasks stays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plasticity.figures.curves import Rows
from plasticity.statistics.estimates import WithInterval
from plasticity.statistics.tables import markdown_table

NOISES = {
    "depolarizing": "depolarizing",
    "readout_error": "readout error",
    "amplitude_damping": "amplitude damping",
}
"""Columns of noise, and what they are called."""
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


def normal(value: float, error: float) -> WithInterval:
    """Return a number with the interval of a normal distribution, by its standard error."""
    return WithInterval(value, (value - NORMAL * error, value + NORMAL * error))


def plain(of: WithInterval) -> str:
    """Return a number and half of its interval."""
    return f"{of.estimate:.4f} ± {of.half_95:.4f}"


def signed(of: WithInterval) -> str:
    """Return a difference and half of its interval."""
    return f"{of.estimate:+.4f} ± {of.half_95:.4f}"


class OfArm:
    """An arm's rows by condition, and means over its early and late networks.

    Intervals are those of the test samples and of the shots, not of tasks or seeds. Where tasks
    share their images, two networks err on the same ones more often than by chance, which makes the
    error of their mean larger, and that of their difference smaller. So networks are taken to err
    together in a mean, and independently in late - early: both are on the safe side.

    Args:
        rows: Of device.jsonl.

    Conditions that some of the compared networks were not evaluated under are ``left_out``.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows: dict[tuple[Noise, int | None], dict[int, Mapping[str, Any]]] = {}
        for row in rows:
            condition = tuple(row[name] for name in NOISES), row["shots"]
            self.rows.setdefault(condition, {})[row["task"]] = row
        self.tasks = sorted({row["task"] for row in rows})
        self.ends = ends_of(self.tasks)
        self.samples = sorted({row["samples"] for row in rows})
        compared = {*self.tasks} if self.ends is None else {*self.ends.early, *self.ends.late}
        self.left_out = [condition for condition, of in self.rows.items() if not compared <= {*of}]
        for condition in self.left_out:
            del self.rows[condition]

    def accuracy(self, condition: tuple[Noise, int | None], tasks: Sequence[int]) -> WithInterval:
        """Return the mean accuracy over tasks, with the binomial interval."""
        found = [_accuracy(self.rows[condition][task]) for task in tasks]
        error = math.fsum(math.sqrt(variance) for _, variance in found) / len(found)
        return normal(math.fsum(mean for mean, _ in found) / len(found), error)

    def change(self, condition: tuple[Noise, int | None]) -> WithInterval:
        """Return late - early."""
        return self._late_less_early(condition, _accuracy)

    def against_exact(self, condition: tuple[Noise, int | None]) -> WithInterval:
        """Return late - early less its exact value, with the interval of paired samples."""
        if condition == EXACT:
            return normal(0.0, 0.0)
        return self._late_less_early(condition, self._paired)

    def read_share(self, condition: tuple[Noise, int | None]) -> float:
        """Return the part of the shots that is read, a mean over all networks."""
        rows = self.rows[condition].values()
        return math.fsum(row["read_share"] for row in rows) / len(rows)

    def _late_less_early(self, condition: tuple[Noise, int | None], of_row: Any) -> WithInterval:
        assert self.ends is not None
        of_tasks, weights = self.rows[condition], _difference(self.ends)
        found = [(weight, *of_row(of_tasks[task])) for task, weight in weights.items()]
        value = math.fsum(weight * mean for weight, mean, _ in found)
        error = math.sqrt(math.fsum(weight**2 * variance for weight, _, variance in found))
        return normal(value, error)

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


def _difference(ends: Ends) -> dict[int, float]:
    plus = {task: 1 / len(ends.late) for task in ends.late}
    return plus | {task: -1 / len(ends.early) for task in ends.early}


def in_words(tasks: Sequence[int]) -> str:
    """Return tasks as a text names them."""
    return f"task{'s' * (len(tasks) > 1)} {', '.join(map(str, tasks))}"


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
        if count := len(arm.left_out):
            what = f"{count} condition{'s' * (count > 1)}"
            lines += [f"Left out: {what}, not evaluated for all of these networks.", ""]
        lines.append(_table_of(arm))
    lines += [
        "± is half of a 95 % interval, of test samples and shots. It does not tell how tasks or",
        "seeds differ. *Against exact* is late - early less its exact value, on the same samples.",
        "*Read* is the part of the shots that give one of the outcomes that are read.",
    ]
    return "\n".join(lines) + "\n"


def _table_of(arm: OfArm) -> str:
    noises = [name for name in NOISES if any(row[name] for row in _all(arm))]
    titles = [*(NOISES[name] for name in noises), "shots", "read"]
    titles += ["accuracy"] if arm.ends is None else ["early", "late"]
    titles += [] if arm.ends is None else ["late - early", "against exact"]
    lines = []
    for condition in arm.rows:
        levels, shots = dict(zip(NOISES, condition[0], strict=True)), condition[1]
        cells = [f"{levels[name]:g}" for name in noises]
        cells += ["∞" if shots is None else f"{shots:,}", f"{arm.read_share(condition):.4f}"]
        if arm.ends is None:
            cells.append(plain(arm.accuracy(condition, arm.tasks)))
        else:
            cells += [plain(arm.accuracy(condition, tasks)) for tasks in _both(arm.ends)]
            is_exact = condition == EXACT
            cells.append(signed(arm.change(condition)))
            cells.append("" if is_exact else signed(arm.against_exact(condition)))
        lines.append(cells)
    return markdown_table(titles, lines, numbers=True)


def _all(arm: OfArm) -> list[Mapping[str, Any]]:
    return [row for rows in arm.rows.values() for row in rows.values()]


def _both(ends: Ends) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return ends.early, ends.late
