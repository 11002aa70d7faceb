"""Train what the deficits of the pilot need: untrained networks on the last tasks of its runs.

    python docs/twins.py mnist-why --dataset FILE.npz
    python docs/twins.py qdata-why

The pilot is older than the metric ``deficit``, and its records have no untrained networks. This
trains, for each arm and seed, the network with the run's initial weights on the last tasks, one
after another, from the same batches: the very thing that the metric does while a run is recorded.
The accuracies are in ``docs/records/pilot/twins-STUDY.npz``, ``(seeds, last tasks)`` for each arm;
arms that are there already are not trained again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from recorded import pilot, twins_of  # noqa: E402


def accuracies(study: str, arm: str, seed: int, dataset: str | None) -> list[float]:
    """Return what an untrained network's accuracy is after each of the last tasks."""
    from plasticity.errors import Diverged
    from plasticity.learning.loop import train_on_stream
    from plasticity.metrics import METRICS
    from plasticity.protocol.options import TaskOptions
    from plasticity.protocol.supervised import SomeTasks
    from plasticity.statistics.summaries import last_tasks
    from plasticity.studies.cells import Cell, Place, data_of
    from plasticity.studies.numbers import chance_of

    found = pilot(study)
    cell = Cell(found.study, arm, seed, Place(dataset))
    config = cell.choice.config
    ready = cell.experiment.build(
        config, data_of(cell), cell.choice.arms[arm], arm, TaskOptions(arms=())
    )
    last = range(found.tasks - last_tasks(found.tasks), found.tasks)
    rows = train_on_stream(
        ready.learner, SomeTasks(ready.stream, last), epochs=ready.epochs,
        batch_size=config.batch_size, seed=seed, metrics=[METRICS["test_accuracy"]],
    )  # fmt: skip
    reached = []
    try:
        reached += (row["test_accuracy"] for row in rows)
    except Diverged:
        reached += [chance_of(found.study)] * (len(last) - len(reached))
    return reached


def main(study: str, dataset: str | None) -> None:
    """Train the twins of a study's pilot, and write them after each arm."""
    import torch

    from plasticity.results.compact import write_arrays

    torch.set_num_threads(1)
    found, there = pilot(study, with_twins=False), twins_of(study)
    began = time.process_time()
    for arm in found.study.arms:
        if arm in there:
            continue
        of_seeds = [accuracies(study, arm, seed, dataset) for seed in found.seeds(arm)]
        there[arm] = np.array(of_seeds, np.float32)
        write_arrays(HERE / "records" / "pilot" / f"twins-{study}.npz", there)
        print(f"{arm}: {there[arm].mean():.4f}, {time.process_time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[3] if "--dataset" in sys.argv[2:3] else None)
