"""From numbers per seed to what cures: the worked example, and each rule by a slow second way."""

import math

import numpy as np
import pytest
import scipy.stats

from plasticity.statistics.inference import holm, ratio_interval
from plasticity.studies.cures import beyond_young, judge

N = [74, 76, 73, 75, 77, 72, 75, 74, 76, 75]
F = [88, 87, 88, 87, 88, 87, 88, 88, 87, 88]
# Changed; gain; share with its interval; over half; p of cures, helps, none, harms; word.
EXAMPLE = [
    ([85, 86, 84, 86, 86, 85, 87, 85, 86, 86], 10.9, (0.845, 0.798, 0.897), 10,
     (5.881e-9, 1.994e-10, 1, 1), "cures"),
    ([77, 79, 75, 78, 80, 76, 78, 76, 79, 78], 2.9, (0.225, 0.187, 0.267), 0,
     (1, 1.113e-6, 1, 1), "helps"),
    ([74.2, 75.8, 73.1, 74.7, 77.3, 72.2, 74.9, 74.1, 75.6, 75.3], 0.02,
     (0.0016, -0.0131, 0.0150), 0, (1, 1, 3.229e-7, 1), "no effect"),
    ([66, 64, 68, 67, 70, 63, 66, 68, 65, 69], -8.1, (-0.628, -0.802, -0.476), 0,
     (1, 1, 1, 1.713e-6), "harms"),
    ([74, 82, 70, 76, 81, 70, 79, 73, 77, 74], 0.9, (0.070, -0.086, 0.250), 1,
     (0.9996, 0.5419, 0.4581, 0.9650), "undecided"),
    (N, 0, (0, 0, 0), 0, (1, 1, 9.766e-4, 1), "no effect"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "gain", "share", "over", "p", "word"), EXAMPLE)
def test_worked_example(
    changed: list, gain: float, share: tuple, over: int, p: tuple, word: str
) -> None:
    found = judge(N, changed, F)
    assert (found.word, found.n, found.over_half, found.fragile) == (word, 10, over, False)
    assert found.gap == pytest.approx(12.9)
    assert found.gain == pytest.approx(gain, abs=1e-12)
    digits = 5e-5 if share[0] == 0.0016 else 5e-4
    assert (found.share, *found.share_95) == pytest.approx(share, abs=digits)
    assert found.p["gap"] == pytest.approx(3.875e-8, rel=5e-4)
    for name, value in zip(("cures", "helps", "none", "harms"), p, strict=True):
        assert found.p[name] == pytest.approx(value, rel=5e-4, abs=0)


def test_equal_gains_are_equal_though_computers_round_them() -> None:
    aged, untrained = np.linspace(20.1, 70.7, 10), np.linspace(33.3, 82.1, 10)
    assert np.ptp(aged + 0.3 - aged) > 0  # rounding
    found = judge(aged, aged + 0.3, untrained)
    assert found.p["none"] == 2.0**-10
    assert judge(aged, (aged + untrained) / 2, untrained).p["cures"] == 1  # exactly half of the gap


def test_what_helps_a_young_network_as_much_is_not_beyond_it() -> None:
    changed, young = EXAMPLE[0][0], [87, 88, 86, 88, 87, 88, 87, 86, 88, 87]
    better = [90, 92, 89, 92, 90, 91, 91, 89, 91, 91]
    found = beyond_young(N, changed, young, better)
    by_hand = [c - n - (b - y) for n, c, y, b in zip(N, changed, young, better, strict=True)]
    expected = scipy.stats.ttest_1samp(by_hand, 0).confidence_interval(0.95)
    assert found.interval_95 == pytest.approx((expected.low, expected.high))
    assert found.interval_95[0] > 0  # it is a cure: 10.9 points, of the young 3.5
    assert beyond_young(N, changed, N, changed).interval_95 == (0, 0)
    with pytest.raises(ValueError, match="10, 10, 9, 10 seeds"):
        beyond_young(N, changed, young[:9], better)


def test_where_there_is_nothing_to_cure_no_share_is_given() -> None:
    aged = [99, 100, 99.5, 98.8, 100, 99.2, 100, 99.6, 99.1, 100]
    found = judge(aged, [100] * 10, [100] * 10)
    assert (found.word, found.share, found.share_95) == ("nothing to cure", None, None)
    assert found.gap == pytest.approx(0.48)
    assert judge(aged[:9], [100] * 9, [100] * 9).word == "gap not shown"  # too few to say so


