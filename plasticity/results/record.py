"""Run folders: the only code of the library that writes results.

A folder holds all that is kept of one run. It is named after its config, which decides the numbers
and nothing else does::

    mnist-released-seed0-1a2b3c4d/
        config.json        the config; its sha256sum begins with the last part of the folder's name
        provenance.json    command, commit, versions, device: what wrote the first row, for people
        lock, lock.pid     held while a process writes; the system lets go of it when that dies
        mlp/rows.jsonl     one JSON object a line, appended
        mlp/checkpoint.pt  the state after the last row, and the sha256 of the rows up to it

A row reaches the disk before its checkpoint, which is replaced in one step. So a kill at any
instant leaves at most one row too many; the next opening cuts it off, and that task is done again.
"""

import contextlib
import errno
import hashlib
import importlib.metadata
import io
import json
import os
import pickle
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import filelock
import numpy as np
import torch

from plasticity import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOCK_FILES = {"lock", "lock.pid"}
_NOT_FREE = _LOCK_FILES | {"config.json", "provenance.json", "", ".", ".."}
# What may decide numbers; those of the extra "rl" are often not installed.
_PACKAGES = (
    "torch", "torchvision", "tensorcircuit-ng", "numpy", "scipy", "scikit-learn",
    "stable-baselines3", "gymnasium", "mujoco",
)  # fmt: skip
MAX_ROWS_BYTES = 2**30  # of rows.jsonl: a million rows of a thousand characters
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class RecordError(Exception):
    """A run folder that cannot be used: which file, what is wrong with it, the way out."""


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the sha256, in hex, of the config as config.json holds it.

    Raises:
        ValueError, TypeError: the config holds NaN, an infinity or something JSON cannot.
    """
    return hashlib.sha256(_config_json(config)).hexdigest()


def run_name(prefix: str, config: Mapping[str, Any]) -> str:
    """Return the name of the config's folder: the prefix and 8 digits of the config's hash."""
    return _checked_name(f"{prefix}-{config_hash(config)[:8]}")


def open_run(
    results: str | Path,
    prefix: str,
    config: Mapping[str, Any],
    *,
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
) -> "RunFolder":
    """Create or reopen the run folder of a config, locked until it is closed.

    `overwrite` empties the folder once it is locked. `command` (this process's own if None) and
    the name of `device` are noted in provenance.json when the folder is created.

    Raises:
        RecordError: it is in use, config.json is not this config, or it cannot be written.
        ValueError, TypeError: JSON cannot hold the config, or the prefix is not part of a name.
    """
    path = Path(results).absolute() / run_name(prefix, config)
    with _disk_errors(path):
        make_folder(path)
        # thread_local=False: another thread than the one that opened it may close a run.
        run = RunFolder(path, config, filelock.FileLock(path / "lock", thread_local=False))
        try:
            run._lock.acquire(timeout=0)
        except filelock.Timeout:
            pid = ""
            with contextlib.suppress(OSError):
                pid = (path / "lock.pid").read_text()
            text = f"{path} is in use by another process (pid {pid or 'unknown'})."
            raise RecordError(f"{text}\nWait for it, or stop it.") from None
        try:
            with contextlib.suppress(OSError):  # it only serves the message above
                replace_file(path / "lock.pid", str(os.getpid()).encode())
            if overwrite:
                _empty(path)
            _settle_config(path, config, command, device)
            _remove_asides(path)
        except BaseException:
            run.close()
            raise
    return run


class RunFolder:
    """A locked run folder, made by `open_run`; the end of its `with` block unlocks it.

    Attributes:
        path: The folder.
        config: The config as JSON gives it back.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], lock: filelock.BaseFileLock) -> None:
        self.path = path
        self.config: dict[str, Any] = json.loads(_config_json(config))
        self._lock = lock
        self._arms: dict[str, ArmRecord] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Unlock the folder, which takes no more rows or files from here."""
        self._lock.release()

    def arm(self, name: str) -> "ArmRecord":
        """Return the record of one network; ask for all of them before training the first.

        Raises:
            RecordError: its rows or its checkpoint were edited, cut off or removed.
        """
        self._check_open()
        if name not in self._arms:
            self._arms[name] = ArmRecord(self, self.path / _checked_name(name))
        return self._arms[name]

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

    def save_figure(self, name: str, figure: "Figure") -> Path:
        """Write a figure, undated, in the format that the name ends in; .png if in none."""
        suffix = Path(name).suffix or ".png"
        date = {".pdf": "CreationDate", ".svg": "Date"}.get(suffix)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], metadata={date: None} if date else None)
        return self._save(name, suffix, buffer)

    def save_bytes(self, name: str, content: bytes) -> Path:
        """Write a file of any kind."""
        return self._save(name, "", io.BytesIO(content))

    def _save(self, name: str, suffix: str, buffer: io.BytesIO) -> Path:
        self._check_open()
        path = self.path / _checked_name(name if name.endswith(suffix) else name + suffix)
        with _disk_errors(path):
            replace_file(path, buffer.getbuffer())
        return path

    def _check_open(self) -> None:
        if not self._lock.is_locked:
            raise RecordError(f"{self.path} is closed.\nOpen the run again to write.")


class ArmRecord:
    """The rows and the checkpoint of one network, made by `RunFolder.arm`.

    Attributes:
        path: The arm's folder.
        rows: All rows so far, as JSON gives them back.
    """

    def __init__(self, run: RunFolder, path: Path) -> None:
        self.path = path
        self._run = run
        self._config_hash = config_hash(run.config)
        self._unfinished = False
        self._state_was_read_back = False
        with _disk_errors(path):
            kept, extra = self._check_files()
            self.rows = _parse(kept, path / "rows.jsonl")
            self._sha256 = hashlib.sha256(kept)
            # Only from here on, with all in order, is anything changed.
            make_folder(path)
            _remove_asides(path)
            if extra:
                with open(path / "rows.jsonl", "r+b") as file:
                    file.truncate(len(kept))
                    os.fsync(file.fileno())

    def load_state(self) -> Any | None:
        """Return the state after the last row, its tensors on the CPU; None before the first."""
        with _disk_errors(self.path):
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
        self._run._check_open()
        if self._unfinished:
            raise RecordError(f"{self.path} was left in the middle of a row.\nOpen the run again.")
        defined = {}
        for key, value in row.items():
            try:
                json.dumps(value)
            except TypeError as error:
                what = f"{self.path}: {key!r} of row {len(self.rows)}"
                raise TypeError(f"{what}: {error}") from error
            # What JSON holds only if NaN and infinities are allowed. A metric may be undefined at
            # one task and defined again at the next; it is no reason to end the run.
            with contextlib.suppress(ValueError):
                json.dumps(value, allow_nan=False)
                defined[key] = value
        line = json.dumps(defined).encode() + b"\n"
        sha256 = self._sha256.copy()
        sha256.update(line)
        checkpoint = {"rows": len(self.rows) + 1, "rows_sha256": sha256.hexdigest()}
        # Into memory first: torch.save to a full disk raises RuntimeError without the reason.
        buffer = io.BytesIO()
        torch.save(checkpoint | {"config_hash": self._config_hash, "state": state}, buffer)
        if not self._state_was_read_back:
            # A state that cannot be read should fail at the first row, not when a run is resumed.
            try:
                torch.load(io.BytesIO(buffer.getbuffer()), map_location="cpu", weights_only=True)
            except Exception as error:
                raise TypeError(f"torch.load would refuse this state: {error}") from error
            self._state_was_read_back = True
        self._unfinished = True
        with _disk_errors(self.path):
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
        buffer = io.BytesIO(path.read_bytes())
        try:
            # torch.load does not look at the archive's checksums.
            if damaged := zipfile.ZipFile(buffer).testzip():
                raise ValueError(f"wrong checksum of {damaged}")
            buffer.seek(0)
            checkpoint = torch.load(buffer, map_location="cpu", weights_only=True)
            if checkpoint["config_hash"] != self._config_hash:
                raise ValueError("it belongs to another config")
            if type(checkpoint["rows"]) is not int or not {"rows_sha256", "state"} <= {*checkpoint}:
                raise ValueError("it is no checkpoint of a run")
        except pickle.UnpicklingError as error:
            # torch's own message recommends to read the file with its code executed.
            text = "cannot be used: it holds more than tensors and plain values, none of it was run"
            raise _changed(path, text) from error
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise _changed(path, f"cannot be used: {type(error).__name__}, {reason}") from error
        return checkpoint


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Read the finished rows in an arm's folder, also while a run writes them.

    Raises:
        RecordError: there is no such folder, a line is no JSON object, or there are too many.
    """
    path = Path(path) / "rows.jsonl"
    if not path.parent.is_dir():
        raise RecordError(f"{path.parent} is not a folder.\nName that of one network of a run.")
    with _disk_errors(path):
        data = _read_lines(path)
    return _parse(data, path)


