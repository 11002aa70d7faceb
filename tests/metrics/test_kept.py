"""What is kept is used again while nothing has changed, and never after."""

import gc

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.metrics.circuits import circuit_jacobian
from plasticity.metrics.kept import Kept, numbers_of
from plasticity.metrics.norms import gradient_end, gradient_norm, gradient_start
from plasticity.quantum.circuits import Brickwork
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds
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


def test_numbers_of_a_network_are_its_parameters_and_buffers() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    shapes = [tuple(t.shape) for t in numbers_of(network)]
    assert shapes == [(3, 2), (3,), (3,), (3,), (3,), (3,), ()]
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


def test_derivatives_of_a_circuits_outputs_are_those_of_its_angles_now() -> None:
    qnn = QNN(Brickwork(3, 1), LogOdds(3))
    x = torch.rand(4, 8, generator=torch.Generator().manual_seed(0))
    first = circuit_jacobian(qnn, x)
    assert circuit_jacobian(qnn, x.clone()) is first
    assert not torch.equal(circuit_jacobian(qnn, x + 1), first)
    before = circuit_jacobian(qnn, x)
    with torch.no_grad():
        qnn.angles += 0.1
    after = circuit_jacobian(qnn, x)
    assert not torch.allclose(after, before)
    fresh = QNN(Brickwork(3, 1), LogOdds(3), lambda shape: qnn.angles.detach())
    torch.testing.assert_close(circuit_jacobian(fresh, x), after)
