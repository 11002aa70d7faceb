"""Tests of run folders: what they hold, how they grow, who may write there at the same time."""

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
import torch

from plasticity.errors import InUse, RecordError
from plasticity.results import record
from plasticity.results.arm import identity_of, kept_ages, learner_file, read_learner
from plasticity.results.names import config_hash, folder_name
from plasticity.results.record import ArmRecord, open_run, read_rows, read_run
from tests.results.demo import (
    ARMS,
    MLP,
    NUM_ROWS,
    QNN,
    SHARED,
    end_script,
    files,
    numbers,
    open_demo,
    run_script,
    start_script,
    train,
)
from tests.waiting import killed_on_failure, wait_until


def open_mlp(results: Path, *, overwrite: bool = False) -> ArmRecord:
    return open_demo(results).arm("mlp", ARMS["mlp"], overwrite=overwrite)


# --- what a run folder holds


def test_run_folder_holds_config_and_figure_and_a_folder_for_each_arm(finished: Path) -> None:
    own = (
        "arm.json", "provenance.jsonl", "rows.jsonl", "checkpoint.pt", "measured.jsonl",
        "numbers.npz", *(f"snapshots/task-{task:08}.pt" for task in (0, 1, 2)),
    )  # fmt: skip
    arms = {f"{arm}/{name}" for arm in (MLP, QNN) for name in own}
    assert set(files(finished)) == {"config.json", "figure.png", *arms}
    assert json.loads((finished / "config.json").read_text()) == SHARED
    assert json.loads((finished / MLP / "arm.json").read_text()) == ARMS["mlp"]
    assert open_demo(finished.parent).arms() == {
        finished / MLP: ARMS["mlp"],
        finished / QNN: ARMS["qnn"],
    }


def test_names_of_folders_end_in_the_sha256_of_their_config(finished: Path) -> None:
    digest = hashlib.sha256((finished / "config.json").read_bytes()).hexdigest()
    assert finished.name == folder_name("demo", SHARED) == f"demo-{digest[:8]}"
    assert config_hash(SHARED) == digest
    digest = hashlib.sha256((finished / QNN / "arm.json").read_bytes()).hexdigest()
    assert folder_name("qnn", ARMS["qnn"]) == QNN == f"qnn-{digest[:8]}"
    assert open_demo(finished.parent).arm_path("qnn", ARMS["qnn"]) == finished / QNN


def test_config_hash_ignores_key_order_and_nothing_else() -> None:
    assert config_hash(SHARED) == config_hash(dict(reversed(SHARED.items())))
    others = [SHARED | {"seed": 1}, SHARED | {"seed": 0.0}, SHARED | {"more": None}, {}]
    assert len({config_hash(config) for config in [SHARED, *others]}) == 5
    # Fixed for good: another value would orphan every run folder there is.
    assert config_hash({"a": [1, 0.1]}).startswith("279eb9bbfe3d6ac3")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_config_that_json_cannot_hold_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        open_run(tmp_path, "demo", {"a": value})
    assert not list(tmp_path.iterdir())
    folder = open_demo(tmp_path)
    before = files(tmp_path)
    with pytest.raises((ValueError, TypeError)):
        folder.arm("mlp", {"a": value})
    assert files(tmp_path) == before


def test_different_configs_get_different_folders(tmp_path: Path) -> None:
    one, two = open_demo(tmp_path), open_run(tmp_path, "demo", {"seed": 1})
    assert one.path != two.path
    with one.arm("mlp", {"width": 1}) as narrow, one.arm("mlp", {"width": 2}) as wide:
        assert narrow.path != wide.path


def test_configs_with_the_same_short_hash_do_not_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "folder_name", lambda prefix, config: prefix)
    open_demo(tmp_path).arm("mlp", {"width": 1}).close()
    with pytest.raises(RecordError, match=r"config\.json .* another config"):
        open_run(tmp_path, "demo", {"seed": 1})
    with pytest.raises(RecordError, match=r"arm\.json .* another"):
        open_demo(tmp_path).arm("mlp", {"width": 2})


