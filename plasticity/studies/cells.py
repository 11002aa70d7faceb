"""The cells of a study: one arm with one seed each.

The run folders that cells write are the only state of a study: a cell is complete where its record
has all rows, whoever trained it. A cell is trained by the very command that a user would type,
which is derived from the study's values.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasticity.errors import RecordError
from plasticity.protocol.choices import Choice, choose, with_settings
from plasticity.protocol.experiment import Definition
from plasticity.protocol.names import EXPERIMENTS, find_experiment
from plasticity.protocol.options import TaskOptions
from plasticity.protocol.trainer import Row
from plasticity.results.names import folder_name, record_name
from plasticity.runs.places import contents_of, names_content, recorded_identity
from plasticity.studies.declaration import Declaration


@dataclass(frozen=True)
class Place:
    """Where the data of a study lies; it decides no number.

    Attributes:
        dataset: Name or file of the data set, in place of the study's; None: the study's.
        data_root: Folder of data sets that are downloaded or computed; None: the default.
    """

    dataset: str | None = None
    data_root: Path | None = None


@dataclass(frozen=True)
class Cell:
    """One arm of a study with one seed.

    Attributes:
        study: Whose cell it is.
        arm: Its name.
        seed: One of the study's.
        place: Where its data lies.
    """

    study: Declaration
    arm: str
    seed: int
    place: Place = Place()

    @property
    def experiment(self) -> Definition[Any]:
        """Return the experiment that the cell runs."""
        return find_experiment(self.study.experiment)

    @property
    def choice(self) -> Choice:
        """Return what the cell trains."""
        choice = _choice_of_arm(self.study, self.arm)
        changed: dict[str, Any] = {"seed": self.seed}
        if self.place.dataset is not None:
            changed["dataset"] = self.place.dataset
        config = with_settings(choice.config, changed)
        return dataclasses.replace(choice, config=config)

    def command(self, results: Path) -> list[str]:
        """Return the very words that a user would type.

        They find modules in the working directory (no -P) only where this process does. The script
        ``plasticity`` does not, so a folder there may be called ``experiments``, too.
        """
        study, name = self.study, self.study.experiment
        of_arm = study.options_of(self.arm)
        program = [f"experiments.{name}"] if name in EXPERIMENTS else ["experiments", name]
        return [
            sys.executable, "-m" if finds_modules_here() else "-Pm", *program,
            *(["--import", *study.modules] if study.modules else []),
            "--preset", study.preset, "--arms", self.arm, "--threads", "1",
            *(w for option, value in study.settings.items() for w in words(option, value)),
            *(w for option, value in of_arm.items() for w in words(f"{self.arm}.{option}", value)),
            *(["--metrics", *study.metrics] if study.metrics else []),
            *(["--dataset", self.place.dataset] if self.place.dataset is not None else []),
            *(["--data-root", str(self.place.data_root)] if self.place.data_root else []),
            "--seed", str(self.seed), "--results", str(results),
        ]  # fmt: skip


def finds_modules_here() -> bool:
    """Return whether Python looks for modules in the working directory."""
    here = os.getcwd()
    return any(os.path.abspath(path) == here for path in sys.path)


def words(option: str, value: Any) -> list[str]:
    """Return an option with its value as one types it."""
    option = option.replace("_", "-")
    if isinstance(value, bool):
        group, dot, last = option.rpartition(".")
        return [f"--{option}" if value else f"--{group}{dot}no-{last}"]
    values = value if isinstance(value, list | tuple) else [value]
    return [f"--{option}", *(v if isinstance(v, str) else repr(v) for v in values)]


def cells(study: Declaration, place: Place | None = None) -> list[Cell]:
    """Return the cells of a study, all arms of a seed before the next seed."""
    place = place or Place()
    return [
        Cell(study, arm, seed, place)
        for seed in study.seeds
        for arm in study.arms
        if seed in study.seeds_of(arm)
    ]


def rows_of(cell: Cell, results: Path) -> list[Row]:
    """Return the rows that are recorded of a cell, also while they are written; or none.

    Raises:
        RecordError: They were edited.
        DataError: The data, whose hash the folder is named after, cannot be had.
    """
    from plasticity.results.disk import disk_errors
    from plasticity.results.files import read_rows

    with disk_errors(results):
        folder = folder_of(cell, results)
        return read_rows(folder) if folder.is_dir() else []


def is_complete(cell: Cell, results: Path) -> bool:
    """Return whether a cell has all its rows, or has diverged, which its command would do again.

    What cannot be read has not: its command says why.
    """
    return tasks_left(cell, results) == 0 or diverged(cell, results)


def diverged(cell: Cell, results: Path) -> bool:
    """Return whether the task after a cell's last row was tried, and diverged."""
    from plasticity.results.reading import has_diverged

    try:
        return has_diverged(folder_of(cell, results), len(rows_of(cell, results)))
    except RecordError:
        return False


