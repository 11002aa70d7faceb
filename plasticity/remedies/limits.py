"""The limits of a remedy's options."""

from __future__ import annotations

import math
from typing import Any


def require(remedy: Any, low: float, high: float, *names: str) -> None:
    """Refuse options of a remedy that are not within limits, or not finite.

    Args:
        remedy: Whose options they are.
        low: The least that an option can be.
        high: The greatest; may be infinite.
        names: The options.

    Raises:
        TypeError: An option is no number.
        ValueError: Names option, value and limit.
    """
    for name in names:
        value = getattr(remedy, name)
        if not hasattr(value, "__float__"):
            raise TypeError(f"{name.replace('_', '-')} {value!r}: must be a number")
        if not (math.isfinite(value) and low <= value <= high):
            limit = f"at least {low}" if math.isinf(high) else f"{low} to {high}"
            raise ValueError(f"{name.replace('_', '-')} {value}: {limit}")
