"""What is kept is used again while nothing has changed, and never after."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.metrics.jacobians import contrasts, sample_gradients
from plasticity.metrics.kept import Kept, numbers_of
from plasticity.metrics.norms import gradient_end, gradient_norm, gradient_start
from tests.tiny import make_adam, tiny_learner, tiny_task


@pytest.fixture
def kept() -> Kept[int]:
    return Kept()


class Maker:
    """Counts how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls


def test_a_result_is_used_again_for_the_same_objects_and_equal_numbers(kept: Kept[int]) -> None:
    make, network, numbers = Maker(), nn.Linear(2, 2), torch.tensor([1.0, 2.0])
    for _ in range(3):
        assert kept.get([network], [numbers], make) == 1
        assert kept.get([network], [numbers.clone()], make) == 1


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([1.0, 2.5]),
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([1.0, 2.0], dtype=torch.float64),
        torch.tensor([[1.0, 2.0]]),
    ],
)
def test_other_numbers_make_it_anew(kept: Kept[int], other: torch.Tensor) -> None:
    make, network, numbers = Maker(), nn.Linear(2, 2), torch.tensor([1.0, 2.0])
    assert kept.get([network], [numbers], make) == 1
    assert kept.get([network], [other], make) == 2
    assert kept.get([network], [numbers], make) == 3
    assert kept.get([network], [numbers, numbers], make) == 4
    assert kept.get([network], [], make) == 5


def test_numbers_that_change_in_place_make_it_anew_and_so_do_those_that_are_not_finite(
    kept: Kept[int],
) -> None:
    make, network, numbers = Maker(), nn.Linear(2, 2), torch.tensor([1.0, 2.0])
    assert kept.get([network], [numbers], make) == 1
    numbers[1] = 3.0
    assert kept.get([network], [numbers], make) == 2
    numbers[1] = torch.nan
    assert kept.get([network], [numbers], make) == 3
    assert kept.get([network], [numbers], make) == 4


def test_other_objects_make_it_anew_also_when_the_first_is_gone(kept: Kept[int]) -> None:
    make, network, numbers = Maker(), nn.Linear(2, 2), torch.tensor([1.0])
    assert kept.get([network], [numbers], make) == 1
    assert kept.get([nn.Linear(2, 2)], [numbers], make) == 2
    gc.collect()
    for _ in range(5):  # one of them may lie where the one before lay
        before = make.calls
        assert kept.get([nn.Linear(2, 2)], [numbers], make) == before + 1
    assert kept.get([network, network], [numbers], make) == make.calls


def test_numbers_of_a_network_are_its_parameters_and_buffers_and_what_is_trained() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    network[0].weight.requires_grad_(False)
    *numbers, trained = numbers_of(network)
    assert [tuple(t.shape) for t in numbers] == [(3, 2), (3,), (3,), (3,), (3,), (3,), ()]
    assert trained.tolist() == [False, True, True, True]
    assert not any(t.requires_grad for t in numbers_of(network))


def test_metrics_of_the_gradient_share_it_until_an_update() -> None:
    learner, task = tiny_learner("mlp"), tiny_task()
    sizes: list[int] = []
    learner.network.register_forward_hook(lambda module, inputs, out: sizes.append(len(out)))
    gradient_norm(learner, task)
    gradient_start(learner, task)
    assert sizes == [11]
    learner.update(*task.train.batch(slice(0, 4)))
    assert gradient_end(learner, task)["norm"] == gradient_norm(learner, task)
    assert sizes == [11, 4, 11]


def test_two_learners_of_one_network_do_not_share_a_gradient() -> None:
    one, task = tiny_learner("mlp"), tiny_task()
    two = Learner(one.network, make_adam, lambda outputs, y: 2 * cross_entropy(outputs, y))
    assert gradient_norm(two, task) == pytest.approx(2 * gradient_norm(one, task))


def test_gradients_of_samples_are_those_of_the_network_now() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()
    x, basis = torch.rand(5, 8), contrasts(3)

    def kernel(network: nn.Module, x: torch.Tensor = x) -> torch.Tensor:
        return sample_gradients(network, x, basis).between()

    first = sample_gradients(network, x, basis)
    assert sample_gradients(network, x.clone(), contrasts(3)) is first
    assert not torch.equal(kernel(network, x + 1), first.between())
    assert not torch.equal(
        sample_gradients(network, x, 2 * basis).between(),
        sample_gradients(network, x, basis).between(),
    )
    for change in (network[0].weight, network[1].running_mean):
        before = kernel(network)
        with torch.no_grad():
            change += 0.5
        after = kernel(network)
        assert not torch.allclose(after, before)
        torch.testing.assert_close(kernel(copy.deepcopy(network)), after)
