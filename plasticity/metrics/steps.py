"""How large a step of the optimizer is beside the weights that it changes, layer by layer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.learning.learner import Learner
from plasticity.metrics.norms import gradients_of
from plasticity.networks.layers import count_of, layers_of, norm_of
from plasticity.tasks.streams import Task

BY_ITS_SIZE = ("Adam", "AdamW", "Muon", "Sign")
"""Optimizers that divide the gradient by its size, so that the learning rate is that of a step."""

ALONG_THE_GRADIENT = ("SGD", "Upgd")
"""Optimizers whose step is the learning rate times the gradient."""


def step(learner: Learner, task: Task) -> dict[str, float]:
    """Return how large a step of the optimizer is beside the weights of each layer.

    ``step_k``, of layer k, counted from 1 in the order of the network's modules (see
    ``layers_of``), with eta its learning rate and W its weights, without biases:

    * of optimizers that divide the gradient by its size, as Adam, AdamW and sign do: eta / RMS(W),
      with RMS(W) the root mean square of the weights; of Muon as it is here 0.2 eta / RMS(W);
    * of SGD and UPGD: eta ||g|| / ||W||, with g the gradient of the loss on the task's first 128
      training samples, as for ``gradient_norm``.

    Both say by which part of itself a matrix would change in an update, if the step were as large
    in all its numbers. As weights grow, it shrinks, although the learning rate stays. It is the
    size that the rule allows: steps of Adam whose gradients change their sign are smaller. The
    momentum of SGD would make them larger, by up to 1 / (1 - momentum).

    Valid for: all networks, of the optimizers above; with others there is no column, and none of a
    frozen layer or of weights that are all zero. Of weights that are made of other parameters, W
    are those parameters: of ``mlp-torus`` the angles. A circuit is one layer, and W its angles; its
    gates are in ``gate``. Source: the effective learning rate of Lyle et al. 2024, "Normalization
    and effective learning rates in reinforcement learning"; eta / RMS(W) is ours.
    """
    gradients = gradients_by_parameter(learner, task)
    steps = {}
    for layer in layers_of(learner.network):
        if layer.weights:
            size = step_of(learner.optimizer, layer.weights, gradients)
            if not math.isnan(size):
                steps[str(layer.number)] = size
    return steps


def gradients_by_parameter(learner: Learner, task: Task) -> dict[nn.Parameter, Tensor] | None:
    """Return the gradients that the optimizer's step depends on; None where it does not."""
    if type(learner.optimizer).__name__ not in ALONG_THE_GRADIENT:
        return None
    return gradients_of(learner, task)


def step_of(
    optimizer: torch.optim.Optimizer, weights: Any, gradients: dict[nn.Parameter, Tensor] | None
) -> float:
    """Return the step of some parameters beside their size; NaN where it is undefined.

    Args:
        optimizer: Of the network.
        weights: The parameters.
        gradients: Of all, where the step depends on them.
    """
    kind, size = type(optimizer).__name__, norm_of(weights)
    if kind not in BY_ITS_SIZE + ALONG_THE_GRADIENT or not size > 0:
        return math.nan
    rate = rate_of(optimizer, weights[0])
    if gradients is not None:
        return rate * norm_of(gradients[p] for p in weights) / size
    return rate * math.sqrt(count_of(weights)) / size


def row_steps(learner: Learner, task: Task, weights: nn.Parameter) -> Tensor:
    """Return the same of each row of a matrix, ``(rows,)`` float64; NaN where it is undefined."""
    kind = type(learner.optimizer).__name__
    norms = torch.linalg.vector_norm(weights.detach().double(), dim=1)
    if kind not in BY_ITS_SIZE + ALONG_THE_GRADIENT:
        return torch.full_like(norms, math.nan)
    rate = rate_of(learner.optimizer, weights)
    gradients = gradients_by_parameter(learner, task)
    if gradients is not None:
        sizes = torch.linalg.vector_norm(gradients[weights].double(), dim=1)
    else:
        sizes = torch.full_like(norms, math.sqrt(weights.shape[1]))
    return torch.where(norms > 0, rate * sizes / norms, math.nan)


def rate_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> float:
    """Return the learning rate of a parameter; NaN if it is not the optimizer's.

    Where a group says ``step_rms``, a step has that root mean square at a rate of 1.
    """
    for group in optimizer.param_groups:
        if any(p is parameter for p in group["params"]):
            return float(group["lr"] * group.get("step_rms", 1.0))
    return math.nan
