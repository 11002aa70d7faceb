"""Images of six pixels, learners of a few weights, and a look at every random state."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.learning.remedy import Learns, Remedy
from plasticity.networks.mlp import mlp
from plasticity.quantum.circuits import Brickwork
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds
from plasticity.seeding import generator_for
from plasticity.tasks.images import Images
from plasticity.tasks.streams import PermutedPixels, Task

NUM_PIXELS = 6
NUM_CLASSES = 3
NUM_QUBITS = 4
NUM_INPUTS = 2**NUM_QUBITS
ARMS = ("mlp", "qnn")


def tiny_images(num_train: int = 11, num_test: int = 7, dtype: Any = np.uint8) -> Images:
    """No image is blank, labels are random, and the scale is not a power of two."""
    rng = np.random.default_rng(0)
    x_train, x_test = (
        rng.integers(1, 256, (count, NUM_PIXELS)).astype(dtype) for count in (num_train, num_test)
    )
    y_train, y_test = (rng.integers(0, NUM_CLASSES, count) for count in (num_train, num_test))
    return Images("tiny", x_train, y_train, x_test, y_test, scale=1 / 255)


def tiny_stream(images: Images | None = None, *, num_tasks: int = 3, seed: int = 1):
    return PermutedPixels(
        images or tiny_images(), num_tasks=num_tasks, seed=seed, num_inputs=NUM_INPUTS
    )


def tiny_network(arm: str, seed: int = 0) -> torch.nn.Module:
    generator = generator_for(seed, "initial weights")
    if arm == "mlp":
        return mlp((NUM_INPUTS, 5, NUM_CLASSES), generator)
    return QNN(
        Brickwork(NUM_QUBITS, 1),
        LogOdds(NUM_CLASSES),
        lambda shape: 6 * torch.rand(shape, generator=generator),
    )


def make_adam(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.03, eps=1e-7, fused=True)


def tiny_learner(arm: str, *remedies: Remedy, seed: int = 0) -> Learner:
    return Learner(tiny_network(arm, seed), make_adam, cross_entropy, remedies)


@dataclass
class Before(Remedy):
    """Call a function with the learner and the index of each task."""

    call: Callable[[Learns, int], object]

    def start(self, learner: Learns, seed: int) -> None:
        self.learner = learner

    def before_task(self, index: int) -> None:
        self.call(self.learner, index)


def random_states() -> list[Any]:
    """The global random states of torch, numpy and Python."""
    return [torch.get_rng_state(), list(np.random.get_state()), random.getstate()]  # noqa: NPY002


def same(a: Any, b: Any) -> bool:
    """Whether two nests of dicts, lists, tensors and numbers are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def tiny_task(num_train: int = 11, num_test: int = 17) -> Task:
    """Return the second of the tiny tasks."""
    return tiny_stream(tiny_images(num_train, num_test))[1]
