"""What the experiments share: options, presets, arms, progress, resume, exports, error messages."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import torch
import tyro
from tqdm import tqdm

from experiments.figures import Panel, learning_curves
from plasticity.data import DataError
from plasticity.learners import Learner
from plasticity.loop import Diverged, train_on_stream
from plasticity.metrics import Metric
from plasticity.record import ArmRecord, RecordError, RunFolder, open_run
from plasticity.streams import TaskStream


class UsageError(Exception):
    """Wrong use of the command line; the message says what would be right."""


@dataclass(frozen=True)
class Options:
    """What to run and where; none of it changes a number."""

    networks: tuple[str, ...]
    """Which arms to train, in this order."""
    data_root: Path = Path("~/.cache/plasticity")
    """Folder that data sets are downloaded or computed into, once."""
    results: Path = Path("results")
    """Folder that gets a run folder for each config."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Delete what an earlier run of the same config left, and start afresh."""


@dataclass(frozen=True)
class Setting:
    """What every experiment's config has."""

    seed: int = 0
    """Decides tasks, order of samples and initial weights."""
    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1, ..."""
    threads: int = 1
    """Threads of torch on the CPU (they decide the order of summation, hence the last bits)."""
    num_tasks: int = 1
    """Number of tasks learned in turn."""

    def __post_init__(self) -> None:
        _check_numbers(self)
        try:
            device = torch.device(self.device)
        except RuntimeError:
            device = None
        if device is None or device.type not in ("cpu", "cuda"):
            raise UsageError(f"--device {self.device}: networks train on cpu or cuda")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UsageError(f"--device {self.device}: this torch finds no CUDA device")


def _check_numbers(config: Any, prefix: str = "") -> None:
    """Refuse numbers that are not positive; a seed may be 0."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        option = f"--{prefix}{field.name}".replace("_", "-")
        if dataclasses.is_dataclass(value):
            _check_numbers(value, f"{field.name}.")
        elif field.name == "seed" and not 0 <= value < 2**64:
            raise UsageError(f"{option} {value}: must be 0 to 2**64 - 1")
        elif (
            field.name != "seed" and isinstance(value, int | float) and not isinstance(value, bool)
        ):
            # A million threads make torch end in a segmentation fault.
            limit = 1024 if field.name == "threads" else 2**31 - 1
            if not 0 < value <= limit:
                raise UsageError(f"{option} {value}: must be positive and at most {limit}")


@dataclass(frozen=True)
class Arm:
    """One network of an experiment, ready to train."""

    learner: Learner
    stream: TaskStream
    epochs: int
    batch_size: int
    metrics: Sequence[Metric]
    remark: str = ""
    """Printed before training."""


Config = TypeVar("Config", bound=Setting)
Preset = TypeVar("Preset", bound=str)
Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Experiment(Generic[Config]):
    """What is special to an experiment.

    Attributes:
        name: Of the module, and of the run folders.
        about: What ``--help`` says first.
        presets: Configs by name; the first is the default.
        networks: What each arm is called in figures, by the name it has on the command line.
        load: From config and data folder to the data.
        identify: From config and data to all that decides the numbers, as JSON.
        build: From config, data and network to an arm.
        exports: For each network the file and which column goes into which of its arrays, or into
            the only one of an .npy file.
        panels: Of the figure.
    """

    name: str
    about: str
    presets: Mapping[str, Config]
    networks: Mapping[str, str]
    load: Callable[[Config, Path], Any]
    identify: Callable[[Config, Any], dict[str, Any]]
    build: Callable[[Config, Any, str], Arm]
    exports: Mapping[str, tuple[str, Mapping[str, str] | str]]
    panels: Sequence[Panel]


