"""Measuring more of a recorded run, from the networks that it kept. Nothing is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasticity.errors import UsageError
from plasticity.learning.metric import Metric
from plasticity.protocol.experiment import Definition
from plasticity.protocol.supervised import Supervised
from plasticity.results.names import arm_name
from plasticity.results.record import RunFolder
from plasticity.runs.progress import progress_bar
from plasticity.runs.restore import find_arms, load_network, networks_of, open_records, untrained


@dataclass(frozen=True)
class Measured:
    """An arm was measured.

    Attributes:
        path: Its folder.
        metrics: The names of what was measured.
        networks: Of how many networks; none where no task is finished yet.
        remark: What there is to say of its data; may be empty.
    """

    path: Path
    metrics: tuple[str, ...]
    networks: int
    remark: str = ""


def measure(
    experiment: Definition[Any],
    folder: RunFolder,
    metrics: Sequence[str],
    arms: Sequence[str] = (),
    dataset: str | None = None,
    data_root: Path = Path("~/.cache/plasticity"),
    *,
    show: bool = True,
) -> Generator[Measured, None, None]:
    """Measure the networks that arms of a run kept, and yield each arm that is done.

    Args:
        experiment: Which it is a run of.
        folder: The run.
        metrics: What is measured.
        arms: Names of arms, or of their folders; none: all.
        dataset: The run's data set, if its file lies elsewhere now.
        data_root: Folder of data sets that are downloaded or computed.
        show: A progress bar.

    Raises:
        UsageError: There is no such metric or arm, or a metric needs the training itself.
        Failure: The run cannot be used, or the data is not the run's.
    """
    if not experiment.metrics:
        raise UsageError(f"{folder.path}: runs of {experiment.name} have no tasks to measure")
    found = find_metrics(metrics)
    with contextlib.ExitStack() as opened:
        chosen = find_arms(experiment, folder.arms(), arms, "experiments.measure")
        records = open_records(folder, chosen, opened)
        for path in [path for path in chosen if path not in records]:
            yield Measured(path, (), 0, "no task is finished yet")
        for path, record in records.items():
            ready, remark = untrained(experiment, folder, chosen[path], record, dataset, data_root)
            networks = networks_of(record)
            with progress_bar(
                total=len(networks), desc=arm_name(path), unit="network", disable=not show
            ) as bar:
                measured = measure_arm(ready, found, networks, bar.update)
            record.save_measured(measured)
            yield Measured(path, tuple(metric.name for metric in found), len(networks), remark)


def find_metrics(names: Sequence[str]) -> list[Metric]:
    """Return metrics by their names, each once.

    Raises:
        UsageError: There is none of a name, or it needs the training itself; or there is no name.
    """
    from plasticity.metrics import METRICS
    from plasticity.protocol.supervised import find_metric

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
        learner.start_task(stream[0].index, stream[0].train)
        take("before", 0)
    for place, network in networks:
        load_network(learner, network, stream[place].index)
        take("after", place)
        if any(metric.when == "before" for metric in prepared) and place < networks[-1][0]:
            learner.start_task(stream[place + 1].index, stream[place + 1].train)
            take("before", place + 1)
        advance()
    return measured
