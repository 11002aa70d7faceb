"""Tests and intervals over seeds, the number of seeds they need, and the bootstrap beside them.

Student's t decides: of few seeds, percentile bootstrap intervals are too short. Samples are seeds,
never the tasks of a run, since these depend on each other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import scipy  # which imports its parts when they are first used: scipy.stats takes half a second
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Interval = tuple[float, float]

MOST_SEEDS = 1_000_000
"""More are not planned."""

BCA_FROM = 20
"""Fewest values of which bootstrap samples are drawn: of fewer, the intervals are too short."""

# --- Student's t over seeds


def finite(values: ArrayLike) -> Array:
    """Return values as floats (..., n)."""
    samples = np.asarray(values, np.float64)
    if samples.ndim == 0 or samples.shape[-1] == 0:
        raise ValueError(f"values have shape {samples.shape}: give one value per seed")
    if not np.isfinite(samples).all():
        raise ValueError(f"{samples[~np.isfinite(samples)][0]} is not a finite number")
    return samples


def one_per_seed(values: ArrayLike) -> Array:
    """Return values as floats (n,)."""
    samples = finite(values)
    if samples.ndim != 1:
        raise ValueError(f"values have shape {samples.shape}, not (seeds,)")
    return samples


def mean_and_error(samples: Array) -> tuple[Array, Array]:
    """Return the means and their standard errors, which are exactly 0 for equal values."""
    n = samples.shape[-1]
    if n < 2:
        raise ValueError("a single value has neither interval nor t test: at least 2")
    # Measured from one of the values, so that the mean of equal values is exactly that value.
    origin = samples[..., :1]
    mean = origin[..., 0] + (samples - origin).mean(-1)
    return mean, np.sqrt(((samples - mean[..., None]) ** 2).sum(-1) / (n - 1) / n)


def t_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[Array, Array]:
    """Return the two-sided interval of the mean by Student's t.

    It is mean +- t sd / sqrt(n), t being the (1 + confidence) / 2 quantile with n - 1 degrees of
    freedom. Equal values have an interval of width zero.

    Args:
        values: ``(..., n)`` with n at least 2.
        confidence: Rate at which such intervals contain the mean, for normal values.

    Returns:
        Lower and upper ends, ``(...)``.

    Raises:
        ValueError: Fewer than two values, or one that is not finite.
    """
    samples = finite(values)
    n = samples.shape[-1]
    mean, error = mean_and_error(samples)
    half = scipy.special.stdtrit(n - 1, (1 + confidence) / 2) * error
    return mean - half, mean + half


def ratio_interval(
    numerator: ArrayLike, denominator: ArrayLike, confidence: float = 0.95
) -> Interval | None:
    """Return Fieller's interval of the ratio of two means over the same seeds.

    With means g and G, variances v and V and covariance c of the *means*, and t the
    (1 + confidence) / 2 quantile with n - 1 degrees of freedom: the ends are the roots of
    A r^2 - 2 B r + C = 0, A = G^2 - t^2 V, B = g G - t^2 c, C = g^2 - t^2 v.

    Args:
        numerator: ``(n,)`` with n at least 2.
        denominator: ``(n,)``, of the same seeds.
        confidence: Rate at which such intervals contain the ratio, for normal values.

    Returns:
        Lower and upper end; None where the denominator may be 0 (A is not positive).

    Raises:
        ValueError: Fewer than two values, numbers of values that differ, or a value that is not
            finite.

    Source: Fieller 1954, "Some problems in interval estimation".
    """
    above, below = one_per_seed(numerator), one_per_seed(denominator)
    n = len(above)
    if n < 2 or len(below) != n:
        raise ValueError(f"{n} and {len(below)} values: give at least 2, and as many of each")
    variances = np.cov(above, below) / n
    squared = scipy.special.stdtrit(n - 1, (1 + confidence) / 2) ** 2
    a = below.mean() ** 2 - squared * variances[1, 1]
    b = above.mean() * below.mean() - squared * variances[0, 1]
    c = above.mean() ** 2 - squared * variances[0, 0]
    if a <= 0:
        return None
    half = np.sqrt(max(0.0, b * b - a * c))  # below 0 by rounding only
    return float((b - half) / a), float((b + half) / a)


def p_below(values: ArrayLike, bound: float) -> Array:
    """Return the p value against "the mean is at least ``bound``": small where it is below.

    The one-sided t test, t = (mean - bound) / (sd / sqrt(n)). Equal values have no t. Of these, p
    is 2**-n if they are below the bound, as of the exact sign test, else 1.

    Args:
        values: ``(..., n)`` with n at least 2.
        bound: In the unit of the values.

    Returns:
        p values ``(...)``.

    Raises:
        ValueError: Fewer than two values, or one that is not finite.
    """
    samples = finite(values)
    n = samples.shape[-1]
    mean, error = mean_and_error(samples)
    varies = error > 0
    t = (mean - bound) / np.where(varies, error, 1)
    return np.where(varies, scipy.special.stdtr(n - 1, t), np.where(mean < bound, 0.5**n, 1.0))


def p_above(values: ArrayLike, bound: float) -> Array:
    """Return the p value against "the mean is at most ``bound``"; see ``p_below``."""
    return p_below(-finite(values), -bound)


def tost(values: ArrayLike, margin: float) -> Array:
    """Return the p value of two one-sided tests: small where the mean is within +-``margin``.

    It is the larger one of the p values against "at most -margin" and "at least margin".

    Source: Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power
    approach for assessing the equivalence of average bioavailability".
    """
    return np.maximum(p_above(values, -margin), p_below(values, margin))


def holm(p_values: Sequence[float]) -> Array:
    """Return p values adjusted such that the rate of *any* false claim among them is kept.

    The k-th smallest of m is multiplied by m - k + 1; none is less than one before it, or over 1.

    Raises:
        ValueError: A value outside [0, 1].

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    p = np.asarray(p_values, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p value {p[~((p >= 0) & (p <= 1))][0]} is not between 0 and 1")
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted


# --- the number of seeds


def power(n: int, sd: float, margin: float, alpha: float = 0.05) -> float:
    """Return the probability that n seeds show a loss below the margin where the true loss is 0.

    The verdict is then ``keeps`` or, in a twentieth of all cases at most, ``loses less than the
    margin``. The probability is P(T > t), t being the 1 - alpha quantile with n - 1 degrees of
    freedom, and T following the noncentral t distribution with noncentrality margin sqrt(n) / sd.
    It is the power of one test of one arm. Two one-sided tests (``tost``) have less. So has each of
    several arms, since Holm divides alpha.

    Args:
        n: Number of seeds, at least 2.
        sd: Standard deviation over seeds, in the unit of the margin.
        margin: What counts as no loss, positive.
        alpha: Rate of false claims of the test.

    Raises:
        ValueError: A value out of its range.
    """
    if n < 2:
        raise ValueError(f"{n} seeds have no t test: at least 2")
    _check_plan(sd, margin, alpha)
    return _power(n, sd, margin, alpha)


def seeds_needed(sd: float, margin: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Return the fewest seeds that show a loss below the margin where the true loss is 0.

    They do so with the probability that is asked for.

    An SD of three tuning seeds is itself uncertain: the true one may be 4.4 times as large (95 %,
    chi-squared), which asks for some 20 times as many seeds. A claim of absence takes ten in any
    case.

    Args:
        sd: Standard deviation over seeds, in the unit of the margin.
        margin: What counts as no loss, positive.
        power: Probability of the verdict, between 0 and 1.
        alpha: Rate of false claims of the test.

    Raises:
        ValueError: A value out of its range, or more than a million seeds.
    """
    _check_plan(sd, margin, alpha)
    if not 0 < power < 1:
        raise ValueError(f"power {power} is not between 0 and 1")
    if _power(MOST_SEEDS, sd, margin, alpha) < power:
        raise ValueError(f"sd {sd} against margin {margin} needs more than {MOST_SEEDS:,} seeds")
    too_few, enough = 1, MOST_SEEDS  # power grows with n
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if _power(middle, sd, margin, alpha) < power:
            too_few = middle
        else:
            enough = middle
    return enough


def _check_plan(sd: float, margin: float, alpha: float) -> None:
    """Raise ``ValueError`` where a value is out of its range."""
    if not 0 <= sd < np.inf:
        raise ValueError(f"sd {sd} is negative or not finite")
    if not 0 < margin < np.inf:
        raise ValueError(f"margin {margin} is not a positive number")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha} is not between 0 and 1")


def _power(n: int, sd: float, margin: float, alpha: float) -> float:
    """Return what ``power`` does, of values in their ranges."""
    if sd == 0:
        return 1.0
    critical = scipy.special.stdtrit(n - 1, 1 - alpha)
    return float(scipy.stats.nct.sf(critical, n - 1, margin * np.sqrt(n) / sd))


# --- beside t


def bca_interval(
    values: ArrayLike,
    statistic: Callable[[Array], float] = np.mean,
    confidence: float = 0.95,
) -> Interval | None:
    """Return the bias-corrected and accelerated bootstrap interval, for statistics without a t.

    The same values give the same interval: resampling always starts from the same seed.

    Args:
        values: One value per seed, ``(n,)``.
        statistic: From values (n,) to a number.
        confidence: Rate at which such intervals contain it.

    Returns:
        Lower and upper end; None for fewer than 20 values, of which bootstrap intervals are too
        short, and where leaving out any one value does not change the statistic, as for equal
        values.

    Raises:
        ValueError: No values, not one per seed, or one that is not finite.

    Source: Efron 1987, "Better bootstrap confidence intervals".
    """
    samples = one_per_seed(values)
    if len(samples) < BCA_FROM or np.ptp(samples) == 0:
        return None
    # Where leaving out any one value changes nothing, scipy divides 0 by 0, and the ends are NaN.
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        found = scipy.stats.bootstrap(
            (samples,), statistic, method="BCa", confidence_level=confidence, vectorized=False,
            rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
    if not np.isfinite([found.low, found.high]).all():
        return None
    return float(found.low), float(found.high)
