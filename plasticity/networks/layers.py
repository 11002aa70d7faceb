"""The layers of a network: whatever tells one layer from another counts them as this does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plasticity.networks.trained import is_trained


def is_layer(module: nn.Module) -> bool:
    """Tell whether a module is a layer: a linear one, or one that has a matrix of its own.

    The angles of a circuit are such a matrix, as is any parameter of two dimensions or more.
    """
    own = module.parameters(recurse=False)
    return isinstance(module, nn.Linear) or any(p.dim() > 1 for p in own)


@dataclass(frozen=True)
class Layer:
    """A layer and the parameters that it does not share with a layer before it.

    Attributes:
        number: Its place among the layers, from 1.
        module: The layer.
        parameters: All of its own, biases among them.
    """

    number: int
    module: nn.Module
    parameters: tuple[nn.Parameter, ...]

    @property
    def trained(self) -> tuple[nn.Parameter, ...]:
        """Return the parameters that are trained."""
        return tuple(p for p in self.parameters if is_trained(p))

    @property
    def weights(self) -> tuple[nn.Parameter, ...]:
        """Return the trained parameters that are no biases: those of two dimensions or more."""
        return tuple(p for p in self.trained if p.dim() > 1)


def layers_of(network: nn.Module) -> list[Layer]:
    """Return the layers of a network in the order of its modules, numbered from 1.

    A circuit is one layer. What makes a layer's matrix, as torch's parametrizations do, belongs to
    the layer. Parameters of modules without a matrix, such as the gains of a normalization, belong
    to none. A frozen layer is counted, too, so that no other changes its number.
    """
    layers: list[Layer] = []
    counted: set[nn.Parameter] = set()
    for module in _modules(network):
        own = [*module.parameters(recurse=False)]
        parametrizations = module._modules.get("parametrizations")
        if parametrizations is not None:
            own += parametrizations.parameters()
        new = tuple(dict.fromkeys(p for p in own if p not in counted))
        counted.update(new)
        layers.append(Layer(len(layers) + 1, module, new))
    return layers


def _modules(network: nn.Module) -> Iterator[nn.Module]:
    for name, module in network.named_modules():
        if "parametrizations" not in name.split(".") and is_layer(module):
            yield module


def norm_of(parts: Iterable[Tensor]) -> float:
    """Return the norm of all numbers as one vector; 0 of none."""
    norms = [torch.linalg.vector_norm(part.detach()) for part in parts]
    return float(torch.stack([norm.double() for norm in norms]).norm()) if norms else 0.0


def count_of(parts: Iterable[Tensor]) -> int:
    """Return how many numbers there are; a complex one counts as two."""
    return sum(part.numel() * (2 if part.is_complex() else 1) for part in parts)
