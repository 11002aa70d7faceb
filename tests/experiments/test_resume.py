"""A run that is stopped, killed, made longer or trained by two processes: always the same bytes."""

import functools
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plasticity.results.record import ArmRecord, RunFolder
from tests.experiments.runs import (
    EXPERIMENTS,
    EXPORTS,
    UPDATES,
    Stop,
    arm_folder,
    arm_folders,
    contents,
    die,
    finish,
    interrupt,
    meet,
    on_call,
    only,
    provenance_of,
    rows_of,
    run_folder,
    snapshot,
    start,
    tiny_command,
)
from tests.waiting import PATIENCE, killed_on_failure, wait_until

pytestmark = pytest.mark.usefixtures("empty_folder")

ROOT = Path(__file__).parents[2]
UPDATE = ("plasticity.learning.learner:Learner", "update")


# --- stopped and started again


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seed", range(4))
def test_run_stopped_in_the_middle_of_tasks_ends_like_an_uninterrupted_one(
    tiny: list[str], stop: Stop, tmp_path: Path, seed: int
) -> None:
    uninterrupted = finish(tiny)
    again = [*tiny, f"--results={tmp_path / 'again'}"]
    rng = random.Random(seed)
    # A task of 6 updates may be begun several times: 6 tasks take 36 updates and those lost.
    while True:
        stop.at(rng.randint(1, 3 * UPDATES), interrupt)
        status = start(*again)
        if status == 0:
            break
        assert status == 130
    assert contents(run_folder(tmp_path / "again")) == contents(uninterrupted)


@pytest.mark.parametrize(
    ("holder", "method"), [(RunFolder, "save_figure"), (ArmRecord, "save_npz")]
)
def test_run_stopped_at_its_exports_makes_them_up(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, holder: type, method: str
) -> None:
    uninterrupted = finish(tiny)
    again = [*tiny, f"--results={tmp_path / 'again'}"]
    finish(only(again, "qnn"))
    with monkeypatch.context() as patch:
        patch.setattr(holder, method, lambda *a, **k: interrupt())
        assert start(*only(again, "mlp")) == 130
    folder = finish(only(again, "mlp"))
    assert contents(folder) == contents(uninterrupted)


def test_each_process_that_trains_an_arm_is_noted_with_the_rows_before_it(
    tiny: list[str], stop: Stop, tmp_path: Path
) -> None:
    stop.at(UPDATES + 1, interrupt)
    assert start(*tiny) == 130
    folder = finish(tiny)
    assert [note["rows"] for note in provenance_of(folder, "mlp")] == [0, 1]
    assert [note["rows"] for note in provenance_of(folder, "qnn")] == [0]
    finish(tiny)  # nothing to do, nothing to note
    assert [note["rows"] for note in provenance_of(folder, "mlp")] == [0, 1]
    names = {note["dataset"] for note in provenance_of(folder, "mlp")}
    assert names == {str(tmp_path / "tiny.npz")}


# --- made longer


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_run_that_is_made_longer_equals_one_that_was_as_long_from_the_start(
    name: str, tmp_path: Path
) -> None:
    command = tiny_command(name, tmp_path)
    experiment = EXPERIMENTS[name]
    short = finish([*command, "--num-tasks=6"], experiment)
    before = contents(short)
    grown = finish([*command, "--num-tasks=12"], experiment)
    assert grown == short
    apart = [*command, f"--results={tmp_path / 'apart'}"]
    whole = finish([*apart, "--num-tasks=12"], experiment)
    assert whole.name == grown.name
    assert contents(grown) == contents(whole)
    files = {path.name for path in contents(whole)}
    assert {
        "rows.jsonl",
        "checkpoint.pt",
        "figure.png",
        "table.md",
        "drawn.json",
        "arm.json",
        "config.json",
    } < files
    assert {f"task-{task:08}.pt" for task in (0, 1, 2, 4, 8)} < files
    assert {f"age-{age:08}.pt" for age in (1, 2, 4, 8)} < files
    for arm in arm_folders(whole):
        assert [row["task"] for row in rows_of(whole, arm)] == [*range(12)]
    # And all that was to change, has.
    changed = {path.name for path, data in contents(whole).items() if before.get(path) != data}
    exports = {path.name for path in before if path.suffix in (".npz", ".npy")}
    drawn = {"figure.png", "table.md", "drawn.json"}
    kept = {"task-00000008.pt", "age-00000008.pt"}
    assert changed == {"rows.jsonl", "checkpoint.pt"} | kept | drawn | exports


