"""Small learners that have learned two tasks, for the tests of interventions."""

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.interventions import parse
from plasticity.interventions.intervention import Aged, growth_of, probe_of
from plasticity.learning.learner import Learner
from plasticity.networks import NETWORKS
from plasticity.networks.network import Shape
from plasticity.remedies import REMEDIES
from plasticity.tasks.samples import ArraySamples
from plasticity.tasks.streams import Task


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def task(index, features=8, classes=3, count=64):
    source = generator(index + 1)
    x = torch.rand(count, features, generator=source)
    y = torch.randint(classes, (count,), generator=source)
    return Task(index, ArraySamples(x, y), ArraySamples(x, y))


def learn(learner, tasks):
    """Take eight updates a task and return the losses."""
    losses = []
    for one in tasks:
        learner.start_task(one.index)
        for start in range(0, 64, 8):
            losses.append(learner.update(*one.train.batch(slice(start, start + 8))))
    return torch.stack(losses or [torch.zeros(())])


def network_of(name):
    if isinstance(name, nn.Module):
        return copy.deepcopy(name)
    return NETWORKS[name].build(Shape(8, 3), generator())


def aged(name="mlp", remedies=(), frozen=(), rate=0.1, optimizer=torch.optim.Adam, tasks=4):
    """Return an aged learner with its past; parameters named ``frozen`` are."""
    network = network_of(name)
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(key not in frozen)
    learner = Learner(
        network,
        lambda parameters: optimizer(parameters, lr=rate),
        cross_entropy,
        [REMEDIES[remedy] for remedy in remedies],
    )
    untrained = copy.deepcopy(learner.state_dict())
    learn(learner, [task(0)])
    young = copy.deepcopy(learner.state_dict())
    learn(learner, [task(k) for k in range(1, tasks)])
    growth = growth_of(learner.network, young["network"])
    return Aged(learner, task(tasks), 0, untrained, young, growth)


def intervene(text, of):
    """Check an intervention, do it to a copy, and return the copy's past and the columns."""
    copied = Aged(copy.deepcopy(of.learner), of.task, of.seed, of.untrained, of.young, of.growth)
    _, intervention = parse(text)
    intervention.check(copied.learner, probe_of(of.task, of.seed))
    return copied, intervention.act(copied)


def outputs(of):
    with torch.no_grad():
        return of.learner.network(of.task.train.batch(slice(0, 64))[0])


def flat(of):
    return torch.cat([p.detach().flatten() for p in of.learner.network.parameters()])


def same(found, expected, rel=1e-6, abs=1e-9):
    """Tell whether tensors are equal up to rounding."""
    return torch.allclose(found.detach(), expected.detach(), rtol=rel, atol=abs)
