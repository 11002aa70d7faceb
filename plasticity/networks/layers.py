"""The layers of a network: modules that hold a matrix of parameters, in order, from 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plasticity.errors import DoesNotFit

if TYPE_CHECKING:
    from torch import nn

ENDS = ("first", "last")
"""Other names of the layers at both ends."""


@dataclass(frozen=True)
class Layer:
    """A layer.

    Attributes:
        number: Its place, from 1.
        name: Of the module in its network; empty where the layer is the network.
        module: What it is.
        parameters: All that it holds, biases among them, each once.
    """

    number: int
    name: str
    module: nn.Module
    parameters: tuple[nn.Parameter, ...]

    @property
    def matrices(self) -> tuple[nn.Parameter, ...]:
        """Return the parameters of two dimensions or more."""
        return tuple(p for p in self.parameters if p.dim() > 1)

    @property
    def norm(self) -> float:
        """Return the Frobenius norm of its matrices together, without biases."""
        import torch

        norms = [torch.linalg.vector_norm(p.detach()) for p in self.matrices]
        return float(torch.linalg.vector_norm(torch.stack(norms)))

    @property
    def rms(self) -> float:
        """Return the root of the mean square of the numbers in its matrices."""
        return self.norm / sum(p.numel() for p in self.matrices) ** 0.5


def layers_of(network: nn.Module) -> list[Layer]:
    """Return the layers of a network, in the order of ``modules()``.

    A layer is a linear layer, or a module with a parameter of two dimensions or more of its own: a
    circuit is one, with all its gates. Numbers that stand alone, as the scales of a LayerNorm, are
    no layer. A parameter that two modules share belongs to the first.
    """
    from torch import nn

    found: list[Layer] = []
    seen: set[int] = set()
    inside: tuple[str, ...] = ()
    for name, module in network.named_modules():
        if inside and name.startswith(inside):  # what makes the matrix of a linear layer
            continue
        is_linear = isinstance(module, nn.Linear)
        if is_linear:
            inside = (*inside, f"{name}." if name else "")
        held = [p for p in module.parameters(recurse=is_linear) if id(p) not in seen]
        if any(p.dim() > 1 for p in held):
            seen |= {id(p) for p in held}
            found.append(Layer(len(found) + 1, name, module, tuple(held)))
        if inside == ("",):
            break
    return found


def find_layer(network: nn.Module, which: str) -> Layer:
    """Return a layer by its number, or as ``first`` or ``last``.

    Raises:
        DoesNotFit: The network has no such layer.
    """
    layers = layers_of(network)
    if which in ENDS and layers:
        return layers[0 if which == "first" else -1]
    if which.isdecimal() and 1 <= int(which) <= len(layers):
        return layers[int(which) - 1]
    many = f"the layers 1 to {len(layers)}, first and last" if layers else "no layer"
    raise DoesNotFit(f"there is no layer {which}: the network has {many}")
