"""Student's t over seeds, Holm, equivalence, power: against SciPy, statsmodels and simulation.

Simulated rates are compared within ``SIGMAS`` standard errors of a binomial rate.
"""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from plasticity.statistics.inference import (
    bca_interval,
    holm,
    p_above,
    p_below,
    power,
    seeds_needed,
    t_interval,
    tost,
)
from plasticity.statistics.summaries import interquartile_mean

DRAWS = 20_000
SIGMAS = 4.5
SEEDS = (5, 10, 20)
# The power of two one-sided tests with 5, 10 and 20 seeds, by margin / SD: the true mean is 0 and
# alpha 5 %. The plan of the studies lists it, and takes it for that of "keeps", which has more.
EQUIVALENCE = {
    0.5: (0.02, 0.06, 0.39),
    0.75: (0.11, 0.43, 0.89),
    1: (0.30, 0.80, 0.99),
    1.5: (0.73, 0.99, 1),
    2: (0.95, 1, 1),
}


def normal(n: int, mean: float = 0.0, sd: float = 1.0, draws: int = DRAWS) -> np.ndarray:
    return np.random.default_rng(n).normal(mean, sd, (draws, n))


def skewed(n: int, spread: float) -> np.ndarray:
    """Draw exp(spread z), z normal, moved to mean 0: skewness 1.75 for 0.5, and 6.2 for 1."""
    values = np.random.default_rng(n).lognormal(0, spread, (DRAWS, n))
    return values - math.exp(spread**2 / 2)


def error(rate: float, draws: int = DRAWS) -> float:
    return SIGMAS * math.sqrt(rate * (1 - rate) / draws)


def contain(values: np.ndarray, confidence: float) -> float:
    low, high = t_interval(values, confidence)
    return float(((low <= 0) & (high >= 0)).mean())


def some_values(n: int, seed: int = 0) -> list[float]:
    return np.random.default_rng([seed, n]).normal(0.3, 1.0, n).tolist()


# --- Student's t


def test_interval_of_a_worked_example() -> None:
    # sd 1, standard error 1 / sqrt(3); with 2 degrees of freedom, 97.5 % of t are below 4.3027.
    low, high = t_interval([1, 2, 3])
    assert (low, high) == (pytest.approx(2 - 2.48414, abs=1e-5), pytest.approx(4.48414, abs=1e-5))


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_interval_is_that_of_scipy(n: int, confidence: float) -> None:
    values = some_values(n)
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert t_interval(values, confidence) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("bound", [-0.2, 0.0, 0.7])
def test_one_sided_p_values_are_those_of_scipy(n: int, bound: float) -> None:
    values = some_values(n)
    less = stats.ttest_1samp(values, bound, alternative="less").pvalue
    greater = stats.ttest_1samp(values, bound, alternative="greater").pvalue
    assert p_below(values, bound) == pytest.approx(less, rel=1e-10)
    assert p_above(values, bound) == pytest.approx(greater, rel=1e-10)


def test_many_samples_at_once_give_what_each_gives_alone() -> None:
    values = np.random.default_rng(0).normal(0, 1, (2, 3, 6))
    values[1, 2] = 0.1
    lows, highs = t_interval(values)
    for at in itertools.product(range(2), range(3)):
        assert (lows[at], highs[at]) == pytest.approx(t_interval(values[at]), rel=1e-12)
        assert p_below(values, 0.5)[at] == pytest.approx(p_below(values[at], 0.5), rel=1e-12)
        assert tost(values, 0.5)[at] == pytest.approx(tost(values[at], 0.5), rel=1e-12)


@pytest.mark.parametrize("value", [0.1, -0.3, 0.0, 1 / 3])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_equal_values_have_no_width_and_decide_by_themselves(value: float, n: int) -> None:
    values = [value] * n
    assert t_interval(values) == (value, value)
    signs = 0.5**n  # the exact sign test
    assert (p_below(values, value + 1e-9), p_above(values, value + 1e-9)) == (signs, 1)
    assert (p_below(values, value - 1e-9), p_above(values, value - 1e-9)) == (1, signs)
    assert (p_below(values, value), p_above(values, value)) == (1, 1)
    assert tost(values, 0.2) == (signs if abs(value) < 0.2 else 1)


@pytest.mark.parametrize("test", [t_interval, lambda x: p_below(x, 0), lambda x: tost(x, 1)])
def test_what_has_no_t_is_refused(test) -> None:
    with pytest.raises(ValueError, match=r"^a single value has neither interval nor t test"):
        test([0.5])
    with pytest.raises(ValueError, match=r"^values have shape \(0,\): give one value per seed$"):
        test([])
    with pytest.raises(ValueError, match=r"^nan is not a finite number$"):
        test([0.5, math.nan])


