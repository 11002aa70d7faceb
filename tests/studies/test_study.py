"""A study as a value: its cells, where their records are, and what of it is refused."""

import dataclasses
import json
import re
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments import mnist, study
from experiments.cli import parse as cli
from plasticity.errors import UsageError
from plasticity.protocol.supervised import ASKING_WHY, MECHANISMS
from plasticity.remedies import REMEDIES
from plasticity.results.record import read_rows
from plasticity.studies.cells import Cell, cells, folder_of, is_complete, rows_of, tasks_left
from plasticity.studies.diagnosed import Diagnosed, Hypothesis
from plasticity.studies.study import Study
from plasticity.studies.tuning import Trial, mean_scores, tuning_cells, tuning_table, with_value
from tests.experiments.runs import arm_folders, start
from tests.experiments.test_commands import run
from tests.studies.studying import tiny_study, train_here, write_study

pytestmark = pytest.mark.usefixtures("empty_folder")

STUDIES = {name: study.find(name) for name in study.summaries()}


@pytest.fixture
def tiny(tmp_path: Path) -> Study:
    return tiny_study(tmp_path)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


# --- cells


def test_cells_are_all_arms_with_all_seeds_each_once(tiny: Study) -> None:
    found = [(cell.arm, cell.seed) for cell in cells(tiny)]
    assert sorted(found) == [
        ("linear+l2-init", 0), ("linear+l2-init", 1), ("mlp", 0), ("mlp", 1)
    ]  # fmt: skip
    assert len({*cells(tiny)}) == 4


def test_a_cell_is_the_command_that_a_user_would_type(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_study(tmp_path, of_arm={"mlp": {"hidden": 5}}, metrics=("fisher", "dormant"))
    monkeypatch.syspath_prepend("")
    words = Cell(tiny, "mlp", 7).command(results)
    assert words[:3] == [sys.executable, "-m", "experiments.mnist"]
    choice, options = cli.parse(mnist.EXPERIMENT, words[3:])
    preset, config, arms = choice.preset, choice.config, choice.arms
    assert (preset, options.arms, options.results) == ("quick", ("mlp",), results)
    assert options.metrics == ("fisher", "dormant")
    assert (config.seed, config.threads, config.num_tasks, config.batch_size) == (7, 1, 3, 16)
    assert config.dataset == str(tmp_path / "tiny.npz")
    assert arms["mlp"].network.hidden == (5,)
    other = Cell(tiny, "linear+l2-init", 7).command(results)
    assert "--mlp.hidden" not in other
    assert [*cli.parse(mnist.EXPERIMENT, other[3:])[0].arms["linear+l2-init"].remedies] == [
        "l2-init"
    ]


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("arms", "mlp", "arms 'mlp': must be a tuple of words"),
        ("seeds", 5, "seeds 5: must be a tuple of numbers"),
        ("settings", "--num-tasks 3", "settings '--num-tasks 3': must be a dictionary"),
        ("of_arm", {"mlp": "--mlp.hidden 3"}, r"of_arm\['mlp'\] '--mlp.hidden 3': must be a"),
        ("compared", ("mlp", "linear+l2-init"), "must be a tuple of pairs of arms"),
        ("rates", ("x",), "rates .*: must be a tuple of numbers"),
        ("drop_margin", "x", "drop_margin 'x': must be a number"),
    ],
)
def test_values_of_another_kind_are_named(
    tmp_path: Path, field: str, value: Any, part: str
) -> None:
    with pytest.raises(UsageError, match=part):
        tiny_study(tmp_path, **{field: value})


@pytest.mark.parametrize("finding", ["", ".", None])
def test_a_cell_looks_for_modules_in_the_working_directory_only_if_this_process_does(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch, finding: str | None
) -> None:
    """So ``plasticity study`` is not led astray by a folder called experiments."""
    tiny = tiny_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    if finding is not None:
        monkeypatch.syspath_prepend(str(tmp_path) if finding else "")
    words = Cell(tiny, "mlp", 7).command(results)
    assert words[1] == ("-Pm" if finding is None else "-m")


