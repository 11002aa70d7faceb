"""
A remedy of your own
====================

A remedy is a method against the loss of plasticity. It acts before a task, after an update, as a
penalty, or on the network before training. This page adds *shrink and perturb* (Ash and Adams
2020). Before each task, it scales down every parameter, and adds a little noise.
"""

import tempfile
from dataclasses import dataclass

import torch

from plasticity.learning.remedy import Learns, Remedy
from plasticity.remedies import REMEDIES
from plasticity.seeding import generator_for


@dataclass
class Perturb(Remedy):
    """Shrink the parameters and add noise when a task begins."""

    keep: float
    """Factor of each parameter."""
    noise: float
    """Standard deviation of the noise."""

    def start(self, learner: Learns, seed: int) -> None:
        """Keep the learner and the seed."""
        self.learner, self.seed, self.changed = learner, seed, 0.0

    @torch.no_grad()
    def before_task(self, index: int) -> None:
        """Shrink and perturb; the noise depends only on seed and task."""
        generator = generator_for(self.seed, "perturb", index)
        squares = 0.0
        for parameter in self.learner.network.parameters():
            drawn = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            new = self.keep * parameter + self.noise * drawn
            squares += float((new - parameter).square().sum())
            parameter.copy_(new)
        self.changed = squares**0.5

    def columns(self) -> dict[str, float]:
        """Return how far the parameters were moved, as a column of the rows."""
        return {"perturb_distance": self.changed}


# %%
# All random numbers come from ``generator_for``. They do not depend on earlier draws, so a stopped
# run continues bit for bit. If a remedy keeps something from task to task, ``state_dict`` returns
# it, and ``load_state_dict`` takes it back.

REMEDIES["perturb"] = Perturb(keep=0.8, noise=0.01)

# %%
# You add a remedy to any arm after a plus sign, in every experiment with tasks. The options here
# are ``--mlp+perturb.perturb.keep`` and ``--mlp+perturb.perturb.noise``.

from experiments import mnist

run = mnist.EXPERIMENT.run(
    "quick", arms=["mlp", "mlp+perturb"], num_tasks=20, results=tempfile.mkdtemp(), progress=False
)

# %%
# The rows contain the new column beside the metrics:

for row in run["mlp+perturb"].rows[:3]:
    print({name: row[name] for name in ("task", "perturb_distance", "test_accuracy")})

# %%
# A column is an array, and a figure can show it.

run.figure(["test_accuracy", "perturb_distance"])
