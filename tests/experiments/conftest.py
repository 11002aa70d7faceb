"""What tests of the commands ask for."""

import multiprocessing.forkserver
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from experiments import mnist
from plasticity.metrics import METRICS
from plasticity.networks import NETWORKS
from plasticity.remedies import REMEDIES
from plasticity.runs.experiment import Experiment
from plasticity.studies.cell_server import PRELOADED
from tests.experiments import runs
from tests.pictures import write_words

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Return a command of mnist that trains both arms on 3 tasks of 6 updates in a blink."""
    return runs.tiny_command("mnist", tmp_path)


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> runs.Stop:
    return runs.Stop(monkeypatch)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(request: Any, *arguments: Any, **more: Any) -> None:
        raise URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", fail)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Run a command that has to fail: one or two lines, and no file written, changed or lost."""

    def refuse(*arguments: str, status: int, experiment: Experiment[Any] = mnist.EXPERIMENT) -> str:
        before = runs.snapshot(tmp_path)
        capsys.readouterr()
        assert runs.start(*arguments, experiment=experiment) == status
        printed, said = capsys.readouterr()
        assert said.startswith("error: ")
        assert said.endswith("\n")
        assert len(said.splitlines()) <= 2
        assert "Traceback" not in printed + said
        assert runs.snapshot(tmp_path) == before
        return said

    return refuse


@pytest.fixture
def child(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Start commands in processes of their own, forked where all is imported but nothing ran."""
    drawn = [] if request.node.get_closest_marker("draws") else [write_words]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([runs.__name__, *PRELOADED])  # for all, and not each anew
    with pytest.MonkeyPatch.context() as patch:  # the server does not get this process's sys.path
        patch.setenv("PYTHONPATH", str(ROOT))
        multiprocessing.forkserver.ensure_running()
    processes = []

    def launch(*arguments: Any, **more: Any) -> Any:
        process = context.Process(target=runs.in_child, args=(*arguments, *drawn), kwargs=more)
        process.start()
        processes.append(process)
        return process

    yield launch
    for process in processes:
        process.kill()
        process.join()


@pytest.fixture
def registries() -> Iterator[None]:
    """Forget what is registered or removed meanwhile, their order included, which colors follow."""
    before = [(registry, {**registry}) for registry in (NETWORKS, REMEDIES, METRICS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)
