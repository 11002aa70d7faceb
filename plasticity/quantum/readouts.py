"""Readouts: how outputs are made of the probabilities, or of the Z, of a circuit's final state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from plasticity.quantum.circuits import Ansatz, whole_number

MOST_QUBITS = 30
"""Of a circuit that is evaluated. One state has 2**30 amplitudes then: 8 GiB."""


@dataclass(frozen=True)
class LogOdds:
    """Read log p_k - log(1 - p_k) of the basis states k = 0..num_classes-1.

    p_k is clipped to [1e-7, 1 - 1e-7], so logits lie in about [-16.1, 16.1] and their gradient is
    zero outside. As in the released program's permuted MNIST classifier, the source of this
    readout, 1e-9 is added to every logit; a softmax does not see it.
    """

    num_classes: int
    qubit: ClassVar[None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_classes", whole_number("num_classes", self.num_classes))
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {self.num_classes}")

    def num_outcomes(self, num_qubits: int) -> int:
        """Count the basis states read, from 0 on."""
        if self.num_classes > 2**num_qubits:
            raise ValueError(
                f"num_classes {self.num_classes} exceeds the {2**num_qubits} basis states of "
                f"{num_qubits} qubits"
            )
        return self.num_classes

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Map ``(batch, num_classes)`` probabilities to logits."""
        return torch.logit(probabilities, eps=1e-7) + 1e-9


@dataclass(frozen=True)
class LogProbabilities:
    """Read log p_k of the basis states k = 0..num_classes-1, for p of any scale.

    A softmax sees ratios of the p_k alone, so they need not be probabilities: this is the readout
    of circuits whose gates are not unitary and whose states are not renormalized. The smallest
    normal number of the dtype is added to p_k, so that the logit of 0 is finite.
    """

    num_classes: int
    qubit: ClassVar[None] = None

    def __post_init__(self) -> None:
        checked = LogOdds(self.num_classes)  # raises what has to be raised
        object.__setattr__(self, "num_classes", checked.num_classes)

    def num_outcomes(self, num_qubits: int) -> int:
        """Count the basis states read, from 0 on."""
        return LogOdds(self.num_classes).num_outcomes(num_qubits)

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Map ``(batch, num_classes)`` squared amplitudes to logits."""
        return (probabilities + torch.finfo(probabilities.dtype).tiny).log()


@dataclass(frozen=True)
class Probabilities:
    """Read the probabilities of all 2**num_qubits basis states."""

    qubit: ClassVar[None] = None

    def num_outcomes(self, num_qubits: int) -> int:
        """Count the basis states read, from 0 on."""
        return int(2**num_qubits)

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Return ``(batch, 2**num_qubits)`` probabilities as they are."""
        return probabilities


@dataclass(frozen=True)
class _ZExpectation:
    qubit: int

    def __post_init__(self) -> None:
        way_out = "one whole number (ZOnEveryQubit behind Probabilities() gives Z of all qubits)"
        object.__setattr__(self, "qubit", whole_number("qubit", self.qubit, way_out))

    def num_outcomes(self, num_qubits: int) -> None:
        """Return None, as for any expectation value; raise if the qubit is not there."""
        if not 0 <= self.qubit < num_qubits:
            raise ValueError(f"qubit {self.qubit} is not one of the qubits 0..{num_qubits - 1}")


@dataclass(frozen=True)
class PauliZ(_ZExpectation):
    """Read the expectation of Z on one qubit, in [-1, 1], ``(batch, 1)``.

    Source: the released program's XXZ classifier (qubit 0).
    """

    def __call__(self, z: Tensor) -> Tensor:
        """Map ``(batch,)`` expectations to outputs."""
        return z.unsqueeze(-1)


@dataclass(frozen=True)
class SignedPauliZ(_ZExpectation):
    """Read (Z, -Z) on one qubit as two bounded logits, ``(batch, 2)``.

    Source: the released program's CIFAR classifier (last qubit).
    """

    def __call__(self, z: Tensor) -> Tensor:
        """Map ``(batch,)`` expectations to outputs."""
        return torch.stack([z, -z], dim=-1)


Readout = LogOdds | LogProbabilities | Probabilities | PauliZ | SignedPauliZ


def check_circuit(ansatz: Ansatz, readout: Readout) -> None:
    """Raise if the two cannot be evaluated together.

    Raises:
        TypeError: One of them is something else.
        ValueError: The readout does not fit the ansatz, or there are too many qubits.
    """
    if not isinstance(ansatz, Ansatz):
        raise TypeError(
            f"ansatz {_named(ansatz)}: give an Ansatz, such as Brickwork(num_qubits=4, depth=2)"
        )
    if isinstance(readout, type) or not hasattr(readout, "num_outcomes"):
        raise TypeError(
            f"readout {_named(readout)}: give a readout, such as LogOdds(num_classes=3) or "
            "PauliZ(qubit=0)"
        )
    if ansatz.num_qubits > MOST_QUBITS:
        raise ValueError(
            f"{ansatz.num_qubits} qubits: one state of 2**{ansatz.num_qubits} amplitudes takes "
            f"{2 ** (ansatz.num_qubits - 27):,} GiB; use at most {MOST_QUBITS} qubits"
        )
    readout.num_outcomes(ansatz.num_qubits)


def _named(value: object) -> str:
    return value.__name__ if isinstance(value, type) else repr(value)
