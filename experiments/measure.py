"""New metrics of a recorded run, from the networks that it kept; trains nothing.

``python -m experiments.measure RUN --metrics NAME...`` reads the networks after tasks 0, 1, 2, 4,
8, ... and the last, and writes what it measures into measured.jsonl of each arm's folder.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.parts import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.figures import experiment_of
from experiments.parts import cli
from experiments.parts.curves import arm_name, draw_run
from experiments.parts.experiment import Experiment, Failure, TaskOptions, UsageError
from experiments.parts.identity import from_json

if TYPE_CHECKING:
    from experiments.parts.supervised import Supervised
    from plasticity.learning.metric import Metric
    from plasticity.results.record import ArmRecord, RunFolder


@dataclass(frozen=True)
class Measure:
    """What to measure."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    metrics: tuple[str, ...]
    """What to measure; an unknown name is answered with a list."""
    arms: tuple[str, ...] = ()
    """Arms to measure; left out: all that the run has."""
    dataset: str | None = None
    """Name or file of the run's data set; left out: the one that the run was trained with."""
    data_root: Path = Path("~/.cache/plasticity")
    """Folder that data sets are downloaded or computed into, once."""


def measure_run(command: Measure) -> None:
    """Measure the arms of a run.

    Raises:
        UsageError: There is no such metric or arm, or a metric needs the training itself.
        Failure: The run cannot be used, or the data is not the run's.
    """
    import torch

    from experiments.parts.running import check_device, library_errors, progress_bar
    from experiments.parts.supervised import Supervised, find_metric
    from plasticity.results.record import read_run

    with library_errors():
        folder = read_run(command.run)
        experiment = experiment_of(folder)
        if not experiment.metrics:
            raise UsageError(f"{folder.path}: runs of {experiment.name} have no tasks to measure")
        metrics = [find_metric(name) for name in dict.fromkeys(command.metrics)]
        for metric in metrics:
            if metric.when == "during":
                raise UsageError(f"--metrics {metric.name}: it is measured while a task is learned")
        paths = {path: arm for path, arm in folder.arms().items() if wanted(path, command.arms)}
        if not paths:
            there = ", ".join(sorted({arm_name(path) for path in folder.arms()})) or "none"
            raise UsageError(f"--arms: the run has {there}")
        check_device(folder.config["device"])
        torch.set_num_threads(folder.config["threads"])
        for path, content in paths.items():
            try:
                arm = experiment.registry.from_json(content)
            except (TypeError, ValueError) as error:
                raise Failure(
                    f"{path / 'arm.json'}: not an arm of this program ({error})"
                ) from error
            with folder.arm(arm_name(path), content) as record:
                if not record.rows:
                    continue
                config, data = read_data(experiment, folder, record, command)
                options = TaskOptions(arms=(arm_name(path),))
                ready = experiment.build(config, data, arm, arm_name(path), options)
                assert isinstance(ready, Supervised)
                snapshots = networks_of(record)
                with progress_bar(total=len(snapshots), desc=arm_name(path), unit="network") as bar:
                    measured = measure_arm(ready, metrics, snapshots, bar.update)
                record.save_measured(measured)
                print(f"{arm_name(path)}: {len(measured)} tasks: {record.path / 'measured.jsonl'}")
        print(f"figure: {draw_run(experiment, folder)}")


def wanted(path: Path, arms: Sequence[str]) -> bool:
    """Tell whether an arm's folder is among those named, by the arm's or by the folder's name."""
    return not arms or arm_name(path) in arms or path.name in arms


def read_data(
    experiment: Experiment[Any], folder: RunFolder, record: ArmRecord, command: Measure
) -> tuple[Any, Any]:
    """Return the config of a run, as long as an arm's record, and its data.

    Raises:
        Failure: The data is not the run's.
    """
    kind = type(next(iter(experiment.presets.values())).config)
    shared: dict[str, Any] = {k: v for k, v in folder.config.items() if k != "experiment"}
    facts: dict[str, Any] = {"num_tasks": max(1, len(record.rows))}
    digest = shared.pop("dataset")
    if "dataset" in {field.name for field in dataclasses.fields(kind)}:
        facts["dataset"] = command.dataset or dataset_of(record)
    try:
        config = from_json(kind, shared | facts)
    except (TypeError, ValueError) as error:
        raise Failure(f"{folder.path / 'config.json'}: not a config ({error})") from error
    options = TaskOptions(arms=(), data_root=command.data_root)
    data = experiment.load(config, options)
    if experiment.identify(config, data)["dataset"] != digest:
        said = facts.get("dataset", "what was computed")
        raise Failure(f"{said} is not the data of {folder.path.name}; name it with --dataset")
    return config, data


def networks_of(record: ArmRecord) -> list[tuple[int, Any]]:
    """Return tasks and the network's state after each that is kept, the last one among them."""
    networks = [*record.snapshots()]
    last = len(record.rows) - 1
    if last >= 0 and (not networks or networks[-1][0] < last):
        state: Any = record.load_state()
        networks.append((last, state["network"]))
    return networks


def dataset_of(record: ArmRecord) -> str:
    """Return the name of the data set that an arm was last trained with."""
    try:
        *_, last = (record.path / "provenance.jsonl").read_text().splitlines()
        return str(json.loads(last)["dataset"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError("--dataset: the run does not tell its data set; name it") from error


def measure_arm(
    arm: Supervised, metrics: Sequence[Metric], snapshots: Sequence[tuple[int, Any]], advance: Any
) -> dict[int, dict[str, float]]:
    """Return what the metrics give, by task.

    Those that are due after a task's updates are taken of the network after that task; those that
    are due before, of the same network with the next task, after the remedies have begun it.

    Args:
        arm: Untrained.
        metrics: Due before or after a task.
        snapshots: Tasks and networks after them.
        advance: Told of each network.
    """
    learner, stream = arm.learner, arm.stream
    prepared = [metric.prepared(learner, stream[0], arm.seed) for metric in metrics]
    measured: dict[int, dict[str, float]] = {}

    def take(when: str, task: int) -> None:
        for metric in prepared:
            if metric.when == when:
                value = metric.take(learner, stream[task])
                measured.setdefault(task, {}).update(metric.columns(value))

    if any(metric.when == "before" for metric in prepared):
        learner.start_task(0)
        take("before", 0)
    for task, network in snapshots:
        learner.network.load_state_dict(network)
        take("after", task)
        if any(metric.when == "before" for metric in prepared) and task < snapshots[-1][0]:
            learner.start_task(task + 1)
            take("before", task + 1)
        advance()
    return measured


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def measure() -> None:
        measure_run(
            cli.in_one_line(
                tyro.cli, Measure, prog="python -m experiments.measure", description=__doc__,
                args=arguments,
            )
        )  # fmt: skip

    return cli.status_of(measure)


if __name__ == "__main__":
    sys.exit(main())
