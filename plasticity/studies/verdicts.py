"""From one number per seed to a verdict: what is lost, what is kept, and what is not known.

>>> drops = {"mlp": [0.061, 0.055, 0.067, 0.058], "qnn": [0.002, -0.001, 0.001, 0.0]}
>>> {arm: found.verdict for arm, found in decide(drops, margin=0.01, min_seeds=4).items()}
{'mlp': 'loses', 'qnn': 'keeps'}

All values have the unit in which they are given: of accuracies between 0 and 1, a margin of 0.01 is
one point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from plasticity.statistics.estimates import Estimate, _estimate
from plasticity.statistics.inference import (
    Array,
    holm,
    one_per_seed,
    p_above,
    p_below,
    tost,
)

Word = Literal["keeps", "loses", "loses less than the margin", "undecided"]

ALPHA = 0.05
"""Rate at which a claim may be made that is false."""

MIN_SEEDS = 10
"""With fewer seeds, nothing is said to be absent."""


@dataclass(frozen=True)
class Verdict(Estimate):
    """Whether something is lost, and whether less than a margin.

    ``p_loses`` is against "the mean is at most 0", ``p_keeps`` against "the mean is at least the
    margin". Both are None for a single seed.

    Attributes:
        verdict: ``loses`` if the loss is above 0, ``keeps`` if it is below the margin, ``loses less
            than the margin`` if both, ``undecided`` if neither is shown.
        margin: In the unit of the values.
        p_loses: As it is.
        p_loses_adjusted: By Holm over the arms.
        p_keeps: As it is.
        p_keeps_adjusted: By Holm over the arms.
    """

    verdict: Word
    margin: float
    p_loses: float | None
    p_loses_adjusted: float | None
    p_keeps: float | None
    p_keeps_adjusted: float | None


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


def _p_and_adjusted(
    arms: Mapping[str, Array], test: Callable[[Array], Array]
) -> dict[str, tuple[float | None, float | None]]:
    """Return each arm's p value of a claim, and the same adjusted by Holm over the arms.

    An arm with a single seed has none. It counts as if its p value were 1. An arm without any value
    is not among ``arms``, and does not count: so a claim on an incomplete study may rest on fewer
    arms than were declared, and may be withdrawn when the others are there.
    """
    raw = [float(test(values)) if len(values) > 1 else None for values in arms.values()]
    adjusted = holm([1.0 if p is None else p for p in raw])
    return {
        arm: (p, None if p is None else float(q))
        for arm, p, q in zip(arms, raw, adjusted, strict=True)
    }


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
    losses: Mapping[str, ArrayLike], margin: float, min_seeds: int = MIN_SEEDS
) -> dict[str, Verdict]:
    """Return for each arm whether it loses, and whether it keeps, by t tests over seeds.

    Two claims are tested at 5 %: *loses*, against "the mean loss is at most 0", and *keeps*,
    against "the mean loss is at least the margin". In each claim, p values are adjusted by Holm
    over the arms. An arm with a single seed is undecided. If all seeds have the same value, there
    is no t, and the value itself decides (see ``p_below``).

    What keeps may have had nothing to lose: put the level beside every verdict.

    Args:
        losses: Arm to one value per seed, positive for a loss, such as ``drop``.
        margin: What counts as no loss, positive, chosen before the seeds were run.
        min_seeds: Fewest seeds for the claim *keeps*, which says that something is absent.

    Raises:
        ValueError: A margin that is not positive; an arm without values, or with one that is not
            finite.
    """
    arms = _arms(losses, margin)
    loses = _p_and_adjusted(arms, lambda values: p_above(values, 0.0))
    keeps = _p_and_adjusted(arms, lambda values: p_below(values, margin))
    found = {}
    for arm, values in arms.items():
        (p_loses, q_loses), (p_keeps, q_keeps) = loses[arm], keeps[arm]
        shown = (
            q_loses is not None and q_loses <= ALPHA,
            q_keeps is not None and q_keeps <= ALPHA and len(values) >= min_seeds,
        )
        words: dict[tuple[bool, bool], Word] = {
            (True, False): "loses",
            (False, True): "keeps",
            (True, True): "loses less than the margin",
            (False, False): "undecided",
        }
        found[arm] = Verdict(
            **_estimate(values), verdict=words[shown], margin=margin, p_loses=p_loses,
            p_loses_adjusted=q_loses, p_keeps=p_keeps, p_keeps_adjusted=q_keeps,
        )  # fmt: skip
    return found


def flat(
    slopes: Mapping[str, ArrayLike], margin: float, min_seeds: int = MIN_SEEDS
) -> dict[str, Flatness]:
    """Return for each arm whether its mean is within +-margin: ``tost``, by Holm over the arms.

    Args:
        slopes: Arm to one value per seed, such as ``slope``.
        margin: As in ``decide``, in the unit of the slopes.
        min_seeds: Fewest seeds for the claim.

    Raises:
        ValueError: As in ``decide``.
    """
    arms = _arms(slopes, margin)
    found = {}
    for arm, (p, adjusted) in _p_and_adjusted(arms, lambda values: tost(values, margin)).items():
        shown = adjusted is not None and adjusted <= ALPHA and len(arms[arm]) >= min_seeds
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
    return decide(_differences(drops, reference), margin, min_seeds)


def compare_levels(
    levels: Mapping[str, ArrayLike], reference: str, margin: float, min_seeds: int = MIN_SEEDS
) -> dict[str, Verdict]:
    """Return for each other arm whether its level is below that of one arm.

    The loss is reference - level, seed by seed. ``keeps`` is non-inferiority: the level is less
    than ``margin`` below that of the reference, or above it. Arguments and errors: see
    ``compare_drops``.
    """
    below = {arm: -values for arm, values in _differences(levels, reference).items()}
    return decide(below, margin, min_seeds)
