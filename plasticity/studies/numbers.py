"""What the cells of a study recorded, as arrays: of run folders, or of small files of their own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity.errors import Failure
from plasticity.protocol.choices import choose
from plasticity.protocol.names import find_experiment
from plasticity.results.names import record_name
from plasticity.results.reading import recorded
from plasticity.studies.cells import (
    Cell,
    Place,
    cells,
    diverged,
    folder_of,
    num_tasks,
    tasks_left,
)
from plasticity.studies.declaration import Declaration
from plasticity.studies.diagnosed import RECORD, load_diagnosis, save_diagnosis

if TYPE_CHECKING:
    from plasticity.runs.diagnose import Diagnosis

INDEX = "study.json"
MAX_INDEX_BYTES = 2**24
OF_A_COLUMN = "column."
"""Before a column's name in a file: other arrays have other names."""


@dataclass(frozen=True)
class Numbers:
    """The numbers that a study's cells recorded.

    Attributes:
        study: Whose cells they are.
        tasks: How many each cell is to learn.
        columns: By arm and column, ``(seeds, tasks)``, float32, the seeds in the study's order. NaN
            where a row lacks the number, or where there is no row.
        rows: By arm, ``(seeds,)``: how many rows there are; -1: the record cannot be read.
        complete: By arm, ``(seeds,)``: which seeds have learned all that the study asks for, or
            have diverged.
        diverged: By arm, ``(seeds,)``: which seeds have diverged. Their score is that of a guess
            from then on; all other columns are undefined there.
        sources: Of what the numbers were read: run folders, commits, versions, machines, dates.
        diagnosis: What was diagnosed of them; None where the study asks for nothing.
    """

    study: Declaration
    tasks: int
    columns: Mapping[str, Mapping[str, np.ndarray]]
    rows: Mapping[str, np.ndarray]
    complete: Mapping[str, np.ndarray]
    diverged: Mapping[str, np.ndarray] = field(default_factory=dict)
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)
    diagnosis: Diagnosis | None = None

    def of(self, arm: str, column: str) -> np.ndarray | None:
        """Return a column of an arm's complete seeds, or None where it has no such number."""
        values = self.columns[arm].get(column)
        if values is None:
            return None
        values = values[self.complete[arm]]
        return values if np.isfinite(values).any() else None

    def seeds(self, arm: str) -> list[int]:
        """Return an arm's complete seeds."""
        return [s for s, c in zip(self.study.seeds, self.complete[arm], strict=True) if c]

    def diverged_after(self, arm: str) -> dict[int, int]:
        """Return after how many tasks an arm's seeds have diverged, by seed."""
        flags = self.diverged.get(arm, np.zeros(len(self.study.seeds), bool))
        counts = zip(self.study.seeds, self.rows[arm], flags, strict=True)
        return {seed: int(count) for seed, count, flag in counts if flag}

    def missing(self) -> list[tuple[str, int, int]]:
        """Return arm, seed and number of rows of each cell that is not complete."""
        return [
            (arm, seed, int(count))
            for arm in self.study.arms
            for seed, count, complete in zip(
                self.study.seeds, self.rows[arm], self.complete[arm], strict=True
            )
            if not complete and seed in self.study.seeds_of(arm)
        ]

    def names(self) -> list[str]:
        """Return the columns of any arm's complete seeds, in their order in the rows."""
        every = dict.fromkeys(name for arm in self.study.arms for name in self.columns[arm])
        return [n for n in every if any(self.of(arm, n) is not None for arm in self.study.arms)]


def read_numbers(study: Declaration, results: Path, place: Place | None = None) -> Numbers:
    """Read what the cells of a study have recorded so far; nothing is locked or written.

    What was measured after training is among it. Columns of lists, words and truth values are left
    out. A run that was made longer than the study asks for is read up to the study's length.

    Args:
        study: Whose cells are read.
        results: The folder of run folders.
        place: Where the data lies.
    """
    of_cells = {(cell.arm, cell.seed): cell for cell in cells(study, place)}
    length, chance = num_tasks(study), chance_of(study)
    score, _ = find_experiment(study.experiment).score
    undefined = np.full(length, np.nan, np.float32)
    columns, rows, complete, failed = {}, {}, {}, {}
    for arm in study.arms:
        mine = [of_cells[arm, seed] for seed in study.seeds_of(arm)]
        fewer = len(study.seeds) - len(mine)
        # One cell at a time: the rows of all would fill the memory.
        of_seeds = [_arrays(cell, results, length) for cell in mine]
        of_seeds += fewer * [({}, 0)]
        columns[arm] = {
            name: np.stack([of_seed.get(name, undefined) for of_seed, _ in of_seeds])
            for name in dict.fromkeys(name for of_seed, _ in of_seeds for name in of_seed)
        }
        rows[arm] = np.array([count for _, count in of_seeds])
        left = [
            tasks_left(cell, results) if rows[arm][k] >= 0 else 1 for k, cell in enumerate(mine)
        ]
        failed[arm] = np.array(
            [
                bool(left[k]) and rows[arm][k] >= 0 and chance is not None
                and diverged(cell, results)
                for k, cell in enumerate(mine)
            ] + fewer * [False]
        )  # fmt: skip
        complete[arm] = np.array([not some for some in [*left, *fewer * [1]]]) | failed[arm]
        for k in np.flatnonzero(failed[arm]):
            values = columns[arm].setdefault(score, np.tile(undefined, (len(study.seeds), 1)))
            values[k, rows[arm][k] :] = chance
    return Numbers(
        study, length, columns, rows, complete, failed, sources_of(of_cells.values(), results)
    )


