"""Units that are dead: which are, and how they are made new. One rule for all who revive units."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plasticity.remedies.layers import Hidden, hidden_layers, replaceable
from plasticity.remedies.recycling import recycle

PROBE = 256
"""Training samples of a task on which it is looked which units are dead."""


def layers_with_units(network: nn.Module, who: str) -> list[Hidden]:
    """Return the layers of ReLU units of a network that can be revived, from first to last.

    Args:
        network: Looked at.
        who: For whom, in words.

    Raises:
        DoesNotFit: It has none, or they cannot be told apart (see ``hidden_layers``).
    """
    return replaceable(hidden_layers(network, who), who)


@torch.no_grad()
def dead_units(network: nn.Module, layers: Sequence[Hidden], x: Tensor) -> list[Tensor]:
    """Return the places of each layer's units that are 0 for all samples, ``(number,)`` each.

    Nothing is changed, gradients and modes are as before. A layer with frozen weights has none.

    Args:
        network: In evaluation mode for a while.
        layers: Of it, as ``layers_with_units`` returns them.
        x: Samples, ``(samples, features)``.
    """
    is_dead: dict[nn.Module, Tensor] = {}

    def look(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        is_dead[module] = (output == 0).flatten(0, -2).all(0)

    modes = [(module, module.training) for module in network.modules()]
    hooks = [layer.units.register_forward_hook(look) for layer in layers]
    try:
        network.eval()
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    found = [is_dead[layer.units].nonzero().flatten() for layer in layers]
    return [u if layer.trained else u[:0] for layer, u in zip(layers, found, strict=True)]


def revive(
    layers: Sequence[Hidden],
    dead: Sequence[Tensor],
    generator: torch.Generator,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Make new units of dead ones.

    A new unit's incoming weights are drawn as the layer's first ones and scaled to the mean length
    of the incoming weights of the layer's living units; where none lives, they keep the length of
    the draw. Its bias is 0, its outgoing weights are 0, and what the optimizer remembers of all of
    these is 0 (see ``recycle``). So the outputs stay as they are for all samples for which the unit
    was 0. Where a layer has no dead unit, nothing is drawn.

    Args:
        layers: Changed in place.
        dead: The places of each layer's dead units, as ``dead_units`` returns them.
        generator: Of the weights.
        optimizer: Of the network.
    """
    # From the last layer on: its new rows come before the zeros in its columns.
    for layer, units in reversed([*zip(layers, dead, strict=True)]):
        if not len(units):
            continue
        weight = layer.incoming.weight
        lives = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        lives[units] = False
        lengths = torch.linalg.vector_norm(weight.detach()[lives], dim=1)
        recycle(layer, units, generator, optimizer)
        if len(lengths) and lengths.mean() > 0:
            with torch.no_grad():
                drawn = weight[units]
                length = torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
                weight[units] = drawn / length * lengths.mean()
