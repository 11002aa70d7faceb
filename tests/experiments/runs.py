"""What tests of the commands share: where a run lies, and what is in it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from plasticity.results.record import read_rows

LOCKS = ("lock", "lock.pid", "MNIST.lock")


def run_folder(results: Path) -> Path:
    """Return the only run folder in a folder of results."""
    (folder,) = results.iterdir()
    return folder


def arm_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of a run's arms by the arms' names, each of which is there once."""
    paths = [file.parent for file in sorted(folder.glob("*/arm.json"))]
    found = {path.name.rpartition("-")[0]: path for path in paths}
    assert len(found) == len(paths)
    return found


def arm_folder(folder: Path, arm: str) -> Path:
    """Return the folder of the only arm of that name in a run."""
    return arm_folders(folder)[arm]


def rows_of(folder: Path, arm: str) -> list[dict[str, Any]]:
    """Return the rows of the only arm of that name in a run."""
    return read_rows(arm_folder(folder, arm))


def snapshot(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Return content and time of last change of all files, lock files excepted."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in LOCKS
    }


def contents(folder: Path) -> dict[Path, bytes]:
    """Return what decides the numbers of a run, and what they are, by path inside the folder.

    That is all files but those that say when, where and by which process it was written.
    """
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (*LOCKS, "provenance.jsonl")
    }


def provenance_of(folder: Path, arm: str) -> list[dict[str, Any]]:
    """Return the lines of an arm's provenance."""
    lines = (arm_folder(folder, arm) / "provenance.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def fields_of(config: Any, prefix: str = "") -> list[str]:
    """Return the names of all fields that are not themselves a group of fields."""
    names = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        inner = dataclasses.is_dataclass(value)
        names += fields_of(value, f"{prefix}{field.name}.") if inner else [prefix + field.name]
    return names


def replaced(config: Any, field: str, value: Any) -> Any:
    """Return a dataclass with another value for a field, or for a field of a field."""
    group, dot, rest = field.partition(".")
    if dot:
        value = replaced(getattr(config, group), rest, value)
    return dataclasses.replace(config, **{group: value})
