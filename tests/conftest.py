"""What all tests share."""

import functools
import gc
import os
import signal
from collections.abc import Iterator

import pytest
import torch
from matplotlib.figure import Figure
from tyro import _docstrings

from tests.pictures import save_picture, write_words

# Tests are small work, which a second thread only slows down, tenfold where the other core is busy.
# Processes that tests start inherit the first line; a test of threads sets their number itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
write_words()
# For each command tyro parses the source of all dataclasses again: half the cost of a tiny run.
_docstrings.get_field_docstring = functools.cache(_docstrings.get_field_docstring)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt in the main thread, wherever that is.

    In a callback of the garbage collector, as Hypothesis has one, Python drops the exception: the
    interrupt would be lost, once in many runs. So there are none meanwhile.
    """
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = callbacks
    signal.signal(signal.SIGINT, previous)


@pytest.fixture(autouse=True)
def pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests that are marked ``draws`` have pictures; a picture is most of a tiny run's cost."""
    if request.node.get_closest_marker("draws"):
        monkeypatch.setattr(Figure, "savefig", save_picture)
