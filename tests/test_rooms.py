"""Arrows between the rooms point down: the check that .ci/run makes sees those that do not."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("importlinter") is None:
    pytest.skip("import-linter is installed by requirements-dev.txt", allow_module_level=True)

ROOT = Path(__file__).parents[1]
CHECK = "from importlinter.cli import lint_imports_command; lint_imports_command()"
FOR_TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
# Where what is planted, what is said of it, and the contract that it breaks.
PLANTED = {
    "a room above": (
        "plasticity/quantum/circuits.py",
        "from plasticity.learning import learner",
        "plasticity.quantum.circuits -> plasticity.learning.learner",
        "Arrows between rooms point down",
    ),
    "a room beside": (
        "plasticity/remedies/steps.py",
        "from plasticity.metrics import norms",
        "plasticity.remedies.steps -> plasticity.metrics.norms",
        "Arrows between rooms point down",
    ),
    "for type checkers": (
        "plasticity/learning/loop.py",
        f"{FOR_TYPES}    from plasticity.metrics import norms",
        "plasticity.learning.loop -> plasticity.metrics.norms",
        "Arrows between rooms point down",
    ),
    "a name of the package, in a function": (
        "plasticity/tasks/streams.py",
        "def late():\n    from plasticity import Learner",
        "plasticity.tasks.streams -> plasticity",
        "Arrows between rooms point down",
    ),
    "a room that has no place": (
        "plasticity/attic.py",
        "",
        "attic",
        "Arrows between rooms point down",
    ),
    "the experiments": (
        "plasticity/rl/ppo.py",
        "from experiments.cli import parse as cli",
        "plasticity.rl.ppo -> experiments.cli.parse",
        "The library knows nothing of the experiments",
    ),
    "out of quantum": (
        "plasticity/quantum/readouts.py",
        "from plasticity.seeding import generator_for",
        "plasticity.quantum.readouts -> plasticity.seeding",
        "plasticity.quantum could be lifted out",
    ),
    "the engine": (
        "experiments/mnist.py",
        "from plasticity.quantum.engine import gates",
        "experiments.mnist -> plasticity.quantum.engine.gates",
        "Only the layer imports its engine",
    ),
    "a command": (
        "experiments/cli/parse.py",
        "from experiments.mnist import EXPERIMENT",
        "experiments.cli.parse -> experiments.mnist",
        "What the commands share imports none of them",
    ),
    "a circle in a room": (
        "plasticity/quantum/circuits.py",
        f"{FOR_TYPES}    from plasticity.quantum.layer import QNN",
        "- .circuits -> .layer",
        "There is no circle, types included",
    ),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and their contracts, to plant something in."""
    folder = tmp_path_factory.mktemp("rooms")
    for package in ("plasticity", "experiments"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / package, ignore=leave)
    shutil.copy(ROOT / "setup.cfg", folder)
    return folder


def check(folder: Path) -> tuple[int, str]:
    """Return exit status and what is said, of a check of the packages in that folder."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK, "--no-cache", "--no-logo"],
        cwd=folder, env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_there_is_no_arrow_upwards(copy: Path) -> None:
    status, said = check(copy)
    assert status == 0, said
    assert "0 broken" in said


@pytest.mark.sampled(3)
@pytest.mark.parametrize("planted", PLANTED)
def test_planted_arrow_is_seen_and_named(copy: Path, planted: str) -> None:
    name, code, arrow, contract = PLANTED[planted]
    file = copy / name
    before = file.read_text() if file.exists() else None
    file.write_text(f"{before or ''}\n{code}\n")
    try:
        status, said = check(copy)
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_text(before)
    assert status == 1
    assert f"{contract} BROKEN" in said
    assert arrow in said
