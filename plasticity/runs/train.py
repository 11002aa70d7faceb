"""Training the arms of a run: a generator of what happens, which neither prints nor draws."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from plasticity.errors import Diverged, DoesNotFit, UsageError
from plasticity.learning.metric import is_log_spaced
from plasticity.protocol.choices import Choice
from plasticity.protocol.experiment import Definition
from plasticity.protocol.options import Options, expanded
from plasticity.protocol.supervised import find_metric
from plasticity.protocol.trainer import Arm, Row
from plasticity.results.names import record_name
from plasticity.results.record import ArmRecord, RunFolder, open_run
from plasticity.runs.places import content_here, other_bits, recorded_identity
from plasticity.runs.progress import progress_bar


@dataclass(frozen=True)
class RunOpened:
    """The run folder is there, and the records of all chosen arms are open and locked."""

    folder: RunFolder
    records: Mapping[str, ArmRecord]


@dataclass(frozen=True)
class ArmEvent:
    """Something happened to an arm.

    Attributes:
        arm: Its name.
        record: Of the arm.
    """

    arm: str
    record: ArmRecord


@dataclass(frozen=True)
class ArmRemark(ArmEvent):
    """There is something to say of an arm that is recorded already."""

    text: str


@dataclass(frozen=True)
class ArmComplete(ArmEvent):
    """An arm has nothing left to learn.

    Attributes:
        done: How many tasks or steps are recorded.
    """

    done: int


@dataclass(frozen=True)
class ArmBegan(ArmEvent):
    """An arm begins to learn, or goes on.

    Attributes:
        done: How many tasks or steps are behind.
        total: How many there are.
        remark: What there is to say of it; may be empty.
    """

    done: int
    total: int
    remark: str


@dataclass(frozen=True)
class RowRecorded(ArmEvent):
    """A row is on the disk, with the state after it.

    Attributes:
        row: What was recorded.
        done: How many tasks or steps are behind.
    """

    row: Row
    done: int


@dataclass(frozen=True)
class ArmFinished(ArmEvent):
    """An arm has learned all.

    Attributes:
        learned: How many tasks or steps it learned now.
        seconds: How long that took.
    """

    learned: int
    seconds: float


@dataclass(frozen=True)
class ArmDiverged(ArmEvent):
    """The loss of an arm became NaN or infinite. The other arms are trained all the same."""

    error: Diverged


Event = RunOpened | ArmEvent


def train(
    experiment: Definition[Any],
    choice: Choice,
    options: Options,
    advance: Callable[[int], object] = lambda count: None,
) -> Generator[Event, None, None]:
    """Train the arms that are not finished, one after another, and yield what happens.

    All records are open until the generator ends or is closed, so that who reads the events can
    write exports into them.

    Args:
        experiment: Which is run.
        choice: What is trained.
        options: Where, and what is measured.
        advance: Called with numbers of tasks or steps, more often than there are rows.

    Raises:
        UsageError: Something cannot be trained as it was chosen.
        DataError: The data set cannot be had.
        RecordError: What is recorded is damaged, or cannot be written.
        InUse: Another process trains an arm of them.
    """
    for metric in getattr(options, "metrics", ()):
        find_metric(metric)
    config, arms = choice.config, choice.arms
    check_device(config.device)
    torch.set_num_threads(config.threads)
    data = experiment.load(config, options)
    for name, arm in arms.items():
        try:
            experiment.check(config, data, arm)
        except DoesNotFit as error:
            raise UsageError(f"--arms {name}: {error}") from error
    results = expanded(options.results, "--results")
    identity = recorded_identity(experiment, choice.preset, config, data, arms, results)
    folder = open_run(results, experiment.run_prefix(choice.preset, config), identity)
    # All of them first: what is wrong with the last shows before the first is trained.
    named = [(record_name(name), arm.json()) for name, arm in arms.items()]
    with folder.open_arms(named, overwrite=options.overwrite) as opened:
        records = dict(zip(arms, opened, strict=True))
        yield RunOpened(folder, records)
        for name, record in records.items():
            done = rows_done(experiment, record.rows)
            total = arms[name].end(experiment.progress.total(config))
            if done and (remark := other_bits(record.path, folder.config, config, data)):
                yield ArmRemark(name, record, remark)
            if done >= total:
                yield ArmComplete(name, record, done)
                continue
            try:
                with contextlib.closing(
                    experiment.build(config, data, arms[name], name, options)
                ) as ready:
                    began = ArmBegan(name, record, done, total, ready.remark)
                    about = content_here(config, data)
                    yield from _train_arm(experiment, config, began, ready, about, advance)
            except Diverged as error:
                record.note_divergence(str(error))
                yield ArmDiverged(name, record, error)


def train_with_progress(
    experiment: Definition[Any], choice: Choice, options: Options, *, show: bool = True
) -> Generator[Event, None, None]:
    """Do what ``train`` does, with a progress bar for each arm, if it is to ``show``."""
    progress = experiment.progress
    bar: Any = None

    def advance(count: int) -> None:
        if bar is not None:
            bar.update(count)

    try:
        with contextlib.closing(train(experiment, choice, options, advance)) as events:
            for event in events:
                if bar is not None and isinstance(event, ArmFinished | ArmDiverged):
                    bar.close()
                    bar = None
                yield event  # first, so that what is printed of it stands above the bar
                if show and isinstance(event, ArmBegan):
                    bar = progress_bar(
                        total=event.total, initial=event.done, desc=event.arm, unit=progress.unit,
                        unit_scale=event.total > 99_999,
                    )  # fmt: skip
                elif bar is not None and isinstance(event, RowRecorded):
                    shown = event.row.get(progress.shown)
                    if shown is not None:
                        word = progress.shown.rpartition("_")[2]
                        bar.set_postfix({word: f"{shown:.4g}"}, refresh=False)
    finally:
        if bar is not None:
            bar.close()


def _train_arm(
    experiment: Definition[Any],
    config: Any,
    began: ArmBegan,
    arm: Arm,
    about: Mapping[str, str],
    advance: Callable[[int], object],
) -> Generator[Event, None, None]:
    """Train an arm from where its record ends."""
    name, record, done = began.arm, began.record, began.done
    state = record.load_state()
    if state is not None:
        arm.load_state_dict(state)
    # A name, not an identity: so that later measurements find the data.
    named = {"dataset": config.dataset} if hasattr(config, "dataset") else {}
    record.note_provenance(device=config.device, about=named | arm.about | dict(about))
    yield began
    start = time.perf_counter()
    for row in arm.rows(len(record.rows), advance):
        for file, content in arm.files(row).items():
            record.save_bytes(file, content)
        number = len(record.rows)
        if is_log_spaced(number):
            record.save_snapshot(number, arm.network_state())
        if is_log_spaced(number + 1) and (state := arm.learner_state()) is not None:
            record.save_learner(number + 1, state)
        record.append(row, arm.state_dict())
        done = experiment.progress.done(row)
        yield RowRecorded(name, record, row, done)
    yield ArmFinished(name, record, done - began.done, time.perf_counter() - start)


def rows_done(experiment: Definition[Any], rows: Sequence[Row]) -> int:
    """Return how many tasks or steps are behind after the last row."""
    return experiment.progress.done(rows[-1]) if rows else 0


def check_device(device: str) -> None:
    """Refuse a CUDA device that is not there.

    Raises:
        UsageError: With what torch finds.
    """
    kind, _, index = device.partition(":")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(index or 0) >= found:
        there = f"CUDA devices 0 to {found - 1}" if found else "no CUDA device"
        raise UsageError(f"--device {device}: this torch finds {there}")
