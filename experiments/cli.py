"""What the experiments share: options, presets, arms, progress, resume, exports, error messages."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import torch
import tyro
from tqdm import tqdm

from experiments.arms import Arm, Row
from experiments.figures import Panel, learning_curves
from plasticity.data import DataError
from plasticity.loop import Diverged
from plasticity.record import ArmRecord, RecordError, RunFolder, open_run


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
        _check_numbers(self)
        try:
            device = torch.device(self.device)
        except RuntimeError:
            device = None
        if device is None or device.type not in ("cpu", "cuda"):
            raise UsageError(f"--device {self.device}: networks train on cpu or cuda")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UsageError(f"--device {self.device}: this torch finds no CUDA device")


@dataclass(frozen=True)
class TaskSetting(Setting):
    """What the config of a stream of tasks has."""

    num_tasks: int = 1
    """Number of tasks learned in turn."""


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


Config = TypeVar("Config", bound=Setting)
Preset = TypeVar("Preset", bound=str)
Chosen = TypeVar("Chosen", bound=Options)
Parsed = TypeVar("Parsed")


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


def main(experiment: Experiment[Any], arguments: Sequence[str] | None = None) -> int:
    """Run an experiment from the command line and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    return status_of(lambda: run(experiment, *parse(experiment, arguments)))


