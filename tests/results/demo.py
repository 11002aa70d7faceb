"""A small run of two arms, which the tests of run folders train, kill and edit."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from plasticity.results import record
from plasticity.results.names import folder_name
from plasticity.results.record import RunFolder, open_run
from tests.waiting import PATIENCE, killed_on_failure

SHARED = {"experiment": "demo", "seed": 0, "learning_rate": 0.01}
ARMS = {"mlp": {"network": "mlp", "width": 4}, "qnn": {"network": "qnn", "depth": 2}}
MLP, QNN = (folder_name(name, arm) for name, arm in ARMS.items())
NUM_ROWS = 3
LOCKS = ("lock", "lock.pid")


class Drawing:
    """What `save_figure` needs of a figure, without the time that drawing takes."""

    def savefig(self, file, **_: object) -> None:
        file.write(b"drawn")


def train(
    results: str | Path,
    num_rows: int = NUM_ROWS,
    names: Sequence[str] = tuple(ARMS),
    *,
    overwrite: bool = False,
) -> Path:
    """Train arms, measure and export, as an experiment does: what is there already is kept."""
    folder = open_run(results, "demo", SHARED)
    for name in names:
        with folder.arm(name, ARMS[name], overwrite=overwrite) as arm:
            state = arm.load_state() or {"weights": torch.zeros(3), "step": 0}
            arm.note_provenance(["demo"])
            for step in range(len(arm.rows), num_rows):
                state = {"weights": state["weights"] + 0.1, "step": step + 1}
                if step & (step - 1) == 0:
                    arm.save_snapshot(step, {"weights": state["weights"]})
                arm.append({"task": step, "norm": state["weights"].norm().item()}, state)
            arm.save_npz("numbers", norms=np.array([row["norm"] for row in arm.rows]))
            arm.save_measured(
                {task: {"sum": net["weights"].sum().item()} for task, net in arm.snapshots()}
            )
    with folder.locked():
        folder.save_figure("figure", Drawing())
    return folder.path


def open_demo(results: Path) -> RunFolder:
    return open_run(results, "demo", SHARED)


def open_first_arm(path: Path) -> None:
    """Open and close the arm mlp of a run."""
    with open_demo(path.parent).arm("mlp", ARMS["mlp"]):
        pass


def files(folder: Path, *, without: Sequence[str] = LOCKS) -> dict[str, bytes]:
    """Return the bytes of all files below a folder, by relative name."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in without)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def numbers(folder: Path) -> dict[str, bytes]:
    """Return what has to be equal however often a run was interrupted."""
    return files(folder, without=(*LOCKS, "provenance.jsonl"))


def start_script(body: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program that knows this module's names in a process of its own."""
    program = f"import sys\nfrom tests.results.demo import *\n{body}"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(Path(record.__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_script(process: subprocess.Popen[str], told: str = "") -> str:
    """Let a program read a text and end; return what it printed."""
    with killed_on_failure(process):
        said, errors = process.communicate(told, timeout=PATIENCE)
    assert process.returncode == 0, errors
    return said


def run_script(body: str, *arguments: object) -> str:
    """Run a program that knows this module's names; return what it printed."""
    return end_script(start_script(body, *arguments))
