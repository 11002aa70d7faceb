"""What holds for every registered network: precision, copies, states, and metrics of samples."""

import copy
import io
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from plasticity.errors import DoesNotFit
from plasticity.learning.learner import Learner
from plasticity.metrics.accuracy import class_logits
from plasticity.metrics.fisher import fisher_traces
from plasticity.networks import NETWORKS
from plasticity.networks.network import Shape
from plasticity.seeding import generator_for
from tests.tiny import make_adam, same

SHAPES = (Shape(16, 3), Shape(6, 2), Shape(16, 1))


def shapes_of(name: str) -> list[Shape]:
    """Return the shapes that it can be built for."""
    fitting = []
    for shape in SHAPES:
        try:
            built(name, shape)
        except DoesNotFit:
            continue
        fitting.append(shape)
    return fitting


def built(name: str, shape: Shape, seed: int = 0) -> Any:
    return NETWORKS[name].build(shape, generator_for(seed, "initial weights"))


def batch(shape: Shape, index: int, count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = generator_for(0, "batch", index)
    x = torch.rand(count, shape.inputs, generator=generator)
    return x, torch.randint(max(2, shape.outputs), (count,), generator=generator)


def learner_of(name: str, shape: Shape, seed: int = 0) -> Learner:
    def one_logit(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return binary_cross_entropy_with_logits(outputs.squeeze(1), labels.to(outputs.dtype))

    loss = cross_entropy if shape.outputs > 1 else one_logit
    return Learner(built(name, shape, seed), make_adam, loss)


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_learning_goes_on_from_a_saved_state_bit_for_bit(name: str) -> None:
    for shape in shapes_of(name):
        learner, fresh = learner_of(name, shape), learner_of(name, shape, seed=7)
        for step in range(3):
            learner.update(*batch(shape, step))
        saved = through_a_file(learner.state_dict())
        assert not same(saved["network"], fresh.network.state_dict())
        fresh.load_state_dict(saved)
        for step in range(3, 7):
            assert same(fresh.update(*batch(shape, step)), learner.update(*batch(shape, step)))
            assert same(fresh.state_dict(), learner.state_dict())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_copy_gives_the_same_outputs_and_shares_nothing(name: str) -> None:
    for shape in shapes_of(name):
        learner = learner_of(name, shape)
        learner.update(*batch(shape, 0))
        twin = copy.deepcopy(learner.network)
        x, _ = batch(shape, 1)
        before = learner.network(x)
        assert torch.equal(twin(x), before)
        learner.update(*batch(shape, 2))
        assert torch.equal(twin(x), before)
        assert not torch.equal(learner.network(x), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_computes_in_double_precision_too(name: str) -> None:
    for shape in shapes_of(name):
        learner = learner_of(name, shape)
        x, y = batch(shape, 0)
        in_single = learner.network(x).detach()
        learner.network.double()
        outputs = learner.network(x.double()).detach()
        assert outputs.dtype == torch.float64
        torch.testing.assert_close(outputs.float(), in_single, rtol=1e-3, atol=1e-4)
        learner.update(x.double(), y)
        assert {p.dtype for p in learner.network.parameters()} == {torch.float64}


@pytest.mark.parametrize("name", NETWORKS)
def test_samples_do_not_see_each_other(name: str) -> None:
    for shape in shapes_of(name):
        network = built(name, shape)
        x, _ = batch(shape, 0)
        one_by_one = torch.cat([network(sample.unsqueeze(0)) for sample in x])
        torch.testing.assert_close(network(x), one_by_one, rtol=1e-4, atol=1e-5)
        assert network(x[:0]).shape == (0, shape.outputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_samples_can_be_had_all_at_once(name: str) -> None:
    for shape in shapes_of(name):
        network = built(name, shape).double()
        x, y = (part[:3] for part in batch(shape, 0))
        x = x.double()
        parameters = list(network.parameters())
        empirical = true = 0.0
        for sample, label in zip(x, y.tolist(), strict=True):
            log_p = class_logits(network(sample.unsqueeze(0))).log_softmax(1)[0]
            for k, value in enumerate(log_p):
                gradients = torch.autograd.grad(value, parameters, retain_graph=True)
                square = sum(float(g.square().sum()) for g in gradients)
                true += float(value.detach().exp()) * square / len(x)
                empirical += (k == label) * square / len(x)
        assert fisher_traces(network, x, y) == pytest.approx((empirical, true), rel=1e-6)
