"""Branches of recorded runs: what they learn, what they leave alone, how they go on."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plasticity import Run, load_runs
from plasticity.errors import Failure, InUse, RecordError, UsageError
from plasticity.interventions import INTERVENTIONS
from plasticity.interventions.intervention import Aged, Intervention
from plasticity.results.arm import identity_of, learner_file, read_last_state
from plasticity.runs import branches
from plasticity.runs.branches import AgedArm, Branch, Source
from plasticity.runs.diagnose import BranchRows
from tests.experiments.runs import snapshot
from tests.runs.diagnosing import WRITTEN, forget_learners, root_of, rows, train
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("diagnose")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return train("mnist", folder, ("mlp", "qnn"))


def tensors(state: Any) -> list[Any]:
    """Return all that a state holds, in order."""
    if isinstance(state, dict):
        return [inner for key in state for inner in (key, *tensors(state[key]))]
    if isinstance(state, list | tuple):
        return [inner for value in state for inner in tensors(value)]
    return [state]


def assert_same_state(one: Any, other: Any) -> None:
    for a, b in zip(tensors(one), tensors(other), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


# --- none is the run made longer
@pytest.mark.sampled(3)
@pytest.mark.parametrize("arm", ["mlp", "qnn", "stiefel", "mlp-sphere", "mlp+redo"])
@pytest.mark.parametrize("name", ["mnist", "qdata"])
def test_none_learns_what_the_run_learns_if_it_is_made_longer_bit_for_bit(
    name: str, arm: str, tmp_path: Path
) -> None:
    short = train(name, tmp_path, (arm,), num_tasks=3)
    said = {"tasks": 2, "interventions": ["none"], **root_of(name, tmp_path)}
    found = short[arm].diagnose([2, "last"], **said)
    longer = train(name, tmp_path, (arm,), num_tasks=5, results=tmp_path / "longer")
    accuracy = longer[arm].column("test_accuracy")
    assert found.column(arm, 2, "none").tolist() == [accuracy[2:4].tolist()]
    assert found.column(arm, 3, "none").tolist() == [accuracy[3:5].tolist()]
    # And so does the whole learner, whose accuracy on few samples says little.
    source = Source(short.experiment, None, tmp_path / "data")
    aged_arm = AgedArm(source, short.folder, short[arm].path, 5)
    aged = aged_arm.aged(2)
    aged_arm._learn(aged.learner, Branch("", "", "", 2, "none", 3))
    path = longer[arm].path
    identity = identity_of(longer.config, longer[arm].config, path.name)
    count, state = read_last_state(path, identity) or (0, None)
    assert count == 5
    assert_same_state(aged.learner.state_dict(), state)


def test_branches_of_an_age_learn_the_tasks_from_there_on(run: Run, tmp_path: Path) -> None:
    found = run["mlp"].diagnose([1, 2, "last"], ["rate:first:2"], tasks=3, out=tmp_path)
    assert {(row["age"], row["task"]) for row in found.rows} == {
        (age, age + k) for age in (1, 2, 4) for k in range(3)
    }
    assert found.interventions("mlp", 2) == ["none", "untrained", "rate:first:2"]
    assert found.cases == [(run["mlp"].path.name, age) for age in (1, 2, 4)]
    assert found.rows == tuple(sorted(rows(tmp_path), key=lambda row: found.rows.index(row)))
    assert {row["factor"] for row in found.rows if row["intervention"] == "rate:first:2"} == {2.0}
    assert found.column("mlp", 4, "none").shape == (1, 3)


def test_untrained_is_the_run_s_own_beginning(run: Run, tmp_path: Path, folder: Path) -> None:
    # The tasks of age 1 with the initial weights: the same as a run whose task 0 never was.
    found = run["mlp"].diagnose(1, ["untrained"], tasks=1, out=tmp_path)
    (row,) = [row for row in found.rows if row["intervention"] == "untrained"]
    fresh = train("mnist", folder, ("fresh:mlp",), num_tasks=2, results=tmp_path / "fresh")
    other = fresh["fresh:mlp"]
    if other.config["epochs"] == run["mlp"].config["epochs"]:
        assert row["test_accuracy"] == other.column("test_accuracy")[1]


def test_nothing_of_the_run_is_touched(run: Run) -> None:
    before = snapshot(run.path)
    run["mlp"].diagnose(tasks=1)
    run["qnn"].diagnose(tasks=1)
    after = {path: found for path, found in snapshot(run.path).items() if path.name not in WRITTEN}
    assert after == before
    for name in WRITTEN:
        (run.path / name).unlink(missing_ok=True)


def test_what_touches_a_learner_is_told(run: Run, tmp_path: Path) -> None:
    found = run["qnn"].diagnose("last", tasks=1, out=tmp_path)
    by_name = {row["intervention"]: row for row in found.rows}
    assert by_name["none"]["changed_parameters"] == by_name["none"]["changed_outputs"] == 0
    turned = by_name["turns:3"]
    assert turned["damping_after"] < turned["damping_before"]
    assert turned["changed_parameters"] > 0
    assert turned["changed_outputs"] < 1e-2
    assert "rate:last" not in by_name and "revive" not in by_name


def test_a_branch_that_diverges_counts_at_chance(run: Run, tmp_path: Path) -> None:
    found = run["mlp"].diagnose("last", ["rate:first:1e300"], tasks=3, out=tmp_path)
    of = [row for row in found.rows if row["intervention"] == "rate:first:1e+300"]
    assert [row["task"] for row in of] == [4, 5, 6]
    assert [(row["test_accuracy"], row["diverged"]) for row in of] == [(1 / 4, True)] * 3


# --- resume, workers, kills
NAMES = ["rate:first:2", "revive", "forget"]


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("whole")
    run["mlp"].diagnose([2, "last"], NAMES, tasks=2, out=out)
    return (out / "diagnosis.jsonl").read_bytes()


@pytest.mark.parametrize("number", [1, 4])
def test_a_diagnosis_that_was_stopped_goes_on_and_has_the_same_bytes(
    run: Run, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    grow, done = branches.Nursery.grow, []

    def stop(self: Any, branch: Branch) -> Any:
        if len(done) == number:
            raise KeyboardInterrupt
        done.append(branch)
        return grow(self, branch)

    with monkeypatch.context() as patch:
        patch.setattr(branches.Nursery, "grow", stop)
        with pytest.raises(KeyboardInterrupt):
            run["mlp"].diagnose([2, "last"], NAMES, tasks=2, out=tmp_path)
    assert len(rows(tmp_path)) == 2 * number
    run["mlp"].diagnose([2, "last"], NAMES, tasks=2, out=tmp_path)
    assert (tmp_path / "diagnosis.jsonl").read_bytes() == whole
    changed = (tmp_path / "diagnosis.jsonl").stat().st_mtime_ns
    run["mlp"].diagnose(2, NAMES[:1], tasks=1, out=tmp_path)  # which is there, and longer
    assert (tmp_path / "diagnosis.jsonl").stat().st_mtime_ns == changed


def test_the_order_in_which_branches_were_asked_for_changes_no_byte(
    run: Run, whole: bytes, tmp_path: Path
) -> None:
    for name in reversed(NAMES):
        for age in ("last", 2):
            run["mlp"].diagnose(age, [name], tasks=2, out=tmp_path)
    assert (tmp_path / "diagnosis.jsonl").read_bytes() == whole


@pytest.mark.processes
@pytest.mark.slow
def test_two_workers_write_the_same_bytes(run: Run, whole: bytes, tmp_path: Path) -> None:
    run["mlp"].diagnose([2, "last"], NAMES, tasks=2, out=tmp_path, workers=2)
    assert (tmp_path / "diagnosis.jsonl").read_bytes() == whole


@pytest.mark.processes
@pytest.mark.slow
def test_a_command_that_is_killed_again_and_again_writes_the_same_bytes_and_leaves_no_process(
    run: Run, whole: bytes, tmp_path: Path
) -> None:
    words = [
        sys.executable, "-m", "experiments.diagnose", str(run.path), "--arms", "mlp", "--at", "2",
        "last", "--tasks", "2", "--workers", "2", "--out", str(tmp_path), "--interventions", *NAMES,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    source = np.random.default_rng(0)
    for _ in range(int(os.environ.get("KILLS", "3"))):
        process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
        time.sleep(float(source.uniform(1, float(os.environ.get("LONGEST", "12")))))
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: not servers_of(tmp_path))
    assert subprocess.run(words, env=environment, stdout=subprocess.DEVNULL).returncode == 0
    assert (tmp_path / "diagnosis.jsonl").read_bytes() == whole
    wait_until(lambda: not servers_of(tmp_path))


def servers_of(out: Path) -> list[str]:
    """Return the processes that grow branches for a command that writes into a folder.

    They inherit the command's working directory and environment; its output folder names them.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            if b"branch_server" in words and str(ROOT).encode() in (entry / "environ").read_bytes():
                found.append(entry.name)
        except OSError:  # it has just ended
            continue
    return found


