"""Metrics: each against loops, and none leaves a trace."""

import copy
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.metrics import measures as metrics
from plasticity.metrics.measures import (
    FisherProbe,
    Metric,
    fisher_traces,
    gradient_norm,
    logit_statistics,
    probe,
    test_accuracy,
    weight_norm,
)
from plasticity.networks.mlp import bounded, mlp
from plasticity.quantum.circuits import Brickwork, Staircase
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities, SignedPauliZ
from plasticity.seeding import generator_for
from plasticity.tasks.streams import Task
from tests.oracle import DATA, dense_probabilities
from tests.tiny import (
    ARMS,
    NUM_CLASSES,
    NUM_INPUTS,
    NUM_QUBITS,
    make_adam,
    random_states,
    same,
    tiny_images,
    tiny_learner,
    tiny_network,
    tiny_stream,
)


def fisher(learner: Learner, task: Task) -> dict[str, float]:
    return FisherProbe.of(learner.network, task, seed=0)(learner, task)


ALL = (test_accuracy, weight_norm, gradient_norm, logit_statistics, fisher)


def task_of(num_train: int = 11, num_test: int = 17) -> Task:
    return tiny_stream(tiny_images(num_train, num_test))[1]


def norm_of(numbers: torch.Tensor) -> float:
    return math.sqrt(sum(number**2 for number in numbers.flatten().tolist()))


def mean_of(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("num_test", [1, 7, 14, 17])
def test_accuracy_matches_one_sample_at_a_time(
    arm: str, num_test: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "EVALUATION_BATCH", 7)
    learner, task = tiny_learner(arm), task_of(num_test=num_test)
    right = 0
    for k in range(num_test):
        x, y = task.test.batch(slice(k, k + 1))
        logits = learner.network(x)[0].tolist()
        right += logits.index(max(logits)) == y.item()
    assert test_accuracy(learner, task) == right / num_test


def test_accuracy_is_all_or_nothing_where_labels_say_so() -> None:
    images = tiny_images()
    learner = tiny_learner("mlp")
    right = tiny_stream(images)[0].test.batch(slice(None))[0]
    images.y_test[:] = learner.network(right).argmax(1).numpy()
    assert test_accuracy(learner, tiny_stream(images)[0]) == 1.0
    images.y_test[:] = (images.y_test + 1) % NUM_CLASSES
    assert test_accuracy(learner, tiny_stream(images)[0]) == 0.0


def test_evaluation_batches_bound_memory_and_cover_each_sample_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "EVALUATION_BATCH", 7)
    sizes = []
    learner = tiny_learner("mlp")
    learner.network.register_forward_hook(lambda module, inputs, out: sizes.append(len(out)))
    test_accuracy(learner, task_of(num_test=17))
    assert sizes == [7, 7, 3]


def test_weight_norm_of_an_mlp_is_over_matrices_without_biases() -> None:
    learner = tiny_learner("mlp")
    with torch.no_grad():
        for module in (learner.network[0], learner.network[2]):
            module.bias.fill_(100.0)
    first, _, last = learner.network
    expected = mean_of([norm_of(first.weight), norm_of(last.weight)])
    assert weight_norm(learner, task_of()) == pytest.approx(expected, rel=1e-5)


def test_weight_norm_of_a_qnn_is_over_even_and_odd_bricks() -> None:
    learner = tiny_learner("qnn")
    pairs = learner.network.ansatz.pairs
    assert pairs == ((0, 1), (2, 3), (1, 2))
    even, odd = learner.network.angles[:2], learner.network.angles[2:]
    expected = mean_of([norm_of(even), norm_of(odd)])
    assert weight_norm(learner, task_of()) == pytest.approx(expected, rel=1e-5)


def test_weight_norm_of_an_ansatz_without_groups_is_over_all_angles() -> None:
    network = QNN(Staircase(NUM_QUBITS, 1), LogOdds(NUM_CLASSES), torch.ones)
    learner = Learner(network, make_adam, cross_entropy)
    assert weight_norm(learner, task_of()) == pytest.approx(math.sqrt(45), rel=1e-5)


