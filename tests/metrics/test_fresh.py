"""The gap to a fresh network, against one that is trained by hand."""

import pytest
import torch

from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.metrics import METRICS
from plasticity.remedies.resets import ResetOptimizer, StartAfresh
from plasticity.seeding import generator_for
from tests.tiny import ARMS, Before, tiny_images, tiny_learner, tiny_stream

SEED = 4


def rows_of(learner: Learner, epochs: int = 2) -> list[dict]:
    """Four tasks of 23 samples in batches of 6; the last of an epoch has 5."""
    stream = tiny_stream(tiny_images(num_train=23, num_test=40), num_tasks=4)
    metric = METRICS["fresh"].prepared(learner, stream[0], SEED)
    accuracy = METRICS["test_accuracy"]
    return [
        *train_on_stream(
            learner, stream, epochs=epochs, batch_size=6, seed=SEED, metrics=[metric, accuracy]
        )
    ]


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("arm", ARMS)
def test_gap_is_that_to_a_network_trained_by_hand(arm: str, epochs: int) -> None:
    rows = rows_of(tiny_learner(arm), epochs)
    for row, task in zip(rows, tiny_stream(tiny_images(23, 40), num_tasks=4), strict=True):
        twin = tiny_learner(arm)
        for epoch in range(epochs):
            order = torch.randperm(23, generator=generator_for(SEED, "order", task.index, epoch))
            for place in range(0, 23, 6):
                twin.update(*task.train.batch(order[place : place + 6]))
        x, y = task.test.batch(slice(None))
        right = sum(int(twin.network(x[k : k + 1]).argmax()) == int(y[k]) for k in range(40))
        assert row["fresh_accuracy"] == right / 40
        assert row["fresh_gap"] == right / 40 - row["test_accuracy"]
    assert rows[0]["fresh_gap"] == 0
    assert any(row["fresh_gap"] != 0 for row in rows[1:])


def test_a_learner_that_starts_afresh_has_no_gap() -> None:
    rows = rows_of(tiny_learner("mlp", StartAfresh()))
    assert [row["fresh_gap"] for row in rows] == [0, 0, 0, 0]


def test_the_fresh_network_has_the_remedies_of_the_learner() -> None:
    """Halve the weights before each task: then those of the fresh one are halved once."""

    def halve(learner: Learner, index: int) -> None:
        for parameter in learner.network.parameters():
            parameter.data *= 0.5

    of_both = rows_of(tiny_learner("mlp", ResetOptimizer(), Before(halve)))
    assert of_both[0]["fresh_gap"] == 0
    alone = rows_of(tiny_learner("mlp"))
    assert [r["fresh_accuracy"] for r in of_both] != [r["fresh_accuracy"] for r in alone]


def test_there_is_no_gap_to_a_fresh_network_that_diverges() -> None:
    def spoil(learner: Learner, index: int) -> None:
        if learner.steps == 0 and index == 2:  # the twin's first task
            next(learner.network.parameters()).data.fill_(torch.nan)

    rows = rows_of(tiny_learner("mlp", Before(spoil)))
    assert ["fresh_gap" in row for row in rows] == [True, True, False, True]
