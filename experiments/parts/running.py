"""Training the arms of a run: progress, resume, exports, figure, summary."""

from __future__ import annotations

import contextlib
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from experiments.parts import calling
from experiments.parts.arms import ArmConfig, record_name
from experiments.parts.drawing import draw_run
from experiments.parts.experiment import (
    Config,
    Experiment,
    Failure,
    InUse,
    Options,
    UsageError,
    expanded,
    in_shell,
)
from experiments.parts.finding import content_here, other_bits, recorded_identity
from experiments.parts.supervised import find_metric
from experiments.parts.training import Arm, Row
from plasticity.learning.loop import Diverged
from plasticity.learning.metric import is_log_spaced
from plasticity.networks.network import DoesNotFit
from plasticity.results.disk import disk_errors
from plasticity.results.record import ArmRecord, RecordError, RecordInUse, open_run
from plasticity.tasks.images import DataError


@contextlib.contextmanager
def library_errors() -> Iterator[None]:
    """Turn the library's errors that a user can cause into the experiments' own.

    The command line knows only these: the library's modules take seconds to import.
    """
    try:
        yield
    except RecordInUse as error:
        raise InUse(str(error)) from error
    except (DataError, RecordError, Diverged) as error:
        raise Failure(str(error)) from error
    except (MemoryError, RuntimeError) as error:
        # Of the CPU's memory, torch says it in a RuntimeError.
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_memory and "can't allocate memory" not in str(error):
            raise
        wanted = re.search(r"allocate (\d\S* \w+)", str(error))
        missing = f" ({wanted[1]} at once)" if wanted else ""
        raise Failure(
            f"there is not enough memory{missing}: take smaller networks, fewer qubits or smaller "
            "batches"
        ) from error


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


@library_errors()
def run(
    experiment: Experiment[Config],
    preset: str,
    options: Options,
    config: Config,
    arms: Mapping[str, ArmConfig],
) -> Path:
    """Train the arms that are not finished, write exports and figure, and return the run folder.

    An arm that diverges keeps no other from being trained.
    """
    for metric in getattr(options, "metrics", ()):
        find_metric(metric)
    check_device(config.device)
    if options.tensorboard:
        summary_writer()
    torch.set_num_threads(config.threads)
    data = experiment.load(config, options)
    for name, arm in arms.items():
        try:
            experiment.check(config, data, arm)
        except DoesNotFit as error:
            raise UsageError(f"--arms {name}: {error}") from error
    results = expanded(options.results, "--results")
    identity = recorded_identity(experiment, preset, config, data, arms, results)
    folder = open_run(results, experiment.run_prefix(preset, config), identity)
    print(f"run folder: {folder.path}")
    diverged = []
    unmeasured: dict[str, list[str]] = {}
    # All of them first: what is wrong with the last shows before the first is trained.
    named = [(record_name(name), arm.json()) for name, arm in arms.items()]
    with folder.open_arms(named, overwrite=options.overwrite) as records:
        opened = dict(zip(arms, records, strict=True))
        for name, record in opened.items():
            done = rows_done(experiment, record.rows)
            total = arms[name].end(experiment.progress.total(config))
            if done and (said := other_bits(record.path, folder.config, config, data)):
                print(f"{name}: {said}")
            if done >= total:
                count = f"{done} {experiment.progress.unit}s"
                print(f"{name}: all {count} are recorded, nothing to do")
                with tensorboard(experiment, record, options.tensorboard):
                    pass  # the recorded rows
                asked = getattr(options, "metrics", ())
                # Some of a preset's are not for every arm; who asks for one himself, knows.
                if asked == experiment.presets[preset].metrics:
                    asked = ()
                if metrics := not_measured(asked, record.rows):
                    unmeasured[record.path.name] = metrics
            else:
                try:
                    with (
                        tensorboard(experiment, record, options.tensorboard) as track,
                        contextlib.closing(
                            experiment.build(config, data, arms[name], name, options)
                        ) as ready,
                    ):
                        about = content_here(config, data)
                        train(experiment, config, total, record, name, ready, track, about)
                except Diverged as error:
                    diverged.append(f"{name}: {error}")
                    print(diverged[-1])
            if record.rows:
                export(experiment, record, record_name(name))
        if any(record.rows for record in opened.values()):
            print(f"figure: {draw_run(experiment, folder)}")
            summarise(experiment, opened)
        if unmeasured:
            names = dict.fromkeys(name for of_arm in unmeasured.values() for name in of_arm)
            command = [
                *f"{calling.prefix}measure".split(" "),
                str(folder.path),
                "--metrics",
                *names,
            ]
            print(
                "--metrics measures tasks while they are learned; of those that are recorded: "
                f"{in_shell(command)}"
            )
        if diverged:
            raise Failure("; ".join(diverged))
    return folder.path


