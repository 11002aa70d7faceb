"""Diagnosing recorded runs: what cures an aged learner. Nothing of the runs is changed.

A branch copies a learner as it was kept, intervenes once, and learns the next tasks. All branches
of an age learn the same tasks from the same batches, so that they can be compared, seed by seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plasticity.errors import InUse, RecordError, UsageError
from plasticity.interventions import INTERVENTIONS, REFERENCES, USUAL, parse
from plasticity.protocol.experiment import Definition
from plasticity.results.names import arm_name, config_hash
from plasticity.results.record import RunFolder
from plasticity.runs.branches import AgedArm, Branch, BranchRow, Nursery, Source, ages_of
from plasticity.runs.progress import progress_bar
from plasticity.runs.restore import find_arms

ROWS = "diagnosis.jsonl"
LOCK = "diagnosis.lock"
TASKS = 10
"""That a branch learns where nothing is said."""
NUMBERS = {"age": int, "seed": int, "task": int, "test_accuracy": float}
WORDS = ("run", "arm", "folder", "intervention")


@dataclass(frozen=True)
class Planned:
    """All is checked, and nothing is written yet.

    Attributes:
        branches: All that are asked for.
        missing: Those of them that are not in the file.
        left_out: Why an intervention is not done, by arm and name.
        privileged: The names of interventions that see samples of the next task.
        remarks: What there is to say of the data of arms.
    """

    branches: tuple[Branch, ...]
    missing: tuple[Branch, ...]
    left_out: Mapping[str, Mapping[str, str]]
    privileged: frozenset[str]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grown:
    """A branch is in the file.

    Attributes:
        branch: Which.
        rows: A row for each task that it learned.
    """

    branch: Branch
    rows: Sequence[BranchRow]


@dataclass(frozen=True)
class Diagnosis:
    """What branches of aged learners learned.

    Attributes:
        rows: One a branch and task, as ``diagnosis.jsonl`` has them.
        path: The file.
        privileged: The names of interventions that see samples of the next task.
    """

    rows: tuple[BranchRow, ...]
    path: Path
    privileged: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Diagnosis({len(self.rows)} rows, {str(self.path)!r})"

    @property
    def cases(self) -> list[tuple[str, int]]:
        """Return arms and ages, each once."""
        return list(dict.fromkeys((row["folder"], row["age"]) for row in self.rows))

    def interventions(self, arm: str, age: int) -> list[str]:
        """Return the names of what was done to an arm at an age."""
        of_case = [row for row in self.rows if self._is_of(row, arm, age)]
        return list(dict.fromkeys(row["intervention"] for row in of_case))

    def column(
        self, arm: str, age: int, intervention: str, name: str = "test_accuracy"
    ) -> np.ndarray:
        """Return a column, ``(seeds, tasks)`` float64; NaN where a row lacks it.

        Args:
            arm: Its name, or that of its folder.
            age: Of the learner.
            intervention: Its name, with all options.
            name: Of the column.
        """
        found: dict[int, list[float]] = {}
        for row in self.of(arm, age, intervention):
            found.setdefault(row["seed"], []).append(float(row.get(name, np.nan)))
        return np.array([found[seed] for seed in sorted(found)])

    def of(self, arm: str, age: int, intervention: str) -> list[BranchRow]:
        """Return the rows of what was done to an arm at an age, of all seeds."""
        rows = (row for row in self.rows if self._is_of(row, arm, age))
        return [row for row in rows if row["intervention"] == intervention]

    def arm_of(self, folder: str) -> str:
        """Return the name of the arm that a folder is of."""
        return next(str(row["arm"]) for row in self.rows if row["folder"] == folder)

    def seeds(self, arm: str, age: int) -> list[int]:
        """Return the seeds of an arm at an age."""
        return sorted({row["seed"] for row in self.rows if self._is_of(row, arm, age)})

    @staticmethod
    def _is_of(row: BranchRow, arm: str, age: int) -> bool:
        return arm in (row["arm"], row["folder"]) and row["age"] == age


def diagnose(
    experiment: Definition[Any],
    folders: Sequence[RunFolder],
    *,
    arms: Sequence[str] = (),
    at: Sequence[int | str] = ("last",),
    tasks: int = TASKS,
    interventions: Sequence[str] = (),
    dataset: str | None = None,
    data_root: Path = Path("~/.cache/plasticity"),
    out: Path | None = None,
    workers: int = 1,
    modules: Sequence[str] = (),
    show: bool = True,
) -> Generator[Planned | Grown, None, Diagnosis]:
    """Grow the branches that are missing; yield the plan, then each branch; return all rows.

    Args:
        experiment: Which the runs are of.
        folders: Runs that differ in nothing but the seed.
        arms: Names of arms, or of their folders; none: all that can be diagnosed.
        at: Ages: how many tasks the learner has learned, or ``last``.
        tasks: How many a branch learns.
        interventions: By name; none: the usual ones that fit an arm. The references ``none`` and
            ``untrained`` are always among them.
        dataset: The runs' data set, if its file lies elsewhere now.
        data_root: Folder of data sets that are downloaded or computed.
        out: Folder that gets the file; by default the first run's.
        workers: Processes; 1: this one.
        modules: That those import first.
        show: A progress bar.

    Raises:
        UsageError: There is no such arm, age or intervention, or one does not fit the arm.
        Failure: A run cannot be used, or the data is not the run's.
        RecordError: What is recorded is damaged, or cannot be written.
        InUse: Another process diagnoses into the same folder.
    """
    if not experiment.metrics:
        raise UsageError(f"{folders[0].path}: runs of {experiment.name} have no tasks to branch at")
    if not 1 <= tasks <= 10_000:
        raise UsageError(f"--tasks {tasks}: must be 1 to 10000")
    if not 1 <= workers <= 1024:
        raise UsageError(f"--workers {workers}: must be 1 to 1024")
    if isinstance(interventions, str) or isinstance(at, str):
        raise UsageError("a list of names, such as ['rate:first']")
    source = Source(experiment, dataset, data_root)
    there = {folder.path: folder.arms() for folder in folders}
    out = folders[0].path if out is None else out
    plan = _plan(source, folders, there, arms, at, tasks, interventions)
    rows = BranchRows(out)
    missing = tuple(branch for branch in plan.branches if not rows.has(branch))
    plan = dataclasses.replace(plan, missing=missing)
    yield plan
    if missing:
        longest = max(branch.age + branch.tasks for branch in plan.branches)
        with rows.locked(), _bar(plan, show) as bar:
            grown = _grow(source, missing, longest, workers, modules)
            with contextlib.closing(grown):
                for branch, of_branch in grown:
                    rows.add(branch, of_branch)
                    bar.update()
                    yield Grown(branch, of_branch)
    return Diagnosis(rows.of(plan.branches), out / ROWS, plan.privileged)


def _bar(plan: Planned, show: bool) -> Any:
    total = len(plan.branches)
    return progress_bar(
        total=total, initial=total - len(plan.missing), desc="diagnose", unit="branch",
        disable=not show,
    )  # fmt: skip


def _grow(
    source: Source, branches: Sequence[Branch], longest: int, workers: int, modules: Sequence[str]
) -> Generator[tuple[Branch, list[BranchRow]], None, None]:
    if workers > 1 and len(branches) > 1:
        from plasticity.runs.branch_workers import grow_all

        yield from grow_all(source, branches, longest, min(workers, len(branches)), modules)
        return
    nursery = Nursery(source, longest)
    for branch in branches:
        yield branch, nursery.grow(branch)


def _plan(
    source: Source,
    folders: Sequence[RunFolder],
    there: Mapping[Path, Mapping[Path, Mapping[str, Any]]],
    arms: Sequence[str],
    at: Sequence[int | str],
    tasks: int,
    interventions: Sequence[str],
) -> Planned:
    """Return what is to be grown, with all of it checked."""
    names = list(dict.fromkeys(parse(text)[0] for text in (*REFERENCES, *interventions)))
    wanted = {name: parse(name)[1] for name in (names if interventions else USUAL)}
    left_out: dict[str, dict[str, str]] = {}
    branches: list[Branch] = []
    fits: set[str] = set(REFERENCES)
    remarks: dict[str, None] = {}
    ends: dict[str, dict[int, str]] = {}
    for folder in folders:
        chosen = find_arms(source.experiment, there[folder.path], arms, "experiments.diagnose")
        for path, of_arm in chosen.items():
            why = _why_not(path, of_arm.log_spaced)
            if why and arms:
                raise UsageError(f"--arms {arm_name(path)}: {why}")
            if why:
                left_out.setdefault(arm_name(path), {})["all"] = why
                continue
            arm = _checked_arm(source, folder, path, at, tasks)
            ages = ages_of(arm, at)
            if arm.remark:
                remarks[f"{arm.name}: {arm.remark}"] = None
            if "last" in at:
                ends.setdefault(path.name, {})[arm.ages[-1]] = folder.path.name
            for name, intervention in wanted.items():
                if reason := arm.unfit(intervention) or _is_said_twice(arm, name, interventions):
                    if arms and interventions:
                        raise UsageError(f"--interventions {name}: {arm.name}: {reason}")
                    left_out.setdefault(arm.name, {})[name] = reason
                    continue
                fits.add(name)
                place = str(folder.path), config_hash(folder.config)[:8], path.name
                branches += [Branch(*place, age, name, tasks) for age in ages]
    for name, found in ends.items():
        if len(found) > 1:
            text = " and ".join(f"{age} ({run})" for age, run in found.items())
            raise UsageError(f"--at last: {name} has learned {text} tasks; name an age")
    if not branches:
        raise UsageError(f"{folders[0].path}: no arm has finished a task of its own to branch at")
    if unfit := [name for name in names if name not in fits]:
        reasons = "; ".join(f"{a}: {of[unfit[0]]}" for a, of in left_out.items() if unfit[0] in of)
        raise UsageError(f"--interventions {unfit[0]}: it fits no arm: {reasons}")
    privileged = frozenset(name for name, i in wanted.items() if i.privileged)
    # Branches of one arm stand together: a process keeps the arm of its last branch.
    return Planned(tuple(branches), (), left_out, privileged, tuple(remarks))


def _why_not(path: Path, log_spaced: bool) -> str:
    """Return why an arm cannot be diagnosed at all, or nothing."""
    if log_spaced:
        return "it begins each task with a new network and never ages"
    if not (path / "checkpoint.pt").exists():
        return "no task is finished yet"
    return ""


def _checked_arm(
    source: Source, folder: RunFolder, path: Path, at: Sequence[int | str], tasks: int
) -> AgedArm:
    """Return an arm all of whose states that are needed could be read."""
    from plasticity.results.reading import finished_rows

    longest = max([len(finished_rows(path)), *(int(a) for a in at if str(a).isdecimal())]) + tasks
    arm = AgedArm(source, folder, path, longest)
    for age in ages_of(arm, at):
        arm.aged(age)
    return arm


def _is_said_twice(arm: AgedArm, name: str, said: Sequence[str]) -> str:
    """Return why one of the usual interventions is left out: the last layer is the first."""
    from plasticity.networks.layers import layers_of

    one_layer = len(layers_of(arm.ready.learner.network)) == 1
    return "its last layer is its first" if not said and one_layer and "last" in name else ""


class BranchRows:
    """The rows of ``diagnosis.jsonl``, always in the same order, whoever wrote them when.

    Args:
        folder: Of the file.

    Raises:
        RecordError: The file was edited.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ROWS
        self._rows: dict[tuple[str, str, int, str], list[BranchRow]] = {}
        self._read()

    def _read(self) -> None:
        from plasticity.results.disk import disk_errors
        from plasticity.results.files import parse_lines, read_lines

        with disk_errors(self.path):
            found = parse_lines(read_lines(self.path), self.path)
        self._rows = {}
        for row in found:
            if not _is_sound(row):
                raise RecordError(
                    f"{self.path} was edited, or another version wrote it.\n"
                    "Remove it and diagnose again, or name another folder with --out."
                )
            key = (row["run"], row["folder"], row["age"], row["intervention"])
            self._rows.setdefault(key, []).append(row)

    def has(self, branch: Branch) -> bool:
        """Tell whether a branch has all its rows."""
        return len(self._rows.get(_key(branch), [])) >= branch.tasks

    def of(self, branches: Sequence[Branch]) -> tuple[BranchRow, ...]:
        """Return the rows of branches, in the order of the branches."""
        return tuple(row for b in branches for row in self._rows.get(_key(b), [])[: b.tasks])

    def all(self) -> list[BranchRow]:
        """Return all rows of the file."""
        return [row for rows in self._rows.values() for row in rows]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the file, and read what they wrote before.

        Raises:
            InUse: One has it just now.
        """
        import filelock

        from plasticity.results.disk import disk_errors, lock_of, make_folder

        with disk_errors(self.path.parent):
            make_folder(self.path.parent)
            lock = lock_of(self.path.parent / LOCK)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                raise InUse(
                    f"{self.path} is written by another process.\nWait for it, or stop it."
                ) from None
        try:
            self._read()
            yield
        finally:
            lock.release()

    def add(self, branch: Branch, rows: Sequence[BranchRow]) -> None:
        """Put a branch's rows into the file, which is replaced in one step."""
        from plasticity.results.disk import disk_errors, replace_file

        self._rows[_key(branch)] = [*rows]
        places = {name: place for place, name in enumerate(INTERVENTIONS)}

        def order(key: tuple[str, str, int, str]) -> tuple[Any, ...]:
            (first, *_) = self._rows[key]
            kind = key[3].partition(":")[0].partition("+")[0]
            return key[1], first["seed"], key[0], key[2], places.get(kind, len(places)), key[3]

        lines = (
            json.dumps(row).encode() + b"\n"
            for key in sorted(self._rows, key=order)
            for row in self._rows[key]
        )
        with disk_errors(self.path):
            replace_file(self.path, b"".join(lines))


def _key(branch: Branch) -> tuple[str, str, int, str]:
    return branch.config, branch.arm, branch.age, branch.intervention


def _is_sound(row: Mapping[str, Any]) -> bool:
    return all(isinstance(row.get(name), str) for name in WORDS) and all(
        isinstance(row.get(name), int | kind) and not isinstance(row.get(name), bool)
        for name, kind in NUMBERS.items()
    )
