"""What all metrics have in common: none leaves a trace."""

import copy
from collections.abc import Iterator

import pytest
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.metrics.accuracy import logit_statistics, test_accuracy
from plasticity.metrics.fisher import FisherProbe
from plasticity.metrics.norms import gradient_norm, weight_norm
from plasticity.tasks.streams import Task
from tests.tiny import (
    ARMS,
    NUM_INPUTS,
    make_adam,
    random_states,
    same,
    tiny_learner,
    tiny_network,
    tiny_task,
)


def fisher(learner: Learner, task: Task) -> dict[str, float]:
    return FisherProbe.of(learner, task, seed=0)(learner, task)


ALL = (test_accuracy, weight_norm, gradient_norm, logit_statistics, fisher)


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
    learner.update(*tiny_task().train.batch(slice(0, 5)))
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
        value = metric(learner, tiny_task())
        assert isinstance(value, float | dict)
        assert same(everything(learner), before)
        after = learner.network, learner.optimizer, *learner.network.parameters()
        assert all(a is b for a, b in zip(objects, after, strict=True))
        assert metric(learner, tiny_task()) == value


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.BatchNorm1d(NUM_INPUTS)])
@pytest.mark.parametrize("metric", [test_accuracy, gradient_norm])
def test_metric_leaves_dropout_and_batch_norm_untouched(metric, layer: nn.Module) -> None:
    network = nn.Sequential(copy.deepcopy(layer), tiny_network("mlp"))
    learner = Learner(network, make_adam, cross_entropy)
    before = everything(learner)
    metric(learner, tiny_task())
    assert same(everything(learner), before)
