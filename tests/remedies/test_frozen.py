"""Frozen parameters: no remedy changes them, no penalty counts them."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.errors import DoesNotFit
from plasticity.learning.learner import Learner
from plasticity.networks import NETWORKS
from plasticity.networks.network import Shape
from plasticity.remedies import REMEDIES
from plasticity.remedies.modules import ConcatenatedReLU
from plasticity.remedies.projections import polar_factor
from plasticity.seeding import generator_for
from tests.remedies.small import acting, batch, network, train
from tests.tiny import make_adam

FROZEN = ("0.weight", "0.bias", "2.bias", "4.weight")
"""Of three layers: the first one, and parts of the others."""


def frozen(names: tuple[str, ...] = FROZEN, arm: str = "mlp") -> nn.Module:
    built = network(arm)
    for name, parameter in built.named_parameters():
        parameter.requires_grad_(name not in names)
    return built


def values(built: nn.Module, trained: bool) -> dict[int, torch.Tensor]:
    return {id(p): p.detach().clone() for p in built.parameters() if p.requires_grad is trained}


@pytest.mark.sampled(24)
@pytest.mark.parametrize("name", REMEDIES)
@pytest.mark.parametrize("names", [FROZEN, ("0.weight", "0.bias"), ("4.bias",), ("2.weight",)])
def test_frozen_parameters_stay_bit_for_bit_and_others_learn(names: tuple, name: str) -> None:
    built = frozen(names)
    before = {p: p.detach().clone() for p in built.parameters() if not p.requires_grad}
    try:
        one = Learner(built, make_adam, cross_entropy, [acting(name)], seed=3)
    except DoesNotFit as error:
        assert str(error).startswith(name)
        of_units = ("continual-backprop", "redo", "revive", "snr")
        refused = {FROZEN: (*of_units, "crelu"), ("2.weight",): of_units}
        assert name in (*refused.get(names, ()), "soft-rescaling")
        assert "\n" not in str(error)
        return
    learned = values(one.network, trained=True)
    train(one, range(4), updates=6)
    assert {*before} <= {*one.network.parameters()}
    assert all(torch.equal(p, old) and not p.requires_grad for p, old in before.items())
    assert not {*map(id, before)} & {*learned}
    now = values(one.network, trained=True)
    assert all(not torch.equal(now[key], learned[key]) for key in learned)


@pytest.mark.parametrize(
    ("names", "untouched"),
    [
        (("0.weight", "0.bias"), ("0.weight", "0.bias")),
        (("0.bias",), ("0.weight", "0.bias")),
        (("4.weight",), ("2.bias", "4.weight", "4.bias")),
        (("4.bias",), ("2.bias", "4.weight", "4.bias")),
    ],
)
def test_redo_replaces_no_unit_of_a_layer_of_which_a_part_is_frozen(
    names: tuple, untouched: tuple
) -> None:
    # With this threshold all units below the mean are dormant, so each layer has some.
    acts = acting("redo", threshold=1.0, every=1)
    with_redo, without = (
        Learner(frozen(names), make_adam, cross_entropy, remedies, seed=3)
        for remedies in ([acts], [])
    )
    for one in (with_redo, without):
        with torch.no_grad():
            for p in one.network.parameters():
                p.add_(0.01)  # biases of new units are 0
        train(one, range(1), updates=1)
    expected = dict(without.network.named_parameters())
    same = {key for key, p in with_redo.network.named_parameters() if torch.equal(p, expected[key])}
    assert {*untouched} <= same
    assert "2.weight" not in same  # of the other layer


@pytest.mark.parametrize("names", [("0.weight", "0.bias"), ("0.weight",), ("0.bias",)])
def test_crelu_leaves_a_layer_with_frozen_weights_or_biases_as_it_was(names: tuple) -> None:
    built = frozen(names)
    first, relu = built[0], built[1]
    before = [p.detach().clone() for p in first.parameters()]
    one = Learner(built, make_adam, cross_entropy, [acting("crelu")], seed=3)
    assert isinstance(built[3], ConcatenatedReLU)  # of the layer that is trained
    assert built[0] is first
    assert built[1] is relu
    assert isinstance(relu, nn.ReLU)
    for p, old in zip(first.parameters(), before, strict=True):
        assert torch.equal(p, old)
    assert {n for n, p in one.network.named_parameters() if not p.requires_grad} == {*names}


@pytest.mark.parametrize("of", NETWORKS)
def test_nothing_moves_what_is_frozen_where_a_network_itself_moves_parameters(of: str) -> None:
    built = NETWORKS[of].build(Shape(16, 3), generator_for(0, "initial weights"))
    with torch.no_grad():
        for p in built.parameters():
            p.mul_(3.0)  # off its manifold, so that what puts it back would show
    one = Learner(nn.ModuleList([built, nn.Linear(3, 3)]), make_adam, lambda x, y: x)
    built.requires_grad_(False)
    before = copy.deepcopy(dict(built.named_parameters()))
    one.retract()
    one.start_task(1)
    assert all(torch.equal(p, before[name]) for name, p in built.named_parameters())


def slow_penalty(name: str, one: Learner, first: dict[str, torch.Tensor]) -> torch.Tensor:
    """The penalty of what is trained, one by one, with strength 0.1, power 2 and scale 2."""
    total = torch.zeros(())
    places = [k for k, m in enumerate(one.network) if isinstance(m, nn.Linear)]
    for key, p in one.network.named_parameters():
        if not p.requires_grad:
            continue
        of_weight = key.endswith("weight")
        if name == "l2":
            total = total + 0.05 * p.square().sum()
        elif name == "l2-init":
            total = total + 0.1 * (p - first[key]).square().sum()
        elif name == "spectral" and of_weight:
            total = total + 0.1 * (torch.linalg.matrix_norm(p, 2) ** 2 - 1).square()
        elif name == "spectral":
            total = total + 0.1 * p.norm() ** 4
        elif name == "parseval" and of_weight and int(key[0]) != places[-1]:
            gram = p @ p.T if p.shape[0] <= p.shape[1] else p.T @ p
            total = total + 0.1 * (gram - 2 * torch.eye(len(gram))).square().sum()
    return total


@pytest.mark.parametrize("name", ["l2", "l2-init", "spectral", "parseval"])
def test_penalties_and_their_gradients_are_those_of_what_is_trained(name: str) -> None:
    built = frozen()
    first = {key: p.detach().clone() for key, p in built.named_parameters()}
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.1)
    one = Learner(built, make_adam, cross_entropy, [acting(name, strength=0.1)], seed=3)
    if name == "l2-init":
        one.remedies[0].load_state_dict({"first": [*first.values()]})
    for _ in range(300):  # of the power iteration
        penalty = one.remedies[0].penalty()
    expected = slow_penalty(name, one, first)
    torch.testing.assert_close(penalty, expected, rtol=1e-4, atol=1e-6)
    trained = [p for p in built.parameters() if p.requires_grad]
    ours = torch.autograd.grad(penalty, trained, allow_unused=True)
    theirs = torch.autograd.grad(expected, trained, allow_unused=True)
    for parameter, *pair in zip(trained, ours, theirs, strict=True):
        a, b = (torch.zeros_like(parameter) if g is None else g for g in pair)
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_penalties_of_nothing_but_frozen_layers_are_none() -> None:
    names = ("0.weight", "0.bias", "2.weight", "2.bias")
    one = Learner(frozen(names), make_adam, cross_entropy, [acting("parseval")])
    train(one, range(1))
    assert one.remedies[0].penalty() is None
    assert one.columns() == {"parseval_penalty": 0.0}


def test_columns_count_what_is_trained() -> None:
    shrink = dataclasses.replace(REMEDIES["shrink-perturb"], noise=0.0)
    one = Learner(frozen(), make_adam, cross_entropy, [shrink, REMEDIES["isometry"]])
    trained = [p.detach().clone() for p in one.network.parameters() if p.requires_grad]
    one.start_task(1)
    shrunk = float(sum(p.mul(0.4).square().sum() for p in trained)) ** 0.5
    (matrix,) = (0.6 * p for p in trained if p.dim() > 1)
    isometry = (matrix.shape[0] / matrix.shape[1]) ** 0.5 * polar_factor(matrix, 10)
    columns = one.columns()
    assert columns["shrink_perturb_distance"] == pytest.approx(shrunk)
    assert columns["isometry_change"] == pytest.approx(
        float((isometry - matrix).norm() / matrix.norm())
    )
    clipped = Learner(frozen(), make_adam, cross_entropy, [acting("weight-clipping", multiple=0.1)])
    clipped.update(*batch(0))
    fraction = clipped.columns()["weight_clipping_fraction"]
    total = sum(p.numel() for p in clipped.network.parameters() if p.requires_grad)
    assert (fraction * total) == pytest.approx(round(fraction * total))
    assert fraction > 0.5


def test_what_is_frozen_or_let_go_between_tasks_is_so_from_then_on() -> None:
    one = Learner(frozen(), make_adam, cross_entropy, [acting("l2"), acting("shrink-perturb")])
    train(one, range(2))
    for p in one.network.parameters():
        p.requires_grad_(not p.requires_grad)
    before = [p.detach().clone() for p in one.network.parameters()]
    train(one, range(2, 4))
    for p, old in zip(one.network.parameters(), before, strict=True):
        assert torch.equal(p, old) is not p.requires_grad


@pytest.mark.parametrize("name", ["spectral", "parseval", "weight-clipping", "isometry"])
def test_a_matrix_that_two_layers_share_counts_once(name: str) -> None:
    layers = [nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)]
    layers[2].weight = layers[0].weight
    one = Learner(nn.Sequential(*layers), make_adam, cross_entropy, [acting(name)])
    apart = [nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)]
    apart[0].weight, apart[2].weight, apart[2].bias = (
        layers[0].weight, layers[4].weight, layers[4].bias,
    )  # fmt: skip
    other = Learner(nn.Sequential(*apart), make_adam, cross_entropy, [acting(name)])
    if name in ("spectral", "parseval"):
        with torch.no_grad():
            for p in (layers[0].bias, layers[2].bias, apart[0].bias):
                p.zero_()
        for _ in range(300):
            penalties = [learner.remedies[0].penalty() for learner in (one, other)]
        torch.testing.assert_close(*penalties, rtol=1e-3, atol=1e-6)
        return
    if name == "weight-clipping":
        one.update(*batch(0))
        numbers = sum(p.numel() for p in one.network.parameters())
        count = one.columns()["weight_clipping_fraction"] * numbers
        assert count == pytest.approx(round(count))
        return
    weight = layers[0].weight.detach().clone()
    one.start_task(1)
    torch.testing.assert_close(layers[0].weight.detach(), polar_factor(weight, 10))


@pytest.mark.parametrize("name", ["continual-backprop", "redo", "crelu"])
def test_units_that_cannot_change_alone_are_refused_in_a_line(name: str) -> None:
    first, second, relu = nn.Linear(16, 16), nn.Linear(16, 16), nn.ReLU()
    tied = nn.Linear(16, 16)
    tied.weight = first.weight
    for layers in (
        [first, nn.ReLU(), tied, nn.ReLU(), nn.Linear(16, 3)],
        [first, nn.ReLU(), first, nn.ReLU(), nn.Linear(16, 3)],
        [first, relu, second, relu, nn.Linear(16, 3)],
    ):
        if name == "crelu" and relu in layers:
            continue
        with pytest.raises(DoesNotFit, match=f"^{name} .*") as caught:
            Learner(nn.Sequential(*copy.deepcopy(layers)), make_adam, cross_entropy, [acting(name)])
        assert "\n" not in str(caught.value)
