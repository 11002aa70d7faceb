"""What tests of the commands share: tiny data, where a run lies, what is in it, how to stop it."""

import dataclasses
import importlib
import json
import os
import pkgutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets  # noqa: F401  # here, so that child processes have it from the start
import torch

from experiments import cifar, mnist, qdata
from experiments.cli import parse as cli
from plasticity.learning.learner import Learner
from plasticity.results import provenance
from plasticity.results.record import read_rows
from plasticity.runs.experiment import Experiment
from plasticity.tasks.images import Images
from tests.waiting import wait_until

EXPERIMENTS = {module.EXPERIMENT.name: module.EXPERIMENT for module in (mnist, cifar, qdata)}
"""Those that learn a stream of tasks."""
UPDATES = 6
"""Of an arm and task of the fixture ``tiny``."""
EXPORTS = {"mlp": "classical_model_results.npz", "qnn": "quantum_model_results.npz"}
"""Of arms of ``mnist`` that the released program has."""

LOCKS = ("lock", "lock.pid", "MNIST.lock")


def tiny_images(num_pixels: int = 12, num_train: int = 40, num_classes: int = 4) -> Images:
    """Return images too few to learn from; 12 pixels are padded to 16 amplitudes."""
    rng = np.random.default_rng(0)
    x = rng.integers(1, 256, (num_train + 20, num_pixels), dtype=np.uint8)
    y = np.arange(len(x)) % num_classes
    return Images("tiny", x[20:], y[20:], x[:20], y[:20], 1 / 255)


def write_npz(path: Path, images: Images | None = None, **changes: np.ndarray) -> Path:
    """Write images to a file that ``--dataset`` takes."""
    images = images or tiny_images()
    arrays = {name: getattr(images, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(path, **arrays | changes)
    return path


def tiny_command(name: str, folder: Path) -> list[str]:
    """Return a command of an experiment that trains both arms on 3 tasks in a blink."""
    if name == "mnist":
        data = write_npz(folder / "tiny.npz")
        own = [f"--dataset={data}", "--batch-size=16", "--mlp.epochs=2", "--qnn.epochs=2"]
    elif name == "cifar":
        data = write_npz(folder / "pairs.npz", tiny_images(num_train=140))
        own = [f"--dataset={data}", "--batch-size=20", "--mlp.hidden=4"]
    else:
        own = ["--num-sites=4", f"--data-root={folder / 'data'}", "--mlp.hidden=4"]
        own += ["--mlp.epochs=2", "--qnn.epochs=2"]
    return [*own, "--num-tasks=3", "--qnn.depth=2", f"--results={folder / 'results'}"]


def start(*arguments: str, experiment: Experiment[Any] = mnist.EXPERIMENT) -> int:
    """Run a command in this process and return its status."""
    return cli.main(experiment, arguments)


def finish(arguments: list[str], experiment: Experiment[Any] = mnist.EXPERIMENT) -> Path:
    """Run a command to its end and return its run folder."""
    assert start(*arguments, experiment=experiment) == 0
    option = "--results="
    folders = [word.removeprefix(option) for word in arguments if word.startswith(option)]
    return run_folder(Path(folders[-1] if folders else "results"))


def only(command: list[str], *arms: str) -> list[str]:
    """Return a command for these arms, without what it says of others; its words have an "="."""
    own = tuple(f"--{arm}." for arm in arms)
    kept = [w for w in command if "." not in w.partition("=")[0] or w.startswith(own)]
    return [*kept, "--arms", *arms]


def run_folder(results: Path) -> Path:
    """Return the only run folder in a folder of results."""
    (folder,) = results.iterdir()
    return folder


def arm_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of a run's arms by the arms' names, each of which is there once."""
    paths = [file.parent for file in sorted(folder.glob("*/arm.json"))]
    found = {path.name.rpartition("-")[0]: path for path in paths}
    assert len(found) == len(paths)
    return found


def arm_folder(folder: Path, arm: str) -> Path:
    """Return the folder of the only arm of that name in a run."""
    return arm_folders(folder)[arm]


def rows_of(folder: Path, arm: str) -> list[dict[str, Any]]:
    """Return the rows of the only arm of that name in a run."""
    return read_rows(arm_folder(folder, arm))


def snapshot(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Return content and time of last change of all files, lock files excepted."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in LOCKS
    }


def contents(folder: Path) -> dict[Path, bytes]:
    """Return what decides the numbers of a run, and what they are, by path inside the folder.

    That is all files but those that say when, where and by which process it was written.
    """
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (*LOCKS, "provenance.jsonl")
    }


def provenance_of(folder: Path, arm: str) -> list[dict[str, Any]]:
    """Return the lines of an arm's provenance."""
    lines = (arm_folder(folder, arm) / "provenance.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# Asked elsewhere: which tasks an arm learns in test_fresh, the bound (only bounded logits have one)
# in tests/networks.
OF_SOME_ARMS = ("log_spaced", "network.logit_bound")


def fields_of(config: Any, prefix: str = "") -> list[str]:
    """Return the names of all fields that are not themselves a group of fields."""
    names = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        inner = dataclasses.is_dataclass(value)
        names += fields_of(value, f"{prefix}{field.name}.") if inner else [prefix + field.name]
    return [name for name in names if not name.endswith(OF_SOME_ARMS)]


def replaced(config: Any, field: str, value: Any) -> Any:
    """Return a dataclass with another value for a field, or for a field of a field."""
    group, dot, rest = field.partition(".")
    if dot:
        value = replaced(getattr(config, group), rest, value)
    return dataclasses.replace(config, **{group: value})


# --- what befalls a run


class Stop:
    """Do something at the n-th update from now on, counted over all arms."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.countdown, self.action = -1, lambda: None
        update = Learner.update

        def count(*arguments: Any) -> torch.Tensor:
            self.countdown -= 1
            if self.countdown == 0:
                self.action()
            return update(*arguments)

        monkeypatch.setattr(Learner, "update", count)

    def at(self, countdown: int, action: Callable[[], object]) -> None:
        self.countdown, self.action = countdown, action


def interrupt() -> None:
    raise KeyboardInterrupt


def on_call(owner: str, name: str, number: int, action: Callable[[], object]) -> None:
    """Do something before the n-th call of a function of a class or module, in this process."""
    holder, calls = pkgutil.resolve_name(owner), []
    function = getattr(holder, name)

    def counted(*some: Any, **more: Any) -> Any:
        calls.append(0)
        if len(calls) == number:
            action()
        return function(*some, **more)

    setattr(holder, name, counted)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def meet(mine: Path, other: Path) -> None:
    """Go on once the other process has come to this point too."""
    mine.touch()
    wait_until(other.exists)


def in_child(
    arguments: list[str], log: Path, *prepare: Callable[[], object], experiment: str = "mnist"
) -> None:
    """Run a command, after calls that prepare it; what it prints goes to a file, by two."""
    provenance.git_commit = lambda: None  # two processes each time
    for call in prepare:
        call()
    with log.open("a") as printed, log.with_suffix(".err").open("a") as said:
        os.dup2(printed.fileno(), 1)
        os.dup2(said.fileno(), 2)
    module = importlib.import_module(f"experiments.{experiment}")
    sys.exit(cli.main(module.EXPERIMENT, arguments))
