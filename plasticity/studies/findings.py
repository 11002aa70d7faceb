"""What a study's numbers say: a verdict on each arm, comparisons of pairs, changes of metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from plasticity.protocol.arms import ArmConfig
from plasticity.results.names import FRESH
from plasticity.statistics.estimates import Change, Estimate, change, estimate
from plasticity.statistics.summaries import SUMMARIES, last_tasks, tenths
from plasticity.studies.declaration import Declaration, at_partners_rates
from plasticity.studies.numbers import Numbers, chance_of
from plasticity.studies.rules import FEWEST_EARLY, GROWN, alpha_of
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

Headline = Literal["deficit", "drop"]


@dataclass(frozen=True)
class Finding:
    """What is said of an arm, over its complete seeds.

    Attributes:
        arm: Its name.
        of_seeds: By name (``early``, ``late``, ``drop``, ``slope``, ``level``; ``deficit`` where it
            is recorded), ``(seeds,)``.
        early: Mean score of the first tenth.
        level: Mean score of the last tenth.
        drop: Their difference, and the verdict on it.
        slope: Change of the score in 100 tasks.
        gap: How much better a new network learns the same tasks; None where it is not recorded.
        growth: Logarithm of the parameters' norm, last over first tenth of the tasks; None where it
            is not recorded.
        growth_in_all: The same, last tenth over first task.
        deficit: How much better an untrained network learns the last tasks, and the verdict on it;
            None where it is not recorded.
        headline: Which of both a report's verdict is: ``deficit`` if all arms of the study have it.
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
    deficit: Verdict | None = None
    headline: Headline = "drop"

    @property
    def loss(self) -> Verdict:
        """Return the verdict that the report has for the arm."""
        return self.deficit if self.headline == "deficit" and self.deficit else self.drop

    @property
    def parameters(self) -> str:
        """Return ``grow``, ``held`` or ``unclear``, by the 95 % interval of their growth."""
        if self.growth is None or self.growth.interval_95 is None:
            return "unclear"
        low, high = np.exp(self.growth.interval_95)
        return "grow" if low > GROWN else "held" if high <= GROWN else "unclear"


@dataclass(frozen=True)
class Comparison:
    """Two arms, seed by seed; if they are a causal pair, at the learning rate of either.

    Attributes:
        arm: The one.
        reference: The other.
        drop: Of the arm less that of the reference; ``keeps``: it loses no more than the margin
            more. Of a causal pair at the arm's rate, with the words and p values of the weaker
            claim.
        level: Of the reference less that of the arm; ``keeps``: the arm is not inferior by the
            margin. Likewise.
        differences: Options that both arms have, and in which they differ, with the values of the
            arm and of the reference. What one of them lacks is not among them: that is what the
            pair is about.
        deficit: As ``drop``; None where it is not recorded.
        headline: Which of both the report shows.
        drop_there: As ``drop``, at the rate of the reference; None if that is no other.
        level_there: Likewise.
        deficit_there: Likewise.
    """

    arm: str
    reference: str
    drop: Verdict
    level: Verdict
    differences: Mapping[str, tuple[Any, Any]]
    deficit: Verdict | None = None
    headline: Headline = "drop"
    drop_there: Estimate | None = None
    level_there: Estimate | None = None
    deficit_there: Estimate | None = None

    @property
    def loss(self) -> Verdict:
        """Return the difference of losses that the report has for the pair."""
        return self.deficit if self.headline == "deficit" and self.deficit else self.drop

    @property
    def loss_there(self) -> Estimate | None:
        """Return the same at the rate of the reference."""
        return self.deficit_there if self.loss is self.deficit else self.drop_there


def findings_of(found: Numbers, score: str) -> tuple[list[Finding], dict[str, str]]:
    """Return what is said of each arm, by verdict and then by loss, and why nothing is of others.

    Args:
        found: The study's numbers. Seeds that are not complete do not count.
        score: The column that verdicts are about.
    """
    study = found.study
    summaries: dict[str, dict[str, np.ndarray]] = {}
    without_verdict: dict[str, str] = {}
    for arm in study.arms:
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
                continue
            if (deficit := deficits(found, arm, score)) is not None:
                summaries[arm]["deficit"] = deficit
    declared = {arm: study.declared_of(arm) for arm in study.arms if not arm.startswith(FRESH)}
    levels = {arm: of["early"] for arm, of in summaries.items()}
    alpha, chance = alpha_of(study.looks), chance_of(study)
    verdicts = {
        loss: decide(
            {arm: of[loss] for arm, of in summaries.items() if loss in of}, study.drop_margin,
            declared, levels, chance, alpha=alpha,
        )
        for loss in ("drop", "deficit")
    }  # fmt: skip
    drops = {arm: _long_enough(one, found.tasks) for arm, one in verdicts["drop"].items()}
    slopes = flat(
        {arm: of["slope"] for arm, of in summaries.items()}, study.slope_margin, declared,
        alpha=alpha,
    )  # fmt: skip
    all_have_it = bool(summaries) and len(verdicts["deficit"]) == len(summaries)
    arms = [
        Finding(
            arm, of_seeds, estimate(of_seeds["early"]), estimate(of_seeds["level"]), drops[arm],
            slopes[arm], gap(found, arm, score), growth(found, arm),
            growth(found, arm, in_all=True), verdicts["deficit"].get(arm),
            "deficit" if all_have_it else "drop",
        )
        for arm, of_seeds in summaries.items()
    ]  # fmt: skip
    arms.sort(key=_place)
    return arms, without_verdict