@pytest.mark.parametrize("name", ["a/b", "a\\b", "../demo", "C:demo", "a\0b"])
def test_names_of_folders_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    folder = open_demo(tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match="cannot name"):
        folder.arm(name, {})
    with pytest.raises(ValueError, match="cannot name"):
        open_run(tmp_path, name, SHARED)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "a\\b", "config.json", "arm.json", "rows.jsonl", "checkpoint.pt",
     "provenance.jsonl", "measured.jsonl", "snapshots", "lock", "lock.pid", "mlp.tmp"],
)  # fmt: skip
def test_names_of_files_that_are_the_records_own_are_refused(tmp_path: Path, name: str) -> None:
    with open_mlp(tmp_path) as arm:
        before = files(tmp_path)
        with pytest.raises(ValueError, match="cannot name"):
            arm.save_bytes(name, b"x")
        assert files(tmp_path) == before


# --- rows and states


def test_rows_keep_key_order_and_every_digit(tmp_path: Path) -> None:
    row = {
        "z": 0.1 + 0.2,
        "a": 5e-324,
        "list": (1, 2),
        "text": "\N{GREEK SMALL LETTER PSI}\n",
        "n": None,
    }
    with open_mlp(tmp_path) as arm:
        arm.append(row, {})
    (read,) = read_rows(arm.path)
    assert read == row | {"list": [1, 2]}
    assert arm.rows == [read]
    assert list(read) == list(row)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("-inf"), np.float64("inf"), [1.0, float("nan")], {"a": [float("inf")]}],
)
def test_column_that_is_not_finite_is_left_out_and_the_run_goes_on(
    tmp_path: Path, value: object
) -> None:
    row = {"task": 0, "norm": value, "loss": 1.0, "returns": [1.0, 2.0]}
    expected = [{"task": 0, "loss": 1.0, "returns": [1.0, 2.0]}, {"task": 1, "norm": 0.5}]
    with open_mlp(tmp_path) as arm:
        arm.append(row, {})
        arm.append({"task": 1, "norm": 0.5}, {})
        assert arm.rows == expected
    assert "norm" in row  # the caller's own stays as it is
    assert read_rows(arm.path) == expected
    with open_mlp(tmp_path) as arm:
        assert arm.rows == expected


def test_value_that_contains_itself_is_an_error_and_not_left_out(tmp_path: Path) -> None:
    circle: list[object] = []
    circle.append(circle)
    with open_mlp(tmp_path) as arm, pytest.raises(ValueError, match="Circular"):
        arm.append({"task": 0, "circle": circle}, {})


def test_row_or_state_that_could_not_be_read_back_is_refused(tmp_path: Path) -> None:
    with open_mlp(tmp_path) as arm:
        with pytest.raises(TypeError, match="row 0: 'norm'"):
            arm.append({"norm": np.float32(1)}, {})
        with pytest.raises(TypeError, match=r"torch.load would refuse"):
            arm.append({"norm": 1.0}, {"path": Path("x")})
        assert set(files(arm.path)) == {"arm.json"}


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": torch.get_rng_state(),
    }
    with open_mlp(tmp_path) as arm:
        assert arm.load_state() is None
        arm.append({"task": 0}, state)
    with open_mlp(tmp_path) as arm:
        read = arm.load_state()
        assert arm.rows == [{"task": 0}]
    torch.testing.assert_close(read, state, rtol=0, atol=0)


def test_closed_arm_takes_nothing_more(tmp_path: Path) -> None:
    with open_mlp(tmp_path) as arm:
        pass
    before = files(tmp_path)
    writes: list[Callable[[], object]] = [
        lambda: arm.append({"task": 0}, {}),
        lambda: arm.save_npy("x", np.zeros(2)),
        lambda: arm.save_npz("x", x=np.zeros(2)),
        lambda: arm.save_bytes("x", b"x"),
        lambda: arm.save_snapshot(0, {}),
        lambda: arm.save_measured({0: {"x": 1}}),
        lambda: arm.note_provenance(),
    ]
    for write in writes:
        with pytest.raises(RecordError, match="closed"):
            write()
    assert files(tmp_path) == before


def test_rows_can_be_read_while_a_run_writes_them(tmp_path: Path) -> None:
    with open_mlp(tmp_path) as arm:
        assert read_rows(arm.path) == []
        arm.append({"task": 0}, {})
        with open(arm.path / "rows.jsonl", "ab") as file:
            file.write(b'{"task": ')
        assert read_rows(str(arm.path)) == [{"task": 0}]
    with pytest.raises(RecordError, match="not a folder"):
        read_rows(tmp_path / "nowhere")


# --- growing, reopening, reading


