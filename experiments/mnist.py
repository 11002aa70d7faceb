"""Train on Permuted MNIST: the same digits in every task, their pixels in another order.

Does a network that has learned many tasks still learn the next one? A small MLP and a quantum
neural network of 10 qubits learn 1,000 tasks. Stopped at any moment, the same command goes on.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.processes import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import math
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from experiments.cli import parse as cli
from plasticity.errors import UsageError
from plasticity.networks import NETWORKS
from plasticity.networks.mlp import Mlp
from plasticity.networks.qnn import Qnn
from plasticity.protocol.arms import ArmConfig, Registry
from plasticity.protocol.experiment import Exports, Preset, at_rates, content_of
from plasticity.protocol.optimizers import Adam
from plasticity.protocol.options import TaskOptions, TaskSetting, expanded
from plasticity.protocol.supervised import ASKING_WHY, Problem, SupervisedLearning
from plasticity.remedies import REMEDIES
from plasticity.runs.experiment import Experiment

if TYPE_CHECKING:
    from plasticity.tasks.images import Images


@dataclass(frozen=True, kw_only=True)
class Config(TaskSetting):
    """What the arms share."""

    dataset: str
    """mnist, digits (scikit-learn's, no download) or a FILE.npz with x_train, y_train, x_test,
    y_test."""
    train_samples: int | None = None
    """Training images of a task, drawn anew for each; none: all that the data set has."""
    gradual: float = 0.0
    """Part of a task within which the old permutation gives way to the new one, image by image; 0:
    a task begins at once."""
    relabel: bool = False
    """Permute the labels in each task, and leave the pixels in one order; with --permute both."""
    permute: bool = False
    """With --relabel: permute the pixels in each task, too."""
    permuted_fraction: float | None = field(default=None, metadata={"least": 0.0})
    """Part of the inputs whose order changes from task to task, 0 to 1: the same ones each time;
    none: all, and with --relabel none of them."""
    recurring: int | None = None
    """Permutations that come back in turn, of pixels and labels; none: each task has its own."""
    stationary: bool = False
    """Learn one task again and again: nothing is permuted anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset not in ("mnist", "digits") and not self.dataset.endswith(".npz"):
            raise UsageError(f"--dataset {self.dataset}: must be mnist, digits or a FILE.npz")
        if not 0 <= self.gradual <= 1:
            raise UsageError(f"--gradual {self.gradual}: a part of a task, 0 to 1")
        if self.permute and not self.relabel:
            raise UsageError("--permute: pixels are permuted anyway; it belongs to --relabel")
        if self.permuted_fraction is not None and not 0 <= self.permuted_fraction <= 1:
            raise UsageError(
                f"--permuted-fraction {self.permuted_fraction}: a part of the inputs, 0 to 1"
            )
        if self.permute and self.permuted_fraction is not None:
            raise UsageError("--permute, --permuted-fraction: say one of them")
        if self.stationary and self.recurring is not None:
            raise UsageError("--stationary, --recurring: say one of them")

    @property
    def moved(self) -> float:
        """Part of the inputs whose order changes from task to task."""
        if self.permuted_fraction is not None:
            return self.permuted_fraction
        return 0.0 if self.relabel and not self.permute else 1.0


@dataclass(frozen=True)
class Inputs:
    """How an arm sees the images."""

    unit_norm: bool
    """Scale each image to unit norm, as amplitude encoding does in any case."""
    permute_padding: bool
    """Pad images with zeros to a power of two, and permute the zeros too."""


# The released program's numbers (quantum-plasticity, commit c3c6cb4).
RELEASED = Preset(
    Config(seed=0, device="cpu", threads=1, num_tasks=1_000, batch_size=128, dataset="mnist"),
    {
        "mlp": ArmConfig(
            Mlp(hidden=(16,)),
            Adam(learning_rate=1e-3, epsilon=1e-7),
            epochs=1,
            inputs=Inputs(unit_norm=False, permute_padding=False),
        ),
        "qnn": ArmConfig(
            Qnn("brickwork", depth=4, readout="log-odds", initial_angles=(0.0, 2 * math.pi)),
            Adam(learning_rate=3e-2, epsilon=1e-8),
            epochs=5,
            inputs=Inputs(unit_norm=False, permute_padding=True),
            remedies={"reset-optimizer": REMEDIES["reset-optimizer"]},
        ),
    },
    "the numbers of the authors' program",
)
# What differs between the arms for no reason is made equal: optimizer never reset, one epoch (the
# classical arm's), torch's epsilon, unit norm, the pixels alone permuted. The rates stay per arm.
MATCHED = RELEASED.replace(
    {},
    "what differs between the arms for no reason is made equal",
    mlp={
        "optimizer": Adam(learning_rate=1e-3, epsilon=1e-8),
        "inputs": Inputs(unit_norm=True, permute_padding=False),
    },
    qnn={
        "epochs": 1,
        "inputs": Inputs(unit_norm=False, permute_padding=False),
        "remedies": {},
    },
)
# Chosen to finish within a minute offline: 1,437 images of 64 pixels, batches small enough that a
# task has as many updates as needed to learn something, the MLP's rate raised for the same end and
# the QNN's lowered, since at 0.03 on batches of 32 a task now and then ends below chance.
QUICK = RELEASED.replace(
    {"dataset": "digits", "num_tasks": 40, "batch_size": 32},
    "40 tasks of scikit-learn's digits; no download, done within a minute",
    mlp={"epochs": 5, "optimizer": Adam(learning_rate=1e-2, epsilon=1e-7)},
    qnn={"epochs": 3, "optimizer": Adam(learning_rate=1e-2, epsilon=1e-8)},
)
# Every arm sees the same: 10,000 images a task, one epoch, unit norm, the padding permuted too, and
# Adam is never reset. What is left to differ is the network, and its rate: the best of a search on
# another seed (docs/experiments/why.md).
REGISTRY = Registry(NETWORKS, REMEDIES, Inputs)
ALIKE = {
    "optimizer": Adam(learning_rate=1e-2, epsilon=1e-8),
    "epochs": 1,
    "inputs": Inputs(unit_norm=True, permute_padding=True),
    "remedies": {},
}
WHY = at_rates(
    replace(
        RELEASED.replace(
            {"num_tasks": 100, "train_samples": 10_000},
            "all control arms under one protocol, with all metrics",
            mlp=ALIKE,
            qnn=ALIKE,
        ),
        metrics=ASKING_WHY,
    ),
    REGISTRY,
    {
        "mlp": 1e-2, "qnn": 3e-2, "linear": 1e-1, "quadratic": 3e-3, "stiefel": 3e-3,
        "stiefel-free": 1e-2, "free-brickwork": 1e-2, "orthogonal-brickwork": 1e-2,
        "qnn-wrapped": 1e-2, "qnn-trivialised": 1e-2, "qnn-scaled": 1e-2, "qnn-relu": 3e-2,
        "qnn-reupload": 3e-2, "mlp-bounded": 1e-2, "mlp-wide": 1e-2, "mlp-small": 3e-2,
        "mlp-torus": 1e-1, "mlp-orthogonal": 1e-2, "mlp-orthogonal-max-min": 1e-2,
        "mlp-sphere": 1e-2, "mlp-sphere-ln": 1e-2, "mlp-sin": 3e-2,
    },
)  # fmt: skip
# The same with the labels permuted in place of the pixels: what is lost, and what keeps, differs.
# Rates are those of a search on another seed, too (docs/experiments/streams.md).
LABELS = at_rates(
    WHY.replace({"num_tasks": 200, "relabel": True}, "one order of the pixels, other labels"),
    REGISTRY,
    {
        "mlp": 3e-2, "mlp-sin": 3e-2, "mlp-orthogonal": 3e-2, "qnn": 3e-2, "stiefel": 3e-3,
        "stiefel-free": 1e-2,
    },
)  # fmt: skip


def load(config: Config, options: TaskOptions) -> Images:
    """Read the images; a blank one has no direction, so nothing to encode as a state."""
    from plasticity.tasks.images import load_images

    images = load_images(config.dataset, expanded(options.data_root, "--data-root"))
    images.require_nonzero()
    if config.train_samples is not None and config.train_samples > len(images.y_train):
        raise UsageError(
            f"--train-samples {config.train_samples}: {config.dataset} has {len(images.y_train)}"
        )
    return images


def problem_of(config: Config, images: Images, inputs: Inputs) -> Problem:
    """Return the tasks as an arm sees them."""
    from torch.nn.functional import cross_entropy

    from plasticity.networks.network import Shape
    from plasticity.networks.qnn import qubits_for
    from plasticity.tasks.streams import PermutedPixels

    shape = Shape(images.num_pixels, images.num_classes)
    if inputs.permute_padding:
        shape = replace(shape, inputs=2 ** qubits_for(shape))
    stream = PermutedPixels(
        images,
        num_tasks=config.num_tasks,
        seed=config.seed,
        num_inputs=shape.inputs,
        unit_norm=inputs.unit_norm,
        num_train=config.train_samples,
        gradual=config.gradual,
        moved=config.moved,
        relabel=config.relabel,
        recurring=1 if config.stationary else config.recurring,
        device=config.device,
    )
    return Problem(stream, shape, cross_entropy)


METRICS = ("weight_norm", "gradient_norm", "test_accuracy")
LEARNING = SupervisedLearning(problem_of, METRICS)
COLUMNS = {
    "accuracies": "test_accuracy",
    "weight_norms": "weight_norm",
    "grad_norms": "gradient_norm",
}
EXPERIMENT = Experiment(
    name="mnist",
    about=__doc__,
    presets={
        "released": RELEASED,
        "matched": MATCHED,
        "why": WHY,
        "labels": LABELS,
        "quick": QUICK,
    },
    registry=REGISTRY,
    load=load,
    identify=content_of,
    check=LEARNING.check,
    build=LEARNING.build,
    metrics=METRICS,
    exports=Exports(
        {
            "mlp": {"classical_model_results.npz": COLUMNS},
            "qnn": {"quantum_model_results.npz": COLUMNS},
        },
        others=COLUMNS | {"tasks": "task"},
    ),
    panels=("test_accuracy", "weight_norm", "gradient_norm"),
    chance=lambda config: 0.1 if config.dataset in ("mnist", "digits") else None,
)

if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
