"""
Data and tasks of your own
==========================

Images of your own need no code. Write them to an ``.npz`` file, and give its path with
``--dataset``. Tasks of your own need a stream. A stream is an object with a length, and it returns
a task for each number.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from experiments import mnist

folder = Path(tempfile.mkdtemp())

# %%
# The ``.npz`` file contains ``x_train``, ``y_train``, ``x_test`` and ``y_test``. Pixels are whole
# numbers from 0 to 255, or floats. The shape is ``(images, height, width)`` for gray and ``(images,
# height, width, 3)`` for RGB. Labels count from 0. Here the images are vertical or horizontal
# stripes, with noise.

rng = np.random.default_rng(0)


def stripes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw images of 8x8 pixels, and labels: 0 for vertical stripes, 1 for horizontal ones."""
    labels = rng.integers(0, 2, count)
    images = rng.integers(0, 100, (count, 8, 8))
    images[labels == 0, :, ::2] += 120
    images[labels == 1, ::2, :] += 120
    return images.astype(np.uint8), labels


x_train, y_train = stripes(600)
x_test, y_test = stripes(200)
np.savez(folder / "stripes.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
run = mnist.EXPERIMENT.run(
    dataset=folder / "stripes.npz", results=folder, num_tasks=5, batch_size=32, progress=False,
    options={"qnn": {"epochs": 1, "optimizer.learning_rate": 0.01}},
)  # fmt: skip
for name in run:
    print(name, run[name].column("test_accuracy"))

# %%
# Here is a stream of your own. In each task, the network learns on which side of a line a point is.
# Each task has another line. A task depends only on its number. So a stopped run continues with
# the same tasks.

from torch.nn.functional import cross_entropy

from plasticity import Learner, Metric, Task, generator_for, test_accuracy, train_on_stream
from plasticity.networks.mlp import mlp
from plasticity.tasks.samples import ArraySamples


class Lines:
    """Tell two half-planes apart; each task has another line."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Task:
        generator = generator_for(0, "line", index)
        normal = torch.randn(2, generator=generator)
        points = torch.randn(400, 2, generator=generator)
        labels = (points @ normal > 0).long()
        return Task(
            index,
            ArraySamples(points[:300], labels[:300]),
            ArraySamples(points[300:], labels[300:]),
        )


learner = Learner(
    mlp((2, 8, 2), generator_for(0, "initial weights")),
    lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    cross_entropy,
)
metrics = [Metric("test_accuracy", test_accuracy)]
for row in train_on_stream(learner, Lines(), epochs=5, batch_size=16, seed=0, metrics=metrics):
    print(f"task {row['task']}: accuracy {row['test_accuracy']:.2f}")
