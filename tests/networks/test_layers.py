"""Layers are modules with a matrix, numbered from 1."""

import pytest
import torch
from torch import nn

from plasticity.errors import DoesNotFit
from plasticity.networks import NETWORKS
from plasticity.networks.layers import find_layer, layers_of
from plasticity.networks.network import Shape


def test_an_mlp_has_a_layer_for_each_matrix_with_its_biases():
    network = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 2))
    first, last = layers_of(network)
    assert (first.number, last.number, last.name) == (1, 2, "3")
    assert first.parameters == (network[0].weight, network[0].bias)
    squares = network[0].weight.detach() ** 2
    assert first.norm == pytest.approx(float(squares.sum() ** 0.5))
    assert first.rms == pytest.approx(float(squares.mean() ** 0.5))
    assert find_layer(network, "last") == find_layer(network, "2") == last


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_layers_that_hold_all_its_matrices_once(name):
    network = NETWORKS[name].build(Shape(16, 2), torch.Generator().manual_seed(0))
    held = [p for layer in layers_of(network) for p in layer.parameters]
    assert len({*map(id, held)}) == len(held)
    assert {id(p) for p in network.parameters() if p.dim() > 1} <= {*map(id, held)}


def test_a_circuit_is_one_layer_and_a_matrix_of_reflections_too():
    circuit = NETWORKS["qnn"].build(Shape(16, 2), torch.Generator().manual_seed(0))
    (layer,) = layers_of(circuit)
    assert layer.parameters == (circuit.angles,)
    reflected = nn.utils.parametrizations.orthogonal(
        nn.Linear(4, 3), orthogonal_map="householder", use_trivialization=False
    )
    assert len(layers_of(reflected)) == len(layers_of(nn.Sequential(nn.ReLU(), reflected))) == 1


@pytest.mark.parametrize("which", ["3", "0", "middle", "-1"])
def test_a_layer_that_is_not_there_is_refused_in_a_line(which):
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(DoesNotFit, match=rf"no layer {which}: the network has the layers 1 to 2"):
        find_layer(network, which)
