"""What a study's numbers say: a verdict on each arm, comparisons of pairs, changes of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from plasticity.protocol.arms import FRESH, ArmConfig
from plasticity.protocol.choices import choose
from plasticity.protocol.names import find_experiment
from plasticity.statistics.estimates import Change, Estimate, change, estimate
from plasticity.statistics.summaries import SUMMARIES, tenths
from plasticity.studies.declaration import Declaration
from plasticity.studies.numbers import Numbers
from plasticity.studies.verdicts import (
    NOTHING_TO_LOSE,
    TOO_FEW_FOR_LESS,
    Flatness,
    Verdict,
    decide,
    flat,
)

ORDER = (
    "keeps", "loses less than the margin", NOTHING_TO_LOSE, "undecided", TOO_FEW_FOR_LESS, "loses",
)  # fmt: skip
"""Of verdicts in tables and figures; arms without a word come last."""
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

    def as_drawn(self) -> Finding:
        """Return the same with one of the four words that figures have a color for."""
        return replace(self, drop=replace(self.drop, verdict=self.drop.claim))


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
        differences: Options that both arms have, and in which they differ, with the values of the
            arm and of the reference. What one of them lacks is not among them: that is what the
            pair is about.
    """

    arm: str
    reference: str
    drop: Verdict
    level: Verdict
    differences: Mapping[str, tuple[Any, Any]]


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
    drops = decide(
        {arm: s["drop"] for arm, s in summaries.items()},
        found.study.drop_margin,
        declared={a: found.study.num_declared for a in found.study.arms if not a.startswith(FRESH)},
        levels={arm: s["early"] for arm, s in summaries.items()},
        chance=chance_of(found.study),
    )
    slopes = flat({arm: s["slope"] for arm, s in summaries.items()}, found.study.slope_margin)
    arms = [
        Finding(
            arm, of_seeds, estimate(of_seeds["early"]), estimate(of_seeds["level"]), drops[arm],
            slopes[arm], gap(found, arm, score), growth(found, arm),
            growth(found, arm, in_all=True),
        )
        for arm, of_seeds in summaries.items()
    ]  # fmt: skip
    arms.sort(key=_place)
    return arms, without_verdict


def _place(one: Finding) -> tuple[int, float]:
    word = one.drop.verdict
    return ORDER.index(word) if word in ORDER else len(ORDER), one.drop.estimate


def chance_of(study: Declaration) -> float | None:
    """Return the score of a guess, which the study or else its experiment declares, if it does."""
    if study.chance is not None:
        return study.chance
    experiment = find_experiment(study.experiment)
    return experiment.chance(choose(experiment, study.preset, study.arms, study.settings).config)


def _differences(study: Declaration) -> dict[tuple[str, str], dict[str, tuple[Any, Any]]]:
    """Return in which of the options that both have the arms of each declared pair differ."""
    experiment = find_experiment(study.experiment)
    arms = choose(experiment, study.preset, study.arms, study.settings, study.of_arm).arms
    found = {}
    for pair in study.compared:
        ours, theirs = (_options(arms[name]) for name in pair)
        found[pair] = {
            option: (value, theirs[option])
            for option, value in ours.items()
            if option in theirs and value != theirs[option]
        }
    return found


def _options(arm: ArmConfig) -> dict[str, Any]:
    """Return an arm's options by the names that they have on the command line, without remedies."""
    parts = {"": arm.network, "optimizer.": arm.optimizer, "inputs.": arm.inputs}
    return {"epochs": arm.epochs} | {
        prefix + field.name: getattr(part, field.name)
        for prefix, part in parts.items()
        for field in fields(part)
    }


def comparisons(found: Numbers, arms: list[Finding]) -> list[Comparison]:
    """Return the comparisons that the study declares, over the seeds that both arms have.

    Holm's adjustment is over all of them within a claim. Pairs that share no seed are left out, and
    count as declared.
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
    declared = {f"{a} against {r}": found.study.num_declared for a, r in found.study.compared}
    of_drops = decide(drops, found.study.drop_margin, declared)
    of_levels = decide(levels, found.study.drop_margin, declared)
    others = _differences(found.study)
    return [
        Comparison(*pair, of_drops[name], of_levels[name], others[pair])
        for name, pair in pairs.items()
    ]


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
