"""Two-qubit gates as exponentials of Pauli words, all of a circuit in one call."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from plasticity.quantum.circuits import pauli_words
from plasticity.quantum.engine.constants import cached_constants
from plasticity.quantum.engine.memory import Call, Memory
from plasticity.quantum.engine.transforms import is_forward_mode, over_batched_gradients


@cached_constants
def _pauli_basis(device: torch.device) -> tuple[Tensor]:
    """Return P_k as rows of interleaved real and imaginary parts, ``(15, 32)`` float64."""
    words = torch.from_numpy(pauli_words()).reshape(15, 16)
    return (torch.view_as_real(words).reshape(15, 32).to(device),)


def exponentials(angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return exp(-iH) with the eigenvalues and eigenvectors of H = sum_k angles_k P_k.

    Computed in complex128 whatever the angles' dtype: at 4x4 it costs the same.
    """
    hamiltonian = _hamiltonian(angles)
    try:
        levels, vectors = torch.linalg.eigh(hamiltonian)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # Angles that are not finite give NaN, as any layer would.
        levels = torch.full_like(hamiltonian[..., 0].real, math.nan)
        vectors = torch.full_like(hamiltonian, math.nan)
    phases = torch.polar(torch.ones_like(levels), -levels)
    return (vectors * phases.unsqueeze(-2)) @ vectors.mH, levels, vectors


def pull_to_angles(grad: Tensor, levels: Tensor, vectors: Tensor) -> Tensor:
    """Return the gradient of the angles from that of the gates, float64 (Daleckii-Krein).

    With H = V diag(l) V*, the derivative of exp(-iH) in direction E is V (F o (V* E V)) V*, where
    F_jk = (exp(-i l_j) - exp(-i l_k)) / (l_j - l_k) = -i exp(-i (l_j + l_k)/2) sinc((l_j - l_k)/2),
    which is smooth at equal eigenvalues (Higham, Functions of Matrices, theorem 3.11).
    """
    half = levels / 2
    mean = half.unsqueeze(-1) + half.unsqueeze(-2)
    gap = half.unsqueeze(-1) - half.unsqueeze(-2)
    # The conjugate of F: i exp(i mean) sinc(gap); torch's sinc has a factor pi.
    quotient = torch.polar(torch.sinc(gap / math.pi), mean + math.pi / 2)
    adjoint = vectors.mH
    return _along_paulis(vectors @ (quotient * (adjoint @ grad @ vectors)) @ adjoint)


