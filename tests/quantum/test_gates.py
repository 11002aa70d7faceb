"""Circuits of free gates: dense matrices, finite differences, and use as any other module."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.functional import cross_entropy

from plasticity.quantum.circuits import Ansatz, Brickwork, Ring, Staircase
from plasticity.quantum.engine import program
from plasticity.quantum.engine.contraction import sweep
from plasticity.quantum.engine.planning import make_plan, reversed_plan
from plasticity.quantum.gates import FreeCircuit, haar_unitaries
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import (
    LogOdds,
    LogProbabilities,
    PauliZ,
    Probabilities,
    Readout,
    SignedPauliZ,
)
from plasticity.seeding import generator_for
from tests.oracle import amplitudes, dense_matrix, tensorcircuit
from tests.quantum.twins import assert_copies_are_equal_and_independent
from tests.tiny import random_states, same

CASES = [
    (LogOdds(3), True), (Probabilities(), True), (PauliZ(0), True), (PauliZ(2), True),
    (SignedPauliZ(1), True), (LogProbabilities(3), True), (LogProbabilities(3), False),
    (Probabilities(), False),
]  # fmt: skip
ANSAETZE = [
    Brickwork(3, 2), Brickwork(5, 3), Staircase(4, 3), Ring(4, 3), Ring(5, 2),
    Ansatz(4, ((3, 0), (2, 1), (0, 2), (1, 3))),
]  # fmt: skip


def any_gates(shape: tuple[int, int, int]) -> torch.Tensor:
    """Far from unitary, of different scales."""
    generator = generator_for(0, "gates")
    scales = torch.rand(shape[0], 1, 1, generator=generator, dtype=torch.float64) + 0.2
    return scales * torch.randn(shape, generator=generator, dtype=torch.complex128)


def free(ansatz: Ansatz, readout: Readout, renormalised: bool = True) -> FreeCircuit:
    net = FreeCircuit(ansatz, readout, renormalised=renormalised, initializer=any_gates).double()
    with torch.no_grad():
        net.entries.copy_(torch.view_as_real(any_gates((ansatz.num_gates, 4, 4))))
    return net


def inputs(num_qubits: int, kind: torch.dtype = torch.float64, batch: int = 5) -> torch.Tensor:
    return torch.randn(batch, 2**num_qubits - 1, dtype=kind, generator=generator_for(0, "inputs"))


def dense_outputs(net: FreeCircuit, x: torch.Tensor) -> np.ndarray:
    n, readout = net.ansatz.num_qubits, net.readout
    matrix = dense_matrix(net.ansatz, net.gates().detach().numpy())
    p = np.abs(matrix @ amplitudes(x, n)).T ** 2
    if net.renormalised:
        p = p / p.sum(1, keepdims=True)
    if isinstance(readout, PauliZ | SignedPauliZ):
        signs = [1 - 2 * (k >> (n - 1 - readout.qubit) & 1) for k in range(2**n)]
        z = p @ np.array(signs)[:, None]
        return z if isinstance(readout, PauliZ) else np.concatenate([z, -z], axis=1)
    if isinstance(readout, Probabilities):
        return p
    p = p[:, : readout.num_classes]
    if isinstance(readout, LogProbabilities):
        return np.log(p)
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return np.log(p / (1 - p)) + 1e-9


@pytest.mark.parametrize(("readout", "renormalised"), CASES, ids=str)
@pytest.mark.parametrize("ansatz", ANSAETZE, ids=lambda a: f"{type(a).__name__}{a.num_qubits}")
@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
def test_outputs_match_dense_matrices(ansatz: Ansatz, readout, renormalised, kind) -> None:
    net, x = free(ansatz, readout, renormalised), inputs(ansatz.num_qubits, kind)
    expected = torch.from_numpy(dense_outputs(net, x))
    torch.testing.assert_close(net(x).detach(), expected, rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("readout", "renormalised"), CASES, ids=str)
@pytest.mark.parametrize("ansatz", [Ring(3, 2), Staircase(4, 2)], ids=["ring", "staircase"])
def test_gradients_match_finite_differences(ansatz: Ansatz, readout, renormalised) -> None:
    net = free(ansatz, readout, renormalised)
    x = inputs(ansatz.num_qubits, torch.complex128, batch=2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda entries, x: functional_call(net, {"entries": entries}, (x,)),
        (net.entries.detach().requires_grad_(), x),
    )


@pytest.mark.parametrize("renormalised", [True, False])
def test_second_derivatives_match_finite_differences(renormalised: bool) -> None:
    net = free(Brickwork(3, 1), LogProbabilities(3), renormalised)
    assert torch.autograd.gradgradcheck(
        lambda entries: functional_call(net, {"entries": entries}, (inputs(3, batch=2),)),
        (net.entries.detach().requires_grad_(),),
        fast_mode=True,
    )


def gate_by_gate(ansatz: Ansatz, gates: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Each gate by itself, with autograd's own backward pass."""
    n = ansatz.num_qubits
    states = states.reshape(*[2] * n, -1)
    for gate, (a, b) in zip(gates, ansatz.pairs, strict=True):
        states = torch.tensordot(gate.reshape(2, 2, 2, 2), states, ([2, 3], [a, b]))
        states = states.movedim((0, 1), (a, b))
    return states.flatten(0, -2)


