"""Which layer feeds which: what remedies that act on layers and units can see of a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plasticity.errors import DoesNotFit


def glorot_rows(incoming: nn.Linear, number: int, generator: torch.Generator) -> Tensor:
    """Draw so many rows of a layer's matrix, Glorot uniform, as the networks here begin."""
    bound = math.sqrt(6 / (incoming.in_features + incoming.out_features))
    return bound * (2 * torch.rand(number, incoming.in_features, generator=generator) - 1)


class Hidden(NamedTuple):
    """A hidden layer of units, of ReLU ones if ``hidden_layers`` has found it.

    Attributes:
        incoming: The linear layer whose rows the units read with.
        normalised: Whether a LayerNorm stands between it and the units.
        units: The ReLU, or what the units are instead.
        outgoing: The linear layer whose columns the units are read with.
        others: Further ones, where the network forks after the units.
        rows: Draws incoming weights of new units, as those with which the network began.
    """

    incoming: nn.Linear
    normalised: bool
    units: nn.Module
    outgoing: nn.Linear
    others: tuple[nn.Linear, ...] = ()
    rows: Callable[[nn.Linear, int, torch.Generator], Tensor] = glorot_rows

    @property
    def readers(self) -> tuple[nn.Linear, ...]:
        """Return all linear layers that read the units."""
        return (self.outgoing, *self.others)


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
            or without biases.
    """
    parts = _parts(network)
    places = [place for place, part in enumerate(parts) if type(part) is nn.Linear]
    number = sum(isinstance(module, nn.Linear) for module in network.modules())
    if number < 2:
        raise DoesNotFit(f"{remedy} needs hidden units between linear layers; {_name(network)}")
    if number > len(places) or any(parts[place].bias is None for place in places):
        raise DoesNotFit(f"{remedy} cannot see which layer feeds which; {_name(network)}")
    layers = []
    for place, following in pairwise(places):
        *before, units = parts[place + 1 : following] or [nn.Identity()]
        normalised = [type(part) for part in before] == [nn.LayerNorm]
        if not isinstance(units, nn.ReLU) or (before and not normalised):
            raise DoesNotFit(f"{remedy} needs ReLU units between linear layers; {_name(network)}")
        layers.append(Hidden(parts[place], normalised, units, parts[following]))  # type: ignore[arg-type]
    return layers


def linear_layers(network: nn.Module, remedy: str) -> list[nn.Linear]:
    """Return the linear layers of a network whose matrices are parameters, and which have biases.

    Raises:
        DoesNotFit: There is none, or one of another kind.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise DoesNotFit(f"{remedy} needs linear layers; {_name(network)}")
    if any(type(layer) is not nn.Linear or layer.bias is None for layer in layers):
        raise DoesNotFit(f"{remedy} needs linear layers whose matrix is free; {_name(network)}")
    return layers


def require_free(network: nn.Module, remedy: str) -> None:
    """Refuse a network whose parameters must stay on a manifold.

    Raises:
        DoesNotFit: Says which.
    """
    for module in network.modules():
        if callable(getattr(module, "after_update", None)):
            kind = type(module).__name__
            raise DoesNotFit(f"{remedy} would take the parameters of {kind} off their manifold")


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


def _parts(network: nn.Module) -> list[nn.Module]:
    """Return the modules of sequences in sequences, in the order in which they are called."""
    if not isinstance(network, nn.Sequential):
        return [network]
    return [part for child in network for part in _parts(child)]


def _name(network: nn.Module) -> str:
    names = [type(part).__name__ for part in _parts(network)]
    return f"the network is {', '.join(names)}"
