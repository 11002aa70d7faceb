"""The record of one arm of a run: rows, checkpoint, snapshots, measurements, exports."""

import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import filelock
import numpy as np
import torch

from plasticity.errors import RecordError
from plasticity.results.disk import disk_errors, make_folder, remove_asides, replace_file
from plasticity.results.files import (
    changed,
    parse_lines,
    read_lines,
    save_file,
)
from plasticity.results.names import config_json
from plasticity.results.provenance import provenance
from plasticity.results.reading import DIVERGED, FORMAT, load_tensors


def identity_of(run: Mapping[str, Any], arm: Mapping[str, Any], folder: str) -> str:
    """Return what a checkpoint is bound to: the hash of all that decides an arm's numbers."""
    return hashlib.sha256(config_json(run) + config_json(arm) + folder.encode()).hexdigest()


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
        self.rows = parse_lines(kept, path / "rows.jsonl")
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
            before = read_lines(path)
            note = {"rows": len(self.rows)} | provenance(command, device) | dict(about or {})
            replace_file(path, before + json.dumps(note).encode() + b"\n")

    def note_divergence(self, why: str) -> None:
        """Note that the task after the last row could not be learned."""
        content = {"rows": len(self.rows), "error": why}
        self._check_open()
        with disk_errors(self.path / DIVERGED):
            replace_file(self.path / DIVERGED, json.dumps(content).encode() + b"\n")

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
        return save_file(self.path, name, suffix, buffer)

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

    def save_learner(self, age: int, state: Any) -> None:
        """Keep a whole learner's state after so many tasks, beside the snapshots.

        The state is what ``append`` takes: network, optimizer's memory, what remedies hold.
        """
        self._check_open()
        path = learner_file(self.path, age)
        buffer = io.BytesIO()
        torch.save(self._named() | {"age": age, "state": state}, buffer)
        with disk_errors(path):
            make_folder(path.parent)
            replace_file(path, buffer.getbuffer())

    def snapshots(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield tasks and the network's state after each that is kept, in order.

        Those of tasks that have no row are left out.

        Raises:
            RecordError: a file cannot be read, or is of another arm or task.
        """
        yield from read_snapshots(self.path, self._identity, len(self.rows))

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
            data = read_lines(path)
            if data and not data.endswith(b"\n"):
                raise changed(path, "was cut off: its last line has no end")
            rows: dict[int, dict[str, Any]] = {}
            for row in parse_lines(data, path):
                if not isinstance(row.get("task"), int):
                    raise changed(path, "was edited: a line has no task")
                rows[row["task"]] = row
            for task, columns in measured.items():
                # What is undefined now takes the place of what was there, too.
                merged = rows.get(task, {"task": task}) | dict(columns)
                rows[task] = _defined(merged, str(path))
            lines = (json.dumps(rows[task]).encode() + b"\n" for task in sorted(rows))
            replace_file(path, b"".join(lines))

    def load_state(self) -> Any | None:
        """Return the state after the last row, its tensors on the CPU; None before the first.

        Raises:
            RecordError: checkpoint.pt cannot be read, or was removed or changed since the arm was
                opened.
        """
        with disk_errors(self.path):
            checkpoint = self._read_checkpoint()
        if checkpoint["rows"] != len(self.rows):
            text = f"was removed or changed meanwhile: it is not of {len(self.rows)} rows"
            raise changed(self.path / "checkpoint.pt", text)
        return checkpoint["state"]

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
            (self.path / DIVERGED).unlink(missing_ok=True)  # what it says was of an earlier row
        self.rows.append(json.loads(line))
        self._sha256 = sha256
        self._unfinished = False

    def _check_files(self) -> tuple[bytes, bytes]:
        """Return the checkpoint's rows and what a killed process wrote after them."""
        path = self.path / "rows.jsonl"
        data = read_lines(path)
        checkpoint = self._read_checkpoint()
        num_rows = checkpoint["rows"]
        *lines, rest = data.split(b"\n")
        kept = b"".join(line + b"\n" for line in lines[:num_rows])
        num_extra = len(lines) + bool(rest) - num_rows
        if not path.exists() and num_rows:
            raise changed(path, f"is missing, but {num_rows} rows have a checkpoint")
        if num_extra < 0 or hashlib.sha256(kept).hexdigest() != checkpoint["rows_sha256"]:
            text = f"was edited or cut off: its first {num_rows} rows are not checkpoint.pt's"
            raise changed(path, text)
        if num_extra > 1 and not num_rows:
            raise changed(self.path / "checkpoint.pt", f"is missing, but {num_extra} rows are not")
        if num_extra > 1:
            raise changed(path, f"has {num_extra} more rows than the {num_rows} of checkpoint.pt")
        return kept, data[len(kept) :]

    def _read_checkpoint(self) -> dict[str, Any]:
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return {"rows": 0, "rows_sha256": hashlib.sha256().hexdigest(), "state": None}
        checkpoint = self._load(path, {"rows", "rows_sha256", "state"})
        if type(checkpoint["rows"]) is not int:
            raise changed(path, "cannot be used: it is no checkpoint of a run")
        return checkpoint

    def _load(self, path: Path, keys: set[str]) -> dict[str, Any]:
        return _load(path, keys, self._identity)


def read_snapshots(
    path: Path, identity: str, num_rows: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield what ``ArmRecord.snapshots`` does, of an arm's folder that need not be locked.

    Args:
        path: The arm's folder.
        identity: As of ``identity_of``.
        num_rows: How many rows the arm has.

    Raises:
        RecordError: A file cannot be read, or is of another arm or task.
    """
    for file in sorted((path / "snapshots").glob("task-*.pt")):
        with disk_errors(file):
            snapshot = _load(file, {"task", "network"}, identity)
        task = snapshot["task"]
        if type(task) is not int or file.name != f"task-{task:08}.pt":
            raise changed(file, "cannot be used: it is the network after another task")
        if task < num_rows:
            yield task, snapshot["network"]


def learner_file(path: Path, age: int) -> Path:
    """Return where an arm keeps its learner after so many tasks."""
    return path / "snapshots" / f"age-{age:08}.pt"


def kept_ages(path: Path, num_rows: int) -> list[int]:
    """Return after how many tasks an arm has kept its whole learner, of those that have rows.

    Args:
        path: The arm's folder.
        num_rows: How many rows it has.
    """
    words = (file.stem.removeprefix("age-") for file in (path / "snapshots").glob("age-*.pt"))
    return sorted(int(word) for word in words if word.isdecimal() and 0 < int(word) <= num_rows)


def read_learner(path: Path, identity: str, age: int) -> Any:
    """Return the state of an arm's learner after so many tasks, its tensors on the CPU.

    Args:
        path: The arm's folder; it need not be locked.
        identity: As of ``identity_of``.
        age: One of ``kept_ages``.

    Raises:
        RecordError: It cannot be read, or is of another arm or age.
    """
    file = learner_file(path, age)
    with disk_errors(file):
        kept = _load(file, {"age", "state"}, identity)
    if kept["age"] != age:
        raise changed(file, "cannot be used: it is the learner after another task")
    return kept["state"]


def read_last_state(path: Path, identity: str) -> tuple[int, Any] | None:
    """Return how many rows an arm's checkpoint has and its state; None where there is none.

    Raises:
        RecordError: It cannot be read, or is of another arm.
    """
    file = path / "checkpoint.pt"
    if not file.exists():
        return None
    with disk_errors(file):
        checkpoint = _load(file, {"rows", "state"}, identity)
    return checkpoint["rows"], checkpoint["state"]


def _load(path: Path, keys: set[str], identity: str) -> dict[str, Any]:
    """Read a file that an arm wrote, without executing what it may hold."""
    content = load_tensors(path)
    if content.get("identity") != identity:
        raise changed(path, "cannot be used: it belongs to another arm or run")
    if not keys <= {*content}:
        raise changed(path, "cannot be used: it is no file of a run")
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
