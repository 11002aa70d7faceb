"""Multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from plasticity.networks.network import Network, Shape

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Mlp(Network):
    """Classify with a multilayer perceptron of ReLU units.

    Weights are Glorot uniform and biases zero, Keras's default for ``Dense``. Source: the released
    program's classical arms.
    """

    hidden: tuple[int, ...]
    """Units of each hidden layer."""
    bounded_logits: bool = False
    """Bound the logits to (-1, 1) by tanh, the range of a Pauli expectation."""

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden {self.hidden}: at least one layer, of at least one unit")

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        network = mlp((shape.inputs, *self.hidden, shape.outputs), generator)
        return bounded(network) if self.bounded_logits else network


def mlp(widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Build a multilayer perceptron with ReLU between its linear layers.

    Weights are Glorot uniform and biases zero, Keras's default for ``Dense``.

    Args:
        widths: Inputs, hidden widths, outputs: ``(784, 16, 10)`` is the permuted MNIST baseline.
        generator: Source of the initial weights; torch's global generator is left alone.

    Returns:
        A module from ``(batch, widths[0])`` to ``(batch, widths[-1])``.
    """
    from torch import nn

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
    from torch import nn

    return nn.Sequential(network, nn.Tanh())
