"""Remedies that put weights back to where they are allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plasticity.errors import DoesNotFit
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
class Hold(Remedy):
    """Hold each matrix of chosen layers at or below a multiple of its first norm.

    After each update W <- W min(1, c norm(W_0) / norm(W)), norm the Frobenius norm of the weights
    of a layer, biases left alone, and W_0 the weights with which it began. So the step of the layer
    beside its weights cannot shrink by more than the factor c (see the metric ``step``). The
    optimizer's moments stay.

    Source: ours; as an intervention for one layer at a time, so that one sees whose growth matters.
    Layers are counted from 1 in the order of the network's modules; a circuit is one layer, whose
    weights are its angles. Parameters that must stay on a manifold are refused. The column
    ``hold_fraction`` is the part of the updates, over the layers that are held, in which the norm
    was cut since the last row.
    """

    tuned = "multiple"
    tries = (1.0, 2.0, 4.0, 8.0, 16.0)
    declared = (Column("hold_fraction", "updates that hold cut back", "fraction", bounds=FRACTION),)

    layers: tuple[str, ...]
    """Which: ``first``, ``last``, ``all``, or numbers from 1 on."""
    multiple: float
    """Greatest norm, as a multiple c of the first one; 0: nothing is held."""

    def __post_init__(self) -> None:
        require(self, 0, math.inf, "multiple")
        words = (self.layers,) if isinstance(self.layers, str) else tuple(self.layers)
        for word in words:
            if word not in ("first", "last", "all") and not (word.isdecimal() and int(word)):
                raise ValueError(f"layers {word}: first, last, all, or numbers from 1 on")
        if not words:
            raise ValueError("layers: name at least one of first, last, all, or a number")
        self.layers = words

    def start(self, learner: Learns, seed: int) -> None:
        """Find the matrices and their norms."""
        import torch

        from plasticity.networks.layers import layers_of
        from plasticity.remedies.layers import require_free

        require_free(learner.network, "hold")
        layers = layers_of(learner.network)
        chosen: set[int] = set()
        for word in self.layers:
            if word == "all":
                chosen.update(layer.number for layer in layers)
            else:
                number = {"first": 1, "last": len(layers)}.get(word) or int(word)
                if not 1 <= number <= len(layers):
                    raise DoesNotFit(f"hold: there is no layer {word}; there are {len(layers)}")
                chosen.add(number)
        found: list[list[Tensor]] = [
            [p for p in layer.parameters if p.dim() > 1]
            for layer in layers
            if layer.number in chosen
        ]
        self._held = [weights for weights in found if weights]
        if not self._held:
            raise DoesNotFit("hold needs a layer with weights of its own")
        self._first = torch.stack([self._norm(weights) for weights in self._held])
        if not (self._first > 0).all():
            raise DoesNotFit("hold: a layer begins with weights that are zero, and has no norm")
        self._cut = torch.zeros((), dtype=torch.int64, device=self._first.device)
        self._looks = 0

    @staticmethod
    def _norm(weights: Sequence[Tensor]) -> Tensor:
        import torch

        norms = torch.stack(torch._foreach_norm([w.detach() for w in weights]))
        norm: Tensor = torch.linalg.vector_norm(norms)
        return norm

    def after_update(self, step: int) -> None:
        """Cut the norms that are too large."""
        if self.multiple == 0:
            return
        import torch

        with torch.no_grad():
            for weights, first in zip(self._held, self._first, strict=True):
                if not all(map(is_trained, weights)):
                    continue
                factor = self.multiple * first / self._norm(weights)
                self._cut += factor < 1
                self._looks += 1
                torch._foreach_mul_(weights, factor.clamp(max=1))

    def columns(self) -> dict[str, float]:
        """Return the part of the looks at which a norm was cut since the last row."""
        fraction = int(self._cut) / max(self._looks, 1)
        self._cut.zero_()
        self._looks = 0
        return {"hold_fraction": fraction}

    def state_dict(self) -> dict[str, Any]:
        """Return the first norms."""
        return {"first": self._first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the first norms of a ``state_dict``."""
        self._first = state["first"].to(self._first.device)


@dataclass
class SoftRescaling(Remedy):
    """Scale all weights down a little in each update, and leave the classes.

    W_l <- c_l W_l and b_l <- (c_1 ... c_l) b_l, with c_l = (lambda n_l + (1 - lambda) norm(W_l)) /
    norm(W_l) and n_l the norm with which the layer began; no layer is scaled up. ReLU units pass
    factors on, so that all logits are multiplied by c_1 ... c_L: the likeliest class stays, and
    probabilities become a little less sure. A layer that has grown more is scaled down more, which
    balances the layers.

    Source: Oh et al. 2025, "Recovering plasticity of neural networks via soft weight rescaling"
    (arXiv:2507.04683), after its description; lambda is ours, and so is that nothing is scaled up.
    The optimizer's moments stay. For linear layers with ReLU units between them, without
    normalization; frozen layers, and parameters that must stay on a manifold, are refused. The
    column ``soft_rescaling_shrink`` is the mean of 1 - c_l over layers and updates since the last
    row.
    """

    tuned = "strength"
    tries = (1e-4, 1e-3, 1e-2, 1e-1)
    declared = (Column("soft_rescaling_shrink", "part that soft rescaling takes off"),)

    strength: float
    """Part lambda of the way back to the first norm, an update; 0: none."""

    def __post_init__(self) -> None:
        require(self, 0, 1, "strength")

    def start(self, learner: Learns, seed: int) -> None:
        """Find the layers and their norms."""
        import torch

        from plasticity.remedies.layers import hidden_layers, require_free

        hidden = hidden_layers(learner.network, "soft-rescaling")
        require_free(learner.network, "soft-rescaling")
        if any(layer.normalized for layer in hidden):
            raise DoesNotFit("soft-rescaling: a normalization does not pass factors on")
        self._layers = [hidden[0].incoming, *(layer.outgoing for layer in hidden)]
        parameters = [p for layer in self._layers for p in (layer.weight, layer.bias)]
        if not all(map(is_trained, parameters)):
            raise DoesNotFit("soft-rescaling needs layers that are trained, biases too")
        if len({*parameters}) < len(parameters):
            raise DoesNotFit("soft-rescaling needs layers that share no weights")
        self._first = torch.stack([layer.weight.detach().norm() for layer in self._layers])
        self._shrink = torch.zeros((), device=self._first.device)
        self._updates = 0

    def after_update(self, step: int) -> None:
        """Scale the layers down."""
        if self.strength == 0:
            return
        import torch

        with torch.no_grad():
            norms = torch.stack([layer.weight.norm() for layer in self._layers])
            factors = 1 + self.strength * (self._first / norms.clamp(min=1e-30) - 1).clamp(max=0)
            passed = factors.cumprod(0)
            for layer, own, of_all in zip(self._layers, factors, passed, strict=True):
                layer.weight.mul_(own)
                layer.bias.mul_(of_all)
            self._shrink += (1 - factors).mean()
        self._updates += 1

    def columns(self) -> dict[str, float]:
        """Return the mean part that was taken off since the last row."""
        mean = float(self._shrink) / max(self._updates, 1)
        self._shrink.zero_()
        self._updates = 0
        return {"soft_rescaling_shrink": mean}

    def state_dict(self) -> dict[str, Any]:
        """Return the first norms."""
        return {"first": self._first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the first norms of a ``state_dict``."""
        self._first = state["first"].to(self._first.device)


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
