"""What is seen of a network's layers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from plasticity.errors import DoesNotFit
from plasticity.remedies.layers import hidden_layers, linear_layers, seen, watch


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias)


def test_each_hidden_layer_is_between_its_two_linear_layers() -> None:
    a, b, c = linear(5, 4), linear(4, 3), linear(3, 2)
    first, second = nn.ReLU(), nn.ReLU()
    # Sequences in sequences, a LayerNorm, and things before and after that are not looked at.
    inner = nn.Sequential(a, nn.LayerNorm(4), first)
    chain = nn.Sequential(nn.Identity(), inner, b, second, nn.Sequential(c), nn.Tanh())
    seen = hidden_layers(chain, "it")
    assert [(h.incoming, h.normalized, h.units, h.outgoing) for h in seen] == [
        (a, True, first, b), (b, False, second, c),
    ]  # fmt: skip
    assert linear_layers(chain, "it") == [a, b, c]


class Elsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(linear(2, 2), nn.ReLU(), linear(2, 2))


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (linear(2, 2), "it needs hidden units between linear layers; the network is Linear"),
        (nn.Sequential(nn.ReLU(), nn.Tanh()), "the network is ReLU, Tanh"),
        (Elsewhere(), "cannot see which layer feeds which; the network is Elsewhere"),
        (nn.Sequential(Elsewhere(), linear(2, 2), nn.ReLU(), linear(2, 2)), "cannot see"),
        (nn.Sequential(linear(2, 2), nn.Tanh(), linear(2, 2)), "needs ReLU units"),
        (nn.Sequential(linear(2, 2), linear(2, 2)), "needs ReLU units"),
        (nn.Sequential(linear(2, 2), nn.ReLU(), nn.LayerNorm(2), linear(2, 2)), "needs ReLU"),
        (nn.Sequential(linear(2, 2), nn.Dropout(), nn.ReLU(), linear(2, 2)), "needs ReLU"),
        (nn.Sequential(linear(2, 2, bias=False), nn.ReLU(), linear(2, 2)), "cannot see"),
        (
            nn.Sequential(parametrizations.orthogonal(linear(2, 2)), nn.ReLU(), linear(2, 2)),
            "cannot see",
        ),
    ],
)
def test_what_it_cannot_see_is_refused(network: nn.Module, why: str) -> None:
    with pytest.raises(DoesNotFit, match=why):
        hidden_layers(network, "it")


def test_matrices_that_are_no_parameters_are_refused() -> None:
    with pytest.raises(DoesNotFit, match="it needs linear layers; the network is Tanh"):
        linear_layers(nn.Tanh(), "it")
    for layer in (parametrizations.orthogonal(linear(2, 2)), linear(2, 2, bias=False)):
        with pytest.raises(DoesNotFit, match="matrix is free"):
            linear_layers(nn.Sequential(linear(2, 2), layer), "it")


def test_what_units_gave_is_kept_in_training_only_and_by_each_copy_for_itself() -> None:
    units = nn.ReLU()
    network = nn.Sequential(nn.Identity(), units)
    watch(units)
    x = torch.tensor([[-1.0, 2.0]], requires_grad=True)
    network(x)
    assert torch.equal(seen(units), torch.tensor([[0.0, 2.0]]))
    assert not seen(units).requires_grad
    twin = copy.deepcopy(network)
    twin(3 * x)
    network.eval()(4 * x)
    assert torch.equal(seen(units), torch.tensor([[0.0, 2.0]]))
    assert torch.equal(seen(twin[1]), torch.tensor([[0.0, 6.0]]))
    network.train()(5 * x)
    assert torch.equal(seen(units), torch.tensor([[0.0, 10.0]]))
