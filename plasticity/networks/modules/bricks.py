"""Quantum layers whose angles are fewer, bounded, or count from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from plasticity.networks.trained import is_trained
from plasticity.quantum.calls import outside_of_graphs
from plasticity.quantum.circuits import Ansatz, pauli_words
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import Readout

Initializer = Callable[[tuple[int, int]], Tensor]

REAL_WORDS = (1, 5, 7, 8, 10, 13)
"""Places among the 15 Pauli words of IY, XY, YI, YX, YZ, ZY: i times them is a real matrix."""


class OrthogonalQNN(QNN):
    """A QNN of real orthogonal gates.

    Args:
        ansatz: As ``QNN``.
        readout: As ``QNN``.
        initializer: Called with ``(num_gates, 6)``, returns the first angles.

    Attributes:
        angles: The parameter, ``(num_gates, 6)``, radians, of IY, XY, YI, YX, YZ, ZY.
    """

    def __init__(self, ansatz: Ansatz, readout: Readout, initializer: Initializer) -> None:
        super().__init__(ansatz, readout, torch.zeros)
        self.angles = nn.Parameter(initializer((ansatz.num_gates, len(REAL_WORDS))))
        columns = torch.full((15,), len(REAL_WORDS))  # of zeros, behind the angles
        columns[list(REAL_WORDS)] = torch.arange(len(REAL_WORDS))
        self.register_buffer("_columns", columns, persistent=False)

    @property
    def all_angles(self) -> Tensor:
        """Return the angles of all 15 Pauli words, ``(num_gates, 15)``."""
        zeros = self.angles.new_zeros(len(self.angles), 1)
        return torch.cat([self.angles, zeros], 1)[:, self._columns]


class WrappedQNN(QNN):
    """A QNN that replaces angles which wind around by those of the gate's principal logarithm.

    Args:
        ansatz: As ``QNN``.
        readout: As ``QNN``.
        initializer: Called with ``(num_gates, 15)``, returns the first angles, which are wrapped.
    """

    def __init__(self, ansatz: Ansatz, readout: Readout, initializer: Initializer) -> None:
        super().__init__(ansatz, readout, initializer)
        words = torch.view_as_real(torch.from_numpy(pauli_words())).reshape(15, 32)
        self.register_buffer("_words", words, persistent=False)  # zeros, ones and minus ones
        self.after_update()

    @torch.no_grad()
    def after_update(self) -> None:
        """Wrap the angles of those gates whose largest eigenvalue gap exceeds 2 pi."""
        if not is_trained(self.angles):
            return
        words = self._words.double()
        parts = self.angles.double() @ words
        if not parts.isfinite().all():  # training has diverged, which its loss will say
            return
        hamiltonian = torch.view_as_complex(parts.unflatten(1, (4, 4, 2)))
        levels, vectors = torch.linalg.eigh(hamiltonian)
        winding = (levels[:, -1] - levels[:, 0] > 2 * math.pi).nonzero().flatten()
        if not len(winding):
            return
        levels, vectors = levels[winding], vectors[winding]
        levels = levels - 2 * math.pi * (levels / (2 * math.pi)).round()
        logarithm = (vectors * levels.unsqueeze(1)) @ vectors.mH
        # tr(P_k P_l) = 4 delta_kl; the part along the identity has no word here, and is dropped.
        angles = torch.view_as_real(logarithm).flatten(1) @ words.T / 4
        self.angles[winding] = angles.to(self.angles.dtype)


class TrivializedQNN(QNN):
    """A QNN whose gates are exp(-i sum_k angles_k P_k) times gates that are no parameters.

    Args:
        ansatz: As ``QNN``.
        readout: As ``QNN``.
        initializer: Called with ``(num_gates, 15)``, returns the angles of the first gates.

    Attributes:
        angles: The parameter, ``(num_gates, 15)``, radians; zero at first.
        base: The gates from which the angles count, ``(num_gates, 4, 4, 2)``: real and imaginary
            parts, in the dtype of the angles.
    """

    def __init__(self, ansatz: Ansatz, readout: Readout, initializer: Initializer) -> None:
        super().__init__(ansatz, readout, initializer)
        identity = torch.eye(4, dtype=torch.complex128).expand(ansatz.num_gates, 4, 4)
        self.register_buffer("base", torch.view_as_real(identity.clone()).to(self.angles.dtype))
        self.before_task(0)

    @outside_of_graphs
    def gates(self) -> Tensor:
        """Return the gates, ``(num_gates, 4, 4)`` complex128, differentiable."""
        base = torch.view_as_complex(self.base.double())
        if self.base.dtype == torch.float64:  # it may come from a base in single precision
            base = _nearer_unitary(base)
        return super().gates() @ base

    def _weights(self) -> Tensor:
        return self.gates().to(self.angles.dtype.to_complex())

    @torch.no_grad()
    def before_task(self, index: int) -> None:
        """Let the angles count from the gates as they are now."""
        if is_trained(self.angles):
            self.base.copy_(torch.view_as_real(_nearer_unitary(self.gates())))
            self.angles.zero_()


def _nearer_unitary(gates: Tensor) -> Tensor:
    """Return gates that are off by the square of that: a step of Newton and Schulz."""
    return gates @ (3 * torch.eye(4, device=gates.device) - gates.mH @ gates) / 2
