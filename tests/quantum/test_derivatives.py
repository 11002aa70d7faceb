"""Derivatives of every kind, taken as users take them, through the public layer.

First at the size where older states are recomputed over newer ones, so that whatever a backward
pass leaves behind is seen by the next; then forward mode, batched gradients and second derivatives
against finite differences.
"""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.autograd.functional import hessian as autograd_hessian
from torch.autograd.functional import jacobian
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.utils.checkpoint import checkpoint

from plasticity.quantum.circuits import Ansatz, Brickwork, Ring, Staircase
from plasticity.quantum.engine import program
from plasticity.quantum.engine.contraction import sweep
from plasticity.quantum.engine.planning import make_plan
from plasticity.quantum.layer import QNN, empty_pool
from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities, SignedPauliZ
from tests.quantum.engine.test_contraction import random_angles

pytestmark = [
    # torch's own, where it first makes a dual tensor and where it folds constants.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning"),
]

DEEP = [(Brickwork(10, 30), PauliZ(9)), (Staircase(8, 12), LogOdds(4)), (Ring(8, 10), LogOdds(4))]


def turning(ansatz: Ansatz, readout, dtype: torch.dtype, carry: str) -> tuple[QNN, torch.Tensor]:
    """Make a net and inputs at which a backward pass recomputes older states."""
    torch.manual_seed(0)
    net = QNN(ansatz, readout).to(dtype)
    net.f.carry = carry
    return net, torch.randn(96, 2**ansatz.num_qubits, dtype=dtype)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# ---------------------------------------------------------------------- several backward passes
HISTORIES = [0, 200, 2**20, 4 * 2**20]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("history_bytes", HISTORIES)
@pytest.mark.parametrize("case", DEEP, ids=["brickwork", "staircase", "ring"])
def test_backward_passes_of_one_forward_may_be_repeated_and_interleaved(
    case, history_bytes, monkeypatch
) -> None:
    """Each circuit with each history; each of both in both precisions, in turn."""
    is_double = (DEEP.index(case) + HISTORIES.index(history_bytes)) % 2 == 0
    dtype = torch.float64 if is_double else torch.float32
    net, x = turning(*case, dtype, "states")
    x.requires_grad_()
    wanted = net.angles, x
    outputs = net(x)
    first, second = torch.randn(2, *outputs.shape, dtype=dtype)
    monkeypatch.setattr(program, "HISTORY_BYTES", 2**40)
    expected = {w: torch.autograd.grad(net(x), wanted, w) for w in (first, second)}
    monkeypatch.setattr(program, "HISTORY_BYTES", history_bytes)
    outputs, others = net(x), net(x.detach() + 1)
    for weights in (first, second, first):
        found = torch.autograd.grad(outputs, wanted, weights, retain_graph=True)
        torch.autograd.grad(others, net.angles, first, retain_graph=True)
        net(x[:3]).sum().backward()
        for one, right in zip(found, expected[weights], strict=True):
            assert difference(one, right) < (1e-5 if dtype == torch.float32 else 1e-12)


def test_states_are_recomputed_over_newer_ones_at_that_size() -> None:
    plan = make_plan(Brickwork(10, 30), 9)
    assert len(plan.steps) * 2**10 * 96 * 8 > program.HISTORY_BYTES


@pytest.mark.parametrize("history_bytes", [0, 200, 2**20])
@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("carry", ["rows", "columns", "states"])
def test_every_row_of_a_jacobian_is_right(carry, vectorize, history_bytes, monkeypatch) -> None:
    net, x = turning(Ring(6, 5), LogOdds(3), torch.float64, carry)
    rows = [torch.autograd.grad(net(x)[0, k], net.angles)[0] for k in range(3)]
    monkeypatch.setattr(program, "HISTORY_BYTES", history_bytes)

    def outputs(angles: torch.Tensor) -> torch.Tensor:
        return functional_call(net, {"angles": angles}, (x,))[0]

    found = jacobian(outputs, net.angles.detach(), vectorize=vectorize)
    for row, expected in zip(found, rows, strict=True):
        assert difference(row, expected) < 1e-12


def test_two_losses_of_one_forward_add_up() -> None:
    net, x = turning(*DEEP[0], torch.float64, "states")
    both = net(x)
    losses = both[:50].square().sum(), both[50:].sin().sum()
    (together,) = torch.autograd.grad(sum(losses), net.angles, retain_graph=True)
    one, other = (torch.autograd.grad(k, net.angles, retain_graph=True)[0] for k in losses)
    assert difference(one + other, together) < 1e-12