def test_a_cure_of_a_few_seeds_that_collapse_is_fragile() -> None:
    aged = [50, 99, 100, 52, 98, 51, 100, 97, 50, 99]
    found = judge(aged, [100] * 10, [99, 99, 100, 99, 100, 99, 100, 98, 99, 100])
    assert (found.word, found.over_half, found.fragile) == ("cures", 8, True)
    assert found.p["gap"] == pytest.approx(0.04561, abs=5e-6)
    assert found.gain == pytest.approx(20.4)
    assert (found.share, *found.share_95) == pytest.approx((1.036, 1.013, 1.255), abs=5e-4)


def test_holm_of_the_worked_example() -> None:
    adjusted = holm([0.0001, 0.004, 0.03, 0.0002, 0.012, 0.6])
    assert adjusted == pytest.approx([0.0006, 0.016, 0.06, 0.001, 0.036, 0.6])


def second_judge(nothing: np.ndarray, changed: np.ndarray, untrained: np.ndarray) -> str:
    """Judge by scipy's paired tests, a claim after the other."""

    def shown(x: np.ndarray, bound: float) -> bool:
        if np.ptp(x) < 1e-9:
            return bool(x[0] > bound) and 0.5 ** len(x) <= 0.05
        return scipy.stats.ttest_1samp(x, bound, alternative="greater").pvalue <= 0.05

    gap, gain, many = untrained - nothing, changed - nothing, len(nothing) >= 10
    if not shown(gap, 5):
        return "nothing to cure" if shown(-gap, -5) and many else "gap not shown"
    for word, claimed in (
        ("cures", shown(gain - gap / 2, 0)),
        ("helps", shown(gain, 1)),
        ("harms", shown(-gain, 1)),
        ("no effect", shown(gain, -1) and shown(-gain, -1) and many),
    ):
        if claimed:
            return word
    return "undecided"


def test_words_are_those_of_a_second_way_and_all_of_them_occur() -> None:
    rng = np.random.default_rng(0)
    words = set()
    for _ in range(600):
        n, gap, gain = rng.integers(2, 21), rng.choice([0, 4, 6, 15]), rng.normal(0, 6)
        nothing = 75 + rng.normal(0, 1, n)
        changed = nothing + gain * rng.choice([0, 1]) + rng.normal(0, rng.choice([0.1, 1, 4]), n)
        untrained = nothing + gap + rng.normal(0, 1, n)
        found = judge(nothing, changed, untrained)
        assert found.word == second_judge(nothing, changed, untrained)
        assert (found.share is None) == (found.p["gap"] > 0.05)
        words.add(found.word)
    assert len(words) == 7


def test_it_cures_exactly_where_the_lower_end_of_the_share_is_a_half() -> None:
    """One-sided tests of 5 % and 90 % intervals of Fieller are the same statement."""
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(500):
        nothing, n = rng.normal(75, 1, 8), 8
        untrained = nothing + 12 + rng.normal(0, 1, n)
        changed = nothing + 6.5 + rng.normal(0, 1, n)
        ends = ratio_interval(changed - nothing, untrained - nothing, 0.90)
        assert ends is not None
        cures = judge(nothing, changed, untrained).p["cures"] <= 0.05
        assert cures == (ends[0] >= 0.5)
        seen.add(cures)
    assert seen == {True, False}


def test_interval_of_the_share_is_that_of_a_bootstrap_of_many_seeds() -> None:
    rng = np.random.default_rng(2)
    gap = rng.normal(13, 2, 200)
    gain = 0.6 * gap + rng.normal(0, 3, 200)
    draws = rng.integers(0, 200, (2000, 200))
    ratios = gain[draws].mean(1) / gap[draws].mean(1)
    low, high = ratio_interval(gain, gap)
    assert [low, high] == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.006)


def test_interval_of_the_share_holds_the_ratio_of_means_at_its_rate() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(4000):
        gap = rng.normal(10, 3, 10)
        gain = 0.4 * gap + rng.normal(0, 2, 10)
        low, high = ratio_interval(gain, gap)
        held += low <= 0.4 <= high
    assert abs(held / 4000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_a_ratio_whose_denominator_may_be_0_has_no_interval() -> None:
    assert ratio_interval([1.0, 2.0, 3.0], [-1.0, 0.0, 2.0]) is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (([1], [1], [1]), "at least 2"),
        (([1, 2], [1, 2, 3], [1, 2]), "changed has 3 seeds, nothing has 2"),
        (([1, 2], [1, 2], [1, math.nan]), "untrained: nan is not a finite number"),
        (([1, 2], [[1, 2]], [1, 2]), r"changed: values have shape \(1, 2\)"),
    ],
)
def test_values_that_are_not_one_a_seed_are_refused(values: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        judge(*values)
