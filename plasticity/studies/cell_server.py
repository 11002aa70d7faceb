"""Run commands one after another, each in a fork of a process that has imported what they need.

``python -m plasticity.studies.cell_server`` reads a request a line from standard input and answers
each with a line. So a worker of a study pays for the imports once, and not once a cell, and a
command that dies takes nothing with it. A command ends when this process does, and this process
ends when its standard input does.

Requests: ``{"words": ["-m", "experiments.mnist", "--seed", "1"], "folder": "/where"}``. Answers:
``{"status": 0, "output": "the last lines"}``; a negative status is the signal that ended it.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import json
import os
import runpy
import selectors
import signal
import sys
import warnings
from typing import Any, NoReturn

from plasticity.studies import ENDS_WITH_INPUT

LAST_LINES = 12
"""Of what a command printed, kept to say why it failed."""
PRELOADED = (
    "torch", "torch._dynamo", "plasticity.metrics", "plasticity.runs.train",
    "plasticity.tasks.streams", "plasticity.learning.loop",
)  # fmt: skip
"""What takes seconds to import and most commands need."""


def serve() -> None:
    """Answer requests until standard input ends."""
    # Nothing but answers may come into this pipe, whatever is printed while modules are imported.
    answers = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    with os.fdopen(answers, "w") as out:
        for line in iter(_read_line, b""):
            request = json.loads(line)
            _preload(request["words"])
            status, output = run(request["words"], request["folder"])
            out.write(json.dumps({"status": status, "output": output}) + "\n")
            out.flush()


def _read_line() -> bytes:
    # Unbuffered: whether there is more is asked of the system while a command runs.
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return line


def _preload(words: list[str]) -> None:
    """Import what a module's command needs; where that fails, the command says so itself."""
    for name in (*PRELOADED, words[1]) if words[0] in ("-m", "-Pm") else ():
        if name not in sys.modules and name != "experiments":
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def run(words: list[str], folder: str) -> tuple[int, str]:
    """Run ``python`` with some words in a fork, until it ends or our standard input does.

    Args:
        words: ``-m`` or ``-Pm`` and a module, or ``-c`` and a program; and its arguments.
        folder: In which it runs.

    Returns:
        Its exit status, and the last lines that it printed.
    """
    input_read, input_write = os.pipe()
    output_read, output_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(input_read, 0)
            os.dup2(output_write, 1)
            os.dup2(output_write, 2)
            for descriptor in (input_read, input_write, output_read, output_write):
                os.close(descriptor)
            _be(words, folder)
        finally:
            os._exit(1)
    os.close(input_read)
    os.close(output_write)
    try:
        output = _watch(child, output_read)
    finally:
        os.close(output_read)
        os.close(input_write)
    _, waited = os.waitpid(child, 0)
    lines = [line for line in output.decode(errors="replace").splitlines(True) if line.strip()]
    return os.waitstatus_to_exitcode(waited), "".join(lines[-LAST_LINES:])


def _watch(child: int, output: int) -> bytes:
    """Return the end of what a child prints; end it and this process where our input ends."""
    chunks: collections.deque[bytes] = collections.deque(maxlen=64)
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == 0:  # no request comes before an answer: it has ended
                    os.kill(child, signal.SIGKILL)
                    os._exit(130)
                chunk = os.read(output, 65536)
                if not chunk:
                    return b"".join(chunks)
                chunks.append(chunk)


def _be(words: list[str], folder: str) -> NoReturn:
    """Become the command: what it sees is as if Python had been started with the words."""
    os.chdir(folder)
    os.environ[ENDS_WITH_INPUT] = "1"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    sys.orig_argv[:] = [sys.executable, *words]
    how, module, *arguments = words
    sys.argv[:] = [how if how == "-c" else module, *arguments]
    status: Any = 0
    # It was imported already; here it runs once more, as a program.
    warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
    try:
        if how == "-c":
            exec(module, {"__name__": "__main__"})
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        status = stop.code
        if isinstance(status, str):
            print(status, file=sys.stderr)  # as Python does at the end of a program
            status = 1
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(int(status or 0))


if __name__ == "__main__":
    serve()
