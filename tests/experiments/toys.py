"""A network, a remedy and a metric as a stranger would add them: a class and an entry each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.learning.learner import Learner
from plasticity.learning.metric import Metric
from plasticity.learning.remedy import Remedy
from plasticity.metrics import METRICS
from plasticity.networks import NETWORKS
from plasticity.networks.network import Network, Shape
from plasticity.remedies import REMEDIES
from plasticity.tasks.streams import Task


@dataclass(frozen=True)
class Toy(Network):
    """Classify with one linear layer."""

    spread: float
    """Standard deviation of the initial weights."""

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        layer = nn.utils.skip_init(nn.Linear, shape.inputs, shape.outputs)
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=self.spread, generator=generator)
        return layer


@dataclass
class ToyRemedy(Remedy):
    """Pull the weights to the mean of what they were after every update."""

    rate: float = 0.05
    """Part of the way."""

    def start(self, learner: Learner, seed: int) -> None:
        self._parameters = list(learner.network.parameters())
        self._means = [parameter.detach().clone() for parameter in self._parameters]
        self._pulled = 0.0

    def after_update(self, step: int) -> None:
        for mean, parameter in zip(self._means, self._parameters, strict=True):
            mean += (parameter.detach() - mean) / (step + 1)
            self._pulled += float((parameter.detach() - mean).abs().sum())
            parameter.data.lerp_(mean, self.rate)

    def columns(self) -> dict[str, float]:
        pulled, self._pulled = self._pulled, 0.0
        return {"toy_remedy_pulled": pulled}

    def state_dict(self) -> dict[str, Any]:
        return {"means": self._means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._means = state["means"]


def toy_metric(learner: Learner, task: Task) -> dict[str, float]:
    """Return how large the outputs are, and how different."""
    with torch.no_grad():
        outputs: Tensor = learner.network(task.test.batch(slice(None))[0])
    return {"size": float(outputs.abs().mean()), "spread": float(outputs.std())}


ENTRIES: tuple[tuple[dict[str, Any], str, Any], ...] = (
    (NETWORKS, "toy", Toy(spread=0.3)),
    (REMEDIES, "toy-remedy", ToyRemedy()),
    (METRICS, "toy_metric", Metric("toy_metric", toy_metric)),
)


def register() -> None:
    """Enter them for the rest of this process."""
    for registry, name, value in ENTRIES:
        registry[name] = value
