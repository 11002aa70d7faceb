"""Split CIFAR-100: two classes of images to tell apart, another pair in every task.

A wide MLP and a quantum neural network of 10 qubits learn 3,000 pairs; Fisher information says how
sensitive they still are. Stopped at any moment, the same command goes on.
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
from typing import TYPE_CHECKING

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
    """The classical arm: hidden layers of ReLU units."""

    hidden: tuple[int, ...] = (256, 256)
    """Units of each hidden layer."""
    adam_epsilon: float = 1e-7
    """Of Adam's denominator (Keras: 1e-7, torch: 1e-8)."""
    bounded_logits: bool = False
    """Bound the logits to (-1, 1), as the quantum arm's are."""


@dataclass(frozen=True)
class Config(TaskSetting):
    """What decides the numbers. No default is a matter of taste: see PRESETS."""

    dataset: str = "cifar100"
    """cifar100, digits (scikit-learn's, no download) or a FILE.npz with x_train, y_train, x_test,
    y_test."""
    num_tasks: int = 3_000
    """Number of pairs of classes learned in turn."""
    batch_size: int = 128
    """Images an update."""
    epochs: int = 5
    """Passes over each task's training images."""
    learning_rate: float = 1e-3
    """Of Adam, which is never reset."""
    depth: int = 10
    """Layers of even and odd bricks of the quantum arm's circuit."""
    qnn_adam_epsilon: float = 1e-8
    """Of Adam's denominator in the quantum arm."""
    mlp: Mlp = Mlp()
    """The classical arm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mlp.hidden or min(self.mlp.hidden) < 1:
            raise UsageError(f"--mlp.hidden {self.mlp.hidden}: at least one unit a layer")
        if self.dataset not in ("cifar100", "digits") and not self.dataset.endswith(".npz"):
            raise UsageError(f"--dataset {self.dataset}: must be cifar100, digits or FILE.npz")


# The released program's numbers (quantum-plasticity, commit c3c6cb4) are Config's defaults; the
# tasks are the paper's 3,000, not the script's 30.
RELEASED = Config()
# The depth of the paper's description.
DEEP = dataclasses.replace(RELEASED, depth=30)
# What differs between the arms for no reason is made equal: the range of logits and Adam's epsilon.
MATCHED = dataclasses.replace(RELEASED, mlp=Mlp(adam_epsilon=1e-8, bounded_logits=True))
# Chosen to finish within a minute offline: pairs of 8x8 digits, 6 qubits, small batches and a
# larger rate, so that about 300 images are enough to learn from.
QUICK = dataclasses.replace(
    RELEASED, dataset="digits", num_tasks=30, batch_size=32, learning_rate=1e-2, mlp=Mlp((64, 64))
)


def load(config: Config, options: DataOptions) -> Images:
    """Read the images; a blank one has no direction, so nothing to encode as a state."""
    from plasticity.tasks.images import load_images
    from plasticity.tasks.streams import ClassPairs

    images = load_images(config.dataset, options.data_root.expanduser())
    images.require_nonzero()
    ClassPairs(images, num_tasks=1, seed=0)  # raises if classes or images are too few
    return images


def build(config: Config, images: Images, network: str) -> Supervised:
    """Make an arm: the circuit has as many qubits as the pixels need, Z is read on the last."""
    import torch
    from torch.nn.functional import cross_entropy

    from experiments.parts.arms import Supervised
    from plasticity.learning.learner import Learner
    from plasticity.learning.metric import Metric
    from plasticity.metrics.accuracy import logit_statistics, test_accuracy
    from plasticity.metrics.fisher import FisherProbe
    from plasticity.metrics.norms import gradient_norm, weight_norm
    from plasticity.networks.mlp import bounded, mlp
    from plasticity.quantum.circuits import Brickwork
    from plasticity.quantum.layer import QNN
    from plasticity.quantum.readouts import SignedPauliZ
    from plasticity.seeding import generator_for
    from plasticity.tasks.streams import ClassPairs

    generator = generator_for(config.seed, "initial weights")
    if network == "mlp":
        epsilon = config.mlp.adam_epsilon
        model: torch.nn.Module = mlp((images.num_pixels, *config.mlp.hidden, 2), generator)
        model = bounded(model) if config.mlp.bounded_logits else model
    else:
        epsilon = config.qnn_adam_epsilon
        num_qubits = max(2, math.ceil(math.log2(images.num_pixels)))
        model = QNN(
            Brickwork(num_qubits, config.depth),
            SignedPauliZ(num_qubits - 1),
            lambda shape: 2 * math.pi * torch.rand(shape, generator=generator),
        )
    model.to(config.device)
    adam = functools.partial(torch.optim.Adam, lr=config.learning_rate, eps=epsilon, fused=True)
    stream = ClassPairs(images, num_tasks=config.num_tasks, seed=config.seed, device=config.device)
    metrics = (
        Metric("weight_norm", weight_norm, "before"),
        Metric("gradient_norm", gradient_norm, "before"),
        Metric("test_accuracy", test_accuracy),
        Metric("fisher", FisherProbe.of(model, stream[0], config.seed)),
        Metric("logit", logit_statistics),
    )
    learner = Learner(model, adam, cross_entropy)
    return Supervised(learner, stream, config.epochs, config.batch_size, config.seed, metrics)


COLUMNS = {"accuracies": "test_accuracy", "fim_traces": "fisher_empirical_task0"}
EXPERIMENT = Experiment(
    name="cifar",
    about=__doc__,
    presets={"released": RELEASED, "deep": DEEP, "matched": MATCHED, "quick": QUICK},
    networks={"mlp": "classical (MLP)", "qnn": "quantum (QNN)"},
    load=load,
    identify=identify,
    build=build,
    exports={
        "mlp": {"classical_cifar100_results.npz": COLUMNS},
        "qnn": {"quantum_cifar100_results.npz": COLUMNS},
    },
    panels=(
        Panel("test_accuracy", "test accuracy after the task"),
        Panel("fisher_empirical_task0", "empirical Fisher trace, task 0's probe", logarithmic=True),
        Panel("fisher_true_current", "true Fisher trace, current task", logarithmic=True),
    ),
)

if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
