"""Curves over tasks: running means, and means over seeds with intervals."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # which imports its parts when they are first used: scipy.stats takes half a second
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

FEWEST_FOR_AN_INTERVAL = 3
"""Seeds; of two, Student's t makes the 95 % interval 12.7 times as wide as the seeds are apart."""


def running_means(values: ArrayLike, window: int) -> Array:
    """Return the means of ``window`` neighboring values, centered; at the ends of those there are.

    An even window takes its extra value from the left. What is undefined stays so, and does not
    count in the means of its neighbors.

    Args:
        values: ``(..., tasks)``; what is not finite is undefined.
        window: Number of values, at least 1.

    Returns:
        ``(..., tasks)``.
    """
    numbers = np.asarray(values, np.float64)
    if window == 1:
        return numbers
    defined = np.isfinite(numbers)
    length = numbers.shape[-1]
    width = min(window, 2 * length)  # all values from everywhere
    inside = slice((width - 1) // 2, (width - 1) // 2 + length)

    def sums(of: NDArray[Any]) -> Array:
        return np.apply_along_axis(lambda row: np.convolve(row, np.ones(width))[inside], -1, of)

    means = sums(np.where(defined, numbers, 0.0)) / np.maximum(sums(1.0 * defined), 1)
    return np.where(defined, means, np.nan)


@dataclass(frozen=True)
class OverSeeds:
    """Curves of seeds, their mean and the ends of its 95 % interval.

    Attributes:
        seeds: ``(seeds, tasks)``, each smoothed by itself.
        mean: ``(tasks,)``, over the seeds that have a value; NaN where none has.
        low: ``(tasks,)``; NaN where fewer than three seeds have a value.
        high: The same.
    """

    seeds: Array
    mean: Array
    low: Array
    high: Array


def over_seeds(values: ArrayLike, *, window: int = 1, logarithmic: bool = False) -> OverSeeds:
    """Return the curves of a column over tasks, by Student's t over the seeds.

    Args:
        values: ``(seeds, tasks)``; what is not finite is undefined.
        window: Neighboring tasks over which each seed's running mean is.
        logarithmic: Take all means of logarithms and return their exponentials. Where a seed is not
            positive there is no mean: without that seed it would be another one.
    """
    numbers = np.array(values, np.float64)
    numbers[~np.isfinite(numbers)] = np.nan
    without = np.zeros(numbers.shape[1], bool)
    if logarithmic:
        without |= (numbers <= 0).any(0)
        numbers = np.log(np.where(numbers > 0, numbers, np.nan))
    seeds = running_means(numbers, window)
    count = np.isfinite(seeds).sum(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of no degree of freedom: NaN is right
        mean, sd = np.nanmean(seeds, 0), np.nanstd(seeds, 0, ddof=1)
    half = (
        scipy.special.stdtrit(np.maximum(count - 1, 1), 0.975) * sd / np.sqrt(np.maximum(count, 1))
    )
    half[count < FEWEST_FOR_AN_INTERVAL] = np.nan
    mean[without] = np.nan
    found = seeds, mean, mean - half, mean + half
    return OverSeeds(*(np.exp(of) if logarithmic else of for of in found))
