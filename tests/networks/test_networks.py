"""Networks as arms: what they build for a problem, and what they refuse."""

import dataclasses
import inspect
import math
import re

import pytest
import torch
from torch import nn

from plasticity.errors import DoesNotFit
from plasticity.networks import NETWORKS
from plasticity.networks.mlp import Mlp, bounded, mlp
from plasticity.networks.network import Network, Shape
from plasticity.networks.qnn import Qnn, qubits_for
from plasticity.quantum.circuits import Brickwork, Ring, Staircase
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, PauliZ, SignedPauliZ
from plasticity.remedies import REMEDIES
from plasticity.seeding import generator_for
from tests.tiny import random_states, same

SHAPES = (Shape(16, 3), Shape(6, 2), Shape(16, 1))


def qnn(readout: str = "log-odds", ansatz: str = "brickwork") -> Qnn:
    return Qnn(ansatz, depth=2, readout=readout, initial_angles=(0.0, 2 * math.pi))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_registered_network_maps_a_problems_inputs_to_its_outputs(name: str) -> None:
    built = 0
    for shape in SHAPES:
        try:
            network = NETWORKS[name].build(shape, generator_for(0, "initial weights"))
        except DoesNotFit:
            continue
        built += 1
        assert network(torch.rand(5, shape.inputs)).shape == (5, shape.outputs)
    assert built


@pytest.mark.parametrize("name", NETWORKS)
def test_a_registered_network_draws_from_the_generator_alone(name: str) -> None:
    before = random_states()
    states = [
        NETWORKS[name].build(SHAPES[0], generator_for(seed, "initial weights")).state_dict()
        for seed in (0, 0, 1)
    ]
    assert same(random_states(), before)
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


@pytest.mark.parametrize("registered", [*NETWORKS.values(), *REMEDIES.values()])
def test_what_is_registered_explains_itself(registered: object) -> None:
    assert dataclasses.is_dataclass(registered)
    first, *_ = (type(registered).__doc__ or "").splitlines()
    assert first.endswith(".")
    assert len(first) < 80
    source = "".join(
        inspect.getsource(kind) for kind in type(registered).__mro__ if kind is not object
    )
    for field in dataclasses.fields(registered):
        assert re.search(rf'^    {field.name}: .*\n    """', source, re.MULTILINE), field.name


def test_networks_cannot_be_changed() -> None:
    for network in NETWORKS.values():
        assert isinstance(network, Network)
        with pytest.raises(dataclasses.FrozenInstanceError):
            network.like = "mlp"  # type: ignore[misc]


def test_mlp_is_the_function_of_its_widths() -> None:
    built = Mlp(hidden=(5, 4)).build(Shape(6, 3), generator_for(0, "initial weights"))
    assert same(
        built.state_dict(), mlp((6, 5, 4, 3), generator_for(0, "initial weights")).state_dict()
    )
    tanh = Mlp(hidden=(5, 4), bounded_logits=True).build(
        Shape(6, 3), generator_for(0, "initial weights")
    )
    x = torch.randn(7, 6)
    assert torch.equal(tanh(x), bounded(built)(x))
    assert torch.equal(tanh(x), built(x).tanh())


@pytest.mark.parametrize("hidden", [(), (0,), (4, -1)])
def test_mlp_without_units_is_refused(hidden: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least one unit"):
        Mlp(hidden=hidden)


@pytest.mark.parametrize(
    ("inputs", "outputs", "qubits"),
    [(784, 10, 10), (1024, 2, 10), (64, 10, 6), (1025, 2, 11), (1, 1, 2), (4, 100, 7)],
)
def test_a_qnn_has_the_qubits_that_inputs_and_outputs_need(inputs, outputs, qubits) -> None:
    assert qubits_for(Shape(inputs, outputs)) == qubits


@pytest.mark.parametrize(
    ("ansatz", "family"), [("brickwork", Brickwork), ("staircase", Staircase), ("ring", Ring)]
)
def test_a_qnn_is_the_layer_with_these_gates_and_angles(ansatz: str, family: type) -> None:
    built = qnn(ansatz=ansatz).build(Shape(16, 3), generator_for(0, "initial weights"))
    generator = generator_for(0, "initial weights")
    expected = QNN(
        family(4, 2), LogOdds(3), lambda size: 2 * math.pi * torch.rand(size, generator=generator)
    )
    assert isinstance(built, QNN)
    assert torch.equal(built.angles, expected.angles)
    assert built.ansatz == expected.ansatz
    x = torch.rand(3, 16)
    assert torch.equal(built(x), expected(x))


def test_initial_angles_are_uniform_in_their_range() -> None:
    network = dataclasses.replace(qnn(), initial_angles=(-0.1, 0.3), depth=40)
    angles = network.build(Shape(64, 3), generator_for(0, "initial weights")).angles.detach()
    assert -0.1 <= angles.min() < -0.09
    assert 0.29 < angles.max() <= 0.3
    assert angles.mean() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("readout", "fits", "kind", "qubit"),
    [("z-of-first", 1, PauliZ, 0), ("signed-z-of-last", 2, SignedPauliZ, 3)],
)
def test_z_gives_as_many_logits_as_it_gives(readout: str, fits: int, kind, qubit: int) -> None:
    network = qnn(readout).build(Shape(16, fits), generator_for(0, "initial weights"))
    assert type(network.readout) is kind
    assert network.readout.qubit == qubit
    for outputs in {1, 2, 3} - {fits}:
        with pytest.raises(DoesNotFit, match=rf"{readout} gives {fits} logits?, .* {outputs}"):
            qnn(readout).build(Shape(16, outputs), generator_for(0, "initial weights"))


def test_log_odds_of_a_single_logit_are_refused() -> None:
    with pytest.raises(DoesNotFit, match="each of two or more classes, the task has 1 logit"):
        qnn("log-odds").build(Shape(16, 1), generator_for(0, "initial weights"))
    for outputs in (2, 3):
        built = qnn("log-odds").build(Shape(16, outputs), generator_for(0, "initial weights"))
        assert built(torch.rand(3, 16)).shape == (3, outputs)


@pytest.mark.parametrize("angles", [(1.0, 0.0), (0.0, math.inf), (math.nan, 1.0)])
def test_a_range_that_is_none_is_refused(angles: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="initial-angles"):
        dataclasses.replace(qnn(), initial_angles=angles)


def test_a_qnn_remarks_on_gates_outside_the_light_cone() -> None:
    generator = generator_for(0, "initial weights")
    network = Qnn("staircase", 6, "z-of-first", (-0.1, 0.1))
    remark = network.remark(network.build(Shape(1024, 1), generator))
    assert remark == (
        "Z on qubit 0 depends on 21 of 54 gates, on qubits 0 to 6; the angles of the others get "
        "no gradient and stay as they are"
    )
    whole = qnn()
    assert whole.remark(whole.build(Shape(16, 3), generator)) == ""
    assert Mlp(hidden=(3,)).remark(nn.Linear(2, 2)) == ""