def tasks_left(cell: Cell, results: Path) -> int:
    """Return how many tasks a cell still has to learn."""
    experiment, choice = cell.experiment, cell.choice
    arm = choice.arms[cell.arm]
    total = experiment.progress.total(choice.config)
    try:
        rows = rows_of(cell, results)
    except RecordError:
        rows = []
    done = experiment.progress.done(rows[-1]) if rows else 0
    return sum(task >= done for task in arm.tasks(total)) if done < arm.end(total) else 0


def bits_of(some: Iterable[Cell], results: Path) -> str:
    """Return in a line that cells were trained on computed data of different bits; or nothing."""
    from plasticity.results.files import read_config

    count: collections.Counter[str] = collections.Counter()
    for cell in some:
        if names_content(cell.choice.config):
            return ""
        folder = folder_of(cell, results)
        with contextlib.suppress(RecordError):
            count.update(contents_of(folder, read_config(folder.parent / "config.json")))
    if len(count) < 2:
        return ""
    shares = ", ".join(f"{number} of {content[:15]}" for content, number in count.most_common())
    return (
        f"cells were trained on states that {len(count)} processors or libraries rounded "
        f"otherwise: {shares}"
    )


def folder_of(cell: Cell, results: Path) -> Path:
    """Return where a cell's record is or will be; nothing is made or locked there."""
    from plasticity.results.record import run_path

    experiment, choice = cell.experiment, cell.choice
    # What is computed has a name without being computed.
    data = data_of(cell) if names_content(choice.config) else None
    results = results.expanduser()
    identity = recorded_identity(
        experiment, choice.preset, choice.config, data, choice.arms, results
    )
    run = run_path(results, experiment.run_prefix(choice.preset, choice.config), identity)
    return run / folder_name(record_name(cell.arm), choice.arms[cell.arm].json())


def data_of(cell: Cell) -> Any:
    """Return the data of a cell, which is loaded or computed once for a study.

    Raises:
        DataError: It cannot be had.
    """
    shared = {"seed": 0, cell.experiment.progress.length: 1}
    config = dataclasses.replace(cell.choice.config, **shared)
    return _load(cell.study.experiment, config, cell.place.data_root)


def check_metrics(study: Declaration) -> None:
    """Refuse metrics that are not there; they are looked up here, since that imports torch.

    Raises:
        UsageError: With those that are.
    """
    from plasticity.protocol.supervised import find_metric

    for metric in study.metrics:
        find_metric(metric)


def num_tasks(study: Declaration) -> int:
    """Return how many tasks each cell of a study is to learn."""
    cell = Cell(study, study.arms[0], study.seeds[0])
    return cell.experiment.progress.total(cell.choice.config)


def _choice_of_arm(study: Declaration, arm: str) -> Choice:
    of_arm = {arm: study.options_of(arm)}
    settings = {**study.settings, "threads": 1}
    return choose(find_experiment(study.experiment), study.preset, [arm], settings, of_arm)


@functools.cache
def _load(experiment: str, config: Any, data_root: Path | None) -> Any:
    """Load the data of a study, once."""
    options = TaskOptions(arms=())
    if data_root is not None:
        options = dataclasses.replace(options, data_root=data_root)
    return find_experiment(experiment).load(config, options)
