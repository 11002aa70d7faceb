"""What an experiment is made of, and what all of them have: options, settings, errors.

The command line is read, and ``--help`` answered, before anything that takes seconds to import.
So this module, and what stands at the top of each experiment's, imports neither torch nor numpy,
scipy or matplotlib: the functions that need them do.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar

import tyro

from experiments.parts.arms import ArmConfig, Registry
from experiments.parts.identity import to_json

if TYPE_CHECKING:
    from experiments.parts.training import Arm, Row


class UsageError(Exception):
    """Wrong use of the command line; the message says what would be right."""


class Failure(Exception):
    """What cannot be done here; the message says why, and the way out."""


class InUse(Failure):
    """Another process does it just now."""


def expanded(path: Path, option: str) -> Path:
    """Return a path with the home folder that it may begin with written out.

    Raises:
        UsageError: There is no such home folder.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"{option} {path}: there is no home folder {path.parts[0]}; write the path in full"
        ) from error


def in_shell(words: Sequence[str]) -> str:
    """Return words of a command line as a shell takes them, in one line.

    Where a word holds what cannot be printed, say a newline, it is written as $'...'.
    """
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    try:
        word.encode(sys.stdout.encoding or "utf-8")
        if word.isprintable():
            return shlex.quote(word)
    except UnicodeEncodeError:  # the letter is not one that the output has, or the name no UTF-8
        pass
    plain = {*range(32, 127)} - {*b"\\'"}
    letters = (chr(b) if b in plain else rf"\{b:03o}" for b in os.fsencode(word))
    return f"$'{''.join(letters)}'"


MAY_BE_EMPTY = tyro.conf.arg(help_behavior_hint=lambda words: f"(default: {words or 'none'})")
"""For options of any number of words: --help shows that there are none."""


@dataclass(frozen=True)
class Options:
    """What to run and where; none of it changes a number."""

    arms: tuple[str, ...]
    """Which arms to train, in this order: names of networks, each with remedies after a plus."""
    results: Path = Path("results")
    """Folder that gets a run folder for each config."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Delete what is recorded of these arms, and start them afresh."""
    tensorboard: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write the rows' numbers for TensorBoard too, into the arm's folder."""


@dataclass(frozen=True)
class TaskOptions(Options):
    """Those of experiments that learn a stream of tasks."""

    data_root: Path = Path("~/.cache/plasticity")
    """Folder that data sets are downloaded or computed into, once. MNIST's four files are found in
    the folder itself, too, and in MNIST/raw below it."""
    metrics: Annotated[tuple[str, ...], MAY_BE_EMPTY] = ()
    """What to measure beside what is always measured; an unknown name is answered with a list."""
    measure_every: int = 50
    """Tasks between two measurements that take long; they are also taken at tasks 0, 1, 2, 4, 8,
    ..."""

    def __post_init__(self) -> None:
        if self.measure_every < 1:
            raise UsageError(f"--measure-every {self.measure_every}: at least 1")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the arms of every experiment share."""

    seed: int
    """Decides tasks, order of samples and initial weights."""
    device: str
    """Torch device: cpu, cuda, cuda:1, ..."""
    threads: int
    """Threads of torch on the CPU (they decide the order of summation, hence the last bits)."""

    def __post_init__(self) -> None:
        check_numbers(self, "--")
        # Whether there is such a device is asked of torch, when a run begins.
        if not re.fullmatch(r"(cpu|cuda)(:\d{1,2})?", self.device):
            raise UsageError(f"--device {self.device}: networks train on cpu or cuda")


@dataclass(frozen=True, kw_only=True)
class TaskSetting(Setting):
    """What the arms share that learn a stream of tasks."""

    num_tasks: int
    """Number of tasks learned in turn; a run can be made longer later."""
    batch_size: int
    """Samples an update."""


def check_numbers(config: Any, prefix: str) -> None:
    """Refuse numbers that are not positive.

    A seed may be 0, and what is 0 by default; a field's metadata may name another ``least``.
    """
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        option = prefix + entry.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            check_numbers(value, f"{option}.")
        elif entry.name == "seed" and not 0 <= value < 2**64:
            raise UsageError(f"{option} {value}: must be 0 to 2**64 - 1")
        elif isinstance(value, tuple) and not all(
            isinstance(v, str) or math.isfinite(v) for v in value
        ):
            raise UsageError(f"{option} {value}: must be finite")
        elif (
            entry.name != "seed" and isinstance(value, int | float) and not isinstance(value, bool)
        ):
            # A million threads make torch end in a segmentation fault.
            limit = 1024 if entry.name == "threads" else 2**31 - 1
            if value == entry.metadata.get("least") or value == entry.default:
                continue
            if not 0 < value <= limit:
                raise UsageError(f"{option} {value}: must be positive and at most {limit}")


Config = TypeVar("Config", bound=Setting)


@dataclass(frozen=True)
class Preset(Generic[Config]):
    """A protocol: what the arms share, and its arms.

    Attributes:
        config: What they share.
        arms: By name; all are trained where ``--arms`` is not said.
        about: What ``--help`` says of it.
        metrics: What is measured where ``--metrics`` is not said, beside what always is.
    """

    config: Config
    arms: Mapping[str, ArmConfig]
    about: str = dataclasses.field(default="", compare=False)
    metrics: tuple[str, ...] = ()

    def replace(
        self, config: Mapping[str, Any], about: str = "", **arms: Mapping[str, Any]
    ) -> Preset[Config]:
        """Return the protocol with other values for fields of its config and of its arms."""
        changed = {
            name: dataclasses.replace(arm, **arms.get(name, {})) for name, arm in self.arms.items()
        }
        return Preset(dataclasses.replace(self.config, **config), changed, about, self.metrics)


