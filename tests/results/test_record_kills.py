"""Tests of run folders whose process was killed, was interrupted or met a full disk."""

import contextlib
import io
import os
import sys
from pathlib import Path

import pytest
import torch

from plasticity.errors import RecordError
from plasticity.results import arm as arm_record
from plasticity.results import record
from plasticity.results.names import config_hash, folder_name
from tests.results.demo import (
    ARMS,
    MLP,
    SHARED,
    numbers,
    open_demo,
    run_script,
    train,
)

pytestmark = pytest.mark.processes

# What a forked process calls to be killed before its n-th change of the disk, or in its midst.
KILLS = """
import builtins, json, os, signal
from plasticity.results import arm as arm_record, disk

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def kill_at(limit):
    left = limit
    def tick(*half_write):
        nonlocal left
        left -= 1
        if left == 0:
            for step in half_write:
                step()
            os.kill(os.getpid(), signal.SIGKILL)
    def audit(event, arguments):
        opens = event == "open" and arguments[2] & WRITING
        if opens or event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"):
            tick()
    def halving_open(*arguments):
        file = builtins.open(*arguments)
        class Halving:
            def __enter__(self): return self
            def __exit__(self, *_): file.close()
            def __getattr__(self, name): return getattr(file, name)
            def write(self, data):
                tick(lambda: file.write(bytes(data)[:len(data) // 2]), file.flush)
                file.write(data)
            def truncate(self, size):
                tick()
                file.truncate(size)
        return Halving()
    disk.open = arm_record.open = halving_open
    os.fsync = lambda descriptor: tick()
    sys.addaudithook(audit)

def killed(limit, function):
    child = os.fork()
    if child == 0:
        kill_at(limit)
        function()
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL

# What takes long and changes nothing: the versions and the commit are read in another test.
arm_record.provenance = lambda command, device: {"command": command}
# It takes even longer, and matters where the power is cut.
os.fsync = lambda descriptor: None
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_run_killed_at_any_instant_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """Kill before every call that changes the disk and in the middle of every write; some twice.

    What is killed trains one task, then opens the run again and trains another.
    """
    body = """
def two_trainings(results):
    train(results, 1, ["mlp"])
    train(results, 2, ["mlp"])

def notes(results):
    found = [path.read_bytes() for path in results.glob("*/*/provenance.jsonl")]
    data = b"".join(found)
    assert data.endswith(b"\\n") or not data
    assert all(json.loads(line)["command"] == ["demo"] for line in data.splitlines())
    return data

two_trainings(sys.argv[1] + "/0")
limit, names = 1, set()
while True:
    results = Path(sys.argv[1], str(limit))
    if not killed(limit, lambda: two_trainings(results)):
        break
    names |= {path.name for path in results.rglob("*.tmp")}
    before = notes(results)
    if limit % 3 == 0:
        killed(1 + 7 * limit % 29, lambda: two_trainings(results))
        after = notes(results)
        assert after.startswith(before)
        before = after
    two_trainings(results)
    assert notes(results).startswith(before)
    assert notes(results) != before
    limit += 1
print(limit, *sorted(names))
"""
    limit, *names = run_script(KILLS + body, tmp_path).split()
    assert int(limit) > 80
    # Each file was found half written, but for rows.jsonl, which is written in its place.
    assert set(names) == {
        "arm.json.tmp", "checkpoint.pt.tmp", "config.json.tmp", "figure.png.tmp", "lock.pid.tmp",
        "measured.jsonl.tmp", "numbers.npz.tmp", "provenance.jsonl.tmp", "task-00000000.pt.tmp",
        "task-00000001.pt.tmp",
    }  # fmt: skip
    uninterrupted = numbers(tmp_path / "0")
    for results in tmp_path.iterdir():
        assert numbers(results) == uninterrupted, f"killed at {results.name}"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_overwrite_killed_at_any_instant_leaves_no_mixture(tmp_path: Path) -> None:
    """The next opening finds the old arm, refuses a half-emptied one, or finds an empty one."""
    body = """
