"""From one number per seed to a verdict: what is lost, what is kept, and what is not known.

>>> drops = {"mlp": [0.061, 0.055, 0.067, 0.058], "qnn": [0.002, -0.001, 0.001, 0.0]}
>>> {arm: found.verdict for arm, found in decide(drops, margin=0.01, min_seeds=4).items()}
{'mlp': 'loses', 'qnn': 'keeps'}

All values have the unit in which they are given: of accuracies between 0 and 1, a margin of 0.01 is
one point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # which imports its parts when they are first used: scipy.stats takes half a second
from numpy.typing import ArrayLike

from plasticity.statistics.estimates import Estimate, _estimate
from plasticity.statistics.inference import (
    Array,
    holm,
    one_per_seed,
    p_above,
    p_below,
    t_interval,
    tost,
)
from plasticity.studies.rules import ALPHA, COLLAPSE, FLOOR, MIN_SEEDS

Claim = Literal["keeps", "loses", "loses less than the margin", "undecided"]

NOTHING_TO_LOSE = "nothing to lose"
TOO_FEW_FOR_LESS = "loses, less than the margin (too few seeds)"

ROUNDING = 1e-9
"""Differences of accuracies are rounded: so many margins less are as many."""


@dataclass(frozen=True)
class Verdict(Estimate):
    """Whether something is lost, and whether less than a margin.

    ``p_loses`` is against "the mean is at most 0", ``p_keeps`` against "the mean is at least the
    margin". Both are None for a single seed.

    Attributes:
        verdict: ``loses`` if the loss is above 0, ``keeps`` if it is below the margin, ``loses less
            than the margin`` if both (``loses, less than the margin (too few seeds)`` with fewer
            than ten), ``undecided`` if neither is shown; ``nothing to lose``, whatever is shown,
            for an arm that does not start far enough above chance; ``incomplete (12 of 20)`` and
            ``exploratory (13 seeds, declared 10)`` where the seeds are not those declared.
        margin: In the unit of the values.
        p_loses: As it is.
        p_loses_adjusted: By Holm over the arms; None where no word is given.
        p_keeps: As it is.
        p_keeps_adjusted: By Holm over the arms; None where no word is given.
        collapsed: How many runs lost five margins or more.
        collapsed_at_most: Upper end of the exact one-sided 95 % interval of the share of such runs
            (Clopper and Pearson 1934): a test of means does not see rare collapses.
    """

    verdict: str
    margin: float
    p_loses: float | None
    p_loses_adjusted: float | None
    p_keeps: float | None
    p_keeps_adjusted: float | None
    collapsed: int
    collapsed_at_most: float

    @property
    def claim(self) -> Claim:
        """What is claimed, of four words: ``undecided`` where the verdict claims nothing."""
        words: dict[str, Claim] = {
            "keeps": "keeps", "loses": "loses", TOO_FEW_FOR_LESS: "loses",
            "loses less than the margin": "loses less than the margin",
        }  # fmt: skip
        return words.get(self.verdict, "undecided")


@dataclass(frozen=True)
class Flatness(Estimate):
    """Whether a mean is shown to be within +-margin.

    Attributes:
        flat: Whether it is.
        margin: In the unit of the values.
        p: Of the two one-sided tests; None for a single seed.
        p_adjusted: By Holm over the arms.
    """

    flat: bool
    margin: float
    p: float | None
    p_adjusted: float | None


def _raw(arms: Mapping[str, Array], test: Callable[[Array], Array]) -> dict[str, float | None]:
    """Return each arm's p value of a claim; None for a single seed."""
    return {arm: float(test(of)) if len(of) > 1 else None for arm, of in arms.items()}


def _p_and_adjusted(
    raw: Mapping[str, float | None],
    without_word: Iterable[str] = (),
    others: int = 0,
    also: Mapping[str, float | None] | None = None,
) -> dict[str, tuple[float | None, float | None]]:
    """Return each arm's p value of a claim, and the same adjusted by Holm over the arms.

    What cannot be claimed counts as if its p value were 1: of an arm with a single seed, or without
    a word, and of ``others`` that were declared and have no values yet. So no claim is withdrawn
    when these are there. Of an arm that is among ``also``, the larger of both p values counts.
    """
    without, also = {*without_word}, also or {}
    weaker = {arm: _larger(p, also[arm]) if arm in also else p for arm, p in raw.items()}
    counted = {arm: p for arm, p in weaker.items() if p is not None and arm not in without}
    adjusted = holm([counted.get(arm, 1.0) for arm in raw] + [1.0] * others)
    return {
        arm: (p, float(adjusted[place]) if arm in counted else None)
        for place, (arm, p) in enumerate(weaker.items())
    }


