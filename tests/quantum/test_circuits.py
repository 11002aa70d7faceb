"""Ansaetze: the pairs, their order, and the tc.Circuit they give."""

import dataclasses
import pickle

import numpy as np
import pytest
import tensorcircuit as tc
import torch

from plasticity.quantum.circuits import Ansatz, Brickwork, Ring, Staircase
from tests.oracle import dense_unitary, tensorcircuit


def test_brickwork_lists_even_then_odd_bricks_of_each_layer() -> None:
    layer = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (1, 2), (3, 4), (5, 6), (7, 8))
    assert Brickwork(10, 4).pairs == layer * 4
    assert Brickwork(10, 4).num_gates == 36
    assert Brickwork(3, 2).pairs == ((0, 1), (1, 2)) * 2
    assert Brickwork(2, 3).pairs == ((0, 1),) * 3


def test_staircase_and_ring_walk_along_the_chain() -> None:
    assert Staircase(4, 2).pairs == ((0, 1), (1, 2), (2, 3)) * 2
    assert Ring(4, 2).pairs == ((0, 1), (1, 2), (2, 3), (3, 0)) * 2
    assert Ring(9, 12).num_gates == 108


def test_gate_groups_are_the_even_and_odd_bricks() -> None:
    ansatz = Brickwork(5, 2)
    even, odd = ansatz.gate_groups
    assert {ansatz.pairs[g] for g in even} == {(0, 1), (2, 3)}
    assert {ansatz.pairs[g] for g in odd} == {(1, 2), (3, 4)}
    assert sorted(even + odd) == list(range(ansatz.num_gates))
    assert Brickwork(2, 2).gate_groups == ((0, 1),)
    assert Ring(3, 1).gate_groups == ((0, 1, 2),)


@pytest.mark.parametrize("family", [Brickwork, Staircase, Ring])
def test_an_ansatz_of_another_depth_can_be_made_from_one(family) -> None:
    deeper = dataclasses.replace(family(4, 1), depth=3)
    assert deeper == family(4, 3)
    assert deeper.pairs == family(4, 1).pairs * 3
    assert dataclasses.replace(deeper, num_qubits=6) == family(6, 3)
    assert pickle.loads(pickle.dumps(deeper)) == deeper
    assert repr(deeper) == f"{family.__name__}(num_qubits=4, depth=3)"


def test_equal_ansaetze_are_equal_and_hash_alike() -> None:
    assert Brickwork(4, 2) == Brickwork(4, 2)
    assert hash(Ring(4, 2)) == hash(Ring(4, 2))
    assert Brickwork(4, 2) != Brickwork(4, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Brickwork(1, 2), "at least 2 qubits, not 1"),
        (lambda: Ring(0, 1), "at least 2 qubits, not 0"),
        (lambda: Staircase(4, 0), "at least 1, not 0"),
        (lambda: Ansatz(3, ((0, 3),)), r"\(0, 3\) is not two of the qubits 0..2"),
        (lambda: Ansatz(3, ((1, 1),)), r"\(1, 1\) is not two of the qubits 0..2"),
        (lambda: Ansatz(3, ()), "at least one pair"),
    ],
)
def test_wrong_ansatz_is_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("ansatz", [Brickwork(4, 2), Ring(3, 2), Ansatz(3, ((2, 0), (1, 2)))])
@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_circuit_matches_dense_matrices_on_each_backend(ansatz: Ansatz, backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (ansatz.num_gates, 15)
    angles = 6.3 * torch.rand(shape, generator=generator, dtype=torch.float64)
    state = torch.randn(2**ansatz.num_qubits, generator=generator, dtype=torch.complex128)
    state = state / torch.linalg.vector_norm(state)
    with tensorcircuit(backend):
        final = np.asarray(ansatz.circuit(angles, state).state())
    np.testing.assert_allclose(final, dense_unitary(ansatz, angles) @ state.numpy(), atol=1e-12)


def test_circuit_can_be_drawn_as_gates_of_two_qubits() -> None:
    ansatz = Brickwork(4, 1)
    angles = torch.zeros(ansatz.num_gates, 15)
    circuit = ansatz.circuit(angles, torch.eye(16, dtype=torch.complex64)[0])
    assert [gate["index"] for gate in circuit.to_qir()] == list(ansatz.pairs)
    assert tc.backend.name == "numpy"