def chance_of(study: Declaration) -> float | None:
    """Return the score of a guess, which the study or else its experiment declares, if it does."""
    if study.chance is not None:
        return study.chance
    experiment = find_experiment(study.experiment)
    return experiment.chance(choose(experiment, study.preset, study.arms, study.settings).config)


def sources_of(some: Iterable[Cell], results: Path) -> dict[str, list[str]]:
    """Return what cells were trained by, as their run folders note it, each thing once.

    By name: ``run folders``, ``commits``, ``versions``, ``machines``, ``dates`` (first and last)
    and ``data`` (samples); and by ``parameters ARM`` how many that arm has.
    """
    found: dict[str, dict[str, None]] = {}
    dates = []
    for cell in some:
        folder = folder_of(cell, results)
        for note in _notes(folder):
            versions = note.get("versions")
            versions = versions if isinstance(versions, Mapping) else {}
            packages = " ".join(
                f"{name} {version}" for name, version in versions.items() if version
            )
            about = {
                "run folders": folder.parent.name, "commits": note.get("commit"),
                "versions": packages, "machines": _machine(note), "data": note.get("data"),
                f"parameters {cell.arm}": note.get("parameters"),
            }  # fmt: skip
            for name, value in about.items():
                if value:
                    found.setdefault(name, {})[str(value)] = None
            dates.append(str(note.get("started", ""))[:10])
    dates = sorted(filter(None, dates))
    ends = {"dates": dict.fromkeys([dates[0], dates[-1]])} if dates else {}
    return {name: [*values] for name, values in (found | ends).items()}


def _machine(note: Mapping[str, Any]) -> str:
    return ", ".join(str(note[name]) for name in ("platform", "device") if note.get(name))


