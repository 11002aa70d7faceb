"""What commands read from a run that is recorded: its arms, their data, the networks they kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from plasticity.errors import Failure, UsageError
from plasticity.protocol.experiment import Definition
from plasticity.protocol.options import TaskOptions, TaskSetting
from plasticity.protocol.serialization import from_json
from plasticity.results.names import arm_name, config_json, record_name
from plasticity.runs.places import other_bits

if TYPE_CHECKING:
    from torch import nn

    from plasticity.learning.learner import Learner
    from plasticity.protocol.arms import ArmConfig
    from plasticity.protocol.supervised import Supervised
    from plasticity.results.record import ArmRecord, RunFolder


class Recorded(Protocol):
    """A recorded arm: its folder and its rows."""

    @property
    def path(self) -> Path:
        """Return its folder."""

    @property
    def rows(self) -> Sequence[dict[str, Any]]:
        """Return its rows."""


def find_arms(
    experiment: Definition[Any],
    there: Mapping[Path, Mapping[str, Any]],
    names: Sequence[str],
    command: str,
) -> dict[Path, ArmConfig]:
    """Return arms by their folders: of those there, the named ones, by name or folder; or all.

    Args:
        experiment: What they are arms of.
        there: The configs of the run's arms by their folders.
        names: Those to return; none: all.
        command: The module that asks, for an arm of another program's.

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
            f"{command}.main from the program that registers it"
        ) from reason
    return arms


def open_records(
    folder: RunFolder, arms: Mapping[Path, ArmConfig], opened: ExitStack
) -> dict[Path, ArmRecord]:
    """Return the records of arms that have finished a task, locked; those of others are not.

    All are opened first: what is wrong with the last shows before anything is done with the first.

    Raises:
        Failure: No arm has finished a task.
    """
    there = folder.arms()
    names = {path: record_name(arm_name(path)) for path in arms}
    records = {p: opened.enter_context(folder.arm(names[p], there[p])) for p in arms}
    if not any(record.rows for record in records.values()):
        raise Failure(f"{folder.path}: no task is finished yet, so there is no network")
    return {path: record for path, record in records.items() if record.rows}


class Untrained(NamedTuple):
    """An arm as it was before its first task.

    Attributes:
        arm: Ready to be trained.
        remark: What there is to say of its data; may be empty.
    """

    arm: Supervised
    remark: str


def untrained(
    experiment: Definition[Any],
    folder: RunFolder,
    arm: ArmConfig,
    record: Recorded,
    dataset: str | None,
    data_root: Path,
) -> Untrained:
    """Return an arm as it was before its first task, with the run's threads set.

    Args:
        experiment: Which its run is of.
        folder: Its run.
        arm: What it is made of.
        record: Of the arm.
        dataset: The run's data set, if its file lies elsewhere now.
        data_root: As ``load_data``.

    Raises:
        UsageError: There is no such data set.
        Failure: The run cannot be used, or the data is not the run's.
    """
    import torch

    from plasticity.protocol.supervised import Supervised
    from plasticity.runs.train import rows_done

    name = arm_name(record.path)
    config = config_of(experiment, folder, rows_done(experiment, record.rows))
    torch.set_num_threads(config.threads)
    data, remark = load_data(experiment, folder, config, record, dataset, data_root)
    ready = experiment.build(config, data, arm, name, TaskOptions(arms=(name,)))
    assert isinstance(ready, Supervised)
    return Untrained(ready, remark)


def config_of(experiment: Definition[Any], folder: RunFolder, num_tasks: int) -> TaskSetting:
    """Return what the arms of a run share; its data set is still to be named.

    Raises:
        Failure: It is not what the experiment writes, or there is no such device.
    """
    from plasticity.runs.train import check_device

    default = next(iter(experiment.presets.values())).config
    decided = {k: v for k, v in folder.config.items() if k not in ("experiment", "dataset")}
    named = {"dataset": default.dataset} if hasattr(default, "dataset") else {}
    try:
        config = from_json(type(default), decided | {"num_tasks": num_tasks} | named)
        check_device(config.device)
    except (TypeError, ValueError, UsageError) as error:
        raise Failure(f"{folder.path / 'config.json'}: {error}") from error
    result: TaskSetting = config
    return result


