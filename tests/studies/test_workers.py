"""Studies trained by Dask, and what befalls them: kills, Ctrl-C, failures, others at work."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

psutil = pytest.importorskip("psutil")
pytest.importorskip("distributed")

import filelock  # noqa: E402

from experiments import study  # noqa: E402
from plasticity.studies import report  # noqa: E402
from plasticity.studies import workers as engine  # noqa: E402
from plasticity.studies.cells import cells, folder_of, rows_of  # noqa: E402
from tests.experiments.runs import provenance_of, snapshot  # noqa: E402
from tests.studies.studying import (  # noqa: E402
    ENGINE,
    ROOT,
    MadeUp,
    engine_words,
    run_study,
    start_study,
    tiny_study,
    train_here,
    write_study,
)
from tests.waiting import PATIENCE, killed_on_failure, wait_until  # noqa: E402

pytestmark = [pytest.mark.usefixtures("empty_folder"), pytest.mark.processes]


def family(pid: int) -> list[psutil.Process]:
    """Return the processes that one has started, and those that these have."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends between two questions
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def words(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def group_of(process: psutil.Process) -> int | None:
    with contextlib.suppress(OSError):
        return os.getpgid(process.pid)
    return None


def training(pid: int) -> list[psutil.Process]:
    """Return the commands of cells that run below a process."""
    everybody = family(pid)
    servers = {process.pid for process in everybody if "cell_server" in words(process)}
    found = []
    for process in everybody:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            if process.ppid() in servers:  # forks have the server's words
                found.append(process)
    return found


def at_work(pid: int) -> tuple[psutil.Process, psutil.Process] | None:
    """Return the process of a cell and its worker, below a process; None where none is at work."""
    for process in training(pid):
        with contextlib.suppress(psutil.Error, AttributeError):  # it has just ended
            return process, process.parent().parent()  # the cell's server is in between
    return None


@contextlib.contextmanager
def held(results: Path) -> Iterator[None]:
    """Let made-up cells wait after their first row."""
    results.mkdir(exist_ok=True)
    (results / "held").touch()
    yield
    (results / "held").unlink()


@pytest.mark.slow
def test_a_study_goes_on_with_what_is_missing_and_one_seed_more_and_is_reported(
    tmp_path: Path,
) -> None:
    tiny = tiny_study(tmp_path, seeds=(0,))
    file = write_study(tmp_path / "own.py", tiny)
    results = tmp_path / "results"
    first, *missing = cells(tiny.with_seeds(2))
    train_here(first, results)
    before = snapshot(folder_of(first, results))
    status, printed, said = run_study(tmp_path, str(file), "--workers=2", "--seeds=2")
    assert status == 0, said
    folder = results / "studies" / f"tiny-{tiny.with_seeds(2).digest()}"
    assert printed == f"report: {folder / 'report.md'}\n"
    assert (folder / "report.md").read_text() == (
        "mlp 0 3\nlinear+l2-init 0 3\nmlp 1 3\nlinear+l2-init 1 3\n"
    )
    assert " 4/4 " in said
    assert snapshot(folder_of(first, results)) == before
    for cell in missing:
        assert len(rows_of(cell, results)) == 3
        (note,) = provenance_of(folder_of(cell, results).parent, cell.arm)
        assert note["threads"] == 1


def test_failed_cells_are_lines_to_paste_with_what_they_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = tiny_study(tmp_path, seeds=(0, 1, 2, 3))
    results = tmp_path / "results"
    why = "status 1\n  error: mlp: of the cell"
    monkeypatch.setattr(engine, "train", lambda todo, *_, **__: [(cell, why) for cell in todo[:7]])
    monkeypatch.setattr(report, "write_report", lambda *_: tmp_path / "report.md")
    file = write_study(tmp_path / "own.py", tiny)
    assert study.main([str(file), f"--results={results}"]) == 1
    printed, said = capsys.readouterr()
    assert printed == f"report: {tmp_path / 'report.md'}\n"
    *lines, last = said.splitlines()
    for cell, command, *reason in zip(
        cells(tiny)[:7], lines[::3], lines[1::3], lines[2::3], strict=True
    ):
        assert shlex.split(command) == cell.command(results)
        assert reason == ["  status 1", "    error: mlp: of the cell"]
    named = "mlp seed 0, linear+l2-init seed 0, mlp seed 1, linear+l2-init seed 1, mlp seed 2"
    assert last == f"error: 7 of 8 cells failed: {named} and 2 more"


def test_a_stopped_study_says_that_what_is_finished_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "train", mock.Mock(side_effect=KeyboardInterrupt))
    assert study.main([str(write_study(tmp_path / "own.py", tiny_study(tmp_path)))]) == 130
    assert capsys.readouterr() == (
        "", "stopped: what is finished is kept; the same command goes on.\n"
    )  # fmt: skip


