"""Training the arms of a run: progress, resume, exports, figure, summary."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from experiments.figures import learning_curves
from experiments.parts.arms import Arm, Row
from experiments.parts.experiment import Config, Experiment, Failure, Options, UsageError
from plasticity.learning.loop import Diverged
from plasticity.results.record import ArmRecord, RecordError, RunFolder, open_run
from plasticity.tasks.images import DataError


@contextlib.contextmanager
def library_errors() -> Iterator[None]:
    """Turn the library's errors that a user can cause into the experiments' own.

    The command line knows only these: the library's modules take seconds to import.
    """
    try:
        yield
    except (DataError, RecordError, Diverged) as error:
        raise Failure(str(error)) from error


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
def run(experiment: Experiment[Config], preset: str, options: Options, config: Config) -> Path:
    """Train the arms that are not finished, write exports and figure, and return the run folder."""
    check_device(config.device)
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
            with (
                tensorboard(experiment, records[network], options.tensorboard) as track,
                contextlib.closing(experiment.build(config, data, network)) as arm,
            ):
                train(experiment, config, folder, network, arm, track)
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
            folder.save_npy(file, column(rows, columns, math.nan))
        elif isinstance(columns, tuple):  # pairs, of the rows that have both
            pairs = [row for row in rows if all(name in row for name in columns)]
            folder.save_npy(file, np.stack([column(pairs, name) for name in columns]))
        else:
            arrays = {array: column(rows, name, math.nan) for array, name in columns.items()}
            folder.save_npz(file, **arrays)


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
    folder: RunFolder,
    network: str,
    arm: Arm,
    track: Callable[[Row], None],
) -> None:
    """Train an arm from where its record ends, with a progress bar; ``track`` sees its rows."""
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
def tensorboard(
    experiment: Experiment[Any], record: ArmRecord, wanted: bool
) -> Iterator[Callable[[Row], None]]:
    """Open an arm's log for TensorBoard, if wanted, and give what writes a row into it."""
    if not wanted:
        yield lambda row: None
        return
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
