"""Grow branches one after another: ``python -m plasticity.runs.branch_server``.

The first line of standard input says of what; each further line is a branch, and is answered with a
line: ``{"rows": [...]}``, or ``{"error": ..., "status": ...}`` for what a user can cause. The
process ends when its input does, however whoever started it dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
from pathlib import Path
from typing import Any

from plasticity.errors import PlasticityError


def serve() -> None:
    """Answer until standard input ends."""
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    # Nothing but answers may come into this pipe, whatever is printed meanwhile.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with contextlib.suppress(KeyboardInterrupt):
        answer_all(requests, answers)


def answer_all(requests: queue.SimpleQueue[bytes], answers: object) -> None:
    """Grow what is asked for."""
    from plasticity.protocol.names import find_experiment, import_modules
    from plasticity.runs.branches import Branch, Nursery, Source

    first = json.loads(requests.get())
    import_modules(first["modules"])
    source = Source(find_experiment(first["experiment"]), first["dataset"], Path(first["root"]))
    nursery = Nursery(source, first["longest"])
    while True:
        branch = Branch(**json.loads(requests.get()))
        answer: dict[str, Any]
        try:
            answer = {"rows": nursery.grow(branch)}
        except PlasticityError as error:
            answer = {"error": str(error), "status": error.status}
        print(json.dumps(answer), file=answers, flush=True)  # type: ignore[call-overload]


def _read(requests: queue.SimpleQueue[bytes]) -> None:
    """Pass lines on, and end the process where there are no more."""
    rest = b""
    # Not sys.stdin: a thread that waits in its buffer makes Python abort when it exits.
    while chunk := os.read(0, 65536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            requests.put(line)
    os._exit(130)


if __name__ == "__main__":
    serve()
