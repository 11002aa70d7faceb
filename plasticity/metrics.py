"""What is measured: a metric is a function of learner and task, and when it is due.

A metric leaves the learner and all random states as it found them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from plasticity.learners import Learner
from plasticity.qnn import QNN
from plasticity.streams import Samples, Task

GRADIENT_BATCH = 128
"""Samples of the gradient norm (protocol "Permuted MNIST")."""

EVALUATION_BATCH = 2_000
"""Samples evaluated at once: bounds memory, decides nothing else."""


@dataclass(frozen=True)
class Metric:
    """A quantity and its schedule.

    Attributes:
        name: Its column in the rows.
        fn: From the learner and the task at hand to a number.
        when: Before the task's first update or after its last.
        every: Due at tasks 0, every, 2 every, ...
    """

    name: str
    fn: Callable[[Learner, Task], float]
    when: Literal["before", "after"] = "after"
    every: int = 1

    def __post_init__(self) -> None:
        if self.when not in ("before", "after") or self.every < 1:
            raise ValueError(f"metric {self.name}: when={self.when!r}, every={self.every}")

    def due(self, when: str, index: int) -> bool:
        """Tell whether the metric is to be taken at this point of task ``index``."""
        return when == self.when and index % self.every == 0


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _batches(samples: Samples) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(samples), EVALUATION_BATCH):
        yield samples.batch(slice(start, start + EVALUATION_BATCH))


def test_accuracy(learner: Learner, task: Task) -> float:
    """Return the fraction of the task's test samples whose largest logit is the label's."""
    with torch.no_grad(), _evaluating(learner.network):
        right = [(learner.network(x).argmax(1) == y).sum() for x, y in _batches(task.test)]
    return int(torch.stack(right).sum()) / len(task.test)


test_accuracy.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest's


def weight_norm(learner: Learner, task: Task) -> float:
    """Return the mean Frobenius norm of the weight tensors.

    Weight tensors are the matrices of linear layers, without biases, and of a QNN its angles split
    by ``ansatz.gate_groups`` (even and odd bricks). Source: protocol "Permuted MNIST".
    """
    norms = [
        torch.linalg.vector_norm(part)
        for module in learner.network.modules()
        for part in _weights(module)
    ]
    return float(torch.stack(norms).mean())


def _weights(module: nn.Module) -> list[Tensor]:
    if isinstance(module, QNN):
        return [module.angles.detach()[list(g)] for g in module.ansatz.gate_groups]
    if isinstance(module, nn.Linear):
        return [module.weight.detach()]
    return []


def gradient_norm(learner: Learner, task: Task) -> float:
    """Return the mean norm of the loss's gradient over the parameter tensors.

    On the task's first 128 training samples; biases count as tensors of their own, and a QNN's
    angles are split as in ``weight_norm``. Source: protocol "Permuted MNIST".
    """
    groups = {
        id(module.angles): module.ansatz.gate_groups
        for module in learner.network.modules()
        if isinstance(module, QNN)
    }
    parameters = list(learner.network.parameters())
    x, y = task.train.batch(slice(0, GRADIENT_BATCH))
    with torch.enable_grad(), _evaluating(learner.network):
        gradients = torch.autograd.grad(learner.loss(learner.network(x), y), parameters)
    norms = []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parts = [gradient[list(g)] for g in groups.get(id(parameter), ())] or [gradient]
        norms += [torch.linalg.vector_norm(part) for part in parts]
    return float(torch.stack(norms).mean())
