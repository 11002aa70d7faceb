"""Penalties: closed forms, gradients by finite differences, what they look at, what they teach."""

import copy
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.errors import DoesNotFit
from plasticity.learning.learner import Learner
from plasticity.networks import NETWORKS
from plasticity.networks.network import Shape
from plasticity.remedies import REMEDIES
from plasticity.remedies.penalties import L2, L2Init, Parseval, Spectral
from plasticity.seeding import generator_for
from tests.remedies.small import batch, learner, network, train
from tests.tiny import NUM_CLASSES, NUM_INPUTS, make_adam

Penalty = L2 | L2Init | Parseval | Spectral
Chain = nn.Sequential


def moved(remedy: Penalty, widths: tuple[int, ...] = (5, 4, 6, 3)) -> Learner:
    """Return a learner in double precision whose parameters are not where they began."""
    chain = network(widths=widths).double()
    one = Learner(chain, make_adam, cross_entropy, [remedy], seed=3)
    generator = generator_for(1, "moves")
    with torch.no_grad():
        for p in chain.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return one


def matrices(chain: nn.Module) -> list[np.ndarray]:
    return [m.weight.detach().numpy() for m in chain.modules() if isinstance(m, nn.Linear)]


def biases(chain: nn.Module) -> list[np.ndarray]:
    return [m.bias.detach().numpy() for m in chain.modules() if isinstance(m, nn.Linear)]


def numbers(chain: nn.Module) -> list[float]:
    return [v for p in chain.parameters() for v in p.detach().flatten().tolist()]


def l2(one: Learner) -> float:
    return 0.3 / 2 * sum(v**2 for v in numbers(one.network))


def l2_init(one: Learner) -> float:
    first = numbers(network(widths=(5, 4, 6, 3)))
    return 0.3 * sum((v - w) ** 2 for v, w in zip(numbers(one.network), first, strict=True))


def spectral(one: Learner) -> float:
    of_matrices = sum((np.linalg.svd(w)[1][0] ** 3 - 1) ** 2 for w in matrices(one.network))
    return 0.3 * (of_matrices + sum((b @ b) ** 3 for b in biases(one.network)))


def parseval(one: Learner) -> float:
    total = 0.0
    for w in matrices(one.network)[:-1]:
        gram = w @ w.T if len(w) <= len(w.T) else w.T @ w
        total += 0.3 * ((gram - 1.7 * np.eye(len(gram))) ** 2).sum()
    return total


CASES: dict[str, tuple[Penalty, Callable[[Learner], float]]] = {
    "l2": (L2(0.3), l2),
    "l2-init": (L2Init(0.3), l2_init),
    "spectral": (Spectral(0.3, power=3), spectral),
    "parseval": (Parseval(0.3, scale=1.7), parseval),
}


def settled(one: Learner) -> torch.Tensor:
    """Return the penalty after its power iteration, if it has one, has come to an end."""
    for _ in range(2_000 if isinstance(one.remedies[0], Spectral) else 0):
        one.remedies[0].penalty()
    value = one.remedies[0].penalty()
    assert value is not None
    return value