def _larger(p: float | None, other: float | None) -> float | None:
    """Return the larger p value; None where one is missing."""
    return None if p is None or other is None else max(p, other)


def _arms(values: Mapping[str, ArrayLike], margin: float) -> dict[str, Array]:
    """Return the arms' values as floats (n,)."""
    if not 0 < margin < np.inf:
        raise ValueError(f"margin {margin} is not a positive number")
    arms = {}
    for arm, of_seeds in values.items():
        try:
            arms[arm] = one_per_seed(of_seeds)
        except ValueError as error:
            raise ValueError(f"{arm}: {error}") from None
    return arms


def decide(
    losses: Mapping[str, ArrayLike],
    margin: float,
    declared: Mapping[str, int] | Iterable[str] | None = None,
    levels: Mapping[str, ArrayLike] | None = None,
    chance: float | None = None,
    *,
    min_seeds: int = MIN_SEEDS,
    alpha: float = ALPHA,
    also: Mapping[str, ArrayLike] | None = None,
) -> dict[str, Verdict]:
    """Return for each arm whether it loses, and whether it keeps, by t tests over seeds.

    Two claims are tested at ``alpha``: *loses*, against "the mean loss is at most 0", and *keeps*,
    against "the mean loss is at least the margin". In each claim, p values are adjusted by Holm
    over the arms. An arm with a single seed is undecided. If all seeds have the same value, there
    is no t, and the p value is that of the exact sign test (see ``p_below``).

    What never learned has nothing to lose. Where levels and chance are given, an arm has a word
    only if the lower end of the 95 % interval of its mean level - chance is 20 margins; of a single
    seed, that level itself. The p values stand beside ``nothing to lose`` as they are.

    Args:
        losses: Arm to one value per seed, positive for a loss, such as ``drop``.
        margin: What counts as no loss, positive, chosen before the seeds were run.
        declared: All arms of the family, over which p values are adjusted: names, or with each the
            number of its seeds. An arm with fewer seeds is ``incomplete``, one with more is
            ``exploratory``: neither gets a word, since seeds that are added until a word comes
            bring wrong ones. None: the arms of ``losses``.
        levels: Arm to one value per seed from which it could lose, such as ``early``.
        chance: What a guess scores, in the same unit.
        min_seeds: Fewest seeds for the claim *keeps*, which says that something is absent.
        alpha: Rate of false claims.
        also: Some arms' losses under another condition under which a claim must hold, too: each p
            value is the larger one of both. The estimates are those of ``losses``.

    Raises:
        ValueError: A margin that is not positive; an arm without values, or with one that is not
            finite; an arm that is not among those declared, or that has no levels.
    """
    arms = _arms(losses, margin)
    others_of = _arms(also or {}, margin)
    without_word, others = _as_declared(arms, declared)
    starts_low = _start_low(arms, margin, levels, chance)
    loses, keeps = (
        _p_and_adjusted(_raw(arms, test), without_word, others, _raw(others_of, test))
        for test in (lambda of: p_above(of, 0.0), lambda of: p_below(of, margin))
    )
    found = {}
    for arm, values in arms.items():
        (p_loses, q_loses), (p_keeps, q_keeps) = loses[arm], keeps[arm]
        is_shown = (
            q_loses is not None and q_loses <= alpha,
            q_keeps is not None and q_keeps <= alpha,
        )
        word = _word(*is_shown, is_enough=len(values) >= min_seeds)
        word = NOTHING_TO_LOSE if arm in starts_low else word
        collapsed = int(np.sum(values >= (COLLAPSE - ROUNDING) * margin))
        found[arm] = Verdict(
            **_estimate(values), verdict=without_word.get(arm, word), margin=margin,
            p_loses=p_loses, p_loses_adjusted=q_loses, p_keeps=p_keeps, p_keeps_adjusted=q_keeps,
            collapsed=collapsed, collapsed_at_most=share_at_most(collapsed, len(values)),
        )  # fmt: skip
    return found


def _not_as_declared(number: int, declared: int) -> str:
    """Return what stands in the place of a word where seeds are too few or too many; or nothing."""
    if number < declared:
        return f"incomplete ({number} of {declared})"
    return f"exploratory ({number} seeds, declared {declared})" if number > declared else ""


def _word(loses: bool, keeps: bool, *, is_enough: bool) -> str:
    """Return the word for what is shown, of seeds that may be too few to say what is absent."""
    if loses:
        less = "loses less than the margin" if is_enough else TOO_FEW_FOR_LESS
        return less if keeps else "loses"
    return "keeps" if keeps and is_enough else "undecided"


