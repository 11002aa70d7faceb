"""Circuits of free, real, wrapped and trivialized gates, each against the QNN or dense matrices."""

import copy
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn.functional import cross_entropy

from plasticity.errors import DoesNotFit
from plasticity.learning.learner import Learner
from plasticity.networks.bricks import (
    FreeBrickwork,
    OrthogonalBrickwork,
    QnnTrivialised,
    QnnWrapped,
)
from plasticity.networks.modules.bricks import (
    REAL_WORDS,
    OrthogonalQNN,
    TrivializedQNN,
    WrappedQNN,
)
from plasticity.networks.network import Shape
from plasticity.networks.qnn import Qnn
from plasticity.quantum.circuits import Brickwork, pauli_words
from plasticity.quantum.gates import FreeCircuit
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, LogProbabilities, PauliZ, Probabilities
from plasticity.seeding import generator_for
from tests.oracle import PAULI, WORDS, dense_gate, dense_probabilities, tensorcircuit
from tests.tiny import same

CIRCLE = (0.0, 2 * math.pi)
ANSATZ = Brickwork(4, 2)


def angles_of_size(size: float, words: int = 15) -> torch.Tensor:
    generator = generator_for(0, "angles")
    return size * torch.randn(ANSATZ.num_gates, words, generator=generator, dtype=torch.float64)


def samples(count: int = 9, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, 16, generator=generator_for(0, "samples"), dtype=dtype)


def learner_of(network: torch.nn.Module, rate: float = 0.03) -> Learner:
    return Learner(network, lambda p: torch.optim.Adam(p, lr=rate, fused=True), cross_entropy)


def batch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = generator_for(0, "batch", index)
    return torch.rand(8, 16, generator=generator), torch.randint(3, (8,), generator=generator)


def distance_from_unitary(gates: torch.Tensor) -> float:
    identity = torch.eye(4, dtype=gates.dtype)
    return float(torch.linalg.matrix_norm(gates.mH @ gates - identity).max().detach())


# ------------------------------------------------------------------------------------------- free
def test_free_brickwork_begins_with_unitary_gates_of_its_generator() -> None:
    network = FreeBrickwork("brickwork", 2, "log-odds", renormalised=True)
    built, again, other = (
        network.build(Shape(16, 3), generator_for(seed, "initial weights")) for seed in (0, 0, 1)
    )
    assert isinstance(built, FreeCircuit)
    assert (built.ansatz, built.readout, built.renormalised) == (ANSATZ, LogOdds(3), True)
    assert same(built.state_dict(), again.state_dict())
    assert not same(built.state_dict(), other.state_dict())
    assert distance_from_unitary(built.gates()) < 1e-5


def test_free_brickwork_leaves_the_unitary_matrices() -> None:
    network = FreeBrickwork("brickwork", 2, "log-odds", renormalised=True)
    learner = learner_of(network.build(Shape(16, 3), generator_for(0, "initial weights")))
    for step in range(30):
        learner.update(*batch(step))
    assert distance_from_unitary(learner.network.gates()) > 0.1


def test_without_renormalization_it_reads_log_probabilities_and_no_z() -> None:
    network = FreeBrickwork("brickwork", 2, "log-odds", renormalised=False)
    built = network.build(Shape(16, 3), generator_for(0, "initial weights"))
    assert built.readout == LogProbabilities(3)
    for readout, outputs in (("z-of-first", 1), ("signed-z-of-last", 2)):
        network = FreeBrickwork("brickwork", 2, readout, renormalised=False)
        with pytest.raises(DoesNotFit, match=f"readout {readout} needs a state that is renorm"):
            network.build(Shape(16, outputs), generator_for(0, "initial weights"))
        with pytest.raises(DoesNotFit, match=f"{readout} gives {outputs} logit"):
            network.build(Shape(16, 4), generator_for(0, "initial weights"))


