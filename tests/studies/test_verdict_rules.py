"""When a verdict is withheld, or says more: what is declared, what collapses, what starts low."""

import itertools
import statistics
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from plasticity.studies.findings import comparisons, findings_of
from plasticity.studies.numbers import chance_of
from plasticity.studies.report import report_on
from plasticity.studies.verdicts import decide
from tests.studies import made_up

pytestmark = pytest.mark.usefixtures("empty_folder")

MARGIN = 0.01


def around(mean: float, sd: float = 0.001, n: int = 10) -> list[float]:
    """Return values of exactly this mean and standard deviation."""
    values = np.random.default_rng(n).normal(size=n)
    return (mean + sd * (values - values.mean()) / values.std(ddof=1)).tolist()


# --- what is declared


def test_arms_that_were_declared_and_have_no_values_count_with_a_p_value_of_1() -> None:
    losses = {"a": around(0.005, 0.01), "b": around(0.02, 0.01)}
    among_six = decide(losses, MARGIN, declared=["a", "b", "c", "d", "e", "f"])
    assert list(among_six) == ["a", "b"]
    for claim in ("p_loses", "p_keeps"):
        first, second = sorted(among_six.values(), key=lambda one, claim=claim: getattr(one, claim))
        smaller = min(1, 6 * getattr(first, claim))
        assert getattr(first, f"{claim}_adjusted") == pytest.approx(smaller)
        larger = min(1, max(smaller, 5 * getattr(second, claim)))
        assert getattr(second, f"{claim}_adjusted") == pytest.approx(larger)
    with pytest.raises(ValueError, match=r"^b is not among the arms that were declared$"):
        decide(losses, MARGIN, declared=["a"])


def test_an_arm_without_all_of_its_seeds_has_estimates_and_no_word() -> None:
    losses = {"few": around(0.05, n=12), "right": around(0.05, n=20), "many": around(0.0, n=21)}
    found = decide(losses, MARGIN, declared=dict.fromkeys(losses, 20))
    assert {arm: one.verdict for arm, one in found.items()} == {
        "few": "incomplete (12 of 20)",
        "right": "loses",
        "many": "exploratory (21 seeds, declared 20)",
    }
    for arm in ("few", "many"):
        assert found[arm].claim == "undecided"
        assert found[arm].p_loses_adjusted is found[arm].p_keeps_adjusted is None
        assert found[arm].interval_95 == decide({arm: losses[arm]}, MARGIN)[arm].interval_95
    # Both count among the arms, as if nothing could be claimed of them.
    assert found["right"].p_loses_adjusted == pytest.approx(3 * found["right"].p_loses)


def test_no_claim_is_withdrawn_when_the_arms_that_were_missing_are_there() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        losses = {str(k): rng.normal(rng.choice([0, 0.01, 0.02]), 0.01, 10) for k in range(4)}
        part = {arm: losses[arm] for arm in ("0", "1")}
        before, after = (decide(some, MARGIN, declared=[*losses]) for some in (part, losses))
        for arm, claim in itertools.product(part, ("p_loses_adjusted", "p_keeps_adjusted")):
            assert getattr(after[arm], claim) <= getattr(before[arm], claim)


# --- what collapses


@pytest.mark.parametrize(("k", "n", "percent"), [(0, 10, 26), (0, 20, 14), (1, 20, 22)])
def test_so_many_runs_at_most_collapse(k: int, n: int, percent: int) -> None:
    values = [5 * MARGIN] * k + around(0.0, n=n - k)
    found = decide({"arm": values}, MARGIN)["arm"]
    assert found.collapsed == k
    assert round(100 * found.collapsed_at_most) == percent
    assert found.collapsed_at_most == pytest.approx(stats.beta.ppf(0.95, k + 1, n - k))
    # By its definition: with that share, so few collapses have a probability of 5 %.
    assert stats.binom.cdf(k, n, found.collapsed_at_most) == pytest.approx(0.05)


