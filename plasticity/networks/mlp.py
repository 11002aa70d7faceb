"""The classical networks and what is put before or behind one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def mlp(widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Build a multilayer perceptron with ReLU between its linear layers.

    Weights are Glorot uniform and biases zero, Keras's default for ``Dense``.

    Args:
        widths: Inputs, hidden widths, outputs: ``(784, 16, 10)`` is the permuted MNIST baseline.
        generator: Source of the initial weights; torch's global generator is left alone.

    Returns:
        A module from ``(batch, widths[0])`` to ``(batch, widths[-1])``.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        nn.init.xavier_uniform_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def bounded(network: nn.Module) -> nn.Sequential:
    """Bound a network's logits to (-1, 1) by tanh, the range of a Pauli expectation.

    Two logits of that range give 0.119 <= p <= 0.881: neither p(1 - p) nor the Fisher trace can
    vanish by saturation, in a classical network as in a QNN with ``SignedPauliZ``.
    """
    return nn.Sequential(network, nn.Tanh())