@pytest.mark.parametrize("fewer", [1, 2])
def test_asking_for_fewer_tasks_than_there_are_says_so_and_changes_nothing(
    tiny: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, fewer: int
) -> None:
    finish(tiny)
    before = snapshot(tmp_path)
    capsys.readouterr()
    assert start(*tiny, f"--num-tasks={fewer}") == 0
    printed, bars = capsys.readouterr()
    for arm in EXPORTS:
        assert f"{arm}: all 3 tasks are recorded, nothing to do" in printed
    assert bars == ""
    assert snapshot(tmp_path) == before


def test_arm_that_is_behind_catches_up_and_the_other_stays_as_it_is(tiny: list[str]) -> None:
    finish([*only(tiny, "mlp"), "--num-tasks=5"])
    folder = finish(tiny)
    assert [len(rows_of(folder, arm)) for arm in ("mlp", "qnn")] == [5, 3]


# --- in processes of their own


@pytest.mark.slow
def test_equal_commands_give_equal_rows_in_two_processes_and_another_seed_others(
    child: Callable[..., Any], tiny: list[str], tmp_path: Path
) -> None:
    commands = [[*tiny, f"--results={tmp_path / name}"] for name in "abc"]
    commands[2].append("--seed=1")
    processes = [child(command, tmp_path / "log") for command in commands]
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    first, second, other = (run_folder(tmp_path / name) for name in "abc")
    assert contents(first) == contents(second) == contents(finish(tiny))
    for arm in EXPORTS:
        for row, other_row in zip(rows_of(first, arm), rows_of(other, arm), strict=True):
            assert row["train_loss"] != other_row["train_loss"]


@pytest.mark.slow
def test_arms_trained_by_two_processes_at_once_equal_one_after_the_other(
    child: Callable[..., Any], tiny: list[str], tmp_path: Path
) -> None:
    finish(only(tiny, "mlp"))
    one_after_the_other = finish(only(tiny, "qnn"))
    at_once = [*tiny, f"--results={tmp_path / 'at_once'}"]

    def met(mine: str, other: str, *where: Any) -> Callable[[], None]:
        paths = (tmp_path / f"{other}-{where[1]}", tmp_path / f"{mine}-{where[1]}")
        return functools.partial(on_call, *where, functools.partial(meet, *reversed(paths)))

    processes = [
        child(
            only(at_once, arm),
            tmp_path / arm,
            met(arm, other, "plasticity.runs.train", "open_run", 1),
            met(arm, other, *UPDATE, 2 * UPDATES),
        )
        for arm, other in (("mlp", "qnn"), ("qnn", "mlp"))
    ]
    # One that fails keeps the other waiting.
    wait_until(lambda: {p.exitcode for p in processes} == {0} or any(p.exitcode for p in processes))
    assert [process.exitcode for process in processes] == [0, 0]
    assert contents(run_folder(tmp_path / "at_once")) == contents(one_after_the_other)


@pytest.mark.slow
def test_second_process_on_the_same_arm_ends_with_two_lines_and_status_75(
    child: Callable[..., Any], tiny: list[str], stop: Stop, tmp_path: Path
) -> None:
    uninterrupted = finish([*tiny, f"--results={tmp_path / 'uninterrupted'}"])
    seen = []

    def try_again() -> None:
        folder = run_folder(tmp_path / "results")
        before = snapshot(folder)
        process = child(only(tiny, "qnn"), tmp_path / "second")
        process.join(PATIENCE)
        seen.append(process.exitcode)
        assert snapshot(folder) == before

    stop.at(4 * UPDATES + 1, try_again)
    folder = finish(tiny)
    assert seen == [75]
    assert (tmp_path / "second.err").read_text().splitlines() == [
        f"error: {arm_folder(folder, 'qnn')} is in use by another process (pid {os.getpid()}).",
        "Wait for it, or stop it.",
    ]
    assert contents(folder) == contents(uninterrupted)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("num_updates", [1, 4 * UPDATES + 1])
def test_second_command_on_arms_that_are_trained_is_refused(
    refused: Callable[..., str], tiny: list[str], stop: Stop, tmp_path: Path, num_updates: int
) -> None:
    """Also on the arm that the first command has done, or has not begun."""
    uninterrupted = finish([*tiny, f"--results={tmp_path / 'uninterrupted'}"])
    said = []

    def try_again() -> None:
        for arm in EXPORTS:
            for more in ([], ["--overwrite"], ["--num-tasks=7"]):
                said.append((arm, refused(*only(tiny, arm), *more, status=75)))

    stop.at(num_updates, try_again)
    folder = finish(tiny)
    assert len(said) == 6
    for arm, message in said:
        path = arm_folder(folder, arm)
        assert f"{path} is in use by another process (pid {os.getpid()})" in message
        assert "Traceback" not in message
    assert contents(folder) == contents(uninterrupted)


