"""Processes beside the program's own."""

import signal
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
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