def test_length_is_not_identity_and_a_run_goes_on_after_its_end(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    short = train(tmp_path, num_rows=1)
    assert numbers(short) != uninterrupted
    assert train(tmp_path, num_rows=2) == train(tmp_path) == short
    assert numbers(short) == uninterrupted
    train(tmp_path, num_rows=1)  # what is there already is not cut off
    assert numbers(short) == uninterrupted


def test_reopening_a_finished_run_changes_nothing(finished: Path) -> None:
    (finished / "notes.txt").write_text("mine")
    (finished / MLP / "notes.txt").write_text("mine")
    before = files(finished)
    folder = open_demo(finished.parent)
    assert folder.config == SHARED
    for name, arm in ARMS.items():
        with folder.arm(name, arm) as opened:
            assert len(opened.rows) == NUM_ROWS
    assert files(finished) == before


def test_renamed_and_moved_run_folder_is_read_and_goes_on(
    finished: Path, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    moved = tmp_path / "elsewhere" / "my favorite"
    moved.parent.mkdir()
    finished.rename(moved)
    folder = read_run(moved)
    assert (folder.path, folder.config) == (moved, SHARED)
    assert folder.arms() == {moved / MLP: ARMS["mlp"], moved / QNN: ARMS["qnn"]}
    assert read_run(str(moved)).arms() == folder.arms()
    assert numbers(moved) == uninterrupted
    with folder.arm("qnn", ARMS["qnn"]) as arm:
        assert len(arm.rows) == NUM_ROWS
        assert [task for task, _ in arm.snapshots()] == [0, 1, 2]
        arm.append({"task": NUM_ROWS}, arm.load_state())
    assert len(read_rows(moved / QNN)) == NUM_ROWS + 1


def test_reading_a_run_does_not_make_one(tmp_path: Path) -> None:
    for missing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RecordError, match=r"config\.json: no such file.*\n.*folder of a run"):
            read_run(missing)
    assert not list(tmp_path.iterdir())


# --- snapshots, measured


def test_snapshots_come_back_in_order_and_those_beyond_the_rows_are_left_out(
    tmp_path: Path,
) -> None:
    with open_mlp(tmp_path) as arm:
        assert [*arm.snapshots()] == []
        for task in (10, 2, 0, 11, 1):
            arm.save_snapshot(task, {"weights": torch.full((2,), float(task))})
        assert [*arm.snapshots()] == []
        for task in range(11):
            arm.append({"task": task}, {})
        tasks, networks = zip(*arm.snapshots(), strict=True)
        assert tasks == (0, 1, 2, 10)
        arm.save_snapshot(1, {"weights": torch.full((2,), 5.0)})
        assert [network["weights"][0] for _, network in arm.snapshots()] == [0, 5, 2, 10]
    assert [network["weights"].tolist() for network in networks] == [[t, t] for t in tasks]
    assert not list(arm.path.rglob("*.tmp"))


def test_measured_columns_are_merged_by_task_and_later_ones_replace_earlier_ones(
    tmp_path: Path,
) -> None:
    with open_mlp(tmp_path) as arm:
        arm.save_measured({4: {"rank": 3.0, "norm": 1.0}, 0: {"rank": 2.0}})
        assert read_rows(arm.path, "measured.jsonl") == [
            {"task": 0, "rank": 2.0},
            {"task": 4, "rank": 3.0, "norm": 1.0},
        ]
    with open_mlp(tmp_path) as arm:
        arm.save_measured({4: {"rank": 7.0}, 1: {"norm": 5.0}, 0: {"norm": 6.0}})
    assert read_rows(arm.path, "measured.jsonl") == [
        {"task": 0, "rank": 2.0, "norm": 6.0},
        {"task": 1, "norm": 5.0},
        {"task": 4, "rank": 7.0, "norm": 1.0},
    ]
    assert read_rows(arm.path) == []


def test_measured_column_that_is_undefined_is_left_out_and_so_is_what_it_was_before(
    tmp_path: Path,
) -> None:
    with open_mlp(tmp_path) as arm:
        arm.save_measured({0: {"rank": float("nan"), "norm": 1.0}, 1: {"rank": 2.0, "norm": 2.0}})
        arm.save_measured({1: {"rank": float("inf")}})
        with pytest.raises(TypeError, match="'rank'"):
            arm.save_measured({0: {"rank": np.float32(1)}})
    assert read_rows(arm.path, "measured.jsonl") == [
        {"task": 0, "norm": 1.0},
        {"task": 1, "norm": 2.0},
    ]


# --- exports


def test_equal_arrays_give_equal_files_on_another_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {"accuracies": np.arange(6.0).reshape(2, 3), "name": np.array([1, 2])}
    with open_mlp(tmp_path) as arm:
        first = arm.save_npz("a.npz", **arrays)
        yesterday = time.time() - 100_000
        monkeypatch.setattr(time, "time", lambda: yesterday)
        monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(yesterday))
        second = arm.save_npz("b", **arrays)
        assert first.read_bytes() == second.read_bytes()
        third = arm.save_npy("c.npy", arrays["accuracies"])
    assert (first.name, second.name, third.name) == ("a.npz", "b.npz", "c.npy")
    assert {path.parent for path in (first, second, third)} == {arm.path}
    with np.load(second, allow_pickle=False) as read:
        assert set(read) == set(arrays)
        for key, array in arrays.items():
            np.testing.assert_array_equal(read[key], array)
    np.testing.assert_array_equal(np.load(third), arrays["accuracies"])
    assert not list(tmp_path.rglob("*.tmp"))


