"""Probes: samples that are set apart, and what a copy of the network does on them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from plasticity.learning.learner import Learner
from plasticity.metrics.accuracy import class_logits
from plasticity.networks.evaluating import evaluating
from plasticity.seeding import generator_for
from plasticity.tasks.streams import Task

PROBE_SAMPLES = 64
"""Samples of a probe of which each has gradients of its own (protocol "Split CIFAR-100")."""

TRAINABILITY_SAMPLES = 128
"""Samples that get random labels."""

TRAINABILITY_STEPS = 100
"""Updates on them."""

CHURN_SAMPLES = 128
"""Samples whose outputs are watched."""

CHURN_EVERY = 10
"""Updates from one that is watched to the next."""


def probe(task: Task, seed: int, count: int = PROBE_SAMPLES) -> tuple[Tensor, Tensor]:
    """Return some of the task's training samples, the same at every call.

    All of them where the task has no more than ``count``; a larger probe contains a smaller one.
    """
    order = torch.randperm(len(task.train), generator=generator_for(seed, "probe", task.index))
    return task.train.batch(order[:count])


@dataclass(frozen=True)
class OfSeed:
    """A metric that needs nothing of the beginning but the seed, which decides its samples.

    Attributes:
        seed: Decides which samples.
    """

    seed: int

    @classmethod
    def of(cls, learner: Learner, first: Task, seed: int) -> Self:
        """Remember the seed."""
        return cls(seed)


@dataclass(frozen=True)
class Trainability:
    """Tell how well the network could learn something that has nothing to do with its tasks.

    A copy of the network makes 100 updates on 128 samples of task 0 with labels drawn at random,
    all of them at each update, with a new optimizer of the arm's kind and rate and without
    remedies (what a network itself does after an update, it does). Then

    * ``loss``: the copy's loss on them, nats;
    * ``gap``: that, less the loss of a copy of the untrained network after the same updates. Above
      0 where plasticity is lost.

    Valid for: all networks. Inputs and labels are those of the seed, the same at every task and for
    all arms that see the samples alike. Source: Lyle et al. 2023, "Understanding plasticity in
    neural networks" (their tasks are random regressions as well).

    Attributes:
        x: Inputs.
        labels: Random ones.
        untrained: Loss of the untrained network's copy after the updates.
    """

    x: Tensor
    labels: Tensor
    untrained: float

    @classmethod
    def of(cls, learner: Learner, first: Task, seed: int) -> Trainability:
        """Draw the labels, and train a copy of the untrained network."""
        x, _ = probe(first, seed, TRAINABILITY_SAMPLES)
        with torch.no_grad(), evaluating(learner.network):
            num_classes = class_logits(learner.network(x[:1])).shape[1]
        generator = generator_for(seed, "random labels")
        labels = torch.randint(num_classes, (len(x),), generator=generator).to(x.device)
        return cls(x, labels, loss_of_a_copy(learner, x, labels))

    def __call__(self, learner: Learner, task: Task) -> dict[str, float]:
        """Return the columns."""
        loss = loss_of_a_copy(learner, self.x, self.labels)
        return {"loss": loss, "gap": loss - self.untrained}


def loss_of_a_copy(learner: Learner, x: Tensor, y: Tensor) -> float:
    """Return the loss of a copy of the network after training on these samples, nats.

    The copy is trained in the mode to evaluate, in which nothing is drawn at random.
    """
    network = copy.deepcopy(learner.network).eval()
    learning = Learner(network, learner.make_optimizer, learner.loss)
    with torch.enable_grad():
        for _ in range(TRAINABILITY_STEPS):
            learning.update(x, y)
    with torch.no_grad():
        return float(learner.loss(network(x), y))


@dataclass(frozen=True)
class Churn(OfSeed):
    """Tell how much an update changes the outputs for inputs that are not in its batch.

    Means over 128 of the task's test samples, over every tenth update of its first epoch, and over
    outputs or classes:

    * ``outputs``: |f' - f|, with f the network's outputs before the update and f' after it;
    * ``probabilities``: the same of the class probabilities, which tells arms apart whose logits
      differ in scale.

    Valid for: all networks; it costs two evaluations of 128 samples every tenth update, and has to
    be measured while a task is learned. Source: Tang et al. 2025 (C-CHAIN), "Mitigating plasticity
    loss in continual reinforcement learning by reducing churn". Their released program takes other
    distances: the cross entropy of the policy's probabilities before and after, which has the
    entropy in it, and the mean squared error of values.

    Attributes:
        seed: Decides which of a task's test samples are watched.
    """

    def __call__(self, learner: Learner, task: Task) -> ChurnWatch:
        """Begin to watch."""
        generator = generator_for(self.seed, "churn", task.index)
        order = torch.randperm(len(task.test), generator=generator)
        return ChurnWatch(learner, task.test.batch(order[:CHURN_SAMPLES])[0])


class ChurnWatch:
    """Look at a network before and after some of its updates.

    Args:
        learner: Whose updates.
        x: Inputs that are not in their batches.
    """

    def __init__(self, learner: Learner, x: Tensor) -> None:
        self._learner, self._x = learner, x
        self._calls, self._watched = 0, 0
        self._before: tuple[int, Tensor] | None = None
        self._sums = torch.zeros(2, dtype=torch.float64, device=x.device)

    def __call__(self, outputs: Tensor, labels: Tensor) -> None:
        """Compare if the update before this one was watched; begin with every tenth."""
        self._compare()
        if self._calls % CHURN_EVERY == 0:
            self._before = self._learner.steps, self._evaluated()
        self._calls += 1

    def _evaluated(self) -> Tensor:
        with torch.no_grad(), evaluating(self._learner.network):
            result: Tensor = self._learner.network(self._x)
            return result

    def _compare(self) -> None:
        if self._before is not None and self._learner.steps == self._before[0] + 1:
            before, after = self._before[1], self._evaluated()
            of_classes = class_logits(after).softmax(1) - class_logits(before).softmax(1)
            changes = (after - before).abs().mean(), of_classes.abs().mean()
            self._sums += torch.stack(changes).double()
            self._watched += 1
        self._before = None

    def value(self) -> dict[str, float]:
        """Return the columns; none if no update was watched."""
        self._compare()  # where the epoch's last update was the task's last one
        if not self._watched:
            return {}
        outputs, probabilities = (self._sums / self._watched).tolist()
        return {"outputs": outputs, "probabilities": probabilities}
