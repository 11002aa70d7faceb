"""The classical networks: shape, initial weights, and where their randomness comes from."""

import math
import re
from typing import Any

import pytest
import torch
from scipy import stats
from torch import nn

from plasticity.networks.mlp import Mlp, mlp
from plasticity.networks.network import Shape
from plasticity.seeding import generator_for
from tests.tiny import random_states, same


def test_permuted_mnist_baseline_has_12730_parameters() -> None:
    network = mlp((784, 16, 10), generator_for(0, "initial weights"))
    assert sum(p.numel() for p in network.parameters()) == 12_730
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())


def test_relu_stands_between_linear_layers_only() -> None:
    network = mlp((7, 5, 4, 3), generator_for(0, "initial weights"))
    kinds = [type(module) for module in network]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    linears = [module for module in network if isinstance(module, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(7, 5), (5, 4), (4, 3)]


def test_outputs_match_sums_written_out() -> None:
    network = mlp((4, 3, 2), generator_for(0, "initial weights"))
    generator = generator_for(0, "inputs")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(5, 4, generator=generator)
    first, _, last = network
    for sample, output in zip(x.tolist(), network(x).tolist(), strict=True):
        hidden = [
            max(0.0, sum(w * v for w, v in zip(row, sample, strict=True)) + b)
            for row, b in zip(first.weight.tolist(), first.bias.tolist(), strict=True)
        ]
        expected = [
            sum(w * v for w, v in zip(row, hidden, strict=True)) + b
            for row, b in zip(last.weight.tolist(), last.bias.tolist(), strict=True)
        ]
        assert output == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_weights_are_glorot_uniform_and_biases_zero() -> None:
    network = mlp((300, 40, 20), generator_for(0, "initial weights"))
    for linear in (network[0], network[2]):
        bound = math.sqrt(6 / (linear.in_features + linear.out_features))
        weights = linear.weight.detach().flatten().double()
        assert -bound <= weights.min() < -0.98 * bound
        assert 0.98 * bound < weights.max() <= bound
        uniform = stats.uniform(loc=-bound, scale=2 * bound)
        assert stats.kstest(weights.numpy(), uniform.cdf).pvalue > 0.001
        assert not linear.bias.any()


def test_same_generator_seed_gives_the_same_weights_whatever_ran_before() -> None:
    expected = mlp((6, 5, 4), generator_for(1, "initial weights")).state_dict()
    with torch.random.fork_rng():
        torch.manual_seed(99)
        again = mlp((6, 5, 4), generator_for(1, "initial weights")).state_dict()
    other = mlp((6, 5, 4), generator_for(2, "initial weights")).state_dict()
    assert same(again, expected)
    assert not same(other, expected)


def test_layers_do_not_share_their_draws() -> None:
    first, _, last = mlp((4, 4, 4), generator_for(1, "initial weights"))
    assert not torch.equal(first.weight, last.weight)


def test_global_random_states_are_untouched() -> None:
    before = random_states()
    mlp((6, 5, 4), generator_for(0, "initial weights"))
    assert same(random_states(), before)


@pytest.mark.parametrize("hidden", [16, (1.5,), ("a",)])
def test_hidden_layers_that_are_no_integers_are_named(hidden: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"hidden {hidden!r}: integers, one for each")):
        Mlp(hidden)


def test_problem_without_inputs_or_outputs_is_named() -> None:
    with pytest.raises(ValueError, match="inputs 0: at least 1"):
        Shape(0, 2)
    with pytest.raises(ValueError, match="outputs -1: at least 1"):
        Shape(2, -1)