def test_all_runs_may_collapse_where_all_have() -> None:
    found = decide({"arm": around(0.3)}, MARGIN)["arm"]
    assert (found.collapsed, found.collapsed_at_most) == (10, 1.0)


# --- equal values


@pytest.mark.parametrize(("n", "expected"), [(4, "undecided"), (5, "loses")])
def test_equal_values_are_decided_by_the_sign_test(n: int, expected: str) -> None:
    found = decide({"arm": [0.3] * n}, MARGIN)["arm"]
    assert (found.p_loses, found.p_keeps, found.verdict) == (0.5**n, 1, expected)
    assert found.p_loses == stats.binomtest(n, n, alternative="greater").pvalue


# --- what starts low


def floor(losses: list[float], levels: list[float], chance: float | None = 0.1) -> str:
    return decide({"arm": losses}, MARGIN, levels={"arm": levels}, chance=chance)["arm"].verdict


def test_an_arm_that_starts_at_chance_keeps_nothing() -> None:
    kept = around(0.0)
    assert floor(kept, around(0.1)) == "nothing to lose"
    assert floor(kept, around(0.9)) == "keeps"
    assert floor(kept, around(0.1), chance=None) == "keeps"
    assert decide({"arm": kept}, MARGIN, chance=0.1)["arm"].verdict == "keeps"
    # The lower end of the interval counts: 2.26 standard errors below the mean.
    spread = 0.01 * np.sqrt(10)
    assert floor(kept, around(0.3 + 0.0227, spread)) == "keeps"
    assert floor(kept, around(0.3 + 0.0225, spread)) == "nothing to lose"


@pytest.mark.parametrize("loss", [0.0, 0.005, 0.05])
def test_what_starts_low_has_nothing_to_lose_whatever_is_shown(loss: float) -> None:
    assert floor(around(loss), around(0.2)) == "nothing to lose"
    assert floor(around(loss, 0.05), around(0.5, 1.0)) == "nothing to lose"  # its interval is wide
    shown, plain = (
        decide({"arm": around(loss)}, MARGIN, **more)["arm"]
        for more in ({"levels": {"arm": around(0.2)}, "chance": 0.1}, {})
    )
    assert (shown.p_loses, shown.p_keeps) == (plain.p_loses, plain.p_keeps)
    # At the floor itself, which is rounded: 0.3 - 0.1 is less than 0.2.
    assert floor(around(loss), [0.3] * 10) == plain.verdict
    assert floor([0.3], [0.8]) == "undecided" and floor([0.3], [0.11]) == "nothing to lose"


def test_levels_are_there_for_each_arm() -> None:
    with pytest.raises(ValueError, match=r"^arm has no levels$"):
        decide({"arm": [0.1, 0.2]}, MARGIN, levels={}, chance=0.1)
    with pytest.raises(ValueError, match=r"^levels of arm: nan is not a finite number$"):
        decide({"arm": [0.1, 0.2]}, MARGIN, levels={"arm": [np.nan]}, chance=0.1)


# --- in a report


def test_an_arm_of_a_study_that_never_learned_has_nothing_to_lose() -> None:
    found = made_up.read_numbers({"mlp": 0.0, "qnn": 0.0}, tasks=100)
    found.columns["qnn"]["test_accuracy"][:] -= 0.65
    assert chance_of(found.study) == 0.1
    words = {one.arm: one.drop.verdict for one in findings_of(found, "test_accuracy")[0]}
    assert words == {"mlp": "keeps", "qnn": "nothing to lose"}
    # The study's own word comes first.
    low = made_up.read_numbers({"mlp": 0.0}, tasks=100, chance=0.7)
    assert findings_of(low, "test_accuracy")[0][0].drop.verdict == "nothing to lose"
    text = report_on(found, Path("report")).read_text()
    assert "**nothing to lose** (chance is 10 %)" in text


