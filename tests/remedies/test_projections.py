"""Clipping and isometry: number by number, and by the singular value decomposition."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.remedies import REMEDIES
from plasticity.remedies.projections import Isometry, WeightClipping, polar_factor
from plasticity.seeding import generator_for
from tests.remedies.small import batch, learner, network, train
from tests.tiny import same


def clipped_by_hand(chain: nn.Module, multiple: float) -> tuple[list[list[float]], int, int]:
    """Return all numbers clipped one by one, how many were, and of how many."""
    kept, clipped, total = [], 0, 0
    for layer in (m for m in chain.modules() if isinstance(m, nn.Linear)):
        bound = float(np.float32(multiple / math.sqrt(layer.in_features)))
        for parameter in (layer.weight, layer.bias):
            numbers = parameter.detach().flatten().tolist()
            kept.append([min(max(v, -bound), bound) for v in numbers])
            clipped += sum(abs(v) > bound for v in numbers)
            total += len(numbers)
    return kept, clipped, total


def test_each_number_is_clipped_to_the_range_of_its_layer() -> None:
    multiple = 0.8
    one, bare = learner(WeightClipping(multiple)), learner()
    one.update(*batch(0))
    bare.update(*batch(0))
    kept, clipped, total = clipped_by_hand(bare.network, multiple)
    assert 0 < clipped < total
    for parameter, expected in zip(one.network.parameters(), kept, strict=True):
        assert parameter.detach().flatten().tolist() == pytest.approx(expected, rel=1e-6)
    assert one.columns() == {"weight_clipping_fraction": pytest.approx(clipped / total)}


def test_the_fraction_is_over_the_updates_since_the_last_row() -> None:
    one = learner(WeightClipping(0.7))
    for _ in range(2):
        fractions = []
        for step in range(3):
            state, optimizer = copy.deepcopy(one.network), copy.deepcopy(one.optimizer.state_dict())
            bare = Learner(state, one.make_optimizer, cross_entropy)
            bare.optimizer.load_state_dict(optimizer)
            bare.update(*batch(step))
            _, clipped, total = clipped_by_hand(bare.network, 0.7)
            fractions.append(clipped / total)
            one.update(*batch(step))
        assert one.columns() == {"weight_clipping_fraction": pytest.approx(np.mean(fractions))}


def test_biases_are_clipped_as_in_the_released_program() -> None:
    one = learner(WeightClipping(1.0))
    with torch.no_grad():
        one.network[0].bias.fill_(5.0)
    one.update(*batch(0))
    assert one.network[0].bias.detach().tolist() == [0.25] * 6  # 1 / sqrt(16)


def test_by_default_first_weights_are_within_the_range() -> None:
    for widths in ((784, 16, 10), (1024, 16, 10), (784, 1024, 10), (64, 16, 10)):
        chain = network(widths=widths)
        assert clipped_by_hand(chain, REMEDIES["weight-clipping"].multiple)[1] == 0
    assert clipped_by_hand(network(widths=(784, 16, 10)), 2.0)[1] > 0


def polar_by_svd(matrix: np.ndarray) -> np.ndarray:
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    return u @ v


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (1, 6), (6, 1)])
def test_the_polar_factor_is_that_of_the_singular_value_decomposition(
    shape: tuple[int, int],
) -> None:
    matrix = torch.randn(shape, generator=generator_for(0, "matrix"), dtype=torch.float64)
    found = polar_factor(matrix, 40).numpy()
    assert found == pytest.approx(polar_by_svd(matrix.numpy()), abs=1e-9)


def test_ten_iterations_are_enough_for_the_first_weights() -> None:
    weight = network(widths=(784, 16, 10))[0].weight.detach()  # type: ignore[index]
    assert polar_factor(weight, 10).numpy() == pytest.approx(polar_by_svd(weight.numpy()), abs=1e-3)


def test_of_zero_nothing_is_made() -> None:
    assert not polar_factor(torch.zeros(3, 2), 10).any()


def test_matrices_become_isometries_when_a_later_task_begins() -> None:
    one = learner(Isometry(40))
    before = copy.deepcopy(one.network)
    one.start_task(0)
    assert same(one.network.state_dict(), before.state_dict())
    assert one.columns() == {"isometry_change": 0.0}
    (row,) = train(one, range(1))
    assert row == {"isometry_change": 0.0}
    before = copy.deepcopy(one.network)
    moments = copy.deepcopy(one.optimizer.state_dict())
    one.start_task(1)
    assert same(one.optimizer.state_dict(), moments)
    change = size = 0.0
    for old, new in zip(before.modules(), one.network.modules(), strict=True):
        if isinstance(old, nn.Linear) and isinstance(new, nn.Linear):
            w = old.weight.detach().numpy()
            expected = math.sqrt(w.shape[0] / w.shape[1]) * polar_by_svd(w)
            assert new.weight.detach().numpy() == pytest.approx(expected, abs=1e-5)
            assert torch.equal(new.bias, old.bias)
            change += ((expected - w) ** 2).sum()
            size += (w**2).sum()
    assert one.columns() == {"isometry_change": pytest.approx(math.sqrt(change / size), rel=1e-4)}
    assert one.columns() == {"isometry_change": 0.0}
