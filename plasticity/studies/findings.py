"""What a study's numbers say: a verdict on each arm, comparisons of pairs, changes of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from plasticity.results.names import FRESH
from plasticity.statistics.estimates import Change, Estimate, change, estimate
from plasticity.statistics.summaries import SUMMARIES, tenths
from plasticity.studies.numbers import Numbers
from plasticity.studies.verdicts import Flatness, Verdict, decide, flat

ORDER = ("keeps", "loses less than the margin", "undecided", "loses")
"""Of verdicts in tables and figures."""
NORMS = ("weight_norm", "circuit_angle_norm")
"""Columns that tell how large the parameters are; the first that an arm has is taken."""
GROWN = 1.1
"""Parameters grow if their norm becomes more than so many times as large."""


@dataclass(frozen=True)
class Finding:
    """What is said of an arm, over its complete seeds.

    Attributes:
        arm: Its name.
        of_seeds: By name (``early``, ``late``, ``drop``, ``slope``, ``level``), ``(seeds,)``.
        early: Mean score of the first tenth.
        level: Mean score of the last tenth.
        drop: Their difference, and the verdict on it.
        slope: Change of the score in 100 tasks.
        gap: How much better a new network learns the same tasks; None where it is not recorded.
        growth: Logarithm of the parameters' norm, last over first tenth of the tasks; None where it
            is not recorded.
        growth_in_all: The same, last tenth over first task.
    """

    arm: str
    of_seeds: Mapping[str, np.ndarray]
    early: Estimate
    level: Estimate
    drop: Verdict
    slope: Flatness
    gap: Estimate | None
    growth: Estimate | None
    growth_in_all: Estimate | None

    @property
    def parameters(self) -> str:
        """Return ``grow``, ``held`` or ``unclear``, by the 95 % interval of their growth."""
        if self.growth is None or self.growth.interval_95 is None:
            return "unclear"
        low, high = np.exp(self.growth.interval_95)
        return "grow" if low > GROWN else "held" if high <= GROWN else "unclear"


@dataclass(frozen=True)
class Comparison:
    """Two arms, seed by seed.

    Attributes:
        arm: The one.
        reference: The other.
        drop: Of the arm less that of the reference; ``keeps``: it loses no more than the margin
            more.
        level: Of the reference less that of the arm; ``keeps``: the arm is not inferior by the
            margin.
    """

    arm: str
    reference: str
    drop: Verdict
    level: Verdict


def findings_of(found: Numbers, score: str) -> tuple[list[Finding], dict[str, str]]:
    """Return what is said of each arm, by verdict and then by drop, and why nothing is of others.

    Args:
        found: The study's numbers. Seeds that are not complete do not count.
        score: The column that verdicts are about.
    """
    summaries: dict[str, dict[str, np.ndarray]] = {}
    without_verdict: dict[str, str] = {}
    for arm in found.study.arms:
        values = found.of(arm, score)
        if arm.startswith(FRESH):
            without_verdict[arm] = (
                "a new network at each of few tasks: what the gap is measured against"
            )
        elif values is None:
            without_verdict[arm] = "no seed is complete"
        else:
            try:
                summaries[arm] = {name: of(values) for name, of in SUMMARIES.items()}
            except ValueError as error:
                without_verdict[arm] = str(error)
    drops = decide({arm: s["drop"] for arm, s in summaries.items()}, found.study.drop_margin)
    slopes = flat({arm: s["slope"] for arm, s in summaries.items()}, found.study.slope_margin)
    arms = [
        Finding(
            arm, of_seeds, estimate(of_seeds["early"]), estimate(of_seeds["level"]), drops[arm],
            slopes[arm], gap(found, arm, score), growth(found, arm),
            growth(found, arm, in_all=True),
        )
        for arm, of_seeds in summaries.items()
    ]  # fmt: skip
    arms.sort(key=lambda one: (ORDER.index(one.drop.verdict), one.drop.estimate))
    return arms, without_verdict


def comparisons(found: Numbers, arms: list[Finding]) -> list[Comparison]:
    """Return the comparisons that the study declares, over the seeds that both arms have.

    Holm's adjustment is over all of them within a claim. Pairs that share no seed are left out.
    """
    of_arms = {one.arm: one.of_seeds for one in arms}
    pairs: dict[str, tuple[str, str]] = {}
    drops, levels = {}, {}
    for arm, reference in found.study.compared:
        if arm not in of_arms or reference not in of_arms:
            continue
        both = found.complete[arm] & found.complete[reference]
        ours, theirs = (
            {name: of[both[found.complete[one]]] for name, of in of_arms[one].items()}
            for one in (arm, reference)
        )
        if both.any():
            name = f"{arm} against {reference}"
            pairs[name] = arm, reference
            drops[name] = ours["drop"] - theirs["drop"]
            levels[name] = theirs["level"] - ours["level"]
    of_drops = decide(drops, found.study.drop_margin)
    of_levels = decide(levels, found.study.drop_margin)
    return [Comparison(*pairs[name], of_drops[name], of_levels[name]) for name in pairs]


def gap(found: Numbers, arm: str, score: str) -> Estimate | None:
    """Return how much better new networks learn the tasks after the first tenth; None if unknown.

    It is the mean over these tasks of fresh - aged: the column ``fresh_gap``, or else the scores of
    the arm ``fresh:ARM`` less those of the arm, on the tasks and seeds that both have.
    """
    gaps = found.of(arm, "fresh_gap")
    fresh = FRESH + arm
    if gaps is None and fresh in found.columns:
        both = found.complete[arm] & found.complete[fresh]
        theirs, ours = (found.columns[name].get(score) for name in (fresh, arm))
        if both.any() and theirs is not None and ours is not None:
            gaps = theirs[both] - ours[both]
    if gaps is None:
        return None
    late = gaps[:, gaps.shape[1] // 10 :].astype(np.float64)
    means = [row[np.isfinite(row)].mean() for row in late if np.isfinite(row).any()]
    return estimate(means) if means else None


def growth(found: Numbers, arm: str, *, in_all: bool = False) -> Estimate | None:
    """Return the logarithm of the norm of an arm's parameters, last over first tenth of tasks.

    Args:
        found: The study's numbers.
        arm: Its name.
        in_all: Compare with the first task, and not with the first tenth: parameters may have
            stopped to grow before the first tenth is over.
    """
    for column in NORMS:
        values = found.of(arm, column)
        if values is None:
            continue
        first, last = tenths(values)
        if in_all:
            first = np.array([row[np.isfinite(row)][0] for row in values if np.isfinite(row).any()])
        if len(first) and (first > 0).all() and (last > 0).all():
            return estimate(np.log(last / first))
    return None


def changes(found: Numbers, arms: Sequence[str], column: str) -> dict[str, Change]:
    """Return how a column changed in each arm that has it."""
    of_arms = {arm: found.of(arm, column) for arm in arms}
    return {arm: change(values) for arm, values in of_arms.items() if values is not None}
