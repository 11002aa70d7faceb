"""When a metric is due, and which columns it makes."""

import pytest

from plasticity.learning.metric import Metric


def measure(learner, task) -> float:
    return 0.0


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("when", ["before", "after"])
def test_metric_is_due_at_multiples_of_every_and_at_its_moment(when, every: int) -> None:
    metric = Metric("name", measure, when, every)
    other = {"before": "after", "after": "before"}[when]
    multiples = {0, *range(every, 20, every)}
    for index in range(20):
        assert metric.due(when, index) == (index in multiples)
        assert not metric.due(other, index)


def test_metric_is_due_after_every_task_by_default() -> None:
    assert all(Metric("name", measure).due("after", index) for index in range(5))
    assert not any(Metric("name", measure).due("before", index) for index in range(5))


def test_a_metric_of_several_numbers_makes_several_columns() -> None:
    metric = Metric("a", lambda learner, task: {"b": 1.0, "c": 2.0})
    assert metric.columns(metric.take(None, None)) == {"a_b": 1.0, "a_c": 2.0}
    one = Metric("a", lambda learner, task: 3.0)
    assert one.columns(one.take(None, None)) == {"a": 3.0}


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_sparse_metric_is_also_due_at_powers_of_two(when: str) -> None:
    metric = Metric("name", measure, when, every=50, sparse=True)
    due = [index for index in range(160) if metric.due(when, index)]
    assert due == [0, 1, 2, 4, 8, 16, 32, 50, 64, 100, 128, 150]


def test_a_metric_that_compares_with_the_beginning_is_prepared_once_and_then_taken() -> None:
    def prepare(learner: str, first: str, seed: int):
        return lambda now, task: f"{learner} {first} {seed}, {now} {task}"

    metric = Metric("name", prepare=prepare, every=3)
    with pytest.raises(ValueError, match="name has to be prepared"):
        metric.take("trained", "task 7")
    ready = metric.prepared("untrained", "task 0", 5)
    assert ready.take("trained", "task 7") == "untrained task 0 5, trained task 7"
    assert (ready.name, ready.when, ready.every) == ("name", "after", 3)
    plain = Metric("name", measure)
    assert plain.prepared("untrained", "task 0", 5) is plain


@pytest.mark.parametrize(
    "wrong",
    [
        {"fn": measure, "when": "now"},
        {"fn": measure, "every": 0},
        {},
        {"fn": measure, "prepare": lambda *_: measure},
    ],
)
def test_a_metric_that_makes_no_sense_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="metric name"):
        Metric("name", **wrong)
