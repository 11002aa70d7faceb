"""How often a verdict is false: 20,000 studies a case, by the rules of old and by those of now.

    python docs/false_words.py

It prints the table of the page *From seeds to a verdict*, and writes it to
``docs/records/false-words.md``. All losses are in margins. In each case the truth is one at which
the word is just false, such as a mean loss of exactly a margin for ``keeps``.

The rules are written here once more, for all studies at a time. Those of now are compared with
``plasticity.studies.verdicts.decide`` on the first studies of each case.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]

from plasticity.statistics.estimates import SKEWED  # noqa: E402
from plasticity.statistics.inference import p_above, p_below, t_interval  # noqa: E402
from plasticity.statistics.tables import markdown_table  # noqa: E402
from plasticity.studies.rules import (  # noqa: E402
    ALPHA,
    ALPHA_OF_TWO_LOOKS,
    COLLAPSE,
    FLOOR,
    MIN_SEEDS,
)
from plasticity.studies.verdicts import decide, share_at_most  # noqa: E402

DRAWS = 20_000
SEEDS = (5, 10, 20)
ARMS = 38
"""Of the family, as many as the study mnist-why has."""
FALLEN = 75.0
"""So many margins above chance is a run before it diverges."""
COMPARED = 100
"""So many studies of each case are decided by the program, too."""

Rng = np.random.Generator
Flags = np.ndarray
"""One truth value a study."""


# --- the rules


def equal(losses: np.ndarray) -> Flags:
    """Return in which studies all seeds have the same value."""
    return np.ptp(losses, axis=-1) == 0


def loses_before(losses: np.ndarray, alpha: float = ALPHA) -> Flags:
    """Say ``loses`` by the rules of old: equal values have a p value of 0."""
    p = np.where(equal(losses) & (losses[..., 0] > 0), 0.0, p_above(losses, 0.0))
    return p <= alpha


def keeps_before(losses: np.ndarray, alpha: float = ALPHA) -> Flags:
    """Say ``keeps`` or ``loses less than the margin`` by the rules of old."""
    if losses.shape[-1] < MIN_SEEDS:
        return np.zeros(losses.shape[:-1], bool)
    p = np.where(equal(losses) & (losses[..., 0] < 1), 0.0, p_below(losses, 1.0))
    return p <= alpha


def loses_now(losses: np.ndarray, alpha: float = ALPHA) -> Flags:
    """Say ``loses`` by the rules of now, of an arm that has all of its seeds."""
    return p_above(losses, 0.0) <= alpha


def keeps_now(losses: np.ndarray, alpha: float = ALPHA) -> Flags:
    """Say ``keeps`` by the rules of now, of an arm that has all of its seeds and learned."""
    return (losses.shape[-1] >= MIN_SEEDS) & (p_below(losses, 1.0) <= alpha)


def check(losses: np.ndarray, arms: int = 1, levels: np.ndarray | None = None) -> None:
    """Compare the rules of now with those of the program, on the first studies.

    Raises:
        AssertionError: They say something else.
    """
    declared = ["arm", *map(str, range(1, arms))]
    loses, keeps = loses_now(losses, ALPHA / arms), keeps_now(losses, ALPHA / arms)
    if levels is not None:
        keeps &= t_interval(levels)[0] >= FLOOR
    for k, of_seeds in enumerate(losses[:COMPARED]):
        found = {} if levels is None else {"levels": {"arm": levels[k]}, "chance": 0.0}
        word = decide({"arm": of_seeds}, 1.0, declared, **found)["arm"].verdict
        says_keeps = word in ("keeps", "loses less than the margin")
        says_loses = word.startswith("loses")
        assert says_keeps == keeps[k], (word, k)
        assert levels is not None or says_loses == loses[k], (word, k)


# --- the cases


def normal(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """Draw with mean 0 and standard deviation 1."""
    return rng.normal(size=shape)


def student(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """Draw Student's t with 3 degrees of freedom, of standard deviation 1."""
    return rng.standard_t(3, shape) / np.sqrt(3)


