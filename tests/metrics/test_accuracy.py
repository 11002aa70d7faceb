"""Accuracy and logits, against one sample at a time."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.learning.metric import Metric
from plasticity.metrics import accuracy
from plasticity.metrics.accuracy import (
    OnlineAccuracy,
    logit_statistics,
    max_probability,
    test_accuracy,
)
from plasticity.networks.mlp import mlp
from plasticity.quantum.circuits import Staircase
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import PauliZ
from plasticity.seeding import generator_for
from tests.tiny import (
    ARMS,
    NUM_CLASSES,
    NUM_INPUTS,
    NUM_QUBITS,
    make_adam,
    tiny_images,
    tiny_learner,
    tiny_network,
    tiny_stream,
    tiny_task,
)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("num_test", [1, 7, 14, 17])
def test_accuracy_matches_one_sample_at_a_time(
    arm: str, num_test: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "EVALUATION_BATCH", 7)
    learner, task = tiny_learner(arm), tiny_task(num_test=num_test)
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
    monkeypatch.setattr(accuracy, "EVALUATION_BATCH", 7)
    sizes = []
    learner = tiny_learner("mlp")
    learner.network.register_forward_hook(lambda module, inputs, out: sizes.append(len(out)))
    test_accuracy(learner, tiny_task(num_test=17))
    assert sizes == [7, 7, 3]


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
    expected = {"label_variance": np.mean(spread), "magnitude": np.mean(magnitude)}
    assert logit_statistics(learner, task) == pytest.approx(expected, rel=1e-5)


# --- an evaluation that several metrics share


def count_of_evaluations(learner: Learner) -> list[int]:
    sizes: list[int] = []
    learner.network.register_forward_hook(lambda module, inputs, out: sizes.append(len(out)))
    return sizes


def test_metrics_of_a_task_share_an_evaluation() -> None:
    learner, task = tiny_learner("mlp"), tiny_task()
    sizes = count_of_evaluations(learner)
    for metric in (test_accuracy, logit_statistics, max_probability, test_accuracy):
        metric(learner, task)
    assert sizes == [17]


@pytest.mark.parametrize("arm", ARMS)
def test_a_shared_evaluation_is_never_an_old_one(arm: str) -> None:
    learner, stream = tiny_learner(arm), tiny_stream()
    sizes = count_of_evaluations(learner)
    first, second = stream[0], stream[1]
    seen = [logit_statistics(learner, first)]

    def differs() -> None:
        seen.append(logit_statistics(learner, first))
        assert seen[-1] != seen[-2]
        assert len(sizes) == 2 * len(seen) - 1
        logit_statistics(learner, second)  # another task
        assert len(sizes) == 2 * len(seen)

    logit_statistics(learner, second)
    parameter = next(learner.network.parameters())
    with torch.no_grad():
        parameter.view(-1)[3] += 0.5
    differs()
    parameter.data = parameter.data + 0.5  # counted by no version
    differs()
    learner.network.load_state_dict(tiny_network(arm, seed=3).state_dict())
    differs()
    other = tiny_learner(arm, seed=3)
    again = count_of_evaluations(other)
    logit_statistics(learner, first)
    assert logit_statistics(other, first) == logit_statistics(learner, first)
    assert again == [7]


def test_a_shared_evaluation_looks_at_buffers_and_precision_too() -> None:
    network = nn.Sequential(nn.BatchNorm1d(NUM_INPUTS), tiny_network("mlp"))
    learner, task = Learner(network, make_adam, cross_entropy), tiny_task()
    before = logit_statistics(learner, task)
    network[0].running_mean.fill_(0.5)
    after = logit_statistics(learner, task)
    assert after != before
    sizes = count_of_evaluations(learner)
    network[1][0] = copy.deepcopy(network[1][0])  # equal numbers
    assert logit_statistics(learner, task) == after
    assert sizes == []


# --- probabilities


@pytest.mark.parametrize("arm", ARMS)
def test_max_probability_matches_a_loop(arm: str) -> None:
    learner, task = tiny_learner(arm), tiny_task()
    largest = []
    for x in task.test.batch(slice(None))[0]:
        odds = [math.exp(z) for z in learner.network(x[None])[0].tolist()]
        largest.append(max(odds) / sum(odds))
    assert max_probability(learner, task) == pytest.approx(np.mean(largest), rel=1e-5)


def test_max_probability_is_known_where_a_network_says_nothing_and_where_it_is_sure() -> None:
    learner, task = tiny_learner("mlp"), tiny_task()
    with torch.no_grad():
        learner.network[2].weight.zero_()
        assert max_probability(learner, task) == pytest.approx(1 / NUM_CLASSES)
        learner.network[2].bias[1] = 100
    assert max_probability(learner, task) == 1


def test_max_probability_of_a_single_output_is_at_least_a_half() -> None:
    network = nn.Linear(NUM_INPUTS, 1)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.fill_(-2.0)
    found = max_probability(Learner(network, make_adam, cross_entropy), tiny_task())
    assert found == pytest.approx(1 / (1 + math.exp(-2)))


# --- online accuracy


@pytest.mark.parametrize("arm", ARMS)
def test_online_accuracy_asks_each_sample_right_before_its_update(arm: str) -> None:
    learner, stream = tiny_learner(arm), tiny_stream()
    metric = Metric("online", OnlineAccuracy, "during")
    again = copy.deepcopy(learner)
    rows = [*train_on_stream(learner, stream, epochs=2, batch_size=4, seed=5, metrics=[metric])]
    for row, task in zip(rows, stream, strict=True):
        right = 0
        for epoch in range(2):
            order = torch.randperm(11, generator=generator_for(5, "order", task.index, epoch))
            for indices in order.split(4):
                x, y = task.train.batch(indices)
                for sample, label in zip(x, y, strict=True):
                    logits = again.network(sample[None])[0].tolist()
                    right += epoch == 0 and logits.index(max(logits)) == label.item()
                again.update(x, y)
        assert row["online"] == right / 11


def test_online_accuracy_of_one_logit_and_of_no_batch() -> None:
    watching = OnlineAccuracy(tiny_learner("mlp"), tiny_task())
    assert math.isnan(watching.value())
    watching(torch.tensor([[0.3], [-0.2], [5.0]]), torch.tensor([1, 0, 0]))
    watching(torch.tensor([[-0.1]]), torch.tensor([0]))
    assert watching.value() == 0.75