@pytest.mark.parametrize(("physical", "allowed", "cores"), [(4, 1, 1), (2, 4, 2), (None, 3, 1)])
def test_cores_are_physical_ones_that_this_process_may_use(
    physical: int | None, allowed: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None if logical else physical)
    mine = {0: {*range(allowed)}}  # 0 is this process
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: mine.get(pid, {*range(99)}))
    assert engine.physical_cores() == cores


@pytest.mark.slow
def test_a_cell_that_is_wrong_use_stops_the_study_at_once(tmp_path: Path) -> None:
    made_up = [MadeUp("wrong", status=2), *(MadeUp(f"cell-{number}") for number in range(5))]
    words = engine_words(tmp_path / "results", made_up, workers=1)
    status, printed, _ = run_study(tmp_path, *words, program=ENGINE)
    assert (status, printed) == (0, "wrong: status 2\n  error: of wrong\n")
    assert made_up[-1].rows(tmp_path / "results") == ""


@pytest.mark.slow
def test_a_cell_in_use_is_tried_again_later_and_of_a_failing_one_it_is_kept_what_it_said(
    tmp_path: Path,
) -> None:
    """And no worker hears Ctrl-C, which the terminal sends to all of the group."""
    failing, used, other = MadeUp("failing", status=1), MadeUp("used"), MadeUp("other")
    results, said = tmp_path / "results", tmp_path / "said.err"
    (results / used.name).mkdir(parents=True)
    words = engine_words(results, [failing, used, other], workers=1)
    with filelock.FileLock(results / used.name / "lock"):
        process = start_study(tmp_path, *words, session=True, program=ENGINE)
        with killed_on_failure(process):
            running = lambda: process.poll() is None  # noqa: E731
            wait_until(lambda: "in use elsewhere" in said.read_text(), running)
            assert (used.rows(results), other.rows(results)) == ("", "abcde")
            # Here, to all but the driver.
            group = [p for p in family(process.pid) if group_of(p) == process.pid]
            assert group
            for member in group:
                member.send_signal(signal.SIGINT)
    with killed_on_failure(process):
        assert process.wait(PATIENCE) == 0
    assert "Traceback" not in said.read_text()
    assert (tmp_path / "said.out").read_text() == "failing: status 1\n  error: of failing\n"
    assert used.rows(results) == "abcde"


@pytest.mark.slow
def test_killed_workers_and_a_killed_driver_change_no_record_and_leave_no_process(
    tmp_path: Path,
) -> None:
    made_up, results = [MadeUp("a"), MadeUp("b")], tmp_path / "results"
    words = engine_words(results, made_up, workers=2)
    with held(results):
        process = start_study(tmp_path, *words, program=ENGINE)
        with killed_on_failure(process):
            running = lambda: process.poll() is None  # noqa: E731
            found: list = []
            wait_until(lambda: found.append(at_work(process.pid)) or found[-1], running)
            victim, worker = found[-1]
            assert worker.pid != process.pid
            worker.kill()
            wait_until(lambda: not alive([victim]), running)
            again = lambda: [p for p in training(process.pid) if p.pid != victim.pid]  # noqa: E731
            wait_until(again, running)
            everybody = family(process.pid)
            process.kill()
            process.wait()
            wait_until(lambda: not alive(everybody))
    assert run_study(tmp_path, *words, program=ENGINE)[:2] == (0, "")
    assert [one.rows(results) for one in made_up] == ["abcde"] * 2