@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_intervals_of_normal_values_contain_the_mean_as_often_as_they_say(
    n: int, confidence: float
) -> None:
    assert contain(normal(n), confidence) == pytest.approx(confidence, abs=error(confidence))


@pytest.mark.parametrize("n", SEEDS)
def test_of_normal_values_a_twentieth_is_called_below_or_above_what_they_equal(n: int) -> None:
    margin = 0.7
    keeps = (p_below(normal(n, margin), margin) <= 0.05).mean()
    loses = (p_above(normal(n), 0) <= 0.05).mean()
    flat = (tost(normal(n, -margin, sd=0.1), margin) <= 0.05).mean()
    assert [keeps, loses, flat] == pytest.approx([0.05] * 3, abs=error(0.05))


# What was found where seeds that fall far are rare: these are often not in the sample. So "keeps"
# is said too often and "loses" too rarely, and the skewness of the sample gives few of these away.
@pytest.mark.parametrize(
    ("spread", "n", "contained", "false_keeps", "false_loses", "fragile"),
    [
        (0.5, 5, 0.916, 0.124, 0.015, 0.14),
        (0.5, 10, 0.925, 0.107, 0.017, 0.19),
        (0.5, 20, 0.930, 0.096, 0.023, 0.29),
        (1.0, 5, 0.820, 0.234, 0.004, 0.20),
        (1.0, 10, 0.843, 0.202, 0.004, 0.41),
        (1.0, 20, 0.867, 0.173, 0.007, 0.68),
    ],
)
def test_of_skewed_values_too_many_are_called_below_and_few_above(
    spread: float, n: int, contained: float, false_keeps: float, false_loses: float, fragile: float
) -> None:
    values = skewed(n, spread)
    keeps = p_below(values, 0.0) <= 0.05
    assert contain(values, 0.95) == pytest.approx(contained, abs=0.01)
    assert keeps.mean() == pytest.approx(false_keeps, abs=0.01)
    assert (p_above(values, 0.0) <= 0.05).mean() == pytest.approx(false_loses, abs=0.005)
    # Of the false ones, how many are marked.
    marked = np.abs(stats.skew(values[keeps], axis=1)) > 1
    assert marked.mean() == pytest.approx(fragile, abs=0.05)


# --- equivalence, several arms


@pytest.mark.parametrize("n", [2, 5, 20])
@pytest.mark.parametrize("margin", [0.1, 0.5, 2.0])
def test_two_one_sided_tests_are_those_of_statsmodels(n: int, margin: float) -> None:
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    ours, reference = np.array(some_values(n)), np.array(some_values(n, seed=1))
    expected, *_ = weightstats.ttost_paired(ours, reference, -margin, margin)
    assert tost(ours - reference, margin) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("ratio", EQUIVALENCE)
def test_equivalence_is_shown_at_the_rates_of_the_plan(ratio: float) -> None:
    shown = [(tost(normal(n, sd=1 / ratio), 1.0) <= 0.05).mean() for n in SEEDS]
    assert shown == pytest.approx(EQUIVALENCE[ratio], abs=0.015)


def test_holm_of_a_worked_example() -> None:
    # 0.01 x 4, 0.02 x 3, 0.03 x 2 and 0.04 x 1, which must not be less than 0.06.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]).tolist() == [1, 1]
    assert holm([0.3]).tolist() == [0.3]
    assert holm([]).tolist() == []


@pytest.mark.sampled(1)
@pytest.mark.parametrize("m", [1, 2, 5, 19])
@pytest.mark.parametrize("digits", [1, 3, 12])  # few: ties
def test_holm_is_that_of_statsmodels(m: int, digits: int) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(m).uniform(0, 1, m).round(digits) ** 3
    expected = multitest.multipletests(p, method="holm")[1]
    assert holm(p) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_what_is_no_p_value_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=rf"^p value {p} is not between 0 and 1$"):
        holm([0.5, p])


def test_holm_keeps_the_rate_of_any_false_claim() -> None:
    arms, draws = 5, 4000
    values = np.random.default_rng(0).normal(1.0, 1.0, (draws, arms, 10))
    raw = p_below(values, 1.0)
    any_raw = (raw <= 0.05).any(1).mean()
    any_adjusted = np.mean([(holm(p) <= 0.05).any() for p in raw])
    assert any_raw == pytest.approx(1 - 0.95**arms, abs=error(0.23, draws))
    assert any_adjusted == pytest.approx(1 - 0.99**arms, abs=error(0.05, draws))


# --- the number of seeds


@pytest.mark.parametrize("n", [2, *SEEDS])
@pytest.mark.parametrize("ratio", [0.5, 1, 2])
def test_power_is_the_rate_at_which_keeps_is_shown(n: int, ratio: float) -> None:
    sd, margin = 0.02, 0.02 * ratio
    for alpha in (0.05, 0.01):
        shown = (p_below(normal(n, sd=sd), margin) <= alpha).mean()
        expected = power(n, sd, margin, alpha)
        assert shown == pytest.approx(expected, abs=error(expected) + 1e-4)


