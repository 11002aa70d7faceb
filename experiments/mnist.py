"""Permuted MNIST: the same digits over and over, their pixels in another order in every task.

Does a network that has learned many tasks still learn the next one? A small MLP and a quantum
neural network of 10 qubits learn 1,000 tasks. Stopped at any moment, the same command goes on.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.parts import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import dataclasses
import functools
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from experiments.parts import cli
from experiments.parts.experiment import (
    DataOptions,
    Experiment,
    Panel,
    TaskSetting,
    UsageError,
    identify,
)

if TYPE_CHECKING:
    from experiments.parts.arms import Supervised
    from plasticity.tasks.images import Images


@dataclass(frozen=True)
class Mlp:
    """The classical arm: one hidden layer of ReLU units."""

    hidden: int
    """Hidden units."""
    epochs: int
    """Passes over each task's training images."""
    learning_rate: float
    """Of Adam."""
    adam_epsilon: float
    """Of Adam's denominator (Keras: 1e-7, torch: 1e-8)."""
    unit_norm: bool
    """Scale each image to unit norm, as amplitude encoding does for the quantum arm."""


@dataclass(frozen=True)
class Qnn:
    """The quantum arm: a brickwork circuit on amplitude-encoded images."""

    depth: int
    """Layers of even and odd bricks."""
    epochs: int
    """Passes over each task's training images."""
    learning_rate: float
    """Of Adam."""
    adam_epsilon: float
    """Of Adam's denominator."""
    permute_padding: bool
    """Permute all amplitudes, zero padding included, instead of the pixels alone."""


@dataclass(frozen=True)
class Config(TaskSetting):
    """What decides the numbers. No default is a matter of taste: see PRESETS."""

    dataset: str = "mnist"
    """mnist, digits (scikit-learn's, no download) or a FILE.npz with x_train, y_train, x_test,
    y_test."""
    num_tasks: int = 1_000
    """Number of permutations learned in turn."""
    batch_size: int = 128
    """Images an update."""
    reset_optimizer: Literal["neither", "mlp", "qnn", "both"] = "qnn"
    """Whose Adam starts afresh at every task."""
    mlp: Mlp = Mlp(hidden=16, epochs=1, learning_rate=1e-3, adam_epsilon=1e-7, unit_norm=False)
    """The classical arm."""
    qnn: Qnn = Qnn(depth=4, epochs=5, learning_rate=3e-2, adam_epsilon=1e-8, permute_padding=True)
    """The quantum arm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset not in ("mnist", "digits") and not self.dataset.endswith(".npz"):
            raise UsageError(f"--dataset {self.dataset}: must be mnist, digits or a FILE.npz")


# The released program's numbers (quantum-plasticity, commit c3c6cb4) are Config's defaults.
RELEASED = Config()
# What differs between the arms for no reason is made equal: optimiser never reset, one epoch (the
# classical arm's), torch's epsilon, unit norm, the pixels alone permuted. The rates stay per arm.
MATCHED = dataclasses.replace(
    RELEASED,
    reset_optimizer="neither",
    mlp=dataclasses.replace(RELEASED.mlp, adam_epsilon=1e-8, unit_norm=True),
    qnn=dataclasses.replace(RELEASED.qnn, epochs=1, permute_padding=False),
)
# Chosen to finish within a minute offline: 1,437 images of 64 pixels, batches small enough that a
# task has as many updates as needed to learn something, the MLP's rate raised for the same end and
# the QNN's lowered, since at 0.03 on batches of 32 a task now and then ends below chance.
QUICK = dataclasses.replace(
    RELEASED,
    dataset="digits",
    num_tasks=40,
    batch_size=32,
    mlp=dataclasses.replace(RELEASED.mlp, epochs=5, learning_rate=1e-2),
    qnn=dataclasses.replace(RELEASED.qnn, epochs=3, learning_rate=1e-2),
)


def load(config: Config, options: DataOptions) -> Images:
    """Read the images; a blank one has no direction, so nothing to encode as a state."""
    from plasticity.tasks.images import load_images

    images = load_images(config.dataset, options.data_root.expanduser())
    images.require_nonzero()
    return images


def build(config: Config, images: Images, network: str) -> Supervised:
    """Make an arm: the circuit has as many qubits as pixels and classes need."""
    import torch
    from torch.nn.functional import cross_entropy

    from experiments.parts.arms import Supervised
    from plasticity.learning.learner import Learner, reset_optimizer
    from plasticity.learning.metric import Metric
    from plasticity.metrics.accuracy import test_accuracy
    from plasticity.metrics.norms import gradient_norm, weight_norm
    from plasticity.networks.mlp import mlp
    from plasticity.quantum.circuits import Brickwork
    from plasticity.quantum.layer import QNN
    from plasticity.quantum.readouts import LogOdds
    from plasticity.seeding import generator_for
    from plasticity.tasks.streams import PermutedPixels

    num_qubits = max(2, math.ceil(math.log2(max(images.num_pixels, images.num_classes))))
    generator = generator_for(config.seed, "initial weights")
    if network == "mlp":
        chosen: Mlp | Qnn = config.mlp
        widths = (images.num_pixels, config.mlp.hidden, images.num_classes)
        model: torch.nn.Module = mlp(widths, generator)
    else:
        chosen = config.qnn
        model = QNN(
            Brickwork(num_qubits, config.qnn.depth),
            LogOdds(images.num_classes),
            lambda shape: 2 * math.pi * torch.rand(shape, generator=generator),
        )
    adam = functools.partial(
        torch.optim.Adam, lr=chosen.learning_rate, eps=chosen.adam_epsilon, fused=True
    )
    padded = network == "qnn" and config.qnn.permute_padding
    stream = PermutedPixels(
        images,
        num_tasks=config.num_tasks,
        seed=config.seed,
        num_inputs=2**num_qubits if padded else images.num_pixels,
        unit_norm=network == "mlp" and config.mlp.unit_norm,
        device=config.device,
    )
    metrics = (
        Metric("weight_norm", weight_norm, "before"),
        Metric("gradient_norm", gradient_norm, "before"),
        Metric("test_accuracy", test_accuracy, "after"),
    )
    reset = config.reset_optimizer in (network, "both")
    interventions = [reset_optimizer] if reset else []
    learner = Learner(model.to(config.device), adam, cross_entropy, interventions)
    return Supervised(learner, stream, chosen.epochs, config.batch_size, config.seed, metrics)


COLUMNS = {
    "accuracies": "test_accuracy",
    "weight_norms": "weight_norm",
    "grad_norms": "gradient_norm",
}
EXPERIMENT = Experiment(
    name="mnist",
    about=__doc__,
    presets={"released": RELEASED, "matched": MATCHED, "quick": QUICK},
    networks={"mlp": "classical (MLP)", "qnn": "quantum (QNN)"},
    load=load,
    identify=identify,
    build=build,
    exports={
        "mlp": {"classical_model_results.npz": COLUMNS},
        "qnn": {"quantum_model_results.npz": COLUMNS},
    },
    panels=(
        Panel("test_accuracy", "test accuracy after the task"),
        Panel("weight_norm", "mean weight norm before the task", logarithmic=True),
        Panel("gradient_norm", "mean gradient norm before the task", logarithmic=True),
    ),
)

if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
