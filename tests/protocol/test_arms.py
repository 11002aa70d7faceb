"""Arms of a name: what they take from the preset, from the registry, and from its QNN."""

import dataclasses
import math

import pytest
import torch

from experiments import cifar, mnist, qdata
from plasticity.networks import NETWORKS
from plasticity.networks.mlp import Mlp
from plasticity.networks.network import Network, Shape
from plasticity.networks.qnn import Qnn
from plasticity.protocol.arms import ArmConfig, Registry
from plasticity.protocol.optimizers import Adam
from plasticity.remedies import REMEDIES
from plasticity.seeding import generator_for

CIRCUITS = [
    name
    for name, network in NETWORKS.items()
    if name != "qnn" and {"ansatz", "depth"} <= {f.name for f in dataclasses.fields(network)}
]
EXPERIMENTS = {
    "mnist": (mnist.EXPERIMENT, Shape(64, 10)),
    "cifar": (cifar.EXPERIMENT, Shape(64, 2)),
    "qdata": (qdata.EXPERIMENT, Shape(64, 1)),
}
PRESETS = [(name, preset) for name, (e, _) in EXPERIMENTS.items() for preset in e.presets]


@pytest.mark.parametrize("circuit", CIRCUITS)
@pytest.mark.parametrize(("experiment", "preset"), PRESETS)
def test_a_circuit_is_that_of_the_presets_qnn_and_fits_the_problem(
    experiment: str, preset: str, circuit: str
) -> None:
    of_experiment, shape = EXPERIMENTS[experiment]
    arms = of_experiment.presets[preset].arms
    arm, qnn = of_experiment.registry.resolve(circuit, arms), arms["qnn"]
    assert type(arm.network) is type(NETWORKS[circuit])
    for name in ("ansatz", "depth", "readout", "initial_angles"):
        if hasattr(arm.network, name):
            assert getattr(arm.network, name) == getattr(qnn.network, name)
    assert (arm.epochs, arm.inputs) == (qnn.epochs, qnn.inputs)
    if circuit not in arms:  # a preset's own has a rate of its own
        assert arm.optimizer == qnn.optimizer
    assert not arm.remedies
    network = arm.network.build(shape, generator_for(0, "initial weights"))
    assert network(torch.rand(3, shape.inputs)).shape == (3, shape.outputs)


def test_circuits_are_found() -> None:
    assert len(CIRCUITS) >= 6


def test_options_that_the_qnn_does_not_have_stay_those_of_the_registry() -> None:
    network = Qnn("ring", 7, "z-of-first", (-0.5, 0.5))
    arms = {"qnn": ArmConfig(network, Adam(1e-3, 1e-8), 1)}
    found = mnist.EXPERIMENT.registry.resolve("qnn-relu+reset-optimizer", arms)
    assert found.network == dataclasses.replace(
        NETWORKS["qnn-relu"], ansatz="ring", depth=7, initial_angles=(-0.5, 0.5)
    )
    assert found.remedies == {"reset-optimizer": REMEDIES["reset-optimizer"]}


def test_a_presets_own_arm_is_as_the_preset_has_it() -> None:
    own = ArmConfig(dataclasses.replace(NETWORKS["qnn-wrapped"], depth=2), Adam(1e-3, 1e-8), 3)
    arms = {"qnn": ArmConfig(NETWORKS["qnn"], Adam(1e-2, 1e-8), 1), "qnn-wrapped": own}
    assert mnist.EXPERIMENT.registry.resolve("qnn-wrapped", arms) == own


def test_where_the_presets_qnn_is_another_network_the_registrys_options_stay() -> None:
    arms = {"qnn": ArmConfig(Mlp(hidden=(3,)), Adam(1e-3, 1e-8), 1)}
    found = mnist.EXPERIMENT.registry.resolve("free-brickwork", arms)
    assert found.network == NETWORKS["free-brickwork"]


def test_a_network_that_adapts_to_nothing_is_as_registered() -> None:
    @dataclasses.dataclass(frozen=True)
    class Alien(Network):
        depth: int

    registry = Registry({"alien": Alien(depth=9)}, {})
    arms = {"mlp": ArmConfig(Qnn("ring", 2, "log-odds", (0.0, math.pi)), Adam(1e-3, 1e-8), 1)}
    assert registry.resolve("alien", arms).network == Alien(depth=9)


def test_circuits_of_other_gates_have_a_name_that_says_nothing_of_their_order() -> None:
    for alias, name in (
        ("free-circuit", "free-brickwork"),
        ("orthogonal-circuit+l2", "orthogonal-brickwork+l2"),
    ):
        for experiment in (mnist.EXPERIMENT, qdata.EXPERIMENT):
            arms = experiment.presets["why"].arms
            assert experiment.registry.resolve(alias, arms) == experiment.registry.resolve(
                name, arms
            )
