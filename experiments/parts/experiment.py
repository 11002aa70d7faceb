"""What an experiment is made of, and what all of them have: options, settings, errors.

The command line is read, and ``--help`` answered, before anything that takes seconds to import.
So this module, and what stands at the top of each experiment's, imports neither torch nor numpy,
scipy or matplotlib: the functions that need them do.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import tyro

if TYPE_CHECKING:
    from experiments.parts.arms import Arm, Row


class UsageError(Exception):
    """Wrong use of the command line; the message says what would be right."""


class Failure(Exception):
    """What cannot be done here; the message says why, and the way out."""


@dataclass(frozen=True)
class Options:
    """What to run and where; none of it changes a number."""

    networks: tuple[str, ...]
    """Which arms to train, in this order."""
    results: Path = Path("results")
    """Folder that gets a run folder for each config."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Delete what an earlier run of the same config left, and start afresh."""
    tensorboard: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write the rows' numbers for TensorBoard too, into the run folder."""


@dataclass(frozen=True)
class DataOptions(Options):
    """Those of experiments that learn from a data set."""

    data_root: Path = Path("~/.cache/plasticity")
    """Folder that data sets are downloaded or computed into, once."""


@dataclass(frozen=True)
class Setting:
    """What every experiment's config has."""

    seed: int = 0
    """Decides tasks, order of samples and initial weights."""
    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1, ..."""
    threads: int = 1
    """Threads of torch on the CPU (they decide the order of summation, hence the last bits)."""

    def __post_init__(self) -> None:
        check_numbers(self)
        # Whether there is such a device is asked of torch, when a run begins.
        if not re.fullmatch(r"(cpu|cuda)(:\d{1,2})?", self.device):
            raise UsageError(f"--device {self.device}: networks train on cpu or cuda")


@dataclass(frozen=True)
class TaskSetting(Setting):
    """What the config of a stream of tasks has."""

    num_tasks: int = 1
    """Number of tasks learned in turn."""


def check_numbers(config: Any, prefix: str = "") -> None:
    """Refuse numbers that are not positive; a seed may be 0."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        option = f"--{prefix}{field.name}".replace("_", "-")
        if dataclasses.is_dataclass(value):
            check_numbers(value, f"{field.name}.")
        elif field.name == "seed" and not 0 <= value < 2**64:
            raise UsageError(f"{option} {value}: must be 0 to 2**64 - 1")
        elif (
            field.name != "seed" and isinstance(value, int | float) and not isinstance(value, bool)
        ):
            # A million threads make torch end in a segmentation fault.
            limit = 1024 if field.name == "threads" else 2**31 - 1
            if not 0 < value <= limit:
                raise UsageError(f"{option} {value}: must be positive and at most {limit}")


Config = TypeVar("Config", bound=Setting)


@dataclass(frozen=True)
class Progress:
    """What a run is made of.

    Attributes:
        unit: In words.
        total: How many a config asks for.
        done: How many are behind after a row.
        shown: The column that the progress bar shows.
    """

    unit: str
    total: Callable[[Any], int]
    done: Callable[[Row], int]
    shown: str


TASKS = Progress(
    "task", lambda config: config.num_tasks, lambda row: row["task"] + 1, "test_accuracy"
)


@dataclass(frozen=True)
class Panel:
    """One pair of axes of a figure: a column of the rows over the tasks, or over the steps.

    Attributes:
        column: Drawn.
        label: Of the ordinate.
        logarithmic: Where the values span more than a factor 3.
        abscissa: The column that it is drawn over, if it is not the run's unit.
        samples: The column of lists that ``column`` has the means of; the 95 % interval of the mean
            (Student's t) is shaded, and the curve is not smoothed.
    """

    column: str
    label: str
    logarithmic: bool = False
    samples: str = ""
    abscissa: str = ""


@dataclass(frozen=True)
class Experiment(Generic[Config]):
    """What is special to an experiment.

    Attributes:
        name: Of the module, and of the run folders.
        about: What ``--help`` says first.
        presets: Configs by name; the first is the default.
        networks: What each arm is called in figures, by the name it has on the command line.
        load: From config and options to the data.
        identify: From config and data to all that decides the numbers, as JSON.
        build: From config, data and network to an arm.
        exports: For each network its files: which columns are the rows of an .npy file's array (or
            which column is the array), or which column is which array of an .npz file.
        panels: Of the figure.
        options: What can be said beside the config.
        progress: What a run is made of.
        score: The column that tells how well a network does, and its name in words.
    """

    name: str
    about: str
    presets: Mapping[str, Config]
    networks: Mapping[str, str]
    load: Callable[[Config, Any], Any]
    identify: Callable[[Config, Any], dict[str, Any]]
    build: Callable[[Config, Any, str], Arm]
    exports: Mapping[str, Mapping[str, str | tuple[str, ...] | Mapping[str, str]]]
    panels: Sequence[Panel]
    options: type[Options] = DataOptions
    progress: Progress = TASKS
    score: tuple[str, str] = ("test_accuracy", "test accuracy")


class Digested(Protocol):
    """Data that knows the hash of its content."""

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the content, hexadecimal."""


def identify(config: Setting, data: Digested) -> dict[str, Any]:
    """Return a config as JSON, with the content of its ``dataset`` in place of the name."""
    return dataclasses.asdict(config) | {"dataset": f"sha256:{data.digest}"}
