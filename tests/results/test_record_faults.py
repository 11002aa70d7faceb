"""Tests of run folders that were edited, damaged, mixed up, or planted to do harm."""

import errno
import os
import pickle
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plasticity.errors import InUse, RecordError
from plasticity.results.reading import finished_rows, load_tensors
from plasticity.results.record import open_run, read_rows, read_run
from tests.results.demo import (
    ARMS,
    MLP,
    NUM_ROWS,
    QNN,
    SHARED,
    files,
    numbers,
    open_demo,
    open_first_arm,
    train,
)

# --- edited


def edit_checkpoint(path: Path, **changes: object) -> None:
    checkpoint = torch.load(path / MLP / "checkpoint.pt", weights_only=True)
    torch.save(checkpoint | changes, path / MLP / "checkpoint.pt")


def without_format(file: Path) -> None:
    """Make a file as the versions before wrote it."""
    content = torch.load(file, weights_only=True)
    del content["format"], content["identity"], content["arm"]
    torch.save(content | {"config_hash": "0"}, file)


def flip_a_stored_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        (tensor,) = (info for info in archive.infolist() if info.filename.endswith("data/0"))
        stored = archive.read(tensor)
    data[data.index(stored)] ^= 1
    file.write_bytes(data)


def replace_bytes(file: Path, old: bytes, new: bytes) -> None:
    data = file.read_bytes()
    assert old in data
    file.write_bytes(data.replace(old, new, 1))


def append_text(file: Path, text: str) -> None:
    with open(file, "a") as opened:
        opened.write(text)


ROWS, CHECKPOINT = f"{MLP}/rows.jsonl", f"{MLP}/checkpoint.pt"
EDITS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a digit of a row": ("rows.jsonl", lambda p: replace_bytes(p / ROWS, b": 1", b": 7")),
    "a row less": (
        "rows.jsonl",
        lambda p: (p / ROWS).write_bytes((p / QNN / "rows.jsonl").read_bytes()[:-1]),
    ),
    "two rows more": ("rows.jsonl", lambda p: append_text(p / ROWS, "{}\n{}\n")),
    "a row and a half more": ("rows.jsonl", lambda p: append_text(p / ROWS, "{}\n{")),
    "rows emptied": ("rows.jsonl", lambda p: (p / ROWS).write_text("")),
    "rows missing": ("rows.jsonl", lambda p: (p / ROWS).unlink()),
    "Windows line ends": ("rows.jsonl", lambda p: replace_bytes(p / ROWS, b"}\n", b"}\r\n")),
    "checkpoint missing": ("checkpoint.pt", lambda p: (p / CHECKPOINT).unlink()),
    "checkpoint cut off": ("checkpoint.pt", lambda p: os.truncate(p / CHECKPOINT, 300)),
    "checkpoint emptied": ("checkpoint.pt", lambda p: os.truncate(p / CHECKPOINT, 0)),
    "a bit of a weight": ("checkpoint.pt", lambda p: flip_a_stored_byte(p / CHECKPOINT)),
    "another identity": (
        "checkpoint.pt .* belongs to another arm or run",
        lambda p: edit_checkpoint(p, identity="0"),
    ),
    "another arm's checkpoint": (
        "checkpoint.pt .* belongs to another arm or run",
        lambda p: shutil.copy(p / QNN / "checkpoint.pt", p / CHECKPOINT),
    ),
    "format 1": ("checkpoint.pt .* format is 1, not 2", lambda p: without_format(p / CHECKPOINT)),
    "format 3": ("checkpoint.pt .* format is 3, not 2", lambda p: edit_checkpoint(p, format=3)),
    "a snapshot": (
        "checkpoint.pt .* no file of a run",
        lambda p: shutil.copy(p / MLP / "snapshots/task-00000000.pt", p / CHECKPOINT),
    ),
    "checkpoint of more rows": ("rows.jsonl", lambda p: edit_checkpoint(p, rows=4)),
    "checkpoint of less than no rows": ("rows.jsonl", lambda p: edit_checkpoint(p, rows=-1)),
    "checkpoint without a count": ("checkpoint.pt", lambda p: edit_checkpoint(p, rows=None)),
    "not a checkpoint": ("checkpoint.pt", lambda p: torch.save([1], p / CHECKPOINT)),
    "a value of the arm": (
        "arm.json was edited",
        lambda p: replace_bytes(p / MLP / "arm.json", b"4", b"5"),
    ),
    "arm cut off": ("arm.json was edited", lambda p: os.truncate(p / MLP / "arm.json", 9)),
    "another arm's arm.json": (
        "arm.json was edited",
        lambda p: shutil.copy(p / QNN / "arm.json", p / MLP / "arm.json"),
    ),
    "arm missing": ("arm.json is missing", lambda p: (p / MLP / "arm.json").unlink()),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_arm_is_refused_and_left_alone_until_it_is_overwritten(
    finished: Path, edit: str, uninterrupted: dict[str, bytes]
) -> None:
    (finished / MLP / "checkpoint.pt.tmp").write_text("left by a kill")
    named, change = EDITS[edit]
    change(finished)
    before = files(finished)
    with pytest.raises(RecordError, match=named) as refusal:
        open_first_arm(finished)
    assert str(finished) in str(refusal.value)
    assert "--overwrite" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 2
    assert files(finished) == before
    # The other arm is not concerned, and the way out is one.
    with open_demo(finished.parent).arm("qnn", ARMS["qnn"]) as arm:
        assert len(arm.rows) == NUM_ROWS
    train(finished.parent, names=["mlp"], overwrite=True)
    assert numbers(finished) == uninterrupted


