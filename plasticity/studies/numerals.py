"""How a report writes numbers: estimates with their intervals, differences, p values."""

from __future__ import annotations

import numpy as np

from plasticity.statistics.estimates import Estimate


def p_value(value: float | None) -> str:
    """Return an adjusted p value; "" where there is none."""
    return "" if value is None else "< .0001" if value < 1e-4 else f"{value:.2g}"


def points(value: float | None) -> str:
    """Return a difference of accuracies in points."""
    return "" if value is None else f"{100 * value:.3g}"


def percent(
    of: Estimate,
    *,
    interval: bool = False,
    digits: int = 2,
    sign: int = 1,
    bounds: tuple[float, float] = (-1, 1),
) -> str:
    """Return a mean over seeds in per cent or points, with its 95 % interval.

    The interval ends at the bounds, beyond which there is no such value: Student's does not.
    """
    text = f"{100 * sign * of.estimate:.{digits}f}"
    if not interval or of.interval_95 is None:
        return text
    low, high = sorted(100 * sign * min(max(end, bounds[0]), bounds[1]) for end in of.interval_95)
    return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def number(of: Estimate, bounds: tuple[float, float] = (-np.inf, np.inf)) -> str:
    """Return a mean over seeds with its 95 % interval, which ends at the bounds."""
    if of.interval_95 is None:
        return f"{of.estimate:.3g}"
    low, high = np.clip(of.interval_95, *bounds)
    return f"{of.estimate:.3g} [{low:.3g}, {high:.3g}]"


def factor(of: Estimate) -> str:
    """Return a mean logarithm over seeds as a factor, with its 95 % interval."""
    text = f"{np.exp(of.estimate):.3g}"
    if of.interval_95 is None:
        return text
    low, high = np.exp(of.interval_95)
    return f"{text} [{low:.3g}, {high:.3g}]"
