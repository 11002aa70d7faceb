"""Programs against plain products with dense matrices, with every shortcut on and off."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.quantum.circuits import Ansatz, Brickwork, Ring, Staircase
from plasticity.quantum.engine import program
from plasticity.quantum.engine.contraction import sweep
from plasticity.quantum.engine.gates import gate_matrices
from plasticity.quantum.engine.planning import make_plan, reversed_plan
from plasticity.quantum.engine.products import products
from plasticity.quantum.engine.program import Lease, Program
from tests.oracle import dense_unitary
from tests.quantum.engine.test_contraction import ansaetze, random_angles


def slope(function, angles: torch.Tensor, direction: torch.Tensor, step: float = 1e-6):
    """Differentiate by central differences."""
    return (function(angles + step * direction) - function(angles - step * direction)) / (2 * step)


@pytest.mark.slow
@settings(deadline=None)
@given(
    ansaetze(max_qubits=6),
    st.integers(1, 64),
    st.booleans(),
    st.sampled_from([0, 3000, 2**20]),
    st.integers(0, 2**32),
)
def test_leading_basis_states_give_leading_columns_and_rows(
    ansatz, count, backwards, history_bytes, seed
) -> None:
    size = 2**ansatz.num_qubits
    count = 1 + count % size
    angles = random_angles(ansatz, seed).requires_grad_()
    plan = make_plan(ansatz)
    plan = reversed_plan(plan) if backwards else plan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "HISTORY_BYTES", history_bytes)
        result = sweep(plan, angles, count)
        generator = torch.Generator().manual_seed(seed)
        cotangent = torch.randn(result.shape, generator=generator, dtype=result.dtype)
        result.backward(cotangent)

    def dense(angles: torch.Tensor) -> torch.Tensor:
        unitary = torch.from_numpy(dense_unitary(ansatz, angles.detach()))
        return (unitary.T if backwards else unitary)[:, :count]

    torch.testing.assert_close(result.detach(), dense(angles), rtol=0, atol=1e-11)
    direction = torch.randn(angles.shape, generator=generator, dtype=torch.float64)
    expected = (cotangent.conj() * slope(dense, angles.detach(), direction)).sum().real
    torch.testing.assert_close((angles.grad * direction).sum(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@settings(deadline=None)
@given(
    ansaetze(max_qubits=6),
    st.integers(0, 5),
    st.sampled_from([None, 1, 5]),
    st.booleans(),
    st.sampled_from([0, 3000, 2**20]),
    st.integers(0, 2**32),
)
def test_an_observed_qubit_needs_half_the_amplitudes(
    ansatz, qubit, count, complex_states, history_bytes, seed
) -> None:
    size, qubit = 2**ansatz.num_qubits, qubit % ansatz.num_qubits
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.complex128 if complex_states else torch.float64
    given_states = torch.randn(1 + seed % size, 3, generator=generator, dtype=dtype)
    given_states.requires_grad_()
    states = given_states if count is None else min(count, size)
    angles = random_angles(ansatz, seed).requires_grad_()

    def dense(angles: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        unitary = torch.from_numpy(dense_unitary(ansatz, angles.detach()))[:, : len(states)]
        final = unitary @ states.to(unitary.dtype)
        return final.unflatten(0, (2**qubit, 2, -1))[:, 0].abs().square().sum((0, 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "HISTORY_BYTES", history_bytes)
        result = sweep(make_plan(ansatz, qubit), angles, states)
        assert len(result) == size // 2
        zero = torch.view_as_real(result).square().sum((0, 2))
        zero.sum().backward()
    start = given_states if count is None else torch.eye(states, dtype=torch.float64)
    torch.testing.assert_close(zero, dense(angles, start), rtol=0, atol=1e-10)
    direction = torch.randn(angles.shape, generator=generator, dtype=torch.float64)
    expected = slope(lambda a: dense(a, start).sum(), angles.detach(), direction)
    torch.testing.assert_close((angles.grad * direction).sum(), expected, rtol=1e-5, atol=1e-5)
    if count is None:
        direction = torch.randn(given_states.shape, generator=generator, dtype=dtype)
        expected = slope(lambda s: dense(angles, s).sum(), given_states.detach(), direction)
        found = (given_states.grad.conj() * direction).sum().real
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_products_of_the_paper_are_smaller_at_the_start_and_at_the_end() -> None:
    rows = products(reversed_plan(make_plan(Brickwork(10, 4))), 10)
    work = [p.left * p.right * p.rows * p.columns for p in rows]
    assert [w / 2**14 for w in work[:4]] == [1 / 64, 1 / 8, 1 / 8, 1]
    assert products(make_plan(Ring(9, 12)), 27)[0].columns == 1  # qubits 0..3 are in |0>
    assert products(make_plan(Staircase(10, 6), 0))[-1].rows == 8


def test_qubits_that_no_gate_touches_stay_as_they_are() -> None:
    ansatz = Ansatz(5, ((3, 1),))
    angles = random_angles(ansatz, 0)
    expected = dense_unitary(ansatz, angles)[:, :3]
    np.testing.assert_allclose(sweep(make_plan(ansatz), angles, 3), expected, atol=1e-12)


PLAN = make_plan(Ring(4, 2))


def lease(vectors: int) -> Lease:
    return Lease(
        PLAN,
        vectors,
        angles=True,
        basis=True,
        grad=True,
        dtype=torch.complex64,
        device=torch.device("cpu"),
    )


def test_programs_in_use_are_not_shared_and_those_that_wait_are_used_again() -> None:
    first, second = lease(7), lease(7)
    assert first.program is not second.program
    waiting = first.program
    del first
    assert lease(6).program is not waiting
    assert lease(7).program is waiting


def test_waiting_programs_are_forgotten_beyond_the_limit_the_oldest_first(monkeypatch) -> None:
    monkeypatch.setattr(Lease, "_pool", [])
    first, second, third = (lease(count).program for count in (1, 2, 3))
    assert Lease.waiting_bytes() == sum(p.num_bytes for p in (first, second, third))
    in_use = lease(1)
    assert in_use.program is first
    monkeypatch.setattr(program, "POOL_BYTES", first.num_bytes + third.num_bytes + 1)
    fourth = lease(1)  # drives out those that wait, the oldest first, until there is room for it
    assert [kept for _, kept, _ in Lease._pool] == [first, fourth.program]
    del fourth
    too_large = lease(9)
    assert Lease.waiting_bytes() == first.num_bytes  # what does not fit drives out nobody
    assert too_large.program not in [kept for _, kept, _ in Lease._pool]
    Lease.forget_waiting()
    assert [kept for _, kept, _ in Lease._pool] == [first]  # it is in use


def test_nothing_runs_when_a_lease_ends_so_no_interrupt_is_lost_in_it() -> None:
    in_use, called = lease(5), []
    sys.setprofile(lambda frame, event, _: called.append(event))
    try:
        del in_use
    finally:
        sys.setprofile(None)
    assert "call" not in called


def test_memory_counts_what_is_allocated() -> None:
    plan = make_plan(Brickwork(6, 4))
    shallow, deep = (
        Program(
            plan,
            8,
            angles=True,
            basis=False,
            grad=grad,
            dtype=torch.complex128,
            device=torch.device("cpu"),
        ).num_bytes
        for grad in (False, True)
    )
    state = 2**6 * 8 * 16
    assert shallow >= 2 * state
    assert deep >= (len(plan.steps) + 2) * state


@pytest.mark.parametrize("angles", [True, False])
def test_an_interruption_at_any_call_of_a_backward_pass_spoils_no_later_one(
    angles, monkeypatch
) -> None:
    monkeypatch.setattr(program, "HISTORY_BYTES", 0)  # so that older states are recomputed
    ansatz = Ring(4, 3)
    plan, states = make_plan(ansatz), torch.randn(16, 3, dtype=torch.complex128)
    weights = random_angles(ansatz, 0)
    weights = weights if angles else gate_matrices(weights)
    made = Program(
        plan, 3, angles=angles, basis=False, grad=True, dtype=states.dtype, device=states.device
    )
    cotangent = torch.randn_like(made.run(weights, states))

    def gradient() -> torch.Tensor:
        made.final_grad.copy_(cotangent)
        return made.pull_back(states, of=weights)

    def interrupt() -> None:
        raise KeyboardInterrupt

    expected = gradient()
    for calls in (made._forward, made._backward, made._pulling):
        for k, call in enumerate(calls):
            calls[k] = interrupt
            with pytest.raises(KeyboardInterrupt):
                gradient()
            calls[k] = call
            torch.testing.assert_close(gradient(), expected)
