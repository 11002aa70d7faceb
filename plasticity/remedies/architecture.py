"""Remedies that change the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from plasticity.errors import DoesNotFit
from plasticity.learning.column import Column
from plasticity.learning.remedy import Learns, Remedy
from plasticity.networks.trained import is_trained
from plasticity.remedies.limits import require

if TYPE_CHECKING:
    from torch import nn


@dataclass
class LayerNorm(Remedy):
    """Normalize each hidden layer's numbers before its ReLU.

    z <- (z - mean) / sqrt(variance + 1e-5), over the units of a layer, for each sample by itself.

    Source: Lyle et al. 2023, "Understanding plasticity in neural networks"; with ``l2`` it is the
    remedy of Lyle et al. 2024, "Disentangling the causes of plasticity loss in neural networks".
    Our deviation: it has no scale and no offset of its own, as that of ``mlp-sphere-ln``. So
    networks with it and without it have the same parameters and begin with the same numbers. For
    hidden ReLU units between linear layers; a layer's variance needs two units. It has no column:
    where it does not act it is refused.
    """

    def on_build(self, network: nn.Module) -> nn.Module:
        """Put it in."""
        from torch import nn

        from plasticity.remedies.layers import hidden_layers

        for layer in hidden_layers(network, "layer-norm"):
            width = layer.incoming.out_features
            if layer.normalized or width < 2:
                why = "has it already" if layer.normalized else f"has {width} unit"
                raise DoesNotFit(f"layer-norm: a hidden layer {why}")
            _replace(
                network, layer.units,
                nn.LayerNorm(width, elementwise_affine=False), nn.ReLU(),
            )  # fmt: skip
        return network


@dataclass
class LeakyRelu(Remedy):
    """Let units pass a little of what is below zero, so that none can die.

    h = max(z, 0) + slope min(z, 0), in place of max(z, 0).

    Source: Maas, Hannun and Ng 2013, "Rectifier nonlinearities improve neural network acoustic
    models", with 0.01; one of the baselines of Dohare et al. 2024. For hidden ReLU units between
    linear layers, also after a LayerNorm. A unit that is zero for all samples is no longer there to
    be seen: remedies and metrics that look for dead ReLU units find none. It has no column: where
    it does not act it is refused.
    """

    slope: float
    """Slope below zero; 0: ReLU."""

    def __post_init__(self) -> None:
        require(self, 0, 1, "slope")

    def on_build(self, network: nn.Module) -> nn.Module:
        """Put it in."""
        from torch import nn

        from plasticity.remedies.layers import hidden_layers

        layers = hidden_layers(network, "leaky-relu")
        if self.slope:
            for units in dict.fromkeys(layer.units for layer in layers):
                _replace(network, units, nn.LeakyReLU(self.slope))
        return network


@dataclass
class NormalizeAndProject(Remedy):
    """Normalize each hidden layer before its ReLU, and hold all matrices' norms.

    LayerNorm before the units, z <- gain (z - mean) / sqrt(variance + 1e-5) + offset, and after
    each update W <- W norm(W_0) / norm(W) for each matrix, the last one among them. So the network
    sees no difference between W and a multiple of it, and its effective learning rate is the same
    for ever. Gains and offsets are not scale invariant, and have to be held apart: ``jointly``,
    gain and offset of a layer are put back to the norm that both together began with; ``decayed``,
    they are pulled to 1 and 0 by the factor 1 - decay in each update; ``none``, there are none.

    Source: Lyle et al. 2024, "Normalization and effective learning rates in reinforcement
    learning": Normalize-and-Project, Algorithm 1. ``mlp-sphere-ln`` is near it, but holds weights
    at three times their first norm, holds the biases with them, and has no gains. Our deviations:
    the biases of linear layers stay and are learned; the rate of the decay is ours. For hidden ReLU
    units between linear layers whose matrices are free; frozen ones stay. The column ``nap_growth``
    is the mean over the matrices and the updates since the last row of |norm(W) / norm(W_0) - 1|,
    before it is undone: what one update would have added.
    """

    declared = (Column("nap_growth", "growth that an update of NaP undoes"),)

    gains: Literal["jointly", "decayed", "none"]
    """How gains and offsets of the normalization are held; none: there are none."""
    decay: float
    """Part by which decayed gains and offsets are pulled back in each update."""

    def __post_init__(self) -> None:
        require(self, 0, 1, "decay")

    def on_build(self, network: nn.Module) -> nn.Module:
        """Put the normalization in."""
        from torch import nn

        from plasticity.remedies.layers import hidden_layers, require_free

        layers = hidden_layers(network, "nap")
        require_free(network, "nap")
        for layer in layers:
            width = layer.incoming.out_features
            if layer.normalized or width < 2:
                why = "has it already" if layer.normalized else f"has {width} unit"
                raise DoesNotFit(f"nap: a hidden layer {why}")
            norm = nn.LayerNorm(width, elementwise_affine=self.gains != "none")
            _replace(network, layer.units, norm, nn.ReLU())
        return network

    def start(self, learner: Learns, seed: int) -> None:
        """Find the matrices and their norms."""
        import torch

        from plasticity.remedies.layers import linear_layers

        self._norms = [
            module
            for module in learner.network.modules()
            if isinstance(module, torch.nn.LayerNorm) and module.elementwise_affine
        ]
        layers = linear_layers(learner.network, "nap")
        self._weights = list(dict.fromkeys(layer.weight for layer in layers))
        self._first = torch.stack([w.detach().norm() for w in self._weights])
        self._growth = torch.zeros((), device=self._first.device)
        self._updates = 0

    def after_update(self, step: int) -> None:
        """Put the norms back."""
        import torch

        with torch.no_grad():
            grown = []
            for weight, first in zip(self._weights, self._first, strict=True):
                if is_trained(weight):
                    norm = weight.norm().clamp(min=1e-30)
                    grown.append(norm / first - 1)
                    weight.mul_(first / norm)
            if grown:
                self._growth += torch.stack(grown).abs().mean()
            for norm in self._norms:
                if not (is_trained(norm.weight) and is_trained(norm.bias)):
                    continue
                if self.gains == "jointly":
                    together = torch.cat([norm.weight, norm.bias]).norm().clamp(min=1e-30)
                    factor = math.sqrt(norm.weight.numel()) / together
                    norm.weight.mul_(factor)
                    norm.bias.mul_(factor)
                else:
                    norm.weight.lerp_(torch.ones_like(norm.weight), self.decay)
                    norm.bias.mul_(1 - self.decay)
        self._updates += 1

    def columns(self) -> dict[str, float]:
        """Return the mean growth of an update since the last row."""
        mean = float(self._growth) / max(self._updates, 1)
        self._growth.zero_()
        self._updates = 0
        return {"nap_growth": mean}

    def state_dict(self) -> dict[str, Any]:
        """Return the first norms."""
        return {"first": self._first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the first norms of a ``state_dict``."""
        self._first = state["first"].to(self._first.device)


