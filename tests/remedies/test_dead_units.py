"""Dead units are revived by one rule."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.errors import DoesNotFit
from plasticity.remedies.dead_units import dead_units, layers_with_units, revive


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def aged():
    """A network of two hidden layers, trained a little; units 1 and 4, and unit 2, are dead."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    x = torch.rand(32, 6)
    with torch.no_grad():
        network[0].bias[[1, 4]] = -50
        network[2].bias[2] = -50
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(network(x), torch.arange(32) % 3).backward()
        optimizer.step()
    return network, optimizer, x


def test_dead_units_are_those_that_are_zero_for_all_samples(aged):
    network, _, x = aged
    layers = layers_with_units(network, "revive")
    first, second = network[0](x).relu(), network[2](network[0](x).relu()).relu()
    expected = [
        [u for u in range(h.shape[1]) if all(h[s, u] == 0 for s in range(len(h)))]
        for h in (first, second)
    ]
    assert [u.tolist() for u in dead_units(network, layers, x)] == expected
    assert {1, 4} <= {*expected[0]}
    assert network.training
    assert not network[1]._forward_hooks


def test_reviving_follows_its_definition(aged):
    network, optimizer, x = aged
    layers = layers_with_units(network, "revive")
    dead = dead_units(network, layers, x)
    before, outputs = copy.deepcopy(network), network(x)
    revive(layers, dead, generator(), optimizer)
    assert torch.equal(network(x), outputs)  # they gave nothing, and give nothing yet
    for place, units in zip((0, 2), dead, strict=True):
        weight, old = network[place].weight, before[place].weight
        living = [u for u in range(len(weight)) if u not in units]
        length = torch.stack([old[u].detach().norm() for u in living]).mean()
        for unit in range(len(weight)):
            if unit in living:
                # The columns of dead units before it are 0 now.
                kept = [c for c in range(weight.shape[1]) if place == 0 or c not in dead[0]]
                assert torch.equal(weight[unit, kept], old[unit, kept])
                continue
            alive = weight[unit] != 0
            if place == 0:
                assert float(weight[unit].detach().norm()) == pytest.approx(float(length))
                assert alive.all()
            assert network[place].bias[unit] == 0
            assert (network[place + 2].weight[:, unit] == 0).all()
            for name in ("exp_avg", "exp_avg_sq"):
                assert (optimizer.state[network[place].weight][name][unit] == 0).all()
                assert optimizer.state[network[place].bias][name][unit] == 0
                assert (optimizer.state[network[place + 2].weight][name][:, unit] == 0).all()


def test_where_no_unit_is_dead_nothing_is_drawn_or_changed(aged):
    network, optimizer, _ = aged
    layers = layers_with_units(network, "revive")
    before, source = copy.deepcopy(network.state_dict()), generator()
    nobody = [torch.tensor([], dtype=torch.long)] * 2
    revive(layers, nobody, source, optimizer)
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert torch.equal(source.get_state(), generator().get_state())


def test_where_all_units_are_dead_new_ones_have_the_length_of_the_draw(aged):
    network, optimizer, _ = aged
    layers = layers_with_units(network, "revive")
    revive(layers, [torch.arange(5), torch.tensor([], dtype=torch.long)], generator(), optimizer)
    assert torch.equal(network[0].weight, layers[0].rows(network[0], 5, generator()))


def test_units_of_frozen_layers_are_left_alone(aged):
    network, _, x = aged
    network[0].weight.requires_grad_(False)
    first, second = dead_units(network, layers_with_units(network, "revive"), x)
    assert len(first) == 0
    assert len(second) > 0


def test_a_network_without_units_is_refused_in_a_line():
    with pytest.raises(DoesNotFit, match="revive needs"):
        layers_with_units(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), "revive")