@pytest.mark.slow
def test_another_arm_can_be_trained_and_drawn_while_the_first_is(
    child: Callable[..., Any], tiny: list[str], stop: Stop, tmp_path: Path
) -> None:
    apart = [*tiny, f"--results={tmp_path / 'apart'}"]
    finish(only(apart, "mlp"))
    uninterrupted = finish(only(apart, "mlp+reset-optimizer"))
    seen = []

    def another() -> None:
        process = child(only(tiny, "mlp+reset-optimizer"), tmp_path / "log")
        process.join(PATIENCE)
        seen.append(process.exitcode)

    stop.at(UPDATES + 1, another)
    folder = finish(only(tiny, "mlp"))
    assert seen == [0]
    assert contents(folder) == contents(uninterrupted)


# --- killed


def num_rows(results: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in results.glob("*/*/rows.jsonl"))


QUICK = ["--preset", "quick", "--num-tasks", "8"]


@pytest.fixture(scope="module")
def uninterrupted_quick(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    return contents(finish([*QUICK, f"--results={tmp_path_factory.mktemp('quick') / 'results'}"]))


# Of these calls some n-th one is a process's last, n up to this. Together they leave work to do.
FATAL = {
    UPDATE: 150,
    ("plasticity.results.record:ArmRecord", "append"): 4,
    ("os", "replace"): 8,
    ("os", "fsync"): 24,
}


@pytest.mark.slow
def test_run_killed_at_random_calls_ends_like_an_uninterrupted_one(
    child: Callable[..., Any], uninterrupted_quick: dict[Path, bytes], tmp_path: Path
) -> None:
    rng = random.Random(2)
    results = tmp_path / "results"
    arguments = [*QUICK, f"--results={results}"]
    for function, most in FATAL.items():
        fatal = functools.partial(on_call, *function, rng.randint(1, most), die)
        process = child(arguments, tmp_path / "log", fatal)
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "log.err").read_text()
    assert 0 < num_rows(results) < 2 * 8
    assert contents(finish(arguments)) == uninterrupted_quick


# The command, which stops in the task after its n-th row, says so by a file and waits for a signal.
HELD = """
import os, pathlib, runpy, sys
from plasticity.learning.learner import Learner
from plasticity.results.record import ArmRecord
from tests.pictures import write_words
write_words()
append, update, rows, updates = ArmRecord.append, Learner.update, [], []
limit, sign = int(sys.argv.pop(1)), pathlib.Path(sys.argv.pop(1))
def noted(*arguments):
    append(*arguments)
    rows.append(0)
def held(*arguments):
    if len(rows) == limit:
        updates.append(0)
        if len(updates) == 3:
            sign.touch()
            os.read(0, 1)
    return update(*arguments)
ArmRecord.append, Learner.update = noted, held
runpy.run_module("experiments.mnist", run_name="__main__", alter_sys=True)
"""


def launch_command(limit: int, sign: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """Start the command and return once it stands in the midst of a task."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HELD, str(limit), str(sign), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with Ctrl-C ignored, and so their children.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    with killed_on_failure(process):
        wait_until(sign.exists, lambda: process.poll() is None)
    return process


@pytest.mark.slow
def test_command_goes_on_after_control_c_to_the_same_bytes(
    uninterrupted_quick: dict[Path, bytes], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    arguments = [*QUICK, f"--results={results}"]
    interrupted = launch_command(9, tmp_path / "sign", arguments)
    with killed_on_failure(interrupted):
        interrupted.send_signal(signal.SIGINT)
        interrupted.wait(PATIENCE)
    _, said = interrupted.communicate()
    assert interrupted.returncode == 130
    lines = [line for line in re.split(r"[\r\n]+", said) if line]
    lines = [line for line in lines if not re.match(r"(mlp|qnn): +\d+%\|", line)]
    assert len(lines) == 1
    assert "the same command goes on" in lines[0]
    assert num_rows(results) == 9

    assert contents(finish(arguments)) == uninterrupted_quick
    printed = capsys.readouterr().out
    assert "mlp: all 8 tasks are recorded, nothing to do" in printed
    assert "qnn: going on after" in printed
