"""A circuit whose gates are any matrices: the quantum layer without unitarity."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor, nn

from plasticity.quantum.calls import NOT_TRACED, on_samples
from plasticity.quantum.circuits import Ansatz
from plasticity.quantum.encoding import checked_samples, initial_state, precision_of
from plasticity.quantum.engine.contraction import (
    in_words,
    largest_parts,
    rescaled_states,
    sweep,
)
from plasticity.quantum.engine.costs import Size, Ways
from plasticity.quantum.engine.planning import pieces
from plasticity.quantum.engine.reading import batch_first
from plasticity.quantum.engine.transforms import are_transforms_active, is_forward_mode
from plasticity.quantum.layer import _Evaluate
from plasticity.quantum.readouts import Readout, check_circuit

if TYPE_CHECKING:
    import tensorcircuit as tc

PIECE_GATES = 60
"""Gates that states go through before it is looked whether they are still within range."""

LEAST_LEFT = 2.0**-40
"""What must be left of a state then.

A gate of Frobenius norm 2 makes a state at most twice as long. So if that much is left after 60 of
them, no state in between was smaller than 2**-100, and float32 has 26 binary places below that.
"""


class FreeCircuit(nn.Module):
    """Classify with a circuit of free 4x4 gates on amplitude-encoded inputs.

    As ``QNN``, but the gate on ``ansatz.pairs[g]`` is any complex matrix. With psi the state after
    all gates, the probabilities are p_k = |psi_k|^2 / sum_j |psi_j|^2. They depend neither on the
    scale of a gate nor on that of the states before psi. So gates are scaled first, and states are
    rescaled by powers of two on their way, where they would leave the range of numbers otherwise.

    If not ``renormalised``, p_k = |psi_k|^2 is what a readout of the kind of ``LogProbabilities``
    gets, which needs no probabilities. Nothing is rescaled then: circuits that are deep, and far
    from unitary, leave the range of float32.

    A backward pass keeps the states before all blocks of gates: its memory grows with depth.

    Args:
        ansatz: Where the gates act.
        readout: What is read.
        renormalised: Whether the final state is scaled to unit norm.
        initializer: Called with ``(num_gates, 4, 4)``, returns the first gates; by default unitary
            ones, Haar distributed, from torch's global generator.

    Attributes:
        entries: The parameter, ``(num_gates, 4, 4, 2)``: real and imaginary parts of the gates, in
            order of application.

    Raises:
        ValueError: The readout does not fit the ansatz, or is of Z and the state not renormalized;
            on calling, as ``QNN``.
    """

    def __init__(
        self,
        ansatz: Ansatz,
        readout: Readout,
        *,
        renormalised: bool = True,
        initializer: Callable[[tuple[int, int, int]], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.ansatz, self.readout, self.renormalised = ansatz, readout, renormalised
        check_circuit(ansatz, readout)
        self._plainly = None if renormalised else _Evaluate(ansatz, readout, unitary=False)
        self._ways = Ways(ansatz, None, unitary=False)
        gates = (initializer or haar_unitaries)((ansatz.num_gates, 4, 4))
        self.entries = nn.Parameter(torch.view_as_real(gates).to(torch.get_default_dtype()))

    def gates(self) -> Tensor:
        """Return the gates, ``(num_gates, 4, 4)``, complex."""
        return torch.view_as_complex(self.entries)

    @on_samples
    def forward(self, x: Tensor) -> Tensor:
        """Map inputs to outputs.

        Args:
            x: As ``QNN.forward``.

        Returns:
            ``(..., outputs)`` in the dtype of ``entries``, contiguous.
        """
        if self._plainly is None:
            return self._renormalised(x, self.gates())
        return self._plainly(x, self.gates())

    def _renormalised(self, x: Tensor, gates: Tensor) -> Tensor:
        """_Evaluate with all amplitudes, of which few are read: the others are in the state's norm.

        So neither a few rows of the circuit's matrix are enough nor, for Z, the light cone: the
        states are carried.
        """
        num_qubits, qubit = self.ansatz.num_qubits, self.readout.qubit
        x, norm = checked_samples(x, num_qubits, precision_of(gates))
        states = self._final_states(_of_norm_two(gates), (x / norm).T)
        # Along rows that are long in memory, squares and their sums are fast.
        parts = torch.view_as_real(states).flatten(1)
        outcomes = self.readout.num_outcomes(num_qubits)
        if outcomes is not None:
            read, rest = parts.split([outcomes, len(parts) - outcomes])
            p = _paired(read * read)
            return self.readout(batch_first(p / (p.sum(0) + _paired((rest * rest).sum(0)))))
        halves = (parts * parts).unflatten(0, (2 ** (qubit or 0), 2, -1)).sum(2).sum(0)
        zero, one = _paired(halves)
        return self.readout((zero - one) / (zero + one))

    def _final_states(self, gates: Tensor, states: Tensor) -> Tensor:
        """Return the states after all gates, each of some scale that squares can have."""
        features, batch = states.shape
        plan = self._ways.cheapest(Size(batch, features, None, grad=True), "states").plan
        careful = gates.device.type != "cpu" or are_transforms_active() or is_forward_mode()
        if careful or batch == 0:  # where numbers cannot be looked at
            return in_words(plan, gates, states, rescaled=True)
        final = states
        for piece in pieces(plan, PIECE_GATES):
            final = sweep(piece, gates, final)
            least, most = (bound.item() for bound in largest_parts(final).aminmax())
            if not least >= LEAST_LEFT:  # NaN is not, either
                return in_words(plan, gates, states, rescaled=True)
            if least < 2**-10 or most > 2**10:
                final = rescaled_states(final)
        return final

    def circuit(self, x: Tensor) -> tc.Circuit:
        """Build the circuit for one sample, as ``QNN.circuit``; its state is not renormalized."""
        state = initial_state(x, self.ansatz.num_qubits, self.entries.dtype)
        return self.ansatz.circuit(self.gates(), state)

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse ``torch.jit.script``, as ``QNN`` does."""
        raise RuntimeError(NOT_TRACED)

    def extra_repr(self) -> str:
        """Describe ansatz and readout in one line."""
        ansatz = self.ansatz
        name = f"{type(ansatz).__name__}({ansatz.num_qubits} qubits, {ansatz.num_gates} gates)"
        return f"{name}, {self.readout}, renormalised={self.renormalised}"


