"""Tiny runs that are diagnosed in tests."""

import json
from pathlib import Path
from typing import Any

from experiments import mnist, qdata
from plasticity import Run
from plasticity.results.arm import learner_file
from tests.experiments.runs import write_npz

WRITTEN = ("diagnosis.jsonl", "diagnosis.md", "diagnosis.png", "diagnosis.lock")


def train(
    name: str, folder: Path, arms: tuple[str, ...] = ("mlp",), num_tasks: int = 4, **more: Any
) -> Run:
    """Train arms of an experiment on some tasks of tiny data in a blink."""
    if name == "mnist":
        data = folder / "tiny.npz"
        if not data.exists():
            folder.mkdir(exist_ok=True, parents=True)
            write_npz(data)
        own: dict[str, Any] = {"dataset": data, "batch_size": 8}
        experiment: Any = mnist.EXPERIMENT
    else:
        own = {"num_sites": 4, "data_root": folder / "data", "batch_size": 64}
        experiment = qdata.EXPERIMENT
    options: dict[str, Any] = {arm: {"epochs": 2} for arm in arms}
    for arm in arms:
        if arm.endswith("redo"):
            options[arm] |= {"redo.every": 3, "redo.threshold": 0.5}
        if arm == "qnn":
            options[arm] |= {"depth": 1}
    settings = own | {"results": folder / "results", "progress": False} | more
    return experiment.run("quick", arms=arms, num_tasks=num_tasks, options=options, **settings)


def root_of(name: str, folder: Path) -> dict[str, Path]:
    """Return where a run's data is computed."""
    return {"data_root": folder / "data"} if name == "qdata" else {}


def forget_learners(run: Run) -> None:
    """Make a run as it was recorded before learners were kept."""
    for arm in run:
        for age in (1, 2, 4, 8):
            learner_file(run[arm].path, age).unlink(missing_ok=True)


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of diagnosis.jsonl in a folder."""
    return [json.loads(line) for line in (path / "diagnosis.jsonl").read_text().splitlines()]
