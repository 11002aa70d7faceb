"""The levels of the XXZ chain at all anisotropies, computed once and kept on disk.

A folder holds one chain. It is named after the key, all that decides the content::

    xxz-L10-all-1a2b3c4d5e6f/
        states.npy         (levels, deltas, 2**L) float32: what is read at once lies together
        energies.npy       (deltas, levels) float64
        journal.jsonl      while it is built: a line for each finished delta, with its digest
        manifest.json      once it is whole: the key and all digests
        lock               held while a process builds; the system lets go of it when that dies

A digest is the sha256 of the key and of a delta's energies and states. It is compared with what
is on the disk whenever a chain is loaded: what does not match, whatever happened to it, is computed
again, and what does is kept. So a build that is stopped at any instant goes on where it was.

Longer than 400 lines: what is read, checked, resumed and built is one folder, and must agree on it.
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tqdm import tqdm

from plasticity.errors import DataError
from plasticity.results.disk import (
    UnfitFile,
    make_folder,
    memory_bytes,
    read_file,
    replace_file,
)
from plasticity.tasks.downloads import locked
from plasticity.tasks.spinchain import (
    DELTAS,
    MAX_SITES,
    check_num_sites,
    eigensystem,
    resolved_levels,
    sector_orbits,
)

KINDS = ("all", "resolved")
MAX_JSON_BYTES = 2**24
FORMAT = 1
"""Version of the construction: to be raised with any change of what is stored."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PROCESS_BYTES = 0.5e9  # of an interpreter with torch


@dataclass(frozen=True, eq=False)
class SpinLevels:
    """Hold the levels of a chain; the states stay on the disk.

    Attributes:
        num_sites: Length of the chain.
        kind: "all" or "resolved".
        deltas: (deltas,), float64.
        energies: (deltas, levels), float64.
        digest: sha256 (hex) of the key, the energies and the states.
    """

    num_sites: int
    kind: str
    deltas: np.ndarray
    energies: np.ndarray
    digest: str
    _states: "_Array"

    @property
    def num_levels(self) -> int:
        """Return the number of levels."""
        return int(self.energies.shape[1])

    @property
    def name(self) -> str:
        """Return what messages call the chain."""
        return f"XXZ chain of {self.num_sites} sites, {self.kind} levels"

    def states(self, level: int) -> np.ndarray:
        """Read one level's states at all deltas, (deltas, 2**L), float32.

        Raises:
            IndexError: There is no such level.
            DataError: The file cannot be read any more.
        """
        if not 0 <= level < self.num_levels:
            raise IndexError(f"{self.name}: there is no level {level} of {self.num_levels}")
        values = np.empty(self._states.shape[1:], self._states.dtype)
        with _disk_errors(self._states.path), open(self._states.path, "rb", buffering=0) as file:
            self._states.read(file, level * len(self.deltas), values)
        return values


def load_levels(num_sites: int, kind: str, data_root: Path) -> SpinLevels:
    """Load the levels of a periodic chain at `DELTAS`, computing what is not on the disk.

    Args:
        num_sites: Length of the chain.
        kind: "all" for every level in ascending energy; "resolved" for those of one symmetry
            sector, followed from delta to delta.
        data_root: Folder that gets a folder for each chain.

    Raises:
        ValueError: The number of sites or the kind is out of range.
        DataError: Memory or disk are too small, or the disk fails.
    """
    if kind not in KINDS:
        raise ValueError(f"the kind of levels must be {' or '.join(KINDS)}, not {kind!r}")
    if type(num_sites) is int and num_sites > MAX_SITES:
        least = 36 * 4**num_sites if kind == "all" else 8 * len(DELTAS) * 2**num_sites
        raise DataError(
            f"{num_sites} sites ({kind} levels) need at least {least / 1e9:.3g} GB of memory.\n"
            f"Choose fewer sites, {MAX_SITES} at most."
        )
    check_num_sites(num_sites)
    cache = _Cache(num_sites, kind, Path(data_root).absolute())
    with _disk_errors(cache.path):
        # A whole one is read without the lock: many can do so at once, also from a read-only disk.
        if not cache.is_whole():
            num_workers = cache.check_room()
            make_folder(cache.path)
            with locked(cache.path / "lock", f"computes {cache.path}"):
                cache.complete(num_workers)
        return cache.levels()


