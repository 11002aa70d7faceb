"""Processes that grow branches, for the process that started them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from typing import Any

from plasticity.errors import Failure, PlasticityError
from plasticity.protocol.experiment import Definition
from plasticity.protocol.names import EXPERIMENTS
from plasticity.runs.branches import Branch, BranchRow, Source

TRIES = 3
"""Processes that are started for a branch: one may be killed."""


class Answered(PlasticityError):
    """What a process said of a branch that it could not grow."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def place_of(experiment: Definition[Any]) -> str:
    """Return how another process finds an experiment: its word, or ``module:NAME``.

    Raises:
        Failure: No module that can be imported holds it.
    """
    if experiment.name in EXPERIMENTS:
        return experiment.name
    for module in [*sys.modules.values()]:
        for name, value in vars(module).items() if module else ():
            if value is experiment and module.__name__ != "__main__":
                return f"{module.__name__}:{name}"
    raise Failure(
        f"experiment {experiment.name}: other processes cannot import it; put it into a module, or "
        "take one worker"
    )


def grow_all(
    source: Source,
    branches: Sequence[Branch],
    longest: int,
    workers: int,
    modules: Sequence[str],
) -> Generator[tuple[Branch, list[BranchRow]], None, None]:
    """Grow branches in so many processes, and yield each with its rows as it is done.

    A process ends when this one does, however that dies. One that is killed is started again.

    Raises:
        PlasticityError: As growing a branch raises it.
        Failure: A branch's processes died three times.
    """
    first = {
        "experiment": place_of(source.experiment), "dataset": source.dataset,
        "root": str(source.data_root), "longest": longest, "modules": [*modules],
    }  # fmt: skip
    todo: queue.SimpleQueue[Branch] = queue.SimpleQueue()
    for branch in branches:
        todo.put(branch)
    done: queue.SimpleQueue[tuple[Branch, list[BranchRow]] | BaseException] = queue.SimpleQueue()
    running: set[subprocess.Popen[str]] = set()
    stopped = threading.Event()

    def work() -> None:
        try:
            _grow_some(first, todo, done, running, stopped)
        except BaseException as error:  # to be raised where it is seen
            done.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for _ in branches:
            found = done.get()
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        stopped.set()
        for process in [*running]:
            process.kill()
        for thread in threads:
            thread.join()


def _grow_some(
    first: Any,
    todo: queue.SimpleQueue[Branch],
    done: queue.SimpleQueue[Any],
    running: set[subprocess.Popen[str]],
    stopped: threading.Event,
) -> None:
    """Have a process grow branches until there are no more, or all is stopped."""
    process = None
    try:
        while not stopped.is_set():
            try:
                branch = todo.get_nowait()
            except queue.Empty:
                return
            for _ in range(TRIES):
                if process is None:
                    process = _start()
                    running.add(process)
                    if stopped.is_set():
                        return
                    _send(process, first)
                _send(process, branch.__dict__)
                assert process.stdout is not None
                line = process.stdout.readline()
                if line.endswith("\n"):
                    break
                _end(process, running)
                process = None
                if stopped.is_set():
                    return
            else:
                text = (
                    f"{branch.intervention} of {branch.arm}: its process was killed {TRIES} times"
                )
                raise Failure(text)
            answer = json.loads(line)
            if "error" in answer:
                raise Answered(answer["error"], answer["status"])
            done.put((branch, answer["rows"]))
    finally:
        if process is not None:
            _end(process, running)


def _start() -> subprocess.Popen[str]:
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", "plasticity.runs.branch_server"],
        env=os.environ | {"PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C in the terminal is for the command that starts them
    )


def _send(process: subprocess.Popen[str], content: Any) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError, ValueError):  # it has died, which its silence will say
        process.stdin.write(json.dumps(content) + "\n")
        process.stdin.flush()


def _end(process: subprocess.Popen[str], running: set[subprocess.Popen[str]]) -> None:
    running.discard(process)
    process.kill()
    process.communicate()