# --- several seeds
def test_runs_that_differ_in_the_seed_are_diagnosed_together(folder: Path, tmp_path: Path) -> None:
    paths = [train("mnist", folder, num_tasks=2, seed=seed).path for seed in (5, 6)]
    found = load_runs(paths)["mlp"].diagnose("last", ["forget"], tasks=2, out=tmp_path)
    assert found.seeds("mlp", 2) == [5, 6]
    assert found.column("mlp", 2, "forget").shape == (2, 2)
    alone = load_runs(paths[:1])["mlp"].diagnose("last", ["forget"], tasks=2, out=tmp_path / "1")
    assert (
        alone.column("mlp", 2, "forget").tolist() == found.column("mlp", 2, "forget")[:1].tolist()
    )


def test_ends_that_differ_are_refused(folder: Path, tmp_path: Path) -> None:
    paths = [
        train("mnist", folder, num_tasks=seed, seed=seed, results=tmp_path / "r").path
        for seed in (1, 2)
    ]
    with pytest.raises(
        UsageError, match=r"--at last: mlp-.* has learned 1 .* and 2 .* name an age"
    ):
        load_runs(paths)["mlp"].diagnose(out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- what is refused
def test_older_runs_can_be_diagnosed_at_their_end(folder: Path, tmp_path: Path) -> None:
    run = train("mnist", folder, num_tasks=3, results=tmp_path / "results")
    expected = run["mlp"].diagnose(tasks=1, out=tmp_path / "new").rows
    forget_learners(run)
    found = run["mlp"].diagnose(tasks=1, out=tmp_path / "old").rows
    assert found == tuple(row for row in expected if row["intervention"] != "induce")
    with pytest.raises(UsageError, match="before this version, learners were not kept"):
        run["mlp"].diagnose(2)
    with pytest.raises(UsageError, match="the learner after the first task was not kept"):
        run["mlp"].diagnose("last", ["induce"])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an arm without the layer": ({"interventions": ["rate:3"]}, "no layer 3"),
    "an age without a snapshot": ({"at": 3}, "has kept its learner after 1, 2, 4 tasks"),
    "age 0": ({"at": 0}, "--at 0: mlp"),
    "no circuit": ({"interventions": ["turns:3"]}, "needs a circuit"),
    "no tasks": ({"tasks": 0}, "--tasks 0: must be 1 to 10000"),
    "no workers": ({"workers": 0}, "--workers 0"),
    "a word in place of a list": ({"interventions": "forget"}, "a list of names"),
    "no such intervention": ({"interventions": ["forgt"]}, "did you mean forget?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_use_is_refused_in_a_line_and_nothing_is_written(
    run: Run, tmp_path: Path, case: str
) -> None:
    said, reason = REFUSED[case]
    with pytest.raises(UsageError) as refused:
        run["mlp"].diagnose(out=tmp_path / "out", **said)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_a_damaged_snapshot_is_named_and_nothing_is_written(
    folder: Path, tmp_path: Path, damage: bytes | None
) -> None:
    run = train("mnist", folder, num_tasks=2, results=tmp_path / "results")
    file = learner_file(run["mlp"].path, 2)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if damage is None else damage)
    with pytest.raises(RecordError, match=r"age-00000002.pt cannot be used"):
        run["mlp"].diagnose(2, ["forget"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_state_of_another_network_is_refused(folder: Path, tmp_path: Path) -> None:
    run = train("mnist", folder, num_tasks=2, results=tmp_path / "results")
    arm = run["mlp"]
    identity = identity_of(run.config, arm.config, arm.path.name)
    other = {"network": {"0.weight": torch.zeros(2)}, "optimizer": {}, "steps": 1, "remedies": []}
    named = {"format": 2, "arm": arm.path.name, "identity": identity}
    torch.save(named | {"age": 2, "state": other}, learner_file(arm.path, 2))
    with pytest.raises(
        Failure, match="the learner after 2 tasks is not the arm's: another version"
    ):
        arm.diagnose(2, ["forget"], out=tmp_path / "out")


def test_rows_that_were_edited_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "diagnosis.jsonl").write_text('{"arm": "mlp"}\n')
    with pytest.raises(RecordError, match="was edited, or another version wrote it"):
        run["mlp"].diagnose("last", ["forget"], out=tmp_path)


def test_two_processes_do_not_write_the_same_file(run: Run, tmp_path: Path) -> None:
    with BranchRows(tmp_path).locked(), pytest.raises(InUse, match="written by another process"):
        run["mlp"].diagnose("last", ["forget"], tasks=1, out=tmp_path)


def test_arms_that_never_age_are_refused(folder: Path, tmp_path: Path) -> None:
    run = train("mnist", folder, ("fresh:mlp",), num_tasks=2, results=tmp_path / "results")
    assert not learner_file(run["fresh:mlp"].path, 1).exists()
    with pytest.raises(UsageError, match="begins each task with a new network and never ages"):
        run["fresh:mlp"].diagnose()


# --- an intervention of one's own
@dataclass(frozen=True)
class Halve(Intervention):
    """Divide all weights by two."""

    def act(self, aged: Aged) -> dict[str, float]:
        with torch.no_grad():
            for parameter in aged.learner.network.parameters():
                parameter.mul_(0.5)
        return {"halved": 1.0}


def test_one_entry_makes_an_intervention_of_one_s_own(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(INTERVENTIONS, "halve", Halve())
    found = run["mlp"].diagnose("last", ["halve", "halve+forget"], tasks=1, out=tmp_path)
    assert [row["intervention"] for row in found.rows if row.get("halved")] == [
        "halve", "halve+forget",
    ]  # fmt: skip
