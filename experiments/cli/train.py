"""What a command does with what happens in training: print, export, draw."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.cli import calling
from experiments.cli.summary import print_summary
from experiments.cli.words import in_shell
from plasticity.errors import Diverged, Failure
from plasticity.protocol.choices import Choice
from plasticity.protocol.experiment import Definition
from plasticity.protocol.options import Options
from plasticity.protocol.supervised import find_metric
from plasticity.protocol.trainer import Row
from plasticity.results.arm import ArmRecord
from plasticity.results.disk import disk_errors
from plasticity.runs.drawing import draw_run
from plasticity.runs.exports import export
from plasticity.runs.train import (
    ArmBegan,
    ArmComplete,
    ArmDiverged,
    ArmFinished,
    ArmRemark,
    RowRecorded,
    RunOpened,
    train_with_progress,
)


def run(experiment: Definition[Any], choice: Choice, options: Options) -> Path:
    """Train the arms that are not finished, write exports and figure, and return the run folder.

    An arm that diverges keeps no other from being trained.

    Raises:
        PlasticityError: As ``plasticity.runs.train``; ``Diverged`` at the end.
    """
    if options.tensorboard:
        summary_writer()
    unit = experiment.progress.unit
    diverged: list[str] = []
    unmeasured: dict[str, None] = {}
    with contextlib.ExitStack() as opened:
        log: Callable[[Row], None] = lambda row: None  # noqa: E731
        for event in opened.enter_context(
            contextlib.closing(train_with_progress(experiment, choice, options))
        ):
            if isinstance(event, RunOpened):
                run_opened = event
                print(f"run folder: {event.folder.path}")
            elif isinstance(event, ArmRemark):
                print(f"{event.arm}: {event.text}")
            elif isinstance(event, ArmComplete):
                print(f"{event.arm}: all {event.done} {unit}s are recorded, nothing to do")
                with tensorboard(experiment, event.record, options.tensorboard):
                    pass  # the recorded rows
                unmeasured |= dict.fromkeys(_not_measured(experiment, choice, options, event))
                export(experiment, event.record, event.arm)
            elif isinstance(event, ArmBegan):
                if event.done:
                    print(f"{event.arm}: going on after {event.done} of {event.total} {unit}s")
                if event.remark:
                    print(f"{event.arm}: {event.remark}")
                log = opened.enter_context(
                    tensorboard(experiment, event.record, options.tensorboard)
                )
            elif isinstance(event, RowRecorded):
                log(event.row)
            elif isinstance(event, ArmFinished):
                print(f"{event.arm}: {_pace(event.learned, event.seconds, unit)}")
                export(experiment, event.record, event.arm)
            elif isinstance(event, ArmDiverged):
                diverged.append(f"{event.arm}: {event.error}")
                print(diverged[-1])
                if event.record.rows:
                    export(experiment, event.record, event.arm)
    folder, records = run_opened.folder, run_opened.records
    if any(record.rows for record in records.values()):
        print(f"figure: {draw_run(experiment, folder)}")
        print_summary(experiment, records)
    if unmeasured:
        words = [*f"{calling.prefix}measure".split(" "), str(folder.path), "--metrics", *unmeasured]
        words += ["--experiment", calling.own] if calling.own else []
        words += ["--import", *options.modules] if options.modules else []
        print(
            "--metrics measures tasks while they are learned; of those that are recorded: "
            f"{in_shell(words)}"
        )
    if diverged:
        raise Diverged("; ".join(diverged))
    return folder.path


def _pace(learned: int, seconds: float, unit: str) -> str:
    """Return how fast an arm learned; the number above one is the one to read."""
    rate = learned / seconds
    return f"{rate:.3g} {unit}s per s" if rate > 1 else f"{1 / rate:.3g} s per {unit}"


def _not_measured(
    experiment: Definition[Any], choice: Choice, options: Options, complete: ArmComplete
) -> list[str]:
    """Return which metrics have no column in the rows, but can be taken of recorded networks."""
    metrics: Sequence[str] = getattr(options, "metrics", ())
    # Some of a preset's are not for every arm; who asks for one himself, knows.
    if metrics == experiment.presets[choice.preset].metrics:
        return []
    columns = {column for row in complete.record.rows for column in row}
    asked = map(find_metric, dict.fromkeys(metrics))
    return [m.name for m in asked if m.when != "during" and not any(map(m.owns, columns))]


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
    experiment: Definition[Any], record: ArmRecord, wanted: bool
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
