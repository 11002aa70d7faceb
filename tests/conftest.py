"""What all tests share."""

import gc
import os
import signal
from collections.abc import Iterator

import pytest
import torch

# Tests are small work, which a second thread only slows down, tenfold where the other core is busy.
# Processes that tests start inherit the first line; a test of threads sets their number itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


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
