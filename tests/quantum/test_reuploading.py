"""A QNN whose inputs are uploaded again: each sample's own circuit, built gate by gate."""

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, vmap

from plasticity.quantum.circuits import Ansatz, Brickwork, Ring, Staircase
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities, Readout, SignedPauliZ
from plasticity.quantum.reuploading import ReuploadingQNN
from plasticity.seeding import generator_for
from tests.oracle import amplitudes, dense_unitary, tensorcircuit
from tests.quantum.twins import assert_copies_are_equal_and_independent

READOUTS = [LogOdds(3), Probabilities(), PauliZ(0), SignedPauliZ(2)]
CASES = [
    (Brickwork(4, 3), (3,)), (Brickwork(4, 3), (3, 6)), (Staircase(3, 3), (1, 2, 5)),
    (Ring(5, 2), (5,)), (Ansatz(3, ((2, 0), (0, 1))), (1,)), (Brickwork(4, 2), (0,)),
    (Staircase(4, 2), (0, 3)), (Brickwork(3, 1), (0, 1)),
]  # fmt: skip


def reuploading(
    ansatz: Ansatz, readout: Readout, places: tuple[int, ...], features: int | None = None
) -> ReuploadingQNN:
    generator = generator_for(0, "weights")

    def normal(size: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    features = features or 2**ansatz.num_qubits - 1
    return ReuploadingQNN(ansatz, readout, features, places, normal, normal)


def inputs(net: ReuploadingQNN, batch: int = 5) -> torch.Tensor:
    generator = generator_for(0, "inputs")
    return torch.randn(batch, net.uploads.shape[2], generator=generator, dtype=torch.float64)


def dense_probabilities(net: ReuploadingQNN, places: tuple[int, ...], x: torch.Tensor):
    """Sample by sample, with the whole matrix of each rotation."""
    n, pairs = net.ansatz.num_qubits, net.ansatz.pairs
    bounds = (0, *places, len(pairs))
    result = []
    for sample in x:
        state = amplitudes(sample[None], n)[:, 0]
        for k in range(len(bounds) - 1):
            start, end = bounds[k : k + 2]
            if k > 0:
                unit = (sample / sample.norm()).numpy() / np.sqrt(len(sample))
                phi = net.uploads[k - 1].detach().numpy() @ unit
                rotation = np.eye(1)
                for angle in phi:
                    rotation = np.kron(rotation, np.diag([np.exp(-1j * angle), np.exp(1j * angle)]))
                state = rotation @ state
            if end > start:
                part = Ansatz(n, pairs[start:end])
                state = dense_unitary(part, net.angles.detach()[start:end]) @ state
        result.append(np.abs(state) ** 2)
    return torch.from_numpy(np.stack(result))


def read(net: ReuploadingQNN, p: torch.Tensor) -> torch.Tensor:
    qubit = net.readout.qubit
    if qubit is None:
        return net.readout(p[:, : net.readout.num_outcomes(net.ansatz.num_qubits)])
    zero, one = p.unflatten(1, (2**qubit, 2, -1)).sum((1, 3)).unbind(1)
    return net.readout(zero - one)


@pytest.mark.sampled(24)
@pytest.mark.parametrize("readout", READOUTS, ids=str)
@pytest.mark.parametrize(("ansatz", "places"), CASES, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("batch", [1, 7])
def test_outputs_match_dense_matrices(ansatz: Ansatz, places, readout, batch: int) -> None:
    net = reuploading(ansatz, readout, places)
    x = inputs(net, batch)
    expected = read(net, dense_probabilities(net, places, x))
    torch.testing.assert_close(net(x).detach(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("readout", READOUTS, ids=str)
@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize("places", [(2, 4), (0,)])
def test_gradients_match_finite_differences(readout, batch: int, places) -> None:
    net = reuploading(Staircase(3, 3), readout, places)
    assert torch.autograd.gradcheck(
        lambda angles, uploads, x: functional_call(
            net, {"angles": angles, "uploads": uploads}, (x,)
        ),
        (
            net.angles.detach().requires_grad_(),
            net.uploads.detach().requires_grad_(),
            inputs(net, batch).requires_grad_(),
        ),
    )


@pytest.mark.parametrize("readout", READOUTS, ids=str)
def test_without_weights_it_is_the_qnn(readout: Readout) -> None:
    net = reuploading(Brickwork(5, 3), readout, (4, 8))
    with torch.no_grad():
        net.uploads.zero_()
    qnn = QNN(net.ansatz, readout, lambda _: net.angles.detach())
    torch.testing.assert_close(net(inputs(net)), qnn(inputs(net)))


@pytest.mark.parametrize("places", [(4, 8), (0, 4)])
def test_tc_circuit_is_the_same_circuit(places: tuple[int, ...]) -> None:
    net = reuploading(Ring(4, 3), Probabilities(), places)
    x = inputs(net)
    with tensorcircuit("pytorch"):
        states = torch.stack([net.circuit(sample).state() for sample in x])
    torch.testing.assert_close(states.abs().square(), net(x))


@pytest.mark.parametrize("place", [0, 3])
def test_probabilities_are_linear_in_x_x_for_the_qnn_and_not_here(place: int) -> None:
    net = reuploading(Brickwork(4, 3), Probabilities(), (place,), features=16)
    qnn = QNN(net.ansatz, net.readout, lambda _: net.angles.detach())
    x, y = torch.linalg.qr(torch.randn(16, 2, dtype=torch.float64))[0].T[:, None]
    for layer, is_linear in ((qnn, True), (net, False)):
        turned, straight = layer(x + y) + layer(x - y), layer(x) + layer(y)
        assert torch.allclose(turned, straight, atol=1e-3) == is_linear


def test_only_an_inputs_direction_counts() -> None:
    net = reuploading(Brickwork(4, 3), LogOdds(3), (3,))
    torch.testing.assert_close(net(1e3 * inputs(net)), net(inputs(net)))


def test_per_sample_gradients_match_a_loop() -> None:
    net = reuploading(Ring(3, 2), LogOdds(3), (3,))
    x, weights = inputs(net), {name: p.detach() for name, p in net.named_parameters()}

    def output(weights: dict[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
        return functional_call(net, weights, (sample.unsqueeze(0),)).sin().sum()

    together = vmap(grad(output), in_dims=(None, 0))(weights, x)
    for k, sample in enumerate(x):
        net.zero_grad()
        net(sample.unsqueeze(0)).sin().sum().backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(together[name][k], parameter.grad)


def test_state_dict_copies_and_pickles_are_equal_and_independent() -> None:
    net, other = (ReuploadingQNN(Brickwork(4, 2), LogOdds(3), 16, (3,)) for _ in range(2))
    assert [(name, p.shape) for name, p in net.named_parameters()] == [
        ("angles", (6, 15)), ("uploads", (1, 4, 16)),
    ]  # fmt: skip
    assert_copies_are_equal_and_independent(net, other, torch.rand(5, 16), "uploads")


@pytest.mark.parametrize("readout", READOUTS, ids=str)
def test_precision_empty_batch_and_autocast(readout: Readout) -> None:
    net = ReuploadingQNN(Brickwork(3, 2), readout, 8, (2,))
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


@pytest.mark.parametrize("places", [(-1,), (4,), (2, 2), (3, 1), (0, 0), (9,)])
def test_places_that_are_not_before_the_last_gate_are_refused(places: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not before the last of 4 gates"):
        ReuploadingQNN(Brickwork(3, 2), LogOdds(2), 8, places)


def test_wrong_input_is_a_clear_error() -> None:
    net = ReuploadingQNN(Brickwork(3, 2), LogOdds(2), 7, (2,))
    with pytest.raises(TypeError, match="the inputs are complex"):
        net(torch.rand(2, 7, dtype=torch.complex64))
    with pytest.raises(ValueError, match="8 features: it is made for 7"):
        net(torch.rand(2, 8))
    with pytest.raises(ValueError, match="sample 0 is zero"):
        net(torch.zeros(1, 7))
