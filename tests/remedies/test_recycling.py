"""Recycling: three units followed by hand, and the rule written out unit by unit."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.remedies.layers import hidden_layers
from plasticity.remedies.recycling import ContinualBackprop, ReDo, recycle
from plasticity.remedies.resets import StartAfresh
from plasticity.remedies.steps import UtilityGated
from plasticity.seeding import generator_for
from tests.remedies.small import WIDTHS, batch, learned, learner, network, train
from tests.tiny import make_adam, same

INPUTS, UNITS, OUTPUTS = 2, 3, 2


def three_units() -> nn.Sequential:
    """Return a network whose units give 1, 2 and 3 times the sum of two positive inputs."""
    chain = network(widths=(INPUTS, UNITS, OUTPUTS))
    assert isinstance(chain, nn.Sequential)
    with torch.no_grad():
        for layer, rows in (
            (chain[0], [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]),
            (chain[2], [[0.9, 0.1, 0.2], [0.8, -0.1, 0.3]]),
        ):
            layer.weight.copy_(torch.tensor(rows))
            layer.bias.fill_(0.5)
    return chain


def frozen(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.0)  # it has moments, and does not move


def frozen_learner(*remedies: ContinualBackprop | ReDo) -> Learner:
    return Learner(three_units(), frozen, cross_entropy, remedies, seed=5)


X = torch.tensor([[0.25, 0.5], [0.5, 0.75]])  # sums of 0.75 and 1.25: a mean of 1
Y = torch.tensor([0, 1])
ACTIVATIONS = [1.5, 2.5, 3.5]  # of the three units, on average: their multiple and a bias of 0.5
OUTGOING = [1.7, 0.2, 0.5]  # sums of the absolute outgoing weights


def moments(one: Learner, parameter: nn.Parameter) -> list[torch.Tensor]:
    return [one.optimizer.state[parameter][name] for name in ("exp_avg", "exp_avg_sq")]


def fill_moments(one: Learner) -> None:
    """Give the optimizer moments none of which is 0."""
    for parameter in one.network.parameters():
        for moment in moments(one, parameter):
            moment.fill_(0.25)


def check_replaced(
    one: Learner, before: nn.Sequential, replaced: list[int], seed_word: str
) -> None:
    """Check weights and moments: those of replaced units are new, all others as they were."""
    first, last = one.network[0], one.network[2]
    bound = math.sqrt(6 / (INPUTS + UNITS))
    for unit in range(UNITS):
        for i in range(INPUTS):
            new = float(first.weight.detach()[unit, i])
            if unit in replaced:
                assert new != float(before[0].weight.detach()[unit, i])
                assert abs(new) <= bound
            else:
                assert new == float(before[0].weight.detach()[unit, i])
            for moment in moments(one, first.weight):
                assert float(moment[unit, i]) == (0 if unit in replaced else 0.25)
        assert float(first.bias.detach()[unit]) == (0 if unit in replaced else 0.5)
        for moment in moments(one, first.bias):
            assert float(moment[unit]) == (0 if unit in replaced else 0.25)
        for k in range(OUTPUTS):
            expected = 0 if unit in replaced else float(before[2].weight.detach()[k, unit])
            assert float(last.weight.detach()[k, unit]) == expected
            for moment in moments(one, last.weight):
                assert float(moment[k, unit]) == (0 if unit in replaced else 0.25)
    for moment in moments(one, last.bias):  # the biases of the next layer are no unit's
        assert torch.equal(moment, torch.full((OUTPUTS,), 0.25))
    generator = generator_for(5, seed_word, one.steps, 0)
    drawn = bound * (2 * torch.rand(len(replaced), INPUTS, generator=generator) - 1)
    for row, unit in enumerate(replaced):
        assert torch.equal(first.weight[unit].detach(), drawn[row])


def test_continual_backprop_on_three_units_by_hand() -> None:
    """A rate of 1/6 with three mature units is half a unit an update: one at every second."""
    eta, maturity = 0.9, 4
    one = frozen_learner(ContinualBackprop(1 / 6, maturity, eta))
    for _ in range(maturity + 1):
        one.update(X, Y)  # age 5 is the first beyond 4: half a unit is owed
    assert one.columns() == {"continual_backprop_recycled": 0.0}
    ((of_layer,),) = (one.remedies[0].state_dict()["layers"],)
    factor = 1 - eta**5
    for unit in range(UNITS):
        utility = factor * ACTIVATIONS[unit] * OUTGOING[unit]  # 2.55, 0.5, 1.75 times the factor
        assert float(of_layer["utility"][unit]) == pytest.approx(utility, rel=1e-5)
        assert float(of_layer["activation"][unit]) == pytest.approx(
            factor * ACTIVATIONS[unit], rel=1e-5
        )
    assert of_layer["ages"].tolist() == [5, 5, 5]
    assert of_layer["owed"] == pytest.approx(0.5)

    before = copy.deepcopy(one.network)
    step = one.optimizer.step

    def with_other_moments() -> None:
        step()
        fill_moments(one)

    one.optimizer.step = with_other_moments  # type: ignore[method-assign]
    one.update(X, Y)
    assert one.columns() == {"continual_backprop_recycled": 1.0}
    assert one.columns() == {"continual_backprop_recycled": 0.0}
    check_replaced(one, before, [1], "continual-backprop")
    # The mean activation 2.5 of the unit, times its weights, is now in the next layer's biases.
    expected = [0.5 + 2.5 * 0.1, 0.5 - 2.5 * 0.1]
    assert one.network[2].bias.tolist() == pytest.approx(expected, rel=1e-5)
    (of_layer,) = one.remedies[0].state_dict()["layers"]
    assert of_layer["ages"].tolist() == [6, 0, 6]
    assert [float(of_layer[name][1]) for name in ("utility", "activation")] == [0, 0]
    assert of_layer["owed"] == pytest.approx(0, abs=1e-6)

    # Two units are mature now, a third of a unit an update: the third update replaces one. The new
    # unit, whose outgoing weights are 0, has the least utility of all, but is too young.
    for _ in range(2):
        one.update(X, Y)
    assert one.columns() == {"continual_backprop_recycled": 0.0}
    one.update(X, Y)
    assert one.columns() == {"continual_backprop_recycled": 1.0}
    assert one.remedies[0].state_dict()["layers"][0]["ages"].tolist() == [9, 3, 0]


def test_the_function_stays_where_a_replaced_unit_is_constant() -> None:
    one = frozen_learner(ContinualBackprop(1.0, 3, 0.99))
    x = X[:1].repeat(2, 1)  # so that each unit gives its mean
    expected = one.network(x).detach()
    for _ in range(4):
        one.update(x, Y)
    assert one.columns() == {"continual_backprop_recycled": 3.0}
    torch.testing.assert_close(one.network(x).detach(), expected)
    assert not one.network[2].weight.any()


def test_a_young_units_running_mean_is_corrected_for_its_age() -> None:
    """Unit 2 gives 0.6 and is young, so that its mean from 0 is 0.16; unit 1 gives 0.5."""
    eta = 0.9
    one = frozen_learner(ContinualBackprop(0.4, 2, eta))
    with torch.no_grad():
        one.network[2].weight[:, 2] = 0.3 / 3.5
    gives, ages = torch.tensor([2.55, 0.5, 0.6]), torch.tensor([9, 9, 2])
    state = one.state_dict()
    (layer,) = state["remedies"][0]["layers"]
    layer["ages"] = ages
    layer["utility"] = gives * (1 - eta**ages)
    one.load_state_dict(state)
    one.update(X, Y)
    (layer,) = one.remedies[0].state_dict()["layers"]
    assert layer["ages"].tolist() == [10, 0, 3]
    assert float(layer["utility"][2]) == pytest.approx(0.6 * (1 - eta**3), rel=1e-5)


def test_continual_backprop_of_two_layers_equals_the_rule_written_out() -> None:
    eta, maturity, rate = 0.8, 3, 0.07
    one = learner(ContinualBackprop(rate, maturity, eta))
    twin = learner()
    layers = hidden_layers(twin.network, "it")
    size = [layer.incoming.out_features for layer in layers]
    utility, mean = [[0.0] * n for n in size], [[0.0] * n for n in size]
    age, owed, replaced = [[0] * n for n in size], [0.0] * len(size), 0
    for step in range(1, 41):
        x, y = batch(step)
        with torch.no_grad():
            h1 = twin.network[:2](x)
            h2 = twin.network[:4](x)
        one.update(x, y)
        twin.update(x, y)
        for place in (1, 0):
            layer, h = layers[place], (h1, h2)[place]
            for unit in range(size[place]):
                age[place][unit] += 1
                m = float(h[:, unit].mean())
                out = float(layer.outgoing.weight[:, unit].detach().abs().sum())
                utility[place][unit] = eta * utility[place][unit] + (1 - eta) * m * out
                mean[place][unit] = eta * mean[place][unit] + (1 - eta) * m
            mature = [unit for unit in range(size[place]) if age[place][unit] > maturity]
            owed[place] += rate * len(mature)
            number = int(owed[place])
            owed[place] -= number
            worst = sorted(
                mature, key=lambda u, p=place: utility[p][u] / (1 - eta ** age[p][u])
            )[:number]  # fmt: skip
            for unit in worst:
                with torch.no_grad():
                    gave = mean[place][unit] / (1 - eta ** age[place][unit])
                    layer.outgoing.bias += gave * layer.outgoing.weight[:, unit]
                utility[place][unit] = mean[place][unit] = 0.0
                age[place][unit] = 0
            if worst:
                generator = generator_for(3, "continual-backprop", step, place)
                recycle(layer, torch.tensor(worst), generator, twin.optimizer)
                replaced += len(worst)
        for ours, theirs in zip(one.network.parameters(), twin.network.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert one.columns() == {"continual_backprop_recycled": float(replaced)}
    assert replaced > 15


def test_a_network_that_starts_afresh_has_young_units() -> None:
    afresh = learner(StartAfresh(), ContinualBackprop(0.05, 3, 0.9))
    train(afresh, range(2), updates=7)
    newborn = learner(ContinualBackprop(0.05, 3, 0.9))
    newborn.steps = afresh.steps  # which the draws depend on
    train(afresh, range(2, 3), updates=7)
    train(newborn, range(2, 3), updates=7)
    assert same(learned(afresh), learned(newborn))
    assert same(afresh.remedies[1].state_dict(), newborn.remedies[0].state_dict())
    assert afresh.remedies[1].state_dict()["layers"][0]["ages"].max() == 7


def test_redo_on_three_units_by_hand() -> None:
    """Scores are 1.5, 2.5 and 3.5 by their mean 2.5: 0.6, 1.0 and 1.4."""
    one = frozen_learner(ReDo(threshold=0.7, every=3))
    before = copy.deepcopy(one.network)
    step = one.optimizer.step

    def with_other_moments() -> None:
        step()
        fill_moments(one)

    one.optimizer.step = with_other_moments  # type: ignore[method-assign]
    for _ in range(2):
        one.update(X, Y)
    assert same(one.network.state_dict(), before.state_dict())
    assert one.columns() == {"redo_recycled": 0.0}
    one.update(X, Y)
    check_replaced(one, before, [0], "redo")
    assert one.network[2].bias.tolist() == [0.5, 0.5]  # what it gave is lost
    assert one.columns() == {"redo_recycled": 1.0}
    assert one.columns() == {"redo_recycled": 0.0}


@pytest.mark.parametrize(("threshold", "replaced"), [(0.59, 0), (0.61, 1), (1.01, 2), (1.5, 3)])
def test_redo_replaces_units_up_to_its_threshold(threshold: float, replaced: int) -> None:
    one = frozen_learner(ReDo(threshold, every=1))
    one.update(X, Y)
    assert one.columns() == {"redo_recycled": float(replaced)}


@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_redo_replaces_all_units_where_all_are_silent(threshold: float) -> None:
    one = frozen_learner(ReDo(threshold, every=1))
    with torch.no_grad():
        one.network[0].bias.fill_(-100)
    one.update(X, Y)
    assert one.columns() == {"redo_recycled": 3.0}
    assert (one.network[0].weight.detach() @ X.T).relu().any()


@pytest.mark.parametrize("remedy", [ContinualBackprop(1.0, 0, 0.9), ReDo(10.0, 1)])
def test_where_two_layers_lose_units_at_once_new_units_say_nothing(
    remedy: ContinualBackprop | ReDo,
) -> None:
    one = learner(remedy)
    one.update(*batch(0))
    for layer in hidden_layers(one.network, "it"):
        assert not layer.outgoing.weight.any()
    # All of them: each of the last layer, and of the layer before, whose columns are its rows.
    (columns,) = one.columns().values()
    assert columns == sum(WIDTHS[1:-1])


def test_outputs_are_no_units() -> None:
    one = learner(ContinualBackprop(1.0, 0, 0.9))
    before = one.network[-1].bias.detach().clone()
    one.update(*batch(0))
    assert one.network[-1].bias.all()
    assert not torch.equal(one.network[-1].bias, before)


def test_new_incoming_weights_are_distributed_as_those_of_the_network() -> None:
    chain = network(widths=(400, 300, 2))
    assert isinstance(chain, nn.Sequential)
    (layer,) = hidden_layers(chain, "it")
    first = layer.incoming.weight.detach().clone()
    optimizer = make_adam(list(chain.parameters()))
    recycle(layer, torch.arange(300), generator_for(0, "new"), optimizer)
    new = layer.incoming.weight.detach()
    assert not (new == first).any()
    for moment in (lambda w: w.abs().max(), lambda w: w.square().mean(), lambda w: w.abs().mean()):
        torch.testing.assert_close(moment(new), moment(first), rtol=0.01, atol=0)
    assert abs(float(new.mean())) < 1e-3


def test_utilities_of_upgd_are_memory_too() -> None:
    gated = UtilityGated(learning_rate=0.01, noise=0.0, weight_decay=0.0, utility_decay=0.9)
    one = learner(gated, ReDo(10.0, 2))
    for step in range(2):  # a bias of 0 has no utility at first
        one.update(*batch(step))
    for layer in hidden_layers(one.network, "it"):
        for parameter in (layer.incoming.weight, layer.incoming.bias, layer.outgoing.weight):
            assert not one.optimizer.state[parameter]["utility"].any()
    assert one.optimizer.state[one.network[-1].bias]["utility"].any()


def test_steps_of_adam_are_not_counted_anew() -> None:
    one = learner(ReDo(10.0, 2))
    for step in range(4):
        one.update(*batch(step))
    assert all(float(state["step"]) == 4 for state in one.optimizer.state.values())
