"""A study is a value: which arms learn which tasks with which seeds, and what is asked of them.

Its cells are commands that anybody can type. The run folders that these write are the only state of
a study: a cell is complete where its record has all rows, whoever trained it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.parts import cli
from experiments.parts.arms import record_name
from experiments.parts.experiment import Experiment, TaskOptions, UsageError
from experiments.parts.finding import contents_of, names_content, recorded_identity

if TYPE_CHECKING:
    from experiments.parts.arms import ArmConfig
    from experiments.parts.training import Row

EXPERIMENTS = ("cifar", "mnist", "qdata")
"""Those with tasks."""
OF_A_CELL = (
    "-h", "--help", "--preset", "--arms", "--seed", "--threads", "--metrics", "--results",
    "--overwrite",
)  # fmt: skip
"""What each cell says itself, or must not say."""


@dataclass(frozen=True)
class Study:
    """Say what is trained and what is claimed, before any of it is trained.

    Attributes:
        name: On the command line, and of the folder of its report.
        question: What it is to answer, in one or two sentences.
        experiment: mnist, qdata or cifar.
        preset: Of the experiment.
        arms: As of ``--arms``: names of networks, each with remedies after a plus.
        seeds: Those that are evaluated.
        options: Further words of the command line of all cells, say ``("--num-tasks", "60")``.
        of_arms: Words for one arm only, by its name.
        metrics: As of ``--metrics``; none: the preset's.
        drop_margin: Loss of accuracy over the run that is called none, a part of 1.
        slope_margin: The same for the trend, per 100 tasks.
        compared: Pairs of an arm and its reference, for claims on paired differences.
        tuning_seeds: Those that ``--tune`` takes; never among ``seeds``.
        rates: Learning rates that ``--tune`` tries for each arm whose remedies name no option.
        tuning_values: What it tries instead, by arm and option: ``{"mlp+redo": {"redo.every":
            (79, 790)}}``.

    Raises:
        ValueError: Something of it cannot be trained or claimed; one line.
    """

    name: str
    question: str
    experiment: str
    preset: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    options: tuple[str, ...] = ()
    of_arms: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    metrics: tuple[str, ...] = ()
    drop_margin: float = 0.01
    slope_margin: float = 0.001
    compared: tuple[tuple[str, str], ...] = ()
    tuning_seeds: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    tuning_values: Mapping[str, Mapping[str, tuple[float, ...]]] = field(
        default_factory=dict, hash=False
    )

    def __post_init__(self) -> None:
        self._check_kinds()
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name):
            raise ValueError(f"study {self.name!r}: a name of letters, digits, - and _")
        for problem in self._problems():
            raise ValueError(f"study {self.name}: {problem}")

    def _check_kinds(self) -> None:
        """Refuse values of another kind, such as a word in place of a tuple of words.

        Raises:
            ValueError: Says which, and what it should be.
        """
        words, numbers = "words", "numbers"
        of_kind = {
            "arms": words, "options": words, "metrics": words, "seeds": numbers,
            "tuning_seeds": numbers, "rates": numbers,
        }  # fmt: skip
        given = {name: getattr(self, name) for name in of_kind}
        if not isinstance(self.of_arms, Mapping):
            raise ValueError(f"of_arms {self.of_arms!r:.60}: must be a dictionary, of arms")
        for arm, options in self.of_arms.items():
            given[f"of_arms[{arm!r}]"], of_kind[f"of_arms[{arm!r}]"] = options, words
        for name, kind in of_kind.items():
            values = given[name]
            is_right = isinstance(values, tuple | list) and all(
                isinstance(value, str) if kind is words else isinstance(value, int | float)
                for value in values
            )
            if not is_right:
                example = '("a", "b")' if kind is words else "(0, 1)"
                raise ValueError(f"{name} {values!r:.60}: must be a tuple of {kind}, as {example}")
        for pair in self.compared if isinstance(self.compared, tuple | list) else [None]:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ValueError(
                    f"compared {self.compared!r:.60}: must be a tuple of pairs of arms"
                )
        for name in ("drop_margin", "slope_margin"):
            if not isinstance(getattr(self, name), int | float):
                raise ValueError(f"{name} {getattr(self, name)!r:.60}: must be a number")

    def _problems(self) -> Iterable[str]:
        """Yield what is wrong; the first is asked for."""
        if self.experiment not in EXPERIMENTS:
            yield f"experiment {self.experiment!r}: must be one of {', '.join(EXPERIMENTS)}"
        for what, values in (
            ("arms", self.arms), ("seeds", self.seeds), ("tuning_seeds", self.tuning_seeds),
            ("rates", self.rates), ("compared", self.compared),
        ):  # fmt: skip
            if twice := [v for k, v in enumerate(values) if v in values[:k]]:
                yield f"{what}: {twice[0]} is there twice"
        if not self.arms or not self.seeds:
            yield f"{'seeds' if self.arms else 'arms'}: at least one"
        for seed in (*self.seeds, *self.tuning_seeds):
            if type(seed) is not int or not 0 <= seed < 2**64:
                yield f"seed {seed}: must be 0 to 2**64 - 1"
        if both := {*self.seeds} & {*self.tuning_seeds}:
            yield f"tuning_seeds: {min(both)} is among the seeds that are evaluated"
        for what in ("drop_margin", "slope_margin"):
            if not 0 < getattr(self, what) < math.inf:
                yield f"{what} {getattr(self, what)}: must be above 0"
        for rate in self.rates:
            if not 0 < rate < math.inf:
                yield f"rates: {rate} must be above 0"
        for arm in (*self.of_arms, *self.tuning_values, *itertools.chain(*self.compared)):
            if arm not in self.arms:
                yield f"{arm} is not among its arms"
        for word in (*self.options, *itertools.chain(*self.of_arms.values())):
            if word.partition("=")[0] in OF_A_CELL:
                yield f"{word}: a study's options cannot say it"
        try:
            for metric in self.metrics:
                from experiments.parts.supervised import find_metric  # takes seconds

                find_metric(metric)
            for arm in self.arms:
                read(self.experiment, (*words_of(self, arm), "--seed", str(self.seeds[0])))
            for arm, options in self.tuning_values.items():
                for option, values in options.items():
                    if not values:
                        yield f"tuning_values: {arm} {option} has no values"
                    for value in values:
                        read(
                            self.experiment,
                            (*words_of(self, arm), f"--{arm}.{option}", repr(value)),
                        )
        except UsageError as error:
            yield str(error)

    def digest(self) -> str:
        """Return 16 hexadecimal digits that stand for all that is declared, margins included."""
        declared = dataclasses.asdict(self)
        if not self.tuning_values:  # a later field: studies without it keep their digest
            del declared["tuning_values"]
        content = json.dumps(declared, sort_keys=True, allow_nan=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def with_seeds(self, number: int) -> Study:
        """Return the study with so many seeds: its first ones, then those that follow its largest.

        Raises:
            ValueError: It is not positive.
        """
        if number < 1:
            raise ValueError(f"{number} seeds: at least 1")
        further = itertools.count(max(self.seeds) + 1)
        others = (seed for seed in further if seed not in self.tuning_seeds)
        seeds = itertools.islice(itertools.chain(self.seeds, others), number)
        return dataclasses.replace(self, seeds=tuple(seeds))


@dataclass(frozen=True)
class Cell:
    """One arm of a study with one seed."""

    study: Study
    arm: str
    seed: int

    def command(self, results: Path) -> list[str]:
        """Return the very words that a user would type.

        They find modules in the working directory (no -P) only where this process does. The script
        ``plasticity`` does not, so a folder there may be called ``experiments``, too.
        """
        of_seed = ["--seed", str(self.seed), "--results", str(results)]
        module = f"experiments.{self.study.experiment}"
        run = "-m" if finds_modules_here() else "-Pm"
        return [sys.executable, run, module, *words_of(self.study, self.arm), *of_seed]


def finds_modules_here() -> bool:
    """Return whether Python looks for modules in the working directory."""
    here = os.getcwd()
    return any(os.path.abspath(path) == here for path in sys.path)


def cells(study: Study) -> list[Cell]:
    """Return the cells of a study, all arms of a seed before the next seed."""
    return [Cell(study, arm, seed) for seed in study.seeds for arm in study.arms]


def rows_of(cell: Cell, results: Path) -> list[Row]:
    """Return the rows that are recorded of a cell, also while they are written; or none.

    Raises:
        RecordError: They were edited.
        DataError: The data, whose hash the folder is named after, cannot be had.
    """
    from plasticity.results.disk import disk_errors
    from plasticity.results.files import read_rows

    folder = folder_of(cell, results)
    with disk_errors(folder):
        return read_rows(folder) if folder.is_dir() else []


def is_complete(cell: Cell, results: Path) -> bool:
    """Return whether a cell has all its rows. What cannot be read has not: its command says why."""
    return tasks_left(cell, results) == 0


def tasks_left(cell: Cell, results: Path) -> int:
    """Return how many tasks a cell still has to learn."""
    from plasticity.results.disk import RecordError

    experiment, _, _, config, arm = parts_of(cell)
    total = experiment.progress.total(config)
    try:
        rows = rows_of(cell, results)
    except RecordError:
        rows = []
    done = experiment.progress.done(rows[-1]) if rows else 0
    return sum(task >= done for task in arm.tasks(total)) if done < arm.end(total) else 0


def bits_of(some: Iterable[Cell], results: Path) -> str:
    """Return in a line that cells were trained on computed data of different bits; or nothing."""
    from plasticity.results.disk import RecordError
    from plasticity.results.files import read_config

    count: collections.Counter[str] = collections.Counter()
    for cell in some:
        if names_content(parts_of(cell)[3]):
            return ""
        folder = folder_of(cell, results)
        with contextlib.suppress(RecordError):
            count.update(contents_of(folder, read_config(folder.parent / "config.json")))
    if len(count) < 2:
        return ""
    told = ", ".join(f"{number} of {content[:15]}" for content, number in count.most_common())
    return (
        f"cells were trained on states that {len(count)} processors or libraries rounded "
        f"otherwise: {told}"
    )


def folder_of(cell: Cell, results: Path) -> Path:
    """Return where a cell's record is or will be; nothing is made or locked there."""
    from plasticity.results.files import folder_name
    from plasticity.results.record import run_path

    experiment, preset, _, config, arm = parts_of(cell)
    # What is computed has a name without being computed.
    data = data_of(cell) if names_content(config) else None
    arms = {cell.arm: arm}
    identity = recorded_identity(experiment, preset, config, data, arms, results)
    run = run_path(results, experiment.run_prefix(preset, config), identity)
    return run / folder_name(record_name(cell.arm), arm.json())