@pytest.mark.parametrize("name", CASES)
def test_a_penalty_is_its_formula(name: str) -> None:
    remedy, formula = CASES[name]
    one = moved(remedy)
    assert float(settled(one).detach()) == pytest.approx(formula(one), rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_its_gradient_is_that_of_finite_differences(name: str) -> None:
    remedy, formula = CASES[name]
    one = moved(remedy)
    parameters = [*one.network.parameters()]
    gradients = torch.autograd.grad(
        2.5 * settled(one), parameters, allow_unused=True, materialize_grads=True
    )
    for parameter, gradient in zip(parameters, gradients, strict=True):
        flat = parameter.detach().view(-1)
        for k in range(len(flat)):
            value, step = float(flat[k]), 1e-5
            ends = []
            for end in (value + step, value - step):
                flat[k] = end
                ends.append(formula(one))
            flat[k] = value
            expected = 2.5 * (ends[0] - ends[1]) / (2 * step)
            assert float(gradient.view(-1)[k]) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_an_update_learns_from_loss_and_penalty_together(name: str) -> None:
    remedy, _ = CASES[name]
    one = learner(remedy)
    train(one, range(1))
    twin = copy.deepcopy(one.network)
    x, y = batch(9)
    penalty = one.remedies[0]
    state = copy.deepcopy(penalty.state_dict())
    value = penalty.penalty()
    assert value is not None
    parameters = [*one.network.parameters()]
    of_penalty = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    of_loss = torch.autograd.grad(cross_entropy(twin(x), y), [*twin.parameters()])
    penalty.load_state_dict(state)
    told = one.update(x, y)
    assert torch.equal(told, cross_entropy(twin(x), y).detach())
    for p, a, b in zip(parameters, of_loss, of_penalty, strict=True):
        torch.testing.assert_close(p.grad, a + b)


@pytest.mark.parametrize("name", CASES)
def test_the_column_is_the_mean_since_the_last_row(name: str) -> None:
    remedy, _ = CASES[name]
    one, seen = learner(remedy), []
    penalty = one.remedies[0]
    take = penalty.penalty

    def kept() -> torch.Tensor | None:
        seen.append(take())
        return seen[-1]

    one._penalties = [kept]
    for tasks in (range(1), range(1, 2)):
        seen.clear()
        (row,) = train(one, tasks)
        (value,) = row.values()
        assert len(seen) == 4
        assert value == pytest.approx(sum(float(v.detach()) for v in seen) / 4)


def looked_at(remedy: Penalty, chain: nn.Module) -> list[bool]:
    one = Learner(chain, make_adam, cross_entropy, [remedy])
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter += 0.5
    value = one.remedies[0].penalty()
    assert value is not None
    value.backward()
    return [p.grad is not None and bool(p.grad.any()) for p in chain.parameters()]


def test_each_penalty_sees_the_tensors_of_its_paper() -> None:
    chain = (5, 4, 4, 3)  # weights and biases by turns
    assert looked_at(L2(1.0), network(widths=chain)) == [True] * 6
    assert looked_at(L2Init(1.0), network(widths=chain)) == [True] * 6
    assert looked_at(Spectral(1.0, 2), network(widths=chain)) == [True] * 6
    hidden_weights = [True, False, True, False, False, False]
    assert looked_at(Parseval(1.0, 2.0), network(widths=chain)) == hidden_weights


def test_of_a_network_with_a_circuit_layers_are_seen_or_all() -> None:
    def build() -> nn.Module:
        return NETWORKS["qnn-relu"].build(Shape(16, 3), generator_for(0, "initial weights"))

    names = [name for name, _ in build().named_parameters()]
    assert "angles" in names[0]
    assert looked_at(L2(1.0), build()) == [True] * 5
    assert looked_at(L2Init(1.0), build()) == [True] * 5
    assert looked_at(Spectral(1.0, 2), build()) == [False] + [True] * 4
    assert looked_at(Parseval(1.0, 2.0), build()) == [False, True, False, False, False]


def test_parseval_of_more_units_than_inputs_has_the_gradient_of_the_larger_gram_matrix() -> None:
    one = moved(Parseval(1.0, 2.0), widths=(3, 7, 2))
    weight = one.network[0].weight
    value = one.remedies[0].penalty()
    assert value is not None
    larger = (weight @ weight.T - 2 * torch.eye(7).double()).square().sum()
    torch.testing.assert_close(value + 2**2 * (7 - 3), larger)
    torch.testing.assert_close(
        torch.autograd.grad(value, weight), torch.autograd.grad(larger, weight)
    )


def test_parseval_needs_a_hidden_layer() -> None:
    with pytest.raises(DoesNotFit, match="parseval needs a linear layer before the last one"):
        Learner(nn.Linear(NUM_INPUTS, NUM_CLASSES), make_adam, cross_entropy, [Parseval(1.0, 2.0)])


def test_networks_that_begin_each_task_with_other_parameters_have_no_distance_to_the_first() -> (
    None
):
    built = NETWORKS["qnn-trivialised"].build(Shape(16, 3), generator_for(0, "initial weights"))
    with pytest.raises(DoesNotFit, match=r"l2-init: .* begins each task with other parameters"):
        Learner(built, make_adam, cross_entropy, [L2Init(1.0)])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("value", [0.0, 1e-3])
def test_layers_of_zeros_have_finite_penalties_and_gradients(name: str, value: float) -> None:
    remedy, _ = CASES[name]
    one = learner(remedy)
    with torch.no_grad():
        for parameter in one.network.parameters():
            parameter.fill_(value)
    for step in range(3):
        one.update(*batch(step))
    assert all(p.isfinite().all() for p in one.network.parameters())
    assert all(math.isfinite(v) for v in one.columns().values())


@pytest.mark.slow
def test_strong_penalties_bring_the_network_where_they_want_it() -> None:
    """With a loss that is weak beside them."""
    ends = {}
    for name, remedy in {
        "l2": L2(100.0), "l2-init": L2Init(100.0), "spectral": Spectral(100.0, 2),
        "parseval": Parseval(100.0, 2.0),
    }.items():  # fmt: skip
        one = learner(remedy)
        with torch.no_grad():
            for p in one.network.parameters():
                p *= 1.5
        for step in range(600):
            one.optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 600)
            one.update(*batch(step))
        ends[name] = one.network
    assert max(map(abs, numbers(ends["l2"]))) < 0.01
    first = numbers(network())
    assert numbers(ends["l2-init"]) == pytest.approx(first, abs=0.01)
    assert [np.linalg.svd(w)[1][0] for w in matrices(ends["spectral"])] == pytest.approx(
        [1, 1, 1], abs=0.03
    )
    for w in matrices(ends["parseval"])[:-1]:
        assert np.linalg.svd(w)[1] == pytest.approx(2**0.5, abs=0.01)


def test_option_that_is_no_number_is_named() -> None:
    with pytest.raises(TypeError, match="strength 'a': must be a number"):
        dataclasses.replace(REMEDIES["l2"], strength="a")