def key_of(num_sites: int, kind: str, version: int | None = None) -> dict[str, Any]:
    """Return all that decides what a chain's levels are, but not the processor that rounds them.

    Args:
        num_sites: Length of the chain.
        kind: "all" or "resolved".
        version: Of the construction; None: ``FORMAT``.
    """
    return {
        "format": version or FORMAT, "num_sites": num_sites, "boundary": "periodic", "kind": kind,
        "couplings": {"XX": 1, "YY": 1, "ZZ": "delta"}, "deltas": list(DELTAS),
        "states": "float32", "energies": "float64",
    }  # fmt: skip


def definition(num_sites: int, kind: str, version: int | None = None) -> str:
    """Return the name of a chain, which is that of its folder; nothing is computed or read.

    It is the same on every machine. The digest of what is computed is not: eigenvectors are rounded
    otherwise by another processor.
    """
    key = json.dumps(key_of(num_sites, kind, version), sort_keys=True)
    return f"xxz-L{num_sites}-{kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


class _Array:
    """An .npy file that is written and read in pieces (not mapped, which counts as memory)."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        header = io.BytesIO()
        description = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, description)
        self._header = header.getvalue()
        self._row_bytes = shape[-1] * self.dtype.itemsize
        self.num_bytes = len(self._header) + math.prod(shape) * self.dtype.itemsize

    def fits(self) -> bool:
        """Tell whether the file has the right header and size."""
        if not self.path.is_file() or self.path.stat().st_size != self.num_bytes:
            return False
        with open(self.path, "rb") as file:
            return file.read(len(self._header)) == self._header

    def create(self) -> None:
        """Write the header and reserve the room, in a new file: a pipe would be waited for."""
        self.path.unlink(missing_ok=True)
        with open(self.path, "xb") as file:
            file.write(self._header)
            file.flush()
            if hasattr(os, "posix_fallocate"):  # the file in one piece, or an error at once
                os.posix_fallocate(file.fileno(), 0, self.num_bytes)
            file.truncate(self.num_bytes)

    def write(self, rows: Iterable[int], values: np.ndarray) -> None:
        """Write rows along the last axis, counted over all the others."""
        with open(self.path, "r+b") as file:
            for row, value in zip(rows, values, strict=True):
                file.seek(len(self._header) + row * self._row_bytes)
                file.write(value)

    def read(self, file: IO[bytes], row: int, values: np.ndarray) -> None:
        """Read into an array what lies from a row on."""
        file.seek(len(self._header) + row * self._row_bytes)
        # The array may happen to hold what an earlier call read.
        if file.readinto(values.data.cast("B")) != values.nbytes:  # type: ignore[attr-defined]
            raise DataError(f"{self.path} was cut off while in use.\nStart again to repair it.")

    def sync(self) -> None:
        """Make the content outlive a power cut."""
        with open(self.path, "r+b") as file:
            os.fsync(file.fileno())


class _Cache:
    """The folder of one chain."""

    def __init__(self, num_sites: int, kind: str, root: Path) -> None:
        self.num_sites, self.kind = num_sites, kind
        num_states = 2**num_sites
        num_levels = num_states if kind == "all" else int(sector_orbits(num_sites).max()) + 1
        self.key = key_of(num_sites, kind)
        self._sha256 = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode())
        self.path = root / definition(num_sites, kind)
        self.states = _Array(self.path / "states.npy", (num_levels, len(DELTAS), num_states), "<f4")
        self.energies = _Array(self.path / "energies.npy", (len(DELTAS), num_levels), "<f8")
        self.manifest, self.journal = self.path / "manifest.json", self.path / "journal.jsonl"

    def is_whole(self) -> bool:
        """Tell whether there is a manifest and all is as it says."""
        try:
            recorded = self._read_manifest()
            return bool(recorded) and self._verified(recorded) == recorded
        except (ValueError, DataError, FileNotFoundError):  # or it is just being repaired
            return False

    def levels(self) -> SpinLevels:
        """Return what is on the disk; the manifest is there."""
        energies = np.empty(self.energies.shape, self.energies.dtype)
        with open(self.energies.path, "rb", buffering=0) as file:
            self.energies.read(file, 0, energies)
        sha256 = self._sha256.copy()
        sha256.update("".join(self._read_manifest().values()).encode())
        return SpinLevels(
            self.num_sites, self.kind, np.array(DELTAS), energies, sha256.hexdigest(), self.states
        )

    def check_room(self) -> int:
        """Return how many deltas to diagonalize at once.

        Raises:
            DataError: Memory does not suffice for one, or the disk not for the files.
        """
        num_levels, _, num_states = self.states.shape
        # Matrix, eigenvectors, LAPACK's workspace of two more, and the states in float32.
        fixed, each = _PROCESS_BYTES, 36.0 * num_states**2
        if self.kind == "resolved":
            # All states in float64 (and while they are made, a few bases), one delta in float32.
            fixed, each = fixed + 8.0 * num_levels * num_states * (len(DELTAS) + 4), 0.0
        memory = memory_bytes()
        disk = self.states.num_bytes + self.energies.num_bytes
        if fixed + each > memory:
            raise DataError(
                f"{self.num_sites} sites ({self.kind} levels) need {(fixed + each) / 1e9:.3g} GB "
                f"of memory and {disk / 1e9:.3g} GB of disk; this machine has {memory / 1e9:.3g} "
                f"GB of memory.\nChoose fewer sites{' or resolved levels' * (self.kind == 'all')}."
            )
        there = next(folder for folder in (self.path, *self.path.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        for array in (self.states, self.energies):
            if array.path.is_file():
                free += array.path.stat().st_blocks * 512
        if disk > free:
            raise DataError(
                f"{self.num_sites} sites ({self.kind} levels) need {disk / 1e9:.3g} GB of disk; "
                f"{there} has {free / 1e9:.3g} GB free.\n"
                "Make room, choose fewer sites, or name another folder with --data-root."
            )
        return max(1, min(_num_cores(), int((memory - fixed) / each))) if each else 1

    def complete(self, num_workers: int) -> None:
        """Compute what is missing or not as it was recorded; the folder is locked."""
        recorded = {}
        try:
            recorded = self._read_manifest() or self._read_journal()
        except ValueError as error:
            _say(f"warning: {self.manifest} {error}; computing all anew")
        done = self._verified(recorded)
        if done and done == recorded and self.manifest.exists():
            return  # another process did it while this one waited
        misfits = [array for array in (self.states, self.energies) if not array.fits()]
        if len(done) < len(recorded):
            count = f"{len(recorded) - len(done)} of {len(recorded)}"
            what = f"{self.path}: states or energies at {count} deltas are not as recorded"
            if misfits:
                what = f"{misfits[0].path} is missing, cut off or of another chain"
            _say(f"warning: {what}; computing them anew")
        self.manifest.unlink(missing_ok=True)
        replace_file(self.journal, "".join(_journal_line(*item) for item in done.items()).encode())
        for array in misfits:
            array.create()
        with _one_torch_thread():
            self._build(done, num_workers)
        self.states.sync()
        self.energies.sync()
        manifest = {"key": self.key, "digests": [done[index] for index in range(len(DELTAS))]}
        replace_file(self.manifest, json.dumps(manifest, indent=1).encode() + b"\n")
        self.journal.unlink()

    def _build(self, done: dict[int, str], num_workers: int) -> None:
        """Compute and write all deltas but those done, and add them there and to the journal."""
        solve: Callable[[int], tuple[np.ndarray, np.ndarray]]
        if self.kind == "all":
            solve = lambda index: eigensystem(self.num_sites, DELTAS[index])  # noqa: E731
        else:
            solve = list(zip(*resolved_levels(self.num_sites, DELTAS), strict=True)).__getitem__

        def write(index: int) -> tuple[int, str]:
            energies, states = solve(index)
            states = states.astype(self.states.dtype, order="C")
            self.states.write(range(index, len(states) * len(DELTAS), len(DELTAS)), states)
            self.energies.write([index], energies[None])
            digest = self._digest(energies, states)
            with writing:  # here, so that what is finished is noted also where another one fails
                journal.write(_journal_line(index, digest))
            return index, digest

        bar = tqdm(
            total=len(DELTAS), initial=len(done), desc=f"XXZ chain, {self.num_sites} sites",
            unit="delta", dynamic_ncols=True, mininterval=0.1 if sys.stderr.isatty() else 30,
        )  # fmt: skip
        writing = threading.Lock()
        missing = sorted({*range(len(DELTAS))} - {*done})
        with bar, open(self.journal, "a", buffering=1) as journal:
            # OpenMP counts threads for each thread anew, so every worker has to say it again.
            pool = ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,))
            try:
                for future in as_completed([pool.submit(write, index) for index in missing]):
                    index, done[index] = future.result()
                    bar.update()
            finally:
                # After Ctrl-C or an error: wait for what is being computed, and begin no more.
                pool.shutdown(cancel_futures=True)

    def _digest(self, energies: np.ndarray, states: np.ndarray) -> str:
        sha256 = self._sha256.copy()
        sha256.update(np.ascontiguousarray(energies).data)
        sha256.update(np.ascontiguousarray(states).data)
        return sha256.hexdigest()

    def _verified(self, recorded: dict[int, str]) -> dict[int, str]:
        """Return those of the recorded digests that what is on the disk has."""
        if not (self.states.fits() and self.energies.fits()):
            return {}
        num_levels, num_deltas, num_states = self.states.shape
        # Several deltas at a time, since they lie together: about 32 MB.
        block = max(1, 2**23 // (num_levels * num_states))

        def check(indices: range) -> list[int]:
            states = np.empty((num_levels, len(indices), num_states), self.states.dtype)
            energies = np.empty((len(indices), num_levels), self.energies.dtype)
            with open(self.states.path, "rb", buffering=0) as file:
                for level in range(num_levels):
                    self.states.read(file, level * num_deltas + indices[0], states[level])
            with open(self.energies.path, "rb", buffering=0) as file:
                self.energies.read(file, indices[0], energies)
            digests = [self._digest(energies[k], states[:, k]) for k in range(len(indices))]
            return [
                i for i, digest in zip(indices, digests, strict=True) if digest == recorded.get(i)
            ]

        blocks = [range(k, min(k + block, num_deltas)) for k in range(0, num_deltas, block)]
        with ThreadPoolExecutor(_num_cores()) as pool:
            return {i: recorded[i] for found in pool.map(check, blocks) for i in found}

    def _read_manifest(self) -> dict[int, str]:
        """Return all digests by the delta's index; none where there is no manifest.

        Raises:
            ValueError: It is not the manifest of this chain.
        """
        if not self.manifest.exists():
            return {}
        try:
            manifest = json.loads(read_file(self.manifest, MAX_JSON_BYTES))
            key, digests = manifest["key"], manifest["digests"]
        except (ValueError, KeyError, TypeError, RecursionError, UnfitFile) as error:
            raise ValueError("is no manifest") from error
        if key != self.key:
            raise ValueError("is the manifest of another chain")
        if not isinstance(digests, list) or [type(d) for d in digests] != [str] * len(DELTAS):
            raise ValueError("does not have a digest for each delta")
        return dict(enumerate(digests))

    def _read_journal(self) -> dict[int, str]:
        """Return the digests of the finished deltas; a line that a kill cut off counts as none."""
        digests: dict[int, str] = {}
        with contextlib.suppress(FileNotFoundError, UnfitFile):  # it is replaced
            for line in read_file(self.journal, MAX_JSON_BYTES).splitlines():
                with contextlib.suppress(ValueError, TypeError, RecursionError):
                    index, digest = json.loads(line)
                    digests[int(index)] = str(digest)
        return digests


def _journal_line(index: int, digest: str) -> str:
    return json.dumps([index, digest]) + "\n"


def _num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say(message: str) -> None:
    """Tell of minutes of work, on standard error, at once: there is nothing to return yet."""
    print(message, file=sys.stderr)


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Have torch solve each matrix in one thread: many at once are faster, and round alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = error.strerror or str(error)
        way_out = "Make it readable and writable, or name another folder with --data-root."
        if error.errno in _NO_ROOM:
            way_out = "Make room; the same command goes on and keeps what is finished."
        if isinstance(error, FileExistsError | NotADirectoryError):
            what = "not a folder"
        raise DataError(f"{error.filename or path}: {what}.\n{way_out}") from error