def not_measured(metrics: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return which metrics have no column in the rows, but can be taken of recorded networks."""
    columns = {column for row in rows for column in row}
    asked = map(find_metric, dict.fromkeys(metrics))
    return [m.name for m in asked if m.when != "during" and not any(map(m.owns, columns))]


def rows_done(experiment: Experiment[Any], rows: Sequence[Row]) -> int:
    """Return how many tasks or steps are behind after the last row."""
    return experiment.progress.done(rows[-1]) if rows else 0


def export(experiment: Experiment[Any], record: ArmRecord, name: str) -> None:
    """Write an arm's rows to the files of other programs."""
    rows = record.rows
    for file, columns in experiment.exports.of(name).items():
        if isinstance(columns, str):
            record.save_npy(file, column(rows, columns, math.nan))
        elif isinstance(columns, tuple):  # pairs, of the rows that have both
            pairs = [row for row in rows if all(name in row for name in columns)]
            record.save_npy(file, np.stack([column(pairs, name) for name in columns]))
        else:
            arrays = {array: column(rows, name, math.nan) for array, name in columns.items()}
            record.save_npz(file, **arrays)


def column(rows: Sequence[Row], name: str, missing: float | None = None) -> np.ndarray:
    """Collect what the rows hold under a name: a number, a list of numbers, or nothing.

    A row without it is left out, or has the number ``missing`` instead.
    """
    rows = rows if missing is None else [{name: missing} | row for row in rows]
    values = [row[name] for row in rows if name in row]
    return np.hstack(values) if values else np.array([])


def train(
    experiment: Experiment[Config],
    config: Config,
    total: int,
    record: ArmRecord,
    name: str,
    arm: Arm,
    track: Callable[[Row], None],
    about: Mapping[str, str],
) -> None:
    """Train an arm from where its record ends, with a progress bar.

    ``track`` sees its rows; ``about`` is noted in its provenance.
    """
    progress, done = experiment.progress, rows_done(experiment, record.rows)
    state = record.load_state()
    if state is not None:
        arm.load_state_dict(state)
        print(f"{name}: going on after {done} of {total} {progress.unit}s")
    if arm.remark:
        print(f"{name}: {arm.remark}")
    # A name, not an identity: so that later measurements find the data.
    named = {"dataset": config.dataset} if hasattr(config, "dataset") else {}
    record.note_provenance(device=config.device, about=named | dict(about))
    began, start = time.perf_counter(), done
    with progress_bar(
        total=total, initial=done, desc=name, unit=progress.unit, unit_scale=total > 99_999
    ) as bar:
        for row in arm.rows(len(record.rows), bar.update):
            for file, content in arm.files(row).items():
                record.save_bytes(file, content)
            number = len(record.rows)
            if is_log_spaced(number):
                record.save_snapshot(number, arm.network_state())
            record.append(row, arm.state_dict())
            track(row)
            done = progress.done(row)
            if progress.shown in row:
                shown = progress.shown.rpartition("_")[2]
                bar.set_postfix({shown: f"{row[progress.shown]:.4g}"}, refresh=False)
    seconds = time.perf_counter() - began
    # The rate that is a number above one is the one to read.
    unit, rate = progress.unit, (done - start) / seconds
    pace = f"{rate:.3g} {unit}s per s" if rate > 1 else f"{1 / rate:.3g} s per {unit}"
    print(f"{name}: {pace}")


def summary_writer() -> Any:
    """Return what writes for TensorBoard.

    Raises:
        Failure: It is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise Failure(f"--tensorboard: {error}: pip install tensorboard") from error
    return SummaryWriter


@contextlib.contextmanager
def tensorboard(
    experiment: Experiment[Any], record: ArmRecord, wanted: bool
) -> Iterator[Callable[[Row], None]]:
    """Write an arm's rows for TensorBoard, if wanted, and give what writes the rows that follow.

    The log is written anew from the record. So it has each row once, also those from before it was
    wanted, and none that was logged right before a kill and comes again.
    """
    if not wanted:
        yield lambda row: None
        return
    done = experiment.progress.done
    folder = record.path / "tensorboard"
    with disk_errors(folder):
        for file in folder.glob("events.out.tfevents.*"):
            file.unlink()
        # From step 0 on, a TensorBoard that is open forgets what it has read.
        writer = summary_writer()(str(folder), purge_step=0)

    def write(*rows: Row) -> None:
        with disk_errors(folder):
            for row in rows:
                for name, value in row.items():
                    if isinstance(value, int | float):
                        writer.add_scalar(name, value, done(row))
            writer.flush()

    with writer:
        write(*record.rows)
        yield write


def progress_bar(**options: Any) -> tqdm[Any]:
    """Make a progress bar, which writes to a file less often than to a terminal.

    Its rate and the time left are those of the mean since the start: rollouts and updates, tasks
    with and without measurements take turns.
    """
    interval = 0.1 if sys.stderr.isatty() else 30
    return tqdm(dynamic_ncols=True, mininterval=interval, smoothing=0, **options)


def summarise(experiment: Experiment[Any], records: Mapping[str, ArmRecord]) -> None:
    """Print how each arm did in the first and the last tenth of the rows that have a score."""
    score, words = experiment.score
    width = max(18, *(len(name) + 2 for name in records))
    # Columns are apart, however wide a number is.
    titles = f" {'first tenth':>11} {'last tenth':>11} {'change':>11} {'means of':>11}"
    print(f"\n{words:{width}}{titles}   exported to")
    row = "task" if experiment.progress.unit == "task" else "update"
    for name, record in records.items():
        files = ", ".join(
            f"{record.path.name}/{file}" for file in experiment.exports.of(record_name(name))
        )
        scores = column(record.rows, score)
        if not len(scores):
            print(f"{name:{width}}{'none':>48}   {files if record.rows else 'nothing yet'}")
            continue
        tenth = max(1, len(scores) // 10)
        early, late = scores[:tenth].mean(), scores[-tenth:].mean()
        count = f"{tenth} {row}{'s' if tenth > 1 else ''}"
        numbers = f" {early:11.5g} {late:11.5g} {late - early:11.4g} {count:>11}"
        print(f"{name:{width}}{numbers}   {files}")
