"""Run folders. Only the modules of this folder write results.

A run's folder is named after what all its arms share, an arm's folder inside it after the arm. Both
decide the numbers and nothing else does. How many tasks are learned is not among it: a run can
grow::

    mnist-released-seed0-1a2b3c4d/
        config.json          what the arms share; its sha256sum begins with the folder's last part
        figure.png           of all arms
        mlp-5e6f7a8b/
            arm.json         the arm; its sha256sum begins with the folder's last part
            provenance.jsonl one line each time a process trained it: command, commit, versions, ...
            lock, lock.pid   held while a process trains it; the system lets go when that dies
            rows.jsonl       one JSON object a line, appended
            checkpoint.pt    the state after the last row, and the sha256 of the rows up to it
            snapshots/       the network after tasks 0, 1, 2, 4, 8, ...
            measured.jsonl   what was measured on the snapshots after training
            device.jsonl     how accurate they are on a device with noise and finitely many shots

A row reaches the disk before its checkpoint, which is replaced in one step. So a kill at any
instant leaves at most one row too many; the next opening cuts it off, and that task is done again.
"""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from plasticity.errors import InUse
from plasticity.results.arm import FORMAT, ArmRecord, identity_of
from plasticity.results.disk import disk_errors, make_folder, remove_asides, replace_file
from plasticity.results.files import (
    MAX_ROWS_BYTES,
    changed,
    read_config,
    read_rows,
    save_file,
    settle_config,
)
from plasticity.results.names import LOCK_FILES, OF_TRAINING, config_hash, config_json, folder_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "FORMAT",
    "MAX_ROWS_BYTES",
    "ArmRecord",
    "RunFolder",
    "config_hash",
    "folder_name",
    "open_run",
    "read_config",
    "read_rows",
    "read_run",
    "run_path",
]  # fmt: skip


def run_path(results: str | Path, prefix: str, config: Mapping[str, Any]) -> Path:
    """Return where the run folder of a config is, or would be; nothing is made, locked or read.

    Raises:
        ValueError, TypeError: JSON cannot hold the config, or the prefix is not part of a name.
    """
    return Path(results).absolute() / folder_name(prefix, config)


def open_run(results: str | Path, prefix: str, config: Mapping[str, Any]) -> "RunFolder":
    """Create or reopen the run folder of a config: of what all its arms share.

    Raises:
        RecordError: config.json is not this config, or the folder cannot be written.
        ValueError, TypeError: JSON cannot hold the config, or the prefix is not part of a name.
    """
    path = run_path(results, prefix, config)
    with disk_errors(path):
        make_folder(path)
        run = RunFolder(path, config)
        with run.locked():
            settle_config(path / "config.json", config)
            remove_asides(path)
    return run


def read_run(path: str | Path) -> "RunFolder":
    """Return a run folder that is there, wherever it lies and whatever it is called now.

    Raises:
        RecordError: it is not there, or its config is not as a run writes it.
    """
    path = Path(path).absolute()
    return RunFolder(path, read_config(path / "config.json"))


class RunFolder:
    """A run's folder, made by `open_run` or `read_run`.

    Attributes:
        path: The folder.
        config: The config as JSON gives it back.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self.config: dict[str, Any] = json.loads(config_json(config))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other process writes a file of all arms, and keep others from it."""
        with disk_errors(self.path), filelock.FileLock(self.path / "lock"):
            yield

    def arm_path(self, name: str, config: Mapping[str, Any]) -> Path:
        """Return the folder of an arm, which need not be there."""
        return self.path / folder_name(name, config)

    def arms(self) -> dict[Path, dict[str, Any]]:
        """Return the config of each arm that is there, by its folder.

        Raises:
            RecordError: an arm.json is not the one its folder is named after.
        """
        found = {}
        for file in sorted(self.path.glob("*/arm.json")):
            found[file.parent] = read_config(file)
            if file.parent.name.rpartition("-")[2] != config_hash(found[file.parent])[:8]:
                raise changed(file, "was edited: its folder is named after another arm")
        return found

    def arm(self, name: str, config: Mapping[str, Any], *, overwrite: bool = False) -> "ArmRecord":
        """Create or reopen the record of an arm, locked until it is closed.

        `overwrite` empties its folder once it is locked.

        Raises:
            InUse: another process has it open.
            RecordError: its files were edited, cut off, removed or belong to another arm, or they
                cannot be written.
        """
        path = self.arm_path(name, config)
        with disk_errors(path):
            make_folder(path)
            lock = _lock(path)
            try:
                with contextlib.suppress(OSError):  # it only serves the message above
                    replace_file(path / "lock.pid", str(os.getpid()).encode())
                if overwrite:
                    _empty(path)
                if not (path / "arm.json").exists() and any(
                    (path / name).exists() for name in OF_TRAINING
                ):
                    raise changed(path / "arm.json", "is missing, but an arm was trained there")
                settle_config(path / "arm.json", config)
                return ArmRecord(path, identity_of(self.config, config, path.name), lock)
            except BaseException:
                lock.release()
                raise

    @contextlib.contextmanager
    def locked_arm(self, path: Path) -> Iterator[None]:
        """Keep other processes from an arm's folder.

        Raises:
            InUse: Another process has it open.
        """
        with disk_errors(path):
            lock = _lock(path)
        try:
            yield
        finally:
            lock.release()

    def save_text(self, name: str, text: str) -> Path:
        """Write a text file, UTF-8."""
        return save_file(self.path, name, Path(name).suffix, io.BytesIO(text.encode()))

    def save_figure(self, name: str, figure: "Figure") -> Path:
        """Write a figure, undated, in the format that the name ends in; .png if in none."""
        suffix = Path(name).suffix or ".png"
        date = {".pdf": "CreationDate", ".svg": "Date"}.get(suffix)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], metadata={date: None} if date else None)
        return save_file(self.path, name, suffix, buffer)


def _lock(path: Path) -> filelock.BaseFileLock:
    """Lock an arm's folder.

    Raises:
        InUse: Another process has it open.
    """
    # thread_local=False: another thread than the one that opened it may close a record.
    lock = filelock.FileLock(path / "lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        pid = ""
        with contextlib.suppress(OSError):
            pid = (path / "lock.pid").read_text()
        text = f"{path} is in use by another process (pid {pid or 'unknown'})."
        raise InUse(f"{text}\nWait for it, or stop it.") from None
    return lock


def _empty(path: Path) -> None:
    # The config first: without it a half-emptied folder is refused.
    (path / "arm.json").unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name not in LOCK_FILES:
            entry.unlink()
