"""Remedies that change the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plasticity.errors import DoesNotFit
from plasticity.learning.column import Column
from plasticity.learning.remedy import Remedy
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
