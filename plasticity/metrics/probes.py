"""Probes: samples that are set apart."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity.seeding import generator_for
from plasticity.tasks.streams import Task

PROBE_SAMPLES = 64
"""Samples of a probe of which each has gradients of its own (protocol "Split CIFAR-100")."""


def probe(task: Task, seed: int, count: int = PROBE_SAMPLES) -> tuple[Tensor, Tensor]:
    """Return some of the task's training samples, the same at every call.

    All of them where the task has no more than ``count``; a larger probe contains a smaller one.
    """
    order = torch.randperm(len(task.train), generator=generator_for(seed, "probe", task.index))
    return task.train.batch(order[:count])
