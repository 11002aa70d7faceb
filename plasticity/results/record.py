"""Run folders. Only the modules of this folder write results.

A run's folder is named after what all its arms share, an arm's folder inside it after the arm. Both
decide the numbers and nothing else does. How many tasks are learned is not among it: a run can
grow::

    mnist-released-seed0-1a2b3c4d/
        config.json          what the arms share; its sha256sum begins with the folder's last part
        figure.png, table.md of all arms; drawn.json tells of which rows
        mlp-5e6f7a8b/
            arm.json         the arm; its sha256sum begins with the folder's last part
            provenance.jsonl one line each time a process trained it: command, commit, versions, ...
            lock, lock.pid   held while a process trains it; the system lets go when that dies
            rows.jsonl       one JSON object a line, appended
            checkpoint.pt    the state after the last row, and the sha256 of the rows up to it
            snapshots/       task-K.pt: the network after tasks 0, 1, 2, 4, 8, ...
                             age-K.pt: the whole learner after 1, 2, 4, 8, ... tasks
            measured.jsonl   what was measured on the snapshots after training
            diverged.json    that the task after so many rows could not be learned, and why
            device.jsonl     how accurate they are on a device with noise and finitely many shots

A row reaches the disk before its checkpoint, which is replaced in one step. So a kill at any
instant leaves at most one row too many; the next opening cuts it off, and that task is done again.
"""

import contextlib
import io
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from plasticity.errors import InUse, RecordError
from plasticity.results.arm import ArmRecord, identity_of
from plasticity.results.disk import (
    disk_errors,
    lock_of,
    make_folder,
    read_file,
    remove_asides,
    replace_file,
)
from plasticity.results.files import (
    MAX_ROWS_BYTES,
    changed,
    read_config,
    read_rows,
    save_file,
    settle_config,
)
from plasticity.results.names import LOCK_FILES, OF_TRAINING, config_hash, config_json, folder_name
from plasticity.results.reading import FORMAT

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
        with disk_errors(self.path), lock_of(self.path / "lock"):
            yield

    def arm_path(self, name: str, config: Mapping[str, Any]) -> Path:
        """Return the folder of an arm, which need not be there."""
        return self.path / folder_name(name, config)

    def arms(self, besides: Collection[Path] = ()) -> dict[Path, dict[str, Any]]:
        """Return the config of each arm that is there, by its folder.

        Args:
            besides: Folders that are not looked at.

        Raises:
            RecordError: an arm.json is not the one its folder is named after.
        """
        found = {}
        with disk_errors(self.path):  # glob would leave out what we may not look into
            folders = [path for path in sorted(self.path.iterdir()) if path.is_dir()]
            files = [path / "arm.json" for path in folders if (path / "arm.json").exists()]
        for file in files:
            if file.parent in besides:
                continue
            # To overwrite an arm would not help: it has a folder with its own name.
            way_out = "Move this folder out of the run, or restore it; nothing was changed now."
            try:
                found[file.parent] = read_config(file)
            except RecordError as error:
                raise RecordError(f"{str(error).splitlines()[0]}\n{way_out}") from error
            if file.parent.name.rpartition("-")[2] != config_hash(found[file.parent])[:8]:
                text = f"{file} was edited, or its folder is a copy: it is named after another arm."
                raise RecordError(f"{text}\n{way_out}")
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
        lock = self._locked_arm(path)
        try:
            with disk_errors(path):
                if overwrite:
                    _empty(path)
                return self._opened_arm(path, config, lock)
        except BaseException:
            lock.release()
            raise

    @contextlib.contextmanager
    def open_arms(
        self, arms: Sequence[tuple[str, Mapping[str, Any]]], *, overwrite: bool = False
    ) -> Iterator[list["ArmRecord"]]:
        """Create or reopen the records of arms, all of them locked until the end of the `with`.

        Before any of them is emptied, all are locked, and the run has no folder that is no arm's.

        Args:
            arms: Names and configs.
            overwrite: Whether to empty their folders.

        Raises:
            InUse, RecordError: As `arm` and `arms` do.
        """
        paths = [self.arm_path(name, config) for name, config in arms]
        with contextlib.ExitStack() as locked:
            locks = []
            for path in paths:
                locks.append(self._locked_arm(path))
                locked.callback(locks[-1].release)
            self.arms(besides=paths)  # these are checked when they are opened
            opened = []
            for path, (_, config), lock in zip(paths, arms, locks, strict=True):
                with disk_errors(path):
                    if overwrite:
                        _empty(path)
                    opened.append(self._opened_arm(path, config, lock))
            yield opened

    def _locked_arm(self, path: Path) -> filelock.BaseFileLock:
        """Make and lock an arm's folder, and note in it which process has."""
        with disk_errors(path):
            make_folder(path)
            lock = lock_of(path / "lock")
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                pid = None
                with contextlib.suppress(OSError):
                    pid = re.fullmatch(rb"\d{1,10}", read_file(path / "lock.pid", 10))
                text = f"(pid {pid[0].decode() if pid else 'unknown'})"
                raise InUse(
                    f"{path} is in use by another process {text}.\nWait for it, or stop it."
                ) from None
            with contextlib.suppress(OSError):  # it only serves the message above
                replace_file(path / "lock.pid", str(os.getpid()).encode())
            return lock

    def _opened_arm(
        self, path: Path, config: Mapping[str, Any], lock: filelock.BaseFileLock
    ) -> "ArmRecord":
        """Check the files of an arm whose folder is locked."""
        if not (path / "arm.json").exists() and any((path / name).exists() for name in OF_TRAINING):
            raise changed(path / "arm.json", "is missing, but an arm was trained there")
        settle_config(path / "arm.json", config)
        return ArmRecord(path, identity_of(self.config, config, path.name), lock)

    @contextlib.contextmanager
    def locked_arm(self, path: Path) -> Iterator[None]:
        """Keep other processes from an arm's folder.

        Raises:
            InUse: Another process has it open.
        """
        lock = self._locked_arm(path)
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


def _empty(path: Path) -> None:
    # The config first: without it a half-emptied folder is refused.
    (path / "arm.json").unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name not in LOCK_FILES:
            entry.unlink()
