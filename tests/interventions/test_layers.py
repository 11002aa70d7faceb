"""Interventions name layers by number, or as first and last."""

import pytest
import torch
from torch import nn

from plasticity.errors import DoesNotFit
from plasticity.interventions.layers import find_layer
from plasticity.networks import NETWORKS
from plasticity.networks.layers import layers_of
from plasticity.networks.network import Shape


def test_numbers_and_ends_name_the_same_layers():
    network = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 2))
    assert find_layer(network, "first") == find_layer(network, "1")
    assert find_layer(network, "last") == find_layer(network, "2")
    assert find_layer(network, "2").module is network[3]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_layers_that_hold_all_its_matrices_once(name):
    network = NETWORKS[name].build(Shape(16, 2), torch.Generator().manual_seed(0))
    held = [p for layer in layers_of(network) for p in layer.parameters]
    assert len({*map(id, held)}) == len(held)
    assert {id(p) for p in network.parameters() if p.dim() > 1} <= {*map(id, held)}


@pytest.mark.parametrize("which", ["3", "0", "middle", "-1"])
def test_a_layer_that_is_not_there_is_refused_in_a_line(which):
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(DoesNotFit, match=rf"no layer {which}: the network has the layers 1 to 2"):
        find_layer(network, which)