@pytest.mark.parametrize("ratio", EQUIVALENCE)
def test_keeps_has_the_power_of_equivalence_or_more(ratio: float) -> None:
    for n, equivalence in zip(SEEDS, EQUIVALENCE[ratio], strict=True):
        one = power(n, 1.0, ratio)
        assert one >= equivalence - 0.01
        # Where little is missing, both sides of equivalence fail apart from each other.
        if equivalence > 0.7:
            assert 1 - equivalence == pytest.approx(2 * (1 - one), abs=0.03)


def test_power_of_large_samples_is_that_of_a_normal_test() -> None:
    gaussian = NormalDist()
    expected = gaussian.cdf(0.05 * math.sqrt(2500) - gaussian.inv_cdf(0.95))
    assert power(2500, 1.0, 0.05) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("sd", [0.002, 0.005, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.95])
def test_seeds_needed_are_the_fewest_that_have_the_power(sd: float, wanted: float) -> None:
    fewest = next(n for n in itertools.count(2) if power(n, sd, 0.01) >= wanted)
    assert seeds_needed(sd, 0.01, wanted) == fewest
    stricter = next(n for n in itertools.count(2) if power(n, sd, 0.01, 0.01) >= wanted)
    assert seeds_needed(sd, 0.01, wanted, 0.01) == stricter >= fewest


def test_seeds_of_a_spread_of_nothing_or_next_to_it_are_two() -> None:
    assert seeds_needed(0.0, 0.01) == seeds_needed(1e-9, 0.01) == 2
    assert power(2, 0.0, 0.01) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power(1, 1, 1), "1 seeds have no t test: at least 2"),
        (lambda: power(5, -1, 1), "sd -1 is negative or not finite"),
        (lambda: power(5, math.nan, 1), "sd nan is negative or not finite"),
        (lambda: power(5, 1, 0), "margin 0 is not a positive number"),
        (lambda: seeds_needed(1, -1), "margin -1 is not a positive number"),
        (lambda: seeds_needed(1, 1, power=1), "power 1 is not between 0 and 1"),
        (lambda: seeds_needed(1, 1, alpha=0), "alpha 0 is not between 0 and 1"),
        (
            lambda: seeds_needed(1, 1e-4),
            "sd 1 against margin 0.0001 needs more than 1,000,000 ",
        ),
    ],
)
def test_plan_that_cannot_be_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


# --- the bootstrap


def bca_by_hand(
    values: list[float], statistic, confidence: float, draws: int = DRAWS
) -> list[float]:
    """Return the interval as Efron's paper writes it, from samples of our own."""
    gaussian, generator = NormalDist(), np.random.default_rng(1)
    x, found = np.array(values), statistic(np.array(values))
    drawn = np.sort([statistic(generator.choice(x, len(x))) for _ in range(draws)])
    lower = (drawn < found).mean() + (drawn == found).mean() / 2
    bias = gaussian.inv_cdf(lower)
    left_out = np.array([statistic(np.delete(x, i)) for i in range(len(x))])
    off = left_out.mean() - left_out
    acceleration = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
    ends = []
    for quantile in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = bias + gaussian.inv_cdf(quantile)
        ends.append(np.quantile(drawn, gaussian.cdf(bias + z / (1 - acceleration * z))))
    return ends


@pytest.mark.sampled(1)
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_bootstrap_interval_is_that_of_the_paper(confidence: float) -> None:
    values = np.random.default_rng(0).lognormal(0, 1, 25).tolist()
    expected = bca_by_hand(values, np.mean, confidence)
    found = bca_interval(values, confidence=confidence)
    assert found == pytest.approx(expected, abs=0.03)
    assert found == bca_interval(values, confidence=confidence)  # nothing is left to chance


@pytest.mark.slow
def test_bootstrap_interval_of_another_statistic_is_that_of_the_paper() -> None:
    values = some_values(20)
    expected = bca_by_hand(values, interquartile_mean, 0.95, 2000)
    assert bca_interval(values, interquartile_mean) == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize("values", [some_values(19), [0.1] * 30, [2.0]])
def test_few_or_equal_values_have_no_bootstrap_interval(values: list[float]) -> None:
    assert bca_interval(values) is None


def test_statistic_that_resampling_does_not_change_has_no_bootstrap_interval() -> None:
    assert bca_interval([0.0] * 20 + [1.0], lambda values: 3.0) is None
    # Leaving out one value does not change it, though resampling does.
    values = [0.0] * 17 + [1.0] * 3
    assert bca_interval(values, lambda values: float(np.sort(values)[5:-5].mean())) is None


def test_bootstrap_of_what_is_not_one_value_per_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^values have shape \(2, 30\), not \(seeds,\)$"):
        bca_interval(np.zeros((2, 30)))
