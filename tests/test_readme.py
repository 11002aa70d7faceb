"""What README and the pages beside it tell people to type and to expect."""

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import study
from experiments.benchmarks import stopwatch
from experiments.cli import parse as cli
from plasticity.results.names import folder_name
from plasticity.runs import train as running
from plasticity.tasks.images import MNIST_DIGEST

ROOT = Path(__file__).parents[1]
# The cards are made by the build, from docstrings.
PAGES = [page for page in sorted(ROOT.glob("docs/**/*.md")) if page.parent.name != "methods"]
TEXT = "\n".join(page.read_text() for page in [ROOT / "README.md", *PAGES])
PYTHON = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
# From the module's name to the end of the line, of the code or of the cell.
COMMANDS = re.findall(r"python -m (experiments\.\w+)([^`\n#|>]*)", TEXT)
FOLDERS = sorted(set(re.findall(r"\b\w+-\w+-seed\d+-[0-9a-f]{8}\b", TEXT)))
ARMS = sorted(set(re.findall(r"\b(?:mlp|qnn)-[0-9a-f]{8}\b", TEXT)))
EXPERIMENTS = ("mnist", "cifar", "qdata", "ant")
SMALLER = {"n_steps=256": "n_steps=64", "learn(1_000)": "learn(64)"}


def test_speed_table_is_that_of_the_recorded_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    recorded = importlib.import_module("recorded")
    assert recorded.speed_table() in (ROOT / "README.md").read_text()


def test_readme_is_a_door() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_the_patterns_above_find_what_they_look_for() -> None:
    assert len(PYTHON) >= 3
    assert {f"experiments.{name}" for name in (*EXPERIMENTS, "bench")} <= {c for c, _ in COMMANDS}
    assert FOLDERS
    assert ARMS


def finished_run(folder: Path) -> None:
    """Make a run folder for a block of code to read."""
    for arm in ARMS:
        (folder / arm).mkdir(parents=True)
        (folder / arm / "rows.jsonl").write_text(json.dumps({"task": 0}) + "\n")
        np.savez(folder / arm / "quantum_model_results.npz", accuracies=np.ones(1))


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.splitlines()[0])
def test_python_of_the_pages_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "stable_baselines3" in code or "gymnasium" in code:
        pytest.importorskip("stable_baselines3")
    if "quantum.export" in code:
        pytest.importorskip("qiskit")
    monkeypatch.chdir(tmp_path)
    if "sys.argv" in code or "gymnasium.register(" in code:  # would stay registered here
        run_as_program(code, tmp_path)
        return
    for folder in FOLDERS:
        finished_run(tmp_path / "results" / folder)
    for large, small in SMALLER.items():
        code = code.replace(large, small)
    names: dict[str, object] = {}
    exec(compile(code, "README", "exec"), names)
    if "read_rows" in code:
        assert names["rows"] == [{"task": 0}]
        np.testing.assert_array_equal(names["accuracies"], np.ones(1))
    if "qnn.angles.shape" in code:
        qnn, circuit = names["qnn"], names["circuit"]
        assert qnn.angles.shape == (len(qnn.ansatz.pairs), 15)
        assert qnn.angles.grad is not None
        assert type(circuit).__module__.startswith("tensorcircuit")


def run_as_program(code: str, folder: Path) -> None:
    """Run a block that is a program of its own, such as an experiment with one more network."""
    (folder / "program.py").write_text(code)
    names = re.findall(r'NETWORKS\["(.*?)"\]', code)
    arguments = []
    if names:
        (said,) = re.findall(rf"python {names[0]}\.py ([^`\n]*)", TEXT)  # on the page, too
        arguments = [*shlex.split(said), "--num-tasks=2"]
    done = subprocess.run(
        [sys.executable, "program.py", *arguments],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in names:
        assert f"{name}: 100%" in done.stderr
        assert [*folder.glob(f"results/*/{name}-*/rows.jsonl")]


def command_main(module: str):
    """Return what reads a module's command line and then does what is asked for."""
    loaded = importlib.import_module(module)
    return getattr(loaded, "main", lambda arguments: cli.main(loaded.EXPERIMENT, arguments))


@pytest.mark.parametrize(
    "command", sorted({f"{module} {words.strip()}".strip() for module, words in COMMANDS})
)
def test_commands_of_the_pages_are_right_use(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Read the command lines as their programs do; then do nothing, or find no such file."""
    module, *arguments = shlex.split(command)
    if module in ("experiments.ant", "experiments.bench_ppo"):
        pytest.importorskip("stable_baselines3")
    if "--qasm" in arguments:
        pytest.importorskip("qiskit")
    main, asked = command_main(module), []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "run", lambda *parsed: asked.append(parsed))
    monkeypatch.setattr(stopwatch, "run", asked.append)
    monkeypatch.setattr(stopwatch, "table", lambda report: "")
    monkeypatch.setattr(stopwatch, "save", lambda report, folder: "")
    monkeypatch.setattr(study, "carry_out", asked.append)
    if module in ("experiments.bench_ppo", "experiments.bench_device"):
        monkeypatch.setattr(importlib.import_module(module), "run", asked.append)
    try:
        status = main(arguments)
    except SystemExit as stop:  # --help
        assert "--help" in arguments
        status = stop.code or 0
    said = capsys.readouterr().err
    # RUN and its like are not there, which is no wrong use.
    assert status == 0 or (status == 1 and "Name the folder of a run." in said), said
    assert asked or said or "--help" in arguments


def help_of(module: str, *arguments: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        command_main(f"experiments.{module}")([*arguments, "--help"])
    return said.getvalue()


def test_options_that_the_pages_name_are_there() -> None:
    pytest.importorskip("stable_baselines3")
    others = (
        "bench",
        "bench_ppo",
        "bench_device",
        "measure",
        "device",
        "watch",
        "figures",
        "study",
    )
    commands = (*EXPERIMENTS, *others)
    helps = [help_of(name) for name in commands]
    of_others = {"--logdir"}  # of the program tensorboard
    slurm = {"--array", "--cpus-per-task", "--ntasks", "--time", "--wrap"}
    of_others |= slurm | {"--nthreads", "--scheduler-file"}  # of dask
    # Of the network that a page makes, whose program is run above; of an arm, likewise.
    of_own = {"--linear.scale", "--mlp-sphere.optimizer.learning-rate"}
    known = (
        {*re.findall(r"--[a-z][\w.-]*", "".join(helps)), "--watch", "--version"}
        | of_others
        | of_own
    )
    # Those of an arm with a remedy (--mlp+...) are shown where --arms names it only.
    named = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w(?![\w+])", TEXT))
    assert named
    assert named <= known


@pytest.mark.parametrize("folder", FOLDERS)
def test_run_folders_of_the_pages_have_the_name_that_the_program_gives_them(folder: str) -> None:
    name, preset, seed, _ = folder.split("-")
    # Of other experiments, the data is not at hand; how to name it would have to be added here.
    assert name == "mnist"
    experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
    config, arms = experiment.presets[preset].config, experiment.presets[preset].arms
    assert (f"seed{config.seed}", config.dataset) == (seed, "mnist")
    identity = experiment.identity(config, SimpleNamespace(digest=MNIST_DIGEST))
    assert folder == folder_name(f"{name}-{preset}-{seed}", identity)
    assert {*ARMS} <= {folder_name(arm, value.json()) for arm, value in arms.items()}