def _as_declared(
    arms: Mapping[str, Array], declared: Mapping[str, int] | Iterable[str] | None
) -> tuple[dict[str, str], int]:
    """Return which arms get no word, and why, and how many were declared and have no values."""
    if declared is None:
        return {}, 0
    numbers = dict(declared) if isinstance(declared, Mapping) else {}
    family = dict.fromkeys(numbers or declared)
    if strangers := [arm for arm in arms if arm not in family]:
        raise ValueError(f"{strangers[0]} is not among the arms that were declared")
    without_word = {
        arm: reason
        for arm, of in arms.items()
        if arm in numbers and (reason := _not_as_declared(len(of), numbers[arm]))
    }
    return without_word, len(family) - len(arms)


def _start_low(
    arms: Mapping[str, Array],
    margin: float,
    levels: Mapping[str, ArrayLike] | None,
    chance: float | None,
) -> set[str]:
    """Return the arms that are not shown to start high enough above chance to lose anything."""
    if levels is None or chance is None:
        return set()
    found = set()
    for arm in arms:
        if arm not in levels:
            raise ValueError(f"{arm} has no levels")
        try:
            values = one_per_seed(levels[arm])
        except ValueError as error:
            raise ValueError(f"levels of {arm}: {error}") from None
        lower = t_interval(values)[0] if len(values) > 1 else values[0]
        if lower - chance < (FLOOR - ROUNDING) * margin:
            found.add(arm)
    return found


def share_at_most(count: int, n: int) -> float:
    """Return the upper end of the exact one-sided 95 % interval of a share, seen in k of n."""
    return 1.0 if count == n else float(scipy.special.betaincinv(count + 1, n - count, 0.95))


def flat(
    slopes: Mapping[str, ArrayLike],
    margin: float,
    declared: Mapping[str, int] | Iterable[str] | None = None,
    *,
    min_seeds: int = MIN_SEEDS,
    alpha: float = ALPHA,
) -> dict[str, Flatness]:
    """Return for each arm whether its mean is within +-margin: ``tost``, by Holm over the arms.

    Args:
        slopes: Arm to one value per seed, such as ``slope``.
        margin: As in ``decide``, in the unit of the slopes.
        declared: As in ``decide``.
        min_seeds: Fewest seeds for the claim.
        alpha: Rate of false claims.

    Raises:
        ValueError: As in ``decide``.
    """
    arms = _arms(slopes, margin)
    raw = _raw(arms, lambda values: tost(values, margin))
    tests = _p_and_adjusted(raw, *_as_declared(arms, declared))
    found = {}
    for arm, (p, adjusted) in tests.items():
        shown = adjusted is not None and adjusted <= alpha and len(arms[arm]) >= min_seeds
        found[arm] = Flatness(
            **_estimate(arms[arm]), flat=shown, margin=margin, p=p, p_adjusted=adjusted
        )
    return found


def _differences(values: Mapping[str, ArrayLike], reference: str) -> dict[str, Array]:
    """Return the other arms' values minus those of one arm, seed by seed."""
    if reference not in values:
        raise ValueError(f"no arm {reference} among {', '.join(values)}")
    base = np.asarray(values[reference], np.float64)
    found = {}
    for arm, of_seeds in values.items():
        ours = np.asarray(of_seeds, np.float64)
        if ours.shape != base.shape:
            raise ValueError(
                f"{arm} has values of shape {ours.shape}, {reference} of {base.shape}: pairs need "
                "the same seeds"
            )
        if arm != reference:
            found[arm] = ours - base
    return found


def compare_drops(
    drops: Mapping[str, ArrayLike], reference: str, margin: float, min_seeds: int = MIN_SEEDS
) -> dict[str, Verdict]:
    """Return for each other arm whether it loses more than one arm, by ``decide`` on differences.

    The loss is arm - reference, seed by seed: a seed fixes tasks, labels and order of batches for
    all arms. ``keeps`` says that an arm loses less than ``margin`` more than the reference.

    Args:
        drops: Arm to one value per seed, the same seeds in the same order.
        reference: The arm to compare with.
        margin: As in ``decide``.
        min_seeds: As in ``decide``.

    Raises:
        ValueError: Numbers of seeds that differ, an unknown reference, or as in ``decide``.
    """
    return decide(_differences(drops, reference), margin, min_seeds=min_seeds)


def compare_levels(
    levels: Mapping[str, ArrayLike], reference: str, margin: float, min_seeds: int = MIN_SEEDS
) -> dict[str, Verdict]:
    """Return for each other arm whether its level is below that of one arm.

    The loss is reference - level, seed by seed. ``keeps`` is non-inferiority: the level is less
    than ``margin`` below that of the reference, or above it. Arguments and errors: see
    ``compare_drops``.
    """
    below = {arm: -values for arm, values in _differences(levels, reference).items()}
    return decide(below, margin, min_seeds=min_seeds)