def data_of(cell: Cell) -> Any:
    """Return the data of a cell, which is loaded or computed once for a study.

    Raises:
        DataError: It cannot be had.
    """
    experiment, _, data_root, config, _ = parts_of(cell)
    shared = dataclasses.replace(config, seed=0, **{experiment.progress.length: 1})
    return load(experiment.name, shared, data_root)


def parts_of(cell: Cell) -> tuple[Experiment[Any], str, Path, Any, ArmConfig]:
    """Return a cell's experiment, preset, folder of data, config and arm."""
    # Cells of an arm differ in the seed alone; reading a command line takes a while.
    words = (*words_of(cell.study, cell.arm), "--seed", str(cell.study.seeds[0]))
    preset, options, config, arms = read(cell.study.experiment, words)
    (arm,) = arms.values()
    config = dataclasses.replace(config, seed=cell.seed)
    return experiment_of(cell.study.experiment), preset, options.data_root, config, arm


def words_of(study: Study, arm: str) -> tuple[str, ...]:
    """Return the words that all cells of an arm have in common."""
    return (
        "--preset", study.preset, "--arms", arm, "--threads", "1",
        *study.options, *study.of_arms.get(arm, ()),
        *(["--metrics", *study.metrics] if study.metrics else []),
    )  # fmt: skip


def experiment_of(name: str) -> Experiment[Any]:
    """Return an experiment by the name of its command."""
    found: Experiment[Any] = importlib.import_module(f"experiments.{name}").EXPERIMENT
    return found


@functools.cache
def read(experiment: str, words: tuple[str, ...]) -> Any:
    """Return what ``cli.parse`` does, once for the same words."""
    return cli.parse(experiment_of(experiment), words)


@functools.cache
def load(experiment: str, config: Any, data_root: Path) -> Any:
    """Load the data of a study, once."""
    options = TaskOptions(arms=(), data_root=data_root)
    return experiment_of(experiment).load(config, options)
