"""
An arm of your own
==================

An arm is a network with its options, and how it is trained. This page adds a network whose weight
matrices cannot grow: after every update, each matrix is scaled back to its initial norm.

A network is a frozen dataclass. Its fields are its options, and ``build`` makes the module.
"""

import tempfile
from dataclasses import dataclass

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
# Now the arm works in Python and on the command line: ``--arms sphere`` with the options
# ``--sphere.hidden`` and ``--sphere.radius``. Optimizer, epochs and inputs are those of the arm
# ``mlp`` of the preset. (Save the network as ``sphere.py``; on the command line, add
# ``--import sphere``.)

from experiments import mnist

run = mnist.EXPERIMENT.run(
    "quick", arms=["mlp", "sphere"], num_tasks=30, results=tempfile.mkdtemp(), progress=False
)

# %%
# The weight norm of the plain network grows. The weight norm of the new network stays constant.
# One seed and thirty tasks prove nothing: train five seeds, and draw them together with
# ``load_runs``.

run.figure(["test_accuracy", "weight_norm"])
for arm in run.summary():
    print(f"{arm.arm}: early {arm.early:.3f}, late {arm.late:.3f}, drop {arm.drop:.3f}")
