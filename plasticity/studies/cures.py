"""What cures an aged network: from one number per seed to a word, and the share of the gap closed.

An aged network was changed once. Beside it stand the same network unchanged and an untrained one.
All three then learn the same tasks on the same batches, so that each seed is a pair.

>>> nothing = [74, 76, 73, 75, 77, 72, 75, 74, 76, 75]
>>> untrained = [88, 87, 88, 87, 88, 87, 88, 88, 87, 88]
>>> found = judge(nothing, [85, 86, 84, 86, 86, 85, 87, 85, 86, 86], untrained)
>>> found.word, round(found.gap, 1), round(found.gain, 1), round(found.share, 3)
('cures', 12.9, 10.9, 0.845)

All values are in points of accuracy, 0 to 100.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike

from plasticity.statistics.estimates import Estimate, estimate
from plasticity.statistics.inference import (
    Array,
    Interval,
    one_per_seed,
    p_above,
    ratio_interval,
)
from plasticity.studies.rules import ALPHA, MIN_SEEDS

Word = Literal[
    "nothing to cure", "gap not shown", "cures", "helps", "harms", "no effect", "undecided"
]

MARGIN = 1.0
"""Points of accuracy that count as an effect."""
SHARE = 0.5
"""Share of the gap that a cure closes at least."""
LEAST_GAP = 5.0
"""Points of accuracy that an aged network must have lost for there to be something to cure."""


@dataclass(frozen=True)
class Cure:
    """What one change of an aged network does to what it learns next.

    Attributes:
        word: ``cures`` if the gain is over half the gap; ``helps`` if it is over a point;
            ``harms`` if it is under minus a point; ``no effect`` if it is within a point, which
            takes ten seeds to say; ``undecided`` if none of these is shown. Where a gap of over
            five points is not shown: ``nothing to cure`` if it is shown to be below that, which
            takes ten seeds, too, else ``gap not shown``.
        n: Number of seeds.
        gap: Mean of what the untrained network learns better than the unchanged one, in points.
        gain: Mean of what the changed network learns better than the unchanged one, in points.
        share: ``gain / gap``, a ratio of means; None unless the gap is shown.
        share_95: Fieller's 95 % interval of the share; None where it has no ends.
        over_half: Number of seeds in which the gain is over half the gap.
        p: p values of the claims ``gap`` (over five points), ``cures``, ``helps``, ``none`` (no
            effect) and ``harms``.
    """

    word: Word
    n: int
    gap: float
    gain: float
    share: float | None
    share_95: Interval | None
    over_half: int
    p: Mapping[str, float]

    @property
    def fragile(self) -> bool:
        """Whether it cures on average, and a sign test over the seeds does not show it."""
        by_signs = float(scipy.stats.binom.sf(self.over_half - 1, self.n, 0.5))
        return self.word == "cures" and by_signs > ALPHA


def judge(nothing: ArrayLike, changed: ArrayLike, untrained: ArrayLike) -> Cure:
    """Return what a change of an aged network does, by paired t tests over seeds.

    With the gap = untrained - nothing and the gain = changed - nothing of each seed, and tests
    against "the mean is at most b": ``gap`` (gap, 5); ``cures`` (gain - gap / 2, 0); ``helps``
    (gain, 1); ``harms`` (-gain, 1); ``none``, the larger one of (gain, -1) and (-gain, -1). No
    ratio is tested. The p values are those of one change: of several, adjust them
    (`plasticity.statistics.inference.holm`).

    Args:
        nothing: Mean test accuracy of the network that was left as it is, ``(seeds,)``, points.
        changed: Of the same network, changed once.
        untrained: Of a network with the run's initial weights.

    Raises:
        ValueError: Fewer than two seeds, numbers of seeds that differ, or a value that is not
            finite. A branch that has diverged counts at chance.
    """
    branches = {"nothing": nothing, "changed": changed, "untrained": untrained}
    values = {}
    for name, of_seeds in branches.items():
        try:
            values[name] = one_per_seed(of_seeds)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if len(values[name]) != len(values["nothing"]):
            raise ValueError(
                f"{name} has {len(values[name])} seeds, nothing has {len(values['nothing'])}"
            )
    gap = _less(values["untrained"], values["nothing"])
    gain = _less(values["changed"], values["nothing"])
    n = len(gap)
    p = {
        "gap": float(p_above(gap, LEAST_GAP)),
        "cures": float(p_above(_less(gain, SHARE * gap), 0.0)),
        "helps": float(p_above(gain, MARGIN)),
        "none": max(float(p_above(gain, -MARGIN)), float(p_above(-gain, -MARGIN))),
        "harms": float(p_above(-gain, MARGIN)),
    }
    there_is_a_gap = p["gap"] <= ALPHA
    return Cure(
        word=_word(p, n, small_gap=float(p_above(-gap, -LEAST_GAP)) <= ALPHA),
        n=n,
        gap=float(gap.mean()),
        gain=float(gain.mean()),
        share=float(gain.mean() / gap.mean()) if there_is_a_gap else None,
        share_95=ratio_interval(gain, gap) if there_is_a_gap else None,
        over_half=int(np.sum(gain > SHARE * gap)),
        p=MappingProxyType(p),
    )


def beyond_young(
    nothing: ArrayLike, changed: ArrayLike, young: ArrayLike, young_changed: ArrayLike
) -> Estimate:
    """Return by how much a change helps an aged network more than a young one, in points.

    It is the mean over seeds of (changed - nothing) - (young_changed - young). What helps a young
    network as much is a better rate, and no cure: a cure has an ``interval_95`` above 0.

    Args:
        nothing: As in ``judge``.
        changed: As in ``judge``.
        young: Mean test accuracy of a network of one task that was left as it is, ``(seeds,)``.
        young_changed: Of the same network, changed once in the same way.

    Raises:
        ValueError: As in ``judge``.
    """
    values = [one_per_seed(of) for of in (nothing, changed, young, young_changed)]
    if len({len(of) for of in values}) > 1 or len(values[0]) < 2:
        raise ValueError(f"{', '.join(str(len(of)) for of in values)} seeds: the same ones, two")
    return estimate(_less(_less(values[1], values[0]), _less(values[3], values[2])))


def _less(one: Array, other: Array) -> Array:
    """Return a difference in points, rounded so that equal ones are exactly equal."""
    return np.round(one - other, 9)


def _word(p: Mapping[str, float], n: int, *, small_gap: bool) -> Word:
    """Return the first word that holds."""
    if p["gap"] > ALPHA:
        return "nothing to cure" if small_gap and n >= MIN_SEEDS else "gap not shown"
    if p["cures"] <= ALPHA:
        return "cures"
    if p["helps"] <= ALPHA:
        return "helps"
    if p["harms"] <= ALPHA:
        return "harms"
    return "no effect" if p["none"] <= ALPHA and n >= MIN_SEEDS else "undecided"
