"""Run folders: the only code of the library that writes results.

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

A row reaches the disk before its checkpoint, which is replaced in one step. So a kill at any
instant leaves at most one row too many; the next opening cuts it off, and that task is done again.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import filelock
import numpy as np
import torch

from plasticity.results.disk import (
    RecordError,
    disk_errors,
    make_folder,
    remove_asides,
    replace_file,
)
from plasticity.results.provenance import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = 2
"""Of checkpoints and snapshots. Those of format 1 had the whole run in their config."""

_LOCK_FILES = {"lock", "lock.pid"}
_OF_TRAINING = {"provenance.jsonl", "rows.jsonl", "checkpoint.pt", "snapshots", "measured.jsonl"}
_NOT_FREE = _LOCK_FILES | _OF_TRAINING | {"config.json", "arm.json", "", ".", ".."}
_MAX_CONFIG_BYTES = 2**20
MAX_ROWS_BYTES = 2**30  # of rows.jsonl: a million rows of a thousand characters


class RecordInUse(RecordError):
    """Another process is writing there: wait for it."""


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the sha256, in hex, of a config as config.json or arm.json holds it.

    Raises:
        ValueError, TypeError: the config holds NaN, an infinity or something JSON cannot.
    """
    return hashlib.sha256(_config_json(config)).hexdigest()


def folder_name(prefix: str, config: Mapping[str, Any]) -> str:
    """Return the name of a config's folder: the prefix and 8 digits of the config's hash."""
    return _checked_name(f"{prefix}-{config_hash(config)[:8]}")


def open_run(results: str | Path, prefix: str, config: Mapping[str, Any]) -> "RunFolder":
    """Create or reopen the run folder of a config: of what all its arms share.

    Raises:
        RecordError: config.json is not this config, or the folder cannot be written.
        ValueError, TypeError: JSON cannot hold the config, or the prefix is not part of a name.
    """
    path = Path(results).absolute() / folder_name(prefix, config)
    with disk_errors(path):
        make_folder(path)
        run = RunFolder(path, config)
        with run.locked():
            _settle_config(path / "config.json", config)
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
        self.config: dict[str, Any] = json.loads(_config_json(config))

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
                raise _changed(file, "was edited: its folder is named after another arm")
        return found

    def arm(self, name: str, config: Mapping[str, Any], *, overwrite: bool = False) -> "ArmRecord":
        """Create or reopen the record of an arm, locked until it is closed.

        `overwrite` empties its folder once it is locked.

        Raises:
            RecordInUse: another process has it open.
            RecordError: its files were edited, cut off, removed or belong to another arm, or they
                cannot be written.
        """
        path = self.arm_path(name, config)
        # thread_local=False: another thread than the one that opened it may close a record.
        lock = filelock.FileLock(path / "lock", thread_local=False)
        with disk_errors(path):
            make_folder(path)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                pid = ""
                with contextlib.suppress(OSError):
                    pid = (path / "lock.pid").read_text()
                text = f"{path} is in use by another process (pid {pid or 'unknown'})."
                raise RecordInUse(f"{text}\nWait for it, or stop it.") from None
            try:
                with contextlib.suppress(OSError):  # it only serves the message above
                    replace_file(path / "lock.pid", str(os.getpid()).encode())
                if overwrite:
                    _empty(path)
                if not (path / "arm.json").exists() and any(
                    (path / name).exists() for name in _OF_TRAINING
                ):
                    raise _changed(path / "arm.json", "is missing, but an arm was trained there")
                _settle_config(path / "arm.json", config)
                return ArmRecord(path, _identity(self.config, config, path.name), lock)
            except BaseException:
                lock.release()
                raise

    def save_figure(self, name: str, figure: "Figure") -> Path:
        """Write a figure, undated, in the format that the name ends in; .png if in none."""
        suffix = Path(name).suffix or ".png"
        date = {".pdf": "CreationDate", ".svg": "Date"}.get(suffix)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], metadata={date: None} if date else None)
        return _save(self.path, name, suffix, buffer)


def _identity(run: Mapping[str, Any], arm: Mapping[str, Any], folder: str) -> str:
    """Return what a checkpoint is bound to: the hash of all that decides an arm's numbers."""
    return hashlib.sha256(_config_json(run) + _config_json(arm) + folder.encode()).hexdigest()