def test_a_report_of_another_number_of_seeds_says_so_first_and_gives_no_words() -> None:
    for seeds, word in ((13, "exploratory (13 seeds, declared 10)"), (9, "incomplete (9 of 10)")):
        found = made_up.read_numbers({"mlp": 0.06, "qnn": 0.0}, seeds=seeds, declared_seeds=10)
        report = report_on(found, Path(f"report-{seeds}"))
        lines = report.read_text().splitlines()
        assert lines[2].startswith(f"**Declared 10 seeds, here {seeds}: exploratory.**")
        for line in made_up.cells_of(report, "Verdicts"):
            assert line["verdict"].removesuffix(", fragile") == word
            assert "[" in line["drop (points)"] and line["p loses"] == line["p keeps"] == ""
        for line in made_up.cells_of(report, "Pairs"):
            assert line["loses more?"].removesuffix(", fragile") == word
    found = made_up.read_numbers({"mlp": 0.06}, seeds=10)
    assert "exploratory.**" not in report_on(found, Path("report-10")).read_text()


def test_the_table_of_verdicts_has_collapses_and_adjusted_p_values() -> None:
    found = made_up.read_numbers({"mlp": 0.0, made_up.UNSTEADY: 0.03}, tasks=100)
    lines = made_up.cells_of(report_on(found, Path("report")), "Verdicts")
    arms, _ = findings_of(found, "test_accuracy")
    for line, one in zip(lines, arms, strict=True):
        drops = one.of_seeds["drop"]
        k = sum(drop >= 0.05 for drop in drops)
        most = 100 * stats.beta.ppf(0.95, k + 1, 10 - k)
        assert line["runs that collapse"] == f"{k} of 10, at most {most:.0f} %"
        for claim in ("loses", "keeps"):
            p = getattr(one.drop, f"p_{claim}_adjusted")
            assert line[f"p {claim}"] == ("< .0001" if p < 1e-4 else f"{p:.2g}")
    assert {line["p keeps"] for line in lines} > {"< .0001"}


def test_a_pair_says_in_which_options_it_differs_beside_what_it_is_about() -> None:
    rate = {"mlp-sphere": {"optimizer.learning_rate": 0.5}, "qnn": {"epochs": 7}}
    found = made_up.read_numbers(
        {"mlp": 0.06, "qnn": 0.0, "mlp-sphere": 0.0}, tasks=40, of_arm=rate
    )
    first, second = comparisons(found, findings_of(found, "test_accuracy")[0])
    assert (first.arm, first.differences["epochs"][0]) == ("qnn", 7)
    assert second.arm == "mlp-sphere"
    assert second.differences["optimizer.learning_rate"][0] == 0.5
    assert "hidden" not in second.differences
    line = made_up.cells_of(report_on(found, Path("report")), "Pairs")[1]
    assert "optimizer.learning_rate: 0.5, " in line["differs also in"]


def test_seeds_needed_with_holm_and_with_a_larger_sd_are_enough_by_simulation() -> None:
    found = made_up.read_numbers({"mlp": 0.0, made_up.UNSTEADY: 0.0}, tasks=100)
    lines = made_up.cells_of(report_on(found, Path("report")), "Are there enough seeds?")
    (line,) = (line for line in lines if line["arm"] == f"`{made_up.UNSTEADY}`")
    (one,) = (f for f in findings_of(found, "test_accuracy")[0] if f.arm == made_up.UNSTEADY)
    sd = statistics.stdev(one.of_seeds["drop"])
    rng = np.random.default_rng(0)
    columns = (("with Holm", 0.025, sd), ("if the SD is 2.12 times as large", 0.05, 2.12 * sd))
    for title, alpha, spread in columns:
        drops = rng.normal(0, spread, (4000, int(line[title])))
        p = stats.ttest_1samp(drops, MARGIN, axis=1, alternative="less").pvalue
        assert (p < alpha).mean() == pytest.approx(0.8, abs=0.03)
