"""Train on split CIFAR-100: two classes of images to tell apart, another pair in every task.

A wide MLP and a quantum neural network of 10 qubits learn 3,000 pairs; Fisher information says how
sensitive they still are. Stopped at any moment, the same command goes on.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.processes import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.cli import parse as cli
from plasticity.errors import UsageError
from plasticity.networks import NETWORKS
from plasticity.networks.mlp import Mlp
from plasticity.networks.qnn import Qnn
from plasticity.protocol.arms import ArmConfig, AsTheyAre, Registry
from plasticity.protocol.experiment import Exports, Preset, content_of
from plasticity.protocol.optimizers import Adam
from plasticity.protocol.options import TaskOptions, TaskSetting, expanded
from plasticity.protocol.supervised import Problem, SupervisedLearning
from plasticity.remedies import REMEDIES
from plasticity.runs.experiment import Experiment

if TYPE_CHECKING:
    from plasticity.tasks.images import Images


@dataclass(frozen=True, kw_only=True)
class Config(TaskSetting):
    """What the arms share."""

    dataset: str
    """cifar100, digits (scikit-learn's, no download) or a FILE.npz with x_train, y_train, x_test,
    y_test."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset not in ("cifar100", "digits") and not self.dataset.endswith(".npz"):
            raise UsageError(f"--dataset {self.dataset}: must be cifar100, digits or FILE.npz")


def qnn(depth: int) -> Qnn:
    """Return the quantum arm's circuit, whose last qubit tells the classes apart."""
    return Qnn("brickwork", depth, readout="signed-z-of-last", initial_angles=(0.0, 2 * math.pi))


# The released program's numbers (quantum-plasticity, commit c3c6cb4); the tasks are the paper's
# 3,000, not the script's 30.
RELEASED = Preset(
    Config(seed=0, device="cpu", threads=1, num_tasks=3_000, batch_size=128, dataset="cifar100"),
    {
        "mlp": ArmConfig(Mlp(hidden=(256, 256)), Adam(learning_rate=1e-3, epsilon=1e-7), epochs=5),
        "qnn": ArmConfig(qnn(depth=10), Adam(learning_rate=1e-3, epsilon=1e-8), epochs=5),
    },
    "the numbers of the authors' program",
)
# The depth of the paper's description.
DEEP = RELEASED.replace(
    {}, "a circuit of depth 30, as the paper describes it", qnn={"network": qnn(depth=30)}
)
# What differs between the arms for no reason is made equal: the range of logits and Adam's epsilon.
MATCHED = RELEASED.replace(
    {},
    "what differs between the arms for no reason is made equal",
    mlp={
        "network": Mlp(hidden=(256, 256), bounded_logits=True),
        "optimizer": Adam(learning_rate=1e-3, epsilon=1e-8),
    },
)
# Chosen to finish within a minute offline: pairs of 8x8 digits, 6 qubits, small batches and a
# larger rate, so that about 300 images are enough to learn from.
QUICK = RELEASED.replace(
    {"dataset": "digits", "num_tasks": 30, "batch_size": 32},
    "30 pairs of scikit-learn's digits; no download, done within a minute",
    mlp={"network": Mlp(hidden=(64, 64)), "optimizer": Adam(learning_rate=1e-2, epsilon=1e-7)},
    qnn={"optimizer": Adam(learning_rate=1e-2, epsilon=1e-8)},
)


def load(config: Config, options: TaskOptions) -> Images:
    """Read the images; a blank one has no direction, so nothing to encode as a state."""
    from plasticity.tasks.images import load_images
    from plasticity.tasks.streams import ClassPairs

    images = load_images(config.dataset, expanded(options.data_root, "--data-root"))
    images.require_nonzero()
    ClassPairs(images, num_tasks=1, seed=0)  # raises if classes or images are too few
    return images


def problem_of(config: Config, images: Images, inputs: AsTheyAre) -> Problem:
    """Return the tasks."""
    from torch.nn.functional import cross_entropy

    from plasticity.networks.network import Shape
    from plasticity.tasks.streams import ClassPairs

    stream = ClassPairs(images, num_tasks=config.num_tasks, seed=config.seed, device=config.device)
    return Problem(stream, Shape(images.num_pixels, 2), cross_entropy)


METRICS = ("weight_norm", "gradient_norm", "test_accuracy", "fisher", "logit")
LEARNING = SupervisedLearning(problem_of, METRICS)
COLUMNS = {"accuracies": "test_accuracy", "fim_traces": "fisher_empirical_task0"}
EXPERIMENT = Experiment(
    name="cifar",
    about=__doc__,
    presets={"released": RELEASED, "deep": DEEP, "matched": MATCHED, "quick": QUICK},
    registry=Registry(NETWORKS, REMEDIES),
    load=load,
    identify=content_of,
    check=LEARNING.check,
    build=LEARNING.build,
    metrics=METRICS,
    exports=Exports(
        {
            "mlp": {"classical_cifar100_results.npz": COLUMNS},
            "qnn": {"quantum_cifar100_results.npz": COLUMNS},
        },
        others=COLUMNS | {"tasks": "task"},
    ),
    panels=("test_accuracy", "fisher_empirical_task0", "fisher_true_current"),
    chance=lambda _: 0.5,
)

if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
