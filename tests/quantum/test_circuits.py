"""Ansaetze: the pairs, their order, and the tc.Circuit they give."""

import dataclasses
import itertools
import pickle

import numpy as np
import pytest
import tensorcircuit as tc
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.quantum.circuits import Ansatz, Brickwork, Ring, Staircase, light_cone, pauli_words
from tests.oracle import dense_unitary, dense_z, tensorcircuit
from tests.quantum.engine.test_contraction import ansaetze, random_angles


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


# ----------------------------------------------------------------------------------- light cones
@settings(deadline=None, max_examples=30)
@given(ansaetze(max_qubits=4, max_depth=3), st.integers(0, 3))
def test_gates_outside_the_light_cone_do_not_matter(ansatz, qubit) -> None:
    qubit %= ansatz.num_qubits
    angles, x = random_angles(ansatz, 0), torch.eye(2**ansatz.num_qubits, dtype=torch.float64)
    outside = sorted(set(range(ansatz.num_gates)) - set(light_cone(ansatz, qubit)))
    changed = angles.clone()
    changed[outside] += 1
    np.testing.assert_allclose(
        dense_z(ansatz, angles, x, qubit), dense_z(ansatz, changed, x, qubit), atol=1e-12
    )


def test_light_cones_of_the_paper_are_as_counted_by_hand() -> None:
    staircase = Staircase(10, 6)
    cone = light_cone(staircase, 0)
    assert len(cone) == 21
    assert {q for gate in cone for q in staircase.pairs[gate]} == set(range(7))
    brickwork = Brickwork(10, 10)
    outside = set(range(90)) - set(light_cone(brickwork, 9))
    assert set(range(86, 90)) <= outside  # the last odd layer
    assert {81, 82, 83, 84} <= outside  # the last even layer but (8, 9)
    assert 85 not in outside


# ---------------------------------------------------------------------------------------- gates
def test_pauli_words_are_those_of_tensorcircuit_in_the_order_of_their_names() -> None:
    names = itertools.product(range(4), repeat=2)  # of I, X, Y, Z
    with tensorcircuit("numpy", "complex128"):
        expected = [tc.quantum.PauliString2COO(name).toarray() for name in names][1:]
    for word, matrix in zip(pauli_words(), expected, strict=True):
        np.testing.assert_array_equal(word, matrix)
