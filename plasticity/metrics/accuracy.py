"""What a task's outputs say: accuracy, and how sure the network is of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from plasticity.learning.learner import Learner
from plasticity.metrics.kept import Kept, numbers_of
from plasticity.networks.evaluating import evaluating
from plasticity.tasks.samples import Samples
from plasticity.tasks.streams import Task

EVALUATION_BATCH = 500
"""Samples evaluated at once; it decides nothing else. With 2,000 images arrays leave the cache, and
an evaluation takes four times as long."""


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


_evaluation: Kept[list[tuple[Tensor, Tensor]]] = Kept()


def evaluate(learner: Learner, task: Task) -> list[tuple[Tensor, Tensor]]:
    """Return the network's outputs and the labels of the task's test samples, batch by batch.

    They are kept, since making them costs most of several metrics of a task (see ``Kept``).
    """
    network = learner.network

    def make() -> list[tuple[Tensor, Tensor]]:
        with torch.no_grad(), evaluating(network):
            return [(network(x), y) for x, y in batches(task.test)]

    return _evaluation.get([network, task], [*numbers_of(network)], make)


def test_accuracy(learner: Learner, task: Task) -> float:
    """Return the fraction of the task's test samples whose largest logit is the label's."""
    right = [(class_logits(outputs).argmax(1) == y).sum() for outputs, y in evaluate(learner, task)]
    return int(torch.stack(right).sum()) / len(task.test)


test_accuracy.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest's


def logit_statistics(learner: Learner, task: Task) -> dict[str, float]:
    """Return the means over the test samples of p(1 - p) and of the absolute values of the logits.

    p is the probability of the label. p(1 - p) is by how much the loss's gradient is damped
    where the network is sure; bounded logits keep it from vanishing.
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
    largest = 0.0
    for outputs, _ in evaluate(learner, task):
        logits = class_logits(outputs)
        # A softmax over few classes takes several times as long.
        largest += float((logits.amax(1) - logits.logsumexp(1)).exp().sum())
    return largest / len(task.test)


class OnlineAccuracy:
    """Count how many samples of a task's first epoch are classified right just before their update.

    The mean over the epoch: high where a task is learned fast, whatever is reached in the end. No
    sample has been seen before in this task, so nothing can be had by memorizing. Valid for:
    classifiers. Source: Dohare et al. 2024, "Loss of plasticity in deep continual learning" (online
    permuted MNIST).
    """

    def __init__(self, learner: Learner, task: Task) -> None:
        self._predicted: list[Tensor] = []
        self._labels: list[Tensor] = []

    def __call__(self, outputs: Tensor, labels: Tensor) -> None:
        """Note a batch's."""
        self._predicted.append(class_logits(outputs).argmax(1))
        self._labels.append(labels)

    def value(self) -> float:
        """Return the fraction."""
        if not self._labels:
            return math.nan
        right = torch.cat(self._predicted) == torch.cat(self._labels)
        return int(right.sum()) / len(right)
