"""A quantum layer whose inputs are uploaded again between its gates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from plasticity.quantum.calls import on_samples
from plasticity.quantum.circuits import Ansatz, in_backend
from plasticity.quantum.encoding import checked_samples, initial_state, precision_of
from plasticity.quantum.engine.constants import cached_constants
from plasticity.quantum.engine.contraction import sweep
from plasticity.quantum.engine.costs import Carry, Size, Ways
from plasticity.quantum.engine.planning import Plan, reversed_plan
from plasticity.quantum.engine.reading import batch_first
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import Readout

if TYPE_CHECKING:
    import tensorcircuit as tc


class ReuploadingQNN(QNN):
    """Classify with a quantum circuit that the inputs enter again and again.

    As ``QNN``, but after some of its gates all qubits are rotated by the sample: qubit q by
    exp(-i phi_q Z), phi_q = sum_i w_qi x_i / (|x| sqrt(features)), with weights w of its own each
    time. So a step of an optimizer that changes each w by as much as each angle of a gate changes
    phi by no more than that. Gates follow and precede, so rotations about Z are as general as those
    about any axis, and a bias would be absorbed. With w = 0 it is the QNN. The outcomes'
    probabilities are no longer linear in x x*.

    Args:
        ansatz: As ``QNN``.
        readout: As ``QNN``.
        features: Numbers of a sample, real.
        places: After how many gates the inputs are uploaded again, ascending, from 0 to less than
            all. Until the last of these places each sample has a circuit of its own, whose state is
            carried; before the first gate it is made without one.
        initializer: As ``QNN``.
        initial_uploads: Called with ``(len(places), num_qubits, features)``, returns the first w;
            by default normal, of variance 1, from torch's global generator.

    Attributes:
        angles: As ``QNN``.
        uploads: The parameter w, ``(len(places), num_qubits, features)``.
    """

    def __init__(
        self,
        ansatz: Ansatz,
        readout: Readout,
        features: int,
        places: tuple[int, ...],
        initializer: Callable[[tuple[int, int]], Tensor] | None = None,
        initial_uploads: Callable[[tuple[int, int, int]], Tensor] = torch.randn,
    ) -> None:
        super().__init__(ansatz, readout, initializer)
        bounds = (-1, *places, ansatz.num_gates)
        if any(start >= end for start, end in itertools.pairwise(bounds)):
            raise ValueError(f"places {places} are not before the last of {ansatz.num_gates} gates")
        self._spans = tuple(itertools.pairwise((0, *bounds[1:])))
        self._parts = tuple(  # without gates, the first is None
            Ways(Ansatz(ansatz.num_qubits, ansatz.pairs[start:end]), None) if end else None
            for start, end in self._spans[:-1]
        )
        last = Ansatz(ansatz.num_qubits, ansatz.pairs[self._spans[-1][0] :])
        self._last = Ways(last, readout.qubit)
        shape = len(places), ansatz.num_qubits, features
        self.uploads = nn.Parameter(initial_uploads(shape).to(self.angles.dtype))

    @on_samples
    def forward(self, x: Tensor) -> Tensor:
        """Map inputs to outputs.

        Args:
            x: ``(..., features)``, real.

        Returns:
            ``(..., outputs)`` in the dtype of ``angles``, contiguous.
        """
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x)
        x, rotations = self._rotations(x)
        amplitudes = 2**self.ansatz.num_qubits
        states = torch.nn.functional.pad(x.T, (0, 0, 0, amplitudes - x.shape[1]))
        for part, (start, end), phi in zip(self._parts, self._spans[:-1], rotations, strict=True):
            if part is not None:
                states = sweep(_plan(part, states), self.angles[start:end], states)
            states = _rotated(states, phi.T)
        return self._read(states)

    def _read(self, states: Tensor) -> Tensor:
        """Apply the gates after the last rotation to ``(2**num_qubits, batch)``, and read."""
        last, angles = self._last, self.angles[self._spans[-1][0] :]
        outcomes = self.readout.num_outcomes(self.ansatz.num_qubits)
        few = outcomes if outcomes is not None and outcomes < states.shape[1] else None
        plan = _plan(last, states, few)
        if outcomes is None:
            squares = torch.view_as_real(sweep(plan, angles, states)).square().sum(0)
            return self.readout(2 * squares.sum(1) - 1)  # the probability of 0 less that of 1
        if few:  # the fewer vectors are carried
            states = sweep(reversed_plan(plan), angles, few).T @ states
        else:
            states = sweep(plan, angles, states)[:outcomes]
        squares = torch.view_as_real(states).square()
        return self.readout(batch_first(squares[..., 0] + squares[..., 1]))

    def _rotations(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples at unit norm and their phi, ``(uploads, batch, num_qubits)``."""
        if x.is_complex():
            raise TypeError("the inputs are complex: what rotates qubits must be real")
        x, norm = checked_samples(x, self.ansatz.num_qubits, precision_of(self.angles))
        if x.shape[1] != self.uploads.shape[2]:
            raise ValueError(f"{x.shape[1]} features: it is made for {self.uploads.shape[2]}")
        x = x / norm
        return x, x @ self.uploads.mT / math.sqrt(x.shape[1])

    def on_device(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise: each sample has a circuit, and so noise, of its own.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "the circuit of a ReuploadingQNN depends on the data: it has no effective measurement "
            "operators"
        )

    def as_plain_module(self) -> NoReturn:
        """Raise: each sample has a circuit, and so a matrix, of its own.

        Raises:
            TypeError: Always.
        """
        raise TypeError("the circuit of a ReuploadingQNN depends on the data: it has no matrix")

    def circuit(self, x: Tensor) -> tc.Circuit:
        """Build the same circuit for one sample, as ``QNN.circuit``."""
        num_qubits = self.ansatz.num_qubits
        state = initial_state(x, num_qubits, self.angles.dtype)
        _, rotations = self._rotations(x.unsqueeze(0))
        import tensorcircuit as tc

        circuit = tc.Circuit(num_qubits, inputs=in_backend(state))
        for k, (part, (start, end)) in enumerate(
            zip((*self._parts, self._last), self._spans, strict=True)
        ):
            if k > 0:
                for qubit, phi in enumerate(rotations[k - 1, 0]):
                    circuit.rz(qubit, theta=in_backend(2 * phi))  # exp(-i theta Z / 2)
            if part is not None:
                part.ansatz.extend(circuit, self.angles[start:end])
        return circuit


