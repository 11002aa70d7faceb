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
    assert metric.columns(None, None) == {"a_b": 1.0, "a_c": 2.0}
    assert Metric("a", lambda learner, task: 3.0).columns(None, None) == {"a": 3.0}