@dataclass
class CRelu(Remedy):
    """Give each hidden number two units, its positive and its negative part.

    h = [max(z, 0), max(-z, 0)], with half as many numbers z as there were units: so a layer has as
    many units as without it, and no number's gradient vanishes. Half of the weights into each such
    layer are gone: an MLP 1024-16-10 has 8,370 parameters in place of 16,570.

    Source: Abbas et al. 2023, "Loss of plasticity in continual deep reinforcement learning". The
    first half of a layer's weights stay, scaled so that they are Glorot uniform for the new width.
    For hidden ReLU units between linear layers, an even number in each, without LayerNorm. A layer
    whose incoming weights are frozen keeps its ReLU. It has no column: where it does not act it is
    refused.
    """

    def on_build(self, network: nn.Module) -> nn.Module:
        """Put it in."""
        from plasticity.remedies.layers import hidden_layers, require_free
        from plasticity.remedies.modules import ConcatenatedReLU

        layers = [
            layer
            for layer in hidden_layers(network, "crelu")
            if is_trained(layer.incoming.weight) and is_trained(layer.incoming.bias)
        ]
        if not layers:
            raise DoesNotFit("crelu needs a hidden layer whose incoming weights are trained")
        if len({id(layer.incoming.weight) for layer in layers}) < len(layers):
            raise DoesNotFit("crelu needs hidden layers that share no weights")
        require_free(network, "crelu")
        for layer in layers:
            width = layer.incoming.out_features
            if layer.normalized or width % 2:
                why = "a LayerNorm" if layer.normalized else f"{width} units, an odd number"
                raise DoesNotFit(f"crelu: a hidden layer has {why}")
        for layer in layers:
            _halve(layer.incoming)
            _replace(network, layer.units, ConcatenatedReLU())
        return network


