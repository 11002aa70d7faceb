"""What the exported names are to a type checker: ``mypy`` reads this file, and nothing runs it.

A line with ``type: ignore`` is a wrong use that the checker has to refuse: mypy fails where such a
comment is not needed.
"""

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import torch
from torch import Tensor, nn

from plasticity import (
    QNN,
    Brickwork,
    ClassPairs,
    Experiment,
    Learner,
    LogOdds,
    Metric,
    PauliZ,
    PermutedPixels,
    Run,
    Runs,
    Study,
    TaskStream,
    generator_for,
    load_images,
    load_run,
    load_runs,
    load_study,
    read_rows,
)
from plasticity.errors import PlasticityError, UsageError
from plasticity.studies.findings import Comparison, Finding
from plasticity.studies.results import Results


def layer(x: Tensor) -> None:
    """Use the layer as any module of torch."""
    qnn = QNN(Brickwork(num_qubits=4, depth=2), LogOdds(num_classes=10))
    module: nn.Module = qnn
    assert_type(qnn.angles, nn.Parameter)
    nn.Sequential(nn.Linear(3, 16), module)
    QNN(4, 3)  # type: ignore[arg-type]
    QNN(Brickwork(4, 2))  # type: ignore[call-arg]
    Brickwork(num_qubits="4", depth=2)  # type: ignore[arg-type]
    PauliZ("01")  # type: ignore[arg-type]
    assert_type(generator_for(0, "words", 1), torch.Generator)


def runs(experiment: Experiment[Any]) -> None:
    """Train and read runs."""
    run = experiment.run("quick", arms=["mlp"], num_tasks=4)
    assert_type(run, Run)
    assert_type(load_run(run.path), Run)
    assert_type(run.arms, tuple[str, ...])
    assert_type(run["mlp"].column("test_accuracy"), np.ndarray)
    assert_type(run["mlp"].network(task=2), nn.Module)
    assert_type(load_runs("results/*"), Runs)
    experiment.run("quick", arms="mlp", progress="no")  # type: ignore[arg-type]
    load_run(3)  # type: ignore[arg-type]
    read_rows(Path("results"))


def studies() -> None:
    """Declare, train and read studies."""
    study = Study(
        name="held", question="?", experiment="mnist", preset="quick", arms=("mlp",), seeds=(0, 1)
    )
    assert_type(study.load("results"), Results)
    found = load_study("docs/records/studies/quick")
    assert_type(found.findings(), list[Finding])
    assert_type(found.comparisons(), list[Comparison])
    assert_type(found.findings()[0].drop.estimate, float)
    assert_type(found.findings()[0].drop.interval_95, tuple[float, float] | None)
    assert_type(found.without_verdict(), dict[str, str])
    assert_type(found.report("folder"), Path)
    study.train(workers="two")  # type: ignore[arg-type]
    Study(name="held")  # type: ignore[call-arg]


def streams(learner: Learner) -> None:
    """Make streams of tasks and metrics."""
    images = load_images("digits", Path("data"))
    stream: TaskStream = PermutedPixels(images, num_tasks=4, num_inputs=64, seed=0)
    stream = ClassPairs(images, num_tasks=4, seed=0)
    assert_type(len(stream), int)
    assert_type(stream[0].index, int)
    Metric("norm", lambda learner, task: 0.0)
    Metric("norm", lambda learner, task: 0.0, when="later")  # type: ignore[arg-type]


def errors(error: UsageError) -> PlasticityError:
    """Catch all errors that a user can cause."""
    return error
