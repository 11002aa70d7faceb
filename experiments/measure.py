"""Measure more of a recorded run, from the networks that it kept. Nothing is trained.

A run keeps its networks after tasks 0, 1, 2, 4, 8, ... and the last. What is measured of them is
written into measured.jsonl in each arm's folder, and drawn into the run's figure.png.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.parts import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.figures import experiment_of
from experiments.parts import cli
from experiments.parts.drawing import draw_run
from experiments.parts.experiment import UsageError
from experiments.parts.kept import find_arms, load_network, networks_of, open_records, untrained
from experiments.parts.labels import arm_name

if TYPE_CHECKING:
    from experiments.parts.supervised import Supervised
    from plasticity.learning.metric import Metric


@dataclass(frozen=True)
class Measure:
    """What to measure."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, as the command that trained it printed it."""
    metrics: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(required)")
    ] = ()
    """What to measure; an unknown name is answered with a list."""
    arms: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: all)")
    ] = ()
    """Arms to measure, by their names or those of their folders."""
    dataset: Annotated[
        str | None,
        tyro.conf.arg(metavar="NAME|FILE.npz", help_behavior_hint="(default: where it was)"),
    ] = None
    """The run's data set, if its file lies elsewhere now."""
    data_root: Path = Path("~/.cache/plasticity")
    """Folder that data sets are downloaded or computed into, once; MNIST's four files may lie in it
    as they are."""


def measure_run(command: Measure) -> None:
    """Measure the arms of a run.

    Raises:
        UsageError: There is no such metric or arm, or a metric needs the training itself.
        Failure: The run cannot be used, or the data is not the run's.
    """
    from experiments.parts.running import library_errors, progress_bar
    from plasticity.results.record import read_run

    with library_errors(), contextlib.ExitStack() as opened:
        folder = read_run(command.run)
        experiment = experiment_of(folder)
        if not experiment.metrics:
            raise UsageError(f"{folder.path}: runs of {experiment.name} have no tasks to measure")
        metrics = find_metrics(command.metrics)
        arms = find_arms(experiment, folder.arms(), command.arms, "experiments.measure")
        records = open_records(folder, arms, opened)
        for path, record in records.items():
            ready = untrained(
                experiment, folder, arms[path], record, command.dataset, command.data_root
            )
            networks = networks_of(record)
            with progress_bar(total=len(networks), desc=arm_name(path), unit="network") as bar:
                measured = measure_arm(ready, metrics, networks, bar.update)
            record.save_measured(measured)
            names = ", ".join(metric.name for metric in metrics)
            many = f"{len(networks)} network{'s' if len(networks) > 1 else ''}"
            print(f"{arm_name(path)}: {names} of {many}: {path / 'measured.jsonl'}")
        print(f"figure: {draw_run(experiment, folder)}")


def find_metrics(names: Sequence[str]) -> list[Metric]:
    """Return metrics by their names, each once.

    Raises:
        UsageError: There is none of a name, or it needs the training itself; or there is no name.
    """
    from experiments.parts.supervised import find_metric
    from plasticity.metrics import METRICS

    if not names:
        raise UsageError(f"--metrics: say which; there are {', '.join(sorted(METRICS))}")
    metrics = [find_metric(name) for name in dict.fromkeys(names)]
    for metric in metrics:
        if metric.when == "during":
            raise UsageError(f"--metrics {metric.name}: it is measured while a task is learned")
    return metrics


def measure_arm(
    arm: Supervised, metrics: Sequence[Metric], networks: Sequence[tuple[int, Any]], advance: Any
) -> dict[int, dict[str, float]]:
    """Return what the metrics give, by task.

    Those that are due after a task's updates are taken of the network after that task; those that
    are due before, of the same network with the next task, after the remedies have begun it.
    Remedies have seen no update here: one that acts on what it remembers of them acts otherwise.

    Args:
        arm: Untrained.
        metrics: Due before or after a task.
        networks: Places in the arm's stream and the network's state after each.
        advance: Told of each network.

    Raises:
        Failure: A state does not fit the arm's network.
    """
    learner, stream = arm.learner, arm.stream
    prepared = [metric.prepared(learner, stream[0], arm.seed) for metric in metrics]
    measured: dict[int, dict[str, float]] = {}

    def take(when: str, place: int) -> None:
        task = stream[place]
        for metric in prepared:
            if metric.when == when:
                value = metric.take(learner, task)
                measured.setdefault(task.index, {}).update(metric.columns(value))

    if any(metric.when == "before" for metric in prepared):
        learner.start_task(stream[0].index)
        take("before", 0)
    for place, network in networks:
        load_network(learner, network, stream[place].index)
        take("after", place)
        if any(metric.when == "before" for metric in prepared) and place < networks[-1][0]:
            learner.start_task(stream[place + 1].index)
            take("before", place + 1)
        advance()
    return measured


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def measure() -> None:
        measure_run(
            cli.in_one_line(
                tyro.cli, Measure, command="measure", description=__doc__,
                args=arguments,
            )
        )  # fmt: skip

    return cli.status_of(measure, "stopped: arms that were measured to the end are saved.")


if __name__ == "__main__":
    sys.exit(main())