class ArmRecord:
    """The locked record of an arm, made by `RunFolder.arm`; the end of its `with` unlocks it.

    Attributes:
        path: The arm's folder.
        rows: All rows so far, as JSON gives them back.
    """

    def __init__(self, path: Path, identity: str, lock: filelock.BaseFileLock) -> None:
        self.path = path
        self._identity = identity
        self._lock = lock
        self._unfinished = False
        self._state_was_read_back = False
        kept, extra = self._check_files()
        self.rows = _parse(kept, path / "rows.jsonl")
        self._sha256 = hashlib.sha256(kept)
        # Only from here on, with all in order, is anything changed.
        remove_asides(path)
        if extra:
            with open(path / "rows.jsonl", "r+b") as file:
                file.truncate(len(kept))
                os.fsync(file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Unlock the arm, which takes no more rows or files from here."""
        self._lock.release()

    def note_provenance(
        self,
        command: Sequence[str] | None = None,
        device: str | torch.device = "cpu",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Note where the rows from here on come from: command, commit, versions, machine.

        Args:
            command: This process's own if None.
            device: Where the network is trained.
            about: What else there is to note, as JSON.
        """
        self._check_open()
        path = self.path / "provenance.jsonl"
        with disk_errors(path):
            before = _read_lines(path)
            note = {"rows": len(self.rows)} | provenance(command, device) | dict(about or {})
            replace_file(path, before + json.dumps(note).encode() + b"\n")

    def save_npz(self, name: str, /, **arrays: Any) -> Path:
        """Write arrays to an .npz file; equal arrays give equal bytes, whatever the day."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for key, array in arrays.items():
                # A ZipInfo of our own has a fixed date, which numpy.savez does not promise.
                with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
        return self._save(name, ".npz", buffer)

    def save_npy(self, name: str, array: Any) -> Path:
        """Write one array to an .npy file."""
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        return self._save(name, ".npy", buffer)

    def save_bytes(self, name: str, content: bytes) -> Path:
        """Write a file of any kind."""
        return self._save(name, "", io.BytesIO(content))

    def _save(self, name: str, suffix: str, buffer: io.BytesIO) -> Path:
        self._check_open()
        return _save(self.path, name, suffix, buffer)

    def _named(self) -> dict[str, Any]:
        return {"format": FORMAT, "arm": self.path.name, "identity": self._identity}

    def _check_open(self) -> None:
        if not self._lock.is_locked:
            raise RecordError(f"{self.path} is closed.\nOpen the run again to write.")

    def save_snapshot(self, task: int, network: Mapping[str, Any]) -> None:
        """Keep a network's state after a task, as `torch.load(weights_only=True)` reads it."""
        self._check_open()
        path = self.path / "snapshots" / f"task-{task:08}.pt"
        buffer = io.BytesIO()
        torch.save(self._named() | {"task": task, "network": network}, buffer)
        with disk_errors(path):
            make_folder(path.parent)
            replace_file(path, buffer.getbuffer())

    def snapshots(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield tasks and the network's state after each that is kept, in order.

        Those of tasks that have no row are left out.

        Raises:
            RecordError: a file cannot be read, or is of another arm or task.
        """
        for path in sorted((self.path / "snapshots").glob("task-*.pt")):
            with disk_errors(path):
                snapshot = self._load(path, {"task", "network"})
            task = snapshot["task"]
            if type(task) is not int or path.name != f"task-{task:08}.pt":
                raise _changed(path, "cannot be used: it is the network after another task")
            if task < len(self.rows):
                yield task, snapshot["network"]

    def save_measured(self, measured: Mapping[int, Mapping[str, Any]]) -> None:
        """Add columns, by task, to what was measured after training; undefined ones are left out.

        A column that is there already is replaced.

        Raises:
            RecordError: measured.jsonl was edited or cut off, or the disk is full or fails.
            TypeError: JSON cannot hold a column.
        """
        self._check_open()
        path = self.path / "measured.jsonl"
        with disk_errors(path):
            data = _read_lines(path)
            if data and not data.endswith(b"\n"):
                raise _changed(path, "was cut off: its last line has no end")
            rows: dict[int, dict[str, Any]] = {}
            for row in _parse(data, path):
                if not isinstance(row.get("task"), int):
                    raise _changed(path, "was edited: a line has no task")
                rows[row["task"]] = row
            for task, columns in measured.items():
                # What is undefined now is so instead of what was there, too.
                others = {k: v for k, v in rows.get(task, {}).items() if k not in columns}
                rows[task] = {"task": task} | others | _defined(columns, str(path))
            lines = (json.dumps(rows[task]).encode() + b"\n" for task in sorted(rows))
            replace_file(path, b"".join(lines))

    def load_state(self) -> Any | None:
        """Return the state after the last row, its tensors on the CPU; None before the first."""
        with disk_errors(self.path):
            return self._read_checkpoint()["state"]

    def append(self, row: Mapping[str, Any], state: Any) -> None:
        """Add a row and the state after it; both are on the disk on return.

        A column that is undefined, i.e. NaN or infinite or a list with such a number in it, is left
        out of the row, on the disk and in `rows`: whoever reads rows uses `.get`.

        The state is what `torch.load(weights_only=True)` reads: tensors, numbers, strings, and
        lists, tuples and dicts of them. An error or an interruption while writing leaves this
        object unable to tell what is on the disk: it takes no more rows, the run must be reopened.

        Raises:
            RecordError: the disk is full or fails, the run is closed.
            TypeError: JSON cannot hold the row, or `torch.load` would refuse the state.
        """
        self._check_open()
        if self._unfinished:
            raise RecordError(f"{self.path} was left in the middle of a row.\nOpen the run again.")
        line = json.dumps(_defined(row, f"{self.path}: row {len(self.rows)}")).encode() + b"\n"
        sha256 = self._sha256.copy()
        sha256.update(line)
        checkpoint = self._named() | {
            "rows": len(self.rows) + 1, "rows_sha256": sha256.hexdigest(), "state": state
        }  # fmt: skip
        # Into memory first: torch.save to a full disk raises RuntimeError without the reason.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        if not self._state_was_read_back:
            # A state that cannot be read should fail at the first row, not when a run is resumed.
            try:
                torch.load(io.BytesIO(buffer.getbuffer()), map_location="cpu", weights_only=True)
            except Exception as error:
                raise TypeError(f"torch.load would refuse this state: {error}") from error
            self._state_was_read_back = True
        self._unfinished = True
        with disk_errors(self.path):
            with open(self.path / "rows.jsonl", "ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            replace_file(self.path / "checkpoint.pt", buffer.getbuffer())
        self.rows.append(json.loads(line))
        self._sha256 = sha256
        self._unfinished = False

    def _check_files(self) -> tuple[bytes, bytes]:
        """Return the checkpoint's rows and what a killed process wrote after them."""
        path = self.path / "rows.jsonl"
        data = _read_lines(path)
        checkpoint = self._read_checkpoint()
        num_rows = checkpoint["rows"]
        *lines, rest = data.split(b"\n")
        kept = b"".join(line + b"\n" for line in lines[:num_rows])
        num_extra = len(lines) + bool(rest) - num_rows
        if not path.exists() and num_rows:
            raise _changed(path, f"is missing, but {num_rows} rows have a checkpoint")
        if num_extra < 0 or hashlib.sha256(kept).hexdigest() != checkpoint["rows_sha256"]:
            text = f"was edited or cut off: its first {num_rows} rows are not checkpoint.pt's"
            raise _changed(path, text)
        if num_extra > 1 and not num_rows:
            raise _changed(self.path / "checkpoint.pt", f"is missing, but {num_extra} rows are not")
        if num_extra > 1:
            raise _changed(path, f"has {num_extra} more rows than the {num_rows} of checkpoint.pt")
        return kept, data[len(kept) :]

    def _read_checkpoint(self) -> dict[str, Any]:
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return {"rows": 0, "rows_sha256": hashlib.sha256().hexdigest(), "state": None}
        checkpoint = self._load(path, {"rows", "rows_sha256", "state"})
        if type(checkpoint["rows"]) is not int:
            raise _changed(path, "cannot be used: it is no checkpoint of a run")
        return checkpoint

    def _load(self, path: Path, keys: set[str]) -> dict[str, Any]:
        """Read a file that this arm wrote, without executing what it may hold."""
        buffer = io.BytesIO(path.read_bytes())
        try:
            # torch.load does not look at the archive's checksums.
            if damaged := zipfile.ZipFile(buffer).testzip():
                raise ValueError(f"wrong checksum of {damaged}")
            buffer.seek(0)
            content = torch.load(buffer, map_location="cpu", weights_only=True)
            if content.get("format") != FORMAT:
                raise ValueError(f"its format is {content.get('format', 1)}, not {FORMAT}")
            if content["identity"] != self._identity:
                raise ValueError("it belongs to another arm or run")
            if not keys <= {*content}:
                raise ValueError("it is no file of a run")
        except pickle.UnpicklingError as error:
            # torch's own message recommends to read the file with its code executed.
            text = "cannot be used: it holds more than tensors and plain values, none of it was run"
            raise _changed(path, text) from error
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise _changed(path, f"cannot be used: {type(error).__name__}, {reason}") from error
        return content


def _defined(row: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a row without the columns that JSON holds only if NaN and infinities are allowed.

    A metric may be undefined at one task and defined again at the next; it is no reason to end.
    """
    defined = {}
    for key, value in row.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise TypeError(f"{what}: {key!r}: {error}") from error
        with contextlib.suppress(ValueError):
            json.dumps(value, allow_nan=False)
            defined[key] = value
    return defined


def read_rows(path: str | Path, name: str = "rows.jsonl") -> list[dict[str, Any]]:
    """Read the finished rows in an arm's folder, also while a run writes them.

    Args:
        path: The arm's folder.
        name: ``measured.jsonl`` for what was measured after training.

    Raises:
        RecordError: there is no such folder, a line is no JSON object, or there are too many.
    """
    path = Path(path) / name
    if not path.parent.is_dir():
        raise RecordError(f"{path.parent} is not a folder.\nName that of one arm of a run.")
    with disk_errors(path):
        data = _read_lines(path)
    return _parse(data, path)


def _read_lines(path: Path) -> bytes:
    """Read a file of lines, or nothing where there is none; not what would fill the memory."""
    if not path.exists():
        return b""
    if (num_bytes := path.stat().st_size) > MAX_ROWS_BYTES:
        raise _changed(path, f"has {num_bytes} bytes; a run writes {MAX_ROWS_BYTES} at most")
    return path.read_bytes()


def _parse(data: bytes, path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # brackets in brackets in brackets ...
            raise _changed(path, f"was edited: line {number} is not JSON") from error
        if not isinstance(row, dict):
            raise _changed(path, f"was edited: line {number} is not a JSON object")
        rows.append(row)
    return rows


def _config_json(config: Mapping[str, Any]) -> bytes:
    return json.dumps(config, sort_keys=True, allow_nan=False, indent=2).encode() + b"\n"


def _checked_name(name: str) -> str:
    if name in _NOT_FREE or name.endswith(".tmp") or set(name) & set("/\\:\0"):
        raise ValueError(f"{name!r} cannot name a file or folder of a run")
    return name


_WAYS_OUT = {
    "config.json": "Restore it, or remove it: training writes it again",
    "measured.jsonl": "Restore it, or remove it and measure again",
}


def _changed(path: Path, what: str) -> RecordError:
    way_out = _WAYS_OUT.get(path.name, "Restore the file, or start afresh with --overwrite")
    return RecordError(f"{path} {what}.\n{way_out}; nothing was changed now.")


def _settle_config(file: Path, config: Mapping[str, Any]) -> None:
    """Check a folder's config, or write it."""
    text = _config_json(config)
    if not file.exists():
        replace_file(file, text)
    # The size first: what is much larger need not be read.
    elif file.stat().st_size != len(text) or file.read_bytes() != text:
        raise _changed(file, "was edited: its folder is named after another config")


def read_config(file: Path) -> dict[str, Any]:
    """Read config.json or arm.json, whatever its folder is called.

    Raises:
        RecordError: it is not there, or it is not as a run writes it.
    """
    with disk_errors(file):
        if not file.exists():
            raise RecordError(f"{file}: no such file.\nName the folder of a run.")
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            raise _changed(file, f"is larger than {_MAX_CONFIG_BYTES} bytes")
        content = file.read_bytes()
    try:
        config = json.loads(content)
        if not isinstance(config, dict) or _config_json(config) != content:
            raise ValueError("it is not as a run writes it")
    except (ValueError, RecursionError) as error:
        raise _changed(file, f"was edited: {error}") from error
    return config


def _save(folder: Path, name: str, suffix: str, buffer: io.BytesIO) -> Path:
    path = folder / _checked_name(name if name.endswith(suffix) else name + suffix)
    data = buffer.getvalue()
    with disk_errors(path):
        # What is there already keeps its date.
        if not path.exists() or path.stat().st_size != len(data) or path.read_bytes() != data:
            replace_file(path, data)
    return path


def _empty(path: Path) -> None:
    # The config first: without it a half-emptied folder is refused.
    (path / "arm.json").unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name not in _LOCK_FILES:
            entry.unlink()
