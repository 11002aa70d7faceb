"""Inner products of samples' gradients, against a backward pass for each."""

import copy

import pytest
import torch
from torch import nn

from plasticity.errors import DoesNotFit
from plasticity.metrics import circuits
from plasticity.metrics.fisher import fisher_traces
from plasticity.metrics.jacobians import contrasts, numbers_held, sample_gradients
from plasticity.metrics.ranks import tangent_kernel
from plasticity.networks.evaluating import evaluating
from tests.metrics.zoo import ZOO, logits_of, loop_of_gradients


@pytest.mark.sampled(16)
@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
@pytest.mark.parametrize("most", [0, 64])
def test_inner_products_of_gradients_match_a_loop(
    make, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuits, "MOST_OUTCOMES", most)  # the long way, and the short one
    torch.manual_seed(0)
    network = make().double()
    x = torch.randn(6, 8, dtype=torch.float64)
    num_classes = logits_of(network, x).shape[1]
    functions = torch.randn(4, num_classes, dtype=torch.float64)
    with evaluating(network):
        found = sample_gradients(network, x, functions)
    each = loop_of_gradients(network, x, functions)
    for n in range(6):
        for k in range(4):
            for other in range(4):
                expected = each[n][k] @ each[n][other]
                torch.testing.assert_close(found.within()[n, k, other], expected)
        for m in range(6):
            expected = sum(each[n][k] @ each[m][k] for k in range(4))
            torch.testing.assert_close(found.between()[n, m], expected)
    torch.testing.assert_close(found.logits, logits_of(network, x).detach())
    assert not any(part.requires_grad for part in (found.logits, *found.rows))


def test_large_gradients_of_linear_layers_are_not_formed_and_what_is_held_is_told() -> None:
    def held(name: str, functions: int) -> int:
        network = ZOO[name]().double()
        x = torch.randn(6, 8, dtype=torch.float64)
        gradients = sample_gradients(network, x, torch.randn(functions, 3))
        assert all(len(rows) == 6 for rows in gradients.rows)
        parts = [*gradients.rows, *(deltas for _, deltas in gradients.layers)]
        assert numbers_held(network, x, functions) >= sum(p[0].numel() for p in parts)
        return sum(p[0].numel() for p in parts)

    assert held("mlp", 1) == 5 + 3
    assert held("mlp", 4) == 4 * (5 + 3)
    assert held("scalar and complex", 2) == 2 * (1 + 2 * 64 + 3)
    assert held("qnn log odds", 2) == 2 * 4 * 15


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_contrasts_are_an_orthonormal_basis_of_what_a_softmax_sees(num_classes: int) -> None:
    basis = contrasts(num_classes)
    identity = torch.eye(num_classes, dtype=torch.float64)
    torch.testing.assert_close(basis @ basis.T, identity[1:, 1:], atol=1e-12, rtol=0)
    mean = torch.full_like(identity, 1 / num_classes)
    torch.testing.assert_close(basis.T @ basis, identity - mean, atol=1e-12, rtol=0)


class Recurrent(nn.Module):
    """See each sample as a sequence, and read what is left of it."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.body, self.head = kind(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x.unflatten(1, (4, 2)))[0][:, -1])


class Cubed(torch.autograd.Function):
    """A function of one's own, which torch.func knows nothing of."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


class ByHand(nn.Module):
    """Choose by the sample, and apply a function of one's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Cubed.apply(x if float(x.detach().sum()) > 0 else x + 1)


def between(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 5), *modules, nn.Linear(5, 3))


def with_old_norm() -> nn.Module:
    network = between(nn.ReLU())
    nn.utils.weight_norm(network[0])  # its matrix is no parameter, though it is a linear layer
    return network


OTHERS = {
    "prelu": lambda: between(nn.PReLU()),
    "rrelu": lambda: between(nn.RReLU()),
    "gru": lambda: Recurrent(nn.GRU),
    "lstm": lambda: Recurrent(nn.LSTM),
    "by hand": lambda: between(ByHand()),
    "in place": lambda: between(nn.PReLU(), nn.ReLU(inplace=True)),
    "dropout": lambda: between(nn.Dropout()),
    "batch norm": lambda: between(nn.BatchNorm1d(5)),
    "weight norm": lambda: between(nn.utils.parametrizations.weight_norm(nn.Linear(5, 5))),
    "old weight norm": with_old_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_what_torch_func_cannot_map_goes_one_by_one_and_leaves_no_trace(make) -> None:
    torch.manual_seed(0)
    network = make().double().eval()
    x = torch.randn(5, 8, dtype=torch.float64)
    functions = torch.randn(4, 3, dtype=torch.float64)
    before = torch.get_rng_state()
    found = sample_gradients(network, x, functions)
    assert torch.equal(torch.get_rng_state(), before)
    each = loop_of_gradients(network, x, functions)
    rows = torch.stack([torch.stack(of) for of in each])
    torch.testing.assert_close(found.within(), rows @ rows.mT)
    flat = rows.flatten(1)
    torch.testing.assert_close(found.between(), flat @ flat.T)
    torch.testing.assert_close(found.logits, logits_of(network, x).detach())
    with torch.no_grad():
        outputs = network(x)
        twin = copy.deepcopy(network)  # nothing of a transform is left in it
        torch.testing.assert_close(twin(x), outputs)
    for module in network.modules():  # a recurrent layer computes with a list of its own
        if isinstance(module, nn.RNNBase):
            assert {*map(id, module._flat_weights)} == {*map(id, module.parameters())}
    assert not any(module._forward_hooks for module in network.modules())


def test_a_module_that_needs_more_than_one_sample_is_named_in_a_line() -> None:
    network = between(nn.BatchNorm1d(5, track_running_stats=False))
    x, y = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
    for call in (lambda: fisher_traces(network, x, y), lambda: tangent_kernel(network, x)):
        with pytest.raises(DoesNotFit, match=r"^BatchNorm1d 1 has no gradient .*than 1") as e:
            call()
        assert "\n" not in str(e.value)
    assert not any(module._forward_hooks for module in network.modules())
