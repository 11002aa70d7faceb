"""Which layer feeds which: what remedies that act on layers and units can see of a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plasticity.errors import DoesNotFit
from plasticity.networks.trained import is_trained


def glorot_rows(incoming: nn.Linear, number: int, generator: torch.Generator) -> Tensor:
    """Draw so many rows of a layer's matrix, Glorot uniform, as the networks here begin."""
    bound = math.sqrt(6 / (incoming.in_features + incoming.out_features))
    return bound * (2 * torch.rand(number, incoming.in_features, generator=generator) - 1)


class Hidden(NamedTuple):
    """A hidden layer of units, of ReLU ones if ``hidden_layers`` has found it.

    Attributes:
        incoming: The linear layer whose rows the units read with.
        normalized: Whether a LayerNorm stands between it and the units.
        units: The ReLU, or what the units are instead.
        outgoing: The linear layer whose columns the units are read with.
        others: Further ones, where the network forks after the units.
        rows: Draws incoming weights of new units, as those with which the network began.
    """

    incoming: nn.Linear
    normalized: bool
    units: nn.Module
    outgoing: nn.Linear
    others: tuple[nn.Linear, ...] = ()
    rows: Callable[[nn.Linear, int, torch.Generator], Tensor] = glorot_rows

    @property
    def readers(self) -> tuple[nn.Linear, ...]:
        """Return all linear layers that read the units."""
        return (self.outgoing, *self.others)

    @property
    def trained(self) -> bool:
        """Tell whether all weights of the units are trained, and the biases of who reads them.

        If not, no unit of the layer can be replaced.
        """
        layers = (self.incoming, *self.readers)
        return all(is_trained(p) for layer in layers for p in (layer.weight, layer.bias))


def hidden_layers(network: nn.Module, remedy: str) -> list[Hidden]:
    """Return the hidden layers of a network, from the first to the last.

    It sees chains of linear layers, in sequences in sequences, with a ReLU, or a LayerNorm and a
    ReLU, between each two. What comes before the first one, and after the last one, is not its
    business.

    Args:
        network: Looked at.
        remedy: For whom, in words.

    Raises:
        DoesNotFit: There is none, or other things between linear layers, or linear layers elsewhere
            or without biases, or one that is used twice.
    """
    parts = _parts(network)
    places = [place for place, part in enumerate(parts) if type(part) is nn.Linear]
    number = sum(isinstance(module, nn.Linear) for module in network.modules())
    if number < 2:
        raise DoesNotFit(f"{remedy} needs hidden units between linear layers; {_name(network)}")
    if number != len(places) or not all(_is_free(parts[place]) for place in places):
        raise DoesNotFit(f"{remedy} cannot see which layer feeds which; {_name(network)}")
    layers = []
    for place, following in pairwise(places):
        *before, units = parts[place + 1 : following] or [nn.Identity()]
        normalized = [type(part) for part in before] == [nn.LayerNorm]
        if not isinstance(units, nn.ReLU) or (before and not normalized):
            raise DoesNotFit(f"{remedy} needs ReLU units between linear layers; {_name(network)}")
        layers.append(Hidden(parts[place], normalized, units, parts[following]))  # type: ignore[arg-type]
    return layers


def linear_layers(network: nn.Module, remedy: str) -> list[nn.Linear]:
    """Return the linear layers of a network whose matrices are parameters, and which have biases.

    Raises:
        DoesNotFit: There is none, or one of another kind.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise DoesNotFit(f"{remedy} needs linear layers; {_name(network)}")
    if not all(map(_is_free, layers)):
        raise DoesNotFit(f"{remedy} needs linear layers whose matrix is free; {_name(network)}")
    return layers


def _is_free(layer: nn.Module) -> bool:
    """Tell whether a module is a linear layer whose matrix and biases are parameters."""
    return (
        type(layer) is nn.Linear
        and isinstance(layer.weight, nn.Parameter)
        and isinstance(layer.bias, nn.Parameter)
    )


def require_free(network: nn.Module, remedy: str) -> None:
    """Refuse a network whose parameters must stay on a manifold.

    Raises:
        DoesNotFit: Says which.
    """
    for module in network.modules():
        if callable(getattr(module, "after_update", None)):
            kind = type(module).__name__
            raise DoesNotFit(f"{remedy} would take the parameters of {kind} off their manifold")


def replaceable(layers: list[Hidden], remedy: str) -> list[Hidden]:
    """Return hidden layers whose units a remedy is to replace, or else refuse them.

    Raises:
        DoesNotFit: All have frozen weights; or layers share weights, or share what their units are,
            so that one cannot be seen or changed without the other.
    """
    if not any(layer.trained for layer in layers):
        raise DoesNotFit(f"{remedy} needs a hidden layer whose weights are all trained")
    linear = {id(m): m for hidden in layers for m in (hidden.incoming, *hidden.readers)}
    parameters = [id(p) for layer in linear.values() for p in (layer.weight, layer.bias)]
    for kind, those in (
        ("weights", parameters),
        ("units", [id(layer.units) for layer in layers]),
    ):
        if len({*those}) < len(those):
            raise DoesNotFit(f"{remedy} needs hidden layers that share no {kind}")
    return layers


def watch(units: nn.Module) -> None:
    """Have a module keep what it gave at last in training, detached, as its attribute ``seen``.

    Metrics evaluate, and copy networks and learners: what is evaluated does not count, and a copy
    keeps what itself gave.
    """
    units.register_forward_hook(_keep)


def _keep(module: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
    if module.training:
        module.seen = outputs.detach()


def seen(units: nn.Module) -> Tensor:
    """Return what a watched module gave at last in training."""
    outputs = units.seen
    assert isinstance(outputs, Tensor)
    return outputs


def keep_inputs(network: nn.Module) -> None:
    """Have a network keep what it was given at last in training, as its attribute ``given``."""
    network.register_forward_pre_hook(_keep_inputs)


def _keep_inputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if module.training:
        module.given = inputs[0].detach()


def kept_inputs(network: nn.Module) -> Tensor:
    """Return what a network that keeps its inputs was given at last in training."""
    inputs = network.given
    assert isinstance(inputs, Tensor)
    return inputs


def _parts(network: nn.Module) -> list[nn.Module]:
    """Return the modules of sequences in sequences, in the order in which they are called."""
    if not isinstance(network, nn.Sequential):
        return [network]
    return [part for child in network for part in _parts(child)]


def _name(network: nn.Module) -> str:
    names = [type(part).__name__ for part in _parts(network)]
    return f"the network is {', '.join(names)}"
