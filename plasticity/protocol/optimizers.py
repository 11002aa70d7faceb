"""Optimizers, by the names they have on the command line.

To add one, write a frozen dataclass whose fields are its options and enter it here with its default
options. It has a field ``learning_rate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Optimizer:
    """What all optimizers have."""

    learning_rate: float
    """Size of a step."""

    def build(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Build the optimizer."""
        raise NotImplementedError


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015)."""

    epsilon: float
    """Of the denominator (Keras: 1e-7, torch: 1e-8)."""

    def build(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Build the optimizer."""
        import torch

        return torch.optim.Adam(parameters, lr=self.learning_rate, eps=self.epsilon, fused=True)


@dataclass(frozen=True)
class Sgd(Optimizer):
    """Gradient descent (torch's SGD), with momentum if it is asked for.

    As weights grow, its step beside them shrinks with the square of their norm where the network
    does not see the norm: once as the weights are larger, once as the gradient is smaller. That of
    Adam shrinks with the norm.
    """

    momentum: float = 0.0
    """Factor of the running sum of the gradients; 0: none."""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum}: 0 to less than 1")

    def build(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Build the optimizer."""
        import torch

        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=self.momentum, fused=True
        )


@dataclass(frozen=True)
class Sign(Optimizer):
    """Move each parameter by the learning rate, against the sign of its gradient.

    It is Adam without memory: what Adam's moments do can be told from what its step size does.
    Where the gradient is zero, nothing moves. Source: Bernstein et al. 2018, "signSGD: compressed
    optimization for non-convex problems".
    """

    def build(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Build the optimizer."""
        from plasticity.learning.optimizers import Sign

        return Sign(parameters, self.learning_rate)


@dataclass(frozen=True)
class Muon(Optimizer):
    """Muon (torch's) for matrices, Adam for all other parameters.

    A matrix moves along the nearest isometry of its running gradient, all of whose singular values
    are 1, so that no direction is left out. Its steps are scaled to a root mean square of 0.2 times
    the learning rate, as large as those of Adam usually are, which has the other parameters at the
    same rate. All matrices have it, the first and the last among them, and the angles of a circuit
    are a matrix of gates and angles. Source: Jordan et al. 2024, "Muon: an optimizer for hidden
    layers in neural networks", who leave the first and the last layer to Adam; the scale: Liu et
    al. 2025, "Muon is scalable for LLM training".
    """

    epsilon: float
    """Of Adam's denominator."""
    momentum: float = 0.95
    """Factor of the running mean of the gradients of matrices."""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum}: 0 to less than 1")

    def build(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Build the optimizer."""
        from plasticity.learning.optimizers import Muon

        return Muon(parameters, self.learning_rate, self.momentum, self.epsilon)


OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Adam(learning_rate=1e-3, epsilon=1e-8),
    "sgd": Sgd(learning_rate=1e-1),
    "sign": Sign(learning_rate=1e-3),
    "muon": Muon(learning_rate=1e-2, epsilon=1e-8),
}
