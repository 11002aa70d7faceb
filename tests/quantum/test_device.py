"""The layer as a device would run it: against density matrices, trajectories and laws of chance."""

import copy
import itertools
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
import tensorcircuit as tc
import torch

from plasticity.networks.bricks import QnnTrivialised, QnnWrapped
from plasticity.networks.network import Shape
from plasticity.quantum import device as device_module
from plasticity.quantum.circuits import Ansatz, Brickwork, Ring, Staircase
from plasticity.quantum.device import DeviceQNN, NoiseModel
from plasticity.quantum.engine import operators as engine
from plasticity.quantum.gates import FreeCircuit
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import (
    LogOdds,
    LogProbabilities,
    PauliZ,
    Probabilities,
    SignedPauliZ,
)
from plasticity.quantum.reuploading import ReuploadingQNN
from tests.oracle import PAULI, amplitudes, tensorcircuit

NOISES = {
    "none": NoiseModel(),
    "depolarizing": NoiseModel(depolarizing=0.05),
    "damping": NoiseModel(amplitude_damping=0.07),
    "readout": NoiseModel(readout_error=(0.02, 0.11)),
    "all": NoiseModel(depolarizing=0.03, amplitude_damping=0.05, readout_error=(0.02, 0.11)),
}
ANSAETZE = {
    "brickwork": Brickwork(4, 2),
    "staircase": Staircase(3, 3),
    "ring": Ring(5, 2),
    "brickwork of 5": Brickwork(5, 2),
    "any pairs": Ansatz(4, ((3, 1), (0, 2), (1, 2), (3, 0), (2, 1), (0, 1))),
    "a qubit without a gate": Ansatz(4, ((2, 0), (2, 3), (0, 3))),
}


def readouts_of(num_qubits: int):
    of_states = [LogOdds(3), LogProbabilities(2), Probabilities()]
    return [*of_states, PauliZ(0), PauliZ(1), SignedPauliZ(num_qubits - 1)]


def layer(ansatz: Ansatz, readout, seed: int = 0) -> QNN:
    generator = torch.Generator().manual_seed(seed)
    return QNN(ansatz, readout, lambda shape: 3 * torch.rand(shape, generator=generator)).double()


