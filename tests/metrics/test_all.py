"""What every metric has to leave as it was: the learner, what it learns, and random numbers."""

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.learning.metric import Metric
from plasticity.metrics import METRICS
from plasticity.tasks.streams import Task
from tests.tiny import (
    ARMS,
    NUM_CLASSES,
    NUM_INPUTS,
    make_adam,
    random_states,
    same,
    tiny_images,
    tiny_learner,
    tiny_network,
    tiny_stream,
    tiny_task,
)

AT_ONCE = [name for name, metric in METRICS.items() if metric.when != "during"]
WATCHING = [name for name, metric in METRICS.items() if metric.when == "during"]


def prepared(name: str, learner: Learner, first: Task | None = None) -> Metric:
    return METRICS[name].prepared(learner, first or tiny_stream()[0], 0)


def everything(learner: Learner) -> list:
    """All of a learner that a metric could disturb, and the random states."""
    parts = [
        learner.state_dict(),
        [p.grad for p in learner.network.parameters()],
        [p.requires_grad for p in learner.network.parameters()],
        [module.training for module in learner.network.modules()],
        [len(module._forward_hooks) for module in learner.network.modules()],
        [len(module._forward_pre_hooks) for module in learner.network.modules()],
        random_states(),
    ]
    return copy.deepcopy(parts)


def learners(arm: str) -> Iterator[Learner]:
    """A newborn learner, one with moments and gradients, and one set to evaluate in part."""
    yield tiny_learner(arm)
    learner = tiny_learner(arm)
    learner.update(*tiny_task().train.batch(slice(0, 5)))
    yield learner
    learner.network.eval()
    next(iter(learner.network.modules())).training = True
    yield learner


def test_no_metrics_name_begins_with_anothers_and_an_underscore() -> None:
    # Or its columns would be taken for those of the other.
    assert not [(a, b) for a in METRICS for b in METRICS if b.startswith(f"{a}_")]
    assert all(name == metric.name for name, metric in METRICS.items())


@pytest.mark.sampled(15)
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("name", AT_ONCE)
def test_metric_leaves_learner_and_random_state_untouched(name: str, arm: str) -> None:
    for learner in learners(arm):
        objects = learner.network, learner.optimizer, *learner.network.parameters()
        before = everything(learner)
        metric = prepared(name, learner)
        value = metric.take(learner, tiny_task())
        assert isinstance(value, float | dict)
        assert all(type(number) is float for number in metric.columns(value).values())
        assert same(everything(learner), before)
        after = learner.network, learner.optimizer, *learner.network.parameters()
        assert all(a is b for a, b in zip(objects, after, strict=True))
        assert metric.take(learner, tiny_task()) == value


def train(learner: Learner, *metrics: Metric) -> list[dict]:
    """Three tasks of three updates, twice."""
    stream = tiny_stream(tiny_images(num_train=30))
    loop = train_on_stream(learner, stream, epochs=2, batch_size=12, seed=0, metrics=metrics)
    return [*loop]


@pytest.mark.sampled(16)
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("name", METRICS)
def test_a_learner_that_is_measured_learns_the_same(name: str, arm: str) -> None:
    measured, alone = tiny_learner(arm), tiny_learner(arm)
    before = random_states()
    rows = train(measured, prepared(name, measured))
    assert same(random_states(), before)
    others = train(alone)
    assert same(measured.state_dict(), alone.state_dict())
    for row, other in zip(rows, others, strict=True):
        assert {k: row[k] for k in other} == other
        assert {k.removeprefix(f"{name}_") for k in {*row} - {*other}} == COLUMNS[name][arm]