@pytest.mark.parametrize("kind", [FreeBrickwork, OrthogonalBrickwork])
def test_a_circuit_without_layers_is_refused(kind) -> None:
    last = True if kind is FreeBrickwork else CIRCLE
    with pytest.raises(ValueError, match="depth 0: at least 1"):
        kind("brickwork", 0, "log-odds", last)


# ------------------------------------------------------------------------------------- orthogonal
def orthogonal(angles: torch.Tensor, readout=None) -> OrthogonalQNN:
    return OrthogonalQNN(ANSATZ, readout or LogOdds(3), lambda _: angles.clone())


def test_real_generators_are_the_words_with_an_odd_number_of_y() -> None:
    assert [WORDS[k] for k in REAL_WORDS] == [w for w in WORDS if w.count("Y") % 2]
    for k, word in enumerate(pauli_words()):
        assert np.isreal(1j * word).all() == (k in REAL_WORDS)


def test_gates_are_exponentials_of_real_antisymmetric_matrices() -> None:
    angles = angles_of_size(1.0, 6)
    for gate, of_gate in zip(orthogonal(angles).gates(), angles, strict=True):
        generator = sum(
            float(angle) * np.kron(PAULI[WORDS[k][0]], PAULI[WORDS[k][1]])
            for angle, k in zip(of_gate, REAL_WORDS, strict=True)
        )
        antisymmetric = np.real(-1j * generator)
        np.testing.assert_array_equal(antisymmetric, -antisymmetric.T)
        expected = torch.from_numpy(scipy.linalg.expm(antisymmetric))
        torch.testing.assert_close(gate, expected.to(torch.complex128))


@pytest.mark.parametrize("readout", [LogOdds(3), PauliZ(1), Probabilities()], ids=str)
def test_it_is_the_qnn_at_angles_of_which_nine_are_zero(readout) -> None:
    angles, x = angles_of_size(1.0, 6), samples()
    whole = torch.zeros(ANSATZ.num_gates, 15, dtype=torch.float64)
    whole[:, list(REAL_WORDS)] = angles
    net, qnn = orthogonal(angles, readout), QNN(ANSATZ, readout, lambda _: whole)
    assert torch.equal(net.all_angles, whole)
    assert torch.equal(net(x), qnn(x))
    net(x).sin().sum().backward()
    qnn(x).sin().sum().backward()
    assert torch.equal(net.angles.grad, qnn.angles.grad[:, list(REAL_WORDS)])
    np.testing.assert_allclose(
        orthogonal(angles, Probabilities())(x).detach(), dense_probabilities(ANSATZ, whole, x)
    )
    with tensorcircuit("pytorch"):
        state = net.circuit(x[0]).state()
    assert float(state.detach().imag.abs().max()) < 1e-12  # real inputs stay real


# ---------------------------------------------------------------------------------------- wrapped
def wrapped(angles: torch.Tensor, readout=None) -> WrappedQNN:
    return WrappedQNN(ANSATZ, readout or LogOdds(3), lambda _: angles.clone())


def gaps(net: QNN) -> torch.Tensor:
    words = torch.from_numpy(pauli_words())
    hamiltonian = torch.einsum("gk,kij->gij", net.angles.detach().to(words.dtype), words)
    levels = torch.linalg.eigvalsh(hamiltonian)
    return levels[:, -1] - levels[:, 0]