@pytest.mark.parametrize("left", ["checkpoint.pt", "snapshots", "measured.jsonl"])
def test_arm_without_arm_json_is_refused_whatever_is_left_of_it(finished: Path, left: str) -> None:
    for entry in (finished / MLP).iterdir():
        if entry.name != left:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    before = files(finished)
    with pytest.raises(RecordError, match=r"arm\.json is missing.*\n.*--overwrite"):
        open_first_arm(finished)
    assert files(finished) == before


CONFIG_EDITS: dict[str, Callable[[Path], object]] = {
    "a value": lambda file: replace_bytes(file, b'"seed": 0', b'"seed": 1'),
    "a space": lambda file: replace_bytes(file, b'"seed": 0', b'"seed":  0'),
    "cut off": lambda file: os.truncate(file, 9),
    "emptied": lambda file: os.truncate(file, 0),
    "not an object": lambda file: file.write_text("[1]"),
    "no text": lambda file: file.write_bytes(b"\xff\xfe\x00"),
    "not a number": lambda file: file.write_text('{\n  "seed": NaN\n}\n'),
    "brackets in brackets": lambda file: file.write_text("[" * 200_000),
    "huge": lambda file: os.truncate(file, 2**31),
}


@pytest.mark.parametrize("edit", CONFIG_EDITS)
def test_damaged_config_is_refused_until_it_is_removed(
    finished: Path, edit: str, uninterrupted: dict[str, bytes]
) -> None:
    (finished / "figure.png.tmp").write_text("left by a kill")
    CONFIG_EDITS[edit](finished / "config.json")
    size = (finished / "config.json").stat().st_size
    before = files(finished) if size < 2**20 else None
    with pytest.raises(RecordError, match=r"config\.json (was edited|is larger)") as refusal:
        train(finished.parent)
    assert str(finished) in str(refusal.value)
    assert "remove it: training writes it again" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 2
    assert before is None or files(finished) == before
    assert (finished / "config.json").stat().st_size == size
    # --overwrite is no way out here, and not named as one.
    assert "--overwrite" not in str(refusal.value)
    (finished / "config.json").unlink()
    train(finished.parent)
    assert numbers(finished) == uninterrupted


@pytest.mark.parametrize("edit", sorted({*CONFIG_EDITS} - {"a value"}))
def test_run_whose_config_is_not_as_a_run_writes_it_is_not_read(finished: Path, edit: str) -> None:
    CONFIG_EDITS[edit](finished / "config.json")
    with pytest.raises(RecordError, match=r"config\.json (was edited|is larger)") as refusal:
        read_run(finished)
    assert "remove it: training writes it again" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 2
    (finished / "config.json").unlink()
    with pytest.raises(RecordError, match=r"config\.json: no such file") as refusal:
        read_run(finished)
    assert len(str(refusal.value).splitlines()) == 2
    open_demo(finished.parent)
    assert read_run(finished).config == SHARED


def test_run_that_is_read_with_another_config_takes_no_rows(finished: Path) -> None:
    # Where the folder was renamed, the config cannot be checked, but the checkpoints can.
    CONFIG_EDITS["a value"](finished / "config.json")
    folder = read_run(finished)
    before = files(finished)
    with pytest.raises(RecordError, match=r"checkpoint\.pt .* belongs to another arm or run"):
        folder.arm("mlp", ARMS["mlp"])
    assert files(finished) == before