def samples(count: int, features: int, *, dtype=torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, features, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------ oracles
def kraus_of(noise: NoiseModel) -> list[tuple[list[np.ndarray], int]]:
    """Kraus operators after each gate, and on how many qubits, in order, written out."""
    words = [np.kron(PAULI[a], PAULI[b]) for a, b in itertools.product("IXYZ", repeat=2)]
    weights = [1 - 15 / 16 * noise.depolarizing] + [noise.depolarizing / 16] * 15
    g = noise.amplitude_damping
    damping = [np.diag([1, math.sqrt(1 - g)]), np.array([[0, math.sqrt(g)], [0, 0]])]
    return [
        ([math.sqrt(w) * word for w, word in zip(weights, words, strict=True)], 2),
        (damping, 1),
    ]


def embedded(small: np.ndarray, qubits: tuple[int, ...], n: int) -> np.ndarray:
    """A matrix on some qubits as one on all: applied to each basis state."""
    size, axes = len(qubits), [*qubits]
    columns = np.eye(2**n).reshape((2,) * n + (2**n,))
    moved = np.tensordot(small.reshape((2,) * (2 * size)), columns, (range(size, 2 * size), axes))
    return np.moveaxis(moved, range(size), axes).reshape(2**n, 2**n)


def read_by_hand(diagonal: np.ndarray, n: int, flips: tuple[float, float]) -> np.ndarray:
    """Probabilities to read basis states, from those to be in them."""
    flip = np.array([[1 - flips[0], flips[1]], [flips[0], 1 - flips[1]]])
    confusion = np.ones((1, 1))
    for _ in range(n):
        confusion = np.kron(confusion, flip)
    return confusion @ diagonal


def outcomes_of(read: np.ndarray, readout, n: int) -> np.ndarray:
    """What a readout needs of the probabilities to read basis states."""
    if readout.qubit is None:
        return read[: readout.num_outcomes(n)]
    return read.reshape(2**readout.qubit, 2, -1).sum((0, 2))[0]


def by_density_matrix(qnn: QNN, noise: NoiseModel, x: torch.Tensor) -> np.ndarray:
    """Evolve each sample's density matrix, Kraus by Kraus operator, and read all states."""
    n, gates = qnn.ansatz.num_qubits, qnn.gates().detach().numpy()
    result = []
    for state in amplitudes(x, n).T:
        rho = np.outer(state, state.conj())
        for gate, pair in zip(gates, qnn.ansatz.pairs, strict=True):
            u = embedded(gate, pair, n)
            rho = u @ rho @ u.conj().T
            for kraus, size in kraus_of(noise):
                for qubits in [pair] if size == 2 else [(q,) for q in pair]:
                    full = [embedded(k, qubits, n) for k in kraus]
                    rho = sum(k @ rho @ k.conj().T for k in full)
        result.append(read_by_hand(rho.diagonal().real, n, noise.flips))
    return np.stack(result)


def by_tensorcircuit(qnn: QNN, noise: NoiseModel, x: torch.Tensor) -> np.ndarray:
    """The same by TensorCircuit's density matrices and channels."""
    n, gates = qnn.ansatz.num_qubits, qnn.gates().detach().numpy()
    result = []
    with tensorcircuit("numpy"):
        depolarizing = tc.channels.isotropicdepolarizingchannel(15 / 16 * noise.depolarizing, 2)
        damping = tc.channels.amplitudedampingchannel(noise.amplitude_damping, 1)
        for state in amplitudes(x, n).T:
            circuit = tc.DMCircuit(n, inputs=state)
            for gate, (a, b) in zip(gates, qnn.ansatz.pairs, strict=True):
                circuit.any(a, b, unitary=gate)
                circuit.general_kraus(depolarizing, a, b)
                circuit.general_kraus(damping, a)
                circuit.general_kraus(damping, b)
            rho = np.asarray(circuit.densitymatrix())
            read = read_by_hand(rho.diagonal().real, n, noise.flips)
            result.append(outcomes_of(read, qnn.readout, n))
    return np.stack(result)


# ------------------------------------------------------------------------------ noisy probabilities
@pytest.mark.sampled(12)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("ansatz", ANSAETZE)
def test_probabilities_are_those_of_density_matrices(ansatz: str, noise: str) -> None:
    n = ANSAETZE[ansatz].num_qubits
    for dtype in (torch.float64, torch.complex128):
        x = samples(2, 2**n - 1, dtype=dtype)
        all_read = by_density_matrix(layer(ANSAETZE[ansatz], Probabilities()), NOISES[noise], x)
        for readout in readouts_of(n):
            device = layer(ANSAETZE[ansatz], readout).on_device(NOISES[noise])
            expected = [outcomes_of(read, readout, n) for read in all_read]
            read = device.probabilities(x).detach().numpy()
            np.testing.assert_allclose(read, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("ansatz", ["brickwork", "staircase", "ring", "any pairs"])
def test_probabilities_are_those_of_tensorcircuit(ansatz: str) -> None:
    n = ANSAETZE[ansatz].num_qubits
    for noise, readout in itertools.product(NOISES.values(), (Probabilities(), PauliZ(1))):
        qnn = layer(ANSAETZE[ansatz], readout)
        x = samples(1, 2**n)
        read = qnn.on_device(noise).probabilities(x).detach().numpy()
        # The weights of its depolarizing channel are rounded to single precision.
        np.testing.assert_allclose(read, by_tensorcircuit(qnn, noise, x), rtol=0, atol=1e-7)


@pytest.mark.parametrize("ansatz", ANSAETZE)
@pytest.mark.parametrize("noise", ["none", "all"])
def test_operators_give_the_probabilities_of_all_states(ansatz: str, noise: str) -> None:
    n = ANSAETZE[ansatz].num_qubits
    for readout in readouts_of(n):
        device = layer(ANSAETZE[ansatz], readout).on_device(NOISES[noise])
        operators = device.operators().detach()
        torch.testing.assert_close(operators, operators.mH, rtol=0, atol=1e-15)
        eigenvalues = torch.linalg.eigvalsh(operators)
        assert eigenvalues.min() > -1e-13
        assert eigenvalues.max() < 1 + 1e-13
        states = torch.from_numpy(amplitudes(samples(5, 2**n, dtype=torch.complex128), n)).T
        by_operators = torch.einsum("bi,kij,bj->bk", states.conj(), operators, states).real
        read = device.probabilities(states).detach()
        torch.testing.assert_close(read.view(5, -1), by_operators, rtol=0, atol=1e-14)


def test_probabilities_are_means_over_trajectories() -> None:
    noise = NoiseModel(depolarizing=0.2, amplitude_damping=0.15, readout_error=(0.05, 0.1))
    qnn = layer(Brickwork(3, 2), Probabilities())
    n, gates, x = 3, qnn.gates().detach().numpy(), samples(1, 8)
    chance = np.random.default_rng(5)
    words = [np.kron(PAULI[a], PAULI[b]) for a, b in itertools.product("IXYZ", repeat=2)]
    unitaries = [embedded(g, pair, n) for g, pair in zip(gates, qnn.ansatz.pairs, strict=True)]
    at = {pair: [embedded(word, pair, n) for word in words] for pair in set(qnn.ansatz.pairs)}
    damping, _ = kraus_of(noise)[1]
    jumps = [[embedded(k, (q,), n) for k in damping] for q in range(n)]
    trajectories = []
    for _ in range(3000):
        state = amplitudes(x, n)[:, 0]
        for unitary, pair in zip(unitaries, qnn.ansatz.pairs, strict=True):
            state = unitary @ state
            if chance.random() < noise.depolarizing:  # one of all 16 words, the identity included
                state = at[pair][chance.integers(16)] @ state
            for q in pair:
                fallen = jumps[q][1] @ state
                falls = chance.random() < np.vdot(fallen, fallen).real
                state = fallen if falls else jumps[q][0] @ state
                state = state / np.linalg.norm(state)
        trajectories.append(read_by_hand(np.abs(state) ** 2, n, noise.flips))
    mean, error = np.mean(trajectories, 0), scipy.stats.sem(trajectories)
    read = qnn.on_device(noise).probabilities(x)[0].detach().numpy()
    assert (np.abs(read - mean) < 4 * error).all()
    exact = qnn(x)[0].detach().numpy()
    assert (np.abs(exact - mean) > 10 * error).any()  # the noise is seen


def test_without_noise_outputs_are_those_of_the_layer() -> None:
    for ansatz in ANSAETZE.values():
        for readout in readouts_of(ansatz.num_qubits):
            qnn = layer(ansatz, readout)
            x = samples(4, 2**ansatz.num_qubits - 2)
            torch.testing.assert_close(qnn.on_device()(x), qnn(x), rtol=1e-9, atol=1e-12)


def test_full_depolarization_leaves_uniform_outcomes() -> None:
    device = layer(Brickwork(4, 1), Probabilities()).on_device(NoiseModel(depolarizing=1))
    read = device.probabilities(samples(3, 16))
    torch.testing.assert_close(read, torch.full_like(read, 1 / 16))


def test_full_damping_leaves_the_ground_state() -> None:
    device = layer(Brickwork(4, 1), Probabilities()).on_device(NoiseModel(amplitude_damping=1))
    read = device.probabilities(samples(3, 16))
    torch.testing.assert_close(read, torch.eye(16, dtype=read.dtype)[:1].expand(3, -1))


def test_one_readout_error_is_that_of_both_bits() -> None:
    qnn, x = layer(Brickwork(3, 2), Probabilities()), samples(3, 8)
    one, both = (
        qnn.on_device(NoiseModel(readout_error=error))(x) for error in (0.03, (0.03, 0.03))
    )
    assert torch.equal(one, both)
    assert not torch.allclose(one, qnn.on_device(NoiseModel(readout_error=(0.03, 0)))(x))


def test_three_depolarized_cx_are_one_gate_depolarized_as_the_docstring_says() -> None:
    once = layer(Brickwork(3, 1), LogOdds(2))
    cube = 1 - (1 - 0.01) ** 3
    by_gate = once.on_device(NoiseModel(depolarizing=cube))
    # The same unitary as three gates, the first two of which do nothing.
    pairs = tuple(pair for pair in once.ansatz.pairs for _ in range(3))
    thrice = layer(Ansatz(3, pairs), LogOdds(2))
    with torch.no_grad():
        thrice.angles.zero_()
        thrice.angles[2::3] = once.angles
    by_cx = thrice.on_device(NoiseModel(depolarizing=0.01))
    x = samples(3, 8)
    torch.testing.assert_close(by_gate(x), by_cx(x), rtol=1e-12, atol=0)


# ------------------------------------------------------------------------------ size and precision
@pytest.mark.parametrize("readout", [LogOdds(40), PauliZ(3)])
def test_outcomes_and_samples_in_parts_are_the_whole(readout, monkeypatch) -> None:
    qnn = layer(Brickwork(6, 2), readout)
    noise, x = NOISES["all"], samples(10, 60)
    expected = qnn.on_device(noise)(x).detach()
    monkeypatch.setattr(device_module, "OUTCOMES", 7)
    monkeypatch.setattr(device_module, "SAMPLES", 3)
    device = qnn.on_device(noise)
    torch.testing.assert_close(device(x).detach(), expected)
    with torch.no_grad():
        torch.testing.assert_close(device(x), expected)
        torch.testing.assert_close(device(x), expected)


@pytest.mark.slow
def test_ten_qubits_in_single_precision_are_those_in_double() -> None:
    qnn = layer(Brickwork(10, 4), LogOdds(10))
    x = samples(20, 784).abs()
    noise = NoiseModel(depolarizing=1e-3, amplitude_damping=1e-3, readout_error=0.01)
    with torch.no_grad():
        exact = qnn.on_device(noise).probabilities(x)
        device = copy.deepcopy(qnn).float().on_device(noise)
        single = device.probabilities(x.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            qnn.on_device().probabilities(x), qnn_probabilities(qnn, x), rtol=0, atol=1e-13
        )


def qnn_probabilities(qnn: QNN, x: torch.Tensor) -> torch.Tensor:
    return (qnn(x) - 1e-9).sigmoid()  # of log odds


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_probabilities_and_gradients_and_draws_shots() -> None:
    for readout in (LogOdds(5), PauliZ(2)):
        qnn, x = layer(Ring(6, 2), readout), samples(4, 60)
        on_cpu = qnn.on_device(NOISES["all"])
        expected = on_cpu.probabilities(x)
        (gradient,) = torch.autograd.grad(expected.square().sum(), qnn.angles)
        on_cuda = copy.deepcopy(qnn).cuda().on_device(NOISES["all"], shots=1000)
        found = on_cuda.probabilities(x.cuda())
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-12)
        (theirs,) = torch.autograd.grad(found.square().sum(), on_cuda.qnn.angles)
        torch.testing.assert_close(theirs.cpu(), gradient, rtol=0, atol=1e-10)
        with torch.no_grad():
            torch.testing.assert_close(on_cuda.probabilities(x.cuda()), found.detach())
        frequencies = on_cuda.counts(x.cuda()).cpu() / 1000
        assert (frequencies - expected).abs().max() < 0.1


def test_it_does_not_follow_autocast() -> None:
    qnn = layer(Brickwork(4, 2), LogOdds(3)).float()
    device, x = qnn.on_device(NOISES["all"]), samples(3, 16).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = device(x)
    assert torch.equal(inside, device(x))


def test_what_is_kept_is_made_anew_when_gates_noise_or_dtype_change() -> None:
    qnn, x = layer(Brickwork(4, 2), LogOdds(3)), samples(3, 16)
    device = qnn.on_device(NOISES["all"])
    with torch.no_grad():
        before = device(x)
        assert torch.equal(device(x), before)
        qnn.angles[3, 2] += 0.3
        torch.testing.assert_close(device(x), qnn.on_device(NOISES["all"])(x), rtol=0, atol=0)
        assert not torch.allclose(device(x), before)
        device.noise = NOISES["damping"]
        assert torch.equal(device(x), qnn.on_device(NOISES["damping"])(x))
        # Angles that single precision has, too, so that the gates stay the same.
        qnn.angles.copy_(qnn.angles.float())
        device(x)
        device.float()
        assert device(x.float()).dtype == torch.float32
    device.double()
    torch.testing.assert_close(device(x), qnn.on_device(NOISES["damping"])(x))


def test_copies_and_pickles_are_equal_and_do_not_carry_operators() -> None:
    device, x = layer(Brickwork(6, 2), LogOdds(3)).on_device(NOISES["all"]), samples(3, 64)
    with torch.no_grad():
        expected = device(x)
        assert len(pickle.dumps(device)) < 50_000
        for twin in (copy.deepcopy(device), pickle.loads(pickle.dumps(device))):
            assert torch.equal(twin(x), expected)
            twin.qnn.angles.add_(0.1)
            assert not torch.allclose(twin(x), expected)
            assert torch.equal(device(x), expected)


@pytest.mark.parametrize("network", [QnnWrapped, QnnTrivialised])
def test_layers_with_their_gates_in_other_parameters_work(network) -> None:
    generator = torch.Generator().manual_seed(3)
    module = network("brickwork", 2, "log-odds", (0, 3)).build(Shape(16, 4), generator)
    (qnn,) = [part for part in module.modules() if isinstance(part, QNN)]
    x = samples(3, 16).float()
    torch.testing.assert_close(qnn.on_device()(x), qnn(x), rtol=1e-4, atol=1e-4)
    qnn.on_device(NOISES["all"])(x).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in qnn.parameters())


