"""Options that all experiments have: what to run and where, and what decides numbers."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from plasticity.errors import UsageError

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
    modules: Annotated[
        tuple[str, ...], MAY_BE_EMPTY, tyro.conf.arg(name="import", metavar="MODULE ...")
    ] = ()
    """Modules to import first, because they register networks, remedies or metrics of your own."""


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
