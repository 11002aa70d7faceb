"""What the tests of studies share: a study of tiny cells, and its command in another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from plasticity.studies.cells import Cell, cells, folder_of
from plasticity.studies.study import Study
from tests.experiments.runs import contents, write_npz

ROOT = Path(__file__).parents[2]
# The command, with a report that says how many rows each cell has.
PROGRAM = """
import sys, types
from experiments.processes import interrupts

if __name__ == "__main__":
    interrupts.guard()

def write_report(study, results, folder, place):
    from plasticity.studies.cells import cells, rows_of
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{c.arm} {c.seed} {len(rows_of(c, results))}\\n" for c in cells(study, place)]
    (folder / "report.md").write_text("".join(lines))
    return folder / "report.md"

if __name__ == "__main__":
    report = types.ModuleType("plasticity.studies.report")
    report.write_report = write_report
    sys.modules["plasticity.studies.report"] = report
    from experiments import study
    from plasticity.studies import workers as engine
    engine.AGAIN_AFTER = 0.2
    sys.exit(study.main(sys.argv[1:]))
"""


def tiny_study(folder: Path, **changes: Any) -> Study:
    """Return a study of two arms and two seeds, three tasks of few images each."""
    data = folder / "tiny.npz"
    if not data.exists():
        write_npz(data)
    declared: dict[str, Any] = {
        "name": "tiny",
        "question": "Is there a question?",
        "experiment": "mnist",
        "preset": "quick",
        "arms": ("mlp", "linear+l2-init"),
        "seeds": (0, 1),
        "settings": {"dataset": str(data), "batch_size": 16, "num_tasks": 3},
    }
    return Study(**declared | changes)


def write_study(path: Path, study: Study) -> Path:
    """Write a study to a file that the command takes."""
    values = ", ".join(f"{name}={value!r}" for name, value in vars(study).items())
    path.write_text(f"from plasticity.studies.study import Study\n\nSTUDY = Study({values})\n")
    return path


def start_study(
    folder: Path, *words: str, session: bool = False, program: str = PROGRAM
) -> subprocess.Popen[str]:
    """Start the command in a process of its own; what it says goes to files in the folder."""
    file = folder / "program.py"
    file.write_text(program)
    with (folder / "said.out").open("w") as out, (folder / "said.err").open("w") as err:
        return subprocess.Popen(
            [sys.executable, str(file), *words],
            cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=out, stderr=err, text=True, start_new_session=session,
            # A shell starts background jobs with Ctrl-C ignored, and so their children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


def run_study(folder: Path, *words: str) -> tuple[int, str, str]:
    """Run the command to its end: status, and what it says on either stream."""
    status = start_study(folder, *words).wait()
    return status, (folder / "said.out").read_text(), (folder / "said.err").read_text()


def train_here(cell: Cell, results: Path) -> None:
    """Train a cell in this process."""
    from experiments import mnist
    from tests.experiments.runs import start

    assert start(*cell.command(results)[3:], experiment=mnist.EXPERIMENT) == 0


def records(study: Study, results: Path) -> dict[str, dict[Path, bytes]]:
    """Return what decides the numbers of each cell, and what they are."""
    return {f"{c.arm} {c.seed}": contents(folder_of(c, results)) for c in cells(study)}