def status_of(command: Callable[[], object]) -> int:
    """Do what a command asks for and return the exit status.

    0 for success, 2 for wrong use, 1 for a failure, 130 for Ctrl-C; what a user can cause ends in
    one or two lines on standard error.
    """
    try:
        command()
    except UsageError as error:
        print(f"error: {error} (see --help)", file=sys.stderr)
        return 2
    except (Failure, DataError, RecordError, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: what is finished is kept; the same command goes on.", file=sys.stderr)
        return 130
    return 0


# -------------------------------------------------------------------------------- command line
@dataclass(frozen=True)
class Command(Generic[Preset, Chosen, Config]):
    """All that can be said on the command line."""

    preset: Preset
    """Protocol that the options not given are taken from: released has the numbers of the authors'
    program, deep its deepest circuit, matched treats the arms alike, resolved has levels that mean
    the same at every anisotropy, quick needs no download and little time."""
    options: Annotated[Chosen, tyro.conf.arg(name="")]
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
    options = experiment.options(networks=tuple(experiment.networks))
    default = Command(preset, options, presets[preset])
    # The presets' names and the own classes of options and config are known here only.
    kind: Any = Command[Literal[tuple(presets)], type(options), type(default.config)]  # type: ignore
    command: Command[str, Any, Config] = in_one_line(
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
    data = experiment.load(config, options)
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
            if is_complete(experiment, config, records[network].rows):
                count = f"{experiment.progress.total(config)} {experiment.progress.unit}s"
                print(f"{network}: all {count} are recorded, nothing to do")
                continue
            with contextlib.ExitStack() as stack:
                trackers = []
                if options.tensorboard:
                    trackers.append(stack.enter_context(tensorboard(experiment, records[network])))
                arm = stack.enter_context(
                    contextlib.closing(experiment.build(config, data, network))
                )
                train(experiment, config, folder, network, arm, trackers)
        complete = {
            n: r.rows for n, r in records.items() if is_complete(experiment, config, r.rows)
        }
        export(experiment, folder, complete)
        summarise(experiment, complete)
        print(f"figure: {folder.path / 'figure.png'}")
    return folder.path


def is_complete(experiment: Experiment[Config], config: Config, rows: Sequence[Row]) -> bool:
    """Tell whether an arm has all its rows."""
    progress = experiment.progress
    return bool(rows) and progress.done(rows[-1]) >= progress.total(config)


def export(
    experiment: Experiment[Config], folder: RunFolder, complete: Mapping[str, list[Row]]
) -> None:
    """Write the figure, then the arrays of each arm, unless they are there."""
    # An arm's rows decide its arrays, but the figure has all arms: it goes first, so that where
    # the arrays are, the figure has their arms, wherever an earlier command was stopped.
    files = {file: network for network in complete for file in experiment.exports[network]}
    if all((folder.path / file).exists() for file in ["figure.png", *files]):
        return
    labels = {network: experiment.networks[network] for network in complete}
    figure = learning_curves(
        complete, labels, experiment.panels, folder.path.name, experiment.progress.unit
    )
    folder.save_figure("figure.png", figure)
    for file, network in files.items():
        columns, rows = experiment.exports[network][file], complete[network]
        if isinstance(columns, str):
            folder.save_npy(file, column(rows, columns))
        elif isinstance(columns, tuple):
            folder.save_npy(file, np.stack([column(rows, name) for name in columns]))
        else:
            arrays = {array: column(rows, name) for array, name in columns.items()}
            folder.save_npz(file, **arrays)


def column(rows: Sequence[Row], name: str) -> np.ndarray:
    """Collect what the rows hold under a name: a number, a list of numbers, or nothing."""
    values = [row[name] for row in rows if name in row]
    return np.hstack(values) if values else np.array([])


def train(
    experiment: Experiment[Config],
    config: Config,
    folder: RunFolder,
    network: str,
    arm: Arm,
    trackers: Sequence[Callable[[Row], object]] = (),
) -> None:
    """Train an arm from where its record ends, with a progress bar; trackers see recorded rows."""
    progress, record = experiment.progress, folder.arm(network)
    total, done = progress.total(config), progress.done(record.rows[-1]) if record.rows else 0
    state = record.load_state()
    if state is not None:
        arm.load_state_dict(state)
        print(f"{network}: going on after {done} of {total} {progress.unit}s")
    if arm.remark:
        print(f"{network}: {arm.remark}")
    began, start = time.perf_counter(), done
    with progress_bar(
        total=total, initial=done, desc=network, unit=progress.unit, unit_scale=total > 99_999
    ) as bar:
        for row in arm.rows(len(record.rows), bar.update):
            for name, content in arm.files(row).items():
                folder.save_bytes(name, content)
            record.append(row, arm.state_dict())
            for track in trackers:
                track(row)
            done = progress.done(row)
            if progress.shown in row:
                name = progress.shown.rpartition("_")[2]
                bar.set_postfix({name: f"{row[progress.shown]:.4g}"}, refresh=False)
    seconds = time.perf_counter() - began
    # The rate that is a number above one is the one to read.
    unit, rate = progress.unit, (done - start) / seconds
    pace = f"{rate:.3g} {unit}s per s" if rate > 1 else f"{1 / rate:.3g} s per {unit}"
    print(f"{network}: {pace}")


@contextlib.contextmanager
def tensorboard(experiment: Experiment[Any], record: ArmRecord) -> Iterator[Callable[[Row], None]]:
    """Open an arm's log for TensorBoard, and give what writes a row into it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise Failure(f"--tensorboard: {error}: pip install tensorboard") from error
    done = experiment.progress.done
    # A row that was logged, but is not in the record, comes again.
    first = done(record.rows[-1]) + 1 if record.rows else 0
    with SummaryWriter(str(record.path / "tensorboard"), purge_step=first) as writer:

        def write(row: Row) -> None:
            for name, value in row.items():
                if isinstance(value, int | float):
                    writer.add_scalar(name, value, done(row))
            writer.flush()

        yield write


def progress_bar(**options: Any) -> tqdm[Any]:
    """Make a progress bar, which writes to a file less often than to a terminal.

    Its rate and the time left are those of the mean since the start: rollouts and updates, tasks
    with and without measurements take turns.
    """
    interval = 0.1 if sys.stderr.isatty() else 30
    return tqdm(dynamic_ncols=True, mininterval=interval, smoothing=0, **options)


def summarise(experiment: Experiment[Config], complete: Mapping[str, list[Row]]) -> None:
    """Print how each arm did in the first and the last tenth of the rows that have a score."""
    name, words = experiment.score
    print(f"\n{words:18}{'first tenth':>12}{'last tenth':>12}{'change':>9}   exported to")
    for network, rows in complete.items():
        scores, files = column(rows, name), ", ".join(experiment.exports[network])
        if not len(scores):
            print(f"{network:18}{'none':>33}   {files}")
            continue
        tenth = max(1, len(scores) // 10)
        early, late = scores[:tenth].mean(), scores[-tenth:].mean()
        print(f"{network:18}{early:12.5g}{late:12.5g}{late - early:9.4g}   {files}")
