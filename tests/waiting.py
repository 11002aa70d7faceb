"""Waiting for other processes, however slow the machine is."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator

PATIENCE = 300.0
"""Seconds after which a process counts as stuck. It bounds a hang and decides nothing else."""


def always() -> bool:
    return True


def wait_until(condition: Callable[[], object], alive: Callable[[], object] = always) -> None:
    """Return once a condition holds; fail if what should bring it about has ended before."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        # What it did last may have been the condition.
        assert alive() or condition(), "the process ended before what was waited for"
        assert time.monotonic() < limit, "the process is stuck"
        time.sleep(0.005)


@contextlib.contextmanager
def killed_on_failure(process: subprocess.Popen) -> Iterator[None]:
    """Leave no process behind for the tests that follow."""
    try:
        yield
    except BaseException:
        process.kill()
        process.communicate()
        raise
