"""What became of a circuit's gates, and how its outputs change with its angles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.learning.learner import Learner
from plasticity.quantum.circuits import Ansatz, light_cone, pauli_words
from plasticity.quantum.layer import QNN
from plasticity.tasks.streams import Task


@dataclass(frozen=True)
class GateDrift:
    """Tell how far a circuit's gates and their angles have gone, as means over its gates.

    With the gate exp(-i H), H = sum_k theta_k P_k with eigenvalues l_1 .. l_4:

    * ``angle_norm``: ||theta||. Angles may grow although the gates, which are unitary, cannot.
    * ``damping``: the mean of |sinc((l_i - l_j) / 2)| over the 12 pairs i != j, sinc t = sin t / t.
      By this the derivative of the gate is smaller than at theta = 0 in the 12 of 15 directions
      that do not commute with H (Daleckii-Krein; Higham, Functions of Matrices, theorem 3.11). It
      is 1 for small angles, and 0.11 where they are uniform in [0, 2 pi) (median 0.07).
    * ``displacement``: 1 - |tr(G* G_0)| / 4 of the gate G and the untrained G_0; 0 where they are
      equal up to a phase, 1 where they are orthogonal.

    Valid for: modules with ``angles`` of shape (gates, 15), as ``QNN``; other networks have no
    such column. Gates that the readout does not depend on have no gradient, and do not count.
    A module whose gates are not exp(-i H) alone has a method ``gates()`` that returns them,
    (gates, 4, 4) complex: then those are displaced. Source: ours.

    Attributes:
        initial: The untrained gates of each circuit.
    """

    initial: tuple[Tensor, ...]

    @classmethod
    def of(cls, learner: Learner, first: Task, seed: int) -> GateDrift:
        """Keep the gates of the untrained learner."""
        return cls(tuple(_gates(module) for module in circuits(learner.network)))

    def __call__(self, learner: Learner, task: Task) -> dict[str, float]:
        """Return the columns; none for a network without angles."""
        norms, damping, displacement = [], [], []
        for module, initial in zip(circuits(learner.network), self.initial, strict=True):
            counted = _counted(module)
            angles = module.angles.detach()[counted]
            norms.append(torch.linalg.vector_norm(angles.double(), dim=1))
            damping.append(dampings(angles))
            overlap = (_gates(module).conj() * initial)[counted].sum((1, 2))
            displacement.append(1 - overlap.abs() / 4)
        if not norms:
            return {}
        columns = {"angle_norm": norms, "damping": damping, "displacement": displacement}
        return {name: float(torch.cat(parts).mean()) for name, parts in columns.items()}


def circuits(network: nn.Module) -> Iterator[Any]:
    """Yield the modules that have a circuit's angles, (gates, 15), each parameter once."""
    seen = set()
    for module in network.modules():
        angles = getattr(module, "angles", None)
        if isinstance(angles, nn.Parameter) and angles.dim() == 2 and angles.shape[1] == 15:
            ansatz = getattr(module, "ansatz", None)
            if isinstance(ansatz, Ansatz) and id(angles) not in seen:
                seen.add(id(angles))
                yield module


def _counted(module: Any) -> list[int]:
    readout = getattr(module, "readout", None)
    return list(light_cone(module.ansatz, getattr(readout, "qubit", None)))


def _gates(module: Any) -> Tensor:
    own = getattr(module, "gates", None)
    if callable(own):
        with torch.no_grad():
            return own().detach().to(torch.complex128).clone()
    return gate_exponentials(module.angles.detach())[0]


def dampings(angles: Tensor) -> Tensor:
    """Return each gate's mean of |sinc((l_i - l_j) / 2)| over i != j, ``(gates,)`` float64."""
    levels, _ = _levels_and_vectors(angles)
    half_gaps = (levels.unsqueeze(-1) - levels.unsqueeze(-2)) / 2
    # torch's sinc has a factor pi; the four of i = j are 1 each.
    return (torch.sinc(half_gaps / math.pi).abs().sum((1, 2)) - 4) / 12


