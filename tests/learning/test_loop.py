"""The loop: against training written out, from any task on, and what it leaves to others."""

import copy
import inspect
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from plasticity.errors import Diverged
from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.learning.metric import Metric
from plasticity.learning.remedy import Remedy
from plasticity.metrics.accuracy import test_accuracy
from plasticity.metrics.norms import gradient_norm, weight_norm
from plasticity.remedies.resets import ResetOptimizer
from plasticity.seeding import generator_for
from plasticity.tasks.samples import Samples
from plasticity.tasks.streams import Task, TaskStream
from tests.tiny import (
    ARMS,
    Before,
    make_adam,
    random_states,
    same,
    tiny_learner,
    tiny_network,
    tiny_stream,
)

METRICS = (
    Metric("weight_norm", weight_norm, "before"),
    Metric("gradient_norm", gradient_norm, "before", every=2),
    Metric("test_accuracy", test_accuracy),
    Metric("norm_after", weight_norm, "after", every=3),
)
SETTING = {"epochs": 2, "batch_size": 4, "seed": 3, "metrics": METRICS}  # 11 samples: 4, 4, 3


@dataclass
class Recorded:
    """A stream that writes down which tasks and which samples it was asked for."""

    stream: TaskStream
    asked: list

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, index: int) -> Task:
        task = self.stream[index]
        return Task(task.index, RecordedSamples(task.train, index, self.asked), task.test)


@dataclass
class RecordedSamples:
    samples: Samples
    index: int
    asked: list

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, index):
        self.asked.append((self.index, tuple(index.tolist())))
        return self.samples.batch(index)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("arm", ARMS)
def test_rows_equal_training_written_out(arm: str, reset: bool) -> None:
    stream = tiny_stream(num_tasks=4)
    learner = tiny_learner(arm, *[ResetOptimizer()] * reset)
    network = tiny_network(arm)
    optimizer = make_adam(list(network.parameters()))
    onlooker = Learner(network, make_adam, cross_entropy)
    rows = train_on_stream(learner, stream, **SETTING)
    for index in range(4):
        task = stream[index]
        expected = {"task": index, "weight_norm": weight_norm(onlooker, task)}
        if index in (0, 2):
            expected["gradient_norm"] = gradient_norm(onlooker, task)
        if reset:
            optimizer = make_adam(list(network.parameters()))
        for epoch in range(2):
            generator = generator_for(3, "order", index, epoch)
            order = torch.randperm(11, generator=generator).tolist()
            losses = []
            for chosen in (order[:4], order[4:8], order[8:]):
                x, y = task.train.batch(torch.tensor(chosen))
                optimizer.zero_grad()
                loss = cross_entropy(network(x), y)
                loss.backward()
                optimizer.step()
                losses += [loss.item()] * len(chosen)
        expected["train_loss"] = pytest.approx(sum(losses) / 11, rel=1e-6)
        expected["test_accuracy"] = test_accuracy(onlooker, task)
        if index in (0, 3):
            expected["norm_after"] = weight_norm(onlooker, task)
        assert next(rows) == expected
        assert same(learner.network.state_dict(), network.state_dict())
    assert next(rows, None) is None


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("start", [1, 3])
def test_starting_at_a_task_equals_the_tail_of_the_uninterrupted_run(
    start: int, arm: str, reset: bool
) -> None:
    stream = tiny_stream(num_tasks=5)
    remedies = [ResetOptimizer()] * reset
    uninterrupted = tiny_learner(arm, *remedies)
    rows, states = [], []
    for row in train_on_stream(uninterrupted, stream, **SETTING):
        rows.append(row)
        states.append(copy.deepcopy(uninterrupted.state_dict()))
    resumed = tiny_learner(arm, *remedies, seed=8)
    resumed.load_state_dict(states[start - 1])
    tail = list(train_on_stream(resumed, stream, **SETTING, start=start))
    assert tail == rows[start:]
    assert same(resumed.state_dict(), uninterrupted.state_dict())


def test_starting_at_the_end_trains_nothing() -> None:
    learner = tiny_learner("mlp")
    before = copy.deepcopy(learner.state_dict())
    assert list(train_on_stream(learner, tiny_stream(), **SETTING, start=3)) == []
    assert same(learner.state_dict(), before)