def test_weight_norm_of_other_modules_is_over_their_matrices() -> None:
    convolution = nn.Conv1d(2, 3, 4)
    complex_weights = nn.ParameterList([torch.full((2, 2), 3 + 4j), torch.ones(7)])
    learner = Learner(nn.Sequential(convolution, complex_weights), make_adam, cross_entropy)
    expected = mean_of([norm_of(convolution.weight), 10.0])
    assert weight_norm(learner, task_of()) == pytest.approx(expected, rel=1e-5)


def test_weight_norm_of_a_network_without_matrices_is_undefined() -> None:
    learner = Learner(nn.BatchNorm1d(3), make_adam, cross_entropy)
    assert math.isnan(weight_norm(learner, task_of()))


def test_weight_norms_at_task_0_have_the_scale_of_the_protocol() -> None:
    generator = generator_for(0, "initial weights")
    angles = 2 * math.pi * torch.rand(36, 15, generator=generator)
    for network, expected in (
        (mlp((784, 16, 10), generator), 4.5),
        (QNN(Brickwork(10, 4), LogOdds(10), lambda shape: angles), 59.5),
    ):
        norm = weight_norm(Learner(network, make_adam, cross_entropy), task_of())
        assert norm == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("num_train", [11, 128, 150])
def test_gradient_norm_of_an_mlp_is_over_weights_and_biases_on_128_samples(num_train: int) -> None:
    learner, task = tiny_learner("mlp"), task_of(num_train)
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
    learner, task = tiny_learner("qnn"), task_of()
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
    learner, task = Learner(network, make_adam, cross_entropy), task_of()
    angles, linear = network[0].angles, network[1]
    weights = [angles[:2], angles[2:], linear.weight]
    assert weight_norm(learner, task) == pytest.approx(mean_of([norm_of(w) for w in weights]))
    cross_entropy(network(task.train.batch(slice(None))[0]), task.train.labels).backward()
    parts = [angles.grad[:2], angles.grad[2:], linear.weight.grad, linear.bias.grad]
    expected = mean_of([norm_of(part) for part in parts])
    assert gradient_norm(learner, task) == pytest.approx(expected, rel=1e-5)


def test_gradient_norm_is_had_under_no_grad_too() -> None:
    learner, task = tiny_learner("mlp"), task_of()
    expected = gradient_norm(learner, task)
    with torch.no_grad():
        assert gradient_norm(learner, task) == expected
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def everything(learner: Learner) -> list:
    """All of a learner that a metric could disturb, and the random states."""
    parts = [
        learner.state_dict(),
        [p.grad for p in learner.network.parameters()],
        [p.requires_grad for p in learner.network.parameters()],
        [module.training for module in learner.network.modules()],
        random_states(),
    ]
    return copy.deepcopy(parts)


def learners(arm: str) -> Iterator[Learner]:
    """A newborn learner, one with moments and gradients, and one set to evaluate in part."""
    yield tiny_learner(arm)
    learner = tiny_learner(arm)
    learner.update(*task_of().train.batch(slice(0, 5)))
    yield learner
    learner.network.eval()
    next(iter(learner.network.modules())).training = True
    yield learner


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("metric", ALL)
def test_metric_leaves_learner_and_random_state_untouched(metric, arm: str) -> None:
    for learner in learners(arm):
        objects = learner.network, learner.optimizer, *learner.network.parameters()
        before = everything(learner)
        value = metric(learner, task_of())
        assert isinstance(value, float | dict)
        assert same(everything(learner), before)
        after = learner.network, learner.optimizer, *learner.network.parameters()
        assert all(a is b for a, b in zip(objects, after, strict=True))
        assert metric(learner, task_of()) == value


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.BatchNorm1d(NUM_INPUTS)])
@pytest.mark.parametrize("metric", [test_accuracy, gradient_norm])
def test_metric_leaves_dropout_and_batch_norm_untouched(metric, layer: nn.Module) -> None:
    network = nn.Sequential(copy.deepcopy(layer), tiny_network("mlp"))
    learner = Learner(network, make_adam, cross_entropy)
    before = everything(learner)
    metric(learner, task_of())
    assert same(everything(learner), before)


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("when", ["before", "after"])
def test_metric_is_due_at_multiples_of_every_and_at_its_moment(when, every: int) -> None:
    metric = Metric("name", weight_norm, when, every)
    other = {"before": "after", "after": "before"}[when]
    multiples = {0, *range(every, 20, every)}
    for index in range(20):
        assert metric.due(when, index) == (index in multiples)
        assert not metric.due(other, index)