@pytest.mark.parametrize("size", [0.1, 1.0, 3.0, 100.0])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_wrapping_bounds_the_angles_and_changes_no_probability(size, dtype, bound) -> None:
    net = wrapped(torch.zeros(ANSATZ.num_gates, 15, dtype=dtype), Probabilities())
    with torch.no_grad():
        net.angles.copy_(angles_of_size(size))
    x = samples(dtype=dtype)
    unwound, before, gates = net.angles.detach().clone(), net(x).detach(), net.gates().detach()
    far = gaps(net) > 2 * math.pi
    net.after_update()
    torch.testing.assert_close(net(x).detach(), before, rtol=0, atol=bound)
    assert float(gaps(net).max()) < 2 * math.pi + 1e-5
    assert float(net.angles.detach().norm(dim=1).max()) < math.pi + 1e-5
    changed = (net.angles.detach() != unwound).any(1)
    assert torch.equal(changed, far)
    assert bool(far.any()) == (size > 0.1)
    # The same gates, up to a power of i.
    phases = (net.gates().detach().mH @ gates).diagonal(dim1=1, dim2=2).mean(1)
    torch.testing.assert_close(phases**4, torch.ones_like(phases), rtol=0, atol=1e3 * bound)


def test_wrapped_angles_are_those_of_the_principal_logarithm() -> None:
    angles = angles_of_size(2.0)
    net = wrapped(angles)
    compared = 0
    for of_gate, found in zip(angles, net.angles.detach(), strict=True):
        if torch.equal(found, of_gate):
            continue
        logarithm = 1j * scipy.linalg.logm(dense_gate(of_gate))
        expected = [np.trace(word @ logarithm).real / 4 for word in pauli_words()]
        np.testing.assert_allclose(found, expected, atol=1e-10)
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize(("angle", "expected"), [(0.999, 0.999), (1.001, -0.999), (-1.6, 0.4)])
def test_angles_are_wrapped_where_the_gap_exceeds_two_pi(angle: float, expected: float) -> None:
    angles = torch.zeros(ANSATZ.num_gates, 15, dtype=torch.float64)
    angles[2, WORDS.index("ZI")] = math.pi * angle  # eigenvalues of plus and minus that
    found = wrapped(angles).angles.detach()
    angles[2, WORDS.index("ZI")] = math.pi * expected
    torch.testing.assert_close(found, angles)


@pytest.mark.slow
def test_wrapped_angles_stay_bounded_and_the_map_is_the_qnns() -> None:
    network = wrapped(angles_of_size(3.0).float())
    learner, plain = learner_of(network, 0.1), QNN(ANSATZ, LogOdds(3))
    longest, wrappings = 0.0, 0
    for step in range(1_000):
        before = network.angles.detach().clone()
        learner.update(*batch(step % 10))
        wrappings += int((network.angles.detach() - before).abs().max() > 0.5)
        longest = max(longest, float(network.angles.detach().norm(dim=1).max()))
    assert longest < math.pi + 1e-5
    assert wrappings > 3
    assert distance_from_unitary(network.gates()) < 1e-5
    plain.load_state_dict(network.state_dict())
    assert torch.equal(plain(batch(0)[0]), network(batch(0)[0]))


def test_wrapping_leaves_alone_what_is_not_finite() -> None:
    net = wrapped(angles_of_size(0.1))
    with torch.no_grad():
        net.angles[1, 2] = math.nan
        net.angles[2] = 100.0
    before = net.angles.detach().clone()
    net.after_update()
    assert torch.equal(net.angles.detach().nan_to_num(7.0), before.nan_to_num(7.0))


# ------------------------------------------------------------------------------------ trivialized
def trivialized(angles: torch.Tensor, readout=None) -> TrivializedQNN:
    return TrivializedQNN(ANSATZ, readout or LogOdds(3), lambda _: angles.clone())


def moved(net: TrivializedQNN, size: float = 0.3) -> TrivializedQNN:
    with torch.no_grad():
        net.angles.copy_(angles_of_size(size).flip(0))
    return net


def test_gates_are_exponentials_times_the_base() -> None:
    net = moved(trivialized(angles_of_size(1.0)))
    base = torch.view_as_complex(net.base).numpy()
    angles = net.angles.detach()
    for gate, of_gate, factor in zip(net.gates().detach(), angles, base, strict=True):
        np.testing.assert_allclose(gate, dense_gate(of_gate) @ factor, atol=1e-12)


