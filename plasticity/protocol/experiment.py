"""What an experiment is made of, and what all of them have: options, settings, errors.

The command line is read, and ``--help`` answered, before anything that takes seconds to import.
So this module, and what stands at the top of each experiment's, imports neither torch nor numpy,
scipy or matplotlib: the functions that need them do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol

from plasticity.learning.column import NONNEGATIVE, Column
from plasticity.protocol.arms import ArmConfig, Registry
from plasticity.protocol.options import Config, Options, Setting, TaskOptions
from plasticity.protocol.serialization import to_json

if TYPE_CHECKING:
    from plasticity.protocol.trainer import Arm, Row


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
        optimizer = dataclasses.replace(arm.optimizer, learning_rate=rate)
        arms[name] = dataclasses.replace(arm, optimizer=optimizer)
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


TASK_COLUMNS = (
    Column("task", compared=False),
    Column("train_loss", "training loss", "nats", logarithmic=False, bounds=NONNEGATIVE),
)
"""What a row of a task has beside metrics and what remedies say."""

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
class Definition(Generic[Config]):
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
        panels: The columns of the figure, by name.
        columns: What is recorded beside metrics and what remedies say, and what a metric's column
            is called here, if otherwise.
        renamed: From a config as it was recorded to what it would be now, where runs were named
            otherwise before; they go on being found (``plasticity.runs.places``).
        options: What can be said beside the config.
        progress: What a run is made of.
        score: The column that tells how well a network does, and its name in words.
        chance: From a config to the score of a guess; None where that depends on the data.
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
    panels: Sequence[str]
    metrics: tuple[str, ...] = ()
    columns: tuple[Column, ...] = TASK_COLUMNS
    renamed: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    options: type[Options] = TaskOptions
    progress: Progress = TASKS
    score: tuple[str, str] = ("test_accuracy", "test accuracy")
    chance: Callable[[Config], float | None] = lambda _: None

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