TRACES = {
    f"{kind}_{where}{unit}"
    for kind in ("empirical", "true")
    for where in ("task0", "current")
    for unit in ("", "_per_parameter", "_relative")
}
OF_UNITS = {"fraction", "dead", "gradient_fraction", "gradient_dead"}
COLUMNS = {
    name: {"mlp": mlp, "qnn": qnn}
    for name, mlp, qnn in (
        *((name, {name}, {name}) for name in (
            "gradient_norm", "online_accuracy", "test_accuracy", "max_probability",
            "initial_distance",
        )),
        ("deficit", {"deficit"}, {"deficit"}),
        ("weight_norm", {"weight_norm", "1", "2"}, {"weight_norm", "1"}),
        ("update_ratio", {"update_ratio", "1", "2"}, {"update_ratio", "1"}),
        ("step", {"1", "2"}, {"1"}),
        ("readiness", {"readiness", "1", "2"}, {"readiness", "1"}),
        ("gradient_noise", {"gradient_noise", "1", "2"}, {"gradient_noise", "1"}),
        ("curvature", {"effective_rank", "largest"}, {"effective_rank", "largest"}),
        ("singular_value", {"1", "2"}, set()),
        ("gradient_start", {"zeros"}, {"zeros"}),
        ("gradient_end", {"norm", "zeros"}, {"norm", "zeros"}),
        ("fisher", TRACES, TRACES),
        ("logit", {"label_variance", "magnitude"}, {"label_variance", "magnitude"}),
        ("circuit", set(), {"angle_norm", "damping", "displacement"}),
        ("gate", set(), {
            f"{name}_{g}" for name in ("damping", "displacement", "step") for g in (1, 2, 3)
        }),
        ("dormant", OF_UNITS | {f"{name}_1" for name in OF_UNITS}, set()),
        ("feature_rank", {"effective", "srank", "stable"}, set()),
        ("ntk", {"effective_rank", "condition"}, {"effective_rank", "condition"}),
        ("spectrum", {"largest_0", "largest_1", "deviation_0", "deviation_1"}, set()),
        ("trainability", {"loss", "gap"}, {"loss", "gap"}),
        ("churn", {"outputs", "probabilities"}, {"outputs", "probabilities"}),
        ("fresh", {"accuracy", "gap"}, {"accuracy", "gap"}),
    )
}  # fmt: skip


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("name", AT_ONCE)
def test_what_is_measured_of_a_kept_network_is_what_was_measured_in_training(
    name: str, arm: str
) -> None:
    learner = tiny_learner(arm)
    metric = prepared(name, learner)
    stream = tiny_stream()
    for task in stream:
        for indices in torch.arange(11).split(4):
            learner.update(*task.train.batch(indices))
    value = metric.take(learner, stream[2])
    later = tiny_learner(arm)
    again = prepared(name, later)
    later.network.load_state_dict(copy.deepcopy(learner.network.state_dict()))
    assert again.take(later, tiny_stream()[2]) == value


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.BatchNorm1d(NUM_INPUTS)])
@pytest.mark.parametrize("name", AT_ONCE)
def test_metric_leaves_dropout_and_batch_norm_untouched(name: str, layer: nn.Module) -> None:
    network = nn.Sequential(copy.deepcopy(layer), tiny_network("mlp"))
    learner = Learner(network, make_adam, cross_entropy)
    before = everything(learner)
    prepared(name, learner).take(learner, tiny_task())
    assert same(everything(learner), before)


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.BatchNorm1d(NUM_INPUTS)])
@pytest.mark.parametrize("name", WATCHING)
def test_watching_leaves_dropout_and_batch_norm_untouched(name: str, layer: nn.Module) -> None:
    network = nn.Sequential(copy.deepcopy(layer), tiny_network("mlp"))
    measured = Learner(copy.deepcopy(network), make_adam, cross_entropy)
    alone = Learner(network, make_adam, cross_entropy)
    torch.manual_seed(0)
    train(measured, prepared(name, measured))
    drawn = random_states()
    torch.manual_seed(0)
    train(alone)
    assert same(everything(measured), everything(alone))
    assert same(random_states(), drawn)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("name", AT_ONCE)
def test_a_network_that_has_left_the_numbers_ends_no_run(name: str, arm: str) -> None:
    learner = tiny_learner(arm)
    metric = prepared(name, learner)
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.fill_(math.nan)
    assert isinstance(metric.take(learner, tiny_task()), float | dict)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_know_networks_of_one_logit_and_tasks_of_one_sample(name: str) -> None:
    def loss(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return cross_entropy(torch.cat([torch.zeros_like(outputs), outputs], 1), y)

    images = tiny_images(num_train=1, num_test=1)
    images.y_train[:] = images.y_test[:] = 1
    stream = tiny_stream(images)
    network = nn.Sequential(tiny_network("mlp"), nn.ReLU(), nn.Linear(NUM_CLASSES, 1))
    learner = Learner(network, make_adam, loss)
    metric = METRICS[name].prepared(learner, stream[0], 0)
    loop = train_on_stream(learner, stream, epochs=1, batch_size=4, seed=0, metrics=[metric])
    for row in loop:
        there = any(column.startswith(name) for column in row)
        assert there or name in ("circuit", "gate", "readiness", "gradient_noise")