class Digested(Protocol):
    """Data that knows the hash of its content."""

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the content, hexadecimal."""


def identify(config: Setting, data: Digested) -> dict[str, Any]:
    """Return a config as JSON, with the content of its ``dataset`` in place of the name."""
    return dataclasses.asdict(config) | {"dataset": f"sha256:{data.digest}"}


def main(experiment: Experiment[Any], arguments: Sequence[str] | None = None) -> int:
    """Run an experiment from the command line and return the exit status.

    0 for success, 2 for wrong use, 1 for a failure, 130 for Ctrl-C; what a user can cause ends in
    one or two lines on standard error.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        preset, options, config = parse(experiment, arguments)
        run(experiment, preset, options, config)
    except UsageError as error:
        print(f"error: {error} (see --help)", file=sys.stderr)
        return 2
    except (DataError, RecordError, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: finished tasks are kept; the same command goes on.", file=sys.stderr)
        return 130
    return 0


# -------------------------------------------------------------------------------- command line
@dataclass(frozen=True)
class Command(Generic[Preset, Config]):
    """All that can be said on the command line."""

    preset: Preset
    """Protocol that the options not given are taken from: released has the numbers of the authors'
    program, deep its deepest circuit, matched treats the arms alike, resolved has levels that mean
    the same at every anisotropy, quick needs no download and little time."""
    options: Annotated[Options, tyro.conf.arg(name="")]
    config: Annotated[Config, tyro.conf.arg(name="")]


def parse(experiment: Experiment[Config], arguments: Sequence[str]) -> tuple[str, Options, Config]:
    """Read the command line: the preset first, whose numbers the other options then change.

    Raises:
        UsageError: With one line that says what is wrong.
        SystemExit: With status 0, after ``--help``.
    """
    presets = experiment.presets
    preset = next(iter(presets))
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == "--preset":
            preset = value if equals else following
    if preset not in presets:
        raise UsageError(f"--preset {preset}: must be one of {', '.join(presets)}")
    default = Command(preset, Options(networks=tuple(experiment.networks)), presets[preset])
    # The presets' names and the config's own class are known here only.
    kind: Any = Command[Literal[tuple(presets)], type(default.config)]  # type: ignore
    command: Command[str, Config] = in_one_line(
        tyro.cli,
        kind,
        prog=f"python -m experiments.{experiment.name}",
        description=experiment.about,
        args=arguments,
        default=default,
    )
    if not command.options.networks:
        raise UsageError("--networks: name at least one")
    for network in command.options.networks:
        if network not in experiment.networks:
            choices = ", ".join(experiment.networks)
            raise UsageError(f"--networks {network}: must be among {choices}")
    return preset, command.options, command.config


def in_one_line(parse: Callable[..., Parsed], *arguments: Any, **options: Any) -> Parsed:
    """Call ``tyro.cli``, and turn its box of an error message into a line.

    Raises:
        UsageError: With that line.
        SystemExit: With status 0, after ``--help``.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return parse(*arguments, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
    lines = [line.strip("│ ") for line in complaint.getvalue().splitlines()]
    lines = [line for line in lines if line and not re.match(r"[╭╰]", line)]
    # What is wrong, on a line or more, stands above the first rule.
    text = " ".join(itertools.takewhile(lambda line: not line.startswith("─"), lines))
    if "Perhaps you meant:" in lines:
        text += f"; did you mean {lines[lines.index('Perhaps you meant:') + 1]}?"
    raise UsageError(text)


# -------------------------------------------------------------------------------------- running
def run(experiment: Experiment[Config], preset: str, options: Options, config: Config) -> Path:
    """Train the arms that are not finished, write exports and figure, and return the run folder."""
    torch.set_num_threads(config.threads)
    data = experiment.load(config, options.data_root.expanduser())
    with open_run(
        options.results.expanduser(),
        f"{experiment.name}-{preset}-seed{config.seed}",
        experiment.identify(config, data),
        overwrite=options.overwrite,
        device=config.device,
    ) as folder:
        print(f"run folder: {folder.path}")
        # Arms of the same config that an earlier command trained belong into the figure too.
        records = {
            network: folder.arm(network)
            for network in experiment.networks
            if network in options.networks or (folder.path / network).exists()
        }
        for network in options.networks:
            arm = experiment.build(config, data, network)
            train(records[network], arm, network, config.seed)
        complete = {n: r.rows for n, r in records.items() if len(r.rows) == config.num_tasks}
        export(experiment, folder, complete)
        summarise(experiment, complete)
        print(f"figure: {folder.path / 'figure.png'}")
    return folder.path


def export(
    experiment: Experiment[Config],
    folder: RunFolder,
    complete: Mapping[str, list[dict[str, float]]],
) -> None:
    """Write the figure, then an archive for each arm, unless they are there."""
    # An arm's rows decide its archive, but the figure has all arms: it goes first, so that where
    # the archives are, the figure has their arms, wherever an earlier command was stopped.
    files = ["figure.png", *(experiment.exports[network][0] for network in complete)]
    if all((folder.path / file).exists() for file in files):
        return
    labels = {network: experiment.networks[network] for network in complete}
    figure = learning_curves(complete, labels, experiment.panels, folder.path.name)
    folder.save_figure("figure.png", figure)
    for network, rows in complete.items():
        file, columns = experiment.exports[network]
        if isinstance(columns, str):
            folder.save_npy(file, np.array([row[columns] for row in rows]))
        else:
            arrays = {array: np.array([row[c] for row in rows]) for array, c in columns.items()}
            folder.save_npz(file, **arrays)


def train(record: ArmRecord, arm: Arm, network: str, seed: int) -> None:
    """Train an arm from where its record ends, with a progress bar."""
    done, total = len(record.rows), len(arm.stream)
    if done == total:
        print(f"{network}: all {total} tasks are recorded, nothing to do")
        return
    state = record.load_state()
    if state is not None:
        arm.learner.load_state_dict(state)
        print(f"{network}: going on after {done} of {total} tasks")
    if arm.remark:
        print(f"{network}: {arm.remark}")
    began = time.perf_counter()
    bar = tqdm(
        total=total, initial=done, desc=network, unit="task", dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 30,
    )  # fmt: skip
    with bar:
        for row in train_on_stream(
            arm.learner, arm.stream, epochs=arm.epochs, batch_size=arm.batch_size,
            seed=seed, metrics=arm.metrics, start=done,
        ):  # fmt: skip
            record.append(row, arm.learner.state_dict())
            bar.set_postfix(accuracy=f"{row['test_accuracy']:.3f}", refresh=False)
            bar.update()
    seconds = (time.perf_counter() - began) / (total - done)
    print(f"{network}: {seconds:.3g} s per task")


def summarise(experiment: Experiment[Config], rows: Mapping[str, list[dict[str, float]]]) -> None:
    """Print how each arm did on the first and the last tenth of the tasks."""
    print(f"\n{'test accuracy':16}{'first tenth':>12}{'last tenth':>12}{'drop':>9}   exported to")
    for network, of_network in rows.items():
        accuracy = np.array([row["test_accuracy"] for row in of_network])
        tenth = max(1, len(accuracy) // 10)
        early, late = accuracy[:tenth].mean(), accuracy[-tenth:].mean()
        file, _ = experiment.exports[network]
        print(f"{network:16}{early:12.4f}{late:12.4f}{early - late:9.4f}   {file}")