def test_an_interrupted_backward_pass_leaves_no_wrong_numbers(monkeypatch) -> None:
    ansatz = Ring(5, 4)
    plan, angles = make_plan(ansatz), random_angles(ansatz, 0).requires_grad_()
    monkeypatch.setattr(program, "HISTORY_BYTES", 0)
    states = torch.randn(32, 4, dtype=torch.complex128)
    loss = sweep(plan, angles, states).abs().sum()
    (expected,) = torch.autograd.grad(sweep(plan, angles, states).abs().sum(), angles)
    original = program.Program.pull_back

    def interrupted(self: program.Program, *arguments, **options):
        def stop() -> None:
            raise KeyboardInterrupt

        calls = self._backward
        self._backward = [*calls[: len(calls) // 2], stop]
        try:
            return original(self, *arguments, **options)
        finally:
            self._backward = calls

    with monkeypatch.context() as patch:
        patch.setattr(program.Program, "pull_back", interrupted)
        with pytest.raises(KeyboardInterrupt):
            torch.autograd.grad(loss, angles, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, angles)[0], expected)


@pytest.mark.parametrize("history_bytes", [0, 2**20])
def test_gradients_are_right_where_saved_tensors_are_kept_elsewhere(
    history_bytes, monkeypatch
) -> None:
    monkeypatch.setattr(program, "HISTORY_BYTES", history_bytes)
    net, x = turning(Ring(6, 5), LogOdds(3), torch.float64, "states")
    (expected,) = torch.autograd.grad(net(x).square().sum(), net.angles)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda copied: copied):
        offloaded = net(x).square().sum()
    elsewhere = checkpoint(lambda x: net(x).square().sum(), x, use_reentrant=False)
    for loss in (offloaded, elsewhere):
        assert difference(torch.autograd.grad(loss, net.angles)[0], expected) < 1e-12


def test_a_kept_loss_holds_no_program_after_its_backward_pass() -> None:
    net, x = turning(Ring(6, 5), LogOdds(3), torch.float64, "states")
    empty_pool()
    losses = []
    for _ in range(3):
        losses.append(net(x).square().sum())
        losses[-1].backward()
    assert len(program.Lease._pool) == 1  # one program served all three
    with pytest.raises(RuntimeError, match="a second time"):
        losses[0].backward()


# ------------------------------------------------------- forward mode, batches, second derivatives
SMALL = [Brickwork(3, 2), Ring(3, 2), Staircase(4, 1), Ansatz(3, ((2, 0), (0, 1)))]
READOUTS = [LogOdds(3), Probabilities(), PauliZ(1), SignedPauliZ(2)]


