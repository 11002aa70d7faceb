"""Multilayer perceptrons."""

from __future__ import annotations

import math
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
    logit_bound: float = 1.0
    """Bound b of bounded logits, b tanh(z / b)."""

    def __post_init__(self) -> None:
        require_units(self.hidden)
        if not (math.isfinite(self.logit_bound) and self.logit_bound > 0):
            raise ValueError(f"logit-bound {self.logit_bound}: must be positive")
        if self.logit_bound != 1 and not self.bounded_logits:
            raise ValueError(f"logit-bound {self.logit_bound}: only for bounded logits")

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        network = mlp((shape.inputs, *self.hidden, shape.outputs), generator)
        return bounded(network, self.logit_bound) if self.bounded_logits else network


def require_units(hidden: Sequence[int]) -> None:
    """Refuse hidden layers without units, and none at all.

    Raises:
        TypeError: They are no integers, or not in a sequence.
        ValueError: Says which.
    """
    if not isinstance(hidden, Sequence) or not all(hasattr(n, "__index__") for n in hidden):
        raise TypeError(f"hidden {hidden!r}: integers, one for each layer, such as (16,)")
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden {hidden}: at least one layer, of at least one unit")


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
        layers += [glorot(inputs, outputs, generator), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def glorot(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Build a linear layer with Glorot uniform weights and biases of zero."""
    from torch import nn

    linear: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.xavier_uniform_(linear.weight, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear


def bounded(network: nn.Module, bound: float = 1.0) -> nn.Sequential:
    """Bound a network's logits z to (-b, b): b tanh(z / b).

    With b = 1, the range of a Pauli expectation, two logits give 0.119 <= p <= 0.881: neither
    p(1 - p) nor the Fisher trace can vanish by saturation, in a classical network as in a QNN with
    ``SignedPauliZ``. But then ten classes have p <= 0.451, and their cross entropy stays above
    0.796 nats; with b = 5, p <= 0.9996.
    """
    from torch import nn

    if bound == 1:
        return nn.Sequential(network, nn.Tanh())
    from plasticity.networks.modules.units import ScaledTanh

    return nn.Sequential(network, ScaledTanh(bound))
