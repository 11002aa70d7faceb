"""What several metrics need of a network, made once."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from plasticity.networks.trained import is_trained

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """The last result of a computation, for as long as what it was made from is the same.

    It is used again only if the objects are the very same and the tensors are equal, number by
    number, to those it was made from: whatever changed them, it cannot go stale. What was made
    from any objects that are gone is not used again.
    """

    def __init__(self) -> None:
        self._objects: list[weakref.ref[object]] = []
        self._tensors: list[Tensor] = []
        self._value: list[Value] = []

    def get(
        self, objects: Sequence[object], tensors: Sequence[Tensor], make: Callable[[], Value]
    ) -> Value:
        """Return what ``make`` returns, or returned.

        Args:
            objects: What it is made from.
            tensors: Numbers in them that may change, or other numbers that decide the result.
            make: Makes it.
        """
        if not (self._value and self._is_of(objects, tensors)):
            self._value = [make()]
            self._objects = [weakref.ref(x) for x in objects]
            self._tensors = [t.detach().clone() for t in tensors]
        return self._value[0]

    def _is_of(self, objects: Sequence[object], tensors: Sequence[Tensor]) -> bool:
        pairs = itertools.zip_longest(self._objects, objects)
        return all(kept is not None and kept() is x for kept, x in pairs) and all(
            a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b)
            for a, b in itertools.zip_longest(self._tensors, tensors)
        )


def numbers_of(network: nn.Module) -> Iterator[Tensor]:
    """Yield all parameters and buffers of a network, without their graphs, and what is trained."""
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        yield tensor.detach()
    yield torch.tensor([is_trained(p) for p in network.parameters()])
