"""What holds for every network with a circuit: sizes, states that are saved, learning on."""

import copy
import dataclasses
import io

import pytest
import torch
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.networks import NETWORKS
from plasticity.networks.network import Shape
from plasticity.networks.qnn import Qnn
from plasticity.seeding import generator_for
from tests.tiny import same

NUMBERS = {  # of parameters, at the size of permuted MNIST
    "qnn": 540,
    "free-brickwork": 32 * 36,
    "orthogonal-brickwork": 6 * 36,
    "qnn-wrapped": 540,
    "qnn-trivialised": 540,
    "qnn-scaled": 541,
    "qnn-relu": 540 + 11 * 64 + 65 * 10,
    "qnn-reupload": 540 + 10 * 784,
}
VARIANTS = [name for name in NUMBERS if name != "qnn"]


def build(name: str, shape: Shape, seed: int = 0, **options) -> torch.nn.Module:
    network = dataclasses.replace(NETWORKS[name], **options)
    return network.build(shape, generator_for(seed, "initial weights"))


def learner(name: str, seed: int = 0) -> Learner:
    return Learner(
        build(name, Shape(16, 3), seed, depth=2),
        lambda parameters: torch.optim.Adam(parameters, lr=0.03, fused=True),
        cross_entropy,
    )


def batch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = generator_for(0, "batch", index)
    return torch.rand(8, 16, generator=generator), torch.randint(3, (8,), generator=generator)


@pytest.mark.parametrize("name", NUMBERS)
def test_number_of_parameters(name: str) -> None:
    network = build(name, Shape(784, 10))
    parameters = list(network.parameters())
    assert sum(p.numel() for p in parameters) == NUMBERS[name]
    assert all(p.requires_grad and p.dtype == torch.float32 for p in parameters)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_fresh_learner_goes_on_from_a_saved_state_bit_for_bit(name: str) -> None:
    one = learner(name)
    steps = iter(range(99))
    for index in range(3):
        one.start_task(index)
        for _ in range(4):
            one.update(*batch(next(steps)))
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    fresh = learner(name, seed=7)
    fresh.load_state_dict(torch.load(file))
    for index in range(3, 6):
        fresh.start_task(index)
        one.start_task(index)
        for _ in range(4):
            xy = batch(next(steps))
            assert same(fresh.update(*xy), one.update(*xy))
            assert same(fresh.state_dict(), one.state_dict())


@pytest.mark.parametrize("name", VARIANTS)
def test_copies_and_loaded_states_are_equal_and_independent(name: str) -> None:
    network, other = (build(name, Shape(16, 3), seed, depth=2) for seed in (0, 1))
    x = batch(0)[0]
    assert not torch.equal(network(x), other(x))
    other.load_state_dict(network.state_dict())
    for twin in (other, copy.deepcopy(network)):
        assert torch.equal(network(x), twin(x))
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(0.1)
        assert not torch.equal(network(x), twin(x))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("conversion", [torch.nn.Module.double, lambda m: m.to(torch.float64)])
def test_double_computes_in_double(name: str, conversion) -> None:
    network, (x, y) = build(name, Shape(16, 3), depth=2), batch(0)
    single = network(x).detach()
    one = Learner(conversion(network), lambda p: torch.optim.Adam(p, lr=0.03), cross_entropy)
    double = network(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.detach(), single.double(), rtol=1e-3, atol=1e-3)
    one.start_task(1)
    one.update(x.double(), y)
    assert all(p.dtype == torch.float64 and p.grad.any() for p in network.parameters())


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("readout", "outputs"), [("z-of-first", 1), ("signed-z-of-last", 2)])
@pytest.mark.parametrize("name", VARIANTS)
def test_it_learns_with_every_readout(name: str, readout: str, outputs: int) -> None:
    preset = Qnn("staircase", 3, readout, (-0.1, 0.1))
    network = NETWORKS[name].adapted(preset).build(Shape(16, outputs), generator_for(0, "weights"))
    x, y = batch(0)[0], torch.arange(8) % 2

    def loss(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if outputs.shape[1] == 1:
            outputs = torch.cat([torch.zeros_like(outputs), outputs], 1)
        return cross_entropy(outputs, y)

    one = Learner(network, lambda p: torch.optim.Adam(p, lr=0.05), loss)
    losses = [float(one.update(x, y)) for _ in range(60)]
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "qnn-reupload"])
def test_complex_inputs_of_another_phase_are_the_same_inputs(name: str) -> None:
    network = build(name, Shape(16, 3), depth=2).double()
    generator = generator_for(0, "inputs")
    x = torch.randn(5, 16, dtype=torch.complex128, generator=generator)
    torch.testing.assert_close(network(1j * x), network(x))
    real = x.real.contiguous()
    torch.testing.assert_close(network(real.to(x.dtype)), network(real))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_remark_on_gates_without_gradient_is_made_where_there_are_some(name: str) -> None:
    network = NETWORKS[name].adapted(Qnn("staircase", 3, "z-of-first", (-0.1, 0.1)))
    module = network.build(Shape(64, 1), generator_for(0, "initial weights"))
    all_act = name in ("free-brickwork", "qnn-relu")
    assert bool(network.remark(module)) != all_act
    x = torch.rand(4, 64)
    module(x).sum().backward()
    of_gates = next(p for p in module.parameters() if p.shape[0] == 15)
    idle = int((of_gates.grad.flatten(1) == 0).all(1).sum())
    assert (idle == 0) == all_act
