"""The same gates in other angles: whole turns added to a generator's eigenphases, or taken off.

A gate is exp(-i H), H = sum_k theta_k P_k over the 15 Pauli words without the identity, so that H
has no trace. With H = V diag(l) V*, whole turns n_j change the levels to l_j + 2 pi n_j, less their
mean, and the gate by nothing but a phase, a power of i, which no probability shows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from plasticity.quantum.circuits import pauli_words


def turned(angles: Tensor, turns: int) -> Tensor:
    """Return angles of the same gates whose levels are farther apart by whole turns.

    With the levels in ascending order, l_1 <= .. <= l_4, level j becomes l_j + 2 pi K (j - 5/2):
    each is K turns farther from the one before it, and the sum stays 0.

    Args:
        angles: ``(gates, 15)``, radians, float32 or float64.
        turns: K; 0 leaves the angles as they are, bit for bit.

    Raises:
        ValueError: K is negative.
    """
    if turns < 0:
        raise ValueError(f"turns {turns}: at least 0")
    if turns == 0:
        return angles.detach().clone()
    levels, vectors = _levels(angles)
    places = torch.arange(4, dtype=levels.dtype, device=levels.device) - 1.5
    return _angles(levels + 2 * math.pi * turns * places, vectors).to(angles.dtype)


def shortest(angles: Tensor, *, of_real_gates: bool = False) -> Tensor:
    """Return the shortest angles, as a vector of each gate, of the same gates.

    The eigenphases of a gate lie on a circle. The shortest vector has the levels of least variance,
    which lie within one turn: the circle is cut at one of four places. Gates whose angles are the
    shortest already keep them, bit for bit.

    Args:
        angles: ``(gates, 15)``, radians, float32 or float64.
        of_real_gates: Take only angles of real gates, of generators whose levels are a, b, -b, -a.
    """
    levels, vectors = _levels(angles)
    phases = levels.remainder(2 * math.pi)
    order = phases.argsort(1)
    places = order.argsort(1)  # of each level on the circle
    best, least = levels, torch.full_like(levels[:, 0], math.inf)
    for cut in range(4):
        candidate = phases + 2 * math.pi * (places < cut)
        candidate = candidate - candidate.mean(1, keepdim=True)
        length = candidate.square().sum(1)
        if of_real_gates:  # levels are ascending: the first is minus the last, as H has it
            symmetric = (candidate + candidate.flip(1)).abs().amax(1) < 1e-6
            length = torch.where(symmetric, length, math.inf)
        # Rounding decides nothing: of equal lengths, the first.
        shorter = length < least - 1e-9
        best = torch.where(shorter.unsqueeze(1), candidate, best)
        least = torch.where(shorter, length, least)
    changed = (best - levels).abs().amax(1) > 1e-6
    new = angles.detach().clone()
    if changed.any():
        new[changed] = _angles(best[changed], vectors[changed]).to(angles.dtype)
    return new


def _levels(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, ascending, and eigenvectors of each H; ``(gates, 4)``, complex128."""
    words = torch.from_numpy(pauli_words()).to(angles.device)
    weights = angles.detach().to(torch.complex128)
    levels, vectors = torch.linalg.eigh(torch.einsum("gk,kij->gij", weights, words))
    return levels, vectors


def _angles(levels: Tensor, vectors: Tensor) -> Tensor:
    """Return the angles of each V diag(l) V*, ``(gates, 15)`` float64; its trace is dropped."""
    words = torch.from_numpy(pauli_words()).to(levels.device)
    generators = (vectors * levels.unsqueeze(1)) @ vectors.mH
    # tr(P_k P_l) = 4 delta_kl
    return torch.einsum("gij,kji->gk", generators, words).real / 4
