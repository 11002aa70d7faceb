"""What tests of remedies share: a small network, its learner, batches, options that act at once."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.learning.remedy import Remedy
from plasticity.networks.mlp import mlp
from plasticity.remedies import REMEDIES
from plasticity.seeding import generator_for
from plasticity.tasks.samples import ArraySamples
from tests.tiny import NUM_CLASSES, NUM_INPUTS, make_adam, tiny_network

WIDTHS = (NUM_INPUTS, 6, 4, NUM_CLASSES)
ACTING: dict[str, dict[str, Any]] = {
    "l2": {"strength": 0.1},
    "adamw": {"decay": 0.5},
    "continual-backprop": {"replacement_rate": 0.05, "maturity": 3},
    "redo": {"threshold": 0.7, "every": 4},
    "weight-clipping": {"multiple": 1.0},
    "spectral": {"strength": 0.1},
    "parseval": {"strength": 0.1},
    "hold": {"multiple": 0.5},
    "snr": {"eta": 0.5, "every": 3, "longest": 2},
    "c-chain": {"strength": 1.0},
    "adamo": {"strength": 1.0},
    "selective-reinit": {"fraction": 0.05, "every": 2},
    "soft-rescaling": {"strength": 0.1},
}
"""Options with which a remedy acts within a dozen updates, where its own do not."""


def acting(name: str, **more: Any) -> Remedy:
    """Return a registered remedy that acts at once."""
    return dataclasses.replace(REMEDIES[name], **ACTING.get(name, {}) | more)


def network(arm: str = "mlp", seed: int = 0, widths: Sequence[int] = WIDTHS) -> nn.Module:
    if arm == "mlp":
        return mlp(widths, generator_for(seed, "initial weights"))
    return tiny_network(arm, seed)


def learner(
    *remedies: Remedy, arm: str = "mlp", seed: int = 0, widths: Sequence[int] = WIDTHS
) -> Learner:
    return Learner(network(arm, seed, widths), make_adam, cross_entropy, remedies, seed=3)


def batch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = generator_for(0, "batch", index)
    x = torch.rand(8, NUM_INPUTS, generator=generator)
    return x, torch.randint(NUM_CLASSES, (8,), generator=generator)


SAMPLES = ArraySamples(*batch(0))
"""What remedies see of a task that begins: some units of the network are zero on all of them."""


def train(one: Learner, tasks: range, updates: int = 4) -> list[dict[str, float]]:
    """Have a learner learn some tasks and return the columns after each."""
    columns = []
    for task in tasks:
        one.start_task(task, SAMPLES)
        for step in range(updates):
            one.update(*batch(updates * task + step))
        columns.append(one.columns())
    return columns


def through_a_file(state: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def learned(one: Learner) -> list[Any]:
    """Return network and optimizer state."""
    return [one.network.state_dict(), one.optimizer.state_dict()["state"]]
