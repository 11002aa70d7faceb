"""What a task's outputs say: accuracy, and how sure the network is of them."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plasticity.learning.learner import Learner
from plasticity.tasks.streams import Samples, Task

EVALUATION_BATCH = 2_000
"""Samples evaluated at once: bounds memory, decides nothing else."""


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Set all modules to evaluate, and each back to what it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def batches(samples: Samples) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and labels, at most ``EVALUATION_BATCH`` at once."""
    for start in range(0, len(samples), EVALUATION_BATCH):
        yield samples.batch(slice(start, start + EVALUATION_BATCH))


def class_logits(outputs: Tensor) -> Tensor:
    """Return a logit a class: a single output is that of class 1, beside 0 for class 0.

    Args:
        outputs: Of a network, ``(..., classes)`` or ``(..., 1)``, whose sigmoid is p(1 | x).
    """
    if outputs.shape[-1] > 1:
        return outputs
    return torch.cat([torch.zeros_like(outputs), outputs], -1)


@dataclass(frozen=True)
class _Evaluation:
    """Logits and labels of a task's test samples, and the network that they are of."""

    network: weakref.ref[nn.Module]
    task: weakref.ref[Task]
    numbers: list[Tensor]
    batches: list[tuple[Tensor, Tensor]]

    def is_of(self, network: nn.Module, task: Task) -> bool:
        """Tell whether an evaluation would give the same: compares all numbers of the network."""
        if self.network() is not network or self.task() is not task:
            return False
        pairs = itertools.zip_longest(self.numbers, _numbers(network))
        return all(
            a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b)
            for a, b in pairs
        )


_last: _Evaluation | None = None


def _numbers(network: nn.Module) -> Iterator[Tensor]:
    return (t.detach() for t in itertools.chain(network.parameters(), network.buffers()))


def evaluate(learner: Learner, task: Task) -> list[tuple[Tensor, Tensor]]:
    """Return the network's outputs and the labels of the task's test samples, batch by batch.

    The last evaluation is kept: it is what costs most of several metrics of a task. It is used
    again for the same task and network if all parameters and buffers are equal, number by number,
    to those it was made from: whatever changed them, it cannot go stale.
    """
    global _last
    network = learner.network
    if _last is None or not _last.is_of(network, task):
        with torch.no_grad(), evaluating(network):
            found = [(network(x), y) for x, y in batches(task.test)]
        numbers = [t.clone() for t in _numbers(network)]
        _last = _Evaluation(weakref.ref(network), weakref.ref(task), numbers, found)
    return _last.batches


def test_accuracy(learner: Learner, task: Task) -> float:
    """Return the fraction of the task's test samples whose largest logit is the label's."""
    right = [(class_logits(outputs).argmax(1) == y).sum() for outputs, y in evaluate(learner, task)]
    return int(torch.stack(right).sum()) / len(task.test)


test_accuracy.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest's


def logit_statistics(learner: Learner, task: Task) -> dict[str, float]:
    """Return the means over the test samples of p(1 - p), p of the label, and of all |logit|.

    p(1 - p) is by how much the loss's gradient is damped where the network is sure; bounded logits
    keep it from vanishing.
    """
    spread, magnitude, outputs = 0.0, 0.0, 0
    for logits, y in evaluate(learner, task):
        p = class_logits(logits).softmax(1).gather(1, y.unsqueeze(1))
        spread += float((p * (1 - p)).sum())
        magnitude += float(logits.abs().sum())
        outputs += logits.numel()
    return {"label_variance": spread / len(task.test), "magnitude": magnitude / outputs}


def max_probability(learner: Learner, task: Task) -> float:
    """Return the mean over the test samples of the largest class's probability, right or wrong.

    From 1 / classes, where the network says nothing, to 1, where it is sure of every sample. Valid
    for: classifiers; a single output is the logit of class 1, beside 0 for class 0.
    """
    largest = [class_logits(x).softmax(1).amax(1).sum() for x, _ in evaluate(learner, task)]
    return float(torch.stack(largest).sum()) / len(task.test)


class OnlineAccuracy:
    """Count how many samples of a task's first epoch are classified right just before their update.

    The mean over the epoch: high where a task is learned fast, whatever is reached in the end. No
    sample has been seen before in this task, so nothing can be had by memorising. Valid for:
    classifiers. Source: Dohare et al. 2024, "Loss of plasticity in deep continual learning" (online
    permuted MNIST).
    """

    def __init__(self, learner: Learner, task: Task) -> None:
        self._right = torch.zeros((), dtype=torch.int64, device=learner.device)
        self._seen = 0

    def __call__(self, outputs: Tensor, labels: Tensor) -> None:
        """Count a batch's."""
        self._right += (class_logits(outputs).argmax(1) == labels).sum()
        self._seen += len(labels)

    def value(self) -> float:
        """Return the fraction."""
        return int(self._right) / self._seen if self._seen else math.nan
