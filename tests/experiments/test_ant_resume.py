"""Reinforcement learning that is stopped, killed or made longer, and goes on."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("mujoco")
pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO

from plasticity.results.record import ArmRecord
from plasticity.rl import trainer as policies
from tests.experiments.control_runs import (
    ANT,
    ARMS,
    EXPORTS,
    TINY,
    folder_of,
    only,
    results,
    run,
)
from tests.experiments.runs import arm_folder, contents, provenance_of, rows_of, snapshot
from tests.tiny import same

ROOT = Path(__file__).parents[2]
FILES = {"mlp": "classical", "qnn": "quantum"}
WHICH = ("best", "last")


@pytest.fixture(autouse=True)
def here(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of other processes, for tests.short


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of TINY's run, finished."""
    results = tmp_path_factory.mktemp("trained") / "results"
    assert run(*TINY, f"--results={results}") == 0
    return folder_of(*TINY, f"--results={results}")


# --- killed and interrupted

# A process that has imported everything forks one after the other; each goes on with the run and
# kills itself before the n-th call of something. The first one has workers.
KILLED = """
import os, signal, sys
import torch, torch._dynamo
from experiments import ant
from plasticity.rl import trainer
from plasticity.rl.workers import Workers

def killed(owner, name, limit, arguments):
    calls, function = [], getattr(owner, name)
    def counted(*arguments, **options):
        calls.append(0)
        if len(calls) == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    child = os.fork()
    if child == 0:
        setattr(owner, name, counted)
        os._exit(ant.main(arguments))
    return os.waitpid(child, 0)[1] == signal.SIGKILL

for moment in (
    (Workers, "step_wait", 40, [*sys.argv[1:], "--env-processes=2"]),
    (torch.optim.Adam, "step", 30, sys.argv[1:]),
    (os, "replace", 12, sys.argv[1:]),
    (os, "fsync", 24, sys.argv[1:]),
):
    print("killed:", killed(*moment))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_run_killed_in_the_midst_of_anything_ends_like_an_uninterrupted_one() -> None:
    arguments = (*ANT, "--friction-period=150")
    assert run(*arguments, "--results=whole") == 0
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("killed: True") == 4, done.stderr
    folder = folder_of(*arguments)
    assert 0 < len(rows_of(folder, "qnn")) < 5
    assert run(*arguments) == 0
    assert results(folder) == results(folder_of(*arguments, "--results=whole"))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("stop", [1, 5, 8])  # the first of each arm, and the last
def test_run_interrupted_in_an_update_ends_like_an_uninterrupted_one(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys, stop: int
) -> None:
    train, calls = PPO.train, []

    def interrupted(self: PPO) -> None:
        calls.append(0)
        if len(calls) == stop:
            raise KeyboardInterrupt
        train(self)

    monkeypatch.setattr(PPO, "train", interrupted)
    assert run(*TINY) == 130
    assert run(*TINY) == 0
    assert results(folder_of(*TINY)) == results(trained)
    said = capsys.readouterr()
    assert "the same command goes on" in said.err


def test_killed_worker_is_told_and_the_run_goes_on(trained: Path, capsys, monkeypatch) -> None:
    arguments = only(TINY, "qnn")
    append = ArmRecord.append

    def killing(self: ArmRecord, row: Any, state: Any) -> None:
        append(self, row, state)
        if row["update"] == 2:
            for process in multiprocessing.active_children():
                process.kill()

    with monkeypatch.context() as patch:
        patch.setattr(ArmRecord, "append", killing)
        assert run(*arguments, "--env-processes=2") == 1
    error = capsys.readouterr().err
    error = error[error.index("error:") :]
    assert "worker processes have ended" in error
    assert len(error.splitlines()) == 2
    assert run(*arguments) == 0
    rows = rows_of(folder_of(*arguments), "qnn")
    assert rows == rows_of(trained, "qnn")


# --- made longer

OF_TIMES = {"checkpoint.pt", *(f"{f}_{w}_policy.zip" for f in FILES.values() for w in WHICH)}
"""Files that say when episodes ended or training began; all else in them is compared."""
EVALUATION = {f"evaluation_{name}" for name in ("step", "return", "returns", "length", "lengths")}
"""Columns of an evaluation."""


def checkpoint_of(folder: Path, arm: str) -> dict[str, Any]:
    """Return a checkpoint without the times at which episodes ended, in seconds of the clock."""
    content = torch.load(arm_folder(folder, arm) / "checkpoint.pt", weights_only=True)
    for episode in content["state"]["ppo"]["episodes"]:
        assert episode.pop("t") > 0
    for wrappers in content["state"]["ppo"]["environments"]:
        monitor = wrappers[0]["attributes"]
        del monitor["t_start"], monitor["episode_times"]
    return content


def policy_of(folder: Path, arm: str, which: str) -> dict[str, torch.Tensor]:
    file = arm_folder(folder, arm) / f"{FILES[arm]}_{which}_policy.zip"
    return PPO.load(file, device="cpu").policy.state_dict()


def without_times(folder: Path) -> dict[str, Any]:
    """Return what is in the files of a run, by their paths, but for times."""
    found: dict[str, Any] = {
        str(path): content
        for path, content in contents(folder).items()
        if path.name not in OF_TIMES
    }
    for arm in ARMS:
        found[f"{arm}/checkpoint.pt"] = checkpoint_of(folder, arm)
        found |= {f"{arm}/{which}": policy_of(folder, arm, which) for which in WHICH}
    return found


def differing(a: Path, b: Path) -> set[str]:
    """Return the names of files in which two runs differ."""
    ours, theirs = without_times(a), without_times(b)
    assert ours.keys() == theirs.keys()
    return {Path(name).name for name in ours if not same(ours[name], theirs[name])}


def grown(*arguments: str, lengths: tuple[int, ...]) -> Path:
    """Return the folder of a run that was made longer step by step."""
    for steps in lengths:
        assert run(*arguments, f"--total-steps={steps}", "--results=grown") == 0
    return folder_of(*arguments, "--results=grown")


def at_once(*arguments: str) -> Path:
    assert run(*arguments, "--results=at-once") == 0
    return folder_of(*arguments, "--results=at-once")


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("arguments", "rollout", "updates"),
    [
        ((*TINY, "--evaluation-every=48"), 48, (1, 3, 4)),
        ((*ANT, "--evaluation-every=96", "--friction-period=150"), 96, (1, 2)),
    ],
)
def test_run_made_longer_is_the_longer_one_where_its_end_is_evaluated_anyway(
    arguments: tuple[str, ...], rollout: int, updates: tuple[int, ...]
) -> None:
    """Every file is the same, byte for byte; of those that hold times, all the rest."""
    ours = grown(*arguments, lengths=tuple(rollout * count for count in updates))
    theirs = at_once(*arguments, f"--total-steps={rollout * updates[-1]}")
    assert not differing(ours, theirs)
    for arm in ARMS:
        rows = [0, *(count + 1 for count in updates[:-1])]
        assert [note["rows"] for note in provenance_of(ours, arm)] == rows


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("steps", "evaluated_anyway"), [(48, False), (96, True)])
def test_run_made_longer_is_the_longer_one_but_for_the_evaluation_that_ended_the_shorter(
    trained: Path, steps: int, evaluated_anyway: bool
) -> None:
    """At 96 the longer run evaluates too, the policy that acts at step 100, and says so."""
    ours, theirs = grown(*TINY, lengths=(steps, 192)), trained
    last = steps // 48
    for arm in ARMS:
        rows, expected = rows_of(ours, arm), rows_of(theirs, arm)
        assert rows[last]["evaluation_step"] == steps
        assert expected[last].get("evaluation_step") == (100 if evaluated_anyway else None)
        if evaluated_anyway:
            # The same policy in the same episodes: it is another only in what it is called.
            assert rows[last] == expected[last] | {"evaluation_step": steps}
        kept = {k: v for k, v in rows[last].items() if k not in EVALUATION}
        assert kept == {k: v for k, v in expected[last].items() if k not in EVALUATION}
        assert [*rows[:last], *rows[last + 1 :]] == [*expected[:last], *expected[last + 1 :]]
    # What differs: these columns of this row, hence the hash of the rows that is in the checkpoint,
    # the exported evaluations, what is drawn of them, and which policy is the best.
    # The table has it too, if it is among the first or last tenth.
    expected_to = {"rows.jsonl", "checkpoint.pt", *(EXPORTS[a][1] for a in ARMS)}
    expected_to |= {"figure.png", "drawn.json"}
    assert differing(ours, theirs) - {"best", "table.md"} == expected_to
    for arm in ARMS:
        mine, other = checkpoint_of(ours, arm), checkpoint_of(theirs, arm)
        # The best return is that of the rows, see below.
        best = [checkpoint["state"].pop("best") for checkpoint in (mine, other)]
        assert best == [max(evaluations_of(folder, arm).values()) for folder in (ours, theirs)]
        assert mine.pop("rows_sha256") != other.pop("rows_sha256")
        assert same(mine, other)
        evaluations = evaluations_of(ours, arm)
        exported = np.load(arm_folder(ours, arm) / EXPORTS[arm][1])
        assert exported.tolist() == [[*evaluations], [*evaluations.values()]]
        columns = [step for step in evaluations if step != steps]
        others = np.load(arm_folder(theirs, arm) / EXPORTS[arm][1])
        assert columns == [step for step in others[0] if step != 100 or not evaluated_anyway]


def evaluations_of(folder: Path, arm: str) -> dict[int, float]:
    rows = [row for row in rows_of(folder, arm) if "evaluation_step" in row]
    return {row["evaluation_step"]: row["evaluation_return"] for row in rows}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("better", [False, True])
def test_best_policy_of_a_run_made_longer_is_the_best_of_all_its_evaluations(
    monkeypatch: pytest.MonkeyPatch, better: bool
) -> None:
    """The evaluation that ended the shorter run counts, for its policy was there."""
    # Returns by the number of updates; the shorter run ends with the first.
    returns = {0: 1.0, 1: 9.0 if better else 0.5, 2: 3.0, 4: 2.0}
    monkeypatch.setattr(
        policies.PolicyArm, "evaluate", lambda arm, model, update: ([returns[update]], [20])
    )
    arguments = only(TINY, "mlp")
    ours, theirs = grown(*arguments, lengths=(48, 192)), at_once(*arguments)
    rows = {row["update"]: row.get("evaluation_return") for row in rows_of(ours, "mlp")}
    assert rows == {0: 1.0, 1: returns[1], 2: 3.0, 3: None, 4: 2.0}
    for folder, update in ((ours, 1 if better else 2), (theirs, 2)):
        snapshot = arm_folder(folder, "mlp") / f"snapshots/task-{update:08}.pt"
        network = torch.load(snapshot, weights_only=True)["network"]
        assert same(policy_of(folder, "mlp", "best"), network)
        assert checkpoint_of(folder, "mlp")["state"]["best"] == returns[update]
    assert same(policy_of(ours, "mlp", "last"), policy_of(theirs, "mlp", "last"))


def test_run_made_longer_in_the_midst_of_the_shorter_is_the_longer_one(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has not got to its shorter end has no evaluation of it: all is the same."""
    append, calls = ArmRecord.append, []

    def interrupted(self: ArmRecord, row: Any, state: Any) -> None:
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        append(self, row, state)

    monkeypatch.setattr(ArmRecord, "append", interrupted)
    assert run(*TINY, "--total-steps=144") == 130
    assert run(*TINY) == 0
    assert not differing(folder_of(*TINY), trained)


def test_run_that_is_longer_than_what_is_asked_for_says_so_and_stays(trained: Path, capsys) -> None:
    before = snapshot(trained)
    assert run(*TINY, "--total-steps=50", f"--results={trained.parent}") == 0
    assert snapshot(trained) == before
    assert "mlp: all 192 steps are recorded, nothing to do" in capsys.readouterr().out