def test_the_presets_metrics_are_taken_where_a_study_names_none() -> None:
    why = dataclasses.replace(STUDIES["mnist-why"], metrics=(), arms=("mlp",), compared=())
    words = cells(why)[0].command(Path("results"))
    assert "--metrics" not in words
    assert cli.parse(mnist.EXPERIMENT, words[3:])[1].metrics == ASKING_WHY


# --- records


def test_a_cells_record_is_found_where_its_command_writes_it(tiny: Study, results: Path) -> None:
    for cell in cells(tiny):
        train_here(cell, results)
        (run_folder,) = results.glob(f"mnist-quick-seed{cell.seed}-*")
        path = arm_folders(run_folder)[cell.arm]
        assert folder_of(cell, results) == path
        assert rows_of(cell, results) == read_rows(path)
        assert len(rows_of(cell, results)) == 3


def test_a_fresh_arms_record_is_found_and_complete_after_its_last_task(
    tmp_path: Path, results: Path
) -> None:
    settings = tiny_study(tmp_path).settings | {"num_tasks": 4}  # tasks 0, 1 and 2 of four
    (cell,) = cells(tiny_study(tmp_path, arms=("fresh:mlp",), seeds=(0,), settings=settings))
    assert tasks_left(cell, results) == 3
    train_here(cell, results)
    assert [row["task"] for row in rows_of(cell, results)] == [0, 1, 2]
    assert is_complete(cell, results)


def test_nothing_is_made_locked_or_changed_where_records_are_looked_for(
    tiny: Study, results: Path
) -> None:
    first, *others = cells(tiny)
    assert [rows_of(cell, results) for cell in cells(tiny)] == [[]] * 4
    assert not results.exists()
    train_here(first, results)
    before = {path: path.stat() for path in results.rglob("*")}
    results.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert is_complete(first, results)
    assert not any(is_complete(cell, results) for cell in others)
    results.chmod(stat.S_IRWXU)
    after = {path: path.stat() for path in results.rglob("*")}
    assert {p: s.st_mtime_ns for p, s in before.items()} == {
        p: s.st_mtime_ns for p, s in after.items()
    }


def test_a_cell_is_complete_with_its_last_row_and_not_before(tiny: Study, results: Path) -> None:
    cell = cells(tiny)[0]
    left = []
    for number in (1, 2, 3):
        words = cell.command(results)[3:]
        words[words.index("--num-tasks") + 1] = str(number)
        assert start(*words) == 0
        left.append((tasks_left(cell, results), is_complete(cell, results)))
    assert left == [(2, False), (1, False), (0, True)]


def test_a_cell_is_not_complete_while_its_record_cannot_be_read(tiny: Study, results: Path) -> None:
    cell = cells(tiny)[0]
    train_here(cell, results)
    (folder_of(cell, results) / "rows.jsonl").write_text("no JSON\n")
    assert not is_complete(cell, results)


def test_studies_that_differ_in_what_is_asked_only_share_their_cells(
    tiny: Study, tmp_path: Path, results: Path
) -> None:
    for cell in cells(tiny):
        train_here(cell, results)
    other = tiny_study(
        tmp_path, name="other", arms=("linear+l2-init", "linear"), seeds=(1, 2), drop_margin=0.5
    )
    there = [(c.arm, c.seed) for c in cells(other) if is_complete(c, results)]
    assert there == [("linear+l2-init", 1)]
    longer = tiny_study(tmp_path, settings=tiny.settings | {"num_tasks": 4})
    assert [tasks_left(cell, results) for cell in cells(longer)] == [1] * 4


# --- what is declared