def test_arms_that_their_folders_are_not_named_after_are_named(finished: Path) -> None:
    folder = open_demo(finished.parent)
    shutil.copy(finished / QNN / "arm.json", finished / MLP / "arm.json")
    with pytest.raises(RecordError, match=rf"{MLP}/arm\.json .* named after another arm") as error:
        folder.arms()
    assert "Move this folder out of the run" in str(error.value)
    assert len(str(error.value).splitlines()) == 2
    shutil.rmtree(finished / MLP)
    (finished / "notes").mkdir()
    assert folder.arms() == {finished / QNN: ARMS["qnn"]}


def test_folder_that_we_may_not_look_into_is_named_and_not_taken_for_no_arm(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished / "theirs").mkdir()
    whole = os.stat  # root may look everywhere, so the system's answer is made up

    def stat(path: str | Path, *args: object, **named: object) -> os.stat_result:
        if Path(os.fsdecode(path)).parent == finished / "theirs":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path, *args, **named)

    folder = open_demo(finished.parent)
    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(RecordError, match="Permission denied") as error:
        folder.arms()
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize("copied", ["whole", "without a readable arm.json"])
def test_nothing_is_emptied_where_the_run_holds_a_folder_that_is_no_arms(
    finished: Path, copied: str
) -> None:
    shutil.copytree(finished / MLP, finished / "mlp-backup")
    if copied != "whole":
        (finished / "mlp-backup/arm.json").write_text("{")
    folder = open_demo(finished.parent)
    before = files(finished)
    with (
        pytest.raises(RecordError, match="mlp-backup") as error,
        folder.open_arms([*ARMS.items()], overwrite=True),
    ):
        pass
    assert "Move this folder out of the run" in str(error.value)
    assert "--overwrite" not in str(error.value)
    assert files(finished) == before
    shutil.rmtree(finished / "mlp-backup")
    # An arm whose own arm.json is damaged can be overwritten.
    (finished / MLP / "arm.json").write_text("{")
    with folder.open_arms([*ARMS.items()], overwrite=True) as records:
        assert [len(record.rows) for record in records] == [0, 0]


def test_nothing_is_emptied_where_another_process_has_one_of_the_arms(finished: Path) -> None:
    folder = open_demo(finished.parent)
    with folder.arm("qnn", ARMS["qnn"]):
        before = files(finished)
        with (
            pytest.raises(InUse),
            folder.open_arms([*ARMS.items()], overwrite=True),
        ):
            pass
        assert files(finished) == before


def test_finished_rows_are_read_while_a_run_writes_them_and_refused_where_they_were_cut(
    finished: Path,
) -> None:
    file = finished / ROWS
    content = file.read_bytes()
    append_text(file, '{"task": 9}\n{"task"')  # a row more than in the checkpoint, and a part
    assert len(finished_rows(file.parent)) == NUM_ROWS + 1
    for damaged in (b"", content[:-1], content.replace(b"1", b"7", 1), 2 * content):
        file.write_bytes(damaged)
        with pytest.raises(RecordError, match=r"rows\.jsonl (was edited|has 3 more)") as error:
            finished_rows(file.parent)
        assert len(str(error.value).splitlines()) == 2
    file.write_bytes(content)
    (finished / CHECKPOINT).unlink()  # as in records that are committed
    assert len(finished_rows(file.parent)) == NUM_ROWS


# --- mixed up


def test_checkpoint_of_another_run_is_refused_and_nothing_is_changed(finished: Path) -> None:
    """The arm is the same, its folder's name too, and so are the rows."""
    other = open_run(finished.parent, "demo", SHARED | {"seed": 1})
    shutil.copytree(finished / MLP, other.path / MLP)
    before = files(finished.parent)
    with pytest.raises(RecordError, match=r"checkpoint\.pt .* belongs to another arm or run"):
        other.arm("mlp", ARMS["mlp"])
    assert files(finished.parent) == before


def test_checkpoint_of_an_arm_of_another_name_is_refused(finished: Path) -> None:
    renamed = finished / MLP.replace("mlp", "wide")
    (finished / MLP).rename(renamed)
    before = files(finished)
    with pytest.raises(RecordError, match=r"checkpoint\.pt .* belongs to another arm or run"):
        open_demo(finished.parent).arm("wide", ARMS["mlp"])
    assert files(finished) == before


FIRST = "snapshots/task-00000000.pt"


def plant_snapshot_of_another_run(path: Path) -> None:
    other = open_run(path.parent, "demo", SHARED | {"seed": 1})
    with other.arm("mlp", ARMS["mlp"]) as arm:
        arm.save_snapshot(0, {"weights": torch.zeros(3)})
    shutil.copy(arm.path / FIRST, path / MLP / FIRST)


