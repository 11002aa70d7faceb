"""Measure more of a recorded run, from the networks that it kept. Nothing is trained.

A run keeps its networks after tasks 0, 1, 2, 4, 8, ... and the last. What is measured of them is
written into measured.jsonl in each arm's folder, and drawn into the run's figure.png.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.parts import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import contextlib
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.figures import experiment_of
from experiments.parts import cli
from experiments.parts.drawing import draw_run
from experiments.parts.experiment import (
    Experiment,
    Failure,
    TaskOptions,
    TaskSetting,
    UsageError,
)
from experiments.parts.identity import from_json
from experiments.parts.labels import arm_name

if TYPE_CHECKING:
    from experiments.parts.arms import ArmConfig
    from experiments.parts.supervised import Supervised
    from plasticity.learning.metric import Metric
    from plasticity.results.record import ArmRecord, RunFolder


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
    """Folder that data sets are downloaded or computed into, once."""


def measure_run(command: Measure) -> None:
    """Measure the arms of a run.

    Raises:
        UsageError: There is no such metric or arm, or a metric needs the training itself.
        Failure: The run cannot be used, or the data is not the run's.
    """
    import torch

    from experiments.parts.running import library_errors, progress_bar, rows_done
    from experiments.parts.supervised import Supervised
    from plasticity.results.record import read_run

    with library_errors(), contextlib.ExitStack() as opened:
        folder = read_run(command.run)
        experiment = experiment_of(folder)
        if not experiment.metrics:
            raise UsageError(f"{folder.path}: runs of {experiment.name} have no tasks to measure")
        metrics = find_metrics(command.metrics)
        there = folder.arms()
        arms = find_arms(experiment, there, command.arms)
        # All of them first: what is wrong with the last shows before the first is measured.
        records = {
            path: opened.enter_context(folder.arm(arm_name(path), there[path])) for path in arms
        }
        if not any(record.rows for record in records.values()):
            raise Failure(f"{folder.path}: no task is finished yet, so nothing can be measured")
        for path, record in records.items():
            if not record.rows:
                print(f"{arm_name(path)}: no task is finished yet")
                continue
            config = config_of(experiment, folder, rows_done(experiment, record.rows))
            torch.set_num_threads(config.threads)
            data = load_data(experiment, folder, config, record, command)
            options = TaskOptions(arms=(arm_name(path),))
            ready = experiment.build(config, data, arms[path], arm_name(path), options)
            assert isinstance(ready, Supervised)
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


def find_arms(
    experiment: Experiment[Any], there: Mapping[Path, Mapping[str, Any]], names: Sequence[str]
) -> dict[Path, ArmConfig]:
    """Return arms by their folders: of those there, the named ones, by name or folder; or all.

    Raises:
        UsageError: The run has no arm of a name.
        Failure: An arm is made of what is not there (any more).
    """
    for name in names:
        if not any(name in (arm_name(path), path.name) for path in there):
            has = ", ".join(sorted({arm_name(path) for path in there})) or "none"
            raise UsageError(f"--arms {name}: the run has {has}")
    arms: dict[Path, ArmConfig] = {}
    strange: dict[Path, Exception] = {}
    for path, content in there.items():
        if not names or arm_name(path) in names or path.name in names:
            try:
                arms[path] = experiment.registry.from_json(content)
            except (TypeError, ValueError) as error:
                strange[path] = error
    if strange:
        (path, reason), *_ = strange.items()
        unusable = {arm_name(path) for path in strange}
        others = dict.fromkeys(
            path.name if arm_name(path) in unusable else arm_name(path) for path in arms
        )
        way_out = f"leave it out with --arms {' '.join(others)}, or " if others else ""
        raise Failure(
            f"{path / 'arm.json'}: no arm of this program: {reason}\n{way_out}call "
            "experiments.measure.main from the program that registers it"
        ) from reason
    return arms


def config_of(experiment: Experiment[Any], folder: RunFolder, num_tasks: int) -> TaskSetting:
    """Return what the arms of a run share; its data set is still to be named.

    Raises:
        Failure: It is not what the experiment writes, or there is no such device.
    """
    from experiments.parts.running import check_device

    default = next(iter(experiment.presets.values())).config
    decided = {k: v for k, v in folder.config.items() if k not in ("experiment", "dataset")}
    named = {"dataset": default.dataset} if hasattr(default, "dataset") else {}
    try:
        config = from_json(type(default), decided | {"num_tasks": num_tasks} | named)
        check_device(config.device)
    except (TypeError, ValueError, UsageError) as error:
        raise Failure(f"{folder.path / 'config.json'}: {error}") from error
    return config


def load_data(
    experiment: Experiment[Any],
    folder: RunFolder,
    config: TaskSetting,
    record: ArmRecord,
    command: Measure,
) -> Any:
    """Return the data of a run.

    Raises:
        UsageError: There is no such data set.
        Failure: The data is not the run's.
    """
    way_out = "name the run's with --dataset"
    if hasattr(config, "dataset"):
        name = command.dataset or dataset_of(record)
        config = dataclasses.replace(config, dataset=name)  # type: ignore[call-arg]
        if name.endswith(".npz") and not Path(name).is_file():
            raise Failure(f"{name}: there is no such file; {way_out}")
    elif command.dataset is not None:
        raise UsageError(f"--dataset {command.dataset}: {experiment.name} computes its data")
    else:
        name, way_out = "what is computed here", "its numbers may come from another machine"
    data = experiment.load(config, TaskOptions(arms=(), data_root=command.data_root))
    if experiment.identify(config, data)["dataset"] != folder.config.get("dataset"):
        raise Failure(f"{name}: not the data of {folder.path.name}; {way_out}")
    return data


def networks_of(record: ArmRecord) -> list[tuple[int, Any]]:
    """Return tasks and the network's state after each that is kept, the last one among them."""
    networks = [*record.snapshots()]
    last = len(record.rows) - 1
    if last >= 0 and (not networks or networks[-1][0] < last):
        state: Any = record.load_state()
        networks.append((last, state["network"]))
    return networks


def dataset_of(record: ArmRecord) -> str:
    """Return the name of the data set that an arm was last trained with.

    Raises:
        UsageError: It is not noted.
    """
    try:
        *_, last = (record.path / "provenance.jsonl").read_text().splitlines()
        return str(json.loads(last)["dataset"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError("--dataset: the run does not tell its data set; name it") from error


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
        try:
            learner.network.load_state_dict(network)
        except RuntimeError as error:  # of many lines
            task = stream[place].index
            text = f"the network after task {task} is not the arm's: another version kept it"
            raise Failure(text) from error
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
                tyro.cli, Measure, prog="python -m experiments.measure", description=__doc__,
                args=arguments,
            )
        )  # fmt: skip

    return cli.status_of(measure, "stopped: arms that were measured to the end are saved.")


if __name__ == "__main__":
    sys.exit(main())