def _of_norm_two(gates: Tensor) -> Tensor:
    """Scale gates to the Frobenius norm of unitary ones, by constants."""
    parts = torch.view_as_real(gates)
    largest = parts.detach().abs().amax((1, 2, 3)).view(-1, 1, 1, 1)
    limits = torch.finfo(largest.dtype)
    # Very large or small entries have squares out of range: those gates are divided twice.
    is_fine = (largest > limits.tiny**0.25) & (largest < limits.max**0.25)
    parts = parts / torch.where(is_fine, 1, largest.clamp(min=limits.tiny))
    gates = torch.view_as_complex(parts)
    result: Tensor = gates / (torch.linalg.matrix_norm(gates.detach(), keepdim=True) / 2)
    return result


def _paired(squares: Tensor) -> Tensor:
    """Add the squares of real and imaginary parts, which are neighbors on the last axis."""
    result: Tensor = squares.unflatten(-1, (-1, 2)).sum(-1)
    return result


def haar_unitaries(shape: tuple[int, int, int], generator: torch.Generator | None = None) -> Tensor:
    """Draw unitary matrices of the Haar measure, complex128.

    The factor Q of the QR factorization of a matrix of independent complex normal numbers, with
    the phases of R's diagonal (Mezzadri 2007, "How to generate random matrices from the classical
    compact groups").

    Args:
        shape: ``(matrices, size, size)``.
        generator: Source of the numbers; by default torch's global one.
    """
    normal = torch.randn(*shape, 2, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(torch.view_as_complex(normal))
    result: Tensor = q * r.diagonal(dim1=-2, dim2=-1).sgn().unsqueeze(-2)
    return result
