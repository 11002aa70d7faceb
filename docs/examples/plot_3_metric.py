"""
A metric of your own
====================

A metric is a function of a learner and the task at hand, and a time at which it is due: before a
task's first update, during its first epoch, or after its last update. This page adds the distance
of the parameters from where they started, and then takes it of a run that was trained without it.
"""

import tempfile
from pathlib import Path

import torch

from plasticity import Learner, Metric, Task, read_rows
from plasticity.metrics import METRICS


def distance_from_start(learner: Learner, first: Task, seed: int):
    """Keep the parameters of the untrained learner, and return what measures from there."""
    start = [p.detach().clone() for p in learner.network.parameters()]

    def measure(learner: Learner, task: Task) -> float:
        """Return the Euclidean distance of all parameters from the untrained ones."""
        pairs = zip(learner.network.parameters(), start, strict=True)
        return float(torch.stack([(p.detach() - old).norm() for p, old in pairs]).norm())

    return measure


# %%
# ``prepare`` is called once, with the untrained learner. A metric that does not look back is a
# function of learner and task, given as ``fn``. ``sparse`` metrics take long: they are due at
# tasks 0, 1, 2, 4, 8, ... and every ``--measure-every`` tasks.

METRICS["distance"] = Metric("distance", prepare=distance_from_start)

# %%
# Train with it by ``--metrics distance``; or train without it, and measure afterwards. A run keeps
# its networks after tasks 0, 1, 2, 4, 8, ... and the last.

from experiments import measure, qdata
from experiments.parts import cli

folder = Path(tempfile.mkdtemp())
data = f"--data-root={folder}"
trained = cli.main(qdata.EXPERIMENT, ["--preset=quick", data, f"--results={folder}"])
(run,) = folder.glob("qdata-*")
measured = measure.main([str(run), "--metrics", "distance", data])
assert (trained, measured) == (0, 0)

# %%
# ``python -m experiments.measure`` writes what it found beside the rows, and draws the run's
# figure again with a panel more.

for arm in sorted(run.glob("*-*/")):
    numbers = {row["task"]: round(row["distance"], 2) for row in read_rows(arm, "measured.jsonl")}
    print(f"{arm.name}: distance after task {numbers}")
