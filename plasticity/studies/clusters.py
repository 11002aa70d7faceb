"""Clusters of Dask: one of our own, or another whose workers are checked before they get a cell."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import multiprocessing.resource_tracker
import platform
import signal
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plasticity.errors import Failure

CONNECT_WITHIN = 10.0
"""Seconds in which a cluster must answer."""
MISSING = "{}: pip install 'quantum-plasticity[study]'"


def optional(name: str) -> Any:
    """Import a package of the extra ``study``.

    Raises:
        Failure: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Failure(MISSING.format(error)) from error


@contextlib.contextmanager
def own_cluster(workers: int) -> Iterator[Any]:
    """Start so many workers here, each a process, and end them at the end."""
    distributed, dask = optional("distributed"), optional("dask")
    settings = {
        # Else a second cell, which may take hours, waits behind a busy worker.
        "distributed.scheduler.worker-saturation": 1.0,
        # Workers that die are started again; by default a cell is given up after three.
        "distributed.scheduler.allowed-failures": 100,
    }
    quiet = logging.CRITICAL
    logging.getLogger("distributed").setLevel(quiet)
    with contextlib.ExitStack() as opened:
        opened.enter_context(dask.config.set(settings))
        with without_control_c():
            try:
                cluster = opened.enter_context(
                    distributed.LocalCluster(
                        n_workers=workers,
                        threads_per_worker=1,
                        processes=True,
                        memory_limit=0,
                        # Else it takes port 8787, of all addresses of this machine.
                        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                        silence_logs=quiet,
                        resources={"GPU": 1},
                    )
                )
            except (OSError, RuntimeError) as error:  # say, one is killed while it starts
                raise Failure(f"no workers could be started: {error}") from error
            client = opened.enter_context(distributed.Client(cluster))
        yield client


@contextlib.contextmanager
def without_control_c() -> Iterator[None]:
    """Hold Ctrl-C back, and for good from the threads and processes that are started meanwhile.

    The terminal sends it to the workers, too, and each would print where it was. Those that are
    started later, in place of dead ones, come from such a thread.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Where it is not there yet, the first process that is started lets Ctrl-C through again.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def foreign_cluster(address: str, results: Path) -> Iterator[Any]:
    """Connect to a cluster whose workers have the same program and share a folder with us.

    Raises:
        Failure: There is none, it has no workers, or theirs is another program or folder.
    """
    distributed = optional("distributed")
    with contextlib.ExitStack() as opened:
        try:
            with warnings.catch_warnings():
                mismatch = distributed.versions.VersionMismatchWarning
                warnings.simplefilter("error", mismatch)
                client = opened.enter_context(distributed.Client(address, timeout=CONNECT_WITHIN))
                client.get_versions(check=True)
        except (OSError, ValueError, Warning) as error:
            line = (str(error).splitlines() or [""])[0]
            raise Failure(f"--cluster {address}: {line or type(error).__name__}") from error
        check_workers(client, address)
        check_folder(client, results)
        yield client


def check_workers(client: Any, address: str) -> None:
    """Refuse a cluster without workers, or whose workers have other versions than we.

    Raises:
        Failure: With the first worker that differs.
    """
    ours, of_workers = versions(), ask_workers(client, versions)
    if not of_workers:
        raise Failure(f"--cluster {address}: it has no workers yet; start some and try again")
    for worker, theirs in of_workers.items():
        for name, version in ours.items():
            if theirs[name] != version:
                raise Failure(f"{worker} has {name} {theirs[name]}; here it is {version}")


def check_folder(client: Any, results: Path) -> None:
    """Refuse workers that do not share the folder of results with us, locks included.

    Raises:
        Failure: With what the first such worker finds.
    """
    from plasticity.results.disk import lock_of

    results.mkdir(parents=True, exist_ok=True)
    path = results / f".probe-{uuid.uuid4().hex}"
    try:
        path.touch()
        with lock_of(path):
            found = ask_workers(client, probe, str(path))
    finally:
        path.unlink(missing_ok=True)
    for worker, wrong in found.items():
        if wrong:
            raise Failure(
                f"{worker}: {wrong}.\nName --results in a folder that all hosts share, with locks "
                "that work there."
            )


def ask_workers(client: Any, question: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Return each worker's answer, by its address.

    Raises:
        Failure: A worker cannot answer; say, the package is not installed there.
    """
    try:
        answers: dict[str, Any] = client.run(question, *arguments)
    except Exception as error:  # whatever is raised there
        line = (str(error).splitlines() or [""])[0]
        raise Failure(
            f"a worker cannot run this program: {type(error).__name__}: {line}"
        ) from error
    return answers


# --- on the workers


def versions() -> dict[str, str]:
    """Return what of this process may decide numbers."""
    import plasticity
    from plasticity.results.provenance import git_commit

    return {
        "quantum-plasticity": plasticity.__version__,
        "commit": str(git_commit()),
        "torch": importlib.metadata.version("torch"),
    }


def probe(path: str) -> str:
    """Return what is wrong with a file that another process has locked; nothing if all is right."""
    import filelock

    from plasticity.results.disk import lock_of

    if not Path(path).exists():
        return f"{platform.node()} does not see files of {Path(path).parent}"
    try:
        with lock_of(Path(path)).acquire(timeout=0):
            return f"{platform.node()} can lock a file that another host has locked"
    except filelock.Timeout:
        return ""