SAME_RATE = {arm: {"optimizer.learning_rate": 0.01} for arm in ("mlp", "linear+l2-init")}
CHANGES = {
    "name": "other",
    "question": "Which?",
    "preset": "matched",
    "arms": ("mlp",),
    "seeds": (0, 2),
    "settings": {"num_tasks": 4},
    "of_arm": {"mlp": {"hidden": (5,)}},
    "modules": ("json",),
    "metrics": ("fisher",),
    "drop_margin": 0.02,
    "slope_margin": 0.002,
    "compared": (("mlp", "linear+l2-init"),),
    "tuning_seeds": (9,),
    "rates": (0.1,),
    "tuning_values": {"mlp": {"optimizer.learning-rate": (0.1,)}},
    "chance": 0.5,
    "looks": (2, 4),
    "fewer_seeds": {"mlp": 1},
    "causal": (("mlp", "linear+l2-init"),),
    "confirmatory": True,
    "diagnosed": (Diagnosed("mlp", ("forget",)),),
    "hypotheses": (Hypothesis("H1", "It cures.", (("cures", "mlp", "forget"),)),),
}


def test_the_digest_is_of_all_that_is_declared(tiny: Study) -> None:
    fields = {field.name for field in dataclasses.fields(Study)}
    assert fields - {"experiment", "declared_seeds"} == {*CHANGES}
    needed = {
        "causal": {"compared": CHANGES["causal"], "of_arm": SAME_RATE},
        "confirmatory": {"seeds": (100, 101)},
        "hypotheses": {"diagnosed": (Diagnosed("mlp", ("forget",)),)},
    }
    others = [
        dataclasses.replace(tiny, **{name: value} | needed.get(name, {}))
        for name, value in CHANGES.items()
    ]
    # What a hypothesis needs is declared above by itself.
    others += [dataclasses.replace(tiny, **needed[name]) for name in ("causal", "confirmatory")]
    digests = [tiny.digest(), *(other.digest() for other in others)]
    assert len({*digests}) == len(digests)
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in digests)
    turned = dict(reversed(tiny.settings.items()))
    assert [*turned] != [*tiny.settings]
    assert dataclasses.replace(tiny, settings=turned).digest() == tiny.digest()


def test_a_study_with_other_seeds_knows_how_many_were_declared(tiny: Study) -> None:
    declared = len(tiny.seeds)
    more = tiny.with_seeds(declared + 3)
    assert (len(more.seeds), more.num_declared) == (declared + 3, declared)
    assert more.with_seeds(1).num_declared == declared
    assert more.with_seeds(declared) == tiny
    # What is declared of the cells is the same as if these seeds had been declared.
    assert more.digest() == dataclasses.replace(tiny, seeds=more.seeds).digest()
    assert Study(**more.json() | {"seeds": more.seeds}).num_declared == declared


def test_the_digest_is_the_same_in_another_process(tiny: Study, tmp_path: Path) -> None:
    file = write_study(tmp_path / "own.py", tiny)
    code = f"import runpy; print(runpy.run_path({str(file)!r})['STUDY'].digest())"
    done = run("-c", code)
    assert done.stdout.strip() == tiny.digest()


