"""What gradients of several batches have in common, and by how much they differ."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticity.learning.learner import Learner
from plasticity.metrics.kept import Kept, numbers_of
from plasticity.metrics.probes import OfSeed, probe
from plasticity.networks.evaluating import evaluating
from plasticity.networks.layers import layers_of
from plasticity.networks.trained import trained_parameters
from plasticity.tasks.streams import Task

BATCHES = 8
"""Batches whose gradients are compared."""

BATCH = 64
"""Samples of each; of a task with fewer than 512, all samples are split."""


@dataclass(frozen=True)
class Spread:
    """The mean of batches' gradients and their spread, of some parameters.

    Attributes:
        mean: ||m||^2, of the mean m of the gradients g_b.
        variance: sum over b of ||g_b - m||^2 / (batches - 1).
    """

    mean: float
    variance: float

    @property
    def readiness(self) -> float:
        """Return ||m|| over the root of the variance; NaN where that is 0."""
        return math.sqrt(self.mean / self.variance) if self.variance > 0 else math.nan

    def noise(self, samples: float) -> float:
        """Return the variance of one sample's gradient over ||m||^2; NaN where that is 0.

        Args:
            samples: Of a batch.
        """
        return samples * self.variance / self.mean if self.mean > 0 else math.nan


_kept: Kept[tuple[dict[int, Spread], float]] = Kept()


def spreads(learner: Learner, task: Task, seed: int) -> tuple[dict[int, Spread], float]:
    """Return the spread of the gradients of 8 batches, by layer, and the samples of a batch.

    Under 0 is that of all parameters. Nothing of a task with fewer than 16 samples.
    """
    made = [*numbers_of(learner.network), torch.tensor(seed)]
    return _kept.get([learner, learner.network, task], made, lambda: _spreads(learner, task, seed))


def _spreads(learner: Learner, task: Task, seed: int) -> tuple[dict[int, Spread], float]:
    network = learner.network
    x, y = probe(task, seed, BATCHES * BATCH)
    if len(x) < 2 * BATCHES:
        return {}, 0.0
    parameters = trained_parameters(network)
    gradients = []
    with torch.enable_grad(), evaluating(network):
        for some_x, some_y in zip(x.tensor_split(BATCHES), y.tensor_split(BATCHES), strict=True):
            loss = learner.loss(network(some_x), some_y)
            gradients.append(torch.autograd.grad(loss, parameters, materialize_grads=True))
    means, variances = [], []
    for of_batches in zip(*gradients, strict=True):
        of_all = torch.stack(of_batches)
        mean = of_all.mean(0)
        means.append(_square(mean))
        variances.append(_square(of_all - mean) / (BATCHES - 1))
    squares = torch.stack([*means, *variances]).view(2, -1).tolist()
    of = {p: pair for p, *pair in zip(parameters, *squares, strict=True)}
    parts = {layer.number: layer.trained for layer in layers_of(network) if layer.trained}
    found = {0: Spread(*map(sum, zip(*of.values(), strict=True)))}
    for number, own in parts.items():
        found[number] = Spread(*map(sum, zip(*(of[p] for p in own), strict=True)))
    return found, len(x) / BATCHES


def _square(numbers: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(numbers)
    return norm.double().square()


def defined(values: dict[int, float]) -> dict[str, float]:
    """Return what is no NaN, by the ends of the columns' names."""
    return {str(number or ""): v for number, v in values.items() if not math.isnan(v)}


@dataclass(frozen=True)
class Readiness(OfSeed):
    """Relate the size of the task's gradient to how far the gradients of batches differ.

    ||m|| / s, with m the mean of the gradients of 8 batches of 64 of the task's training samples,
    and s^2 = sum over batches of ||g_b - m||^2 / 7: the norm of what the batches agree on, beside
    their spread. Of independent gradients without anything in common it is about 1 / sqrt(8),
    0.35; below 1, a batch's gradient is more noise than direction. ``readiness`` is of all
    parameters, ``readiness_k`` of those of layer k, biases among them (see ``layers_of``).

    Valid for: all networks and losses, of tasks with at least 16 training samples; of fewer than
    512 the batches are smaller. Undefined where all batches have the same gradient. Source: the
    optimization readiness of "Predicting plasticity in deep continual learning: a theoretical
    perspective" (arXiv:2605.09044, 2026) joins the size and the reliability of the gradient; this
    quotient of the two, and the numbers of batches and samples, are ours.

    Attributes:
        seed: Decides which samples.
    """

    def __call__(self, learner: Learner, task: Task) -> dict[str, float]:
        """Return the columns."""
        found, _ = spreads(learner, task, self.seed)
        return defined({number: of.readiness for number, of in found.items()})


@dataclass(frozen=True)
class GradientNoise(OfSeed):
    """Measure the noise of each layer's gradient beside the gradient itself.

    B s^2 / ||m||^2, with m and s as in ``readiness`` and B samples a batch: the variance of one
    sample's gradient, summed over its numbers, beside the squared norm of the mean gradient. It is
    the number of samples with which noise and gradient are of the same size. ``gradient_noise`` is
    of all parameters, ``gradient_noise_k`` of those of layer k, biases among them (see
    ``layers_of``). The mean of 8 batches has noise itself: so above about 8 B, 512 for B = 64, the
    number says only that the noise is larger than can be resolved.

    Valid for: all networks and losses, of tasks with at least 16 training samples. Undefined where
    the gradient is zero, as of a layer whose units are all dead. Source: the simple noise scale of
    McCandlish et al. 2018, "An empirical model of large-batch training"; that noise and curvature
    decide which step is too large: Baveja, Lewandowski and Schmidt 2025 (arXiv:2509.19698).

    Attributes:
        seed: Decides which samples.
    """

    def __call__(self, learner: Learner, task: Task) -> dict[str, float]:
        """Return the columns."""
        found, samples = spreads(learner, task, self.seed)
        return defined({number: of.noise(samples) for number, of in found.items()})