@pytest.mark.parametrize("readout", [LogOdds(3), PauliZ(1), Probabilities()], ids=str)
def test_outputs_are_those_of_its_gates_and_gradients_match_finite_differences(readout) -> None:
    net, x = moved(trivialized(angles_of_size(1.0), readout)), samples(3)
    free = FreeCircuit(ANSATZ, readout, initializer=lambda _: net.gates().detach()).double()
    free.entries.data = torch.view_as_real(net.gates().detach())
    torch.testing.assert_close(net(x), free(x))

    def outputs(angles: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(net, {"angles": angles}, (x,))

    assert torch.autograd.gradcheck(outputs, (net.angles.detach().requires_grad_(),))
    with tensorcircuit("pytorch"):
        state = net.circuit(x[0]).state()
    p = moved(trivialized(angles_of_size(1.0), Probabilities()))(x[:1])[0]
    torch.testing.assert_close(state.abs().square(), p)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_a_change_of_base_changes_no_probability(dtype, bound) -> None:
    net = moved(trivialized(angles_of_size(1.0).to(dtype), Probabilities()))
    x = samples(dtype=dtype)
    before, gates = net(x).detach(), net.gates().detach()
    net.before_task(3)
    torch.testing.assert_close(net(x).detach(), before, rtol=0, atol=bound)
    base = torch.view_as_complex(net.base.double())
    torch.testing.assert_close(base, gates, rtol=0, atol=bound)
    assert not net.angles.detach().any()


def test_a_base_that_has_drifted_away_is_brought_back_onto_the_unitary_matrices() -> None:
    net = trivialized(angles_of_size(1.0))
    net.base *= 1 + 1e-5
    assert distance_from_unitary(torch.view_as_complex(net.base)) > 1e-5
    net.before_task(1)
    assert distance_from_unitary(torch.view_as_complex(net.base)) < 1e-8


def test_at_zero_the_derivative_of_a_gate_is_not_damped() -> None:
    net = trivialized(angles_of_size(10.0))
    gate = 2
    for k, word in enumerate(pauli_words()):
        direction = torch.zeros_like(net.angles)
        direction[gate, k] = 1.0
        step = 1e-6
        with torch.no_grad():
            net.angles.copy_(step * direction)
            later = net.gates()[gate]
            net.angles.copy_(-step * direction)
            derivative = (later - net.gates()[gate]) / (2 * step)
        expected = -1j * torch.from_numpy(word) @ torch.view_as_complex(net.base)[gate]
        torch.testing.assert_close(derivative, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("initial", [CIRCLE, (-0.1, 0.1)])
def test_the_first_map_is_the_qnns(initial) -> None:
    shape, x = Shape(16, 3), samples(dtype=torch.float32)
    qnn = Qnn("brickwork", 2, "log-odds", initial)
    expected = qnn.build(shape, generator_for(0, "initial weights"))(x)
    for kind in (QnnTrivialised, QnnWrapped):
        built = kind("brickwork", 2, "log-odds", initial).build(
            shape, generator_for(0, "initial weights")
        )
        torch.testing.assert_close(built(x), expected, rtol=0, atol=2e-4)  # of logits


@pytest.mark.slow
def test_a_learner_changes_the_base_before_each_task_and_keeps_the_moments() -> None:
    network = trivialized(angles_of_size(3.0).float())
    learner = learner_of(network)
    x = samples(dtype=torch.float32)
    for index in range(100):
        before, moments = network(x).detach(), copy.deepcopy(learner.optimizer.state_dict())
        learner.start_task(index)
        torch.testing.assert_close(network(x).detach(), before, rtol=0, atol=1e-3)
        assert same(learner.optimizer.state_dict(), moments)
        assert not network.angles.detach().any()
        for step in range(10):
            learner.update(*batch(step))
        assert network.angles.detach().any()
    assert distance_from_unitary(network.gates()) < 1e-5
    assert distance_from_unitary(torch.view_as_complex(network.base)) < 1e-5