def test_export_is_written_again_only_if_it_changed(tmp_path: Path) -> None:
    with open_mlp(tmp_path) as arm:
        path = arm.save_npy("a", np.array([1.0, 2.0]))
        os.utime(path, ns=(0, 0))
        arm.save_npy("a", np.array([1.0, 2.0]))
        assert path.stat().st_mtime_ns == 0
        arm.save_npy("a", np.array([1.0, 3.0]))  # as many bytes
        assert path.stat().st_mtime_ns > 0
    np.testing.assert_array_equal(np.load(path), [1.0, 3.0])


def test_array_of_objects_is_refused_and_the_old_export_stays(tmp_path: Path) -> None:
    with open_mlp(tmp_path) as arm:
        arm.save_npz("a", x=np.zeros(2))
        before = files(tmp_path)
        with pytest.raises(ValueError, match=r"[Oo]bject"):
            arm.save_npz("a", x=np.array([object()]))
        assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["figure", "figure.png", "figure.pdf"])
def test_equal_figures_give_equal_files(tmp_path: Path, name: str) -> None:
    folder = open_demo(tmp_path)
    figure = matplotlib.figure.Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    path = folder.save_figure(name, figure)
    first = path.read_bytes()
    assert folder.save_figure(name, figure).read_bytes() == first
    assert path == folder.path / (name if "." in name else "figure.png")


# --- two processes


@pytest.mark.slow
def test_second_opening_of_the_same_arm_is_refused(tmp_path: Path) -> None:
    body = """
try:
    open_demo(Path(sys.argv[1])).arm("mlp", ARMS["mlp"], overwrite=True)
except record.InUse as error:
    print(error)
"""
    with open_mlp(tmp_path) as arm:
        arm.append({"task": 0}, {})
        before = files(tmp_path, without=())
        with pytest.raises(InUse, match=f"in use by another process .pid {os.getpid()}"):
            open_mlp(tmp_path, overwrite=True)
        assert run_script(body, tmp_path).splitlines() == [
            f"{arm.path} is in use by another process (pid {os.getpid()}).",
            "Wait for it, or stop it.",
        ]
        assert files(tmp_path, without=()) == before
        (arm.path / "lock.pid").write_bytes(b"\xff 12\n")  # it may hold anything
        with pytest.raises(InUse, match=r"another process .pid unknown"):
            open_mlp(tmp_path)
        arm.append({"task": 1}, {})
    with open_mlp(tmp_path) as arm:
        assert len(arm.rows) == 2


