"""Branches of a recorded arm: an aged learner, an intervention, and what it learns afterwards."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plasticity.errors import Diverged, DoesNotFit, Failure
from plasticity.interventions import parse
from plasticity.protocol.experiment import Definition
from plasticity.protocol.options import TaskOptions
from plasticity.results.names import arm_name
from plasticity.results.record import RunFolder, read_run
from plasticity.runs.restore import config_of, load_data

if TYPE_CHECKING:
    from torch import Tensor

    from plasticity.interventions.intervention import Aged, Intervention
    from plasticity.learning.learner import Learner
    from plasticity.protocol.supervised import Supervised

BranchRow = dict[str, Any]
"""What is recorded of a task that a branch learned."""


@dataclass(frozen=True)
class Branch:
    """A copy of an aged learner that is intervened in.

    Attributes:
        run: The run folder.
        config: The first digits of the hash of what the run's arms share.
        arm: The name of the arm's folder in it.
        age: How many tasks the learner has learned.
        intervention: What is done to it, by name with all options.
        tasks: How many it learns afterwards.
    """

    run: str
    config: str
    arm: str
    age: int
    intervention: str
    tasks: int


@dataclass(frozen=True)
class Source:
    """Where what runs were made of lies.

    Attributes:
        experiment: Which they are runs of.
        dataset: Their data set, if its file lies elsewhere now.
        data_root: Folder of data sets that are downloaded or computed.
    """

    experiment: Definition[Any]
    dataset: str | None
    data_root: Path


class AgedArm:
    """An arm of a run, ready to be branched.

    Args:
        source: Where its data lies.
        folder: The run.
        path: The arm's folder.
        longest: How many tasks its stream must have.

    Attributes:
        rows: What is recorded, a row a task.
        remark: What there is to say of its data; may be empty.
        ages: At which its whole learner is kept, ascending; the last is its end.

    Raises:
        Failure: The arm cannot be made here, or the data is not the run's.
        RecordError: What is recorded is damaged.
    """

    def __init__(self, source: Source, folder: RunFolder, path: Path, longest: int) -> None:
        import torch

        from plasticity.protocol.supervised import Supervised
        from plasticity.results.arm import identity_of, kept_ages
        from plasticity.results.reading import finished_rows
        from plasticity.results.record import read_config

        experiment = source.experiment
        self.name, self.path, self.folder = arm_name(path), path, folder
        content = read_config(path / "arm.json")
        try:
            arm = experiment.registry.from_json(content)
        except (TypeError, ValueError) as error:
            raise Failure(f"{path / 'arm.json'}: no arm of this program: {error}") from error
        self._identity = identity_of(folder.config, content, path.name)
        config = config_of(experiment, folder, longest)
        torch.set_num_threads(config.threads)
        data, self.remark = load_data(
            experiment, folder, config, self, source.dataset, source.data_root
        )
        ready = experiment.build(config, data, arm, self.name, TaskOptions(arms=(self.name,)))
        assert isinstance(ready, Supervised)
        self.ready: Supervised = ready
        self.score = experiment.score[0]
        self._untrained = copy.deepcopy(ready.learner.state_dict())
        self.rows = finished_rows(path)
        count = len(self.rows)
        self.ages = sorted({*kept_ages(path, count), *([count] if count else [])})

    def state(self, age: int) -> Any:
        """Return the learner's state at one of the ages.

        Raises:
            RecordError: It is damaged, or the run is trained meanwhile.
        """
        from plasticity.results.arm import learner_file, read_last_state, read_learner
        from plasticity.results.files import changed

        if learner_file(self.path, age).exists():
            return read_learner(self.path, self._identity, age)
        found = read_last_state(self.path, self._identity)
        if found is None or found[0] != age:
            raise changed(self.path / "checkpoint.pt", f"is not that after {age} tasks")
        return found[1]

    def young_network(self) -> Mapping[str, Any] | None:
        """Return the network's state after the first task; None where it was not kept."""
        from plasticity.results.arm import read_snapshots

        if 1 in self.ages:
            network: Mapping[str, Any] = self.state(1)["network"]
            return network
        return next(
            (
                n
                for task, n in read_snapshots(self.path, self._identity, len(self.rows))
                if not task
            ),
            None,
        )

    def aged(self, age: int) -> Aged:
        """Return a copy of the learner at an age, with its past.

        Raises:
            Failure: Another version kept the state.
            RecordError: The state is damaged.
        """
        from plasticity.interventions.intervention import Aged, growth_of

        learner = copy.deepcopy(self.ready.learner)
        young = self.young_network()
        try:
            learner.load_state_dict(self.state(age))
            growth = None if young is None else growth_of(learner.network, young)
        except (RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
            text = f"{self.path}: the learner after {age} tasks is not the arm's"
            raise Failure(f"{text}: another version kept it") from error
        return Aged(
            learner,
            self.ready.stream[age],
            self.ready.seed,
            self._untrained,
            self.state(1) if 1 in self.ages else None,
            growth,
        )

    def unfit(self, intervention: Intervention) -> str:
        """Return why an intervention does not fit the arm, in a line, or nothing."""
        from plasticity.interventions.intervention import probe_of

        try:
            x = probe_of(self.ready.stream[0], self.ready.seed)
            intervention.check(self.ready.learner, x)
        except DoesNotFit as error:
            return str(error)
        if intervention.needs_young and 1 not in self.ages:
            return "the learner after the first task was not kept; it is, from this version on"
        if intervention.needs_growth and self.young_network() is None:
            return "the network after the first task was not kept"
        return ""

    def grow(self, branch: Branch) -> list[BranchRow]:
        """Branch off, intervene, learn the next tasks, and return a row for each.

        A branch whose loss is not finite has the accuracy of chance from there on, and
        ``diverged``.
        """
        import torch

        from plasticity.interventions.intervention import probe_of

        _, intervention = parse(branch.intervention)
        aged = self.aged(branch.age)
        learner, seed = aged.learner, self.ready.seed
        x = probe_of(aged.task, seed)
        before = _numbers(learner), _outputs(learner, x)
        with torch.random.fork_rng():  # of a network that draws at random, say, by dropout
            torch.manual_seed(seed)
            touched = intervention.act(aged)
            after = _numbers(learner), _outputs(learner, x)
            accuracies = self._learn(learner, branch)
        about: BranchRow = {
            "run": branch.config, "seed": seed, "arm": self.name,
            "folder": self.path.name, "age": branch.age, "intervention": branch.intervention,
        }  # fmt: skip
        columns = touched | {
            "changed_parameters": float((before[0] != after[0]).sum()),
            "changed_outputs": float((before[1] - after[1]).abs().max()),
        }
        outputs = before[1].shape[-1]
        chance = {"test_accuracy": 1 / max(2, outputs), "diverged": True}
        rows = []
        for place in range(branch.tasks):
            told = {"test_accuracy": accuracies[place]} if place < len(accuracies) else chance
            rows.append(about | {"task": branch.age + place} | told | columns)
        return rows

    def _learn(self, learner: Learner, branch: Branch) -> list[float]:
        """Return the accuracies after the next tasks; fewer where the loss becomes infinite."""
        from plasticity.learning.loop import train_on_stream
        from plasticity.metrics import METRICS
        from plasticity.protocol.supervised import SomeTasks

        ready = self.ready
        tasks = SomeTasks(ready.stream, range(branch.age, branch.age + branch.tasks))
        metric = METRICS[self.score].prepared(ready.learner, ready.stream[0], ready.seed)
        accuracies: list[float] = []
        try:
            for row in train_on_stream(
                learner, tasks, epochs=ready.epochs, batch_size=ready.batch_size, seed=ready.seed,
                metrics=[metric],
            ):  # fmt: skip
                accuracies.append(float(row[self.score]))
        except Diverged:
            pass
        return accuracies


def _numbers(learner: Learner) -> Tensor:
    import torch

    parts = [p.detach() for p in learner.network.parameters()]
    real = [torch.view_as_real(p) if p.is_complex() else p for p in parts]
    return torch.cat([part.flatten().clone() for part in real])


def _outputs(learner: Learner, x: Tensor) -> Tensor:
    import torch

    from plasticity.networks.evaluating import evaluating

    with torch.no_grad(), evaluating(learner.network):
        outputs: Tensor = learner.network(x)
        return outputs.clone()


class Nursery:
    """Grows branches; keeps the arm of the last one, since the next is often of the same.

    Args:
        source: Where the runs' data lies.
        longest: How many tasks the streams must have.
    """

    def __init__(self, source: Source, longest: int) -> None:
        self._source, self._longest = source, longest
        self._arm = lru_cache(maxsize=2)(self._open)

    def _open(self, run: str, arm: str) -> AgedArm:
        return AgedArm(self._source, read_run(run), Path(run, arm), self._longest)

    def grow(self, branch: Branch) -> list[BranchRow]:
        """Return the rows of a branch."""
        return self._arm(branch.run, branch.arm).grow(branch)


def ages_of(arm: AgedArm, at: Sequence[int | str]) -> list[int]:
    """Return ages by their names: numbers of tasks learned, or ``last``.

    Raises:
        UsageError: The learner was not kept at one of them.
    """
    from plasticity.errors import UsageError

    found = []
    for word in at:
        if word == "last":
            found.append(arm.ages[-1])
            continue
        if not (str(word).isdecimal() and int(word) in arm.ages):
            where = f"{arm.name} of {arm.folder.path.name}"
            there = ", ".join(map(str, arm.ages))
            older = "; before this version, learners were not kept" if len(arm.ages) == 1 else ""
            raise UsageError(
                f"--at {word}: {where} has kept its learner after {there} tasks (last){older}"
            )
        found.append(int(word))
    return list(dict.fromkeys(found))
