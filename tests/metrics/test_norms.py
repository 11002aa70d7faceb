"""Norms of weights and gradients, against loops and finite differences."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.learning.metric import Metric
from plasticity.learning.remedy import Learns
from plasticity.metrics.norms import (
    InitialDistance,
    UpdateRatio,
    gradient_end,
    gradient_norm,
    gradient_start,
    weight_norm,
)
from plasticity.networks.mlp import mlp
from plasticity.quantum.circuits import Brickwork, Staircase
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds
from plasticity.seeding import generator_for
from tests.oracle import dense_probabilities
from tests.tiny import (
    ARMS,
    NUM_CLASSES,
    NUM_QUBITS,
    Before,
    make_adam,
    tiny_learner,
    tiny_network,
    tiny_stream,
    tiny_task,
)


def norm_of(numbers: torch.Tensor) -> float:
    return math.sqrt(sum(number**2 for number in numbers.flatten().tolist()))


def mean_of(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def test_weight_norm_of_an_mlp_is_over_matrices_without_biases() -> None:
    learner = tiny_learner("mlp")
    with torch.no_grad():
        for module in (learner.network[0], learner.network[2]):
            module.bias.fill_(100.0)
    first, _, last = learner.network
    expected = mean_of([norm_of(first.weight), norm_of(last.weight)])
    assert weight_norm(learner, tiny_task()) == pytest.approx(expected, rel=1e-5)


def test_weight_norm_of_a_qnn_is_over_even_and_odd_bricks() -> None:
    learner = tiny_learner("qnn")
    pairs = learner.network.ansatz.pairs
    assert pairs == ((0, 1), (2, 3), (1, 2))
    even, odd = learner.network.angles[:2], learner.network.angles[2:]
    expected = mean_of([norm_of(even), norm_of(odd)])
    assert weight_norm(learner, tiny_task()) == pytest.approx(expected, rel=1e-5)


def test_weight_norm_of_an_ansatz_without_groups_is_over_all_angles() -> None:
    network = QNN(Staircase(NUM_QUBITS, 1), LogOdds(NUM_CLASSES), torch.ones)
    learner = Learner(network, make_adam, cross_entropy)
    assert weight_norm(learner, tiny_task()) == pytest.approx(math.sqrt(45), rel=1e-5)


def test_weight_norm_of_other_modules_is_over_their_matrices() -> None:
    convolution = nn.Conv1d(2, 3, 4)
    complex_weights = nn.ParameterList([torch.full((2, 2), 3 + 4j), torch.ones(7)])
    learner = Learner(nn.Sequential(convolution, complex_weights), make_adam, cross_entropy)
    expected = mean_of([norm_of(convolution.weight), 10.0])
    assert weight_norm(learner, tiny_task()) == pytest.approx(expected, rel=1e-5)


def test_weight_norm_of_a_network_without_matrices_is_undefined() -> None:
    learner = Learner(nn.BatchNorm1d(3), make_adam, cross_entropy)
    assert math.isnan(weight_norm(learner, tiny_task()))


def test_weight_norms_at_task_0_have_the_scale_of_the_protocol() -> None:
    generator = generator_for(0, "initial weights")
    angles = 2 * math.pi * torch.rand(36, 15, generator=generator)
    for network, expected in (
        (mlp((784, 16, 10), generator), 4.5),
        (QNN(Brickwork(10, 4), LogOdds(10), lambda shape: angles), 59.5),
    ):
        norm = weight_norm(Learner(network, make_adam, cross_entropy), tiny_task())
        assert norm == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("num_train", [11, 128, 150])
def test_gradient_norm_of_an_mlp_is_over_weights_and_biases_on_128_samples(num_train: int) -> None:
    learner, task = tiny_learner("mlp"), tiny_task(num_train)
    network = copy.deepcopy(learner.network)
    count = min(num_train, 128)
    for k in range(count):  # the mean's gradient is the mean of the samples' gradients
        x, y = task.train.batch(slice(k, k + 1))
        (cross_entropy(network(x), y) / count).backward()
    gradients = [p.grad for p in network.parameters()]
    assert len(gradients) == 4
    expected = mean_of([norm_of(gradient) for gradient in gradients])
    assert gradient_norm(learner, task) == pytest.approx(expected, rel=1e-4)


def test_gradient_norm_of_a_qnn_matches_finite_differences_of_dense_matrices() -> None:
    learner, task = tiny_learner("qnn"), tiny_task()
    learner.network.double()
    x, y = task.train.batch(slice(0, 128))

    def loss(angles: torch.Tensor) -> float:
        p = dense_probabilities(learner.network.ansatz, angles, x.double())[:, :NUM_CLASSES]
        losses = []
        for row, label in zip(p.tolist(), y.tolist(), strict=True):
            odds = [q / (1 - q) for q in row]
            losses.append(math.log(sum(odds)) - math.log(odds[label]))
        return mean_of(losses)

    angles = learner.network.angles.detach().clone()
    gradient = torch.zeros_like(angles)
    for gate in range(angles.shape[0]):
        for word in range(15):
            step = torch.zeros_like(angles)
            step[gate, word] = 1e-5
            gradient[gate, word] = (loss(angles + step) - loss(angles - step)) / 2e-5
    expected = mean_of([norm_of(gradient[:2]), norm_of(gradient[2:])])
    assert gradient_norm(learner, task) == pytest.approx(expected, rel=1e-6)


def test_angles_are_split_within_a_larger_network_too() -> None:
    network = nn.Sequential(tiny_network("qnn"), nn.Linear(NUM_CLASSES, NUM_CLASSES))
    learner, task = Learner(network, make_adam, cross_entropy), tiny_task()
    angles, linear = network[0].angles, network[1]
    weights = [angles[:2], angles[2:], linear.weight]
    assert weight_norm(learner, task) == pytest.approx(mean_of([norm_of(w) for w in weights]))
    cross_entropy(network(task.train.batch(slice(None))[0]), task.train.labels).backward()
    parts = [angles.grad[:2], angles.grad[2:], linear.weight.grad, linear.bias.grad]
    expected = mean_of([norm_of(part) for part in parts])
    assert gradient_norm(learner, task) == pytest.approx(expected, rel=1e-5)


def test_gradient_norm_is_had_under_no_grad_too() -> None:
    learner, task = tiny_learner("mlp"), tiny_task()
    expected = gradient_norm(learner, task)
    with torch.no_grad():
        assert gradient_norm(learner, task) == expected
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


# --- the gradient's zeros


def test_zeros_of_the_gradient_are_counted_number_by_number() -> None:
    learner, task = tiny_learner("mlp"), tiny_task()
    first, _, last = learner.network
    with torch.no_grad():
        first.bias[1] = -100.0  # a dead unit
    x, y = task.train.batch(slice(None))
    cross_entropy(learner.network(x), y).backward()
    numbers = [n for p in learner.network.parameters() for n in p.grad.flatten().tolist()]
    expected = numbers.count(0.0) / len(numbers)
    learner.network.zero_grad()
    # Ten of 16 inputs are padding; of the dead unit nothing gets a gradient.
    dead = 1 + 6 + NUM_CLASSES
    assert expected == (5 * 10 + dead) / (16 * 5 + 5 + 5 * NUM_CLASSES + NUM_CLASSES)
    assert gradient_start(learner, task) == {"zeros": expected}
    assert gradient_end(learner, task)["zeros"] == expected
    assert gradient_end(learner, task)["norm"] == gradient_norm(learner, task)
    assert first.weight.grad is None and last.weight.grad is None


def test_a_complex_number_of_the_gradient_counts_as_two() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Parameter(torch.ones(NUM_CLASSES, dtype=torch.complex64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :1] * self.weights.real  # the imaginary part gets no gradient

    learner = Learner(Complex(), make_adam, cross_entropy)
    assert gradient_start(learner, tiny_task()) == {"zeros": 0.5}


# --- distances


@pytest.mark.parametrize("arm", ARMS)
def test_update_ratio_and_initial_distance_match_a_loop_over_numbers(arm: str) -> None:
    learner, stream = tiny_learner(arm), tiny_stream()
    metrics = (
        Metric("ratio", UpdateRatio, "during"),
        Metric("distance", prepare=InitialDistance.of).prepared(learner, stream[0], 0),
    )

    def numbers() -> list[float]:
        return [n for p in learner.network.parameters() for n in p.flatten().tolist()]

    initial = before = numbers()
    loop = train_on_stream(learner, stream, epochs=2, batch_size=4, seed=0, metrics=metrics)
    for row in loop:
        after = numbers()
        moved = math.dist(after, before) / math.hypot(*before)
        assert row["ratio"] == pytest.approx(moved, rel=1e-5)
        distance = math.dist(after, initial) / math.sqrt(len(initial))
        assert row["distance"] == pytest.approx(distance, rel=1e-5)
        before = after
    assert row["distance"] > 0


def test_what_a_remedy_does_before_a_task_is_no_update_of_it() -> None:
    def shrink(learner: Learns, index: int) -> None:
        with torch.no_grad():
            for parameter in learner.network.parameters():
                parameter.mul_(0.5)

    learner = tiny_learner("mlp", Before(shrink))
    for group in learner.optimizer.param_groups:
        group["lr"] = 0.0
    ratio = Metric("ratio", UpdateRatio, "during")
    distance = Metric("distance", prepare=InitialDistance.of)
    metrics = [m.prepared(learner, tiny_stream()[0], 0) for m in (ratio, distance)]
    size = math.hypot(*(norm_of(p) for p in learner.network.parameters()))
    count = sum(p.numel() for p in learner.network.parameters())
    loop = train_on_stream(learner, tiny_stream(), epochs=1, batch_size=4, seed=0, metrics=metrics)
    for k, row in enumerate(loop, start=1):
        assert row["ratio"] == 0
        assert row["distance"] == pytest.approx((1 - 0.5**k) * size / math.sqrt(count), rel=1e-5)


def test_update_ratio_is_undefined_where_a_task_begins_at_zero() -> None:
    learner = tiny_learner("mlp")
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.zero_()
    watching = UpdateRatio(learner, tiny_task())
    learner.update(*tiny_task().train.batch(slice(None)), [watching])
    assert {*watching.value()} == {""} and math.isnan(watching.value()[""])


def test_a_complex_parameter_has_two_numbers_of_distance() -> None:
    network = nn.ParameterList([torch.zeros(2, dtype=torch.complex64), torch.zeros(1)])
    learner, task = Learner(network, make_adam, cross_entropy), tiny_task()
    metric = InitialDistance.of(learner, task, 0)
    with torch.no_grad():
        network[0][1] = 3 + 4j
    assert metric(learner, task) == pytest.approx(5 / math.sqrt(5))
