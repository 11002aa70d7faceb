"""One number per run: what the values of its tasks, or its returns, are summarized by.

A number per seed goes into the t tests of ``plasticity.statistics.inference``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy  # which imports its parts when they are first used: scipy.stats takes half a second
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

FEWEST_TASKS = 20
"""Of a run whose first tenth has a task beside the first one of all."""

# --- tasks


def _runs(values: ArrayLike, fewest: int) -> Array:
    """Return values as floats (seeds, tasks), NaN where undefined."""
    runs = np.asarray(values, np.float64)
    if runs.ndim != 2:
        raise ValueError(f"values have shape {runs.shape}, not (seeds, tasks)")
    if runs.shape[1] < fewest:
        raise ValueError(f"a run of {runs.shape[1]} tasks is too short: at least {fewest}")
    if np.isinf(runs).any():
        row, task = np.argwhere(np.isinf(runs))[0]
        raise ValueError(f"row {row}, task {task}: {runs[row, task]} is not a finite number")
    return runs


def _mean_of_tasks(runs: Array, first: int, end: int) -> Array:
    """Return each run's mean over the defined ones of tasks ``first`` to ``end - 1``."""
    part = runs[:, first:end]
    defined = ~np.isnan(part)
    empty = np.flatnonzero(~defined.any(1))
    if len(empty):
        raise ValueError(f"row {empty[0]}: none of the tasks {first} to {end - 1} has a value")
    # Measured from one of the values, so that the mean of equal values is exactly that value.
    origin = np.take_along_axis(part, defined.argmax(1)[:, None], 1)
    result: Array = origin[:, 0] + np.where(defined, part - origin, 0).sum(1) / defined.sum(1)
    return result


