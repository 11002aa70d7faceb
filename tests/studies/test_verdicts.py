"""Verdicts over seeds: words, numbers and corrections, against SciPy and tests written out."""

import dataclasses
import itertools
import json
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from plasticity.statistics.estimates import Estimate, estimate
from plasticity.statistics.inference import bca_interval, p_above, p_below
from plasticity.studies.verdicts import Verdict, compare_drops, compare_levels, decide, flat

MARGIN = 0.01


def around(mean: float, sd: float = 0.001, n: int = 10) -> list[float]:
    """Return values of exactly this mean and standard deviation."""
    values = np.random.default_rng(n).normal(size=n)
    return (mean + sd * (values - values.mean()) / values.std(ddof=1)).tolist()


ARMS = {
    "mlp": around(0.05),
    "qnn": around(0.0),
    "linear": around(0.005),
    "stiefel": around(0.005, sd=0.05),
}


def word(values: list[float], margin: float = MARGIN, **more: int) -> str:
    return decide({"arm": values}, margin, **more)["arm"].verdict


def adjusted_by_hand(p_values: list[float], own: float) -> float:
    """Return Holm's adjusted p value: the largest step that is needed to come to it."""
    steps = [p * (len(p_values) - rank) for rank, p in enumerate(sorted(p_values)) if p <= own]
    return min(1.0, max(steps))


# --- one arm


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("mlp", "loses"),
        ("qnn", "keeps"),
        ("linear", "loses less than the margin"),
        ("stiefel", "undecided"),
    ],
)
def test_each_verdict_has_its_word(arm: str, expected: str) -> None:
    assert word(ARMS[arm]) == decide(ARMS, MARGIN)[arm].verdict == expected


def test_arm_that_gains_keeps() -> None:
    assert word(around(-0.3)) == "keeps"


def test_numbers_of_a_worked_example() -> None:
    # Mean 2, sd 1, n 3: the 95 and 97.5 % quantiles of t with 2 degrees of freedom are 2.91999 and
    # 4.30265. Of t = 2 sqrt(3), p = 1/2 - t / (2 sqrt(2 + t^2)).
    found = decide({"arm": [3, 1, 2]}, 4)["arm"]
    p = 0.5 - math.sqrt(12) / (2 * math.sqrt(14))
    assert (found.estimate, found.sd, found.n, found.margin) == (2, pytest.approx(1), 3, 4)
    assert found.interval_90 == pytest.approx((2 - 1.68586, 2 + 1.68586), abs=1e-5)
    assert found.interval_95 == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)
    assert (found.p_loses, found.p_keeps) == pytest.approx((p, p))
    assert (found.p_loses_adjusted, found.p_keeps_adjusted) == (found.p_loses, found.p_keeps)
    assert (found.skewness, found.fragile) == (pytest.approx(0), False)
    assert found.verdict == "loses, less than the margin (too few seeds)"
    assert decide({"arm": [3, 1, 2]}, 4, min_seeds=3)["arm"].verdict == "loses less than the margin"


