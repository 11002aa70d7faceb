"""Layers and multilayer perceptrons whose weights, or whose parameters too, cannot grow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import parametrizations, parametrize

from plasticity.networks.modules.orthonormal import orthonormalized
from plasticity.networks.trained import is_trained


class TorusLinear(nn.Module):
    """A linear layer whose weights and biases are bound * sin(angle).

    Args:
        weight_angles: First values, ``(outputs, inputs)``, radians.
        bound: Of the weights' and biases' sizes.
        wrap: Keep the angles within [-pi, pi], which changes no weight.

    Attributes:
        weight_angles: The parameter.
        bias_angles: The parameter, ``(outputs,)``, at first 0.
    """

    def __init__(self, weight_angles: Tensor, bound: float, wrap: bool) -> None:
        super().__init__()
        self.weight_angles = nn.Parameter(weight_angles)
        self.bias_angles = nn.Parameter(torch.zeros(len(weight_angles)))
        self.bound = bound
        self.wrap = wrap

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs)`` to ``(batch, outputs)``."""
        weight, bias = self.bound * self.weight_angles.sin(), self.bound * self.bias_angles.sin()
        return linear(x, weight, bias)

    @torch.no_grad()
    def after_update(self) -> None:
        """Take whole turns off angles beyond [-pi, pi]; leave the others, bit for bit."""
        if self.wrap:
            for angles in filter(is_trained, (self.weight_angles, self.bias_angles)):
                angles.sub_(2 * math.pi * (angles / (2 * math.pi)).round())

    def extra_repr(self) -> str:
        """Describe it."""
        outputs, inputs = self.weight_angles.shape
        return f"inputs={inputs}, outputs={outputs}, bound={self.bound:.4g}, wrap={self.wrap}"


class OnSpheres(nn.Sequential):
    """A network each of whose linear layers has a norm of its own that stays.

    Args:
        layers: As of ``nn.Sequential``; linear ones are scaled at once.
        growth: Norm to hold, relative to the norm with which a layer comes.
        with_biases: Hold the norm of weights and biases together; or else that of the weights, and
            leave the biases free.

    Attributes:
        norms: What is held, ``(linear layers,)``; a buffer.
    """

    norms: Tensor

    def __init__(self, layers: Sequence[nn.Module], growth: float, with_biases: bool) -> None:
        super().__init__(*layers)
        self.with_biases = with_biases
        norms = [growth * _norm(held).detach() for held in self._held()]
        self.register_buffer("norms", torch.stack(norms))
        self.after_update()

    @torch.no_grad()
    def after_update(self) -> None:
        """Scale each layer to its norm, after a step of the optimizer; not one that is frozen."""
        for held, norm in zip(self._held(), self.norms, strict=True):
            if not all(map(is_trained, held)):
                continue
            scale = norm / _norm(held)
            for tensor in held:
                tensor *= scale

    def _held(self) -> list[list[Tensor]]:
        """Return for each linear layer the parameters whose norm is held."""
        linears = [layer for layer in self if isinstance(layer, nn.Linear)]
        return [[layer.weight, layer.bias][: 1 + self.with_biases] for layer in linears]


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()


class OrthogonalHidden(nn.Sequential):
    """A network whose linear layers but the last have a gain times orthonormal rows or columns.

    Rows where a layer has fewer outputs than inputs, or else columns. The parameters themselves
    stay so.

    Args:
        layers: As of ``nn.Sequential``; the matrices of linear ones are orthonormalized at once.
        gain: Singular value of those matrices.
    """

    def __init__(self, layers: Sequence[nn.Module], gain: float) -> None:
        super().__init__(*layers)
        self.gain = gain
        self.after_update()

    @torch.no_grad()
    def after_update(self) -> None:
        """Put the matrices back, after a step of the optimizer; not those that are frozen."""
        *hidden, _ = (layer for layer in self if isinstance(layer, nn.Linear))
        for layer in hidden:
            if is_trained(layer.weight):
                layer.weight.copy_(self.gain * thin_orthonormalized(layer.weight))


def thin_orthonormalized(matrix: Tensor) -> Tensor:
    """Return a matrix with orthonormal columns, or rows if there are fewer (see there)."""
    rows, columns = matrix.shape
    return orthonormalized(matrix) if rows >= columns else orthonormalized(matrix.mT).mT


class _Gain(nn.Module):
    """A parametrization: the gain times what comes before it."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, matrix: Tensor) -> Tensor:
        return self.gain * matrix


def reflected(layer: nn.Linear, gain: float) -> nn.Module:
    """Make a layer's matrix a gain times a product of Householder reflections, whose vectors learn.

    Source: ``torch.nn.utils.parametrizations.orthogonal`` with ``orthogonal_map="householder"``.
    """
    with torch.no_grad():
        layer.weight.copy_(thin_orthonormalized(layer.weight))
    parametrizations.orthogonal(layer, orthogonal_map="householder", use_trivialization=False)
    return parametrize.register_parametrization(layer, "weight", _Gain(gain))
