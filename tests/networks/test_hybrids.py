"""The QNN with something classical in it or after it, against sums written out."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from plasticity.errors import DoesNotFit
from plasticity.networks import NETWORKS
from plasticity.networks.hybrids import QnnRelu, QnnReupload, QnnScaled
from plasticity.networks.modules.hybrids import Factor, ZOnEveryQubit
from plasticity.networks.network import Shape
from plasticity.networks.qnn import Qnn
from plasticity.quantum.circuits import Brickwork, Staircase
from plasticity.quantum.layer import QNN
from plasticity.quantum.reuploading import ReuploadingQNN
from plasticity.seeding import generator_for
from tests.oracle import dense_z
from tests.tiny import same

CIRCLE = (0.0, 2 * math.pi)


def weights() -> torch.Generator:
    return generator_for(0, "initial weights")


# ----------------------------------------------------------------------------------------- scaled
@pytest.mark.parametrize(
    ("readout", "outputs"), [("log-odds", 3), ("z-of-first", 1), ("signed-z-of-last", 2)]
)
def test_scaled_logits_are_a_times_the_qnns(readout: str, outputs: int) -> None:
    shape, x = Shape(16, outputs), torch.rand(5, 16)
    network = QnnScaled("brickwork", 2, readout, CIRCLE).build(shape, weights())
    expected = Qnn("brickwork", 2, readout, CIRCLE).build(shape, weights())(x)
    assert torch.equal(network(x), expected)
    factor = network[1].factor
    assert isinstance(network[1], Factor)
    assert sum(p.numel() for p in network.parameters()) == 1 + network[0].angles.numel()
    with torch.no_grad():
        factor.fill_(-7.0)
    torch.testing.assert_close(network(x), -7 * expected)
    network(x).sin().sum().backward()
    by_hand = (expected * (-7 * expected).cos()).sum()
    torch.testing.assert_close(factor.grad, by_hand.detach())


def test_scaled_logits_outgrow_the_range_of_z() -> None:
    network = NETWORKS["qnn-scaled"]
    network = dataclasses.replace(network, readout="z-of-first")
    built = network.build(Shape(16, 1), weights())
    x = torch.rand(8, 16)
    adam = torch.optim.Adam(built.parameters(), lr=0.1)
    for _ in range(300):
        adam.zero_grad()
        nn.functional.softplus(-built(x)).mean().backward()  # all labels are 1
        adam.step()
    assert built(x).min() > 3


# ------------------------------------------------------------------------------------------- relu
def test_z_on_every_qubit_is_the_sum_of_signed_probabilities() -> None:
    p = torch.rand(4, 8, generator=generator_for(0, "p"))
    features = ZOnEveryQubit(3)(p)
    for sample, found in zip(p.tolist(), features.tolist(), strict=True):
        expected = [
            sum(v * (-1) ** int(f"{k:03b}"[qubit]) for k, v in enumerate(sample))
            for qubit in range(3)
        ]
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("name", "family"), [("brickwork", Brickwork), ("staircase", Staircase)])
def test_relu_units_stand_on_the_expectations_of_z(name: str, family: type, kind) -> None:
    network = QnnRelu(name, 2, CIRCLE, units=5).build(Shape(16, 3), weights()).double()
    x = torch.randn(6, 16, dtype=kind, generator=generator_for(0, "inputs"))
    circuit, _, hidden, _, last = network
    assert circuit.ansatz == family(4, 2)
    with torch.no_grad():
        for bias in (hidden.bias, last.bias):
            bias.uniform_(-0.5, 0.5, generator=weights())
    angles = circuit.angles.detach()
    z = [dense_z(circuit.ansatz, angles, x, qubit) for qubit in range(4)]
    for k, output in enumerate(network(x).tolist()):
        units = [
            max(0.0, sum(w * of_qubit[k] for w, of_qubit in zip(row, z, strict=True)) + b)
            for row, b in zip(hidden.weight.tolist(), hidden.bias.tolist(), strict=True)
        ]
        expected = [
            sum(w * u for w, u in zip(row, units, strict=True)) + b
            for row, b in zip(last.weight.tolist(), last.bias.tolist(), strict=True)
        ]
        assert output == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_gradients_of_relu_units_match_finite_differences() -> None:
    network = QnnRelu("brickwork", 1, CIRCLE, units=4).build(Shape(8, 2), weights()).double()
    x = torch.randn(3, 8, dtype=torch.float64, generator=generator_for(0, "inputs"))
    names = [name for name, _ in network.named_parameters()]

    def outputs(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(network, dict(zip(names, values, strict=True)), (x,))

    parameters = [p.detach().requires_grad_() for p in network.parameters()]
    assert torch.autograd.gradcheck(outputs, parameters)


def test_the_circuits_first_angles_are_the_qnns_also_with_units_behind_it() -> None:
    built = NETWORKS["qnn-relu"].build(Shape(16, 3), weights())
    qnn = NETWORKS["qnn"].build(Shape(16, 3), weights())
    assert torch.equal(built[0].angles, qnn.angles)
    assert not built[2].bias.any()
    assert not built[4].bias.any()
    bound = math.sqrt(6 / (4 + 64))
    assert 0.9 * bound < float(built[2].weight.detach().abs().max()) <= bound


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth 0: at least 1"),
        ({"units": 0}, "units 0: at least 1"),
        ({"initial_angles": (1.0, 0.0)}, "initial-angles"),
    ],
)
def test_relu_units_and_circuits_that_are_none_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(NETWORKS["qnn-relu"], **options)


# --------------------------------------------------------------------------------------- reupload
@pytest.mark.parametrize(("name", "layer"), [("brickwork", 3), ("staircase", 3), ("ring", 4)])
@pytest.mark.parametrize("first_after", [0, 1, 2])
def test_inputs_are_uploaded_again_between_layers(name: str, layer: int, first_after: int) -> None:
    network = QnnReupload(name, 4, "log-odds", CIRCLE, uploads=2, first_after=first_after)
    built = network.build(Shape(15, 3), weights())
    x = torch.rand(5, 15)
    qnn = Qnn(name, 4, "log-odds", CIRCLE).build(Shape(15, 3), weights())
    assert isinstance(built, ReuploadingQNN)
    assert torch.equal(built.angles, qnn.angles)
    assert built.uploads.shape == (2, 4, 15)
    by_hand = ReuploadingQNN(
        qnn.ansatz,
        qnn.readout,
        15,
        (first_after * layer, (first_after + 1) * layer),
        lambda _: qnn.angles.detach(),
        lambda _: built.uploads.detach(),
    )
    assert torch.equal(built(x), by_hand(x))
    with torch.no_grad():
        built.uploads.zero_()
    torch.testing.assert_close(built(x), qnn(x), rtol=0, atol=1e-3)


def test_first_rotations_are_normal_for_inputs_of_any_scale() -> None:
    built = QnnReupload("brickwork", 4, "log-odds", CIRCLE, uploads=3, first_after=0).build(
        Shape(784, 10), weights()
    )
    _, rotations = built._rotations(100 * torch.rand(1, 784))
    values = built.uploads.detach()
    assert float(values.mean()) == pytest.approx(0, abs=0.03)
    assert float(values.std()) == pytest.approx(1, abs=0.03)
    assert float(rotations.detach().std()) == pytest.approx(1 / math.sqrt(784), rel=0.4)


def test_uploads_that_have_no_place_are_refused() -> None:
    for depth, uploads, first_after, message in (
        (4, 0, 0, "uploads 0: at least 1"),
        (0, 1, 0, "depth 0: at least 1"),
        (4, 1, -1, "first-after -1: at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            QnnReupload("brickwork", depth, "log-odds", CIRCLE, uploads, first_after)
    for depth, uploads, first_after in ((1, 1, 1), (3, 4, 0), (3, 2, 2)):
        network = QnnReupload("brickwork", depth, "log-odds", CIRCLE, uploads, first_after)
        with pytest.raises(DoesNotFit, match=f"upload is after 3 of 3|after 1 of {depth} layers"):
            network.build(Shape(16, 3), weights())
    QnnReupload("brickwork", 3, "log-odds", CIRCLE, 3, 0).build(Shape(16, 3), weights())


def test_same_generator_seed_gives_the_same_uploads() -> None:
    built, again = (NETWORKS["qnn-reupload"].build(Shape(16, 3), weights()) for _ in range(2))
    assert same(built.state_dict(), again.state_dict())
    assert isinstance(built, QNN)
