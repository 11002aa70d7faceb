"""What the tests of studies share: a study of tiny cells, and its command in another process."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasticity.studies.cells import Cell
from plasticity.studies.study import Study

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

# Trains made-up cells instead, as their JSON says, and prints those that failed. No torch is
# imported: what is looked at are the processes.
ENGINE = """
from experiments.processes import interrupts

if __name__ == "__main__":
    interrupts.guard()
    import json, sys
    from pathlib import Path
    from experiments.cli.parse import status_of
    from plasticity.studies import clusters
    from plasticity.studies import workers as engine
    from tests.studies.studying import MadeUp

    engine.AGAIN_AFTER, clusters.CONNECT_WITHIN = 0.2, float(sys.argv[4])
    engine.data_of = lambda cell: None
    engine.on_gpu = lambda cell: False
    engine.cost = lambda cell, results: 1
    engine.folder_of = lambda cell, results: results / cell.name
    engine.is_complete = lambda cell, results: len(cell.rows(results)) == cell.length

    def train():
        made_up = [MadeUp(**one) for one in json.loads(sys.argv[2])]
        for cell, why in engine.train(made_up, Path(sys.argv[1]), **json.loads(sys.argv[3])):
            print(f"{cell.name}: {why}")

    sys.exit(status_of(train, "stopped: what is finished is kept; the same command goes on."))
"""
# What a made-up cell runs: it locks its folder and appends rows, after the first while nobody holds
# it, or fails at once.
CELL = """
import sys, time
from pathlib import Path
from experiments.processes import interrupts
interrupts.guard()
import filelock
folder, length, status = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)
try:
    lock = filelock.FileLock(folder / "lock").acquire(timeout=0)
except filelock.Timeout:
    sys.exit(75)
if status:
    print("error: of", folder.name)
    sys.exit(status)
with open(folder / "rows", "ab", buffering=0) as rows:
    for number in range(rows.tell(), length):
        while number and (folder.parent / "held").exists():
            time.sleep(0.01)
        rows.write(b"abcdefgh"[number : number + 1])
"""


@dataclass(frozen=True)
class MadeUp:
    """A cell that is no training: so many rows of a letter each, or a failure."""

    name: str
    length: int = 5
    status: int = 0

    def command(self, results: Path) -> list[str]:
        folder = str(results / self.name)
        return [sys.executable, "-c", CELL, folder, str(self.length), str(self.status)]

    def rows(self, results: Path) -> str:
        file = results / self.name / "rows"
        return file.read_text() if file.exists() else ""


def tiny_study(folder: Path, **changes: Any) -> Study:
    """Return a study of two arms and two seeds, three tasks of few images each."""
    from tests.experiments.runs import write_npz

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


def run_study(folder: Path, *words: str, program: str = PROGRAM) -> tuple[int, str, str]:
    """Run the command to its end: status, and what it says on either stream."""
    status = start_study(folder, *words, program=program).wait()
    return status, (folder / "said.out").read_text(), (folder / "said.err").read_text()


def engine_words(
    results: Path, made_up: Sequence[MadeUp], connect_within: float = 10, **options: Any
) -> list[str]:
    """Return what the program ``ENGINE`` is to train, and how."""
    cells = json.dumps([dataclasses.asdict(one) for one in made_up])
    return [str(results), cells, json.dumps(options), str(connect_within)]


def train_here(cell: Cell, results: Path) -> None:
    """Train a cell in this process."""
    from experiments import mnist
    from tests.experiments.runs import start

    assert start(*cell.command(results)[3:], experiment=mnist.EXPERIMENT) == 0