def test_each_epoch_shows_every_sample_once_and_the_last_batch_is_smaller() -> None:
    stream = Recorded(tiny_stream(num_tasks=2), [])
    setting = {"epochs": 2, "batch_size": 4, "seed": 0}
    for _ in train_on_stream(tiny_learner("mlp"), stream, **setting):
        pass
    assert [(task, len(samples)) for task, samples in stream.asked] == [
        (task, size) for task in (0, 1) for _ in range(2) for size in (4, 4, 3)
    ]
    epochs = [sum((s for _, s in stream.asked[k : k + 3]), ()) for k in range(0, 12, 3)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len(set(epochs)) == 4  # in another order every time


def test_both_arms_get_the_same_batches_whatever_else_is_drawn_or_measured() -> None:
    asked = []
    for arm, metrics in (("mlp", ()), ("qnn", METRICS[-1:])):
        stream = Recorded(tiny_stream(), [])
        learner = tiny_learner(arm, Before(lambda learner, index: torch.rand(index + 1)))
        rows = train_on_stream(learner, stream, epochs=2, batch_size=4, seed=3, metrics=metrics)
        with torch.random.fork_rng():
            torch.manual_seed(len(asked))
            list(rows)
        asked.append(stream.asked)
    assert asked[0] == asked[1]
    other_seed = Recorded(tiny_stream(), [])
    list(train_on_stream(tiny_learner("mlp"), other_seed, epochs=2, batch_size=4, seed=4))
    assert other_seed.asked != asked[0]


def test_measuring_does_not_change_what_is_learned() -> None:
    watched, unwatched = tiny_learner("mlp"), tiny_learner("mlp")
    rows = list(train_on_stream(watched, tiny_stream(), **SETTING))
    bare = list(train_on_stream(unwatched, tiny_stream(), **SETTING | {"metrics": ()}))
    assert bare == [{key: row[key] for key in ("task", "train_loss")} for row in rows]
    assert same(watched.state_dict(), unwatched.state_dict())


def test_a_batch_larger_than_the_set_is_the_whole_set() -> None:
    whole, larger = tiny_learner("mlp"), tiny_learner("mlp")
    setting = {"epochs": 2, "seed": 0}
    expected = list(train_on_stream(whole, tiny_stream(), batch_size=11, **setting))
    assert list(train_on_stream(larger, tiny_stream(), batch_size=500, **setting)) == expected


def test_train_loss_is_the_mean_over_samples_of_the_last_epoch() -> None:
    learner = tiny_learner("mlp")
    losses = []
    update = learner.update

    def spy(x: torch.Tensor, y: torch.Tensor, observers=()) -> torch.Tensor:
        loss = update(x, y, observers)
        losses.append((loss.item(), len(y)))
        return loss

    learner.update = spy
    setting = SETTING | {"epochs": 3}
    (row,) = train_on_stream(learner, tiny_stream(num_tasks=1), **setting)
    assert [size for _, size in losses] == [4, 4, 3] * 3
    expected = sum(loss * size for loss, size in losses[-3:]) / 11
    assert row["train_loss"] == pytest.approx(expected, rel=1e-6)


def test_rows_are_plain_numbers_in_the_order_of_events() -> None:
    row = next(train_on_stream(tiny_learner("qnn"), tiny_stream(), **SETTING))
    assert list(row) == [
        "task", "weight_norm", "gradient_norm", "train_loss", "test_accuracy", "norm_after",
    ]  # fmt: skip
    assert {type(value) for key, value in row.items() if key != "task"} == {float}
    assert type(row["task"]) is int


def test_it_is_a_generator_that_does_nothing_before_the_first_row_is_wanted() -> None:
    calls = []
    stream = Recorded(tiny_stream(), [])
    learner = tiny_learner("mlp", Before(lambda learner, index: calls.append(index)))
    before = copy.deepcopy(learner.state_dict())
    rows = train_on_stream(learner, stream, **SETTING | {"metrics": ()})
    assert inspect.isgenerator(rows)
    assert (calls, stream.asked) == ([], [])
    assert same(learner.state_dict(), before)
    next(rows)
    assert calls == [0]
    assert {task for task, _ in stream.asked} == {0}
    assert not same(learner.state_dict(), before)


def test_remedies_act_before_metrics_look() -> None:
    seen = []
    learner = tiny_learner("mlp", Before(lambda learner, index: seen.append(("remedy", index))))
    look = [
        Metric(when, lambda learner, task, when=when: seen.append((when, task.index)) or 0.0, when)
        for when in ("after", "before")
    ]
    list(train_on_stream(learner, tiny_stream(num_tasks=2), **SETTING | {"metrics": look}))
    assert seen == [(event, index) for index in (0, 1) for event in ("remedy", "before", "after")]


@pytest.mark.parametrize("arm", ARMS)
def test_global_random_states_are_untouched(arm: str) -> None:
    before = random_states()
    list(train_on_stream(tiny_learner(arm), tiny_stream(num_tasks=2), **SETTING))
    assert same(random_states(), before)


def test_a_learner_whose_steps_explode_raises_diverged() -> None:
    learner = Learner(tiny_network("mlp"), lambda p: torch.optim.SGD(p, lr=1e30), cross_entropy)
    rows = train_on_stream(learner, tiny_stream(), **SETTING)
    with pytest.raises(Diverged, match=r"training loss of task 0 is (nan|inf)"):
        next(rows)


@pytest.mark.parametrize(
    "arm",
    [
        "mlp",
        "qnn",
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_before_the_divergence_are_had_and_the_task_is_named(arm: str, value: float) -> None:
    def break_at_2(learner: Learner, index: int) -> None:
        if index == 2:
            with torch.no_grad():
                next(learner.network.parameters()).fill_(value)

    setting = SETTING | {"metrics": ()}
    rows = train_on_stream(
        tiny_learner(arm, Before(break_at_2)), tiny_stream(num_tasks=4), **setting
    )
    assert [next(rows)["task"], next(rows)["task"]] == [0, 1]
    with pytest.raises(Diverged, match="training loss of task 2 is nan"):
        next(rows)


class Accuracy:
    """Count what was right before the updates."""

    def __init__(self) -> None:
        self.right, self.seen = 0, 0

    def __call__(self, outputs: torch.Tensor, labels: torch.Tensor) -> None:
        self.right += int((outputs.argmax(1) == labels).sum())
        self.seen += len(labels)

    def value(self) -> float:
        return self.right / self.seen


def test_a_metric_during_a_task_sees_its_first_epoch_before_each_update() -> None:
    stream = tiny_stream()
    metric = Metric("online", lambda learner, task: Accuracy(), "during", every=2)
    watched, onlooker = tiny_learner("mlp"), tiny_learner("mlp")
    setting = SETTING | {"metrics": (*METRICS, metric)}
    for index, row in enumerate(train_on_stream(watched, stream, **setting)):
        right = 0
        for epoch in range(2):
            order = torch.randperm(11, generator=generator_for(3, "order", index, epoch))
            for indices in order.split(4):
                x, y = stream[index].train.batch(indices)
                if epoch == 0:
                    right += int((onlooker.network(x).argmax(1) == y).sum())
                onlooker.update(x, y)
        assert row.get("online") == (right / 11 if index % 2 == 0 else None)
    assert same(watched.state_dict(), onlooker.state_dict())
    assert list(row)[:4] == ["task", "weight_norm", "gradient_norm", "train_loss"]
    assert list(row).index("online") == 4  # right after the loss


class Rank(Remedy):
    """Report how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def columns(self) -> dict[str, float]:
        self.asked += 1
        return {"asked": float(self.asked)}


def test_what_remedies_did_stands_after_the_loss_and_before_what_is_measured() -> None:
    rows = list(train_on_stream(tiny_learner("mlp", Rank()), tiny_stream(), **SETTING))
    assert [row["asked"] for row in rows] == [1.0, 2.0, 3.0]
    assert list(rows[0]) == [
        "task", "weight_norm", "gradient_norm", "train_loss", "asked", "test_accuracy",
        "norm_after",
    ]  # fmt: skip


@dataclass
class Chosen:
    """Some of a stream's tasks."""

    stream: TaskStream
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Task:
        return self.stream[self.indices[place]]


def test_a_task_has_the_same_batches_wherever_it_stands_in_a_stream() -> None:
    asked = []
    for indices in ((0, 1, 2, 3), (3, 1)):
        stream = Recorded(Chosen(tiny_stream(num_tasks=4), indices), [])
        learner = tiny_learner("mlp")
        rows = list(train_on_stream(learner, stream, epochs=2, batch_size=4, seed=3))
        assert [row["task"] for row in rows] == list(indices)
        asked.append(stream.asked)
    whole, some = asked
    for place, task in enumerate((3, 1)):
        batches = [batch for where, batch in some if where == place]
        assert batches == [batch for where, batch in whole if where == task]


class Progress:
    """Samples that write down at which part of the task they were asked for."""

    def __init__(self, samples: Samples, asked: list) -> None:
        self.samples, self.asked = samples, asked

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, index):
        raise AssertionError("the loop asks for the samples of the moment")

    def at(self, progress: float) -> Samples:
        self.asked.append(progress)
        return self.samples


def test_samples_that_change_are_told_which_part_of_the_updates_is_done() -> None:
    asked: list[float] = []
    task = tiny_stream()[0]
    changing = [Task(0, Progress(task.train, asked), task.test)]
    learner, plain = tiny_learner("mlp"), tiny_learner("mlp")
    setting = SETTING | {"metrics": ()}
    assert list(train_on_stream(learner, changing, **setting)) == list(
        train_on_stream(plain, [task], **setting)
    )
    assert asked == [number / 6 for number in range(6)]  # 2 epochs of 3 batches


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"epochs": 0}, "epochs 0: at least 1"),
        ({"epochs": 1.5}, "epochs 1.5: must be an integer"),
        ({"batch_size": 0}, "batch_size 0: at least 1"),
        ({"batch_size": -1}, "batch_size -1: at least 1"),
        ({"metrics": ["fisher"]}, "metrics: 'fisher' is none"),
        ({"stream": iter([])}, "stream must be a sequence of Task, not list_iterator"),
        ({"stream": [(torch.rand(1, 2), torch.zeros(1))]}, "task 0 .* must be a Task, not tuple"),
    ],
)
def test_what_cannot_be_trained_is_named(options: dict[str, Any], part: str) -> None:
    learner = Learner(torch.nn.Linear(2, 2), torch.optim.Adam, torch.nn.functional.cross_entropy)
    options = {"stream": [], "epochs": 1, "batch_size": 2, "seed": 0} | options
    with pytest.raises((TypeError, ValueError), match=part):
        list(train_on_stream(learner, options.pop("stream"), **options))
