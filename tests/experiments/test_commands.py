"""What all commands have in common: an answer before the slow imports, a quiet end when stopped."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmarks import implementations as contestants
from experiments.benchmarks import options as bench_options
from experiments.cli import parse as cli

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "mnist", "cifar", "qdata", "ant", "bench", "bench_ppo", "bench_device", "figures", "measure",
    "device", "watch", "study", "runs",
)  # fmt: skip
# What is said to a command so that it does something, if only for a moment.
WORDS = {
    "figures": ["some folder"],
    "measure": ["some folder", "--metrics", "fisher"],
    "device": ["some folder"],
    "watch": ["some folder", "out.mp4"],
    "study": ["quick", "--list"],
    "runs": ["some folder"],
}
HEAVY = {
    "torch", "tensorcircuit", "matplotlib", "scipy", "sklearn", "numpy", "gymnasium", "mujoco",
    "stable_baselines3", "imageio",
}  # fmt: skip


def run(
    *arguments: str, path: Path = ROOT, stdout: int = subprocess.PIPE, ignored: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run Python, which finds modules in ``path`` before all others."""
    # A shell starts background jobs with Ctrl-C ignored, and so their children.
    handler = signal.SIG_IGN if ignored else signal.SIG_DFL
    return subprocess.run(
        [sys.executable, *arguments],
        # What is printed waits in a buffer, as it does by default.
        env=os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "PYTHONUNBUFFERED": ""},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )


LIST_MODULES = """
import json, runpy, sys
command, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_module(f"experiments.{command}", run_name="__main__", alter_sys=True)
except SystemExit as end:
    print(json.dumps([end.code or 0, list(sys.modules)]))
"""


POSITIONAL = {
    "watch": "RUN VIDEO", "figures": "RUN [RUN ...] [FILE.png]", "measure": "RUN",
    "device": "RUN", "study": "NAME|FILE.py",
}  # fmt: skip


@pytest.mark.sampled(6)
@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_how_a_command_is_called_before_the_slow_imports(command: str) -> None:
    done = run("-c", LIST_MODULES, command, "--help")
    usage, empty, summary, *_, last = done.stdout.splitlines()
    status, modules = json.loads(last)
    assert status == 0, done.stderr
    assert not HEAVY & set(modules)
    assert usage.startswith(f"usage: python -m experiments.{command} [-h] ")
    assert usage.endswith(POSITIONAL.get(command, "]"))
    assert empty == ""
    assert re.match(r"(Train|Time|Draw|Measure|Render|List),? .*\.$", summary)
    assert "``" not in done.stdout


@pytest.mark.sampled(5)
@pytest.mark.parametrize("command", [*COMMANDS, "ant --watch"])
def test_wrong_use_is_answered_before_the_slow_imports(command: str) -> None:
    done = run("-c", LIST_MODULES, *command.split(), "a", "b", "--nonsense")
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 2
    assert not HEAVY & set(modules)
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_names_that_the_benchmark_knows_without_imports_are_those_there_are() -> None:
    assert (*contestants.SHAPES, "mlp") == bench_options.SHAPES
    assert contestants.CONTESTANTS == bench_options.CONTESTANTS


# --- Ctrl-C

# As some libraries do, it answers Ctrl-C by another error.
INTERRUPTED = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass
except BaseException:
    pass
raise ImportError("interrupted")
"""


def interrupted_at(module: str, folder: Path) -> Path:
    """Return a folder whose module of that name is interrupted while it is imported."""
    (folder / f"{module}.py").write_text(INTERRUPTED)
    return folder


@pytest.mark.sampled(2)
@pytest.mark.parametrize("command", COMMANDS)
def test_control_c_in_the_first_imports_is_a_line(tmp_path: Path, command: str) -> None:
    # The handler is the same for all imports: those of one command take turns.
    module = ("tyro", "torch")[[*COMMANDS].index(command) % 2]
    path = interrupted_at(module, tmp_path)
    done = run("-m", f"experiments.{command}", *WORDS.get(command, []), path=path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped.\n")


@pytest.mark.slow
def test_control_c_in_an_import_in_the_middle_of_a_run_is_a_line(tmp_path: Path) -> None:
    path = interrupted_at("tensorcircuit", tmp_path)
    words = ["--preset=quick", "--arms=qnn", f"--results={tmp_path / 'results'}"]
    done = run("-m", "experiments.mnist", *words, path=path)
    assert (done.returncode, done.stderr) == (130, "stopped.\n")


IN_A_COMMAND = """
import os, signal, sys, time
from experiments.processes import interrupts
interrupts.guard()
from experiments.cli.parse import status_of
def control_c():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass
def command():
    try:
        control_c()
    finally:
        print("cleaned up", flush=True)
        if "twice" in sys.argv:
            control_c()
            print("too long", flush=True)
status = status_of(command, "ended")
if "late" in sys.argv:
    control_c()
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("when", "said"), [("once", "ended\n"), ("twice", "stopped.\n"), ("late", "ended\nstopped.\n")]
)
def test_control_c_lets_a_command_clean_up_unless_it_comes_twice(when: str, said: str) -> None:
    done = run("-c", IN_A_COMMAND, when)
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", said)


def test_control_c_stays_ignored_where_the_shell_ignores_it() -> None:
    done = run("-c", IN_A_COMMAND, "once", ignored=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cleaned up\n", "")


def test_handlers_of_those_who_import_stay_theirs() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []
    assert cli.status_of(lambda: seen.append(signal.getsignal(signal.SIGINT))) == 0
    assert [before] == seen == [signal.getsignal(signal.SIGINT)]


WORKERS = """
import multiprocessing, os
import gymnasium
from plasticity.rl.workers import Workers
if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["interrupting"])
    env = Workers([lambda: gymnasium.make("Pendulum-v1")] * 2, 2)
    print(env.reset().shape)
    env.close()
"""


@pytest.mark.slow
def test_control_c_while_the_fork_server_imports_is_the_programs_alone(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    (tmp_path / "interrupting.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.01)\n"
    )
    done = run("-c", WORKERS, path=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(2, 3)\n", "")


# --- pipes


# Each command runs in a fork, whose first imports are done.
TO_A_CLOSED_PIPE = """
import os, runpy, sys
import tyro
reading, writing = os.pipe()
os.close(reading)
for command in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        sys.argv[1:] = ["--help"]
        runpy.run_module(f"experiments.{command}", run_name="__main__", alter_sys=True)
        sys.exit("it has not ended")
    print(command, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_closed_pipe_ends_a_command_quietly() -> None:
    done = run("-c", TO_A_CLOSED_PIPE, *COMMANDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{command} 141" for command in COMMANDS]


# --- what is not installed


def test_bench_ppo_without_stable_baselines3_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "from experiments import bench_ppo\n"
        "sys.exit(bench_ppo.main([]))"
    )
    done = run("-c", code)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("pip install 'quantum-plasticity[rl]'\n")
    assert len(done.stderr.splitlines()) == 1