def lognormal(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """Draw with a skewness of 3.7, mean 0 and standard deviation 1."""
    values = np.exp(0.8 * rng.normal(size=shape))
    variance = (np.exp(0.64) - 1) * np.exp(0.64)
    return (values - np.exp(0.32)) / np.sqrt(variance)


def lognormal_of_gains(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """Draw the same, skewed the other way."""
    return -lognormal(rng, shape)


DISTRIBUTIONS: dict[str, Callable[[Rng, tuple[int, ...]], np.ndarray]] = {
    "normal": normal,
    "Student's t, 3 degrees of freedom": student,
    "lognormal, few lose much": lognormal,
    "lognormal, few gain much": lognormal_of_gains,
}

Shares = tuple[float, float]
"""Of false words, before and now."""


def shares(before: Flags, now: Flags) -> Shares:
    """Return which part of the studies says a false word."""
    return float(before.mean()), float(now.mean())


def of_distribution(name: str, word: str) -> Callable[[Rng, int], Shares]:
    """Return a case in which the mean loss is 0, and for ``keeps`` a margin."""

    def case(rng: Rng, n: int) -> Shares:
        losses = DISTRIBUTIONS[name](rng, (DRAWS, n)) + (word == "keeps")
        check(losses)
        if word == "keeps":
            return shares(keeps_before(losses), keeps_now(losses))
        return shares(loses_before(losses), loses_now(losses))

    return case


def unmarked(name: str, word: str) -> Callable[[Rng, int], Shares]:
    """Return the same, where a false word counts now only if it is not marked as fragile."""

    def case(rng: Rng, n: int) -> Shares:
        losses = DISTRIBUTIONS[name](rng, (DRAWS, n)) + (word == "keeps")
        before, now = (keeps_before, keeps_now) if word == "keeps" else (loses_before, loses_now)
        centered = losses - losses.mean(1, keepdims=True)
        skewness = (centered**3).mean(1) / (centered**2).mean(1) ** 1.5
        return shares(before(losses), now(losses) & (np.abs(skewness) <= SKEWED))

    return case


def collapse(q: float) -> Callable[[Rng, int], Shares]:
    """Return a case in which a part q of the runs loses 60 margins, and the others nothing."""

    def case(rng: Rng, n: int) -> Shares:
        losses = np.where(rng.random((DRAWS, n)) < q, 60.0, rng.normal(0, 0.3, (DRAWS, n)))
        check(losses)
        return shares(keeps_before(losses), keeps_now(losses))

    return case


def collapse_denied(q: float) -> Callable[[Rng, int], Shares]:
    """Return the same, where "at most U % of runs collapse" is counted if it is false."""

    def case(rng: Rng, n: int) -> Shares:
        losses = np.where(rng.random((DRAWS, n)) < q, 60.0, rng.normal(0, 0.3, (DRAWS, n)))
        share = np.array([share_at_most(k, n) for k in range(n + 1)])
        denied = share[(losses >= COLLAPSE).sum(1)] < q
        return shares(keeps_before(losses), keeps_now(losses) & denied)

    return case


def equal_values(word: str, arms: int) -> Callable[[Rng, int], Shares]:
    """Return a case in which a twelfth of the runs differs, and the others have the same value."""

    def case(rng: Rng, n: int) -> Shares:
        differs = rng.random((DRAWS, n)) < 1 / 12
        level = ALPHA / arms
        if word == "keeps":
            losses = np.where(differs, 12.0, 0.0)  # a margin in the mean
            check(losses, arms)
            return shares(keeps_before(losses, level), keeps_now(losses, level))
        losses = np.where(differs, -11.0, 1.0)  # nothing in the mean
        check(losses, arms)
        return shares(loses_before(losses, level), loses_now(losses, level))

    return case


def at_chance(rng: Rng, n: int) -> Shares:
    """Let an arm guess from the first task to the last."""
    losses, early = rng.normal(0, 0.5, (2, DRAWS, n))
    check(losses, levels=early)
    has_something = t_interval(early)[0] >= FLOOR
    return shares(keeps_before(losses), keeps_now(losses) & has_something)


def divergence(q: float) -> Callable[[Rng, int], Shares]:
    """Return a case in which a part q of the runs diverges, and the others lose nothing.

    Before, what diverged was not in the sample. Now, it is at chance.
    """

    def case(rng: Rng, n: int) -> Shares:
        losses, diverged = rng.normal(0, 0.3, (DRAWS, n)), rng.random((DRAWS, n)) < q
        before = np.zeros(DRAWS, bool)
        for left in range(2, n + 1):
            those = n - diverged.sum(1) == left
            complete = losses[those][~diverged[those]].reshape(-1, left)
            before[those] = keeps_before(complete)
        fallen = np.where(diverged, FALLEN, losses)
        check(fallen)
        return shares(before, keeps_now(fallen))

    return case


def stopping(word: str, looks: tuple[int, ...], level: float) -> Callable[[Rng, int], Shares]:
    """Return a case in which one looks after 10, 11, ..., 20 seeds until the word comes.

    Now, one looks once, at as many seeds as are declared, or at ``looks`` with a lower level.
    """

    def case(rng: Rng, n: int) -> Shares:
        losses = rng.normal(word == "keeps", 1, (DRAWS, n))
        before, now = (keeps_before, keeps_now) if word == "keeps" else (loses_before, loses_now)
        at_each = [before(losses[:, :seeds]) for seeds in range(10, n + 1)]
        declared = [now(losses[:, :seeds], level) for seeds in looks]
        return shares(np.any(at_each, 0), np.any(declared, 0))

    return case


def family(word: str) -> Callable[[Rng, int], Shares]:
    """Return a case in which a report of many arms is read after each one; any false word counts.

    Before, p values were adjusted over the arms that were there; now, over those declared.
    """

    def case(rng: Rng, n: int) -> Shares:
        smallest, before = np.ones(DRAWS), np.zeros(DRAWS, bool)
        for arms in range(1, ARMS + 1):
            losses = rng.normal(word == "keeps", 1, (DRAWS, n))
            p = p_below(losses, 1.0) if word == "keeps" else p_above(losses, 0.0)
            smallest = np.minimum(smallest, p)
            # Holm's method makes a claim if the smallest p value times the number of arms is small.
            before |= smallest * arms <= ALPHA
        enough = word == "loses" or n >= 10
        return shares(before & enough, (smallest * ARMS <= ALPHA) & enough)

    return case


Case = tuple[str, str, Callable[[Rng, int], Shares], tuple[int, ...]]


def cases() -> list[Case]:
    """Return name, false word, what is drawn, and for which numbers of seeds."""
    found: list[Case] = [
        (name, word, of_distribution(name, word), SEEDS)
        for name in DISTRIBUTIONS
        for word in ("loses", "keeps")
    ]
    for name, word in (
        ("lognormal, few lose much", "keeps"),
        ("lognormal, few gain much", "loses"),
    ):
        found.append((name, f"{word}, and is not marked as fragile", unmarked(name, word), SEEDS))
    for q in (0.02, 0.05, 0.1):
        found.append((f"{100 * q:.0f} % of runs collapse", "keeps", collapse(q), SEEDS))
        words = "keeps, and denies that so many collapse"
        found.append((f"{100 * q:.0f} % of runs collapse", words, collapse_denied(q), SEEDS))
    for word in ("loses", "keeps"):
        found.append(("11 of 12 values equal", word, equal_values(word, 1), SEEDS))
        among = f"11 of 12 values equal, one of {ARMS} arms"
        found.append((among, word, equal_values(word, ARMS), SEEDS))
    found.append(("an arm at chance", "keeps", at_chance, SEEDS))
    for q in (0.05, 0.1, 0.2):
        found.append((f"{100 * q:.0f} % of runs diverge", "keeps", divergence(q), SEEDS))
    for word in ("loses", "keeps"):
        name = "looks at 10, 11, ..., 20 seeds; now 20 declared"
        found.append((name, word, stopping(word, (20,), ALPHA), (20,)))
        name = "the same; now looks at 10 and 20, each at 3 %"
        found.append((name, word, stopping(word, (10, 20), ALPHA_OF_TWO_LOOKS), (20,)))
    for word in ("loses", "keeps"):
        name = f"any of {ARMS} arms, read after each"
        found.append((name, word, family(word), SEEDS))
    return found


def table() -> str:
    """Return the table, in per cent of the studies: before, and now."""
    rows = []
    for number, (name, word, case, of_seeds) in enumerate(cases()):
        cells = []
        for n in SEEDS:
            if n not in of_seeds:
                cells.append("")
                continue
            before, now = case(np.random.default_rng([number, n]), n)
            cells.append(f"{100 * before:.1f}, {100 * now:.1f}")
        rows.append((name, word, *cells))
    titles = ("case", "false word", *(f"{n} seeds" for n in SEEDS))
    return markdown_table(titles, rows)


def main() -> None:
    """Print the table and write it."""
    text = table()
    (HERE / "records" / "false-words.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