WRONG = {
    "an unknown experiment": ({"experiment": "xor"}, "'xor': must be one of ant, cifar"),
    "an experiment without tasks": (
        {"experiment": "ant", "preset": "quick", "arms": ("mlp",), "settings": {}},
        "studies are of experiments with tasks",
    ),
    "an unknown preset": ({"preset": "slow"}, "preset slow: mnist has released"),
    "an unknown network": ({"arms": ("rnn",)}, "arm rnn: no network"),
    "an unknown remedy": ({"arms": ("mlp+hope",)}, "arm mlp+hope: no remedy"),
    "an unknown setting": ({"settings": {"num_task": 3}}, "did you mean num_tasks"),
    "a setting of another kind": ({"settings": {"num_tasks": "x"}}, "num_tasks='x': must be int"),
    "a setting that is a cell's": ({"settings": {"seed": 3}}, "settings: seed is not for a study"),
    "an unknown option": ({"of_arm": {"mlp": {"hiden": (3,)}}}, "did you mean hidden"),
    "options of an arm that is not there": (
        {"of_arm": {"qnn": {"depth": 3}}}, "qnn is not among its arms"),
    "a module that is not there": ({"modules": ("nosuch",)}, "module nosuch: ModuleNotFoundError"),
    "no arms": ({"arms": ()}, "arms: at least one"),
    "no seeds": ({"seeds": ()}, "seeds: at least one"),
    "an arm twice": ({"arms": ("mlp", "mlp")}, "arms: mlp is there twice"),
    "a seed twice": ({"seeds": (1, 2, 1)}, "seeds: 1 is there twice"),
    "a negative seed": ({"seeds": (-1,)}, "seed -1: must be 0 to"),
    "no arm has fewer seeds": ({"fewer_seeds": {"mlp": 9}}, "fewer_seeds: mlp 9: must be 1 to"),
    "fewer seeds of no arm": ({"fewer_seeds": {"qnn": 1}}, "qnn is not among its arms"),
    "a seed that is tuned with": ({"tuning_seeds": (1,)}, "tuning_seeds: 1 is among the seeds"),
    "no margin": ({"drop_margin": 0.0}, "drop_margin 0.0: must be above 0"),
    "a margin that is no number": ({"slope_margin": float("nan")}, "slope_margin nan"),
    "values for an arm that is not there": (
        {"tuning_values": {"linear+l2": {"l2.strength": (0.1,)}}}, "linear+l2 is not among its arms"
    ),
    "a value that its remedy refuses": (
        {"tuning_values": {"linear+l2-init": {"l2-init.strength": (-1.0,)}}},
        "linear+l2-init: l2-init.strength -1.0: at least 0",
    ),
    "an option without values": (
        {"tuning_values": {"mlp": {"hidden": ()}}}, "tuning_values: mlp hidden has no values"
    ),
    "a chance of 1": ({"chance": 1.0}, "chance 1.0: must be from 0 to below 1"),
    "a chance in words": ({"chance": "half"}, "chance 'half': must be a number"),
    "a rate of zero": ({"rates": (0.1, 0.0)}, "rates: 0.0 must be above 0"),
    "a comparison with nothing": ({"compared": (("mlp", "qnn"),)}, "qnn is not among its arms"),
    "a name with a folder": ({"name": "../tiny"}, "study '../tiny': a name of"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_trained_or_claimed_is_refused_in_a_line(what: str, tiny: Study) -> None:
    changes, said = WRONG[what]
    if "arms" in changes:
        changes = {"compared": ()} | changes
    with pytest.raises(UsageError, match=re.escape(said)) as refused:
        dataclasses.replace(tiny, **changes)
    assert "\n" not in str(refused.value)


def test_more_seeds_follow_the_largest_and_are_not_those_for_tuning(tmp_path: Path) -> None:
    tiny = tiny_study(tmp_path, seeds=(3, 1), tuning_seeds=(4, 6))
    assert [tiny.with_seeds(n).seeds for n in (1, 2, 5)] == [(3,), (3, 1), (3, 1, 5, 7, 8)]
    with pytest.raises(UsageError, match="0 seeds: at least 1"):
        tiny.with_seeds(0)


# --- the studies that come with the program


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_found_by_its_name_and_tuned_unless_it_is_the_authors_own(name: str) -> None:
    assert STUDIES[name].name == name
    assert STUDIES[name].question.endswith("?")
    assert study.summaries()[name].endswith((".", "?"))
    released = STUDIES[name].preset in ("released", "matched", "deep", "resolved")
    assert bool(STUDIES[name].rates) is not released
    assert bool(STUDIES[name].tuning_seeds) is not released


def test_the_studies_of_why_have_all_arms_of_their_preset() -> None:
    preset = (*mnist.WHY.arms,)
    # In any order: tests that register something of their own may change that of the registry.
    # Remedies that came after the study was declared would change its digest.
    later = {
        "hold", "revive", "nap", "snr", "c-chain", "adamo", "selective-reinit", "soft-rescaling",
        "leaky-relu",
    }  # fmt: skip
    remedies = {f"mlp+{name}" for name in {*REMEDIES} - later if name != "start-afresh"}
    assert STUDIES["mnist-why"].arms[: len(preset)] == preset
    assert {*STUDIES["mnist-why"].arms} == {*preset, *remedies}
    assert STUDIES["qdata-why"].arms == preset
    for name in ("mnist-why", "qdata-why"):
        assert STUDIES[name].seeds == (*range(10),)
        assert STUDIES[name].metrics == (*MECHANISMS, "fresh")


# --- tuning


def test_tuning_varies_the_option_that_a_remedy_names_and_else_the_rate(tmp_path: Path) -> None:
    tiny = tiny_study(
        tmp_path, arms=("mlp+crelu", "mlp+upgd", "mlp+redo"), compared=(), tuning_seeds=(8, 9),
        rates=(0.1,), of_arm={"mlp+crelu": {"optimizer.learning_rate": 0.5}},
        tuning_values={"mlp+redo": {"redo.every": (7,), "redo.threshold": (0.2,)}},
    )  # fmt: skip
    upgd = REMEDIES["upgd"].tries
    assert len(upgd) > 3
    found = [
        (cell.seed, cell.arm, *cell.study.of_arm[cell.arm].items())
        for some in tuning_cells(tiny).values()
        for cell in some
    ]
    assert found == [
        (seed, arm, (option, value))
        for arm, option, values in (
            ("mlp+crelu", "optimizer.learning_rate", (0.1,)),
            ("mlp+upgd", "upgd.learning_rate", upgd),  # which ignores the optimizer's
            ("mlp+redo", "redo.every", (7,)),  # what the study says, not what the remedy does
            ("mlp+redo", "redo.threshold", (0.2,)),
        )
        for value in values
        for seed in (8, 9)
    ]
    with pytest.raises(UsageError, match="--tune: the study tiny has no rates"):
        tuning_cells(tiny_study(tmp_path, arms=("mlp",), compared=(), tuning_seeds=(8,)))


def test_scores_are_means_of_all_tasks_and_the_best_value_is_bold(
    tmp_path: Path, results: Path
) -> None:
    tiny = tiny_study(
        tmp_path, arms=("mlp", "mlp+redo"), compared=(), tuning_seeds=(8, 9),
        rates=(0.1, 0.01, 0.001), tuning_values={"mlp+redo": {"redo.every": (7, 70)}},
    )  # fmt: skip
    rate = Trial("mlp", "optimizer.learning-rate", (0.1, 0.01, 0.001))
    period = Trial("mlp+redo", "redo.every", (7, 70))
    rows = {
        (rate, 0.1, 8): [0.5] * 18 + [0.2, 0.4], (rate, 0.01, 8): [0.9], (rate, 0.01, 9): [0.6],
        (period, 70, 8): [0.8],
    }  # fmt: skip
    for (trial, value, seed), scores in rows.items():
        folder = folder_of(Cell(with_value(tiny, trial, value), trial.arm, seed), results)
        folder.mkdir(parents=True)
        lines = [json.dumps({"task": k, "test_accuracy": v}) + "\n" for k, v in enumerate(scores)]
        (folder / "rows.jsonl").write_text("".join(lines))
    scores = mean_scores(tiny, results)
    assert scores == {
        rate: {0.1: [pytest.approx(0.48)], 0.01: [0.9, 0.6], 0.001: []}, period: {7: [], 70: [0.8]}
    }  # fmt: skip
    _, of_rates, of_periods = tuning_table(tiny, scores).split("\n## ")
    assert of_rates == (
        "`optimizer.learning-rate`\n\n| arm | 0.1 | 0.01 | 0.001 | best |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| mlp | 0.4800 (1) | **0.7500** | none | 0.01 |\n"
    )
    assert of_periods == (
        "`redo.every`\n\n| arm | 7 | 70 | best |\n| --- | --- | --- | --- |\n"
        "| mlp+redo | none | **0.8000** (1) | 70, at the edge |\n"
    )


def test_records_are_read_only_for_a_report(capsys) -> None:
    assert study.main(["quick", "--records", "somewhere"]) == 2
    assert capsys.readouterr().err == "error: --records: with --report only (see --help)\n"
    assert study.main(["quick", "--report", "--records", "nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err