def gate_exponentials(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gates exp(-i sum_k angles[g, k] P_k) and their derivatives in each angle.

    With H = V diag(l) V*, the derivative in theta_k is V (F o (V* P_k V)) V*, where
    F_ij = -i exp(-i (l_i + l_j) / 2) sinc((l_i - l_j) / 2).

    Args:
        angles: ``(gates, 15)``, radians.

    Returns:
        ``(gates, 4, 4)`` and ``(gates, 15, 4, 4)``, complex128.
    """
    levels, vectors = _levels_and_vectors(angles)
    phases = torch.polar(torch.ones_like(levels), -levels)
    gates = (vectors * phases.unsqueeze(1)) @ vectors.mH
    half = levels / 2
    mean = half.unsqueeze(-1) + half.unsqueeze(-2)
    gap = half.unsqueeze(-1) - half.unsqueeze(-2)
    quotient = torch.polar(torch.sinc(gap / math.pi), -mean - math.pi / 2).unsqueeze(1)
    v = vectors.unsqueeze(1)
    return gates, v @ (quotient * (v.mH @ _words(angles) @ v)) @ v.mH


def _levels_and_vectors(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of each H; NaN if any angle is not finite."""
    hamiltonians = torch.einsum("gk,kij->gij", angles.to(torch.complex128), _words(angles))
    if hamiltonians.isfinite().all():
        return torch.linalg.eigh(hamiltonians)
    undefined = torch.full_like(hamiltonians, math.nan)
    return undefined[..., 0].real, undefined


def _words(angles: Tensor) -> Tensor:
    return torch.from_numpy(pauli_words()).to(angles.device)


def angle_jacobian(qnn: QNN, x: Tensor) -> Tensor:
    """Return the derivatives of a QNN's outputs in its angles, for each sample.

    An amplitude <k|U|x> is linear in a gate G = G_g: its derivative in G_ij is the sum over the
    other qubits of <k| G_N .. G_{g+1} at i times G_{g-1} .. G_1 |x> at j. So one sweep of the
    samples from the left and one of the rows <k| from the right meet at each gate, in one product
    for all samples and outcomes. (Of Z, the rows are those of <x|U* Z, one a sample.)

    Args:
        qnn: The layer.
        x: ``(samples, features)``, real or complex.

    Returns:
        ``(samples, outputs, gates * 15)`` in the dtype of the angles.
    """
    angles = qnn.angles.detach()
    ansatz, readout, kind = qnn.ansatz, qnn.readout, angles.dtype.to_complex()
    samples = x.detach().to(torch.complex128)
    samples = samples / samples.abs().amax(1, keepdim=True)  # so that no square overflows
    samples = (samples / torch.linalg.vector_norm(samples, dim=1, keepdim=True)).to(kind)
    state = nn.functional.pad(samples, (0, 2**ansatz.num_qubits - x.shape[1]))
    gates, derivatives = (part.to(kind) for part in gate_exponentials(angles))
    befores = []
    for gate, pair in zip(gates, ansatz.pairs, strict=True):
        befores.append(_pair_first(state, ansatz.num_qubits, pair))
        state = _pair_back(gate @ befores[-1], ansatz.num_qubits, pair)
    if readout.qubit is None:
        outcomes = readout.num_outcomes(ansatz.num_qubits)
        assert outcomes is not None
        # <k|, of each outcome.
        rows = torch.eye(outcomes, 2**ansatz.num_qubits, dtype=kind, device=x.device)
        amplitudes = state[:, :outcomes]
        values = amplitudes.abs().square()
    else:
        signs = 1 - 2 * (
            torch.arange(2**ansatz.num_qubits, device=x.device)
            >> (ansatz.num_qubits - 1 - readout.qubit)
            & 1
        )
        rows = state.conj() * signs
        values = (state.abs().square() * signs).sum(1)
    parts = []
    for g in reversed(range(ansatz.num_gates)):
        after = _pair_first(rows, ansatz.num_qubits, ansatz.pairs[g])
        if readout.qubit is None:
            # (rows 4, rest) times (samples 4, rest): a derivative for each of the pairs.
            flat = after.flatten(0, 1) @ befores[g].flatten(0, 1).mT
            in_gate = flat.unflatten(0, (-1, 4)).unflatten(2, (-1, 4)).permute(2, 0, 1, 3)
            in_angles = torch.einsum("nkij,pij->nkp", in_gate, derivatives[g])
            parts.append(2 * (amplitudes.conj().unsqueeze(2) * in_angles).real)
        else:
            in_gate = after @ befores[g].mT
            parts.append(2 * torch.einsum("nij,pij->np", in_gate, derivatives[g]).real)
        rows = _pair_back(gates[g].mT @ after, ansatz.num_qubits, ansatz.pairs[g])
    of_values = torch.cat(parts[::-1], -1)
    if readout.qubit is not None:
        of_z = torch.func.vmap(torch.func.jacrev(lambda z: readout(z.unsqueeze(0))[0]))
        return of_z(values).unsqueeze(2) * of_values.unsqueeze(1)
    with torch.enable_grad():  # an output depends on the probability of its own outcome only
        probabilities = values.requires_grad_()
        (slopes,) = torch.autograd.grad(readout(probabilities).sum(), probabilities)
    return slopes.unsqueeze(2) * of_values


def _pair_first(vectors: Tensor, num_qubits: int, pair: tuple[int, int]) -> Tensor:
    """Return ``(vectors, 4, rest)``: the second axis is the pair's basis states."""
    qubits = vectors.reshape(-1, *[2] * num_qubits)
    return qubits.movedim((pair[0] + 1, pair[1] + 1), (1, 2)).reshape(len(vectors), 4, -1)


def _pair_back(vectors: Tensor, num_qubits: int, pair: tuple[int, int]) -> Tensor:
    """Undo ``_pair_first``."""
    qubits = vectors.reshape(-1, *[2] * num_qubits)
    return qubits.movedim((1, 2), (pair[0] + 1, pair[1] + 1)).reshape(len(vectors), -1)