@pytest.mark.parametrize("n", [2, 5, 10, 30])
def test_p_values_and_intervals_are_those_of_scipy(n: int) -> None:
    values = np.random.default_rng(n).normal(0.004, 0.01, n)
    found = decide({"arm": values}, MARGIN)["arm"]
    loses = stats.ttest_1samp(values, 0, alternative="greater").pvalue
    keeps = stats.ttest_1samp(values, MARGIN, alternative="less").pvalue
    assert (found.p_loses, found.p_keeps) == pytest.approx((loses, keeps), rel=1e-9)
    both = stats.ttest_1samp(values, 0)
    assert found.interval_90 == pytest.approx(both.confidence_interval(0.9), rel=1e-9)
    assert found.interval_95 == pytest.approx(both.confidence_interval(0.95), rel=1e-9)
    assert found.estimate == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert found.sd == pytest.approx(statistics.stdev(values), rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_words_follow_from_the_p_values_for_any_seeds(n: int) -> None:
    said = set()
    drawn = np.random.default_rng(n).normal(size=(300, n))
    spreads = itertools.cycle((0.1 * MARGIN, 0.3 * MARGIN, MARGIN))
    for values in (MARGIN / 2 + z * spread for z, spread in zip(drawn, spreads, strict=False)):
        loses, keeps = p_above(values, 0) <= 0.05, p_below(values, MARGIN) <= 0.05
        if loses:
            expected = "loses less than the margin" if keeps else "loses"
        else:
            expected = "keeps" if keeps else "undecided"
        assert word(values, min_seeds=2) == expected
        said.add(expected)
    assert len(said) == 4


@pytest.mark.parametrize("mean", [0.0, 0.005, 0.0102, 0.02])
def test_interval_of_90_percent_decides_one_arm(mean: float) -> None:
    for sd in (0.001, 0.01, 0.03):
        found = decide({"arm": around(mean, sd)}, MARGIN)["arm"]
        low, high = found.interval_90
        assert (found.p_loses <= 0.05, found.p_keeps <= 0.05) == (low > 0, high < MARGIN)


@pytest.mark.parametrize("n", [2, 9])
def test_few_seeds_claim_no_absence(n: int) -> None:
    assert word(around(0.0, 1e-6, n)) == "undecided"
    assert word(around(0.005, 1e-6, n)) == "loses, less than the margin (too few seeds)"
    assert word(around(0.05, 1e-6, n)) == "loses"
    assert word(around(0.0, 1e-6, n), min_seeds=n) == "keeps"
    assert not flat({"arm": around(0.0, 1e-6, n)}, MARGIN)["arm"].flat
    assert word(around(0.0, 1e-6, 10)) == "keeps"


def test_single_seed_is_undecided_and_has_neither_interval_nor_p() -> None:
    found = decide({"arm": [0.3]}, MARGIN, min_seeds=1)["arm"]
    assert found == Verdict(
        estimate=0.3, sd=None, interval_90=None, interval_95=None, n=1, skewness=None,
        fragile=False, verdict="undecided", margin=MARGIN, p_loses=None, p_loses_adjusted=None,
        p_keeps=None, p_keeps_adjusted=None, collapsed=1, collapsed_at_most=1.0,
    )  # fmt: skip
    assert flat({"arm": [0.0]}, MARGIN, min_seeds=1)["arm"].p is None
    assert not flat({"arm": [0.0]}, MARGIN, min_seeds=1)["arm"].flat


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "keeps"),
        (-0.1, "keeps"),
        (0.1 / 30, "loses less than the margin"),
        (MARGIN, "loses"),
        (0.1, "loses"),
    ],
)
def test_equal_values_decide_by_themselves(value: float, expected: str) -> None:
    found = decide({"arm": [value] * 11}, MARGIN)["arm"]
    assert found.verdict == expected
    assert (found.estimate, found.sd) == (value, 0)
    assert found.interval_90 == found.interval_95 == (value, value)
    assert (found.skewness, found.fragile) == (None, False)


@pytest.mark.parametrize("n", [3, 5, 20])
def test_skewness_is_that_of_scipy_and_marks_what_is_over_1(n: int) -> None:
    marked = set()
    for values in np.random.default_rng(n).lognormal(0, 0.5, (100, n)):
        for signed in (values, -values):
            found = estimate(signed)
            assert found.skewness == pytest.approx(stats.skew(signed), rel=1e-9)
            assert found.fragile == (abs(stats.skew(signed)) > 1)
            marked.add(found.fragile)
    assert marked == ({False} if n == 3 else {False, True})  # of three, it is at most 0.71


def test_fragile_is_said_beside_the_verdict_and_does_not_change_it() -> None:
    values = [0.02] * 9 + [0.1]
    found = decide({"arm": values}, MARGIN)["arm"]
    assert (found.verdict, found.fragile) == ("loses", True)


def test_estimate_has_intervals_and_no_p() -> None:
    found = estimate(ARMS["linear"])
    assert type(found) is Estimate
    verdict = dataclasses.asdict(decide(ARMS, MARGIN)["linear"])
    assert dataclasses.asdict(found).items() <= verdict.items()
    assert not [field.name for field in dataclasses.fields(found) if field.name.startswith("p")]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.n = 3


def test_what_is_found_can_be_written_as_json() -> None:
    for found in (decide(ARMS, MARGIN)["qnn"], flat(ARMS, MARGIN)["qnn"], estimate([1.0])):
        fields = dataclasses.asdict(found)
        assert json.loads(json.dumps(fields, allow_nan=False)).keys() == fields.keys()


# --- several arms


def test_p_values_are_adjusted_over_arms_within_each_claim() -> None:
    arms = {str(mean): around(mean, 0.01) for mean in (0.0, 0.004, 0.006, 0.02)}
    found = decide(arms, MARGIN)
    for claim in ("p_loses", "p_keeps"):
        raw = [getattr(arm, claim) for arm in found.values()]
        for arm in found.values():
            expected = adjusted_by_hand(raw, getattr(arm, claim))
            assert getattr(arm, f"{claim}_adjusted") == pytest.approx(expected)


