"""Every contraction, forced one by one, against dense matrices, loops and finite differences."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, grad, jacrev, vmap

from plasticity.quantum.circuits import Ansatz, Brickwork, Ring, Staircase
from plasticity.quantum.engine import contraction, program
from plasticity.quantum.engine.contraction import sweep
from plasticity.quantum.engine.costs import CALL, PIECE, TRAFFIC, Size, Way, Ways, cost
from plasticity.quantum.engine.gates import gate_matrices
from plasticity.quantum.engine.planning import (
    attempted_plan,
    make_plan,
    reversed_plan,
)
from plasticity.quantum.engine.products import products
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities, SignedPauliZ
from tests.oracle import (
    dense_gate,
    dense_probabilities,
    dense_unitary,
    dense_z,
    tensorcircuit,
)

CARRIES = ["rows", "columns", "states"]


@st.composite
def ansaetze(draw: st.DrawFn, max_qubits: int = 6, max_depth: int = 4) -> Ansatz:
    """Draw one of the three families, or any list of pairs, in any direction."""
    n = draw(st.integers(2, max_qubits))
    kind = draw(st.sampled_from([Brickwork, Staircase, Ring, Ansatz]))
    if kind is Ansatz:
        qubit = st.integers(0, n - 1)
        pair = st.tuples(qubit, qubit).filter(lambda p: p[0] != p[1])
        return Ansatz(n, tuple(draw(st.lists(pair, min_size=1, max_size=3 * n))))
    return kind(n, draw(st.integers(1, max_depth)))


def random_angles(ansatz: Ansatz, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 6.3 * torch.rand(ansatz.num_gates, 15, generator=generator, dtype=torch.float64)


def forced(net: QNN, carry: str) -> QNN:
    net.f.carry = carry
    return net


# ------------------------------------------------------------------------------------------ gates
@settings(deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 1e-9, 1e-3, 1.0, 10.0]))
def test_gates_match_matrix_exponentials(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    angles = scale * torch.randn(3, 15, generator=generator, dtype=torch.float64)
    expected = np.stack([dense_gate(a) for a in angles])
    np.testing.assert_allclose(gate_matrices(angles).numpy(), expected, atol=1e-12 * (1 + scale))


@pytest.mark.parametrize("scale", [0.0, 1e-8, 1.0, 6.0])
def test_gate_derivatives_match_finite_differences_even_at_equal_eigenvalues(scale: float) -> None:
    angles = scale * torch.rand(2, 15, dtype=torch.float64)
    angles.requires_grad_()
    assert torch.autograd.gradcheck(gate_matrices, angles)
    assert torch.autograd.gradgradcheck(gate_matrices, angles)


# ---------------------------------------------------------------------------------------- planning
@settings(deadline=None)
@given(ansaetze(), st.integers(2, 5), st.integers(0, 9))
def test_a_plan_holds_each_gate_once_and_in_order(ansatz, width, attempt) -> None:
    plan = attempted_plan(ansatz, None, width, True, 0, attempt)
    assert all(block and all(block) for block in plan.blocks)
    block_of = {
        gate: (b, k)
        for b, block in enumerate(plan.blocks)
        for k, layer in enumerate(block)
        for gate, _ in layer
    }
    placed = [gate for block in plan.blocks for layer in block for gate, _ in layer]
    assert sorted(placed) == list(range(ansatz.num_gates))
    for layer in (layer for block in plan.blocks for layer in block):
        qubits = [position + k for _, position in layer for k in (0, 1)]
        assert len(set(qubits)) == len(qubits)
    for later in range(ansatz.num_gates):
        for earlier in range(later):
            if set(ansatz.pairs[later]) & set(ansatz.pairs[earlier]):
                assert block_of[earlier] < block_of[later]


def test_blocks_of_four_qubits_hold_four_gates_of_a_deep_brickwork() -> None:
    plan = make_plan(Brickwork(10, 30), 9)
    assert len(plan.gates) / len(plan.steps) > 4


@pytest.mark.slow
@settings(deadline=None)
@given(
    ansaetze(),
    st.integers(2, 5),
    st.booleans(),
    st.integers(0, 2**32),
    st.sampled_from([0, 200, 2**20]),
)
def test_sweep_matches_dense_matrices_forwards_and_backwards(
    ansatz, width, backwards, seed, history_bytes
) -> None:
    plan = make_plan(ansatz, None, width)
    angles = random_angles(ansatz, seed).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    size = 2**ansatz.num_qubits
    states, cotangent = torch.randn(2, size, 3, generator=generator, dtype=torch.complex128)
    states.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "HISTORY_BYTES", history_bytes)
        result = sweep(reversed_plan(plan) if backwards else plan, angles, states)
        result.backward(cotangent)
    unitary = torch.from_numpy(dense_unitary(ansatz, angles))
    unitary = unitary.T if backwards else unitary
    torch.testing.assert_close(result, unitary @ states, rtol=0, atol=1e-11)
    torch.testing.assert_close(states.grad, unitary.mH @ cotangent, rtol=0, atol=1e-11)
    # The derivative in a random direction, by central differences of the dense matrix.
    direction = torch.randn(angles.shape, generator=generator, dtype=torch.float64)
    ahead, behind = (
        torch.from_numpy(dense_unitary(ansatz, angles.detach() + step * direction))
        for step in (1e-6, -1e-6)
    )
    slope = (ahead.T - behind.T if backwards else ahead - behind) / 2e-6 @ states.detach()
    expected = (cotangent.conj() * slope).sum().real
    torch.testing.assert_close((angles.grad * direction).sum(), expected, rtol=1e-6, atol=1e-6)


def test_backward_passes_may_be_repeated_and_interleaved() -> None:
    ansatz = Ring(5, 3)
    plan, angles = make_plan(ansatz), random_angles(ansatz, 0).requires_grad_()
    inputs = torch.randn(2, 32, 4, dtype=torch.complex128)
    expected = [torch.autograd.grad(sweep(plan, angles, x).abs().sum(), angles)[0] for x in inputs]
    first, second = (sweep(plan, angles, x).abs().sum() for x in inputs)  # both in flight
    for _ in range(2):
        for loss, gradient in ((second, expected[1]), (first, expected[0])):
            again = torch.autograd.grad(loss, angles, retain_graph=True)[0]
            assert torch.equal(again, gradient)


# ----------------------------------------------------------------------------- forced contractions
@settings(deadline=None, max_examples=60)
@given(
    ansaetze(),
    st.sampled_from(CARRIES),
    st.sampled_from(["probabilities", "log odds", "z", "signed z"]),
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)
def test_each_contraction_gives_the_same_values(
    ansatz, carry, kind, seed, batch, complex_input, single
) -> None:
    n, generator = ansatz.num_qubits, torch.Generator().manual_seed(seed)
    readout = {
        "probabilities": Probabilities(),
        "log odds": LogOdds(1 + seed % 2**n),
        "z": PauliZ(seed % n),
        "signed z": SignedPauliZ(seed % n),
    }[kind]
    if carry == "rows" and "z" in kind:
        carry = "states"  # an expectation value has no few rows
    dtype = torch.complex128 if complex_input else torch.float64
    x = torch.randn(batch, 1 + seed % 2**n, generator=generator, dtype=dtype)
    angles = random_angles(ansatz, seed)
    net = forced(QNN(ansatz, readout, lambda shape: angles), carry)
    net = net.float() if single else net
    outputs = net(x).double()
    if "z" in kind:
        expected = torch.from_numpy(dense_z(ansatz, angles, x, readout.qubit)).unsqueeze(1)
        expected = torch.cat([expected, -expected], 1) if kind == "signed z" else expected
    else:
        expected = readout(torch.from_numpy(dense_probabilities(ansatz, angles, x)))
        expected = expected[:, : outputs.shape[1]]
    if (
        kind == "log odds"
    ):  # in single precision p has an error, logits where p is small a large one
        outputs, expected = outputs.sigmoid(), expected.sigmoid()
    torch.testing.assert_close(outputs, expected, rtol=0, atol=2e-5 if single else 1e-10)


@pytest.mark.sampled(20)
@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize("num_qubits", [2, 5, 8, 11, 12])
@pytest.mark.parametrize("depth", [1, 3, 12])
@pytest.mark.parametrize("single", [False, True])
def test_contractions_agree_with_tensorcircuit_at_size(carry, num_qubits, depth, single) -> None:
    torch.manual_seed(num_qubits + depth)
    ansatz = (Brickwork, Staircase, Ring)[depth % 3](num_qubits, depth)
    classes = min(3, 2**num_qubits)
    net = forced(QNN(ansatz, LogOdds(classes)).double(), carry)
    x = torch.randn(2, min(40, 2**num_qubits), dtype=torch.float64)
    with tensorcircuit("numpy"):
        p = torch.from_numpy(np.stack([np.abs(net.circuit(s).state()) ** 2 for s in x]))
    net = net.float() if single else net
    p_ours = net(x).double().sigmoid()
    expected = net.readout(p[:, :classes]).sigmoid()
    torch.testing.assert_close(p_ours, expected, rtol=0, atol=1e-5 if single else 1e-10)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize("ansatz", [Brickwork(4, 2), Ring(3, 2), Ansatz(3, ((2, 0), (0, 1)))])
def test_each_contraction_has_right_first_and_second_derivatives(carry, ansatz) -> None:
    torch.manual_seed(0)
    net = forced(QNN(ansatz, LogOdds(3)).double(), carry)
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, dtype=torch.float64)

    def loss(angles: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (functional_call(net, {"angles": angles}, (x,)).tanh() * weights).sum()

    arguments = net.angles.detach().clone().requires_grad_(), x
    assert torch.autograd.gradcheck(loss, arguments)
    # Along random directions, for a table of all second derivatives takes forty times as long.
    assert torch.autograd.gradgradcheck(loss, arguments, fast_mode=True)


@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_contraction_has_the_per_sample_gradients_of_a_loop(carry, dtype) -> None:
    torch.manual_seed(1)
    net = forced(QNN(Ring(4, 3), Probabilities()).to(dtype), carry)
    x, weights = torch.randn(6, 9, dtype=dtype), torch.randn(16, dtype=dtype)

    def loss(angles: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return functional_call(net, {"angles": angles}, (sample[None],))[0] @ weights

    angles = net.angles.detach()
    together = vmap(grad(loss), in_dims=(None, 0))(angles, x)
    alone = torch.stack([grad(loss)(angles, sample) for sample in x])
    by_backward = []
    for sample in x:
        net.zero_grad()
        (net(sample[None])[0] @ weights).backward()
        by_backward.append(net.angles.grad.clone())
    atol = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(together, torch.stack(by_backward), rtol=0, atol=atol)
    torch.testing.assert_close(alone, torch.stack(by_backward), rtol=0, atol=atol)


@pytest.mark.parametrize("carry", CARRIES)
@pytest.mark.parametrize("enabled", [True, False])
def test_each_contraction_has_the_per_sample_jacobians_of_a_loop(carry, enabled) -> None:
    torch.manual_seed(2)
    net = forced(QNN(Ring(4, 3), Probabilities()).double(), carry)
    x = torch.randn(5, 9, dtype=torch.float64)

    def outputs(angles: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return functional_call(net, {"angles": angles}, (sample[None],))[0, :3]

    with torch.set_grad_enabled(enabled):
        together = vmap(jacrev(outputs), in_dims=(None, 0))(net.angles.detach(), x)
    for sample, jacobian in zip(x, together, strict=True):
        for k in range(3):
            expected = torch.autograd.grad(net(sample[None])[0, k], net.angles)[0]
            torch.testing.assert_close(jacobian[k], expected)


@pytest.mark.parametrize("carry", CARRIES)
def test_a_penalty_on_per_sample_gradients_can_be_trained_on(carry) -> None:
    torch.manual_seed(3)
    net = forced(QNN(Brickwork(3, 2), Probabilities()).double(), carry)
    x = torch.randn(3, 5, dtype=torch.float64)

    def output(angles: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return functional_call(net, {"angles": angles}, (sample[None],))[0].square().sum()

    def penalty(angles: torch.Tensor) -> torch.Tensor:
        return vmap(grad(output), in_dims=(None, 0))(angles, x).square().sum()

    angles = net.angles.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(penalty, angles, fast_mode=True)
    torch.testing.assert_close(
        grad(penalty)(angles), torch.autograd.grad(penalty(angles), angles)[0]
    )


def test_an_ensemble_of_angles_can_be_mapped_over() -> None:
    net = QNN(Brickwork(4, 2), LogOdds(3)).double()
    x = torch.randn(5, 16, dtype=torch.float64)
    several = torch.stack([net.angles.detach() + k for k in range(3)])
    with torch.no_grad():
        together = vmap(lambda a: functional_call(net, {"angles": a}, (x,)))(several)
        for angles, outputs in zip(several, together, strict=True):
            net.angles.copy_(angles)
            torch.testing.assert_close(outputs, net(x))


def test_training_goes_on_after_a_first_use_in_inference_mode() -> None:
    net, x = QNN(Staircase(3, 5), PauliZ(0)), torch.rand(2, 8)  # a plan no other test has
    with torch.inference_mode():
        before = net(x).clone()
    net(x).sum().backward()
    torch.testing.assert_close(net(x).detach(), before)


# -------------------------------------------------------------------------------------- cost model
def test_cost_model_chooses_as_the_shapes_of_the_paper_suggest() -> None:
    def chosen(ansatz: Ansatz, qubit: int | None, **size) -> tuple[str, int]:
        way = Ways(ansatz, qubit).cheapest(Size(**({"features": 1024, "grad": True} | size)))
        return way.carry, way.plan.width

    mnist, cifar, ring = Brickwork(10, 4), Brickwork(10, 10), Ring(9, 12)
    assert chosen(mnist, None, batch=128, outcomes=10) == ("rows", 4)
    assert chosen(mnist, None, batch=2, outcomes=10)[0] == "states"
    assert chosen(cifar, 9, batch=128, outcomes=None) == ("states", 4)
    assert chosen(Staircase(10, 6), 0, batch=64, outcomes=None)[0] == "states"
    of_ring = {"features": 27, "outcomes": 512}
    # A ring's gates are one after the other: a block of three qubits holds two of them.
    assert chosen(ring, None, batch=128, **of_ring) == ("columns", 3)
    assert chosen(ring, None, batch=16, **of_ring)[0] == "states"
    assert chosen(ring, None, batch=16, **of_ring, grad=False)[0] == "columns"


def test_the_choice_is_the_same_on_every_machine() -> None:
    """Last bits depend on it: these plans may change with the code, but not with the machine."""
    size = dict(batch=128, features=1024, grad=True)
    mnist = Ways(Brickwork(10, 4), None).cheapest(Size(**size, outcomes=10))
    assert [step.left for step in mnist.plan.steps] == [4, 64, 16, 1, 4, 1, 64, 8, 32]
    cifar = Ways(Brickwork(10, 10), 9).cheapest(Size(**size, outcomes=None))
    assert [step.left for step in cifar.plan.steps] == [
        4,
        64,
        16,
        1,
        4,
        64,
        16,
        1,
        4,
        64,
        16,
        1,
        4,
        64,
        16,
        64,
    ]
    of_100 = Size(**(size | {"batch": 100}), outcomes=None)
    assert cifar == Ways(Brickwork(10, 10), 9).cheapest(of_100)


def test_a_search_finds_plans_with_fewer_blocks() -> None:
    size = Size(128, 1024, None, grad=True)
    greedy = Way("states", make_plan(Brickwork(10, 10), 9))
    found = Ways(Brickwork(10, 10), 9).cheapest(size)
    assert len(found.plan.steps) < len(greedy.plan.steps)
    assert cost(found, size) < 0.95 * cost(greedy, size)


def test_cost_model_counts_the_operations_of_a_small_case() -> None:
    def count(carry: str, qubit: int | None = None, outcomes: int | None = 2, grad=True) -> float:
        plan = make_plan(Brickwork(4, 1), qubit)  # one block of 16 x 16, of two layers
        return cost(Way(carry, plan), Size(3, 5, outcomes, grad))

    making = CALL + 8 * 16**3  # the product of the two layers

    def product(vectors: int, rows: int = 16, columns: int = 16) -> int:
        return CALL + PIECE + vectors * (8 * rows * columns + TRAFFIC * columns)

    assert count("states", grad=False) == making + product(3)
    assert count("states") == 3 * (making + product(3))
    # Two basis states differ in the last qubit only, five in the last three: 2 and 8 columns.
    assert count("rows") == 3 * (making + product(2, columns=2)) + 2 * 4 * 3 * 5 * 2
    assert count("columns") == 3 * (making + product(5, columns=8)) + 2 * 4 * 3 * 5 * 2
    assert count("columns", grad=False) == (making + product(5, columns=8)) / 10 + 4 * 3 * 5 * 2
    # An observed qubit: half of the block's rows.
    making = 0  # of one layer: the other gate is outside the light cone
    assert count("states", 0, None, grad=False) == making + product(3, rows=8)
    assert count("columns", 0, None) == 3 * (making + product(5, 8, 8)) + 2 * 4 * 3 * 5 * 8
    assert count("rows", 0, None) == math.inf


def test_cost_model_counts_qubits_that_are_moved() -> None:
    plan = make_plan(Ring(6, 2), None, 3)
    moves = sum(step.before is not None for step in plan.steps) + (plan.after is not None)
    assert moves
    layers = max(len(block) for block in plan.blocks)
    expected = moves * (CALL + 2 * TRAFFIC * 2**6 * 7)
    expected += (layers - 1) * (CALL + 8 * len(plan.blocks) * 8**3)
    of_a_step = CALL + 2**6 * 7 * (8 * 8 + TRAFFIC)
    expected += sum(of_a_step + PIECE * part.left for part in products(plan))
    found = cost(Way("states", plan), Size(7, 64, 64, grad=False))
    assert found == pytest.approx(expected)


# ------------------------------------------------------------------------- weights that stand still
@pytest.fixture
def counted_sweeps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    original = contraction.sweep

    def counting(*arguments):
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr("plasticity.quantum.layer.sweep", counting)
    return calls


@pytest.mark.parametrize("carry", ["rows", "columns"])
def test_evaluations_with_equal_angles_share_one_contraction(carry, counted_sweeps) -> None:
    net, x = forced(QNN(Ring(4, 2), Probabilities()), carry), torch.rand(3, 9)
    fresh = net(x).detach()
    counted_sweeps.clear()
    with torch.no_grad():
        outputs = [net(x), net(x), net(x[:, :5])]
    assert len(counted_sweeps) == 1
    torch.testing.assert_close(outputs[0], fresh)
    torch.testing.assert_close(outputs[1], fresh)
    torch.testing.assert_close(outputs[2], net(x[:, :5]))


def test_a_kept_matrix_of_rows_is_not_taken_for_one_of_columns() -> None:
    net, x = forced(QNN(Ring(4, 2), LogOdds(3)), "rows"), torch.rand(3, 9)
    with torch.no_grad():
        by_rows = net(x)
        torch.testing.assert_close(forced(net, "columns")(x), by_rows)
        torch.testing.assert_close(forced(net, "rows")(x), by_rows)


def _train(net: QNN) -> None:
    adam = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)
    net(torch.rand(2, 9)).square().sum().backward()
    adam.step()


CHANGES = {
    "optimizer": _train,
    "in place": lambda net: net.angles.detach().add_(0.5),
    "through data": lambda net: net.angles.data.mul_(0.5),
    "one angle": lambda net: net.angles.data[0, 0].add_(1e-3),
    "load_state_dict": lambda net: net.load_state_dict(QNN(net.ansatz, net.readout).state_dict()),
    "new parameter": lambda net: setattr(net, "angles", torch.nn.Parameter(net.angles + 1)),
    "dtype": lambda net: net.double(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("carry", ["rows", "columns"])
def test_a_kept_matrix_never_goes_stale(change, carry) -> None:
    torch.manual_seed(0)
    net, x = forced(QNN(Ring(4, 2), Probabilities()), carry), torch.rand(3, 9)
    with torch.no_grad():
        before = net(x)
    change(net)
    with torch.no_grad():
        after = net(x)
    torch.testing.assert_close(after, net(x).detach())
    assert after.dtype == net.angles.dtype
    if net.angles.dtype == torch.float32:
        assert not torch.equal(after, before)


def test_a_kept_matrix_is_not_pickled_or_copied() -> None:
    net = forced(QNN(Ring(4, 2), Probabilities()), "columns")
    with torch.no_grad():
        net(torch.rand(3, 9))
    assert net.f._kept is not None
    assert copy.deepcopy(net).f._kept is None
    assert net.f._kept is not None
