"""The deficit, against the difference of two ordinary runs."""

import itertools

import pytest
import torch

from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.learning.metric import Metric
from plasticity.learning.remedy import Remedy
from plasticity.metrics import METRICS
from plasticity.protocol.supervised import SomeTasks
from plasticity.remedies.penalties import L2Init
from plasticity.remedies.recycling import ContinualBackprop
from plasticity.remedies.resets import ResetOptimizer
from plasticity.statistics.summaries import last_tasks
from tests.tiny import Before, tiny_images, tiny_learner, tiny_stream

SEED = 4
TASKS = 13
LAST = 10


def stream():
    return tiny_stream(tiny_images(num_train=23, num_test=40), num_tasks=TASKS)


def run(learner: Learner, tasks=None, *metrics: Metric, start: int = 0):
    """Yield the rows of an ordinary run, two epochs of four batches a task."""
    return train_on_stream(
        learner, tasks or stream(), epochs=2, batch_size=6, seed=SEED, start=start,
        metrics=[METRICS["test_accuracy"], *metrics],
    )  # fmt: skip


def measured(learner: Learner, tasks=None, start: int = 0):
    metric = METRICS["deficit"].prepared(learner, stream()[0], SEED)
    return run(learner, tasks, metric, start=start)


@pytest.mark.parametrize(
    ("arm", "remedies"),
    [
        ("mlp", ()),
        ("qnn", ()),
        ("qnn", (L2Init(strength=0.1),)),
        ("mlp", (ResetOptimizer(), ContinualBackprop(0.05, 3, 0.9))),
    ],
)
def test_deficit_is_the_difference_of_two_ordinary_runs_bit_for_bit(
    arm: str, remedies: tuple[Remedy, ...]
) -> None:
    rows = [*measured(tiny_learner(arm, *remedies))]
    aged = [*run(tiny_learner(arm, *remedies))]
    last = [*run(tiny_learner(arm, *remedies), SomeTasks(stream(), range(TASKS - LAST, TASKS)))]
    assert [row["task"] for row in last] == [*range(TASKS - LAST, TASKS)]
    expected = [
        young["test_accuracy"] - old["test_accuracy"]
        for young, old in zip(last, aged[-LAST:], strict=True)
    ]
    assert ["deficit" in row for row in rows] == [False] * (TASKS - LAST) + [True] * LAST
    assert [row["deficit"] for row in rows[-LAST:]] == expected
    assert len({*expected}) > 2
    # And nothing else is changed by it.
    assert [{k: v for k, v in row.items() if k != "deficit"} for row in rows] == aged


@pytest.mark.parametrize("kept", [1, TASKS - LAST, TASKS - LAST + 1, TASKS - 1])
def test_a_run_that_goes_on_has_the_same_deficit(kept: int) -> None:
    whole = [*measured(tiny_learner("mlp", ContinualBackprop(0.05, 3, 0.9)))]
    first = tiny_learner("mlp", ContinualBackprop(0.05, 3, 0.9))
    rows = [*itertools.islice(measured(first), kept)]
    second = tiny_learner("mlp", ContinualBackprop(0.05, 3, 0.9))
    metric = METRICS["deficit"].prepared(second, stream()[0], SEED)
    second.load_state_dict(first.state_dict())
    rows += run(second, None, metric, start=kept)
    assert rows == whole


def test_a_copy_that_diverges_is_at_chance_from_then_on() -> None:
    def spoil(learner: Learner, index: int) -> None:
        if index == 7 and learner.steps == 8 * (7 - TASKS + LAST):  # the copy's
            next(learner.network.parameters()).data.fill_(torch.nan)

    rows = [*measured(tiny_learner("mlp", Before(spoil)))]
    plain = [*measured(tiny_learner("mlp"))]
    assert [r.get("deficit") for r in rows[:7]] == [r.get("deficit") for r in plain[:7]]
    for row in rows[7:]:
        assert row["deficit"] == 1 / 3 - row["test_accuracy"]  # three classes


@pytest.mark.parametrize(
    ("tasks", "last"), [(3, 3), (10, 10), (40, 10), (300, 10), (330, 11), (500, 16), (1000, 33)]
)
def test_there_is_one_at_a_thirtieth_of_the_tasks_and_at_ten_at_least(tasks: int, last) -> None:
    assert last_tasks(tasks) == last


def test_a_learner_that_is_as_untrained_has_no_deficit() -> None:
    """If all tasks are the last ones, both learn the same."""
    rows = [*measured(tiny_learner("mlp"), tiny_stream(num_tasks=8))]
    assert [row["deficit"] for row in rows] == [0] * 8


def test_a_metric_that_is_not_told_the_course_has_no_column() -> None:
    learner = tiny_learner("mlp")
    metric = METRICS["deficit"].prepared(learner, stream()[0], SEED)
    assert metric.columns(metric.take(learner, stream()[0]).value()) == {}