@pytest.mark.slow
def test_control_c_ends_a_study_in_a_line_with_all_its_processes(tmp_path: Path) -> None:
    words = engine_words(tmp_path / "results", [MadeUp("a"), MadeUp("b")], workers=2)
    with held(tmp_path / "results"):
        process = start_study(tmp_path, *words, session=True, program=ENGINE)
        with killed_on_failure(process):
            wait_until(lambda: len(training(process.pid)) == 2, lambda: process.poll() is None)
            everybody = family(process.pid)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            assert process.wait(PATIENCE) == 130
            wait_until(lambda: not alive(everybody))
    *before, last = (tmp_path / "said.err").read_text().splitlines()
    assert last == "stopped: what is finished is kept; the same command goes on."
    assert [line for line in before if line and "/2 [" not in line] == []  # the progress bar
    assert (tmp_path / "said.out").read_text() == ""


CLUSTER = """
import sys
import distributed
if __name__ == "__main__":
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, memory_limit=0, dashboard_address=None
    )
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The address of a cluster that somebody else has started, and the process of that."""
    file = tmp_path / "cluster.py"
    file.write_text(CLUSTER)
    process = subprocess.Popen(
        [sys.executable, str(file)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    everybody = []
    try:
        yield process.stdout.readline().strip(), process.pid
        everybody = family(process.pid)
    finally:
        process.kill()
        process.communicate()
        wait_until(lambda: not alive(everybody))


@pytest.mark.slow
def test_a_study_is_trained_by_another_cluster_and_ctrl_c_stops_its_own_cells_there(
    tmp_path: Path, cluster: tuple[str, int]
) -> None:
    address, pid = cluster
    one, results = MadeUp("one"), tmp_path / "results"
    words = engine_words(results, [one], address=address)
    with held(results):
        process = start_study(tmp_path, *words, program=ENGINE)
        with killed_on_failure(process):
            wait_until(lambda: training(pid), lambda: process.poll() is None)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
            wait_until(lambda: not training(pid))
    assert one.rows(results) != "abcde"
    status, _, said = run_study(tmp_path, *words, program=ENGINE)
    assert status == 0, said
    assert one.rows(results) == "abcde"


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_a_line(tmp_path: Path) -> None:
    words = engine_words(
        tmp_path / "results", [MadeUp("one")], connect_within=0.1, address="tcp://127.0.0.1:9"
    )
    status, printed, said = run_study(tmp_path, *words, program=ENGINE)
    assert (status, printed) == (1, "")
    assert said.startswith("error: --cluster tcp://127.0.0.1:9: ")
    assert len(said.splitlines()) == 1


HOLDER = """
import sys
from plasticity.studies.workers import run_command
run_command(["-c", sys.argv[1]], ".", "me")
"""
SLEEPER = """
import os, time
from pathlib import Path
from experiments.processes import interrupts
interrupts.guard()
Path("pid.tmp").write_text(f"{os.getpid()} {interrupts.ENDS_WITH_INPUT in os.environ}")
os.replace("pid.tmp", "pid")
time.sleep(1000)
"""


@pytest.mark.slow
def test_a_command_ends_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, SLEEPER], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with killed_on_failure(process):
        wait_until((tmp_path / "pid").exists, lambda: process.poll() is None)
        pid, still_set = (tmp_path / "pid").read_text().split()
        assert still_set == "False"  # those that it starts live by themselves
        sleeper = psutil.Process(int(pid))
        process.kill()
        process.wait()
        wait_until(lambda: not alive([sleeper]))


@pytest.mark.slow
def test_a_command_of_a_user_does_not_end_with_its_input(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER], cwd=tmp_path, stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with killed_on_failure(process):
        wait_until((tmp_path / "pid").exists, lambda: process.poll() is None)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.kill()
        assert process.wait() == -signal.SIGKILL
