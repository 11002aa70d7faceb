"""Eigenstates of the XXZ chain: two energy levels to tell apart, another pair in every task.

Quantum data, computed here once (no download): an MLP and a quantum neural network learn 2,000
pairs of levels, each from its states at 201 anisotropies. Stopped at any moment, also while the
data is computed, the same command goes on.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.parts import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import dataclasses
import functools
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
    from torch import Tensor

    from experiments.parts.arms import Supervised
    from plasticity.tasks.levels import SpinLevels


@dataclass(frozen=True)
class Mlp:
    """The classical arm: hidden layers of ReLU units on the states' real and imaginary parts."""

    hidden: tuple[int, ...] = (64, 64)
    """Units of each hidden layer."""
    adam_epsilon: float = 1e-7
    """Of Adam's denominator (Keras: 1e-7, torch: 1e-8)."""
    bounded_logits: bool = False
    """Bound the logit to (-1, 1), as the quantum arm's is."""
    fix_sign: bool = False
    """Make each state's largest amplitude positive: the quantum arm does not see the sign."""


@dataclass(frozen=True)
class Config(TaskSetting):
    """What decides the numbers. No default is a matter of taste: see PRESETS."""

    num_sites: int = 10
    """Spins of the chain, and qubits."""
    levels: Literal["all", "resolved"] = "all"
    """All levels in ascending energy, as released, many of them degenerate; or those of one
    symmetry sector, followed from anisotropy to anisotropy, with signs that fit."""
    num_tasks: int = 2_000
    """Number of pairs of levels learned in turn."""
    batch_size: int = 64
    """States an update."""
    epochs: int = 5
    """Passes over each task's training states."""
    learning_rate: float = 2e-3
    """Of Adam, which is never reset."""
    depth: int = 6
    """Staircases of the quantum arm's circuit."""
    qnn_adam_epsilon: float = 1e-8
    """Of Adam's denominator in the quantum arm."""
    mlp: Mlp = Mlp()
    """The classical arm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mlp.hidden or min(self.mlp.hidden) < 1:
            raise UsageError(f"--mlp.hidden {self.mlp.hidden}: at least one unit a layer")
        if self.num_sites < 4:
            raise UsageError(f"--num-sites {self.num_sites}: a periodic chain has 4 or more")


# The released program's numbers (quantum-plasticity, commit c3c6cb4) are Config's defaults; Adam's
# epsilons are taken to be those of the libraries that it trains its arms with.
RELEASED = Config()
# What differs between the arms for no reason is made equal: the range of the logit, Adam's epsilon,
# and that neither sees an eigenstate's arbitrary sign.
MATCHED = dataclasses.replace(
    RELEASED, mlp=Mlp(adam_epsilon=1e-8, bounded_logits=True, fix_sign=True)
)
# Labels that mean something: no degenerate levels, each followed through all anisotropies.
RESOLVED = dataclasses.replace(RELEASED, levels="resolved")
# Chosen to finish within seconds: 64 levels, and a rate at which 30 updates are enough to see
# the arms learn.
QUICK = dataclasses.replace(RELEASED, num_sites=6, num_tasks=20, learning_rate=1e-2)


def load(config: Config, options: DataOptions) -> SpinLevels:
    """Read the eigenstates, or compute them."""
    from plasticity.tasks.levels import load_levels
    from plasticity.tasks.streams import SpinChainLevels

    levels = load_levels(config.num_sites, config.levels, options.data_root.expanduser())
    SpinChainLevels(levels, num_tasks=1, seed=0)  # raises if there is no pair
    return levels


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the binary cross entropy in nats; the output is the logit of label 1."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(outputs.squeeze(1), labels.to(outputs.dtype))


def build(config: Config, levels: SpinLevels, network: str) -> Supervised:
    """Make an arm: the circuit has a qubit a site, Z is read on the first."""
    import torch

    from experiments.parts.arms import Supervised
    from plasticity.learning.learner import Learner
    from plasticity.learning.metric import Metric
    from plasticity.metrics.accuracy import logit_statistics, test_accuracy
    from plasticity.metrics.norms import gradient_norm, weight_norm
    from plasticity.networks.mlp import bounded, mlp
    from plasticity.quantum.circuits import Staircase, light_cone
    from plasticity.quantum.layer import QNN
    from plasticity.quantum.readouts import PauliZ
    from plasticity.seeding import generator_for
    from plasticity.tasks.streams import SpinChainLevels

    generator = generator_for(config.seed, "initial weights")
    classical, remark = network == "mlp", ""
    if classical:
        epsilon = config.mlp.adam_epsilon
        widths = (2 * 2**config.num_sites, *config.mlp.hidden, 1)
        model: torch.nn.Module = mlp(widths, generator)
        model = bounded(model) if config.mlp.bounded_logits else model
    else:
        epsilon = config.qnn_adam_epsilon
        ansatz = Staircase(config.num_sites, config.depth)
        model = QNN(
            ansatz, PauliZ(0), lambda shape: 0.2 * torch.rand(shape, generator=generator) - 0.1
        )
        cone = light_cone(ansatz, 0)
        remark = (
            f"Z on qubit 0 depends on {len(cone)} of {ansatz.num_gates} gates, on qubits 0 to "
            f"{max(max(ansatz.pairs[gate]) for gate in cone)}; the angles of the others get no "
            "gradient and stay as they are"
        )
    model.to(config.device)
    adam = functools.partial(torch.optim.Adam, lr=config.learning_rate, eps=epsilon, fused=True)
    stream = SpinChainLevels(
        levels,
        num_tasks=config.num_tasks,
        seed=config.seed,
        imaginary=classical,
        fix_sign=classical and config.mlp.fix_sign,
        device=config.device,
    )
    metrics = (
        Metric("weight_norm", weight_norm, "before"),
        Metric("gradient_norm", gradient_norm, "before"),
        Metric("test_accuracy", test_accuracy),
        Metric("logit", logit_statistics),
    )
    learner = Learner(model, adam, loss)
    return Supervised(
        learner, stream, config.epochs, config.batch_size, config.seed, metrics, remark
    )


EXPERIMENT = Experiment(
    name="qdata",
    about=__doc__,
    presets={"released": RELEASED, "matched": MATCHED, "resolved": RESOLVED, "quick": QUICK},
    networks={"mlp": "classical (MLP)", "qnn": "quantum (QNN)"},
    load=load,
    identify=identify,
    build=build,
    exports={
        "mlp": {"classical_validation_accuracies.npy": "test_accuracy"},
        "qnn": {"quantum_validation_accuracies.npy": "test_accuracy"},
    },
    panels=(
        Panel("test_accuracy", "validation accuracy after the task"),
        Panel("train_loss", "training loss of the last epoch (nats)"),
        Panel("logit_label_variance", "p(1 - p) of the label, validation"),
    ),
)

if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