def _read_lines(path: Path) -> bytes:
    """Read rows.jsonl, or nothing where there is none; not what would fill the memory."""
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


def _changed(path: Path, what: str) -> RecordError:
    way_out = "Restore the file, or start afresh with --overwrite; nothing was changed now."
    return RecordError(f"{path} {what}.\n{way_out}")


def _settle_config(
    path: Path, config: Mapping[str, Any], command: Sequence[str] | None, device: str | torch.device
) -> None:
    """Check the folder's config, or write it and where the run comes from."""
    file, text = path / "config.json", _config_json(config)
    if file.exists():
        # The size first: what is much larger need not be read.
        if file.stat().st_size != len(text) or file.read_bytes() != text:
            raise _changed(file, "was edited: the folder is named after another config")
        return
    if any(path.glob("*/rows.jsonl")) or any(path.glob("*/checkpoint.pt")):
        raise _changed(file, "is missing, but there are rows")
    on_gpu = torch.device(device).type == "cuda"
    # Ours from the code that runs: what is installed under this name may be another copy.
    versions: dict[str, str | None] = {
        "python": platform.python_version(), "quantum-plasticity": __version__
    }  # fmt: skip
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    provenance = {
        "command": list(sys.orig_argv if command is None else command),
        "commit": git_commit(),
        "versions": versions,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
        "threads": torch.get_num_threads(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # The config last: where it is, provenance.json is too.
    replace_file(path / "provenance.json", json.dumps(provenance, indent=2).encode() + b"\n")
    replace_file(file, text)


def git_commit() -> str | None:
    """Return the commit of the checkout that this file is tracked in, if any."""
    here = Path(__file__).absolute()
    # "describe --dirty" would be shorter, but writes the index in spite of this option, and leaves
    # its lock behind where the disk is full: no later git command would work there.
    git = ["git", "--no-optional-locks", "-C", str(here.parent)]
    try:
        # An installed copy may lie inside somebody else's checkout; the first question asks that.
        _, commit, changes = (
            subprocess.run(git + question, capture_output=True, check=True, timeout=10).stdout
            for question in (
                ["ls-files", "--error-unmatch", here.name],
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.decode().strip() + ("-dirty" if changes else "")


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what, way_out = error.strerror or str(error), "Make it writable, or name other --results."
        if error.errno in _NO_ROOM:
            way_out = "Make room; the same command goes on and repeats at most the last row."
        if isinstance(error, FileExistsError | NotADirectoryError):
            what = "not a folder"
        raise RecordError(f"{error.filename or path}: {what}.\n{way_out}") from error


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Write a file aside, then put it in its place in one step.

    What lies in the aside's place is removed, never written to: a link there may lead anywhere.
    Two processes may not replace the same file at the same time.
    """
    aside = path.with_name(path.name + ".tmp")
    try:
        aside.unlink(missing_ok=True)
        # "x" does not follow links, and fails where a file has appeared since.
        with open(aside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Make the names in a folder outlive a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        with contextlib.suppress(OSError):  # some network disks refuse
            os.fsync(descriptor)
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, so that they outlive a power cut."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _remove_asides(path: Path) -> None:
    for aside in path.glob("*.tmp"):
        aside.unlink()


def _empty(path: Path) -> None:
    # The config first: without it a half-emptied folder with rows is refused.
    (path / "config.json").unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name not in _LOCK_FILES:
            entry.unlink()