def gradients_with_no_room(unitary: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ansatz = Brickwork(6, 4)
    gates = any_gates((ansatz.num_gates, 4, 4)).requires_grad_()
    states = torch.randn(64, 7, dtype=torch.complex128, generator=generator_for(0, "states"))
    weights = torch.randn(64, 7, dtype=torch.float64, generator=generator_for(0, "weights"))
    plan = make_plan(ansatz, unitary=unitary)
    by_hand = (weights * gate_by_gate(ansatz, gates, states).abs()).sum()
    found = [
        torch.autograd.grad((weights * result.abs()).sum(), gates)[0]
        for result in (sweep(plan, gates, states), sweep(reversed_plan(plan), gates, 64).T @ states)
    ]
    return torch.autograd.grad(by_hand, gates)[0], *found


def test_no_state_is_recomputed_by_inverses(monkeypatch) -> None:
    monkeypatch.setattr(program, "HISTORY_BYTES", 1)  # a QNN keeps the last two
    expected, *found = gradients_with_no_room(unitary=False)
    for gradient in found:
        torch.testing.assert_close(gradient, expected)
    _, *wrong = gradients_with_no_room(unitary=True)
    assert all(not torch.allclose(gradient, expected, rtol=0.1) for gradient in wrong)


@pytest.mark.parametrize("renormalised", [True, False])
def test_a_circuit_has_the_same_gradient_where_there_is_no_room(renormalised, monkeypatch) -> None:
    net, x = free(Brickwork(6, 4), LogProbabilities(3), renormalised), inputs(6)
    gradients = []
    for room in (program.HISTORY_BYTES, 1):
        monkeypatch.setattr(program, "HISTORY_BYTES", room)
        gradients.append(torch.autograd.grad(net(x).sin().sum(), net.entries)[0])
    torch.testing.assert_close(*gradients)


def test_gates_in_place_of_angles_give_the_qnn_and_its_gradient() -> None:
    net = QNN(Brickwork(6, 3), LogOdds(5)).double()
    x = inputs(6, batch=9)
    (expected,) = torch.autograd.grad(net(x).sin().sum(), net.angles)
    outputs = net.f(x, net.gates())
    (gradient,) = torch.autograd.grad(outputs.sin().sum(), net.angles)
    torch.testing.assert_close(outputs, net(x))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("readout", [LogOdds(3), Probabilities(), PauliZ(1)], ids=str)
def test_with_unitary_gates_it_is_the_qnn(readout: Readout) -> None:
    qnn = QNN(Brickwork(5, 3), readout).double()
    net = FreeCircuit(qnn.ansatz, readout, initializer=lambda _: qnn.gates().detach()).double()
    net.entries.data = torch.view_as_real(qnn.gates().detach())
    x = inputs(5)
    torch.testing.assert_close(net(x), qnn(x))


@pytest.mark.parametrize("readout", [LogOdds(3), PauliZ(1)], ids=str)
def test_the_scale_of_a_gate_does_not_matter_however_large(readout: Readout) -> None:
    net = free(Brickwork(4, 20), readout).float()
    x = inputs(4).float()
    scaled = copy.deepcopy(net)
    with torch.no_grad():
        scaled.entries[::2] *= 1e15
        scaled.entries[1::3] *= 1e-9
    torch.testing.assert_close(scaled(x), net(x), rtol=1e-4, atol=1e-5)
    net(x).sin().sum().backward()
    along = (net.entries.grad * net.entries.detach()).flatten(1).sum(1)
    size = net.entries.grad.flatten(1).norm(dim=1) * net.entries.detach().flatten(1).norm(dim=1)
    assert float((along.abs() / size).max()) < 1e-4  # so steps are orthogonal to the gates


KINDS = {
    "rank 1": lambda size: torch.ones(size, dtype=torch.complex128),
    "nearly nilpotent": lambda size: (
        torch.ones(size).triu(1) + 0.02 * torch.randn(size, dtype=torch.complex128)
    ),
    "normal": lambda size: torch.randn(size, dtype=torch.complex128),
    "tiny": lambda size: 1e-30 * torch.randn(size, dtype=torch.complex128),
    "huge": lambda size: 1e30 * torch.randn(size, dtype=torch.complex128),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("depth", [4, 40])
def test_no_depth_takes_states_out_of_the_range_of_numbers(depth, kind, dtype) -> None:
    torch.manual_seed(0)
    net = FreeCircuit(Brickwork(6, depth), Probabilities(), initializer=kind).to(dtype)
    x = torch.rand(3, 64, dtype=dtype)
    gates = torch.view_as_complex(net.entries.detach().double()).requires_grad_()
    states = x.T.to(gates.dtype)
    for gate, pair in zip(gates, net.ansatz.pairs, strict=True):
        states = gate_by_gate(Ansatz(6, (pair,)), gate.unsqueeze(0), states)
        states = states / states.detach().norm(dim=0)
    expected = (states / states.norm(dim=0)).abs().square().T
    weights = torch.randn(3, 64, dtype=torch.float64)
    (slope,) = torch.autograd.grad((weights * expected).sum(), gates)
    per_gate = gates.detach().abs().amax((1, 2), keepdim=True)
    slope = torch.view_as_real((slope * per_gate).detach())
    tolerance = 2e-4 if dtype == torch.float32 else 1e-10

    def loss(entries: torch.Tensor) -> torch.Tensor:
        return (weights * functional_call(net, {"entries": entries}, (x,))).sum()

    outputs = net(x)
    torch.testing.assert_close(outputs.double(), expected.detach(), rtol=0, atol=tolerance)
    (weights * outputs).sum().backward()
    for found in (net.entries.grad, grad(loss)(net.entries.detach())):
        found = found.double() * per_gate.unsqueeze(-1)
        torch.testing.assert_close(found, slope, rtol=0, atol=10 * tolerance)


def test_a_softmax_of_log_probabilities_does_not_see_the_scale() -> None:
    net, x = free(Brickwork(4, 2), LogProbabilities(5), renormalised=False), inputs(4)
    before = net(x).softmax(1)
    with torch.no_grad():
        net.entries[1] *= 30
    torch.testing.assert_close(net(x).softmax(1), before)
    assert net(x).max() > 1  # logarithms of what is no probability


def test_log_probabilities_of_nothing_are_finite() -> None:
    outputs = LogProbabilities(2)(torch.tensor([[0.0, 1.0]]))
    assert outputs.isfinite().all()
    assert outputs[0, 1] == 0
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        LogProbabilities(0)
    with pytest.raises(ValueError, match="exceeds the 4 basis states"):
        LogProbabilities(5).num_outcomes(2)


def test_tc_circuit_is_the_same_circuit() -> None:
    net, x = free(Ring(4, 2), Probabilities(), renormalised=False), inputs(4)
    with tensorcircuit("pytorch"):
        states = torch.stack([net.circuit(sample).state() for sample in x])
    torch.testing.assert_close(states.abs().square(), net(x))
    with tensorcircuit("numpy"):
        state = net.circuit(x[0]).state()
    np.testing.assert_allclose(np.abs(state) ** 2, net(x)[0].detach())


@pytest.mark.parametrize(("readout", "renormalised"), CASES[-4:], ids=str)
def test_per_sample_gradients_match_a_loop(readout: Readout, renormalised: bool) -> None:
    net, x = free(Ring(3, 2), readout, renormalised), inputs(3)

    def output(entries: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return functional_call(net, {"entries": entries}, (sample.unsqueeze(0),)).sin().sum()

    entries = net.entries.detach()
    together = vmap(grad(output), in_dims=(None, 0))(entries, x)
    for sample, gradient in zip(x, together, strict=True):
        net.zero_grad()
        net(sample.unsqueeze(0)).sin().sum().backward()
        torch.testing.assert_close(gradient, net.entries.grad)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("renormalised", [True, False])
def test_forward_mode_gives_the_same_derivative(renormalised: bool) -> None:
    net, x = free(Ring(3, 2), LogProbabilities(2), renormalised), inputs(3)
    direction = torch.randn(net.entries.shape, dtype=torch.float64)

    def outputs(entries: torch.Tensor) -> torch.Tensor:
        return functional_call(net, {"entries": entries}, (x,)).sum()

    _, derivative = jvp(outputs, (net.entries.detach(),), (direction,))
    net(x).sum().backward()
    torch.testing.assert_close(derivative, (net.entries.grad * direction).sum())


# ------------------------------------------------------------------------------------ as a module
def test_first_gates_are_unitary_and_drawn_from_the_generator_alone() -> None:
    before = random_states()
    first, again, other = (
        haar_unitaries((7, 4, 4), generator_for(seed, "initial weights")) for seed in (0, 0, 1)
    )
    assert same(random_states(), before)
    torch.testing.assert_close(first @ first.mH, torch.eye(4).to(first).expand(7, 4, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    torch.manual_seed(0)
    default = FreeCircuit(Brickwork(3, 1), LogOdds(2)).gates().detach()
    torch.testing.assert_close(default @ default.mH, torch.eye(4).to(default).expand(2, 4, 4))


def test_first_gates_are_haar_distributed() -> None:
    unitaries = haar_unitaries((4_000, 2, 2), generator_for(0, "initial weights"))
    # Of a 2x2 Haar unitary, |u_11|^2 is uniform, and so is the phase of any entry.
    uniform = stats.uniform()
    assert stats.kstest(unitaries[:, 0, 0].abs().square().numpy(), uniform.cdf).pvalue > 1e-3
    for row, column in ((0, 0), (0, 1), (1, 1)):
        phases = unitaries[:, row, column].angle() / (2 * torch.pi) % 1
        assert stats.kstest(phases.numpy(), uniform.cdf).pvalue > 1e-3


def test_it_has_one_parameter_of_32_numbers_a_gate() -> None:
    net = FreeCircuit(Brickwork(10, 4), LogOdds(10))
    assert [name for name, _ in net.named_parameters()] == ["entries"]
    assert net.entries.numel() == 32 * 36
    assert net.entries.dtype == torch.float32


def test_it_trains_inside_a_sequential_with_a_linear_head() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(FreeCircuit(Brickwork(4, 2), Probabilities()), nn.Linear(16, 2))
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    x, y = torch.rand(32, 16), torch.randint(2, (32,))
    losses = []
    for _ in range(60):
        adam.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("renormalised", [True, False])
def test_state_dict_copies_and_pickles_are_equal_and_independent(renormalised: bool) -> None:
    net, other = (
        FreeCircuit(Brickwork(4, 2), LogProbabilities(3), renormalised=renormalised)
        for _ in range(2)
    )
    assert_copies_are_equal_and_independent(net, other, torch.rand(5, 16), "entries")


@pytest.mark.parametrize(("readout", "renormalised"), CASES, ids=str)
def test_precision_empty_batch_and_autocast(readout: Readout, renormalised: bool) -> None:
    net = FreeCircuit(Brickwork(3, 2), readout, renormalised=renormalised)
    x = torch.rand(4, 8)
    single, none = net(x), net(x[:0])
    assert none.shape == (0, single.shape[1])
    assert (single.dtype, none.dtype) == (torch.float32, torch.float32)
    (single.sum() + none.sum()).backward()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(x), single)
    double = net.double()(x)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


def test_wrong_use_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="needs probabilities"):
        FreeCircuit(Brickwork(3, 1), PauliZ(0), renormalised=False)
    with pytest.raises(ValueError, match="exceeds the 8 basis states"):
        FreeCircuit(Brickwork(3, 1), LogOdds(9))
    net = FreeCircuit(Brickwork(3, 1), LogOdds(2))
    for x, message in (
        (torch.rand(2, 9), "9 features do not fit"),
        (torch.zeros(1, 8), "sample 0 is zero"),
    ):
        with pytest.raises(ValueError, match=message):
            net(x)
    with pytest.raises(ValueError, match="one sample"):
        net.circuit(torch.rand(2, 8))
    with pytest.raises(TypeError, match=r"torch.float32 or torch.float64"):
        net.half()(torch.rand(2, 8))
