"""Estimates with intervals: of anything, and of means over seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from plasticity.statistics.inference import Interval, mean_and_error, one_per_seed, t_interval
from plasticity.statistics.summaries import tenths

SKEWED = 1.0
"""Above this absolute skewness of the seeds' values, a verdict is marked as fragile."""


@dataclass(frozen=True)
class WithInterval:
    """A number that was estimated, and where it lies.

    Attributes:
        estimate: The number.
        interval_95: Its two-sided 95 % interval; None where there is none.
    """

    estimate: float
    interval_95: Interval | None

    @property
    def half_95(self) -> float:
        """Return half the width of the interval; NaN where there is none."""
        low, high = self.interval_95 or (math.nan, math.nan)
        return (high - low) / 2


@dataclass(frozen=True)
class Estimate(WithInterval):
    """A mean over seeds; alone, it is what is reported of exploratory metrics.

    Its 95 % interval is that of the mean, by Student's t. There is none of a single seed.

    Attributes:
        sd: The standard deviation over seeds (n - 1); None for a single seed.
        interval_90: Likewise: the tests at 5 % are one-sided, and its ends decide them before
            Holm's adjustment.
        n: The number of seeds.
        skewness: Third central moment over sd cubed (both with n); None for equal values.
        fragile: Whether the absolute skewness is over 1: t tests may then be wrong more often than
            they say. A small skewness is no proof of the contrary: where seeds that fall far are
            rare, they may be missing from the sample.
    """

    sd: float | None
    interval_90: Interval | None
    n: int
    skewness: float | None
    fragile: bool


def estimate(values: ArrayLike) -> Estimate:
    """Return mean, intervals and skewness of one value per seed, without any p value.

    Raises:
        ValueError: No values, not one per seed, or one that is not finite.
    """
    return Estimate(**_estimate(values))


def _estimate(values: ArrayLike) -> dict[str, Any]:
    """Return the fields of ``Estimate``."""
    samples = one_per_seed(values)
    n = len(samples)
    found: dict[str, Any] = {
        "estimate": float(samples[0]), "sd": None, "interval_90": None, "interval_95": None,
        "n": n, "skewness": None, "fragile": False,
    }  # fmt: skip
    if n == 1:
        return found
    mean, error = mean_and_error(samples)
    found["estimate"], found["sd"] = float(mean), float(error * np.sqrt(n))
    for percent in (90, 95):
        low, high = t_interval(samples, percent / 100)
        found[f"interval_{percent}"] = (float(low), float(high))
    if error > 0:
        standard = (samples - mean) / (error * np.sqrt(n - 1))
        found["skewness"] = float((standard**3).mean())
        found["fragile"] = abs(found["skewness"]) > SKEWED
    return found


@dataclass(frozen=True)
class Change:
    """What a column of an arm was at first and is at last, over seeds.

    Attributes:
        first: Mean of the first tenth of the tasks that have a value.
        last: Mean of the last tenth.
    """

    first: Estimate
    last: Estimate


def change(values: ArrayLike) -> Change:
    """Return how a column changed.

    Args:
        values: ``(seeds, tasks)``, NaN where undefined; a seed without any value does not count.

    Raises:
        ValueError: No seed has a value.
    """
    first, last = tenths(values)
    return Change(estimate(first), estimate(last))
