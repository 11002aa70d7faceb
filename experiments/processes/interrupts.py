"""How a command ends when it is stopped: in a line, at any moment.

Python raises KeyboardInterrupt wherever Ctrl-C finds it. Within an import that does not end a
program reliably: some libraries catch it, or turn it into another error. So Ctrl-C ends a command
at once while it imports and before and after its work, and again if it comes twice. Nothing is lost
by that: whatever is written survives a kill. During its work KeyboardInterrupt is raised, so that
it can clean up. What comes before a command's first line, the start of Python itself, is not ours.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

from plasticity.studies import ENDS_WITH_INPUT


def guard() -> None:
    """Make Ctrl-C end this process at once, with a line and status 130.

    For programs, before all other imports: the signal handlers of those who import are theirs.
    Where a study started the command, the end of its standard input ends it, too.
    """
    # Imports make a million objects and hardly any garbage. Python would look for it after each
    # 700, a tenth of the time of a short command.
    gc.set_threshold(50_000)
    _open_streams()
    # Whoever started it holds the other end, and the system closes that however he dies. Programs
    # that this one starts are not meant.
    if os.environ.pop(ENDS_WITH_INPUT, None):
        threading.Thread(target=_wait_for_end_of_input, daemon=True).start()
    # Where a shell starts a command in the background, Ctrl-C is ignored, and stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt again in what is done here, if ``guard`` was called."""
    if signal.getsignal(signal.SIGINT) is not _end:
        yield
        return
    signal.signal(signal.SIGINT, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _end)


def drop_output(*streams: TextIO) -> int:
    """Forget what a closed pipe (``| head``) did not take, and return the exit status for it."""
    # Python writes what is left when it exits, and would complain then.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams or (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # it is no file of the system's
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    return 141  # as of a program that SIGPIPE ends


def _open_streams() -> None:
    """Open what was closed when this process was started (``2>&-``), and print any name."""
    # Else the next file that is opened gets the number, and what is printed goes into it.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files need not be text, and the output may know ASCII only.
        sys.stdout.reconfigure(errors="backslashreplace")


def _wait_for_end_of_input() -> None:
    # Not sys.stdin: a thread that waits in its buffer makes Python abort when it exits.
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os._exit(130)


def _end(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"stopped.\n")  # print could be what was interrupted
    os._exit(130)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, _end)  # a second Ctrl-C does not wait for the cleaning up
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _end(number, frame)
        frame = frame.f_back
    raise KeyboardInterrupt
