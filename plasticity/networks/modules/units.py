"""Nonlinearities, and a layer that is not learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScaledTanh(nn.Module):
    """Bound numbers z to (-b, b) by b tanh(z / b), which is z near 0."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(batch, units)`` to the same."""
        return self.bound * (z / self.bound).tanh()

    def extra_repr(self) -> str:
        """Describe it."""
        return f"bound={self.bound}"


class MaxMin(nn.Module):
    """Sort units 2i and 2i + 1: all the larger ones, then all the smaller ones.

    A permutation, so that neither a norm nor a gradient's norm changes. Source: GroupSort with
    groups of two of Anil, Lucas and Grosse 2019, "Sorting out Lipschitz function approximation".
    """

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(batch, units)``, an even number of units, to the same."""
        first, second = z.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], -1)


class SineAndCosine(nn.Module):
    """Make two units of each number: the sines of all, then the cosines of all."""

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(batch, numbers)`` to ``(batch, 2 numbers)``."""
        return torch.cat([z.sin(), z.cos()], -1)


class FixedProjection(nn.Module):
    """Multiply by a matrix that is not learned.

    Args:
        matrix: ``(inputs, outputs)``; a buffer.
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs)`` to ``(batch, outputs)``."""
        return x @ self.matrix

    def extra_repr(self) -> str:
        """Describe it."""
        return f"inputs={self.matrix.shape[0]}, outputs={self.matrix.shape[1]}"