limit, found = 1, set()
while True:
    results = Path(sys.argv[1], str(limit))
    path = train(results, 2) / MLP
    old = files(path)
    def overwrite():
        with open_demo(results).arm("mlp", ARMS["mlp"], overwrite=True) as arm:
            arm.append({"task": 0}, {})
    if not killed(limit, overwrite):
        break
    try:
        with open_demo(results).arm("mlp", ARMS["mlp"]) as arm:
            if arm.rows and "norm" in arm.rows[0]:
                found.add("old")
                assert files(path) == old
            else:
                found.add("new")
                assert set(files(path)) <= {"arm.json", "rows.jsonl", "checkpoint.pt"}
    except record.RecordError as error:
        found.add("refused")
        assert "arm.json is missing" in str(error) and "--overwrite" in str(error), error
    train(results, 2, ["mlp"], overwrite=True)
    limit += 1
print(*sorted(found))
"""
    assert run_script(KILLS + body, tmp_path).split() == ["new", "old", "refused"]
    *others, last = sorted((path for path in tmp_path.iterdir()), key=lambda path: int(path.name))
    train(last, 2, ["mlp"], overwrite=True)
    for results in others:
        assert numbers(results) == numbers(last), f"killed at {results.name}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # before `with` has it
def test_interrupted_append_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    """Raise KeyboardInterrupt before every line of append and what it calls in this folder."""
    uninterrupted = numbers(train(tmp_path / "0", 2, ["mlp"]))
    lengths = set()
    for limit in range(1, 1000):
        left = limit

        def trace(frame, event, argument):
            nonlocal left
            if Path(frame.f_code.co_filename).parent != Path(record.__file__).parent:
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
            return trace

        results = tmp_path / str(limit)
        train(results, 1, ["mlp"])
        old_trace = sys.gettrace()
        with contextlib.suppress(KeyboardInterrupt):
            with open_demo(results).arm("mlp", ARMS["mlp"]) as arm:
                weights = arm.load_state()["weights"] + 0.1
                arm.save_snapshot(1, {"weights": weights})
                row = {"task": 1, "norm": weights.norm().item()}
                sys.settrace(trace)
                try:
                    arm.append(row, {"weights": weights, "step": 2})
                except KeyboardInterrupt:
                    sys.settrace(old_trace)
                    if arm._unfinished:
                        with pytest.raises(RecordError, match="middle of a row"):
                            arm.append(row, {})
                    raise  # through the end of the block, which has to unlock the arm
                finally:
                    sys.settrace(old_trace)
            break
        with open_demo(results).arm("mlp", ARMS["mlp"]) as arm:
            lengths.add(len(arm.rows))
        assert numbers(train(results, 2, ["mlp"])) == uninterrupted
    assert lengths == {1, 2}
    assert limit > 20


@pytest.mark.parametrize("num_kept", [0, 1, 2])
def test_unfinished_row_is_cut_off_wherever_it_was_cut(tmp_path: Path, num_kept: int) -> None:
    path = train(tmp_path, num_kept) / MLP
    kept = (path / "rows.jsonl").read_bytes() if num_kept else b""
    line = b'{"task": 1, "norm": 0.25}\n'
    for length in range(len(line) + 1):
        (path / "rows.jsonl").write_bytes(kept + line[:length])
        (path / "checkpoint.pt.tmp").write_bytes(b"half")
        with open_demo(tmp_path).arm("mlp", ARMS["mlp"]) as arm:
            assert len(arm.rows) == num_kept
            # A snapshot is written before its row.
            arm.save_snapshot(num_kept, {})
            assert len([*arm.snapshots()]) == num_kept
        assert (path / "rows.jsonl").read_bytes() == kept
        assert not (path / "checkpoint.pt.tmp").exists()


def test_folder_without_config_and_rows_is_a_new_run(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    path = tmp_path / folder_name("demo", SHARED)
    (path / MLP).mkdir(parents=True)
    (path / "config.json.tmp").write_text('{"see')
    (path / MLP / "arm.json.tmp").write_text('{"wi')
    assert numbers(train(tmp_path)) == uninterrupted


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of the file size are POSIX")
def test_run_stopped_by_a_full_disk_goes_on_once_there_is_room(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    """Let no file grow beyond a limit, for limits that hit config, rows, snapshot, checkpoint."""
    body = """
