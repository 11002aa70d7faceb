"""What lies in a folder of results: runs and arms, with their size, and how to remove them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasticity.errors import PlasticityError, RecordError
from plasticity.protocol.serialization import flat
from plasticity.results.disk import disk_errors
from plasticity.results.files import read_rows
from plasticity.results.names import arm_name
from plasticity.results.record import RunFolder, read_run


@dataclass(frozen=True)
class StoredArm:
    """An arm on the disk.

    Attributes:
        name: Of the arm.
        path: Its folder.
        rows: How many are recorded; -1: they cannot be read.
        num_bytes: Of all its files.
    """

    name: str
    path: Path
    rows: int
    num_bytes: int


@dataclass(frozen=True)
class StoredRun:
    """A run on the disk.

    Attributes:
        folder: Of the run.
        arms: What it has.
        num_bytes: Of all its files.
    """

    folder: RunFolder
    arms: tuple[StoredArm, ...]
    num_bytes: int


def stored_runs(results: Path) -> Iterator[StoredRun]:
    """Yield the runs in a folder of results, by name; other folders are passed over.

    Raises:
        RecordError: The folder cannot be read.
    """
    with disk_errors(results):
        paths = sorted(path for path in results.iterdir() if (path / "config.json").is_file())
    for path in paths:
        try:
            yield stored_run(path)
        except RecordError:
            continue


def stored_run(path: Path) -> StoredRun:
    """Return a run on the disk.

    Raises:
        RecordError: It is no run folder.
    """
    folder = read_run(path)
    arms = []
    for arm in sorted(file.parent for file in folder.path.glob("*/arm.json")):
        try:
            rows = len(read_rows(arm))
        except PlasticityError:
            rows = -1
        arms.append(StoredArm(arm_name(arm), arm, rows, size(arm)))
    return StoredRun(folder, tuple(arms), size(folder.path))


def size(path: Path) -> int:
    """Return how many bytes the files in a folder have."""
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())


def differences(runs: list[RunFolder]) -> dict[str, list[Any]]:
    """Return in which settings runs differ: each setting's value in each run."""
    configs = [flat(run.config) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {key: [config.get(key) for config in configs] for key in keys}
    return {key: of for key, of in values.items() if any(v != of[0] for v in of)}


def delete(chosen: Mapping[RunFolder, Sequence[Path]], *, whole: bool) -> None:
    """Delete arms of runs, and with ``whole`` the runs themselves.

    All arms are locked before anything is deleted.

    Args:
        chosen: The folders of arms of each run; with ``whole``, of all that it has.
        whole: Delete the runs, too.

    Raises:
        InUse: Another process trains one of the arms; nothing was deleted.
        RecordError: Something cannot be deleted.
    """
    with contextlib.ExitStack() as locks:
        for folder, arms in chosen.items():
            for arm in arms:
                locks.enter_context(folder.locked_arm(arm))
        for folder, arms in chosen.items():
            for path in [folder.path] if whole else arms:
                with disk_errors(path):
                    # The config first: without it a half-emptied folder is no run and no arm.
                    (path / ("config.json" if whole else "arm.json")).unlink(missing_ok=True)
                    shutil.rmtree(path)