def _plan(ways: Ways, states: Tensor, rows: int | None = None) -> Plan:
    """Return what is cheapest for states, ``(2**num_qubits, batch)``, or for a number of rows."""
    carry: Carry = "rows" if rows else "states"
    return ways.cheapest(Size(states.shape[1], len(states), rows, grad=True), carry).plan


def _rotated(states: Tensor, phi: Tensor) -> Tensor:
    """Rotate qubit q of sample b by exp(-i phi_qb Z), for states ``(2**num_qubits, batch)``.

    The phases of the first and of the last qubits are made apart: of their Kronecker product, a
    sample has as many as it has amplitudes.
    """
    split = len(phi) // 2
    result = states.unflatten(0, (2**split, -1))
    for part, axis in ((phi[:split], 1), (phi[split:], 0)):
        (signs,) = _signs(len(part), phi.dtype, phi.device)
        angles = signs @ part
        phases = torch.complex(angles.cos(), -angles.sin())
        result = result * phases.unsqueeze(axis)
    found: Tensor = result.flatten(0, 1)
    return found


@cached_constants
def _signs(num_qubits: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor]:
    """Return the diagonals of Z on each qubit, ``(2**num_qubits, num_qubits)``."""
    states = torch.arange(2**num_qubits, device=device).unsqueeze(1)
    bits = states >> torch.arange(num_qubits, device=device).flip(0) & 1
    return ((1 - 2 * bits).to(dtype),)