def test_an_empty_batch_and_a_batch_of_one() -> None:
    for readout in (LogOdds(3), PauliZ(0)):
        device = layer(Brickwork(4, 2), readout).on_device(NOISES["all"], shots=10)
        for size in (0, 1):
            x = samples(size, 16)
            assert device(x).shape == device.qnn(x).shape
            with torch.no_grad():
                assert device(x).shape == device.qnn(x).shape


# --------------------------------------------------------------------------------------- gradients
@pytest.mark.sampled(1)
@pytest.mark.parametrize("ansatz", ["staircase", "any pairs"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients_are_those_of_finite_differences(ansatz: str, dtype: torch.dtype) -> None:
    for readout in (LogOdds(3), PauliZ(1)):
        qnn = layer(ANSAETZE[ansatz], readout)
        device = qnn.on_device(NOISES["all"])
        x = samples(2, 2**qnn.ansatz.num_qubits - 1, dtype=dtype).requires_grad_()

        def outputs(angles: torch.Tensor, x: torch.Tensor, device: DeviceQNN = device):
            return torch.func.functional_call(device, {"qnn.angles": angles}, (x,))

        assert torch.autograd.gradcheck(outputs, (qnn.angles, x), atol=1e-6)


def test_gradients_of_large_operators_that_are_made_twice_are_those_of_small_ones(
    monkeypatch,
) -> None:
    qnn, x = layer(Ring(6, 3), LogOdds(5)), samples(4, 64)
    gradients = []
    for large in (1, 10**9):
        monkeypatch.setattr(engine, "LARGE", large)
        qnn.zero_grad()
        qnn.on_device(NOISES["all"])(x).square().sum().backward()
        gradients.append(qnn.angles.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-13)


def test_without_noise_gradients_are_those_of_the_layer() -> None:
    qnn, x = layer(Brickwork(6, 3), LogOdds(4)), samples(4, 50)
    expected = torch.autograd.grad(qnn(x).square().sum(), qnn.angles)
    found = torch.autograd.grad(qnn.on_device()(x).square().sum(), qnn.angles)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own use
def test_gradients_of_each_sample_and_second_derivatives() -> None:
    qnn, x = layer(Brickwork(3, 1), PauliZ(1)), samples(3, 8)
    device, angles = qnn.on_device(NOISES["all"]), qnn.angles.detach()

    def output(angles: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(device, {"qnn.angles": angles}, (sample[None],)).squeeze()

    each = torch.func.vmap(torch.func.grad(output), in_dims=(None, 0))(angles, x)
    for gradient, sample in zip(each, x, strict=True):
        (expected,) = torch.autograd.grad(output(qnn.angles, sample), qnn.angles)
        torch.testing.assert_close(gradient, expected)
    hessian = torch.func.hessian(output)(angles, x[0])
    step = torch.zeros_like(angles)
    step[1, 4] = 1e-6
    along = torch.func.grad(output)(angles + step, x[0]) - torch.func.grad(output)(
        angles - step, x[0]
    )
    torch.testing.assert_close(hessian[1, 4], along / 2e-6, rtol=1e-6, atol=1e-8)


def test_it_learns_under_noise_and_with_shots() -> None:
    torch.manual_seed(0)
    x = samples(60, 8)
    y = (layer(Brickwork(3, 2), PauliZ(0), seed=9)(x) > 0).long().squeeze(1)
    net = layer(Brickwork(3, 2), LogOdds(2)).on_device(NoiseModel(depolarizing=0.01), shots=1000)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


# ------------------------------------------------------------------------------------------- shots
def test_counts_follow_their_multinomial_law() -> None:
    generator = torch.Generator().manual_seed(11)
    qnn = layer(Brickwork(3, 2), LogOdds(4))
    device = qnn.on_device(NOISES["all"], shots=200, generator=generator)
    x = samples(1, 8)
    p = device.probabilities(x)[0].detach().numpy()
    counts = device.counts(x.expand(4000, -1)).numpy()
    rest = 200 - counts.sum(1, keepdims=True)
    assert (rest >= 0).all()
    counts, p = np.hstack([counts, rest]), np.append(p, 1 - p.sum())
    assert scipy.stats.chisquare(counts.sum(0), 4000 * 200 * p).pvalue > 0.01
    # Each count alone is binomial: its variance is that of the law, and so are the covariances.
    covariance = 200 * (np.diag(p) - np.outer(p, p))
    scale = np.sqrt(np.outer(covariance.diagonal(), covariance.diagonal()))
    assert (np.abs(np.cov(counts.T) - covariance) < 5 * scale / math.sqrt(4000)).all()
    for of_outcome, probability in zip(counts.T, p, strict=True):
        law = scipy.stats.binom(200, probability)
        edges = np.unique(law.ppf(np.linspace(0.02, 0.98, 12)))
        seen = np.histogram(of_outcome, [-1, *(edges + 0.5), 201])[0]
        expected = 4000 * np.diff([0, *law.cdf(edges), 1])
        assert scipy.stats.chisquare(seen, expected).pvalue > 0.001


def test_zeros_read_on_a_qubit_follow_their_binomial_law() -> None:
    generator = torch.Generator().manual_seed(12)
    device = layer(Staircase(3, 2), PauliZ(1)).on_device(NOISES["all"], 50, generator)
    x = samples(1, 8)
    p = float(device.probabilities(x)[0].detach())
    counts = device.counts(x.expand(5000, -1)).numpy()
    law = scipy.stats.binom(50, p)
    edges = np.unique(law.ppf(np.linspace(0.02, 0.98, 12)))
    seen = np.histogram(counts, [-1, *(edges + 0.5), 51])[0]
    assert scipy.stats.chisquare(seen, 5000 * np.diff([0, *law.cdf(edges), 1])).pvalue > 0.01


def test_outputs_with_shots_are_the_readout_of_frequencies() -> None:
    for readout in (LogOdds(3), LogProbabilities(3), Probabilities(), PauliZ(0), SignedPauliZ(2)):
        qnn, x = layer(Brickwork(3, 2), readout), samples(6, 8)
        device = qnn.on_device(NOISES["all"], 20, torch.Generator().manual_seed(4))
        outputs = device(x).detach()
        device.generator.manual_seed(4)
        frequencies = device.counts(x).double() / 20
        read = frequencies if readout.qubit is None else 2 * frequencies - 1
        torch.testing.assert_close(outputs, readout(read), rtol=1e-9, atol=1e-9)


def test_many_shots_come_near_the_exact_probabilities() -> None:
    qnn, x = layer(Brickwork(4, 2), Probabilities()), samples(5, 16)
    device = qnn.on_device(NOISES["all"], 10**8, torch.Generator().manual_seed(1))
    exact = device.probabilities(x).detach()
    assert (device(x).detach() - exact).abs().max() < 5 * 0.5 / 10**4
    assert (device.counts(x).sum(1) == 10**8).all()


def test_shots_are_those_of_the_generator() -> None:
    qnn, x = layer(Brickwork(4, 2), LogOdds(3)), samples(5, 16)
    first = qnn.on_device(shots=100, generator=torch.Generator().manual_seed(1)).counts(x)
    again = qnn.on_device(shots=100, generator=torch.Generator().manual_seed(1)).counts(x)
    other = qnn.on_device(shots=100, generator=torch.Generator().manual_seed(2)).counts(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_gradients_with_shots_are_the_readouts_at_the_frequencies() -> None:
    qnn, x = layer(Brickwork(3, 2), LogOdds(3)), samples(6, 8)
    device = qnn.on_device(NOISES["all"], 500, torch.Generator().manual_seed(4))
    (found,) = torch.autograd.grad(device(x).sum(), qnn.angles)
    device.generator.manual_seed(4)
    frequencies = (device.counts(x).double() / 500).requires_grad_()
    (slope,) = torch.autograd.grad(LogOdds(3)(frequencies).sum(), frequencies)
    (expected,) = torch.autograd.grad((slope * device.probabilities(x)).sum(), qnn.angles)
    torch.testing.assert_close(found, expected)


# ------------------------------------------------------------------------------------------- misuse
@pytest.mark.parametrize(
    "wrong",
    [
        {"depolarizing": -0.1},
        {"depolarizing": 1.1},
        {"amplitude_damping": float("nan")},
        {"amplitude_damping": 2},
        {"readout_error": -1e-9},
        {"readout_error": (0.1, 1.5)},
    ],
)
def test_probabilities_outside_0_and_1_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"^\w+ [^\n]*: a probability is in \[0, 1\]$"):
        NoiseModel(**wrong)


def test_three_readout_errors_are_refused() -> None:
    with pytest.raises(ValueError, match="one probability, or two"):
        NoiseModel(readout_error=(0.1, 0.1, 0.1))


@pytest.mark.parametrize("shots", [0, -5, 2.5])
def test_fewer_than_one_shot_is_refused(shots: int) -> None:
    with pytest.raises(ValueError, match=f"^shots {shots}: "):
        layer(Brickwork(3, 1), LogOdds(2)).on_device(shots=shots)


def test_counts_of_infinitely_many_shots_are_refused() -> None:
    with pytest.raises(ValueError, match="shots None: only"):
        layer(Brickwork(3, 1), LogOdds(2)).on_device().counts(samples(1, 8))


def test_what_has_no_operators_is_refused() -> None:
    uploading = ReuploadingQNN(Brickwork(3, 2), LogOdds(2), 8, (0,))
    with pytest.raises(TypeError, match="depends on the data"):
        uploading.on_device()
    with pytest.raises(TypeError, match="Linear is no quantum layer"):
        DeviceQNN(torch.nn.Linear(8, 2))
    free = FreeCircuit(Brickwork(3, 2), LogOdds(2))
    DeviceQNN(free)  # its first gates are unitary
    with torch.no_grad():
        free.entries.mul_(1.1)
    with pytest.raises(ValueError, match="gates of FreeCircuit are not unitary"):
        DeviceQNN(free)


def test_a_zero_sample_is_refused_as_by_the_layer() -> None:
    device = layer(Brickwork(3, 1), LogOdds(2)).on_device()
    with pytest.raises(ValueError, match="sample 1 is zero"):
        device(torch.tensor([[1.0, 2.0], [0.0, 0.0]], dtype=torch.float64))


# ---------------------------------------------------------------------- numbers that options take
LEVELS = [np.float32(0.25), np.float64(0.25), np.array(0.25), torch.tensor(0.25), Fraction(1, 4)]


@pytest.mark.parametrize("level", LEVELS, ids=repr)
def test_levels_of_noise_may_be_numbers_of_numpy_and_torch(level) -> None:
    plain = NoiseModel(0.25, 0.25, 0.25)
    assert NoiseModel(level, level, level) == plain
    assert hash(NoiseModel(level, level, level)) == hash(plain)
    for two in (
        (level, 0.5),
        [level, 0.5],
        np.array([level, 0.5], float),
        torch.tensor([0.25, 0.5]),
    ):
        assert NoiseModel(readout_error=two).flips == (0.25, 0.5)
    assert NoiseModel(depolarizing=np.int64(1)).depolarizing == 1


@pytest.mark.parametrize("kind", ["depolarizing", "amplitude_damping", "readout_error"])
@pytest.mark.parametrize(
    "level", [math.nan, math.inf, -0.1, 1.1, np.float32("nan"), torch.tensor(-1)]
)
def test_levels_of_noise_out_of_range_are_named(kind: str, level) -> None:
    with pytest.raises(ValueError, match=rf"{kind} \S+: a probability is in \[0, 1\]"):
        NoiseModel(**{kind: level})


@pytest.mark.parametrize("kind", ["depolarizing", "amplitude_damping", "readout_error"])
@pytest.mark.parametrize("level", [True, "0.1", None, 0.1j, np.bool_(1), torch.tensor(True)])
def test_levels_of_noise_that_are_no_numbers_are_named(kind: str, level) -> None:
    with pytest.raises(TypeError, match=f"{kind} .*: a probability is a number in"):
        NoiseModel(**{kind: level})


@pytest.mark.parametrize("shots", [np.int32(4), np.float64(4), torch.tensor(4), 4.0])
def test_shots_may_be_numbers_of_numpy_and_torch(shots) -> None:
    noisy = QNN(Brickwork(2, 1), PauliZ(0)).on_device(shots=shots)
    assert (noisy.shots, type(noisy.shots)) == (4, int)
    assert noisy.counts(torch.rand(3, 4)).le(4).all()


@pytest.mark.parametrize(
    ("shots", "error"),
    [
        *((value, ValueError) for value in (0, -1, 2.5, math.inf, -math.inf, math.nan, 10**400)),
        *((value, TypeError) for value in (True, "10", 1j, torch.tensor([1, 2]))),
    ],
    ids=repr,
)  # fmt: skip
def test_other_numbers_of_shots_are_named(shots, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"shots .*: (a whole number, at least 1|at most 2\*\*53)"):
        QNN(Brickwork(2, 1), PauliZ(0)).on_device(shots=shots)


def test_what_is_no_noise_model_is_named() -> None:
    with pytest.raises(TypeError, match=r"noise 0\.1: a NoiseModel, or None"):
        QNN(Brickwork(2, 1), PauliZ(0)).on_device(0.1)