def edit_snapshot(path: Path, **changes: object) -> None:
    snapshot = torch.load(path / MLP / FIRST, weights_only=True)
    torch.save(snapshot | changes, path / MLP / FIRST)


SNAPSHOT_EDITS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "of another arm": (
        "belongs to another arm or run",
        lambda p: shutil.copy(p / QNN / FIRST, p / MLP / FIRST),
    ),
    "of another run": ("belongs to another arm or run", plant_snapshot_of_another_run),
    "of format 1": ("format is 1, not 2", lambda p: without_format(p / MLP / FIRST)),
    "of another task": (
        "the network after another task",
        lambda p: shutil.copy(p / MLP / "snapshots/task-00000001.pt", p / MLP / FIRST),
    ),
    "of no task": ("the network after another task", lambda p: edit_snapshot(p, task="0")),
    "a checkpoint": ("no file of a run", lambda p: shutil.copy(p / CHECKPOINT, p / MLP / FIRST)),
    "a bit of a weight": ("wrong checksum", lambda p: flip_a_stored_byte(p / MLP / FIRST)),
    "cut off": ("", lambda p: os.truncate(p / MLP / FIRST, 300)),
    "not a snapshot": ("", lambda p: torch.save([1], p / MLP / FIRST)),
}


@pytest.mark.parametrize("edit", SNAPSHOT_EDITS)
def test_snapshot_that_is_not_the_arms_is_refused_and_left_alone(
    finished: Path, edit: str, uninterrupted: dict[str, bytes]
) -> None:
    said, change = SNAPSHOT_EDITS[edit]
    change(finished)
    before = files(finished)
    with open_demo(finished.parent).arm("mlp", ARMS["mlp"]) as arm:
        with pytest.raises(RecordError, match=rf"{FIRST} cannot be used: .*{said}") as refusal:
            [*arm.snapshots()]
        assert len(str(refusal.value).splitlines()) == 2
        assert "--overwrite" in str(refusal.value)
    assert files(finished) == before
    train(finished.parent, names=["mlp"], overwrite=True)
    assert numbers(finished) == uninterrupted


MEASURED_EDITS: dict[str, tuple[str, bytes]] = {
    "not JSON": ("line 2 is not JSON", b'{"task": 0}\n{"task"\n'),
    "not an object": ("line 1 is not a JSON object", b"5\n"),
    "without a task": ("a line has no task", b'{"task": 0}\n{"rank": 1.0}\n'),
    "with the name of a task": ("a line has no task", b'{"task": "first"}\n'),
    "cut off": ("cut off", b'{"task": 0}\n{"task": 1, "ra'),
}


@pytest.mark.parametrize("edit", MEASURED_EDITS)
def test_edited_measurements_are_refused_until_they_are_removed(finished: Path, edit: str) -> None:
    said, content = MEASURED_EDITS[edit]
    (finished / MLP / "measured.jsonl").write_bytes(content)
    before = files(finished)
    with open_demo(finished.parent).arm("mlp", ARMS["mlp"]) as arm:
        with pytest.raises(RecordError, match=rf"measured\.jsonl was .*{said}") as refusal:
            arm.save_measured({0: {"rank": 2.0}})
        assert str(arm.path / "measured.jsonl") in str(refusal.value)
        assert "remove it and measure again" in str(refusal.value)
        assert len(str(refusal.value).splitlines()) == 2
        assert files(finished) == before
        (arm.path / "measured.jsonl").unlink()
        arm.save_measured({0: {"rank": 2.0}})
    assert read_rows(arm.path, "measured.jsonl") == [{"task": 0, "rank": 2.0}]


# --- planted


@pytest.mark.parametrize("place", ["checkpoint", "rows", "state"])
@pytest.mark.parametrize("function", [os.mkdir, os.system])
def test_checkpoint_is_read_without_running_its_code(
    finished: Path, place: str, function: Callable[..., object]
) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            argument = {os.mkdir: "{}", os.system: "echo > {}"}[function]
            return function, (argument.format(finished / "trapped"),)

    checkpoint = torch.load(finished / CHECKPOINT, weights_only=True)
    planted = Trap() if place == "checkpoint" else checkpoint | {place: Trap()}
    torch.save(planted, finished / CHECKPOINT)
    before = files(finished)
    with pytest.raises(RecordError, match=r"checkpoint.pt cannot be used: .* none of it") as error:
        open_first_arm(finished)
    assert len(str(error.value).splitlines()) == 2
    assert files(finished) == before
    # The trap is one: whoever unpickles it falls into it.
    torch.load(finished / CHECKPOINT, weights_only=False)
    assert (finished / "trapped").exists()