@pytest.mark.parametrize(("mean", "alone"), [(0.0, "keeps"), (MARGIN, "loses")])
def test_what_one_arm_shows_alone_may_be_undecided_among_many(mean: float, alone: str) -> None:
    arms = {str(index): around(mean, 0.013) for index in range(5)}
    assert word(arms["0"]) == alone
    assert {arm.verdict for arm in decide(arms, MARGIN).values()} == {"undecided"}


def test_order_of_arms_is_kept_and_does_not_matter() -> None:
    for names in itertools.permutations(ARMS):
        found = decide({name: ARMS[name] for name in names}, MARGIN)
        assert tuple(found) == names
        assert found == decide(ARMS, MARGIN)


def test_arm_with_a_single_seed_counts_among_the_arms() -> None:
    alone = decide({"a": ARMS["linear"]}, MARGIN)["a"]
    beside = decide({"a": ARMS["linear"], "b": [0.0]}, MARGIN)["a"]
    assert beside.p_loses_adjusted == pytest.approx(2 * alone.p_loses)
    assert beside.p_keeps_adjusted == pytest.approx(2 * alone.p_keeps)


def test_no_arms_have_no_verdicts() -> None:
    assert decide({}, MARGIN) == flat({}, MARGIN) == {}


@pytest.mark.parametrize("margin", [0, -0.01, math.nan, math.inf])
@pytest.mark.parametrize("call", [decide, flat])
def test_margin_that_is_not_positive_is_refused(call, margin: float) -> None:
    with pytest.raises(ValueError, match=rf"^margin {margin} is not a positive number$"):
        call(ARMS, margin)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"values have shape \(0,\): give one value per seed"),
        ([0.1, math.nan], "nan is not a finite number"),
        ([[0.1, 0.2]], r"values have shape \(1, 2\), not \(seeds,\)"),
    ],
)
@pytest.mark.parametrize("call", [decide, flat])
def test_values_that_cannot_be_tested_are_refused_by_the_arm(call, values, message: str) -> None:
    with pytest.raises(ValueError, match=f"^mlp: {message}$"):
        call({"qnn": [0.1, 0.2], "mlp": values}, MARGIN)
    if values and isinstance(values[0], list):
        with pytest.raises(ValueError, match=f"^{message}$"):
            estimate(values)


# --- a second way


def second_decide(losses, margin, declared, levels, chance) -> dict[str, str]:
    """Find the words with scipy's tests and Holm's method step by step."""

    def claims(test) -> set[str]:
        p = {}
        for arm in declared:
            values = losses.get(arm, [])
            p[arm] = test(np.array(values)) if len(values) > 1 else 1.0
        shown = set()
        for rank, arm in enumerate(sorted(p, key=p.__getitem__)):
            if p[arm] > 0.05 / (len(p) - rank):
                break
            shown.add(arm)
        return shown

    def p_of(values, bound, side) -> float:
        if np.ptp(values) == 0:
            above = values[0] > bound if side == "greater" else values[0] < bound
            return 0.5 ** len(values) if above else 1.0
        return stats.ttest_1samp(values, bound, alternative=side).pvalue

    loses = claims(lambda values: p_of(values, 0, "greater"))
    keeps = claims(lambda values: p_of(values, margin, "less"))
    words = {}
    for arm, values in losses.items():
        level = np.array(levels[arm])
        low = stats.t.interval(0.95, len(level) - 1, level.mean(), stats.sem(level))[0]
        if low - chance < 20 * margin:
            words[arm] = "nothing to lose"
        elif arm in loses and arm in keeps:
            words[arm] = "loses less than the margin" if len(values) >= 10 else (
                "loses, less than the margin (too few seeds)"
            )  # fmt: skip
        elif arm in loses:
            words[arm] = "loses"
        else:
            words[arm] = "keeps" if arm in keeps and len(values) >= 10 else "undecided"
    return words


def test_words_are_those_of_a_second_way_and_all_of_them_occur() -> None:
    rng = np.random.default_rng(11)
    said: set[str] = set()
    for _ in range(400):
        declared = [f"arm{k}" for k in range(rng.integers(1, 7))]
        n = int(rng.choice([3, 9, 10, 20]))
        losses, levels = {}, {}
        for arm in declared[: rng.integers(1, len(declared) + 1)]:
            mean = rng.choice([-0.01, 0.0, 0.005, 0.01, 0.05])
            losses[arm] = rng.normal(mean, rng.choice([0.0, 0.0005, 0.004, 0.02]), n)
            levels[arm] = rng.normal(rng.choice([0.1, 0.31, 0.9]), 0.02, n)
        found = decide(losses, MARGIN, declared, levels, 0.1)
        expected = second_decide(losses, MARGIN, declared, levels, 0.1)
        assert {arm: one.verdict for arm, one in found.items()} == expected
        said |= {*expected.values()}
    assert len(said) == 6


