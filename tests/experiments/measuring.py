"""What tests of measure and device share: runs of tiny arms, what was measured, what is refused."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import cifar, measure, mnist, qdata
from experiments.cli import parse as cli
from plasticity.results.record import read_rows
from plasticity.runs.experiment import Experiment
from tests.experiments.runs import arm_folder, run_folder, snapshot

EXPERIMENTS: dict[str, Experiment[Any]] = {
    "mnist": mnist.EXPERIMENT, "cifar": cifar.EXPERIMENT, "qdata": qdata.EXPERIMENT
}  # fmt: skip
KEPT = [0, 1, 2, 4, 5]
"""Tasks after which a run of six keeps its networks."""


def write_images(path: Path, num_classes: int, per_class: int, num_pixels: int = 12) -> Path:
    rng = np.random.default_rng(0)
    y = np.arange(num_classes).repeat(per_class)
    x = rng.integers(1, 256, (len(y), num_pixels), dtype=np.uint8)
    np.savez(path, x_train=x, y_train=y, x_test=x[::3], y_test=y[::3])
    return path


def write_data(folder: Path) -> Path:
    """Write a data set for each experiment that reads one."""
    write_images(folder / "mnist.npz", 4, 10)
    write_images(folder / "cifar.npz", 3, 34)
    return folder


def options_of(arm: str) -> list[str]:
    """Return options that make an arm tiny."""
    own = [f"--{arm}.hidden=3"] if arm.startswith("mlp") else [f"--{arm}.depth=2"]
    return [*own, f"--{arm}.epochs=1"]


def train(experiment: str, arms: tuple[str, ...], data: Path, results: Path, *more: str) -> Path:
    """Train tiny arms on six tasks and return the run folder."""
    words = ["--num-tasks=6", "--batch-size=34", f"--results={results}", f"--data-root={data}"]
    words.append("--num-sites=4" if experiment == "qdata" else f"--dataset={data}/{experiment}.npz")
    words += ["--arms", *arms, *(option for arm in arms for option in options_of(arm)), *more]
    status = cli.main(EXPERIMENTS[experiment], words)
    assert status == 0, f"status {status}"
    return run_folder(results)


def start(folder: Path, *words: str) -> int:
    """Measure a run."""
    return measure.main([str(folder), *words])


def measured(folder: Path, arm: str) -> dict[int, dict[str, float]]:
    """Return what was measured of an arm, by task."""
    rows = read_rows(arm_folder(folder, arm), "measured.jsonl")
    return {row["task"]: {k: v for k, v in row.items() if k != "task"} for row in rows}


def refusal(
    main: Callable[[Sequence[str]], int],
    words: Sequence[Any],
    status: int,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """Return how a command refuses: in one or two lines, and no file is changed or lost."""
    before = snapshot(folder)
    capsys.readouterr()
    assert main([str(word) for word in words]) == status
    printed, said = capsys.readouterr()
    of_bar = re.compile("(network|condition)/s")
    lines = [line for line in re.split(r"[\r\n]+", said) if line and not of_bar.search(line)]
    said = "\n".join(lines)
    assert said.startswith("error: ")
    assert len(lines) <= (1 if status == 2 else 2)
    assert "Traceback" not in printed + said
    assert snapshot(folder) == before
    return said
