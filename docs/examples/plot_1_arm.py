"""
An arm of your own
==================

An arm is a network with its options, and how it is trained. This page adds a network whose weight
matrices cannot grow: after every update, each matrix is scaled back to its initial norm.

A network is a frozen dataclass. Its fields are its options, and ``build`` makes the module.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

from plasticity.networks import NETWORKS
from plasticity.networks.mlp import mlp
from plasticity.networks.network import Network, Shape


@dataclass(frozen=True)
class Sphere(Network):
    """Classify with a ReLU network whose weight matrices keep their norms."""

    hidden: tuple[int, ...]
    """Units of each hidden layer."""
    radius: float
    """Norm of each weight matrix, as a multiple of the norm that it is drawn with."""

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it."""
        return OnSphere(mlp((shape.inputs, *self.hidden, shape.outputs), generator), self.radius)


class OnSphere(nn.Module):
    """A network whose weight matrices are scaled back after every update."""

    def __init__(self, network: nn.Module, radius: float) -> None:
        super().__init__()
        self.network = network
        self.weights = [p for p in network.parameters() if p.dim() == 2]
        with torch.no_grad():
            for weight in self.weights:
                weight *= radius
        self.norms = [float(weight.detach().norm()) for weight in self.weights]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits."""
        return self.network(x)

    @torch.no_grad()
    def after_update(self) -> None:
        """Scale back; the learner calls this after each of its updates."""
        for weight, norm in zip(self.weights, self.norms, strict=True):
            weight *= norm / weight.norm()


# %%
# One dictionary entry makes it an arm of every experiment with tasks. In a program of your own, it
# is the line below. To add the network to the project itself, put this line into
# ``plasticity/networks/__init__.py``.

NETWORKS["sphere"] = Sphere(hidden=(16,), radius=3.0)

# %%
# Now ``--arms sphere`` works. Its options are ``--sphere.hidden`` and ``--sphere.radius``.
# Optimiser, epochs and inputs are those of the preset's arm ``mlp``.
#
# To use this file instead of ``python -m experiments.mnist``, write ``sys.argv[1:]`` instead of the
# list below.

from experiments import mnist
from experiments.cli import parse as cli

results = Path(tempfile.mkdtemp())
status = cli.main(
    mnist.EXPERIMENT,
    ["--preset=quick", "--arms", "mlp", "sphere", "--num-tasks=30", f"--results={results}"],
)
assert status == 0

# %%
# The weight norm of the plain network grows. The weight norm of the new network stays constant.
# One seed and thirty tasks prove nothing. Train five seeds, and draw them together with
# ``python -m experiments.figures RUN RUN RUN RUN RUN``.

(figure,) = results.glob("*/figure.png")
plt.figure(figsize=(12, 4))
plt.imshow(plt.imread(figure))
plt.axis("off")
plt.show()