# --- flat


def test_flat_is_the_larger_of_two_one_sided_tests_adjusted_over_arms() -> None:
    slopes = {str(mean): around(mean, 0.002) for mean in (0.0, -0.009, 0.02)}
    found = flat(slopes, MARGIN)
    raw = []
    for arm, values in slopes.items():
        below = stats.ttest_1samp(values, MARGIN, alternative="less").pvalue
        above = stats.ttest_1samp(values, -MARGIN, alternative="greater").pvalue
        raw.append(max(below, above))
        assert found[arm].p == pytest.approx(raw[-1], rel=1e-9)
    for arm in found.values():
        assert arm.p_adjusted == pytest.approx(adjusted_by_hand(raw, arm.p))
    assert [arm.flat for arm in found.values()] == [True, False, False]


def test_flat_is_shown_on_either_side_and_not_beyond_the_margins() -> None:
    for mean, expected in ((0.008, True), (-0.008, True), (0.012, False), (-0.012, False)):
        assert flat({"arm": around(mean)}, MARGIN)["arm"].flat is expected


# --- one arm against another


def test_drops_are_compared_seed_by_seed() -> None:
    drops = {"mlp": around(0.05, 0.03), "qnn": around(0.05, 0.03)}
    drops["qnn"] = [value + extra for value, extra in zip(drops["qnn"], around(0.02), strict=True)]
    found = compare_drops(drops, "mlp", MARGIN)
    assert list(found) == ["qnn"]
    assert (found["qnn"].verdict, found["qnn"].estimate) == ("loses", pytest.approx(0.02))
    paired = stats.ttest_rel(drops["qnn"], drops["mlp"], alternative="greater").pvalue
    assert found["qnn"].p_loses == pytest.approx(paired, rel=1e-8)
    back = compare_drops(drops, "qnn", MARGIN)["mlp"]
    assert (back.verdict, back.estimate) == ("keeps", pytest.approx(-0.02))


def test_level_is_kept_that_is_less_than_the_margin_below_or_above() -> None:
    base = around(0.8, 0.05)
    levels = {"mlp": base} | {
        name: [level - below for level, below in zip(base, around(less), strict=True)]
        for name, less in (("a", 0.002), ("b", 0.03), ("c", -0.1))
    }
    found = compare_levels(levels, "mlp", MARGIN)
    assert {name: arm.verdict for name, arm in found.items()} == {
        "a": "loses less than the margin", "b": "loses", "c": "keeps",
    }  # fmt: skip
    assert found["b"].estimate == pytest.approx(0.03)
    inferior = stats.ttest_rel(levels["a"], np.subtract(base, MARGIN), alternative="greater")
    assert found["a"].p_keeps == pytest.approx(inferior.pvalue, rel=1e-8)


@pytest.mark.parametrize("compare", [compare_drops, compare_levels])
def test_reference_does_not_count_among_the_arms_and_few_seeds_claim_nothing(compare) -> None:
    values = {"mlp": [0.0] * 5, "qnn": around(0.0, 1e-6, 5)}
    found = compare(values, "mlp", MARGIN)["qnn"]
    assert (found.verdict, found.p_keeps_adjusted) == ("undecided", found.p_keeps)
    assert compare(values, "mlp", MARGIN, min_seeds=5)["qnn"].verdict == "keeps"


@pytest.mark.parametrize("compare", [compare_drops, compare_levels])
def test_arms_that_cannot_be_paired_are_refused(compare) -> None:
    with pytest.raises(ValueError, match=r"^no arm cnn among mlp, qnn$"):
        compare({"mlp": [0.1], "qnn": [0.1]}, "cnn", MARGIN)
    message = r"^qnn has values of shape \(2,\), mlp of \(3,\): pairs need the same seeds$"
    with pytest.raises(ValueError, match=message):
        compare({"mlp": [0.1, 0.2, 0.3], "qnn": [0.1, 0.2]}, "mlp", MARGIN)


def test_bootstrap_interval_beside_a_verdict_is_about_that_of_t_for_normal_values() -> None:
    values = around(0.02, 0.01, 40)
    assert bca_interval(values) == pytest.approx(estimate(values).interval_95, abs=0.0005)
