"""The report of a study: verdicts on made-up arms whose losses are known, and numbers by hand."""

import csv
import dataclasses
import math
import re
import statistics
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from plasticity.figures.over_seeds import over_tasks
from plasticity.results.disk import lock_of
from plasticity.statistics.estimates import estimate
from plasticity.statistics.summaries import tenths
from plasticity.studies.findings import comparisons, findings_of, gap, growth
from plasticity.studies.numbers import Numbers, load_records
from plasticity.studies.numerals import number, percent
from plasticity.studies.report import report_on, write_report
from tests.studies import made_up
from tests.studies.test_numbers import record, rows

pytestmark = pytest.mark.usefixtures("empty_folder")

FEW = {"mlp": 0.06, "qnn": 0.0, "mlp-sphere": -0.02}


@pytest.fixture(scope="module")
def all_arms() -> Numbers:
    return made_up.read_numbers(tasks=200)


@pytest.fixture(scope="module")
def report(all_arms: Numbers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_on(all_arms, tmp_path_factory.mktemp("report"))


def slow_drops(accuracy: np.ndarray) -> list[float]:
    """Return each seed's drop, by loops; tasks are counted from 1."""
    drops = []
    for of_seed in accuracy.tolist():
        tenth = len(of_seed) // 10
        early = [value for task, value in enumerate(of_seed, 1) if 2 <= task <= tenth]
        late = [value for task, value in enumerate(of_seed, 1) if task > len(of_seed) - tenth]
        drops.append(statistics.fmean(early) - statistics.fmean(late))
    return drops


def slow_holm(p_values: dict[str, float]) -> dict[str, float]:
    left, adjusted, largest = dict(p_values), {}, 0.0
    while left:
        name = min(left, key=left.__getitem__)
        largest = max(largest, min(1.0, left[name] * len(left)))
        adjusted[name] = largest
        del left[name]
    return adjusted


def summary(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "summary.csv").open(newline="") as file:
        return {line["arm"]: line for line in csv.DictReader(file)}


# --- verdicts


def test_verdicts_on_made_up_arms_are_those_that_they_were_made_for() -> None:
    arms, silent = findings_of(made_up.read_numbers(tasks=1000), "test_accuracy")
    assert {one.arm: one.drop.verdict for one in arms} == made_up.EXPECTED
    assert silent == {}


def test_drops_intervals_and_p_values_are_those_of_loops_and_of_scipy(all_arms: Numbers) -> None:
    arms, _ = findings_of(all_arms, "test_accuracy")
    slow = {a: slow_drops(of["test_accuracy"]) for a, of in all_arms.columns.items()}
    margin = all_arms.study.drop_margin
    p_loses = {a: stats.ttest_1samp(d, 0, alternative="greater").pvalue for a, d in slow.items()}
    p_keeps = {a: stats.ttest_1samp(d, margin, alternative="less").pvalue for a, d in slow.items()}
    loses, keeps = slow_holm(p_loses), slow_holm(p_keeps)
    for one in arms:
        drops = slow[one.arm]
        assert one.drop.estimate == pytest.approx(statistics.fmean(drops), abs=1e-7)
        expected = stats.ttest_1samp(drops, 0).confidence_interval(0.95)
        assert one.drop.interval_95 == pytest.approx((expected.low, expected.high), abs=1e-6)
        assert one.drop.p_loses_adjusted == pytest.approx(loses[one.arm], rel=1e-3, abs=1e-12)
        assert one.drop.p_keeps_adjusted == pytest.approx(keeps[one.arm], rel=1e-3, abs=1e-12)
        low, high = (
            stats.ttest_1samp(one.of_seeds["slope"], bound, alternative=side).pvalue
            for bound, side in ((-0.001, "greater"), (0.001, "less"))
        )
        assert one.slope.p == pytest.approx(max(low, high), rel=1e-3, abs=1e-12)
        theirs = [
            stats.linregress(range(len(s)), s).slope * 100
            for s in all_arms.columns[one.arm]["test_accuracy"]
        ]
        assert one.slope.estimate == pytest.approx(statistics.fmean(theirs))


def test_intervals_in_tables_end_where_there_is_no_further_value() -> None:
    of = estimate([0.1, 0.9, 0.95])
    assert of.interval_95 is not None and of.interval_95[0] < 0 and of.interval_95[1] > 1
    assert number(of, (0, 1)) == "0.65 [0, 1]"
    assert number(of) == f"0.65 [{of.interval_95[0]:.3g}, {of.interval_95[1]:.3g}]"
    assert percent(of, interval=True, bounds=(0, 1)) == "65.00 [0.00, 100.00]"


def test_seeds_that_are_not_complete_do_not_count() -> None:
    found = made_up.read_numbers(FEW, tasks=40)
    accuracy = found.columns["mlp"]["test_accuracy"]
    accuracy[2, -4:] = 17.0
    found.complete["mlp"][2] = False
    (one,) = (one for one in findings_of(found, "test_accuracy")[0] if one.arm == "mlp")
    assert one.drop.n == 9
    kept = [drop for seed, drop in enumerate(slow_drops(accuracy)) if seed != 2]
    assert one.drop.estimate == pytest.approx(statistics.fmean(kept), abs=1e-7)


def test_pairs_are_compared_seed_by_seed_where_both_arms_have_the_seed() -> None:
    found = made_up.read_numbers(FEW, seeds=12, tasks=60)
    found.complete["mlp"][3] = found.complete["qnn"][7] = False
    (first, second) = comparisons(found, findings_of(found, "test_accuracy")[0])
    assert (first.arm, first.reference, first.drop.n) == ("qnn", "mlp", 10)
    assert (second.arm, second.reference, second.drop.n) == ("mlp-sphere", "mlp", 11)
    common = [s for s in range(12) if s not in (3, 7)]
    accuracy = {a: of["test_accuracy"][common] for a, of in found.columns.items()}
    drops = {a: slow_drops(of) for a, of in accuracy.items()}
    levels = {
        a: [statistics.fmean(seed[-6:]) for seed in of.tolist()] for a, of in accuracy.items()
    }
    loses = stats.ttest_rel(drops["qnn"], drops["mlp"], alternative="greater")
    assert first.drop.p_loses == pytest.approx(loses.pvalue, rel=1e-3)
    less = [0.01 + q - m for q, m in zip(levels["qnn"], levels["mlp"], strict=True)]
    inferior = stats.ttest_1samp(less, 0, alternative="greater")
    assert first.level.p_keeps == pytest.approx(inferior.pvalue, rel=1e-3)
    assert first.level.margin == first.drop.margin == 0.01
    # Neither has all of its seeds, so neither has a word.
    assert (first.drop.verdict, second.level.verdict) == (
        "incomplete (10 of 12)",
        "incomplete (11 of 12)",
    )
    # Over both pairs.
    all_there = made_up.read_numbers(FEW, seeds=12, tasks=60)
    pairs = comparisons(all_there, findings_of(all_there, "test_accuracy")[0])
    p = {one.arm: one.drop.p_keeps for one in pairs}
    assert {one.arm: one.drop.p_keeps_adjusted for one in pairs} == slow_holm(p)


def test_arm_that_starts_lower_is_inferior_though_it_loses_nothing() -> None:
    found = made_up.read_numbers({"mlp": 0.0, "qnn": 0.0}, seeds=10, tasks=60)
    found.columns["qnn"]["test_accuracy"][:] -= 0.3
    report_on(found, Path("report"))
    (line,) = made_up.cells_of(Path("report/report.md"), "Pairs")
    assert line["loses more?"] == "no more than the margin more"
    assert line["level"] == "inferior"
    mean, low, high = map(
        float, re.findall(r"-?\d+\.\d+", line["level, arm less reference (points)"])
    )
    assert -32 < low < mean < high < -30


def test_nothing_is_kept_with_nine_seeds_and_the_report_says_that_they_are_too_few() -> None:
    for seeds, expected in ((9, "undecided, too few seeds"), (10, "keeps")):
        found = made_up.read_numbers({"mlp": -0.01}, seeds=seeds, tasks=60)
        (line,) = made_up.cells_of(report_on(found, Path("report")), "Verdicts")
        assert line["verdict"].removesuffix(", fragile") == expected
        assert "gap to fresh (points)" not in line


# --- gap, growth, first and last tenth


def test_gap_is_that_of_the_column_after_the_first_tenth_of_tasks() -> None:
    found = made_up.read_numbers(FEW, seeds=3, tasks=40)
    gaps = np.full((3, 40), np.nan, np.float32)
    gaps[:, [0, 1, 2, 3]] = 5  # within the first tenth
    gaps[0, [4, 8]], gaps[1, [4, 8]], gaps[2, 8] = (0.1, 0.3), (0.2, 0.2), 0.5
    found.columns["mlp"]["fresh_gap"] = gaps
    of_seeds = [0.2, 0.2, 0.5]
    found_gap = gap(found, "mlp", "test_accuracy")
    assert found_gap is not None
    assert found_gap.estimate == pytest.approx(statistics.fmean(of_seeds))
    assert found_gap.sd == pytest.approx(statistics.stdev(of_seeds))
    assert gap(found, "qnn", "test_accuracy") is None


def test_gap_is_that_to_the_arm_which_starts_afresh_on_the_tasks_of_both() -> None:
    found = made_up.read_numbers(FEW | {"fresh:mlp": 0.0}, seeds=3, tasks=40)
    fresh = found.columns["fresh:mlp"]["test_accuracy"]
    at = [0, 1, 2, 4, 8, 16, 32]
    fresh[:, [t for t in range(40) if t not in at]] = np.nan
    found.complete["fresh:mlp"][1] = False
    expected = [
        statistics.fmean(float(fresh[s, t]) - float(found.columns["mlp"]["test_accuracy"][s, t])
                         for t in (4, 8, 16, 32))
        for s in (0, 2)
    ]  # fmt: skip
    found_gap = gap(found, "mlp", "test_accuracy")
    assert found_gap is not None and found_gap.n == 2
    assert found_gap.estimate == pytest.approx(statistics.fmean(expected), rel=1e-5)
    arms, silent = findings_of(found, "test_accuracy")
    report_on(found, Path("report"))
    assert float(summary(Path("report"))["mlp"]["gap"]) == pytest.approx(statistics.fmean(expected))
    assert "fresh:mlp" not in [one.arm for one in arms] and [*silent] == ["fresh:mlp"]


def test_first_and_last_tenth_are_of_the_tasks_that_have_a_value() -> None:
    nan = math.nan
    values = np.array([[nan, 1, nan, 2, 3], [nan] * 5, [4, 5, 6, 7, 8]], np.float32)
    first, last = tenths(values)
    assert (first.tolist(), last.tolist()) == ([1, 4], [3, 8])
    first, last = tenths(np.arange(30, dtype=np.float32)[None])
    assert (first.tolist(), last.tolist()) == ([1.0], [28.0])


def test_growth_is_the_mean_logarithm_of_last_over_first_norm() -> None:
    found = made_up.read_numbers(FEW, seeds=2, tasks=20)
    norm = found.columns["mlp"]["weight_norm"]
    norm[0], norm[1] = np.linspace(1, 2, 20), np.linspace(3, 12, 20)
    ratios = [float(row[-2:].mean() / row[:2].mean()) for row in norm]
    grown = growth(found, "mlp")
    assert grown is not None
    assert grown.estimate == pytest.approx(statistics.fmean(map(math.log, ratios)), rel=1e-5)
    in_all = growth(found, "mlp", in_all=True)
    ratios = [float(row[-2:].mean() / row[0]) for row in norm]
    assert in_all is not None
    assert in_all.estimate == pytest.approx(statistics.fmean(map(math.log, ratios)), rel=1e-5)
    del found.columns["mlp"]["weight_norm"]
    assert growth(found, "mlp") is None
    found.columns["mlp"]["circuit_angle_norm"] = norm
    assert growth(found, "mlp") == grown


@pytest.mark.parametrize(
    "ratios, expected",
    [
        ((1.5, 1.6, 1.7), "grow"),
        ((1.0, 1.05, 1.02), "held"),
        ((0.5, 0.6, 0.5), "held"),
        ((1.0, 1.3, 1.1), "unclear"),  # the interval holds the limit of 1.1
        ((1.0, 2.5, 4.0), "unclear"),
        ((5.0,), "unclear"),
    ],
)
def test_parameters_grow_or_are_held_where_the_interval_of_their_growth_says_so(
    ratios: tuple[float, ...], expected: str
) -> None:
    found = made_up.read_numbers({"mlp": 0.0}, seeds=len(ratios), tasks=20)
    for row, ratio in zip(found.columns["mlp"]["weight_norm"], ratios, strict=True):
        row[:2], row[-2:] = 3, 3 * ratio
    (one,) = findings_of(found, "test_accuracy")[0]
    assert one.parameters == expected


# --- the files


def test_report_says_what_was_asked_and_declared_and_who_loses(
    all_arms: Numbers, report: Path
) -> None:
    assert report.name == "report.md"
    text = report.read_text()
    study = all_arms.study
    for words in (study.question, study.digest(), "points of accuracy) | 1 |", "tasks) | 0.1 |"):
        assert words in text
    lines = made_up.cells_of(report, "Verdicts")
    arms, _ = findings_of(all_arms, "test_accuracy")
    assert [line["arm"] for line in lines] == [f"`{one.arm}`" for one in arms]
    words = [line["verdict"].partition(",")[0] for line in lines]
    assert words == sorted(words, key=["keeps", "loses less than the margin", "undecided",
                                       "loses"].index)  # fmt: skip
    for word in {*words}:
        alike = [line for line in lines if line["verdict"].partition(",")[0] == word]
        drops = [float(line["drop (points)"].partition(" ")[0]) for line in alike]
        assert drops == sorted(drops)
    for line, one in zip(lines, arms, strict=True):
        assert line["verdict"].removesuffix(", fragile") == made_up.EXPECTED[one.arm]
        low, high = one.drop.interval_95 or (math.nan, math.nan)
        expected = f"{100 * one.drop.estimate:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
        assert line["drop (points)"] == expected
    assert "Nothing: all cells are complete." in text
    # No figure is shown that is not there, none is there that is not shown.
    drawn = {p.name for p in report.parent.glob("*.png")}
    assert {p.stem for p in report.parent.glob("*.pdf")} == {Path(n).stem for n in drawn}
    assert drawn == {
        "accuracy.png", "level-against-drop.png", "metric-weight_norm.png",
        "metric-train_loss.png", "metric-ntk_condition.png",
    }  # fmt: skip
    assert all(f"]({name})" in text for name in drawn)


def test_skeptic_sees_who_is_held_and_loses_and_who_grows_and_keeps(report: Path) -> None:
    lines = {line["arm"].strip("`"): line for line in made_up.cells_of(report, "A skeptic's table")}
    readings = {arm: line["reading"] for arm, line in lines.items()}
    assert readings["mlp"] == "grows and loses"
    assert readings["stiefel"] == "held and keeps"
    assert readings["qnn"] == "**grows and keeps**"
    assert readings["free-brickwork"] == "**held and loses**"
    assert readings["mlp-bounded"] == readings["mlp+l2-init"] == "open"
    assert lines["stiefel"]["growth of the norm"].startswith("1.02 [1.0")
    tenth, in_all = (lines["mlp"][title] for title in ("growth of the norm", "in all"))
    assert float(in_all.partition(" ")[0]) > float(tenth.partition(" ")[0]) > 2


@pytest.mark.parametrize(
    "compared, expected",
    [((), "mlp"), ((("mlp", "qnn"), ("qnn", "mlp-sphere"), ("mlp-sphere", "qnn")), "qnn")],
)
def test_arm_behind_the_others_is_the_one_that_most_are_compared_with(
    compared: tuple[tuple[str, str], ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = set()

    def keep(*arguments: Any, **options: Any) -> Any:
        behind.add(options["reference"])
        return over_tasks(*arguments, **options)

    monkeypatch.setattr("plasticity.studies.report.over_tasks", keep)
    report_on(made_up.read_numbers(FEW, seeds=2, tasks=20, compared=compared), Path("report"))
    assert behind == {expected}


def test_accuracies_are_in_per_cent_on_an_axis_that_is_never_logarithmic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = {}

    def keep(series: Any, label: str, *arguments: Any, **options: Any) -> Any:
        drawn[label] = over_tasks(series, label, *arguments, **options)
        return drawn[label]

    monkeypatch.setattr("plasticity.studies.report.over_tasks", keep)
    found = made_up.read_numbers({"mlp": 0.0, "qnn": 0.0}, seeds=3, tasks=40)
    found.columns["qnn"]["test_accuracy"][:] /= 20
    found.columns["qnn"]["weight_norm"][:] /= 20
    report_on(found, Path("report"))
    (accuracy,) = drawn["test accuracy (%)"].axes
    assert accuracy.get_yscale() == "linear" and 75 < accuracy.get_ylim()[1] < 90
    (norm,) = drawn["mean weight norm before the task"].axes
    assert norm.get_yscale() == "log"


def test_summary_has_the_numbers_of_each_arm(all_arms: Numbers, report: Path) -> None:
    lines = summary(report.parent)
    assert {*lines} == {*made_up.DROPS}
    drops = slow_drops(all_arms.columns["quadratic"]["test_accuracy"])
    line = lines["quadratic"]
    assert (line["n"], line["seeds"], line["verdict"]) == ("10", "0 1 2 3 4 5 6 7 8 9", "loses")
    assert float(line["drop"]) == pytest.approx(statistics.fmean(drops), abs=1e-7)
    assert float(line["drop_sd"]) == pytest.approx(statistics.stdev(drops), rel=1e-4)
    norms = [float(row[-20:].mean()) for row in all_arms.columns["quadratic"]["weight_norm"]]
    assert float(line["weight_norm_last"]) == pytest.approx(statistics.fmean(norms), rel=1e-5)
    low, high = stats.ttest_1samp(norms, 0).confidence_interval(0.95)
    assert float(line["weight_norm_last_low_95"]) == pytest.approx(low, rel=1e-5)
    assert float(line["weight_norm_last_high_95"]) == pytest.approx(high, rel=1e-5)


def test_report_of_records_alone_is_that_of_run_folders_byte_for_byte() -> None:
    study = made_up.study(("mlp", "qnn"), seeds=3, tasks=20)
    rng = np.random.default_rng(0)
    for arm in study.arms:
        for seed in study.seeds:
            lines = rows(20, 0.1 * seed, train_loss=float(rng.random()))
            record(study, arm, seed, lines[: 20 - (arm == "qnn" and seed == 2)])
    path = write_report(study, Path("results"), Path("report"))
    text = path.read_text()
    assert "`qnn`: seeds 2 (19 of 20 tasks)" in text and "1 of 6 cells" in text
    report_on(load_records(Path("report/records")), Path("again"))
    first, again = (
        {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.is_file()}
        for folder in ("report", "again")
    )
    assert first == again and len(first) == 10


def test_study_of_which_nothing_is_recorded_has_a_report_that_says_so() -> None:
    path = write_report(made_up.study(("mlp", "qnn"), seeds=2), Path("results"), Path("report"))
    text = path.read_text()
    assert "No arm has a verdict yet." in text
    assert "4 of 4 cells are not complete" in text
    files = {"lock", "records", "report.html", "report.md", "summary.csv"}
    assert {p.name for p in Path("report").iterdir()} == files


def test_report_waits_for_the_process_that_is_writing_it() -> None:
    study = made_up.study(("mlp", "qnn"), seeds=2)
    Path("report").mkdir()
    arguments = (study, Path("results"), Path("report").absolute())
    writer = threading.Thread(target=write_report, args=arguments)
    with lock_of(Path("report/lock")):
        writer.start()
        writer.join(0.3)
        assert {p.name for p in Path("report").iterdir()} == {"lock"}
    writer.join()
    assert Path("report/report.md").exists()


def test_single_seed_has_numbers_but_no_interval_and_no_verdict() -> None:
    path = report_on(made_up.read_numbers(FEW, seeds=1, tasks=100), Path("report"))
    for line in made_up.cells_of(path, "Verdicts"):
        assert line["verdict"] == "undecided" and "[" not in line["drop (points)"]
    assert summary(Path("report"))["mlp"]["drop_low_95"] == ""


def test_arm_without_a_verdict_is_named_with_the_reason() -> None:
    found = made_up.read_numbers(FEW, seeds=3, tasks=40)
    short = {a: {c: v[:, :19] for c, v in of.items()} for a, of in found.columns.items()}
    path = report_on(dataclasses.replace(found, tasks=19, columns=short), Path("report"))
    assert "No verdict on `mlp`: a run of 19 tasks is too short" in path.read_text()
    found = made_up.read_numbers(FEW, tasks=40)
    found.columns["qnn"]["test_accuracy"][0, :4] = np.nan
    path = report_on(found, Path("again"))
    assert "No verdict on `qnn`: row 0" in path.read_text()
    assert len(made_up.cells_of(path, "Verdicts")) == 2


def test_seeds_needed_stand_beside_the_spread_of_drops() -> None:
    found = made_up.read_numbers({"mlp": 0.0, made_up.UNSTEADY: 0.0}, tasks=100)
    path = report_on(found, Path("report"))
    lines: dict[str, Any] = {
        line["arm"].strip("`"): line for line in made_up.cells_of(path, "Are there enough seeds?")
    }
    assert lines["mlp"]["seeds needed"] == "10"  # the fewest for any claim of absence
    sd = statistics.stdev(slow_drops(found.columns[made_up.UNSTEADY]["test_accuracy"]))
    needed = int(lines[made_up.UNSTEADY]["seeds needed"])
    # By simulation of that many, and of a third fewer.
    rng = np.random.default_rng(0)
    shown = []
    for n in (needed, needed * 2 // 3):
        drops = rng.normal(0, sd, (4000, n))
        shown.append(
            (stats.ttest_1samp(drops, 0.01, axis=1, alternative="less").pvalue < 0.05).mean()
        )
    assert shown[0] == pytest.approx(0.8, abs=0.03) and shown[1] < 0.72