def bent(net: QNN):
    """Return the net as a function of angles and inputs, whose second derivatives are not zero."""

    def outputs(angles: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return functional_call(net, {"angles": angles}, (x,)).tanh()

    return outputs


@pytest.mark.sampled(8)
@pytest.mark.parametrize("i", range(4), ids=[type(ansatz).__name__ for ansatz in SMALL])
@pytest.mark.parametrize("j", range(4), ids=[type(readout).__name__ for readout in READOUTS])
def test_derivatives_of_all_modes_match_finite_differences(i, j) -> None:
    """Each circuit with each readout; each of both with real and complex, few and all features."""
    ansatz, readout, is_complex = SMALL[i], READOUTS[j], (i + j) % 2 == 1
    features = "few" if (i // 2 + j // 2) % 2 else "all"
    torch.manual_seed(1)
    net = QNN(ansatz, readout).double()
    size = 3 if features == "few" else 2**ansatz.num_qubits
    x = torch.randn(2, size, dtype=torch.complex128 if is_complex else torch.float64)
    arguments = net.angles.detach().clone().requires_grad_(), x.requires_grad_()
    assert gradcheck(
        bent(net), arguments, fast_mode=True, check_forward_ad=True, check_batched_grad=True,
        check_batched_forward_grad=True,
    )  # fmt: skip
    assert gradgradcheck(
        bent(net), arguments, fast_mode=True, check_fwd_over_rev=True, check_rev_over_rev=True,
        check_batched_grad=True,
    )  # fmt: skip


@pytest.mark.sampled(2)
@pytest.mark.parametrize("readout", READOUTS, ids=lambda r: type(r).__name__)
def test_hessians_agree_however_they_are_taken(readout) -> None:
    torch.manual_seed(2)
    net = QNN(Brickwork(3, 1), readout).double()
    x = torch.randn(2, 8, dtype=torch.float64)

    def loss(angles: torch.Tensor) -> torch.Tensor:
        return bent(net)(angles, x).square().sum()

    angles, direction = net.angles.detach().clone(), torch.randn(2, 15, dtype=torch.float64)
    expected = jacrev(jacrev(loss))(angles)
    for found in (
        hessian(loss)(angles),
        jacfwd(jacfwd(loss))(angles),
        jacrev(jacfwd(loss))(angles),
        autograd_hessian(loss, angles),
        autograd_hessian(loss, angles, vectorize=True),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    ahead, behind = (grad(loss)(angles + step * direction) for step in (1e-5, -1e-5))
    along = (expected * direction).sum((-2, -1))
    torch.testing.assert_close(along, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("carry", ["rows", "columns", "states"])
def test_jacobians_agree_however_they_are_taken(carry) -> None:
    torch.manual_seed(3)
    net = QNN(Ring(4, 3), LogOdds(3)).double()
    net.f.carry = carry
    x, angles = torch.randn(2, 9, dtype=torch.float64), net.angles.detach().clone()

    def outputs(angles: torch.Tensor) -> torch.Tensor:
        return functional_call(net, {"angles": angles}, (x,))

    expected = torch.stack(
        [torch.autograd.grad(net(x)[b, k], net.angles)[0] for b in range(2) for k in range(3)]
    ).unflatten(0, (2, 3))
    direction = torch.randn_like(angles)
    along = (expected * direction).sum((-2, -1))
    for found in (
        jacfwd(outputs)(angles),
        jacobian(outputs, angles, vectorize=True),
        jacobian(outputs, angles, vectorize=True, strategy="forward-mode"),
        jacobian(outputs, angles, vectorize=True, create_graph=True).detach(),
    ):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(jvp(outputs, (angles,), (direction,))[1], along)
    torch.testing.assert_close(linearize(outputs, angles)[1](direction), along)
    y = net(x)
    units = torch.eye(6, dtype=torch.float64).unflatten(1, (2, 3))
    (batched,) = torch.autograd.grad(y, net.angles, units, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(batched, expected.flatten(0, 1))
    mapped = vmap(lambda w: torch.autograd.grad(y, net.angles, w, retain_graph=True)[0])(units)
    torch.testing.assert_close(mapped, batched)


def test_a_pull_back_made_before_can_be_differentiated_forwards() -> None:
    torch.manual_seed(4)
    net = QNN(Ring(3, 2), Probabilities()).double()
    x, weights = torch.randn(2, 8, dtype=torch.float64), torch.randn(2, 2, 8, dtype=torch.float64)
    _, pull_back = vjp(lambda a: bent(net)(a, x), net.angles.detach())
    tangent = jvp(pull_back, (weights[0],), (weights[1],))[1][0]
    torch.testing.assert_close(tangent, pull_back(weights[1])[0])  # it is linear


def test_a_kept_matrix_is_not_taken_for_one_with_a_tangent() -> None:
    torch.manual_seed(5)
    net = QNN(Ring(4, 2), Probabilities()).double()
    net.f.carry = "columns"
    x, angles = torch.randn(3, 9, dtype=torch.float64), net.angles.detach()
    direction = torch.randn_like(angles)
    expected = jvp(lambda a: functional_call(net, {"angles": a}, (x,)), (angles,), (direction,))[1]
    with torch.no_grad(), forward_ad.dual_level():
        net(x)
        dual = forward_ad.make_dual(angles, direction)
        found = forward_ad.unpack_dual(functional_call(net, {"angles": dual}, (x,))).tangent
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("carry", ["rows", "columns", "states"])
@pytest.mark.parametrize("is_complex", [False, True])
def test_autocast_changes_nothing(carry, is_complex) -> None:
    torch.manual_seed(6)
    net = QNN(Brickwork(4, 2), LogOdds(3))
    net.f.carry = carry
    x = torch.randn(5, 16, dtype=torch.complex64 if is_complex else torch.float32)

    def loss(angles: torch.Tensor) -> torch.Tensor:
        return bent(net)(angles, x).sum()

    def all_there_is() -> list[torch.Tensor]:
        outputs = net(x)
        (gradient,) = torch.autograd.grad(outputs.square().sum(), net.angles)
        return [outputs, gradient, hessian(loss)(net.angles.detach())]

    expected = all_there_is()
    with torch.autocast("cpu", torch.bfloat16):
        found = all_there_is()
    for one, right in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, right)
