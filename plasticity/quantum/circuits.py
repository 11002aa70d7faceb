"""Ansaetze: which pairs of qubits a gate acts on, in what order, and a ``tc.Circuit`` of each.

Qubit 0 is the most significant bit of a basis state's index. The gate on ``pairs[g]`` is
``exp(-i sum_k angles[g, k] P_k)`` without a factor 1/2, where ``P_k`` runs over the two-qubit Pauli
matrices IX, IY, IZ, XI, XX, XY, XZ, YI, YX, YY, YZ, ZI, ZX, ZY, ZZ (the first letter acts on the
first qubit of the pair). This is TensorCircuit's ``su4`` gate.
"""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:  # it takes seconds to import, and few ask for a circuit of it
    import tensorcircuit as tc


@dataclass(frozen=True)
class Ansatz:
    """List the pairs of qubits that two-qubit gates act on, in order of application.

    Args:
        num_qubits: Number of qubits, at least 2.
        pairs: The ordered pairs; ``(a, b)`` and ``(b, a)`` differ by which qubit a Pauli word's
            first letter acts on.

    Raises:
        ValueError: Fewer than 2 qubits, no pair, or a pair with a qubit that is not there.
        TypeError: What has to be a whole number is none.
    """

    num_qubits: int
    pairs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_qubits", whole_number("num_qubits", self.num_qubits))
        try:
            pairs = tuple((int(a), int(b)) for a, b in self.pairs)
        except (TypeError, ValueError):
            raise TypeError(
                f"pairs {self.pairs!r}: pairs of qubits, such as ((0, 1), (1, 2))"
            ) from None
        object.__setattr__(self, "pairs", pairs)
        if self.num_qubits < 2:
            raise ValueError(f"an ansatz needs at least 2 qubits, not {self.num_qubits}")
        if not pairs:
            raise ValueError("an ansatz needs at least one pair of qubits")
        for a, b in pairs:
            if a == b or not (0 <= a < self.num_qubits and 0 <= b < self.num_qubits):
                raise ValueError(f"pair {(a, b)} is not two of the qubits 0..{self.num_qubits - 1}")

    @property
    def num_gates(self) -> int:
        """Count the gates."""
        return len(self.pairs)

    @property
    def gate_groups(self) -> tuple[tuple[int, ...], ...]:
        """Partition the gates as the authors' program splits its parameter tensors.

        Weight and gradient norms are means over these groups (protocol "Permuted MNIST"); a single
        group unless the ansatz says otherwise.
        """
        return (tuple(range(self.num_gates)),)

    def circuit(self, weights: torch.Tensor, amplitudes: torch.Tensor) -> tc.Circuit:
        """Build the circuit in the tensors of whichever TensorCircuit backend and dtype are set.

        On the pytorch backend it is differentiable in both arguments; on any other it is built from
        their detached values.

        Args:
            weights: Angles, ``(num_gates, 15)``, radians; or the gates, ``(num_gates, 4, 4)``.
            amplitudes: ``(2**num_qubits,)``, the unit-norm initial state.
        """
        import tensorcircuit as tc

        circuit = tc.Circuit(self.num_qubits, inputs=in_backend(amplitudes))
        self.extend(circuit, weights)
        return circuit

    def extend(self, circuit: tc.Circuit, weights: torch.Tensor) -> None:
        """Append the gates to a circuit; ``weights`` as of ``circuit``."""
        for gate, (a, b) in enumerate(self.pairs):
            if weights.dim() == 3:
                circuit.any(a, b, unitary=in_backend(weights[gate]))
            else:
                circuit.su4(a, b, theta=in_backend(weights[gate]))


def whole_number(name: str, value: Any, way_out: str = "a whole number") -> int:
    """Return an int, of Python, NumPy or torch, as Python's; raise TypeError for anything else."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} {value!r}: {way_out}") from None


def in_backend(values: torch.Tensor) -> Any:
    """Return numbers as a tensor of the TensorCircuit backend and dtype that are set."""
    import tensorcircuit as tc

    if tc.backend.name == "pytorch":
        return values.to(getattr(torch, tc.dtypestr))
    numbers = values.detach().resolve_conj().cpu().numpy()
    return tc.backend.cast(tc.backend.convert_to_tensor(numbers), tc.dtypestr)


@dataclass(frozen=True)
class _Layered(Ansatz):
    """Repeat a layer of gates ``depth`` times."""

    pairs: tuple[tuple[int, int], ...] = field(init=False, repr=False)
    depth: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_qubits", whole_number("num_qubits", self.num_qubits))
        object.__setattr__(self, "depth", whole_number("depth", self.depth))
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, not {self.depth}")
        if self.num_qubits < 2:
            raise ValueError(f"an ansatz needs at least 2 qubits, not {self.num_qubits}")
        object.__setattr__(self, "pairs", tuple(self._layer()) * self.depth)
        super().__post_init__()

    def _layer(self) -> list[tuple[int, int]]:
        raise NotImplementedError


@dataclass(frozen=True)
class Brickwork(_Layered):
    """Alternate gates on (0,1)(2,3)... and (1,2)(3,4)... on an open chain, ``depth`` times both.

    Source: the released program's classifier for permuted MNIST (depth 4) and CIFAR (10, 30).
    """

    def _layer(self) -> list[tuple[int, int]]:
        starts = [*range(0, self.num_qubits - 1, 2), *range(1, self.num_qubits - 1, 2)]
        return [(a, a + 1) for a in starts]

    @property
    def gate_groups(self) -> tuple[tuple[int, ...], ...]:
        """Partition the gates into even and odd bricks, the released program's two tensors."""
        groups = (
            tuple(g for g, (a, _) in enumerate(self.pairs) if a % 2 == parity) for parity in (0, 1)
        )
        return tuple(group for group in groups if group)


@dataclass(frozen=True)
class Staircase(_Layered):
    """Apply gates on (0,1)(1,2)...(n-2,n-1), ``depth`` times.

    Source: the released program's classifier for XXZ eigenstates (depth 6).
    """

    def _layer(self) -> list[tuple[int, int]]:
        return [(a, a + 1) for a in range(self.num_qubits - 1)]


@dataclass(frozen=True)
class Ring(_Layered):
    """Apply gates on (0,1)(1,2)...(n-2,n-1)(n-1,0), ``depth`` times.

    Source: the released program's policy for Ant (9 qubits, depth 12).
    """

    def _layer(self) -> list[tuple[int, int]]:
        return [(a, (a + 1) % self.num_qubits) for a in range(self.num_qubits)]


def light_cone(ansatz: Ansatz, qubit: int | None) -> tuple[int, ...]:
    """List the gates that an observable on one qubit depends on (all gates for ``qubit=None``)."""
    if qubit is None:
        return tuple(range(ansatz.num_gates))
    seen, gates = {qubit}, []
    for gate in reversed(range(ansatz.num_gates)):
        if seen & set(ansatz.pairs[gate]):
            seen |= set(ansatz.pairs[gate])
            gates.append(gate)
    return tuple(reversed(gates))


@lru_cache
def pauli_words() -> np.ndarray:
    """Return the P_k in the order above, ``(15, 4, 4)`` complex128."""
    letters = [
        np.array(m, dtype=np.complex128)
        for m in ([[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]])
    ]
    return np.stack([np.kron(a, b) for a, b in itertools.product(letters, letters)][1:])