def test_snapshot_is_read_without_running_its_code(finished: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(finished / "trapped"),)

    edit_snapshot(finished, network=Trap())
    with (
        open_demo(finished.parent).arm("mlp", ARMS["mlp"]) as arm,
        pytest.raises(RecordError, match=r"00\.pt cannot be used: .* none of it") as error,
    ):
        [*arm.snapshots()]
    assert len(str(error.value).splitlines()) == 2
    assert not (finished / "trapped").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_bare_pickle_in_place_of_a_checkpoint_is_not_run(finished: Path, protocol: int) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(finished / "trapped"),)

    (finished / CHECKPOINT).write_bytes(pickle.dumps(Trap(), protocol))
    with pytest.raises(RecordError, match=r"checkpoint.pt cannot be used") as error:
        open_first_arm(finished)
    assert len(str(error.value).splitlines()) == 2
    assert not (finished / "trapped").exists()


HOSTILE_ROWS = {
    "brackets in brackets": (b"[" * 200_000 + b"\n", "line 1 is not JSON"),
    "not an object": (b'{"task": 0}\n5\n', "line 2 is not a JSON object"),
    "no text": (b"\xff\xfe\x00\n", "line 1 is not JSON"),
    "a number of many digits": (b'{"task": ' + b"9" * 10_000 + b"}\n", "line 1 is not JSON"),
}


@pytest.mark.parametrize("name", ["rows.jsonl", "measured.jsonl"])
@pytest.mark.parametrize("case", HOSTILE_ROWS)
def test_rows_that_no_run_wrote_are_an_error_of_two_lines(
    tmp_path: Path, case: str, name: str
) -> None:
    content, part = HOSTILE_ROWS[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordError, match=part) as error:
        read_rows(tmp_path, name)
    assert len(str(error.value).splitlines()) == 2


ENDLESS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a terabyte of holes": lambda file: (file.touch(), os.truncate(file, 2**40)),
    "a folder": lambda file: file.mkdir(),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have a name")
@pytest.mark.parametrize("kind", ENDLESS)
def test_file_without_an_end_is_refused_and_neither_read_nor_waited_for(
    finished: Path, kind: str
) -> None:
    def refused(name: str, *reads: Callable[[], object]) -> None:
        file = finished / name
        file.rename(finished / "aside")
        ENDLESS[kind](file)
        for read in reads:
            with pytest.raises(RecordError, match=rf"{name} is (no regular|larger)") as error:
                read()
            assert len(str(error.value).splitlines()) == 2
        file.rmdir() if kind == "a folder" else file.unlink()
        (finished / "aside").rename(file)

    # What waits for a pipe would wait for ever.
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(60)
    try:
        folder = open_demo(finished.parent)
        with folder.arm("mlp", ARMS["mlp"]) as arm:
            refused(f"{MLP}/provenance.jsonl", arm.note_provenance)
            refused(f"{MLP}/checkpoint.pt", arm.load_state)
            refused(f"{MLP}/snapshots/task-00000000.pt", lambda: [*arm.snapshots()])
            refused(
                f"{MLP}/measured.jsonl",
                lambda: arm.save_measured({0: {"x": 1.0}}),
                lambda: read_rows(arm.path, "measured.jsonl"),
            )
        again = lambda: open_first_arm(finished)  # noqa: E731
        refused(f"{MLP}/rows.jsonl", lambda: read_rows(arm.path), again)
        refused(f"{MLP}/arm.json", again, folder.arms)
        refused("config.json", again, lambda: read_run(finished))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_checkpoint_that_is_removed_while_the_arm_is_open_is_missed(finished: Path) -> None:
    with open_demo(finished.parent).arm("mlp", ARMS["mlp"]) as arm:
        (arm.path / "checkpoint.pt").unlink()
        with pytest.raises(RecordError, match=f"removed .* not of {NUM_ROWS} rows"):
            arm.load_state()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_want_of_memory_is_no_damage_of_a_checkpoint(
    finished: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(type(error)) as told:
        load_tensors(finished / CHECKPOINT)
    assert told.value is error


def test_checkpoint_that_unpacks_to_more_than_it_is_is_refused_before_that(finished: Path) -> None:
    with zipfile.ZipFile(finished / CHECKPOINT, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**20))
    with pytest.raises(RecordError, match=r"checkpoint\.pt .* unpacks to more than it is"):
        open_first_arm(finished)