def load_data(
    experiment: Definition[Any],
    folder: RunFolder,
    config: TaskSetting,
    record: Recorded,
    dataset: str | None,
    data_root: Path,
) -> tuple[Any, str]:
    """Return the data of a run, and what there is to say of it; that may be empty.

    Args:
        experiment: What it is a run of.
        folder: The run.
        config: What its arms share.
        record: Of an arm, which tells the name of the data set.
        dataset: The name that is said, if any.
        data_root: Folder of data sets that are downloaded or computed.

    Raises:
        UsageError: There is no such data set.
        Failure: The data is not the run's.
    """
    way_out = "name the run's with --dataset"
    if hasattr(config, "dataset"):
        name = dataset or dataset_of(record)
        config = dataclasses.replace(config, dataset=name)  # type: ignore[call-arg]
        if name.endswith(".npz") and not Path(name).is_file():
            raise Failure(f"{name}: there is no such file; {way_out}")
    elif dataset is not None:
        raise UsageError(f"--dataset {dataset}: {experiment.name} computes its data")
    else:
        name, way_out = "what is computed here", "another version computed it"
    data = experiment.load(config, TaskOptions(arms=(), data_root=data_root))
    recorded = experiment.named_now(folder.config)
    here = json.loads(config_json(experiment.identify(config, data)))
    if any(recorded.get(key) != value for key, value in here.items()):
        raise Failure(f"{name}: not the data of {folder.path.name}; {way_out}")
    return data, other_bits(record.path, folder.config, config, data)


def networks_of(record: ArmRecord) -> list[tuple[int, Any]]:
    """Return tasks and the network's state after each that is kept, the last one among them."""
    networks = [*record.snapshots()]
    last = len(record.rows) - 1
    if last >= 0 and (not networks or networks[-1][0] < last):
        state: Any = record.load_state()
        networks.append((last, state["network"]))
    return networks


def restored_network(
    experiment: Definition[Any],
    folder: RunFolder,
    recorded: Recorded,
    config: Mapping[str, Any],
    task: int | None,
    dataset: str | None,
    data_root: Path,
) -> nn.Module:
    """Return a recorded arm's network as it was kept after a task; nothing is locked.

    Args:
        experiment: Which its run is of.
        folder: Its run.
        recorded: The arm.
        config: What ``arm.json`` says of it.
        task: After which; None: the last.
        dataset: The run's data set, if its file lies elsewhere now.
        data_root: Folder of data sets that are downloaded or computed.

    Raises:
        UsageError: No network was kept after this task.
        Failure: The arm cannot be made here, or the data is not the run's.
        RecordError: What was kept is damaged.
    """
    from plasticity.results.arm import identity_of, read_last_state, read_snapshots

    identity = identity_of(folder.config, config, recorded.path.name)
    states = dict(read_snapshots(recorded.path, identity, len(recorded.rows)))
    if last := read_last_state(recorded.path, identity):
        states[last[0] - 1] = last[1]["network"]
    if not states:
        raise Failure(f"{recorded.path}: no task is finished yet, so there is no network")
    task = max(states) if task is None else task
    if task not in states:
        there = ", ".join(map(str, sorted(states)))
        raise UsageError(f"task {task}: networks were kept after the tasks {there}")
    try:
        arm = experiment.registry.from_json(config)
    except (TypeError, ValueError) as error:
        raise Failure(f"{recorded.path / 'arm.json'}: no arm of this program: {error}") from error
    learner = untrained(experiment, folder, arm, recorded, dataset, data_root).arm.learner
    load_network(learner, states[task], task)
    return learner.network


def load_network(learner: Learner, state: Any, task: int) -> None:
    """Give a learner's network the state that was kept after a task.

    Raises:
        Failure: The state does not fit the network.
    """
    try:
        learner.network.load_state_dict(state)
    except RuntimeError as error:  # of many lines
        text = f"the network after task {task} is not the arm's: another version kept it"
        raise Failure(text) from error


def dataset_of(record: Recorded) -> str:
    """Return the name of the data set that an arm was last trained with.

    Raises:
        UsageError: It is not noted.
    """
    from plasticity.results.disk import read_file

    try:
        *_, last = read_file(record.path / "provenance.jsonl", 2**30).splitlines()
        return str(json.loads(last)["dataset"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError("--dataset: the run does not tell its data set; name it") from error
