"""Studies trained by Dask, and what befalls them: kills, Ctrl-C, failures, others at work."""

import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

psutil = pytest.importorskip("psutil")
pytest.importorskip("distributed")

import filelock  # noqa: E402

from plasticity.studies.cells import cells, folder_of, is_complete, rows_of  # noqa: E402
from plasticity.studies.study import Study  # noqa: E402
from tests.experiments.runs import provenance_of, snapshot  # noqa: E402
from tests.experiments.test_commands import run  # noqa: E402
from tests.studies.studying import (  # noqa: E402
    ROOT,
    records,
    run_study,
    start_study,
    tiny_study,
    train_here,
    write_study,
)
from tests.waiting import PATIENCE, killed_on_failure, wait_until  # noqa: E402

pytestmark = [pytest.mark.usefixtures("empty_folder"), pytest.mark.slow, pytest.mark.processes]


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


def long_study(folder: Path) -> Study:
    """Return a study whose cells are still at work when somebody has looked for them."""
    tiny = tiny_study(folder, arms=("mlp", "qnn"), seeds=(0,))
    return dataclasses.replace(tiny, settings={**tiny.settings, "num_tasks": 150})


def test_a_study_is_trained_reported_and_goes_on_with_one_seed_more(tmp_path: Path) -> None:
    tiny = tiny_study(tmp_path, seeds=(0,))
    file = write_study(tmp_path / "own.py", tiny)
    results = tmp_path / "results"
    train_here(cells(tiny)[0], results)
    before = snapshot(folder_of(cells(tiny)[0], results))
    status, printed, said = run_study(tmp_path, str(file), "--workers=2")
    assert status == 0, said
    folder = results / "studies" / f"tiny-{tiny.digest()}"
    assert printed == f"report: {folder / 'report.md'}\n"
    assert (folder / "report.md").read_text() == "mlp 0 3\nlinear+l2-init 0 3\n"
    assert " 2/2 " in said
    assert snapshot(folder_of(cells(tiny)[0], results)) == before
    (note,) = provenance_of(folder_of(cells(tiny)[1], results).parent, "linear+l2-init")
    assert note["threads"] == 1

    trained = {cell: snapshot(folder_of(cell, results)) for cell in cells(tiny)}
    assert run_study(tmp_path, str(file), "--workers=2", "--seeds=2")[0] == 0
    assert {cell: snapshot(folder_of(cell, results)) for cell in cells(tiny)} == trained
    assert [len(rows_of(cell, results)) for cell in cells(tiny.with_seeds(2))] == [3] * 4


def test_a_failing_cell_is_named_with_what_it_said_and_the_others_end(tmp_path: Path) -> None:
    tiny = tiny_study(
        tmp_path,
        arms=("mlp+upgd", "mlp"),
        seeds=(0,),
        of_arm={"mlp+upgd": {"upgd.learning_rate": 2e9}},
    )
    results = tmp_path / "results"
    file = write_study(tmp_path / "own.py", tiny)
    status, printed, said = run_study(tmp_path, str(file), "--workers=2")
    assert status == 1
    assert printed.startswith("report: ")
    lines = said.rpartition("\r")[2].splitlines()
    # A line of its own, to be pasted into a shell.
    (command,) = (k for k, line in enumerate(lines) if line.startswith(sys.executable))
    assert shlex.split(lines[command])[2:] == cells(tiny)[0].command(results)[2:]
    assert lines[command + 1] == "  status 1"
    assert any(line.startswith("    error: mlp+upgd: ") for line in lines[command + 2 : -1])
    assert lines[-1] == "error: 1 of 2 cells failed: mlp+upgd seed 0"
    assert len(rows_of(cells(tiny)[1], results)) == 3


