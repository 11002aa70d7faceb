"""What the test samples' outputs say: accuracy, and how sure the network is of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


def test_accuracy(learner: Learner, task: Task) -> float:
    """Return the fraction of the task's test samples whose largest logit is the label's."""
    with torch.no_grad(), evaluating(learner.network):
        right = [
            (class_logits(learner.network(x)).argmax(1) == y).sum() for x, y in batches(task.test)
        ]
    return int(torch.stack(right).sum()) / len(task.test)


test_accuracy.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest's


def logit_statistics(learner: Learner, task: Task) -> dict[str, float]:
    """Return the means over the test samples of p(1 - p) and of the absolute values of the logits.

    p is the probability of the label. p(1 - p) is by how much the loss's gradient is damped
    where the network is sure; bounded logits keep it from vanishing.
    """
    spread, magnitude, outputs = 0.0, 0.0, 0
    with torch.no_grad(), evaluating(learner.network):
        for x, y in batches(task.test):
            logits = learner.network(x)
            p = class_logits(logits).softmax(1).gather(1, y.unsqueeze(1))
            spread += float((p * (1 - p)).sum())
            magnitude += float(logits.abs().sum())
            outputs += logits.numel()
    return {"label_variance": spread / len(task.test), "magnitude": magnitude / outputs}
