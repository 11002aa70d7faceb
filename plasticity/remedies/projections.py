"""Remedies that put weights back to where they are allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plasticity.learning.column import FRACTION, Column
from plasticity.learning.remedy import Learns, Remedy
from plasticity.networks.trained import is_trained
from plasticity.remedies.limits import require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class WeightClipping(Remedy):
    """Clip the weights to a multiple of their first range after each update.

    w <- min(max(w, -kappa s), kappa s), s = 1 / sqrt(inputs of the layer), for weights and biases
    of all linear layers. s is the bound of torch's own first draw. Networks here begin as Glorot
    uniform, within sqrt(6 / (inputs + units)): that is 2.4 s in a first layer of many inputs. So
    kappa = 3, the default, leaves the first weights as they are; kappa below 2.4 does not.

    Source: Elsayed et al. 2024, "Weight clipping for deep continual and reinforcement learning",
    whose kappa is 1 to 5, and the released program, which clips biases too. That program can leave
    out the last layer, and does not by default; here no layer can be left out. Parameters that must
    stay on a manifold are refused. The column ``weight_clipping_fraction`` is the part of the
    numbers that were clipped, over the updates since the last row.
    """

    tuned = "multiple"
    tries = (1.0, 2.0, 3.0, 4.0, 5.0)
    declared = (
        Column(
            "weight_clipping_fraction", "numbers that were clipped", "fraction", bounds=FRACTION
        ),
    )

    multiple: float
    """Multiple kappa of 1 / sqrt(inputs); 0: no clipping."""

    def __post_init__(self) -> None:
        require(self, 0, math.inf, "multiple")

    def start(self, learner: Learns, seed: int) -> None:
        """Find the layers."""
        import torch

        from plasticity.remedies.layers import linear_layers, require_free

        layers = linear_layers(learner.network, "weight-clipping")
        require_free(learner.network, "weight-clipping")
        self._bounds = {
            p: self.multiple / math.sqrt(layer.in_features)
            for layer in layers
            for p in (layer.weight, layer.bias)
        }
        device = layers[0].weight.device
        self._clipped = torch.zeros((), dtype=torch.int64, device=device)
        self._numbers = 0

    def after_update(self, step: int) -> None:
        """Clip."""
        import torch

        parameters = [p for p in self._bounds if is_trained(p)]
        if self.multiple == 0 or not parameters:
            return
        bounds = [self._bounds[p] for p in parameters]
        with torch.no_grad():
            for parameter, bound in zip(parameters, bounds, strict=True):
                self._numbers += parameter.numel()
                self._clipped += (parameter.abs() > bound).sum()
            torch._foreach_clamp_min_(parameters, [-bound for bound in bounds])
            torch._foreach_clamp_max_(parameters, bounds)

    def columns(self) -> dict[str, float]:
        """Return the part of the numbers that were clipped since the last row."""
        fraction = int(self._clipped) / max(self._numbers, 1)
        self._clipped.zero_()
        self._numbers = 0
        return {"weight_clipping_fraction": fraction}


@dataclass
class Isometry(Remedy):
    """Replace each matrix by its nearest isometry when a task begins.

    W <- sqrt(outputs / inputs) P, where P is the polar factor of W: the nearest matrix whose
    singular values are all 1. It is computed by Newton and Schulz: X = W / norm(W), then in each
    iteration X <- 3/2 X - 1/2 X X^T X. A singular value grows by at most 3/2 an iteration: with
    10, those below about 1/50 of norm(W) are not yet 1 at the end. All linear layers have it, and
    biases stay. Before task 0 nothing is done.

    Source: Han et al. 2026, "FIRE: Frobenius-isometry reinitialization for balancing the
    stability-plasticity tradeoff", and its released program. Our deviation: the optimizer's moments
    stay. The released program for images makes a new optimizer at each task:
    ``mlp+reset-optimizer+isometry``. It is told where tasks begin. Parameters that must stay on a
    manifold are refused. The column ``isometry_change`` is norm(change) / norm(W) over all matrices
    together, since the last row.
    """

    declared = (Column("isometry_change", "relative change by isometry"),)

    iterations: int
    """Iterations of Newton and Schulz; 0: nothing is done."""

    def __post_init__(self) -> None:
        require(self, 0, math.inf, "iterations")

    def start(self, learner: Learns, seed: int) -> None:
        """Find the matrices."""
        from plasticity.remedies.layers import linear_layers, require_free

        self._change = 0.0
        layers = linear_layers(learner.network, "isometry")
        require_free(learner.network, "isometry")
        self._weights = list(dict.fromkeys(layer.weight for layer in layers))

    def before_task(self, index: int) -> None:
        """Replace the matrices, if this is not the first task."""
        import torch

        weights = [weight for weight in self._weights if is_trained(weight)]
        if index == 0 or self.iterations == 0 or not weights:
            return
        before = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight in weights:
                outputs, inputs = weight.shape
                weight.copy_(math.sqrt(outputs / inputs) * polar_factor(weight, self.iterations))
            after = [weight.detach() for weight in weights]
        changes = torch.stack(torch._foreach_norm(torch._foreach_sub(before, after)))
        self._change = float(changes.norm() / torch.stack(torch._foreach_norm(before)).norm())

    def columns(self) -> dict[str, float]:
        """Return how far the matrices were moved, relative to their norm."""
        change, self._change = self._change, 0.0
        return {"isometry_change": change}


def polar_factor(matrix: Tensor, iterations: int) -> Tensor:
    """Return the nearest matrix with singular values of 1, as far as the iterations go.

    Args:
        matrix: ``(rows, columns)``, real; zero stays zero.
        iterations: Of Newton and Schulz.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.mT
    x = x / x.norm().clamp(min=1e-30)
    for _ in range(iterations):
        x = 1.5 * x - 0.5 * (x @ x.mT) @ x
    result: Tensor = x if wide else x.mT
    return result
