"""The numbers by which verdicts are found; the digest of a study has them all.

Each is explained where it is used: in ``plasticity.studies.verdicts`` and in
``plasticity.studies.findings``.
"""

from __future__ import annotations

from typing import Any

ALPHA = 0.05
"""Rate at which a claim may be made that is false."""

ALPHA_OF_TWO_LOOKS = 0.03
"""The same of each of two looks, the second at twice as many seeds: Pocock's constant for one-sided
5 % is 0.0304."""

MIN_SEEDS = 10
"""With fewer seeds, nothing is said to be absent."""

FLOOR = 20
"""An arm has something to lose if its early accuracy is shown to be so many margins above
chance."""

COLLAPSE = 5
"""A run collapses that loses so many margins or more."""

FEWEST_EARLY = 5
"""So many tasks at least are in the first tenth, without the first task of all."""

GROWN = 1.1
"""Parameters grow if their norm becomes more than so many times as large."""

LARGER_SD = 2.12
"""The true SD may be so many times that of three seeds (80 % bound, chi-squared)."""

FIRST_UNSEEN = 100
"""Seeds below were looked at to find hypotheses, so they do not test them."""

EARLY = "mean of the tasks 2 to T/10"
DEFICIT = "of the last max(10, T/30) tasks"
LATE = "mean of the last T/10 tasks"
SLOPE = "least squares"


def rules(looks: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return all rules, as JSON, of a study with these looks at its seeds."""
    return {
        "alpha": alpha_of(looks), "min_seeds": MIN_SEEDS, "floor": FLOOR,
        "collapse": COLLAPSE, "fewest_early": FEWEST_EARLY, "grown": GROWN, "early": EARLY,
        "deficit": DEFICIT, "late": LATE, "slope": SLOPE,
    }  # fmt: skip


def alpha_of(looks: tuple[int, ...] = ()) -> float:
    """Return the level at which each look at the seeds tests."""
    return ALPHA_OF_TWO_LOOKS if len(looks) > 1 else ALPHA
