"""What the cells of a study recorded, as arrays: of run folders, or of small files of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity.errors import Failure
from plasticity.results.names import record_name
from plasticity.results.reading import recorded
from plasticity.studies.cells import Cell, Place, cells, folder_of, is_complete, num_tasks
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
        complete: By arm, ``(seeds,)``: which seeds have learned all that the study asks for.
        diagnosis: What was diagnosed of them; None where the study asks for nothing.
    """

    study: Declaration
    tasks: int
    columns: Mapping[str, Mapping[str, np.ndarray]]
    rows: Mapping[str, np.ndarray]
    complete: Mapping[str, np.ndarray]
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

    def missing(self) -> list[tuple[str, int, int]]:
        """Return arm, seed and number of rows of each cell that is not complete."""
        return [
            (arm, seed, int(count))
            for arm in self.study.arms
            for seed, count, complete in zip(
                self.study.seeds, self.rows[arm], self.complete[arm], strict=True
            )
            if not complete
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
    length = num_tasks(study)
    undefined = np.full(length, np.nan, np.float32)
    columns, rows, complete = {}, {}, {}
    for arm in study.arms:
        mine = [of_cells[arm, seed] for seed in study.seeds]
        # One cell at a time: the rows of all would fill the memory.
        of_seeds = [_arrays(cell, results, length) for cell in mine]
        columns[arm] = {
            name: np.stack([of_seed.get(name, undefined) for of_seed, _ in of_seeds])
            for name in dict.fromkeys(name for of_seed, _ in of_seeds for name in of_seed)
        }
        rows[arm] = np.array([count for _, count in of_seeds])
        complete[arm] = np.array(
            [
                count >= 0 and is_complete(cell, results)
                for cell, (_, count) in zip(mine, of_seeds, strict=True)
            ]
        )
    return Numbers(study, length, columns, rows, complete)


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
        write_arrays(folder / f"{record_name(arm)}.npz", about | columns)
    if found.diagnosis is not None:
        save_diagnosis(found.diagnosis, folder / RECORD)
    content = {"digest": digest, "tasks": found.tasks, "study": found.study.json()}
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

    own, tasks = _study_of(folder / INDEX)
    digest = own.digest()
    if study is not None and study.digest() != digest:
        raise Failure(
            f"{folder}: records of {own.name} {digest}, not of {study.name} {study.digest()}"
        )
    columns, rows, complete = {}, {}, {}
    for arm in own.arms:
        path = folder / f"{record_name(arm)}.npz"
        try:
            arrays = read_arrays(path)
            if str(arrays["digest"]) != digest:
                raise Failure(f"{path}: a record of {arrays['digest']!s:.40}, not of {digest}")
            if arrays["seeds"].tolist() != list(own.seeds):
                raise Failure(f"{path}: its seeds are not the study's")
            rows[arm], complete[arm] = arrays["rows"], arrays["complete"]
        except RecordError as error:
            raise Failure(" ".join(str(error).splitlines())) from error
        except KeyError as error:
            raise Failure(f"{path}: it has no {error.args[0]!s:.40}") from error
        columns[arm] = {
            name.removeprefix(OF_A_COLUMN): values
            for name, values in arrays.items()
            if name.startswith(OF_A_COLUMN)
        }
        _check_shapes(path, rows[arm], complete[arm], columns[arm], (len(own.seeds), tasks))
    diagnosis = None
    if own.diagnosed:
        try:
            diagnosis = load_diagnosis(folder / RECORD)
        except RecordError as error:
            raise Failure(" ".join(str(error).splitlines())) from error
    return Numbers(own, tasks, columns, rows, complete, diagnosis)


def _check_shapes(
    path: Path,
    rows: np.ndarray,
    complete: np.ndarray,
    columns: Mapping[str, np.ndarray],
    shape: tuple[int, int],
) -> None:
    """Refuse arrays that are not as ``save_records`` writes them: numbers of all seeds and tasks.

    Raises:
        Failure: With the first that is not.
    """
    of_seeds = {"rows": (rows, "iu", shape[:1]), "complete": (complete, "b", shape[:1])}
    of_tasks = {name: (values, "f", shape) for name, values in columns.items()}
    for name, (values, kinds, expected) in (of_seeds | of_tasks).items():
        if values.dtype.kind not in kinds or values.shape != expected:
            raise Failure(
                f"{path}: {name:.40} has {values.dtype!s:.40} of shape {values.shape}, which is "
                f"not what a report writes for {shape[0]} seeds and {shape[1]} tasks"
            )


def _study_of(path: Path) -> tuple[Declaration, int]:
    """Read a study that ``save_records`` wrote, and check that it is still the same.

    Returns:
        The study, and how many tasks its cells are to learn.
    """
    from plasticity.results.disk import read_file

    try:
        content = json.loads(read_file(path, MAX_INDEX_BYTES))
        study = Declaration(**_with_tuples(content["study"]))
        written, tasks = content["digest"], int(content["tasks"])
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
    return study, tasks


def _with_tuples(value: Any) -> Any:
    """Return what JSON gave back, its lists as tuples."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
