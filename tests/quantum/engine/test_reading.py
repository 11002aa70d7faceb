"""A batch read in one function, against the same in words of torch and against dense matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.quantum.circuits import Brickwork, Ring, Staircase
from plasticity.quantum.engine import planning, program, reading
from plasticity.quantum.engine.costs import Way
from plasticity.quantum.engine.planning import make_plan
from plasticity.quantum.engine.reading import probabilities
from tests.oracle import dense_unitary
from tests.quantum.engine.test_contraction import CARRIES, ansaetze, random_angles


def gates_of(num_gates: int, seed: int) -> torch.Tensor:
    """Return gates that are not unitary."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_gates, 4, 4, generator=generator, dtype=torch.complex128) / 2


@settings(deadline=None)
@given(
    ansaetze(max_qubits=7, max_depth=5),
    st.sampled_from(CARRIES),
    st.integers(2, 5),
    st.sampled_from([0, 2]),
    st.integers(0, 4),
    st.sampled_from(["angles", "gates"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(0, 0), (3000, 2**10), (2**20, 2**20)]),
    st.integers(0, 2**32),
)
def test_values_and_all_gradients_are_those_in_words_of_torch(
    ansatz, carry, width, behind, attempt, kind, complex_inputs, observes, memory, seed
) -> None:
    """Whatever the plan: of any width, searched or not, states kept or not, sums one or many."""
    n, generator = ansatz.num_qubits, torch.Generator().manual_seed(seed)
    qubit = seed % n if observes and carry != "rows" else None
    outcomes = None if qubit is not None else 1 + seed % 2**n
    plan = planning.attempted_plan(ansatz, qubit, width, kind == "angles", behind, attempt)
    way = Way(carry, plan)
    weights = random_angles(ansatz, seed) if kind == "angles" else gates_of(ansatz.num_gates, seed)
    dtype = torch.complex128 if complex_inputs else torch.float64
    x = torch.randn(1 + seed % 4, 1 + seed % 2**n, generator=generator, dtype=dtype)
    norm = 0.5 + torch.rand(len(x), 1, generator=generator, dtype=torch.float64)
    arguments = [a.requires_grad_() for a in (x, norm, weights)]

    expected = reading._in_words(way, *arguments, outcomes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "HISTORY_BYTES", memory[0])
        patch.setattr(program, "SUMMED_BYTES", memory[1])
        found = probabilities(way, *arguments, outcomes)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        cotangent = torch.randn(found.shape, generator=generator, dtype=torch.float64)
        for _ in range(2):  # the second time, states that were recomputed are made again
            gradients = torch.autograd.grad(found, arguments, cotangent, retain_graph=True)
            wanted = torch.autograd.grad(expected, arguments, cotangent, retain_graph=True)
            for gradient, want in zip(gradients, wanted, strict=True):
                scale = max(1.0, float(want.abs().max()))
                torch.testing.assert_close(gradient, want, rtol=1e-8, atol=1e-9 * scale)


@pytest.mark.sampled(12)
@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize("attempt", [0, 1, 6])
@pytest.mark.parametrize(
    "ansatz", [Brickwork(7, 5), Staircase(7, 4), Ring(7, 4)], ids=lambda a: type(a).__name__
)
def test_searched_plans_give_the_dense_circuit(ansatz, carry, attempt) -> None:
    angles = random_angles(ansatz, 0)
    x = torch.randn(3, 100, dtype=torch.float64)
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    plan = planning.attempted_plan(ansatz, None, 3, True, 2, attempt)
    found = probabilities(Way(carry, plan), x, norm, angles, 128)
    unitary = dense_unitary(ansatz, angles)[:, :100]
    expected = np.abs(unitary @ (x / norm).numpy().T).T ** 2
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_without_gradients_no_memory_is_laid_out_for_them(monkeypatch) -> None:
    made = []
    init = program.Program.__init__
    monkeypatch.setattr(
        program.Program,
        "__init__",
        lambda self, *a, **k: (made.append(k["grad"]), init(self, *a, **k))[1],
    )
    ansatz = Brickwork(3, 1)
    angles = random_angles(ansatz, 0).requires_grad_()
    x, norm = torch.rand(2, 5, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    way = Way("states", make_plan(ansatz))
    with torch.no_grad():
        assert not probabilities(way, x, norm, angles, 4).requires_grad
    probabilities(way, x, norm, angles, 4).sum().backward()
    assert made == [False, True]