def early(values: ArrayLike) -> Array:
    """Return each run's mean over its first tenth, without the first task of all.

    Of T tasks, counted from 1, these are the tasks 2 to floor(T / 10); in the array, the columns 1
    to floor(T / 10) - 1. The first task is learned by a network that has seen nothing, and is left
    out.

    Args:
        values: Such as accuracies, ``(seeds, tasks)``. NaN marks undefined tasks; they are left
            out, and the others keep their places.

    Returns:
        An array ``(seeds,)``.

    Raises:
        ValueError: Fewer than 20 tasks, an infinite value, or a run without a value in these tasks.
    """
    runs = _runs(values, FEWEST_TASKS)
    return _mean_of_tasks(runs, 1, runs.shape[1] // 10)


def late(values: ArrayLike) -> Array:
    """Return each run's mean over its last floor(T / 10) tasks; see ``early``.

    It is also the *level* that is compared between arms.
    """
    runs = _runs(values, FEWEST_TASKS)
    tasks = runs.shape[1]
    return _mean_of_tasks(runs, tasks - tasks // 10, tasks)


def drop(values: ArrayLike) -> Array:
    """Return early - late of each run: positive where the values fall; see ``early``.

    For what falls when the network gets better, such as a loss, give the negative values.
    """
    return early(values) - late(values)


def slope(values: ArrayLike) -> Array:
    """Return each run's Theil-Sen slope: the change in 100 tasks, negative where the values fall.

    It is 100 times the median over pairs i < j of (y_j - y_i) / (j - i). Single tasks that are far
    off hardly move it. Its usual interval assumes independent tasks and is not used.

    Args:
        values: ``(seeds, tasks)``, NaN where undefined.

    Returns:
        An array ``(seeds,)``.

    Raises:
        ValueError: A run with fewer than two defined tasks, or an infinite value.

    Source: Sen 1968, "Estimates of the regression coefficient based on Kendall's tau".
    """
    runs = _runs(values, 2)
    slopes = np.empty(len(runs))
    for row, run in enumerate(runs):
        (tasks,) = np.nonzero(~np.isnan(run))
        if len(tasks) < 2:
            raise ValueError(f"row {row}: a slope needs two tasks with a value, not {len(tasks)}")
        slopes[row] = 100 * scipy.stats.theilslopes(run[tasks], tasks).slope
    return slopes


SUMMARIES: dict[str, Callable[[ArrayLike], Array]] = {
    "early": early,
    "late": late,
    "drop": drop,
    "slope": slope,
    "level": late,
}
"""What a run is summarized by, from values (seeds, tasks) to (seeds,)."""

# --- returns


def final_over_peak(returns: ArrayLike) -> Array:
    """Return each run's last value over its largest: 1 where nothing was lost.

    Single evaluations are noisy, and the largest of many is too large: give means over some of
    them.

    Args:
        returns: ``(seeds, evaluations)``, NaN where undefined.

    Returns:
        An array ``(seeds,)``; NaN where the largest value is not positive.

    Raises:
        ValueError: A run without a value, or an infinite value.
    """
    runs = _runs(returns, 1)
    defined = ~np.isnan(runs)
    if not defined.any(1).all():
        raise ValueError(f"row {np.flatnonzero(~defined.any(1))[0]}: no evaluation has a value")
    last = runs.shape[1] - 1 - defined[:, ::-1].argmax(1)
    final, peak = runs[np.arange(len(runs)), last], np.nanmax(runs, 1)
    return np.where(peak > 0, final / np.where(peak > 0, peak, 1), np.nan)


def interquartile_mean(scores: ArrayLike) -> float:
    """Return the mean of the middle half of all scores: no single run decides it.

    Of n scores, floor(n / 4) are cut at either end.

    Raises:
        ValueError: No scores, or one that is not finite.

    Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical
    precipice".
    """
    flat = np.ravel(np.asarray(scores, np.float64))
    if not len(flat) or not np.isfinite(flat).all():
        raise ValueError("no scores" if not len(flat) else "a score is not a finite number")
    return float(scipy.stats.trim_mean(flat, 0.25))


def improvements(ours: ArrayLike, reference: ArrayLike) -> Array:
    """Return for each seed 1 if our score is higher, 1/2 if both are equal, 0 if it is lower.

    The mean is the paired probability of improvement.

    Args:
        ours: ``(seeds,)``.
        reference: Likewise, of the same seeds in the same order.

    Raises:
        ValueError: Numbers of seeds that differ, or a score that is NaN.
    """
    a, b = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"scores of shapes {a.shape} and {b.shape}: pairs need the same seeds")
    if np.isnan(a).any() or np.isnan(b).any():
        raise ValueError("a score is not a number")
    result: Array = (a > b) + 0.5 * (a == b)
    return result


# --- first and last tenth


def tenths(values: ArrayLike) -> tuple[Array, Array]:
    """Return each run's mean over the first and the last tenth of its defined values.

    Of a metric that is taken now and then, a tenth of the tasks at which it was taken counts, at
    least one.

    Args:
        values: ``(seeds, tasks)``, NaN where undefined.

    Returns:
        First and last, ``(seeds that have a value,)`` each.
    """
    found = []
    for row in np.asarray(values, np.float64):
        defined = row[np.isfinite(row)]
        if len(defined):
            tenth = max(1, len(defined) // 10)
            found.append((defined[:tenth].mean(), defined[-tenth:].mean()))
    first, last = np.array(found).reshape(-1, 2).T
    return first, last


def early_and_late(scores: ArrayLike) -> tuple[Array, Array]:
    """Return ``early`` and ``late`` of scores; of runs of fewer than 20 tasks their ``tenths``.

    So a table of a run says the same numbers as a report of the study that it belongs to, and a
    short run has numbers, too.
    """
    runs = np.asarray(scores, np.float64)
    return (early(runs), late(runs)) if without_the_first(runs.shape[1]) else tenths(runs)


def without_the_first(tasks: int) -> bool:
    """Tell whether ``early_and_late`` leaves the first task of all out, as long runs can."""
    return tasks >= FEWEST_TASKS
