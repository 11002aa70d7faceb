"""Train on states of the XXZ chain: two energy levels to tell apart, another pair in every task.

Quantum data, computed here once (no download): an MLP and a quantum neural network learn 2,000
pairs of levels, each from its states at 201 anisotropies. Stopped at any moment, also while the
data is computed, the same command goes on.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.processes import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from experiments.cli import parse as cli
from plasticity.errors import UsageError
from plasticity.learning.column import FRACTION, NONNEGATIVE, Column
from plasticity.networks import NETWORKS
from plasticity.networks.compact import SmallMlp
from plasticity.networks.mlp import Mlp
from plasticity.networks.qnn import Qnn
from plasticity.protocol.arms import ArmConfig, Registry
from plasticity.protocol.experiment import Exports, Preset, at_rates
from plasticity.protocol.optimizers import Adam
from plasticity.protocol.options import TaskOptions, TaskSetting, expanded
from plasticity.protocol.supervised import ASKING_WHY, Problem, SupervisedLearning
from plasticity.remedies import REMEDIES
from plasticity.runs.experiment import Experiment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from torch import Tensor

    from plasticity.tasks.levels import SpinLevels


@dataclass(frozen=True, kw_only=True)
class Config(TaskSetting):
    """What the arms share."""

    num_sites: int
    """Spins of the chain, and qubits."""
    levels: Literal["all", "resolved"]
    """All levels in ascending energy, as released, many of them degenerate; or those of one
    symmetry sector, followed from anisotropy to anisotropy, with signs that fit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_sites < 4:
            raise UsageError(f"--num-sites {self.num_sites}: a periodic chain has 4 or more")


@dataclass(frozen=True)
class Inputs:
    """How an arm sees the states."""

    imaginary: bool
    """Append the imaginary parts, which are all zero, as the released program's MLP gets them."""
    fix_sign: bool
    """Make each state's largest amplitude positive: a quantum arm does not see the sign."""


# The released program's numbers (quantum-plasticity, commit c3c6cb4); Adam's epsilons are taken to
# be those of the libraries that it trains its arms with.
RELEASED = Preset(
    Config(
        seed=0, device="cpu", threads=1, num_tasks=2_000, batch_size=64, num_sites=10, levels="all"
    ),
    {
        "mlp": ArmConfig(
            Mlp(hidden=(64, 64)),
            Adam(learning_rate=2e-3, epsilon=1e-7),
            epochs=5,
            inputs=Inputs(imaginary=True, fix_sign=False),
        ),
        "qnn": ArmConfig(
            Qnn("staircase", depth=6, readout="z-of-first", initial_angles=(-0.1, 0.1)),
            Adam(learning_rate=2e-3, epsilon=1e-8),
            epochs=5,
            inputs=Inputs(imaginary=False, fix_sign=False),
        ),
    },
    "the numbers of the authors' program",
)
# What differs between the arms for no reason is made equal: the range of the logit, Adam's epsilon,
# and that neither sees an eigenstate's arbitrary sign.
MATCHED = RELEASED.replace(
    {},
    "what differs between the arms for no reason is made equal",
    mlp={
        "network": Mlp(hidden=(64, 64), bounded_logits=True),
        "optimizer": Adam(learning_rate=2e-3, epsilon=1e-8),
        "inputs": Inputs(imaginary=True, fix_sign=True),
    },
)
# Labels that mean something: no degenerate levels, each followed through all anisotropies.
RESOLVED = RELEASED.replace(
    {"levels": "resolved"}, "levels that mean the same at every anisotropy, none degenerate"
)
# Every arm sees the same: levels that mean the same at every anisotropy, states with fixed signs,
# nothing appended. What is left to differ is the network, and its rate: the best of a search on
# another seed (docs/experiments/why.md). The small MLP has as many parameters as the circuit.
REGISTRY = Registry(NETWORKS, REMEDIES, Inputs)
ALIKE = {
    "optimizer": Adam(learning_rate=2e-3, epsilon=1e-8),
    "inputs": Inputs(imaginary=False, fix_sign=True),
}
WHY = at_rates(
    replace(
        RELEASED.replace(
            {"num_tasks": 300, "levels": "resolved"},
            "all control arms under one protocol, with all metrics",
            mlp=ALIKE,
            qnn=ALIKE,
        ),
        metrics=ASKING_WHY,
    ),
    REGISTRY,
    {
        "mlp": 1e-2, "qnn": 3e-2, "linear": 3e-1, "quadratic": 3e-2, "stiefel": 3e-2,
        "stiefel-free": 3e-2, "free-brickwork": 1e-2, "orthogonal-brickwork": 3e-2,
        "qnn-wrapped": 3e-2, "qnn-trivialised": 3e-2, "qnn-scaled": 3e-2, "qnn-relu": 1e-2,
        "qnn-reupload": 3e-2, "mlp-bounded": 1e-2, "mlp-wide": 3e-2, "mlp-small": 3e-2,
        "mlp-torus": 3e-1, "mlp-orthogonal": 1e-2, "mlp-orthogonal-max-min": 3e-3,
        "mlp-sphere": 3e-1, "mlp-sphere-ln": 3e-1, "mlp-sin": 3e-2,
    },
)  # fmt: skip
WHY = WHY.replace(
    {}, WHY.about, **{"mlp-small": {"network": SmallMlp(num_parameters=810, hidden=16)}}
)
# Chosen to finish within seconds: 64 levels, and a rate at which 30 updates are enough to see
# the arms learn.
QUICK = RELEASED.replace(
    {"num_sites": 6, "num_tasks": 20},
    "20 pairs of levels of 6 spins; done within seconds",
    mlp={"optimizer": Adam(learning_rate=1e-2, epsilon=1e-7)},
    qnn={"optimizer": Adam(learning_rate=1e-2, epsilon=1e-8)},
)