def test_a_cell_that_is_wrong_use_stops_the_study_at_once(tmp_path: Path) -> None:
    tiny = tiny_study(
        tmp_path, arms=("qnn", "mlp"), seeds=(0, 1, 2), of_arm={"qnn": {"readout": "z-of-first"}}
    )
    file = write_study(tmp_path / "own.py", tiny)
    status, _, said = run_study(tmp_path, str(file), "--workers=1")
    assert status == 1
    assert said.count("  status 2\n    error: --arms qnn: readout z-of-first gives 1 logit") == 1
    assert said.endswith("error: 1 of 6 cells failed: qnn seed 0\n")


def test_a_cell_in_use_is_tried_again_later_and_workers_do_not_hear_ctrl_c(tmp_path: Path) -> None:
    tiny = tiny_study(tmp_path, arms=("mlp",), seeds=(0,))
    file = write_study(tmp_path / "own.py", tiny)
    (cell,) = cells(tiny)
    folder = folder_of(cell, tmp_path / "results")
    folder.mkdir(parents=True)
    said = tmp_path / "said.err"
    with filelock.FileLock(folder / "lock"):
        process = start_study(tmp_path, str(file), "--workers=1", session=True)
        with killed_on_failure(process):
            running = lambda: process.poll() is None  # noqa: E731
            wait_until(lambda: "in use elsewhere" in said.read_text(), running)
            assert not rows_of(cell, tmp_path / "results")
            # The terminal sends it to all of the group; here, to all but the driver.
            group = [p for p in family(process.pid) if group_of(p) == process.pid]
            assert group
            for member in group:
                member.send_signal(signal.SIGINT)
    with killed_on_failure(process):
        assert process.wait(PATIENCE) == 0
    assert "Traceback" not in said.read_text()
    assert len(rows_of(cell, tmp_path / "results")) == 3


def test_killed_workers_and_a_killed_driver_change_no_record_and_leave_no_process(
    tmp_path: Path,
) -> None:
    tiny = long_study(tmp_path)
    file = write_study(tmp_path / "own.py", tiny)
    whole, results = tmp_path / "whole", tmp_path / "results"
    for cell in cells(tiny):
        train_here(cell, whole)

    process = start_study(tmp_path, str(file), "--workers=2")
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

    status, _, said = run_study(tmp_path, str(file), "--workers=2")
    assert status == 0, said
    assert records(tiny, results) == records(tiny, whole)


def test_control_c_ends_a_study_in_a_line_with_all_its_processes(tmp_path: Path) -> None:
    file = write_study(tmp_path / "own.py", long_study(tmp_path))
    process = start_study(tmp_path, str(file), "--workers=2", session=True)
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


def test_a_study_is_trained_by_another_cluster_and_ctrl_c_stops_its_own_cells_there(
    tmp_path: Path, cluster: tuple[str, int]
) -> None:
    address, pid = cluster
    tiny = dataclasses.replace(long_study(tmp_path), arms=("qnn",))
    (cell,) = cells(tiny)
    words = [str(write_study(tmp_path / "own.py", tiny)), f"--cluster={address}"]
    process = start_study(tmp_path, *words)
    with killed_on_failure(process):
        wait_until(lambda: training(pid), lambda: process.poll() is None)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        wait_until(lambda: not training(pid))
    assert not is_complete(cell, tmp_path / "results")
    status, _, said = run_study(tmp_path, *words)
    assert status == 0, said
    assert is_complete(cell, tmp_path / "results")


def test_a_cluster_that_is_not_there_is_a_line(tmp_path: Path) -> None:
    file = write_study(tmp_path / "own.py", tiny_study(tmp_path))
    code = (
        "import sys\nfrom experiments import study\n"
        "from plasticity.studies import clusters\n"
        "clusters.CONNECT_WITHIN = 0.1\nsys.exit(study.main(sys.argv[1:]))"
    )
    done = run("-c", code, str(file), "--cluster=tcp://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --cluster tcp://127.0.0.1:9: ")
    assert len(done.stderr.splitlines()) == 1


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
