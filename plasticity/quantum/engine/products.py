"""What the steps of a plan multiply: the part of each block that is not known to act on zeros."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from plasticity.quantum.engine.planning import Plan


@dataclass(frozen=True)
class Product:
    """The part of a block that a step multiplies, and onto what.

    Attributes:
        left: Amplitudes to the left of the window.
        right: Amplitudes to the right of it, of each vector.
        width: Qubits of the window.
        absent: Places in the window whose qubit is still in |0>: their other columns act on zeros.
        observed: Place in the window whose qubit is read as 0: the other rows are not read.
    """

    left: int
    right: int
    width: int
    absent: tuple[int, ...]
    observed: int | None

    @property
    def columns(self) -> int:
        """Count the columns of the part."""
        return int(2 ** (self.width - len(self.absent)))

    @property
    def rows(self) -> int:
        """Count the rows of the part."""
        return int(2 ** (self.width - (self.observed is not None)))

    @property
    def is_whole(self) -> bool:
        """Tell whether the part is the block."""
        return not self.absent and self.observed is None

    def select(self, matrix: Tensor) -> Tensor:
        """View the part of a ``(2**width, 2**width)`` matrix, with an axis for each bit."""
        rows = [0 if place == self.observed else slice(None) for place in range(self.width)]
        columns = [0 if place in self.absent else slice(None) for place in range(self.width)]
        return matrix.view((2,) * (2 * self.width))[(*rows, *columns)]


@lru_cache(maxsize=64)
def products(plan: Plan, count: int | None = None) -> tuple[Product, ...]:
    """List what each step multiplies.

    With ``count``, the initial states are the leading ``count`` basis states, in which all but the
    last few qubits are in |0>; a qubit enters with the first block that acts on it.
    """
    n, width = plan.num_qubits, plan.width
    present = [count is None or q >= n - (count - 1).bit_length() for q in range(n)]
    if not _all_enter(plan, present):
        present = [True] * n
    result = []
    for k, step in enumerate(plan.steps):
        start = step.left.bit_length() - 1
        end = start + width
        absent = tuple(place for place in range(width) if not present[start + place])
        observed = None
        if plan.observed is not None and k == len(plan.steps) - 1:
            observed = plan.observed - start
        left, right = 2 ** sum(present[:start]), 2 ** sum(present[end:])
        result.append(Product(left, right, width, absent, observed))
        present[start:end] = [True] * width
    return tuple(result)


def _all_enter(plan: Plan, present: list[bool]) -> bool:
    """Tell whether blocks act on all absent qubits before any qubits are transposed."""
    entered = {q for q, is_present in enumerate(present) if is_present}
    for step in plan.steps:
        if step.before is not None:
            break
        start = step.left.bit_length() - 1
        entered |= set(range(start, start + plan.width))
    return len(entered) == plan.num_qubits