def at_rates(
    preset: Preset[Config], registry: Registry, rates: Mapping[str, float]
) -> Preset[Config]:
    """Return a protocol with many arms, each like the preset's but for its network and its rate.

    Args:
        preset: The protocol, with the arms that the others are like.
        registry: What the arms are made of.
        rates: Learning rates by the arms' names.
    """
    arms = {}
    for name, rate in rates.items():
        arm = registry.resolve(name, preset.arms)
        adam = dataclasses.replace(arm.optimizer, learning_rate=rate)
        arms[name] = dataclasses.replace(arm, optimizer=adam)
    return dataclasses.replace(preset, arms=arms)


@dataclass(frozen=True)
class Progress:
    """What a run is made of.

    Attributes:
        unit: In words.
        length: The field of the config that says how many; it is no part of a run's identity.
        total: How many a config asks for.
        done: How many are behind after a row.
        shown: The column that the progress bar shows.
    """

    unit: str
    length: str
    total: Callable[[Any], int]
    done: Callable[[Row], int]
    shown: str


TASKS = Progress(
    "task",
    "num_tasks",
    lambda config: config.num_tasks,
    lambda row: row["task"] + 1,
    "test_accuracy",
)


@dataclass(frozen=True)
class Panel:
    """One pair of axes of a figure: a column of the rows over the tasks, or over the steps.

    Attributes:
        column: Drawn.
        label: Of the ordinate.
        logarithmic: Where the values span more than a factor 3.
        abscissa: The column that it is drawn over, if it is not the run's unit.
        bounds: The least and the greatest that there can be; an interval ends there.
        samples: The column of lists that ``column`` has the means of; the 95 % interval of the mean
            (Student's t) is shaded, and the curve is not smoothed.
    """

    column: str
    label: str
    logarithmic: bool = False
    samples: str = ""
    abscissa: str = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)


Columns = str | tuple[str, ...] | Mapping[str, str]


@dataclass(frozen=True)
class Exports:
    """Files that are written of an arm's rows.

    An .npy file holds a column, or the columns of a tuple as the rows of its array; an .npz file an
    array for each entry of a mapping from its names to columns.

    Attributes:
        released: For the released program's arms, by name: its files' names, and their columns.
        others: For every other arm: the columns of ``<arm>_results.npz``.
    """

    released: Mapping[str, Mapping[str, Columns]]
    others: Mapping[str, str]

    def of(self, arm: str) -> Mapping[str, Columns]:
        """Return an arm's files."""
        return self.released.get(arm) or {f"{arm}_results.npz": self.others}


@dataclass(frozen=True)
class Experiment(Generic[Config]):
    """What is special to an experiment.

    Attributes:
        name: Of the module, and of the run folders.
        about: What ``--help`` says first.
        presets: Protocols by name; the first is the default.
        registry: What arms can be made of.
        load: From config and options to the data.
        identify: From config and data to what config.json says in place of some of its fields. Of
            data that is computed, it does not look at the data.
        check: Given config, data and arm, raises ``DoesNotFit`` if there can be no such arm.
        build: From config, data, arm, its name and options to what trains it.
        metrics: What is always measured, by name.
        exports: Files for other programs.
        panels: Of the figure.
        renamed: From a config as it was recorded to what it would be now, where runs were named
            otherwise before; they go on being found (``finding.py``).
        options: What can be said beside the config.
        progress: What a run is made of.
        score: The column that tells how well a network does, and its name in words.
    """

    name: str
    about: str
    presets: Mapping[str, Preset[Config]]
    registry: Registry
    load: Callable[[Config, Any], Any]
    identify: Callable[[Config, Any], dict[str, Any]]
    check: Callable[[Config, Any, ArmConfig], object]
    build: Callable[[Config, Any, ArmConfig, str, Any], Arm]
    exports: Exports
    panels: Sequence[Panel]
    metrics: tuple[str, ...] = ()
    renamed: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    options: type[Options] = TaskOptions
    progress: Progress = TASKS
    score: tuple[str, str] = ("test_accuracy", "test accuracy")

    def identity(self, config: Config, data: Any) -> dict[str, Any]:
        """Return what the arms of a run share and what decides their numbers, as JSON.

        How long they learn is not among it, so that a run can be made longer.
        """
        shared = to_json(config)
        shared.pop(self.progress.length, None)
        return {"experiment": self.name} | shared | self.identify(config, data)

    def named_now(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return a config that is recorded as ``identity`` gives it now."""
        return self.renamed(recorded) if self.renamed else dict(recorded)

    def run_prefix(self, preset: str, config: Config) -> str:
        """Return how the name of a run's folder begins; the hash of its identity follows."""
        return f"{self.name}-{preset}-seed{config.seed}"


class Digested(Protocol):
    """Data that knows the hash of its content."""

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the content, hexadecimal."""


def content_of(config: Setting, data: Digested) -> dict[str, Any]:
    """Return the content of the data set, for config.json: its name decides no number."""
    return {"dataset": f"sha256:{data.digest}"}


LABELS = {"mlp": "classical (MLP)", "qnn": "quantum (QNN)"}
"""What arms are called in figures, if not by their name."""
