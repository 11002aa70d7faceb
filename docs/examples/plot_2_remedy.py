"""
A remedy of your own
====================

A remedy is something done to a learner against the loss of plasticity: before a task, after an
update, as a penalty, or to the network before it is trained. This page adds *shrink and perturb*
(Ash and Adams 2020): before each task, every parameter is scaled down, and a little noise is added.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from plasticity.learning.remedy import Learns, Remedy
from plasticity.remedies import REMEDIES
from plasticity.seeding import generator_for


@dataclass
class Perturb(Remedy):
    """Shrink the parameters and add noise when a task begins."""

    keep: float
    """The part of each parameter that is kept."""
    noise: float
    """Standard deviation of what is added."""

    def start(self, learner: Learns, seed: int) -> None:
        """Remember whose parameters they are."""
        self.learner, self.seed, self.changed = learner, seed, 0.0

    @torch.no_grad()
    def before_task(self, index: int) -> None:
        """Shrink and perturb; what is drawn is a function of seed and task."""
        generator = generator_for(self.seed, "perturb", index)
        squares = 0.0
        for parameter in self.learner.network.parameters():
            drawn = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            new = self.keep * parameter + self.noise * drawn
            squares += float((new - parameter).square().sum())
            parameter.copy_(new)
        self.changed = squares**0.5

    def columns(self) -> dict[str, float]:
        """Tell how far the parameters were moved: a column of the rows."""
        return {"perturb_distance": self.changed}


# %%
# All random numbers come from ``generator_for``: what is drawn does not depend on what ran before,
# so that a run which was stopped goes on bit for bit. A remedy that remembers something from task
# to task returns it from ``state_dict`` and takes it back in ``load_state_dict``.

REMEDIES["perturb"] = Perturb(keep=0.8, noise=0.01)

# %%
# A remedy is added to any arm after a plus, in every experiment that learns a stream of tasks. Its
# options are ``--mlp+perturb.perturb.keep`` and ``--mlp+perturb.perturb.noise``.

from experiments import mnist
from experiments.parts import cli
from plasticity import read_rows

results = Path(tempfile.mkdtemp())
status = cli.main(
    mnist.EXPERIMENT,
    ["--preset=quick", "--arms", "mlp", "mlp+perturb", "--num-tasks=20", f"--results={results}"],
)
assert status == 0

# %%
# What the remedy did stands in the rows, beside what was measured:

(folder,) = results.glob("*/mlp+perturb-*")
for row in read_rows(folder)[:3]:
    print({name: row[name] for name in ("task", "perturb_distance", "test_accuracy")})