def test_metric_is_due_after_every_task_by_default() -> None:
    assert all(Metric("name", weight_norm).due("after", index) for index in range(5))
    assert not any(Metric("name", weight_norm).due("before", index) for index in range(5))


# --- Fisher information


def loop_of_fisher_traces(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple:
    """One backward pass a sample and class."""
    empirical = true = 0.0
    for sample, label in zip(x, y, strict=True):
        logits = network(sample[None])
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        log_p = logits.log_softmax(1)[0]
        for c in range(len(log_p)):
            gradients = torch.autograd.grad(log_p[c], list(network.parameters()), retain_graph=True)
            squared = sum(float(g.abs().square().sum()) for g in gradients)
            true += float(log_p[c].exp().detach()) * squared
            empirical += squared if c == label else 0
    return empirical / len(x), true / len(x)


class Twice(nn.Module):
    """Use a layer twice, as a recurrent network does."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.shared(self.shared(x).tanh()))


class Tied(nn.Module):
    """Share a weight between layers, and leave a layer out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(x).tanh()))


class Sequence(nn.Module):
    """See each sample as a sequence, all of which goes through one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.last = nn.Linear(2, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.each(x.unflatten(1, (4, 2))).tanh().sum(1))


class Unusual(nn.Module):
    """Have a scalar and a complex parameter beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.mixing = nn.Parameter(torch.randn(8, 8, dtype=torch.complex128))
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = torch.view_as_real(x.to(self.mixing.dtype) @ self.mixing).square().sum(-1)
        return self.last((self.scale * mixed).tanh())


FISHER_NETWORKS = {
    "a layer used twice": Twice,
    "a shared weight": Tied,
    "sequences": Sequence,
    "scalar and complex": Unusual,
    "mlp": lambda: mlp((8, 5, 3), torch.Generator().manual_seed(0)),
    "bounded mlp": lambda: bounded(mlp((8, 5, 2), torch.Generator().manual_seed(0))),
    "qnn z": lambda: QNN(Brickwork(3, 2), SignedPauliZ(2)),
    "qnn log odds": lambda: QNN(Brickwork(3, 2), LogOdds(3)),
    "one logit": lambda: QNN(Brickwork(3, 2), PauliZ(0)),
    "qnn and head": lambda: nn.Sequential(QNN(Brickwork(3, 1), Probabilities()), nn.Linear(8, 3)),
}


def test_fisher_trace_that_begins_at_zero_has_no_relative_value() -> None:
    learner, stream = tiny_learner("mlp"), tiny_stream()
    with torch.no_grad():
        learner.network[2].weight.zero_()
    x, y = probe(stream[0], 0)
    columns = FisherProbe((x, y), (0.0, 0.0), 0)(learner, stream[0])
    assert math.isnan(columns["true_task0_relative"])
    assert columns["true_task0"] > 0