import resource, signal
from plasticity.results import arm as arm_record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
arm_record.provenance = lambda command, device: {"command": command}
for limit in map(int, sys.argv[2:]):
    results = f"{sys.argv[1]}/{limit}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    error = None
    try:
        train(results)
    except record.RecordError as caught:
        error = str(caught)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(repr(error))
    train(results)
"""
    run = f"demo-{config_hash(SHARED)[:8]}"
    snapshot, checkpoint = (
        len(uninterrupted[f"{MLP}/{name}"])
        for name in ("snapshots/task-00000000.pt", "checkpoint.pt")
    )
    where = {
        0: run,
        10: run,
        200: f"{run}/{MLP}/snapshots/task-00000000.pt",
        snapshot: f"{run}/{MLP}",
        checkpoint - 1: f"{run}/{MLP}",
    }
    assert len(where) == 5
    said = run_script(body, tmp_path, *where).splitlines()
    for limit, message in zip(where, said, strict=True):
        assert f"{limit}/{where[limit]}: File too large" in message
        assert "the same command goes on" in message
        assert message.count("\\n") == 1
        assert numbers(tmp_path / f"{limit}/{run}") == uninterrupted


@pytest.mark.parametrize("kept", [0, 7, None])
def test_row_that_meets_a_full_disk_is_written_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, bytes],
    kept: int | None,
) -> None:
    class FullDisk(io.FileIO):
        def write(self, data: object) -> int:
            super().write(bytes(data)[:kept])
            raise OSError(28, "No space left on device")

    path = train(tmp_path, 1)
    with open_demo(tmp_path).arm("mlp", ARMS["mlp"]) as arm:
        with monkeypatch.context() as patch:
            patch.setattr(arm_record, "open", lambda path, mode: FullDisk(path, "a"), raising=False)
            with pytest.raises(RecordError, match=rf"{MLP}: No space left on device.*\n.*goes on"):
                arm.append({"task": 1}, {})
        assert len(arm.rows) == 1
        with pytest.raises(RecordError, match="Open the run again"):
            arm.append({"task": 1}, {})
    train(tmp_path)
    assert numbers(path) == uninterrupted


def test_append_is_flushed_to_the_disk_before_the_checkpoint_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        calls.append(f"-> {Path(target).name}")
        replace(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("names of open files are read from /proc")
    with open_demo(tmp_path).arm("mlp", ARMS["mlp"]) as arm:
        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(os, "replace", note_replace)
        arm.append({"task": 0}, {})
    assert calls == ["rows.jsonl", "checkpoint.pt.tmp", "-> checkpoint.pt", MLP]


def bytes_so_far() -> int:
    """Return how many bytes this process has read and written."""
    if not Path("/proc/self/io").exists():
        pytest.skip("bytes are counted in /proc")
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"]) + int(counts["wchar"])


def test_cost_of_a_row_does_not_grow_with_the_rows_before_it(tmp_path: Path) -> None:
    state = {"weights": torch.zeros(50_000)}
    with open_demo(tmp_path).arm("mlp", ARMS["mlp"]) as arm:
        arm.append({"task": 0}, state)
        costs = []
        for task in range(1, 51):
            before = bytes_so_far()
            arm.append({"task": task, "accuracy": 0.5}, state)
            costs.append(bytes_so_far() - before)
        # The second digit of the task is a byte of the row, and the number of rows one of the
        # checkpoint, which is padded; a row has 29 bytes.
        assert max(costs) - min(costs) < 200 < 50 * 29
        # Incremental: no row is read again.
        (arm.path / "rows.jsonl").rename(arm.path / "moved")
        arm.append({"task": 51}, state)
    with open(arm.path / "moved", "ab") as moved:
        moved.write((arm.path / "rows.jsonl").read_bytes())
    os.replace(arm.path / "moved", arm.path / "rows.jsonl")
    with open_demo(tmp_path).arm("mlp", ARMS["mlp"]) as arm:
        assert len(arm.rows) == 52
