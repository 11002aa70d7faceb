"""Accuracy and logits, against one sample at a time."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.metrics import accuracy
from plasticity.metrics.accuracy import logit_statistics, test_accuracy
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