class _GateExponential(torch.autograd.Function):
    """The gates and their derivatives, for ``torch.func`` and higher derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return exponentials(angles)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, levels, vectors = output
        ctx.mark_non_differentiable(levels, vectors)
        ctx.save_for_backward(inputs[0], levels, vectors)

    @staticmethod
    @over_batched_gradients
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Tensor:
        if is_forward_mode():
            return _by_matrix_exponential(grad, ctx.saved_tensors[0])
        return _GateExponentialBackward.apply(grad, *ctx.saved_tensors)


class _GateExponentialBackward(torch.autograd.Function):
    """The map from the gradient of the gates to that of the angles, itself differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, angles: Tensor, levels: Tensor, vectors: Tensor) -> Tensor:
        return pull_to_angles(grad, levels, vectors).to(angles.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @over_batched_gradients
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        pull_back = torch.func.vjp(_by_matrix_exponential, *ctx.saved_tensors)[1]
        return *pull_back(grad), None, None


def _by_matrix_exponential(grad: Tensor, angles: Tensor) -> Tensor:
    """Do what ``pull_to_angles`` does by functions that torch itself differentiates in any way.

    That is, without eigenvectors, whose derivatives are singular at equal eigenvalues: the adjoint
    derivative at X is the upper right block of exp [[X*, G], [0, X*]] (Higham, theorem 3.6).
    """
    adjoint = 1j * _hamiltonian(angles)
    blank = torch.zeros_like(adjoint)
    both = torch.cat([torch.cat([adjoint, grad], -1), torch.cat([blank, adjoint], -1)], -2)
    inner = 1j * torch.linalg.matrix_exp(both)[..., :4, 4:]
    return _along_paulis(inner).to(angles.dtype)


def _along_paulis(grad_hamiltonian: Tensor) -> Tensor:
    parts = torch.view_as_real(grad_hamiltonian.resolve_conj()).flatten(-3)
    return parts @ _pauli_basis(grad_hamiltonian.device)[0].T


def _hamiltonian(angles: Tensor) -> Tensor:
    parts = angles.double() @ _pauli_basis(angles.device)[0]
    return torch.view_as_complex(parts.unflatten(-1, (16, 2))).unflatten(-1, (4, 4))


def gate_matrices(angles: Tensor) -> Tensor:
    """Return the gates exp(-i sum_k angles[g, k] P_k).

    Args:
        angles: ``(gates, 15)``, float32 or float64, radians.

    Returns:
        ``(gates, 4, 4)`` complex128, unitary to rounding. Differentiable any number of times.
    """
    if is_forward_mode():
        return torch.linalg.matrix_exp(-1j * _hamiltonian(angles))
    return _GateExponential.apply(angles)[0]


# --------------------------------------------------------------------------------- for a program
@cached_constants
def _laid_out_constants(device: torch.device) -> tuple[Tensor, ...]:
    """Return what maps angles to -H/2, and levels to gaps; a pair's gap; what maps gradients."""
    (basis,) = _pauli_basis(device)
    real, imaginary = basis.unflatten(1, (16, 2)).unbind(2)
    first, second = torch.triu_indices(4, 4, 1, device=device)
    level = torch.eye(4, dtype=torch.float64, device=device)
    gaps = (level[:, first] - level[:, second]) / math.pi  # torch's sinc has a factor pi
    of_pair = torch.full((4, 4), len(first), device=device)  # behind the gaps: of equal levels
    of_pair[first, second] = of_pair[second, first] = torch.arange(len(first), device=device)
    along_paulis = torch.stack([imaginary, real], 2).flatten(1).T.contiguous()
    return -basis / 2, gaps.contiguous(), of_pair.flatten(), along_paulis


class ExponentialCalls:
    """Gates and their derivatives as calls on memory that is made once.

    The same as ``exponentials`` and ``pull_to_angles``, with -H/2 = V diag(m) V* and the conjugated
    gradient C of the gates. With A = V diag(exp(i m)) and B = conj(V) diag(exp(i m)), the gate is
    A B^T. The gradient of angle k is Re tr(P_k^T (-i) B (S o (V^T C conj(V))) A^T), where
    S_ij = sinc(m_i - m_j).

    Args:
        gates: Where ``forward`` writes the gates, ``(gates, 4, 4)``, complex.
        grad_gates: Where ``backward`` finds their conjugated gradient; None where there is none.
        memory: Where tensors are made.

    Attributes:
        angles: To be filled in before ``forward``, ``(gates, 15)`` float64.
        grad_angles: What ``backward`` makes.
        forward: Calls.
        backward: Calls.
    """

    def __init__(self, gates: Tensor, grad_gates: Tensor | None, memory: Memory) -> None:
        basis, level_gaps, of_pair, along_paulis = _laid_out_constants(memory.device)
        count = len(gates)

        def real(*shape: int) -> Tensor:
            return memory.new(count, *shape, dtype=torch.float64)

        def matrices() -> Tensor:
            return memory.new(count, 4, 4, dtype=torch.complex128)

        def reals(tensor: Tensor) -> Tensor:
            return torch.view_as_real(tensor).view(count, 32)

        self.angles, levels, halved = real(15), real(4), matrices()
        vectors = matrices().mT  # as LAPACK leaves them
        conjugate, left, right = matrices().mT, matrices().mT, matrices().mT
        spectrum = levels, vectors
        phases = memory.new(count, 1, 4, dtype=torch.complex128)
        ones = torch.ones_like(levels)
        exact = gates if gates.dtype == torch.complex128 else matrices()
        self.forward: list[Call] = [
            partial(torch.mm, self.angles, basis, out=reals(halved)),
            partial(_diagonalize, halved, spectrum),
            partial(torch.polar, ones, levels, out=phases.squeeze(1)),
            partial(torch.conj_physical, vectors, out=conjugate),
            partial(torch.mul, vectors, phases, out=left),
            partial(torch.mul, conjugate, phases, out=right),
            partial(torch.bmm, left, right.mT, out=exact),
        ]
        if exact is not gates:
            self.forward.append(partial(gates.copy_, exact))
        self.backward: list[Call] = []
        if grad_gates is None:
            return
        self.grad_angles = real(15)
        exact_grad = grad_gates
        if grad_gates.dtype != torch.complex128:
            exact_grad = matrices()
            self.backward.append(partial(exact_grad.copy_, grad_gates))
        gaps, slopes, of_pairs = real(6), real(7), real(4, 4)
        slopes.fill_(1)
        inner, other = matrices(), matrices()
        self.backward += [
            partial(torch.mm, levels, level_gaps, out=gaps),
            partial(torch.sinc, gaps, out=slopes[:, :6]),
            partial(torch.index_select, slopes, 1, of_pair, out=of_pairs.view(count, 16)),
            partial(torch.bmm, vectors.mT, exact_grad, out=other),
            partial(torch.bmm, other, conjugate, out=inner),
            partial(torch.mul, inner, of_pairs, out=inner),
            partial(torch.bmm, right, inner, out=other),
            partial(torch.bmm, other, left.mT, out=inner),
            partial(torch.mm, reals(inner), along_paulis, out=self.grad_angles),
        ]


def _diagonalize(matrices: Tensor, spectrum: tuple[Tensor, Tensor]) -> None:
    """Write eigenvalues and eigenvectors into a spectrum."""
    try:
        torch.linalg.eigh(matrices, out=spectrum)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # Angles that are not finite give NaN, as any layer would.
        for part in spectrum:
            part.fill_(math.nan)