def _notes(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of an arm's provenance; none where they cannot be read."""
    from plasticity.errors import RecordError
    from plasticity.results.files import read_rows

    with contextlib.suppress(RecordError, OSError):
        return read_rows(folder, "provenance.jsonl") if folder.is_dir() else []
    return []


def _arrays(cell: Cell, results: Path, length: int) -> tuple[dict[str, np.ndarray], int]:
    """Return the numbers in a cell's rows by column, ``(tasks,)`` each, and how many rows are."""
    from plasticity.errors import RecordError
    from plasticity.results.disk import disk_errors

    folder = folder_of(cell, results)
    try:
        with disk_errors(folder):
            rows = recorded(folder) if folder.is_dir() else []
    except RecordError:  # the cell's own command says why
        return {}, -1
    if any(type(row.get("task")) is not int or row["task"] < 0 for row in rows):
        return {}, -1
    rows = [row for row in rows if row["task"] < length]
    columns: dict[str, np.ndarray] = {}
    for row in rows:
        for name, value in row.items():
            if name != "task" and type(value) in (int, float):
                if name not in columns:
                    columns[name] = np.full(length, np.nan, np.float32)
                columns[name][row["task"]] = value
    return columns, len(rows)


def save_records(found: Numbers, folder: Path) -> Path:
    """Write what was gathered: ``study.json``, and ``ARM.npz`` for each arm.

    An arm's file has its columns, ``(seeds, tasks)`` float32 each, the seeds, which of them are
    complete, how many rows each has, and the study's digest. Equal numbers give equal bytes.

    Args:
        found: What is written.
        folder: Is made where there is none.

    Returns:
        The folder.

    Raises:
        RecordError: The disk is full or fails.
    """
    from plasticity.results.compact import write_arrays
    from plasticity.results.disk import disk_errors, replace_file

    digest = found.study.digest()
    for arm in found.study.arms:
        columns = {OF_A_COLUMN + name: values for name, values in found.columns[arm].items()}
        about = {
            "digest": np.array(digest),
            "seeds": np.array(found.study.seeds, dtype=np.uint64),
            "complete": found.complete[arm],
            "rows": found.rows[arm],
        }
        if found.diverged_after(arm):
            about["diverged"] = found.diverged[arm]
        write_arrays(folder / f"{record_name(arm)}.npz", about | columns)
    if found.diagnosis is not None:
        save_diagnosis(found.diagnosis, folder / RECORD)
    content = {"digest": digest, "tasks": found.tasks, "study": found.study.json()}
    if found.sources:
        content["sources"] = {name: [*values] for name, values in found.sources.items()}
    with disk_errors(folder / INDEX):
        # Last: with it, all files are there.
        replace_file(folder / INDEX, json.dumps(content, indent=2).encode() + b"\n")
    return folder


def load_records(folder: Path, study: Declaration | None = None) -> Numbers:
    """Read what ``save_records`` wrote, without unpickling anything.

    Args:
        folder: Of the records.
        study: Refuse the records of any other.

    Raises:
        Failure: A file is missing or damaged, or it is of another study, or of this one as it was
            declared otherwise.
    """
    from plasticity.errors import RecordError
    from plasticity.results.compact import read_arrays

    own, tasks, sources = _study_of(folder / INDEX)
    digest = own.digest()
    if study is not None and study.digest() != digest:
        raise Failure(
            f"{folder}: records of {own.name} {digest}, not of {study.name} {study.digest()}"
        )
    columns, rows, complete, failed = {}, {}, {}, {}
    for arm in own.arms:
        path = folder / f"{record_name(arm)}.npz"
        try:
            arrays = read_arrays(path)
            if str(arrays["digest"]) != digest:
                raise Failure(f"{path}: a record of {arrays['digest']!s:.40}, not of {digest}")
            if arrays["seeds"].tolist() != list(own.seeds):
                raise Failure(f"{path}: its seeds are not the study's")
            rows[arm], complete[arm] = arrays["rows"], arrays["complete"]
            failed[arm] = arrays.get("diverged", np.zeros(len(own.seeds), bool))
        except RecordError as error:
            raise Failure(" ".join(str(error).splitlines())) from error
        except KeyError as error:
            raise Failure(f"{path}: it has no {error.args[0]!s:.40}") from error
        columns[arm] = {
            name.removeprefix(OF_A_COLUMN): values
            for name, values in arrays.items()
            if name.startswith(OF_A_COLUMN)
        }
        of_seeds = {
            "rows": (rows[arm], "iu"), "complete": (complete[arm], "b"),
            "diverged": (failed[arm], "b"),
        }  # fmt: skip
        _check_shapes(path, of_seeds, columns[arm], (len(own.seeds), tasks))
    diagnosis = None
    if own.diagnosed:
        try:
            diagnosis = load_diagnosis(folder / RECORD)
        except RecordError as error:
            raise Failure(" ".join(str(error).splitlines())) from error
    # Of the same digest; the one that is asked for knows how many seeds it declares.
    return Numbers(study or own, tasks, columns, rows, complete, failed, sources, diagnosis)


def _check_shapes(
    path: Path,
    of_seeds: Mapping[str, tuple[np.ndarray, str]],
    columns: Mapping[str, np.ndarray],
    shape: tuple[int, int],
) -> None:
    """Refuse arrays that are not as ``save_records`` writes them: numbers of all seeds and tasks.

    Raises:
        Failure: With the first that is not.
    """
    short = {name: (values, kinds, shape[:1]) for name, (values, kinds) in of_seeds.items()}
    of_tasks = {name: (values, "f", shape) for name, values in columns.items()}
    for name, (values, kinds, expected) in (short | of_tasks).items():
        if values.dtype.kind not in kinds or values.shape != expected:
            raise Failure(
                f"{path}: {name:.40} has {values.dtype!s:.40} of shape {values.shape}, which is "
                f"not what a report writes for {shape[0]} seeds and {shape[1]} tasks"
            )


def _study_of(path: Path) -> tuple[Declaration, int, dict[str, list[str]]]:
    """Read a study that ``save_records`` wrote, and check that it is still the same.

    Returns:
        The study, how many tasks its cells are to learn, and what they were trained by.
    """
    from plasticity.results.disk import read_file

    try:
        content = json.loads(read_file(path, MAX_INDEX_BYTES))
        study = Declaration(**_with_tuples(content["study"]))
        written, tasks = content["digest"], int(content["tasks"])
        sources = {
            str(name): [str(value) for value in values]
            for name, values in content.get("sources", {}).items()
        }
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from error
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise Failure(f"{path} cannot be used: {str(error) or type(error).__name__:.80}") from error
    if written != study.digest():
        raise Failure(
            f"{path}: its study has the digest {study.digest()}, its records {written!s:.40}"
        )
    return study, tasks, sources


def _with_tuples(value: Any) -> Any:
    """Return what JSON gave back, its lists as tuples."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
