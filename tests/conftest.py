"""What all tests share."""

import gc
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from plasticity.results import provenance
from tests.pictures import save_picture, write_words

# Tests are small work, which a second thread only slows down, tenfold where the other core is busy.
# Processes that tests start inherit the first line; a test of threads sets their number itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
write_words()


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


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, for nothing says where a wrong program would write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "git_commit", lambda: None)  # two processes each time
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.hookimpl(tryfirst=True)  # before cases are left out by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark who starts processes, and ``slow`` all but n cases of who is marked ``sampled(n)``."""
    families: dict[tuple[str, int], list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and "child" in item.fixturenames:
            item.add_marker("processes")
        if isinstance(item, pytest.Function) and (mark := item.get_closest_marker("sampled")):
            name = item.nodeid.partition("[")[0]
            families.setdefault((name, mark.args[0]), []).append(item)
    for (name, count), cases in families.items():
        for case in set(cases) - set(sample(name, count, cases)):
            case.add_marker("slow")


def sample(name: str, count: int, cases: list[pytest.Function]) -> list[pytest.Function]:
    """Draw cases by the test's name: first those with a value that no other has, as far as it goes.

    The draw is the same in each process and each time.
    """
    rest = sorted(cases, key=lambda case: case.nodeid)
    random.Random(name).shuffle(rest)
    drawn: list[pytest.Function] = []
    seen: set[tuple[str, int]] = set()
    while rest and len(drawn) < count:
        case = max(rest, key=lambda case: len(case.callspec.indices.items() - seen))
        seen |= case.callspec.indices.items()
        rest.remove(case)
        drawn.append(case)
    return drawn