def _place(one: Finding) -> tuple[int, float]:
    word = one.loss.verdict
    return ORDER.index(word) if word in ORDER else len(ORDER), one.loss.estimate


def _long_enough(drop: Verdict, tasks: int) -> Verdict:
    """Return a verdict on a drop without a word if its early tasks are too few for one."""
    if (early := tasks // 10 - 1) >= FEWEST_EARLY:
        return drop
    return dataclasses.replace(
        drop, verdict=f"too short ({early} early tasks, at least {FEWEST_EARLY})",
        p_loses_adjusted=None, p_keeps_adjusted=None,
    )  # fmt: skip


def deficits(found: Numbers, arm: str, score: str) -> np.ndarray | None:
    """Return each complete seed's mean deficit of the last tasks; None where one is not recorded.

    A seed that has diverged is at chance, and beside it stands what untrained networks learn of
    these tasks with the other seeds.
    """
    values, scores = found.of(arm, "deficit"), found.of(arm, score)
    if values is None or scores is None:
        return None
    last = last_tasks(found.tasks)
    values, scores = (of[:, -last:].astype(np.float64) for of in (values, scores))
    if (flags := found.diverged.get(arm)) is not None:
        failed = flags[found.complete[arm]]
        if not failed.all():
            values[failed] = (values + scores)[~failed].mean(0) - scores[failed]
    return values.mean(1) if np.isfinite(values).all() else None


def _differences(study: Declaration) -> dict[tuple[str, str], dict[str, tuple[Any, Any]]]:
    """Return in which of the options that both have the arms of each declared pair differ."""
    arms = study.choice().arms
    found = {}
    for pair in study.compared:
        arm, reference, *_ = _conditions(study, pair)[0]
        ours, theirs = _options(arms[arm]), _options(arms[reference])
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


def _conditions(study: Declaration, pair: tuple[str, str]) -> list[tuple[str, str]]:
    """Return which arms a pair compares: of a causal one at either's rate, if they differ."""
    arm, reference = pair
    there = at_partners_rates(pair)
    if pair not in study.causal or there[0] not in study.arms:
        return [pair]
    return [(arm, there[1]), (there[0], reference)]


def comparisons(found: Numbers, arms: list[Finding]) -> list[Comparison]:
    """Return the comparisons that the study declares, over the seeds that both arms have.

    Holm's adjustment is over all of them within a claim. Pairs that share no seed are left out, and
    count as declared. The claim on a causal pair is the weaker one of those at either rate.
    """
    study = found.study
    of_arms = {one.arm: one.of_seeds for one in arms}
    # By what is compared, at the arm's rate and at that of the reference: by pair, of the seeds.
    names_of_losses = ("drop", "level", "deficit")
    here: dict[str, dict[str, np.ndarray]] = {name: {} for name in names_of_losses}
    there: dict[str, dict[str, np.ndarray]] = {name: {} for name in names_of_losses}
    pairs: dict[str, tuple[str, str]] = {}
    for pair in study.compared:
        conditions = _conditions(study, pair)
        names = [name for condition in conditions for name in condition]
        if any(name not in of_arms for name in names):
            continue
        both = np.all([found.complete[name] for name in names], 0)
        if not both.any():
            continue
        label = " against ".join(pair)
        pairs[label] = pair
        has_deficit = all("deficit" in of_arms[name] for name in names)
        for at, condition in zip((here, there), conditions, strict=False):
            ours, theirs = (
                {loss: of[both[found.complete[one]]] for loss, of in of_arms[one].items()}
                for one in condition
            )
            at["drop"][label] = ours["drop"] - theirs["drop"]
            at["level"][label] = theirs["level"] - ours["level"]
            if has_deficit:
                at["deficit"][label] = ours["deficit"] - theirs["deficit"]
    declared = {" against ".join(pair): study.declared_of(*pair) for pair in study.compared}
    verdicts = {
        name: decide(of, study.drop_margin, declared, alpha=alpha_of(study.looks), also=there[name])
        for name, of in here.items()
    }
    drops = {label: _long_enough(of, found.tasks) for label, of in verdicts["drop"].items()}
    there_too = {name: {k: estimate(of) for k, of in there[name].items()} for name in there}
    others = _differences(study)
    headline = arms[0].headline if arms else "drop"
    return [
        Comparison(
            *pair, drops[label], verdicts["level"][label], others[pair],
            verdicts["deficit"].get(label), headline,
            *(there_too[name].get(label) for name in names_of_losses),
        )
        for label, pair in pairs.items()
    ]  # fmt: skip


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
