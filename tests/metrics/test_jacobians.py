"""Inner products of samples' gradients, against a backward pass for each."""

import pytest
import torch

from plasticity.metrics import circuits
from plasticity.metrics.accuracy import evaluating
from plasticity.metrics.jacobians import contrasts, numbers_held, sample_gradients
from tests.metrics.zoo import ZOO, logits_of, loop_of_gradients


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
