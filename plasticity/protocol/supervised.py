"""Arms that learn a stream of tasks: an experiment says which, the rest is the same for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plasticity.errors import UsageError
from plasticity.protocol.arms import ArmConfig
from plasticity.protocol.options import TaskOptions, TaskSetting
from plasticity.protocol.trainer import Arm, Row

if TYPE_CHECKING:
    from torch import Tensor

    from plasticity.learning.learner import Learner
    from plasticity.learning.metric import Metric
    from plasticity.networks.network import Shape
    from plasticity.tasks.streams import Task, TaskStream


@dataclass(frozen=True)
class Problem:
    """What an experiment has an arm learn.

    Attributes:
        stream: The tasks, as the arm sees them.
        shape: What they ask of a network.
        loss: From outputs and labels to a scalar in nats.
    """

    stream: TaskStream
    shape: Shape
    loss: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SomeTasks:
    """Some of a stream's tasks, in their order."""

    stream: TaskStream
    tasks: Sequence[int]

    def __len__(self) -> int:
        """Count them."""
        return len(self.tasks)

    def __getitem__(self, place: int) -> Task:
        """Return the task at a place among them; its index is that in the stream."""
        return self.stream[self.tasks[place]]


MECHANISMS = (
    "online_accuracy", "gradient_start", "gradient_end", "update_ratio", "initial_distance",
    "circuit", "max_probability", "logit", "fisher", "dormant", "feature_rank", "ntk", "spectrum",
    "trainability", "churn", "deficit",
)  # fmt: skip
"""What the studies measure that ask why: of the network as a whole, and of some layers."""

BY_LAYER = (
    "weight_norm", "step", "singular_value", "gate", "curvature", "readiness", "gradient_noise",
)  # fmt: skip
"""What presets measure, too, that ask why: in which layer, by which step, in which directions."""

ASKING_WHY = (*MECHANISMS, *BY_LAYER)
"""All metrics but what is measured anyway, and but ``fresh``, which takes as long as a task."""

ProblemOf = Callable[[Any, Any, Any], Problem]
"""From config, data and an arm's inputs to what the arm learns."""


@dataclass
class Supervised(Arm):
    """A learner of a stream of tasks, one row a task."""

    learner: Learner
    stream: TaskStream
    epochs: int
    batch_size: int
    seed: int
    metrics: Sequence[Metric]
    remark: str = ""

    @property
    def about(self) -> dict[str, Any]:  # noqa: D102
        first = self.stream[0]
        x, _ = first.test.batch(slice(0, 1))
        return {
            "parameters": sum(p.numel() for p in self.learner.network.parameters()),
            "data": f"{len(first.train):,} training and {len(first.test):,} test samples of "
            f"{x[0].numel():,} numbers a task",
        }

    def rows(self, start: int, advance: Callable[[int], object]) -> Iterator[Row]:  # noqa: D102
        from plasticity.learning.loop import train_on_stream

        for row in train_on_stream(
            self.learner, self.stream, epochs=self.epochs, batch_size=self.batch_size,
            seed=self.seed, metrics=self.metrics, start=start,
        ):  # fmt: skip
            advance(1)
            yield row

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return self.learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.learner.load_state_dict(state)

    def network_state(self) -> dict[str, Any]:  # noqa: D102
        return self.learner.network.state_dict()

    def learner_state(self) -> dict[str, Any] | None:  # noqa: D102
        # One that begins each of its tasks with a new network has no past.
        return None if isinstance(self.stream, SomeTasks) else self.learner.state_dict()


@dataclass(frozen=True)
class SupervisedLearning:
    """Makes an experiment's arms ready to learn its problem.

    Attributes:
        problem_of: From config, data and an arm's inputs to what the arm learns.
        always: What is measured at every task, by name, in the order of the columns.
    """

    problem_of: ProblemOf
    always: tuple[str, ...]

    def check(self, config: TaskSetting, data: Any, arm: ArmConfig) -> None:
        """Make an untrained learner, and nothing else.

        Raises:
            DoesNotFit: There can be no such arm for this problem.
        """
        untrained(config, self.problem_of(config, data, arm.inputs), arm)

    def build(
        self, config: TaskSetting, data: Any, arm: ArmConfig, name: str, options: TaskOptions
    ) -> Supervised:
        """Make an arm; its metrics see the untrained network and the first task."""
        problem = self.problem_of(config, data, arm.inputs)
        learner = untrained(config, problem, arm)
        metrics = [
            metric.prepared(learner, problem.stream[0], config.seed)
            for metric in metrics_of(self.always, options)
        ]
        stream = problem.stream
        if arm.log_spaced:
            stream = SomeTasks(stream, arm.tasks(len(stream)))
        remarks = [arm.network.remark(learner.network)]
        if (count := len(problem.stream[0].train)) <= config.batch_size:
            remarks.append(f"a batch has all {count:,} training samples: one update an epoch")
        return Supervised(
            learner, stream, arm.epochs, config.batch_size, config.seed, metrics,
            "; ".join(filter(None, remarks)),
        )  # fmt: skip


def untrained(config: TaskSetting, problem: Problem, arm: ArmConfig) -> Learner:
    """Make an arm's learner; the weights are drawn on the CPU."""
    from plasticity.learning.learner import Learner
    from plasticity.seeding import generator_for

    network = arm.network.build(problem.shape, generator_for(config.seed, "initial weights"))
    remedies = list(arm.remedies.values())
    network.to(config.device)
    return Learner(network, arm.optimizer.build, problem.loss, remedies, config.seed)


def metrics_of(always: Sequence[str], options: TaskOptions) -> list[Metric]:
    """Return what is measured at every task, and what was asked for on its schedule.

    What is measured at every task has columns of layers only where it was asked for, too.

    Raises:
        UsageError: There is no such metric.
    """
    from plasticity.metrics import METRICS

    metrics = [
        dataclasses.replace(METRICS[name], every=1, layers=name in options.metrics)
        for name in always
    ]
    for name in dict.fromkeys(options.metrics):
        metric = find_metric(name)
        every = options.measure_every if metric.sparse else metric.every
        if name not in always:
            metrics.append(dataclasses.replace(metric, every=every))
    return metrics


def find_metric(name: str) -> Metric:
    """Return a metric by its name.

    Raises:
        UsageError: There is none.
    """
    from plasticity.metrics import METRICS

    if name not in METRICS:
        raise UsageError(f"--metrics {name}: there are {', '.join(sorted(METRICS))}")
    return METRICS[name]
