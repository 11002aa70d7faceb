"""Cells of a study, trained by Dask: on the cores of this machine, or on any cluster.

A Dask task starts a cell's command as a process of its own. Whoever started it holds the other end
of its standard input: where a worker dies, the command reads the end of its input and ends too.
Dask then starts the cell again elsewhere, which goes on from its record. The record's lock keeps
two processes from one cell, and the records are the only state.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasticity.errors import UsageError
from plasticity.studies import ENDS_WITH_INPUT
from plasticity.studies.cells import Cell, data_of, folder_of, is_complete, tasks_left
from plasticity.studies.clusters import foreign_cluster, optional, own_cluster

LAST_LINES = 12
"""Of what a cell printed, kept to say why it failed."""
AGAIN_AFTER = 10.0
"""Seconds until cells are tried again that other processes had in use."""
IN_USE = 75


# --- on the workers


@dataclass(frozen=True)
class Outcome:
    """How a cell's command ended.

    Attributes:
        status: Of its exit; negative: the signal that ended it.
        output: The last lines of what it printed.
    """

    status: int
    output: str


RUNNING: dict[subprocess.Popen[str], str] = {}
"""Processes of this worker in which a command runs, and for whom."""
IDLE: list[subprocess.Popen[str]] = []
"""Cell servers of this worker that wait for a command."""
FORKS = sys.platform == "linux"
"""Whether a process that has imported torch can be forked safely."""
STARTS = 3
"""Servers that are tried for a command: one may be killed."""


def run_command(words: Sequence[str], folder: str, owner: str) -> Outcome:
    """Run Python with some words, in a folder, until it ends or this process does."""
    if not FORKS:
        return _run_alone(words, folder, owner)
    for _ in range(STARTS):
        server = (
            IDLE.pop()
            if IDLE
            else _start(
                ["-Pm" if words[0] == "-Pm" else "-m", "plasticity.studies.cell_server"], folder
            )
        )
        RUNNING[server] = owner
        try:
            assert server.stdin is not None
            assert server.stdout is not None
            with contextlib.suppress(OSError):  # it has died
                server.stdin.write(json.dumps({"words": [*words], "folder": folder}) + "\n")
                server.stdin.flush()
            answer = server.stdout.readline()
            if answer.endswith("\n"):
                IDLE.append(server)
                return Outcome(**json.loads(answer))
        finally:
            stopped = RUNNING.pop(server, None) is None
            if server not in IDLE:
                server.kill()
                server.communicate()
        if stopped:
            return Outcome(-signal.SIGKILL, "")
    raise RuntimeError(f"the process that runs cells was killed {STARTS} times")


def _run_alone(words: Sequence[str], folder: str, owner: str) -> Outcome:
    """Run a command in a process of its own."""
    process = _start(words, folder)
    RUNNING[process] = owner
    try:
        assert process.stdout is not None
        lines = (line for line in process.stdout if line.strip())
        last = collections.deque(lines, maxlen=LAST_LINES)
        return Outcome(process.wait(), "".join(last))
    finally:
        RUNNING.pop(process, None)
        process.kill()
        process.communicate()


def _start(words: Sequence[str], folder: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {ENDS_WITH_INPUT: "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C in the terminal is for the command that starts cells
    )


def stop_commands(owner: str) -> None:
    """Kill the commands of this process that run for somebody; what they have recorded is kept."""
    for process, whose in [*RUNNING.items()]:
        if whose == owner:
            del RUNNING[process]
            process.kill()


# --- where the command is


def train(
    cells: Sequence[Cell],
    results: Path,
    *,
    workers: int | None = None,
    address: str | None = None,
    progress: bool = True,
) -> list[tuple[Cell, str]]:
    """Train the cells that are not complete, the longest first, and return those that failed.

    Args:
        cells: All of a study's; the progress bar counts the complete ones, too.
        results: Folder of the run folders, absolute.
        workers: Cells at a time on this machine; None: as many as it has physical cores, or one
            where they train on a GPU.
        address: Of a cluster's scheduler, to train there instead.
        progress: Show a progress bar.

    Returns:
        Cells, and why each failed, with the last lines that it printed.

    Raises:
        Failure: There are no workers that could train them.
    """
    from plasticity.runs.progress import progress_bar

    waiting = [cell for cell in cells if not is_complete(cell, results)]
    if not waiting:
        return []
    if address is None:
        data_of(waiting[0])  # here with its progress, and not in each cell while the others wait
    failed: list[tuple[Cell, str]] = []
    default = 1 if any(map(on_gpu, waiting)) else physical_cores()
    limit = min(workers or default, len(waiting))
    with (
        own_cluster(limit) if address is None else foreign_cluster(address, results) as client,
        progress_bar(
            total=len(cells), initial=len(cells) - len(waiting), unit="cell", disable=not progress
        ) as bar,
    ):
        while waiting:
            in_use: list[Cell] = []
            with contextlib.closing(outcomes(client, waiting, results)) as ended:
                for cell, status, why in ended:
                    if status == IN_USE:
                        in_use.append(cell)
                        continue
                    if status:
                        failed.append((cell, why))
                        bar.set_postfix({"failed": len(failed)}, refresh=False)
                    bar.update()
                    if status == UsageError.status:  # the others would say the same
                        return failed
            waiting = in_use
            if waiting:  # who trains them may be another study, or a job on another machine
                bar.set_postfix({"in use elsewhere": len(waiting)})
                time.sleep(AGAIN_AFTER)
    failed += [
        (cell, f"it has ended well, but {folder_of(cell, results)} is not complete")
        for cell in cells
        if not is_complete(cell, results) and cell not in dict(failed)
    ]
    return failed


def outcomes(
    client: Any, cells: Sequence[Cell], results: Path
) -> Generator[tuple[Cell, int, str], None, None]:
    """Run cells on a cluster and yield each as it ends: the cell, its status, why it failed.

    However this is left, no command of it runs on.
    """
    from distributed import as_completed

    futures = {}
    attempt = uuid.uuid4().hex[:8]  # a key that is used twice would bring back the first result
    try:
        for cell in cells:
            folder = folder_of(cell, results)
            futures[
                client.submit(
                    run_command,
                    cell.command(results)[1:],
                    os.getcwd(),
                    attempt,
                    key=f"{folder.parent.name}/{folder.name}-{attempt}",
                    pure=False,
                    priority=cost(cell, results),
                    resources={"GPU": 1} if on_gpu(cell) else None,
                )
            ] = cell
        for future in as_completed(futures):
            cell = futures[future]
            try:
                outcome = future.result()
            except Exception as error:  # whatever befell the worker, the other cells go on
                yield (
                    cell,
                    1,
                    f"lost: {(str(error).splitlines() or [''])[0] or type(error).__name__}",
                )
            else:
                yield cell, outcome.status, outcome_text(outcome)
    finally:
        left = [future for future in futures if not future.done()]
        if left:
            with contextlib.suppress(Exception):  # there may be no cluster any more
                client.cancel(left)
                client.run(stop_commands, attempt)


def outcome_text(outcome: Outcome) -> str:
    """Return how a command ended, and below it what it printed last."""
    how = f"status {outcome.status}"
    if outcome.status < 0:
        how = f"killed by signal {-outcome.status}"
    return "\n".join([how, *(f"  {line}" for line in outcome.output.splitlines())])


def cost(cell: Cell, results: Path) -> int:
    """Return an estimate of how long a cell takes, which only orders them.

    Tasks that are left, times epochs; circuits take some ten times as long as the small networks.
    """
    arm = cell.choice.arms[cell.arm]
    factor = 10 if hasattr(arm.network, "depth") else 1
    return tasks_left(cell, results) * arm.epochs * factor


def on_gpu(cell: Cell) -> bool:
    """Return whether a cell asks for a GPU, of which a worker has only some."""
    return bool(cell.choice.config.device.startswith("cuda"))


def physical_cores() -> int:
    """Return how many cores this process may use, without their second threads."""
    psutil = optional("psutil")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(psutil.cpu_count(logical=False) or 1, allowed or 1)
