"""Processes beside the program's own."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker


def start_fork_server() -> None:
    """Start multiprocessing's fork server, if it does not run, where Ctrl-C does not reach it.

    A terminal's Ctrl-C goes to all processes. The server and its children take seconds to import
    before they could ignore it, and would print where in that they were.
    """
    # The server's start would start the tracker too, which lets Ctrl-C through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _same_places():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _same_places() -> Iterator[None]:
    """Keep a new process from importing what lies in the current folder, if this one does not.

    The server is started by ``python -c``, which looks there first.
    """
    name, before = "PYTHONSAFEPATH", os.environ.get("PYTHONSAFEPATH")
    with contextlib.suppress(OSError):  # the current folder was removed
        if not {"", os.getcwd()} & set(sys.path):
            os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