def _halve(layer: nn.Linear) -> None:
    """Leave a layer the first half of its outputs, as Glorot uniform as they were."""
    from torch import nn

    inputs, outputs = layer.in_features, layer.out_features // 2
    growth = (inputs + layer.out_features) / (inputs + outputs)
    layer.out_features = outputs
    layer.weight = nn.Parameter(growth**0.5 * layer.weight.detach()[:outputs])
    layer.bias = nn.Parameter(layer.bias.detach()[:outputs].clone())


def _replace(network: nn.Module, old: nn.Module, *new: nn.Module) -> None:
    """Put modules in the place of one, in the sequence that has it."""
    from torch import nn

    for sequence in [m for m in network.modules() if isinstance(m, nn.Sequential)]:
        children = [*sequence]
        if old in children:
            place = children.index(old)
            sequence[place] = new[0]
            for offset, module in enumerate(new[1:], 1):
                sequence.insert(place + offset, module)


@dataclass
class InputStandardisation(Remedy):
    """Standardize each input feature by its running mean and standard deviation.

    x <- (x - mean) / sqrt(variance + 1e-5), for each feature by itself. The running numbers follow
    each batch of training before it is used, by r = max(1 - decay, 1 / (t + 1)) at update t (see
    ``Standardize``). Metrics use them as they are, and change nothing.

    Source: common practice (LeCun et al. 1998, "Efficient BackProp"), here with running numbers, as
    for the observations of agents; the decay of 0.99 is ours. It is not the online normalization
    that Dohare et al. 2023, "Maintaining plasticity in deep continual learning", try: that is the
    one of Chiley et al. 2019, "Online normalization for training neural networks", and normalizes
    hidden activations. The running numbers are buffers of the network, and follow batches, not
    samples. A feature that has been constant and then is not gives large numbers, but its own batch
    is in the variance: a batch alone gives at most sqrt(batch / r). A circuit scales each sample to
    unit norm afterwards; of complex amplitudes the variance is the mean of abs(x - mean)^2. The
    columns ``input_standardisation_mean`` and ``_deviation`` are the means over the features of
    abs(mean) and of the standard deviation: at first 0 and 1.
    """

    declared = (
        Column("input_standardisation_mean", "running mean of the inputs"),
        Column(
            "input_standardisation_deviation",
            "running standard deviation of the inputs",
        ),
    )

    decay: float
    """Factor of the running numbers, an update."""

    def __post_init__(self) -> None:
        require(self, 0, 1, "decay")

    def on_build(self, network: nn.Module) -> nn.Module:
        """Put it before the network."""
        from torch import nn

        from plasticity.remedies.modules import Standardize

        self._standardize = Standardize(self.decay, epsilon=1e-5)
        return nn.Sequential(self._standardize, network)

    def columns(self) -> dict[str, float]:
        """Return the means over the features."""
        mean, variance = self._standardize.mean, self._standardize.variance
        return {
            "input_standardisation_mean": float(mean.abs().mean()),
            "input_standardisation_deviation": float(variance.sqrt().mean()),
        }
