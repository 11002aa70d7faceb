"""
A metric of your own
====================

A metric is a function of a learner and a task, and the time at which it is measured: before a
task's first update, during its first epoch, or after its last update. This page adds the distance
of the parameters from their initial values. Then it measures this distance on a run that was
trained without the metric.
"""

import tempfile

import torch

from plasticity import Learner, Metric, Task
from plasticity.metrics import METRICS


def distance_from_start(learner: Learner, first: Task, seed: int):
    """Keep the initial parameters, and return the function that measures the distance."""
    start = [p.detach().clone() for p in learner.network.parameters()]

    def measure(learner: Learner, task: Task) -> float:
        """Return the Euclidean distance of all parameters from the initial ones."""
        pairs = zip(learner.network.parameters(), start, strict=True)
        return float(torch.stack([(p.detach() - old).norm() for p, old in pairs]).norm())

    return measure


# %%
# ``prepare`` is called once, with the untrained learner. A metric that needs no initial values is a
# function of learner and task, given as ``fn``. ``sparse`` is for slow metrics. They are measured
# at the tasks 0, 1, 2, 4, 8, ... and every ``--measure-every`` tasks.

METRICS["distance"] = Metric("distance", prepare=distance_from_start)

# %%
# You can train with ``metrics=["distance"]`` (``--metrics distance``). Or you train without it, and
# measure afterwards, as here. A run keeps its networks after the tasks 0, 1, 2, 4, 8, ... and after
# the last one.

from experiments import qdata

folder = tempfile.mkdtemp()
run = qdata.EXPERIMENT.run("quick", results=folder, data_root=folder, progress=False)
run.measure(["distance"], data_root=folder)

# %%
# The numbers lie in ``measured.jsonl`` beside the rows. They are columns like all others, undefined
# (NaN) at the tasks after which no network was kept.

for name in run:
    distance = run[name].column("distance")
    print(name, {task: round(d, 2) for task, d in enumerate(distance) if d == d})
run.figure(["test_accuracy", "distance"])
