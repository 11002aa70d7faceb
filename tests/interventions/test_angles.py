"""Angles with more or fewer whole turns are angles of the same gates."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from plasticity.metrics.circuits import dampings
from plasticity.networks.modules.bricks import REAL_WORDS
from plasticity.quantum.angles import shortest, turned
from plasticity.quantum.circuits import pauli_words


def drawn(count=6, most=2 * math.pi, words=range(15)):
    angles = torch.zeros(count, 15, dtype=torch.float64)
    source = torch.Generator().manual_seed(3)
    numbers = most * torch.rand(count, len(words), dtype=torch.float64, generator=source)
    angles[:, list(words)] = numbers
    return angles


def generators(angles):
    return np.einsum("gk,kij->gij", angles.numpy(), pauli_words())


def overlaps(a, b):
    """Return |tr(A* B)| / 4 of each pair of gates: 1 where they are equal up to a phase."""
    gates = [[expm(-1j * h) for h in generators(angles)] for angles in (a, b)]
    return [abs(np.trace(x.conj().T @ y)) / 4 for x, y in zip(*gates, strict=True)]


@pytest.mark.parametrize("words", [range(15), REAL_WORDS])
@pytest.mark.parametrize("turns", [1, 3])
def test_turns_keep_the_gates_and_move_the_levels_apart(turns, words):
    angles = drawn(words=words)
    new = turned(angles, turns)
    assert overlaps(angles, new) == pytest.approx([1] * 6, abs=1e-12)
    before, after = (np.linalg.eigvalsh(generators(a)) for a in (angles, new))
    assert np.diff(after) == pytest.approx(np.diff(before) + 2 * math.pi * turns)
    assert after.sum(1) == pytest.approx(np.zeros(6), abs=1e-12)
    assert (dampings(new) < dampings(angles)).all()
    others = [k for k in range(15) if k not in words]
    assert new[:, others].abs().max().item() < 1e-12 if others else True


def test_no_turn_changes_no_bit():
    angles = drawn()
    assert torch.equal(turned(angles, 0), angles)


def shortest_by_trying(levels):
    """Return the least length of levels plus whole turns, less their mean, of all combinations."""
    tries = (
        levels + 2 * math.pi * np.array(turns)
        for turns in itertools.product(range(-4, 5), repeat=4)
    )
    return min(float(np.linalg.norm(t - t.mean())) for t in tries)


@pytest.mark.parametrize("most", [1.0, 2 * math.pi])
def test_the_shortest_angles_are_those_that_trying_all_turns_finds(most):
    angles = drawn(4, most)
    new = shortest(angles)
    assert overlaps(angles, new) == pytest.approx([1] * 4, abs=1e-12)
    for before, after in zip(generators(angles), generators(new), strict=True):
        length = np.linalg.norm(np.linalg.eigvalsh(after))
        assert length == pytest.approx(shortest_by_trying(np.linalg.eigvalsh(before)))


def test_short_angles_keep_every_bit_and_turns_are_taken_off_again():
    short = shortest(drawn()).float()
    assert torch.equal(shortest(short), short)
    assert torch.allclose(shortest(turned(short, 3)), short, atol=1e-4)
    with pytest.raises(ValueError, match="turns -1: at least 0"):
        turned(short, -1)


def test_shortest_angles_of_real_gates_are_angles_of_real_gates():
    angles = drawn(words=REAL_WORDS)
    new = shortest(angles, of_real_gates=True)
    assert overlaps(angles, new) == pytest.approx([1] * 6, abs=1e-12)
    others = [k for k in range(15) if k not in REAL_WORDS]
    assert new[:, others].abs().max().item() < 1e-12
    assert (new.norm(dim=1) <= angles.norm(dim=1) + 1e-12).all()
