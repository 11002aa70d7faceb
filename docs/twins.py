"""Train what the deficits of older records need: untrained networks on the last tasks of the runs.

    python docs/twins.py mnist-why --dataset FILE.npz
    python docs/twins.py qdata-why
    python docs/twins.py quick

The records are older than the metric ``deficit``, and have no untrained networks. This trains, for
each arm and seed, the network with the run's initial weights on the last tasks, one after another,
from the same batches: the very thing that the metric does while a run is recorded. The accuracies
are in ``docs/records/twins/STUDY.npz``, ``(seeds, last tasks)`` for each arm; arms that are there
already are not trained again. When all are there, the column ``deficit`` is put into the records of
the study: these accuracies, less those that the recorded networks had.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from recorded import RECORDS, folder_of_study, of_study, twins_of  # noqa: E402

if TYPE_CHECKING:
    from plasticity.studies.numbers import Numbers


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

    found = of_study(study)
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


def with_deficit(found: Numbers, accuracies: Mapping[str, np.ndarray]) -> Numbers:
    """Return the numbers of a study with the column ``deficit``, as it is declared now."""
    from experiments.study import find

    columns = dict(found.columns)
    for arm, of_twins in accuracies.items():
        last = of_twins.shape[1]
        deficit = np.full((len(of_twins), found.tasks), np.nan, np.float32)
        deficit[:, -last:] = of_twins - found.columns[arm]["test_accuracy"][:, -last:]
        columns[arm] = {**found.columns[arm], "deficit": deficit}
    text = "not recorded, but that docs/twins.py trained the column deficit later, in December 2026"
    study = dataclasses.replace(find(found.study.name), seeds=found.study.seeds)
    return dataclasses.replace(found, study=study, columns=columns, sources={"run folders": [text]})


def main(study: str, dataset: str | None) -> None:
    """Train the twins of a study's pilot, and write them after each arm."""
    import torch

    from plasticity.results.compact import write_arrays
    from plasticity.studies.numbers import save_records

    torch.set_num_threads(1)
    found, there = of_study(study), twins_of(study)
    began = time.process_time()
    for arm in found.study.arms:
        if arm in there:
            continue
        of_seeds = [accuracies(study, arm, seed, dataset) for seed in found.seeds(arm)]
        there[arm] = np.array(of_seeds, np.float32)
        write_arrays(RECORDS / "twins" / f"{study}.npz", there)
        print(f"{arm}: {there[arm].mean():.4f}, {time.process_time() - began:.0f} s", flush=True)
    save_records(with_deficit(found, there), folder_of_study(study))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[3] if "--dataset" in sys.argv[2:3] else None)
