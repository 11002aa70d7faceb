"""What a study declares, and how it is kept: divergence, looks, causal pairs, seeds, sources."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.mnist import EXPERIMENT
from plasticity.errors import UsageError
from plasticity.protocol.choices import choose
from plasticity.studies import rules
from plasticity.studies.cells import Cell, cells, folder_of, is_complete
from plasticity.studies.findings import comparisons, findings_of
from plasticity.studies.numbers import Numbers, load_records, read_numbers, save_records
from plasticity.studies.report import report_on
from plasticity.studies.study import Study
from plasticity.studies.tuning import mean_scores, tuning_cells
from plasticity.studies.verdicts import decide
from tests.studies import made_up
from tests.studies.studying import tiny_study
from tests.studies.test_numbers import record, rows

pytestmark = pytest.mark.usefixtures("empty_folder")

RESULTS = Path("results")
MARGIN = 0.01


def around(mean: float, sd: float, n: int = 10, seed: int = 0) -> np.ndarray:
    """Return values of exactly this mean and standard deviation."""
    values = np.random.default_rng(seed).normal(size=n)
    return mean + sd * (values - values.mean()) / values.std(ddof=1)


# --- runs that diverge


def folder(study: Study, arm: str, seed: int) -> Path:
    (cell,) = (c for c in cells(study) if (c.arm, c.seed) == (arm, seed))
    return folder_of(cell, RESULTS)


def with_divergence(after: int, noted: int) -> Study:
    study = made_up.study(("mlp",), seeds=2, tasks=60)
    record(study, "mlp", 0, rows(60, 0.3, weight_norm=2.0))
    record(study, "mlp", 1, rows(after, 0.3, weight_norm=2.0))
    content = {"rows": noted, "error": "the training loss of task 7 is nan"}
    (folder(study, "mlp", 1) / "diverged.json").write_text(json.dumps(content))
    return study


def test_a_run_that_diverged_is_complete_and_at_chance_to_its_end() -> None:
    found = read_numbers(with_divergence(7, 7), RESULTS)
    accuracy, norm = (found.columns["mlp"][name][1] for name in ("test_accuracy", "weight_norm"))
    assert accuracy[:7].tolist() == pytest.approx([0.3 + 0.01 * t for t in range(7)])
    assert accuracy[7:].tolist() == [pytest.approx(0.1)] * 53
    assert np.isfinite(norm).sum() == 7
    assert found.seeds("mlp") == [0, 1] and not found.missing()
    assert found.diverged_after("mlp") == {1: 7} and found.rows["mlp"].tolist() == [60, 7]
    save_records(found, Path("records"))
    again = load_records(Path("records"))
    assert again.diverged_after("mlp") == {1: 7}
    assert np.array_equal(again.columns["mlp"]["test_accuracy"][1], accuracy)
    text = report_on(again, Path("report")).read_text()
    assert "Diverged, and at chance from there: `mlp`, seeds 1 (after 7 tasks)." in text


def test_a_note_of_a_divergence_holds_only_where_no_row_has_come_since() -> None:
    found = read_numbers(with_divergence(8, 7), RESULTS)
    assert found.seeds("mlp") == [0] and found.missing() == [("mlp", 1, 8)]


def test_a_run_that_diverged_is_not_complete_where_nobody_knows_what_a_guess_scores(
    tmp_path: Path,
) -> None:
    study = tiny_study(tmp_path, arms=("mlp",))
    record(study, "mlp", 0, rows(1))
    (folder(study, "mlp", 0) / "diverged.json").write_text('{"rows": 1}')
    assert read_numbers(study, RESULTS).seeds("mlp") == []
    assert read_numbers(dataclasses.replace(study, chance=0.2), RESULTS).seeds("mlp") == [0]


def test_the_command_of_a_cell_notes_that_it_diverges_and_a_study_takes_that_for_a_result(
    tmp_path: Path,
) -> None:
    from tests.experiments.runs import start

    study = tiny_study(
        tmp_path, arms=("mlp",), seeds=(0,),
        of_arm={"mlp": {"optimizer.learning_rate": 1e9, "hidden": (8, 8, 8, 8)}},
    )  # fmt: skip
    (cell,) = cells(study)
    assert not is_complete(cell, tmp_path / "results")
    words = cell.command(tmp_path / "results")
    assert start(*words[3:], experiment=EXPERIMENT) == 1
    assert is_complete(cell, tmp_path / "results")
    note = json.loads((folder_of(cell, tmp_path / "results") / "diverged.json").read_text())
    assert note["rows"] == 0 and note["error"].startswith("the training loss of task 0 is ")
    assert start(*words[3:], "--overwrite", experiment=EXPERIMENT) == 1


# --- the number of seeds


def test_each_of_two_looks_has_a_level_of_its_own() -> None:
    losses = {"arm": around(0.0, 0.0167)}
    found = decide(losses, MARGIN)["arm"]
    assert 0.03 < found.p_keeps < 0.05 and found.verdict == "keeps"
    assert decide(losses, MARGIN, alpha=rules.ALPHA_OF_TWO_LOOKS)["arm"].verdict == "undecided"
    assert (rules.alpha_of(), rules.alpha_of((10, 20))) == (0.05, 0.03)


def test_a_report_at_either_look_gives_words_and_between_them_none() -> None:
    declared = made_up.study(("mlp",), seeds=20, tasks=100, looks=(10, 20))
    for seeds, word in ((10, "loses"), (20, "loses"), (13, "incomplete (13 of 20)")):
        numbers = made_up.read_numbers({"mlp": 0.06}, seeds=seeds, tasks=100)
        found = dataclasses.replace(numbers, study=declared.with_seeds(seeds))
        (one,) = findings_of(found, "test_accuracy")[0]
        assert one.drop.verdict == word
        text = report_on(found, Path(f"report-{seeds}")).read_text()
        assert "one-sided at 3 % at each of the looks at 10 and 20 seeds," in text


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"looks": (10,)}, r"looks \(10,\): must be two numbers of seeds, the second larger"),
        ({"looks": (4, 2)}, r"looks \(4, 2\): must be two numbers of seeds, the second larger"),
        ({"looks": (10, 20)}, r"looks \(10, 20\): it has 2 seeds"),
        ({"confirmatory": True}, "seed 0: seeds below 100 were looked at to find hypotheses"),
        ({"causal": (("mlp", "linear"),)}, "causal: mlp against linear is not among the pairs"),
        (
            {"causal": (("mlp", "linear"),), "compared": (("mlp", "linear"),)},
            "causal: mlp and linear differ in their rate: add mlp@linear",
        ),
    ],
)
def test_what_cannot_be_declared_is_named(changes: dict, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Study(
            "own", "Is it?", "mnist", "quick", ("mlp", "linear"), (0, 1), {"num_tasks": 60},
            **{"of_arm": {"linear": {"optimizer.learning_rate": 0.5}}} | changes,
        )  # fmt: skip


def test_a_confirmatory_study_has_seeds_from_100_on() -> None:
    study = made_up.study(("mlp",), tasks=100)
    fresh = dataclasses.replace(study, seeds=tuple(range(100, 110)), confirmatory=True)
    assert "confirmatory: its seeds" in report_text(fresh)
    assert "exploratory: its claims" in report_text(study)


def report_text(study: Study) -> str:
    numbers = made_up.read_numbers({"mlp": 0.06}, tasks=100)
    return report_on(dataclasses.replace(numbers, study=study), Path(study.digest())).read_text()


# --- causal pairs


PAIR = ("mlp-sphere", "mlp")
AT_BOTH = (*PAIR, "mlp-sphere@mlp", "mlp@mlp-sphere")
RATES = {"mlp": {"optimizer.learning_rate": 0.02}, "mlp-sphere": {"optimizer.learning_rate": 0.5}}


def test_an_arm_at_anothers_rate_is_the_arm_with_that_rate() -> None:
    arms = choose(EXPERIMENT, "why", ["stiefel", "stiefel-free", "stiefel@stiefel-free"]).arms
    stiefel, free, mixed = arms.values()
    assert stiefel.optimizer.learning_rate != free.optimizer.learning_rate
    expected = dataclasses.replace(stiefel.optimizer, learning_rate=free.optimizer.learning_rate)
    assert mixed == dataclasses.replace(stiefel, optimizer=expected)
    with pytest.raises(UsageError, match=r"^arm mlp@xor: "):
        choose(EXPERIMENT, "why", ["mlp@xor"])


def test_in_a_study_it_has_the_rate_that_the_study_gives_to_the_other() -> None:
    own = RATES | {"mlp-sphere": RATES["mlp-sphere"] | {"hidden": (7,)}}
    study = made_up.study(AT_BOTH, tasks=60, compared=(PAIR,), causal=(PAIR,), of_arm=own)
    cell = Cell(study, "mlp-sphere@mlp", 3)
    arm = cell.choice.arms["mlp-sphere@mlp"]
    assert (arm.network.hidden, arm.optimizer.learning_rate) == ((7,), 0.02)
    words = cell.command(RESULTS)
    assert words[words.index("--mlp-sphere@mlp.optimizer.learning-rate") + 1] == "0.02"
    other = Cell(study, "mlp@mlp-sphere", 3).choice.arms["mlp@mlp-sphere"]
    assert other.optimizer.learning_rate == 0.5 and other.network.hidden != (7,)


def causal_numbers(at_reference: float) -> Numbers:
    drops = {"mlp-sphere": 0.0, "mlp": 0.06, "mlp-sphere@mlp": at_reference, "mlp@mlp-sphere": 0.06}
    return made_up.read_numbers(drops, tasks=100, compared=(PAIR,), causal=(PAIR,), of_arm=RATES)


@pytest.mark.parametrize("at_reference", [0.0, 0.055, 0.2])
def test_the_claim_on_a_causal_pair_is_the_weaker_one(at_reference: float) -> None:
    found = causal_numbers(at_reference)
    arms, _ = findings_of(found, "test_accuracy")
    (pair,) = comparisons(found, arms)
    drops = {one.arm: one.of_seeds["drop"] for one in arms}
    here = drops["mlp-sphere"] - drops["mlp@mlp-sphere"]
    there = drops["mlp-sphere@mlp"] - drops["mlp"]
    for claim, bound, side in (("loses", 0, "greater"), ("keeps", MARGIN, "less")):
        p = max(stats.ttest_1samp(of, bound, alternative=side).pvalue for of in (here, there))
        assert getattr(pair.drop, f"p_{claim}") == pytest.approx(p, rel=1e-6)
    assert pair.drop.estimate == pytest.approx(here.mean())
    assert pair.drop_there.estimate == pytest.approx(there.mean())
    assert pair.drop.verdict == ("undecided" if at_reference > 0.1 else "keeps")
    assert "optimizer.learning_rate" not in pair.differences
    (line,) = made_up.cells_of(report_on(found, Path("report")), "Pairs")
    assert line["the same at the reference's rate"]  # of the level, which comes last


def test_p_values_of_two_conditions_are_the_larger_ones_before_holm() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        one, other = ({k: rng.normal(0.004, 0.01, 10) for k in "abc"} for _ in range(2))
        both = decide(one, MARGIN, also=other)
        for claim in ("p_loses", "p_keeps"):
            raw = {
                k: max(getattr(decide(some, MARGIN)[k], claim) for some in (one, other))
                for k in one
            }
            order, largest = sorted(raw, key=raw.__getitem__), 0.0
            for rank, k in enumerate(order):
                largest = max(largest, min(1, raw[k] * (3 - rank)))
                assert getattr(both[k], f"{claim}_adjusted") == pytest.approx(largest)


# --- the deficit


def with_deficit(drops: dict[str, float], lost: dict[str, float], tasks: int = 100) -> Numbers:
    """Return numbers of arms that have a deficit, too, at the last ten tasks."""
    found = made_up.read_numbers(drops, tasks=tasks)
    rng = np.random.default_rng(4)
    for arm, deficit in lost.items():
        values = np.full((10, tasks), np.nan, np.float32)
        values[:, -10:] = deficit + rng.normal(0, 0.002, (10, 10))
        found.columns[arm]["deficit"] = values  # type: ignore[index]
    return found


def test_the_deficit_is_the_headline_where_all_arms_have_it() -> None:
    found = with_deficit({"mlp": 0.06, "qnn": 0.0}, {"mlp": 0.0, "qnn": 0.08})
    arms, _ = findings_of(found, "test_accuracy")
    assert [(one.arm, one.loss.verdict, one.drop.verdict) for one in arms] == [
        ("mlp", "keeps", "loses"), ("qnn", "loses", "keeps"),
    ]  # fmt: skip
    for one in arms:
        values = found.columns[one.arm]["deficit"].astype(float)
        expected = [np.mean([v for v in of_seed if v == v]) for of_seed in values]
        assert one.of_seeds["deficit"] == pytest.approx(expected)
        assert one.deficit.estimate == pytest.approx(np.mean(expected))
    (pair,) = comparisons(found, arms)
    assert pair.loss is pair.deficit and pair.loss.estimate == pytest.approx(0.08, abs=0.01)
    lines = made_up.cells_of(report_on(found, Path("report")), "Verdicts")
    assert [line["verdict"].partition(",")[0] for line in lines] == ["keeps", "loses"]
    assert {"deficit (points)", "drop (points)"} <= {*lines[0]}
    few = with_deficit({"mlp": 0.06, "qnn": 0.0}, {"mlp": 0.0})
    words = {one.arm: one.loss.verdict for one in findings_of(few, "test_accuracy")[0]}
    assert words == {"qnn": "keeps", "mlp": "loses"}


def test_a_run_that_diverged_has_the_deficit_of_the_other_seeds_untrained_networks() -> None:
    found = with_deficit({"mlp": 0.0}, {"mlp": 0.0})
    columns = found.columns["mlp"]
    columns["test_accuracy"][4, 30:], columns["deficit"][4] = 0.1, np.nan
    flags = np.arange(10) == 4
    found = dataclasses.replace(found, diverged={"mlp": flags})
    (one,) = findings_of(found, "test_accuracy")[0]
    twins = (columns["test_accuracy"] + columns["deficit"])[~flags, -10:].astype(float)
    assert one.of_seeds["deficit"][4] == pytest.approx(twins.mean() - 0.1, rel=1e-6)
    assert one.deficit.collapsed == 1


def test_a_drop_of_too_few_early_tasks_has_no_word_and_a_deficit_has_one() -> None:
    found = with_deficit({"mlp": 0.06}, {"mlp": 0.08}, tasks=59)
    (one,) = findings_of(found, "test_accuracy")[0]
    assert one.drop.verdict == "too short (4 early tasks, at least 5)"
    assert one.drop.p_loses_adjusted is None and one.loss.verdict == "loses"
    (one,) = findings_of(made_up.read_numbers({"mlp": 0.06}, tasks=60), "test_accuracy")[0]
    assert one.loss.verdict == "loses"


# --- what is in the digest


@pytest.mark.parametrize(
    "name", ["ALPHA", "MIN_SEEDS", "FLOOR", "COLLAPSE", "GROWN", "FEWEST_EARLY", "EARLY", "DEFICIT"]
)
def test_every_rule_is_in_the_digest(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = made_up.study(("mlp",))
    before = study.digest()
    monkeypatch.setattr(rules, name, "other")
    assert study.digest() != before


def test_the_numbers_of_the_arms_and_of_the_preset_are_in_the_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study, preset = made_up.study(("mlp", "linear")), EXPERIMENT.presets["quick"]
    mlp = dataclasses.replace(preset.arms["mlp"], epochs=7)
    batches = dataclasses.replace(preset.config, batch_size=5)
    digests = [study.digest()]
    for change in ({"arms": {**preset.arms, "mlp": mlp}}, {"config": batches}):
        other = dataclasses.replace(preset, **change)
        with monkeypatch.context() as patch:
            patch.setitem(EXPERIMENT.presets, "quick", other)
            digests.append(study.digest())
    assert len({*digests}) == 3 and study.digest() == digests[0]


# --- what a report says that it is


def test_a_report_says_of_what_it_was_read_and_what_its_arms_are(tmp_path: Path) -> None:
    from tests.studies.studying import train_here

    study = tiny_study(tmp_path, of_arm={"mlp": {"hidden": (5,)}})
    for cell in itertools.islice(cells(study), 2):
        train_here(cell, RESULTS)
    found = read_numbers(study, RESULTS)
    text = report_on(found, Path("report")).read_text()
    (run,) = {path.name for path in RESULTS.glob("mnist-quick-*")}
    assert f"| run folders | {run} |" in text and "| complete cells | 2 of 4 |" in text
    note = json.loads((folder_of(cell, RESULTS) / "provenance.jsonl").read_text())
    for part in (note["commit"], note["platform"], note["started"][:10], note["data"]):
        assert part is None or part in text
    assert f"torch {note['versions']['torch']}" in text
    lines = {line["arm"]: line for line in made_up.cells_of(Path("report/report.md"), "Arms")}
    assert lines["`mlp`"]["parameters"] == str(found.sources["parameters mlp"][0])
    assert "hidden" in lines["`mlp`"]["network"] and "hidden" in lines["`mlp`"]["the study's own"]
    assert "L2Init" in lines["`linear+l2-init`"]["remedies"]
    # The same from the records.
    save_records(found, Path("records"))
    assert report_on(load_records(Path("records")), Path("again")).read_text() == text


# --- tuning


def test_rates_are_chosen_by_the_level_over_the_whole_stream(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, arms=("mlp",), tuning_seeds=(9,), rates=(0.1,))
    ((_, some),) = tuning_cells(study).items()
    (cell,) = some
    where = folder_of(cell, RESULTS)
    where.mkdir(parents=True)
    lines = [{"task": t, "test_accuracy": a} for t, a in enumerate((0.2, 0.4, 0.9))]
    (where / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ((_, of_values),) = mean_scores(study, RESULTS).items()
    assert of_values == {0.1: [pytest.approx(0.5)]}