@pytest.mark.slow
def test_two_processes_train_two_arms_of_one_run_at_the_same_time(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    """Both begin, then each trains on while the other holds its arm."""
    results = tmp_path / "results"
    body = """
results, held, held_again = map(Path, sys.argv[1:])
train(results, 1, ["qnn"])
with open_demo(results).arm("qnn", ARMS["qnn"]):
    held.touch()
    sys.stdin.readline()
train(results, names=["qnn"])
with open_demo(results).arm("qnn", ARMS["qnn"]):
    held_again.touch()
    sys.stdin.readline()
"""
    train(results, 1, ["mlp"])
    held, held_again = tmp_path / "held", tmp_path / "held again"
    with open_mlp(results) as arm:
        other = start_script(body, results, held, held_again)
        with killed_on_failure(other):
            wait_until(held.exists, lambda: other.poll() is None)
            with pytest.raises(InUse) as refusal:
                open_demo(results).arm("qnn", ARMS["qnn"])
            assert other.stdin is not None
            other.stdin.write("train on\n")
            other.stdin.flush()
            wait_until(held_again.exists, lambda: other.poll() is None)
            assert len(read_rows(arm.path)) == 1
            assert len(read_rows(arm.path.parent / QNN)) == NUM_ROWS
    with killed_on_failure(other):
        path = train(results, names=["mlp"])
    end_script(other, "end\n")
    assert str(refusal.value).splitlines() == [
        f"{path / QNN} is in use by another process (pid {other.pid}).",
        "Wait for it, or stop it.",
    ]
    assert numbers(path) == uninterrupted


@pytest.mark.slow
def test_files_of_all_arms_wait_for_the_process_that_writes_them(tmp_path: Path) -> None:
    folder = open_demo(tmp_path)
    body = """
import time
results, slept, entered = map(Path, sys.argv[1:])
folder = record.read_run(results)
sleep = time.sleep
def noted(seconds):
    slept.touch()
    sleep(seconds)
time.sleep = noted
with folder.locked():
    entered.touch()
"""
    slept, entered = tmp_path / "slept", tmp_path / "entered"
    with folder.locked():
        other: subprocess.Popen[str] = start_script(body, folder.path, slept, entered)
        with killed_on_failure(other):
            wait_until(slept.exists, lambda: other.poll() is None)
            assert not entered.exists()
            # An arm's lock is another one.
            with folder.arm("mlp", ARMS["mlp"]) as arm:
                arm.append({"task": 0}, {})
            assert not entered.exists()
    end_script(other)
    assert entered.exists()
    with folder.locked():  # the other has let go
        pass


# --- overwritten


def test_overwrite_empties_one_arm_and_leaves_the_others_and_the_runs_files(
    finished: Path, uninterrupted: dict[str, bytes]
) -> None:
    (finished / "notes.txt").write_text("mine")
    before = files(finished)
    with open_demo(finished.parent).arm("mlp", ARMS["mlp"], overwrite=True) as arm:
        assert set(files(arm.path)) == {"arm.json"}
        assert not list(arm.path.glob("snapshots"))
        assert (arm.rows, arm.load_state()) == ([], None)
        others = {name: data for name, data in before.items() if not name.startswith(f"{MLP}/")}
        assert others | {f"{MLP}/arm.json": before[f"{MLP}/arm.json"]} == files(finished)
    (finished / "notes.txt").unlink()
    assert numbers(train(finished.parent)) == uninterrupted


def test_overwrite_removes_the_old_arm_and_nothing_elsewhere(
    finished: Path, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "rows.jsonl").write_text("precious")
    (finished / MLP / "link").symlink_to(outside)
    (finished / MLP / "arm.json").write_text("edited")
    neighbor = train(finished.parent / "deeper")
    before = files(neighbor)
    with open_demo(finished.parent).arm("mlp", ARMS["mlp"], overwrite=True):
        assert not (finished / MLP / "link").is_symlink()
    assert (outside / "rows.jsonl").read_text() == "precious"
    assert files(neighbor) == before
    assert numbers(train(finished.parent)) == uninterrupted


def test_whole_learners_come_back_by_age_and_those_beyond_the_rows_are_left_out(
    tmp_path: Path,
) -> None:
    state = {"network": {"weights": torch.ones(2)}, "optimizer": {"state": {0: {"step": 3}}}}
    with open_mlp(tmp_path) as arm:
        for age in (1, 2, 4):
            arm.save_learner(age, state | {"steps": age})
        assert kept_ages(arm.path, 0) == []
        for task in range(3):
            arm.append({"task": task}, {})
        assert [*arm.snapshots()] == []  # these are networks
    identity = identity_of(SHARED, ARMS["mlp"], arm.path.name)
    assert kept_ages(arm.path, 3) == [1, 2]
    found = read_learner(arm.path, identity, 2)
    assert (found["steps"], found["network"]["weights"].tolist()) == (2, [1, 1])
    learner_file(arm.path, 1).write_bytes(learner_file(arm.path, 2).read_bytes())
    with pytest.raises(RecordError, match="it is the learner after another task"):
        read_learner(arm.path, identity, 1)
    with pytest.raises(RecordError, match="it belongs to another arm or run"):
        read_learner(arm.path, "another", 2)
    learner_file(arm.path, 2).write_bytes(b"PK")
    with pytest.raises(RecordError, match=r"age-00000002.pt cannot be used"):
        read_learner(arm.path, identity, 2)
