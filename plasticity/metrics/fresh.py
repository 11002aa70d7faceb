"""The gap to a fresh network: what a task teaches an untrained one, and what it teaches ours."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plasticity.errors import Diverged
from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.learning.metric import Metric
from plasticity.metrics.accuracy import test_accuracy
from plasticity.tasks.streams import Task


@dataclass(frozen=True)
class FreshGap:
    """Tell how much better an untrained network learns the task at hand.

    A copy of the untrained learner, with its remedies and a new optimizer, learns the task from the
    same batches, as often. Then

    * ``accuracy``: the fraction of the test samples that it classifies right;
    * ``gap``: that, less the same of the learner itself. Above 0 where plasticity is lost; below 0
      where what was learned before helps. It is 0 at task 0.

    This needs no other arm to compare with, and no baseline: a task that happens to be hard is hard
    for both. Valid for: classifiers. It takes as long as the task itself, and has to be measured
    while a task is learned. The arm ``fresh:NAME`` learns log-spaced tasks in this way, beside the
    arm ``NAME``. Source: the definition of loss of plasticity as the gap to a network that is
    trained on the task alone (Dohare et al. 2024; Lyle et al. 2023).

    Attributes:
        untrained: A copy of the learner before its first task.
        seed: That of the order of the samples.
    """

    untrained: Learner
    seed: int

    @classmethod
    def of(cls, learner: Learner, first: Task, seed: int) -> FreshGap:
        """Keep the untrained learner."""
        return cls(copy.deepcopy(learner), seed)

    def __call__(self, learner: Learner, task: Task) -> FreshTwin:
        """Count the learner's batches."""
        return FreshTwin(self.untrained, learner, task, self.seed)


@dataclass
class FreshTwin:
    """Let an untrained learner learn a task as often as another one has, from the same batches."""

    untrained: Learner
    learner: Learner
    task: Task
    seed: int
    first_epoch: list[int] = field(default_factory=list)
    """Samples of each batch of the first epoch."""

    def __post_init__(self) -> None:
        self._steps = self.learner.steps

    def __call__(self, outputs: Tensor, labels: Tensor) -> None:
        """Count a batch."""
        self.first_epoch.append(len(labels))

    def value(self) -> dict[str, float]:
        """Return the columns; none if the fresh network diverges."""
        epochs = (self.learner.steps - self._steps) // len(self.first_epoch)
        twin = copy.deepcopy(self.untrained)
        try:
            with torch.random.fork_rng():  # of a network that draws at random, say, by dropout
                (row,) = train_on_stream(
                    twin,
                    [self.task],
                    epochs=epochs,
                    batch_size=max(self.first_epoch),
                    seed=self.seed,
                    metrics=[Metric("test_accuracy", test_accuracy)],
                )
        except Diverged:
            return {}
        fresh = row["test_accuracy"]
        return {"accuracy": fresh, "gap": fresh - test_accuracy(self.learner, self.task)}