def load(config: Config, options: TaskOptions) -> SpinLevels:
    """Read the eigenstates, or compute them."""
    from plasticity.tasks.levels import load_levels
    from plasticity.tasks.streams import SpinChainLevels

    levels = load_levels(
        config.num_sites, config.levels, expanded(options.data_root, "--data-root")
    )
    SpinChainLevels(levels, num_tasks=1, seed=0)  # raises if there is no pair
    return levels


def identify(config: Config, levels: SpinLevels | None) -> dict[str, Any]:
    """Return the definition of the eigenstates, which is the same on every machine.

    Their bits are not: another processor rounds them otherwise.
    """
    from plasticity.tasks.levels import definition

    return {"dataset": definition(config.num_sites, config.levels)}


def renamed(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded config with the definition of its eigenstates.

    Runs used to be named after the sha256 of the eigenstates' bits, all of which are of version 1.
    """
    from plasticity.tasks.levels import definition

    config = dict(recorded)
    if str(config.get("dataset")).startswith("sha256:"):
        num_sites, levels = config.get("num_sites"), config.get("levels")
        config["dataset"] = definition(num_sites, levels, version=1)  # type: ignore[arg-type]
    return config


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the binary cross entropy in nats; the output is the logit of label 1."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(outputs.squeeze(1), labels.to(outputs.dtype))


def problem_of(config: Config, levels: SpinLevels, inputs: Inputs) -> Problem:
    """Return the tasks as an arm sees them."""
    from plasticity.networks.network import Shape
    from plasticity.tasks.streams import SpinChainLevels

    stream = SpinChainLevels(
        levels,
        num_tasks=config.num_tasks,
        seed=config.seed,
        imaginary=inputs.imaginary,
        fix_sign=inputs.fix_sign,
        device=config.device,
    )
    amplitudes = 2**config.num_sites
    shape = Shape(2 * amplitudes if inputs.imaginary else amplitudes, 1)
    return Problem(stream, shape, loss)


METRICS = ("weight_norm", "gradient_norm", "test_accuracy", "logit")
LEARNING = SupervisedLearning(problem_of, METRICS)
EXPERIMENT = Experiment(
    name="qdata",
    about=__doc__,
    presets={
        "released": RELEASED,
        "matched": MATCHED,
        "resolved": RESOLVED,
        "why": WHY,
        "quick": QUICK,
    },
    registry=REGISTRY,
    load=load,
    identify=identify,
    renamed=renamed,
    check=LEARNING.check,
    build=LEARNING.build,
    metrics=METRICS,
    exports=Exports(
        {
            "mlp": {"classical_validation_accuracies.npy": "test_accuracy"},
            "qnn": {"quantum_validation_accuracies.npy": "test_accuracy"},
        },
        others={"accuracies": "test_accuracy", "tasks": "task"},
    ),
    panels=("test_accuracy", "train_loss", "logit_label_variance"),
    columns=(
        Column("task", compared=False),
        Column("test_accuracy", "validation accuracy after the task", "", False, FRACTION),
        Column("train_loss", "training loss of the last epoch", "nats", False, NONNEGATIVE),
        Column("logit_label_variance", "p(1 - p) of the label, validation", bounds=(0, 0.25)),
    ),
    chance=lambda _: 0.5,
)

if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
