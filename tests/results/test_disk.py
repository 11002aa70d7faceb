"""Tests of files that a crash, a full disk or a planted link must not spoil."""

import errno
import os
from pathlib import Path

import filelock
import pytest

from plasticity.errors import InUse, RecordError
from plasticity.results.disk import disk_errors, lock_of, make_folder, replace_file
from tests.results.demo import MLP, SHARED, files, folder_name, open_demo, train


@pytest.mark.parametrize(
    "name",
    [
        "config.json.tmp",
        "figure.png.tmp",
        *(
            f"{MLP}/{name}"
            for name in (
                "arm.json.tmp", "checkpoint.pt.tmp", "provenance.jsonl.tmp", "measured.jsonl.tmp",
                "numbers.npz.tmp", "snapshots/task-00000000.pt.tmp", "lock.pid",
            )
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dangling", [False, True])
def test_planted_link_is_not_written_through(tmp_path: Path, name: str, dangling: bool) -> None:
    outside = tmp_path / "outside"
    if not dangling:
        outside.write_text("precious")
    link = tmp_path / "results" / folder_name("demo", SHARED) / name
    if "snapshots" in name:  # it alone would look like an arm whose arm.json is gone
        train(tmp_path / "results", 0)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    train(tmp_path / "results")
    assert outside.exists() != dangling
    assert dangling or outside.read_text() == "precious"
    assert not link.is_symlink()


def test_planted_link_is_removed_whenever_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    (tmp_path / "file.tmp").symlink_to(tmp_path / "outside")
    replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "outside").read_text() == "precious"
    assert not (tmp_path / "file").is_symlink()
    assert files(tmp_path) == {"outside": b"precious", "file": b"new"}


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_replaced_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_file_that_cannot_be_replaced_stays_and_leaves_no_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    replace_file(tmp_path / "file", b"old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="Input/output"):
        replace_file(tmp_path / "file", b"new")
    assert files(tmp_path) == {"file": b"old"}


def test_folders_above_a_new_one_are_made_and_those_that_are_there_stay(tmp_path: Path) -> None:
    make_folder(tmp_path / "a/b")
    (tmp_path / "a/b/file").write_text("mine")
    make_folder(tmp_path / "a/b")
    make_folder(tmp_path / "a/b/c")
    assert files(tmp_path) == {"a/b/file": b"mine"}
    assert (tmp_path / "a/b/c").is_dir()


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(28, "No space left on device"), "No space left.*\n.*goes on"),
        (OSError(122, "Disk quota exceeded"), "quota exceeded.*\n.*goes on"),
        (OSError(30, "Read-only file system"), "Read-only.*\n.*--results"),
        (FileExistsError(17, "File exists"), "not a folder.*\n.*--results"),
        (OSError("a disk without a number"), "a disk without a number.*\n.*--results"),
    ],
)
def test_what_the_system_says_of_a_file_becomes_two_lines(error: OSError, said: str) -> None:
    with pytest.raises(RecordError, match=f"^where: .*{said}") as raised:  # noqa: SIM117
        with disk_errors(Path("where")):
            raise error
    assert len(str(raised.value).splitlines()) == 2


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_results_path_that_is_a_file_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(RecordError, match=r"results.*not a folder.*\n.*--results") as refusal:
        open_demo(tmp_path / "results" / below)
    assert len(str(refusal.value).splitlines()) == 2
    assert (tmp_path / "results").read_text() == "a file"


def test_results_that_cannot_be_written_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    folder = open_demo(tmp_path / "there")
    monkeypatch.setattr(Path, "mkdir", refuse)  # the administrator may write everywhere
    with pytest.raises(RecordError, match=r"results: Permission denied.*\n.*--results"):
        open_demo(tmp_path / "results")
    with pytest.raises(RecordError, match=r"mlp-\w+: Permission denied.*\n.*--results"):
        folder.arm("mlp", {})


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX")
def test_without_locks_of_the_system_a_copied_run_is_free_and_one_in_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk has none, a file is the lock; those of the system stay when released."""
    import fcntl

    def missing(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    path = train(tmp_path)
    before = files(tmp_path, without=())
    assert f"{path.name}/{MLP}/lock" in before
    monkeypatch.setattr(fcntl, "flock", missing)
    with open_demo(tmp_path).arm("mlp", {"network": "mlp", "width": 4}) as arm:
        assert arm.rows
        with pytest.raises(InUse):
            open_demo(tmp_path).arm("mlp", {"network": "mlp", "width": 4})
    with lock_of(path / "lock"), pytest.raises(filelock.Timeout):
        lock_of(path / "lock").acquire(timeout=0)
    assert files(tmp_path) == {name: before[name] for name in files(tmp_path)}
    assert not [*tmp_path.rglob("*.held")]