@pytest.mark.parametrize("make", FISHER_NETWORKS.values(), ids=FISHER_NETWORKS)
@pytest.mark.parametrize("numbers", [1, 10**9])
def test_fisher_traces_match_a_loop_over_samples_and_classes(make, numbers, monkeypatch) -> None:
    monkeypatch.setattr(metrics, "JACOBIAN_NUMBERS", numbers)  # one sample at a time, and all
    torch.manual_seed(0)
    network = make().double()
    x, y = torch.randn(7, 8, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    torch.testing.assert_close(fisher_traces(network, x, y), loop_of_fisher_traces(network, x, y))


def test_fisher_trace_equals_the_authors_number() -> None:
    numbers = {k: torch.from_numpy(v) for k, v in np.load(DATA / "brickwork_z.npz").items()}
    network = QNN(Brickwork(10, 10), SignedPauliZ(9)).double()
    with torch.no_grad():
        network.angles.copy_(numbers["angles"])
    empirical, _ = fisher_traces(network, numbers["inputs"], numbers["labels"])
    assert empirical == pytest.approx(float(numbers["empirical_fisher_trace"]), abs=1e-8)


def test_fisher_probe_is_fixed_and_its_columns_are_ratios_of_traces() -> None:
    learner = tiny_learner("qnn")
    stream = tiny_stream()
    metric = FisherProbe.of(learner.network, stream[0], seed=5)
    x, y = probe(stream[0], 5)
    assert torch.equal(x, probe(stream[0], 5)[0])
    initial = fisher_traces(learner.network, x, y)
    columns = metric(learner, stream[0])
    assert columns["empirical_task0"] == columns["empirical_current"] == initial[0]
    assert columns["true_task0_relative"] == 1
    for _ in range(3):
        learner.update(*stream[0].train.batch(slice(0, 11)))
    columns = metric(learner, stream[2])
    for where, samples in (("task0", (x, y)), ("current", probe(stream[2], 5))):
        traces = loop_of_fisher_traces(learner.network, *samples)
        for kind, trace, at_start in zip(("empirical", "true"), traces, initial, strict=True):
            num_parameters = learner.network.angles.numel()
            assert columns[f"{kind}_{where}"] == pytest.approx(trace, rel=1e-4)
            assert columns[f"{kind}_{where}_per_parameter"] == pytest.approx(
                trace / num_parameters, rel=1e-4
            )
            assert columns[f"{kind}_{where}_relative"] == pytest.approx(trace / at_start, rel=1e-4)


@pytest.mark.parametrize("arm", ARMS)
def test_logit_statistics_match_a_loop(arm: str) -> None:
    learner, task = tiny_learner(arm), tiny_stream()[1]
    values = []
    for x, y in zip(*task.test.batch(slice(None)), strict=True):
        logits = learner.network(x[None])[0].detach()
        p = float(logits.softmax(0)[y])
        values.append((p * (1 - p), float(logits.abs().mean())))
    spread, magnitude = np.mean(values, axis=0)
    expected = {"label_variance": spread, "magnitude": magnitude}
    assert logit_statistics(learner, task) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "qnn"])
def test_a_single_output_is_the_logit_of_class_1(kind: str) -> None:
    network = (
        QNN(Staircase(NUM_QUBITS, 2), PauliZ(0), lambda shape: torch.rand(shape))
        if kind == "qnn"
        else mlp((NUM_INPUTS, 4, 1), generator_for(0, "initial weights"))
    )
    learner, images = Learner(network, make_adam, cross_entropy), tiny_images(num_test=17)
    images.y_test[:] %= 2
    task = tiny_stream(images)[1]
    right, spread, magnitude = 0, [], []
    for x, y in zip(*task.test.batch(slice(None)), strict=True):
        logit = network(x[None]).item()
        p = 1 / (1 + math.exp(-logit))  # of class 1
        right += (p > 0.5) == bool(y)
        spread.append(p * (1 - p))
        magnitude.append(abs(logit))
    assert test_accuracy(learner, task) == right / 17
    expected = {"label_variance": mean_of(spread), "magnitude": mean_of(magnitude)}
    assert logit_statistics(learner, task) == pytest.approx(expected, rel=1e-5)


def test_a_metric_of_several_numbers_makes_several_columns() -> None:
    metric = Metric("a", lambda learner, task: {"b": 1.0, "c": 2.0})
    assert metric.columns(None, None) == {"a_b": 1.0, "a_c": 2.0}
    assert Metric("a", lambda learner, task: 3.0).columns(None, None) == {"a": 3.0}
