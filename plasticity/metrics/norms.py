"""Norms of a network's weights and of the loss's gradient in them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from plasticity.learning.learner import Learner
from plasticity.metrics.accuracy import evaluating
from plasticity.quantum.layer import QNN
from plasticity.tasks.streams import Task

GRADIENT_BATCH = 128
"""Samples of the gradient norm (protocol "Permuted MNIST")."""


def weight_norm(learner: Learner, task: Task) -> float:
    """Return the mean Frobenius norm of the weight tensors; NaN where there is none.

    Weight tensors are the matrices of linear layers, without biases, and of a QNN its angles split
    by ``ansatz.gate_groups`` (even and odd bricks). Of any other module they are its own parameters
    of two dimensions or more. Source: protocol "Permuted MNIST".
    """
    norms = [
        torch.linalg.vector_norm(part)
        for module in learner.network.modules()
        for part in _weights(module)
    ]
    return float(torch.stack(norms).mean()) if norms else math.nan


def _weights(module: nn.Module) -> list[Tensor]:
    if isinstance(module, QNN):
        return [module.angles.detach()[list(g)] for g in module.ansatz.gate_groups]
    return [p.detach() for p in module.parameters(recurse=False) if p.dim() > 1]


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
    with torch.enable_grad(), evaluating(learner.network):
        gradients = torch.autograd.grad(learner.loss(learner.network(x), y), parameters)
    norms = []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parts = [gradient[list(g)] for g in groups.get(id(parameter), ())] or [gradient]
        norms += [torch.linalg.vector_norm(part) for part in parts]
    return float(torch.stack(norms).mean())
