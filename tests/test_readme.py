"""What README and the pages beside it tell people to type and to expect."""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import figures, measure, study
from experiments.__main__ import main as experiments_main
from experiments.benchmarks import stopwatch
from experiments.cli import calling
from experiments.cli import parse as cli
from experiments.cli import train as running
from plasticity.interventions import INTERVENTIONS
from plasticity.metrics import METRICS
from plasticity.networks import NETWORKS
from plasticity.remedies import REMEDIES
from plasticity.results.names import folder_name
from plasticity.tasks.images import MNIST_DIGEST

pytestmark = pytest.mark.pages

ROOT = Path(__file__).parents[1]
# The cards are made by the build, from docstrings.
PAGES = [page for page in sorted(ROOT.glob("docs/**/*.md")) if page.parent.name != "methods"]
TEXT = "\n".join(page.read_text() for page in [ROOT / "README.md", *PAGES])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
# The blocks of one page need each other: tests/test_from_python.py runs them.
IN_A_ROW = (ROOT / "docs/from-python.md").read_text()
PYTHON = [code for code in BLOCK.findall(TEXT) if code not in IN_A_ROW]
# A block whose first line is the name of a file is that file, which other blocks import.
MODULES = {name[1]: code for code in PYTHON if (name := re.match(r"# (\w+)\.py\n", code))}
# From the module's name to the end of the line, of the code or of the cell.
COMMANDS = re.findall(r"python -m (experiments\.\w+)([^`\n#|>]*)", TEXT)
COMMANDS += re.findall(r"python -m (experiments) ([a-z_]+:\w+[^`\n#|>]*)", TEXT)
FOLDERS = sorted(set(re.findall(r"\b\w+-\w+-seed\d+-[0-9a-f]{8}\b", TEXT)))
ARMS = sorted(set(re.findall(r"\b(?:mlp|qnn)-[0-9a-f]{8}\b", TEXT)))
EXPERIMENTS = ("mnist", "cifar", "qdata", "ant")
SMALLER = {"n_steps=256": "n_steps=64", "learn(1_000)": "learn(64)"}


def test_speed_table_is_that_of_the_recorded_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    recorded = importlib.import_module("recorded")
    assert recorded.speed_table() in (ROOT / "docs/fast.md").read_text()
    assert f"takes {recorded.speed_range()} as long" in (ROOT / "README.md").read_text()


def test_what_was_found_is_what_the_records_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    recorded = importlib.import_module("recorded")
    assert recorded.found_table() in (ROOT / "README.md").read_text()


def test_readme_is_a_door() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_the_patterns_above_find_what_they_look_for() -> None:
    assert len(PYTHON) >= 3
    assert {f"experiments.{name}" for name in (*EXPERIMENTS, "bench")} <= {c for c, _ in COMMANDS}
    assert FOLDERS
    assert ARMS
    assert {*MODULES} == {"scaled_linear", "lines", "sides", "linear_scales", "halve"}
    assert ("experiments", "lines:EXPERIMENT --help") in COMMANDS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder with the modules of the pages and the records; forget what they register."""
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(calling, "prefix", calling.prefix)
    monkeypatch.setattr(calling, "own", calling.own)
    registries = [NETWORKS, REMEDIES, METRICS, INTERVENTIONS]
    before = [{**registry} for registry in registries]
    yield tmp_path
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)
    for name in MODULES:
        sys.modules.pop(name, None)


def finished_run(folder: Path) -> None:
    """Make a run folder for a block of code to read."""
    for arm in ARMS:
        (folder / arm).mkdir(parents=True)
        (folder / arm / "rows.jsonl").write_text(json.dumps({"task": 0}) + "\n")
        np.savez(folder / arm / "quantum_model_results.npz", accuracies=np.ones(1))


@pytest.mark.sampled(8)
@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.splitlines()[0])
def test_python_of_the_pages_runs(code: str, folder: Path) -> None:
    if "stable_baselines3" in code or "gymnasium" in code:
        pytest.importorskip("stable_baselines3")
    if "quantum.export" in code:
        pytest.importorskip("qiskit")
    if "gymnasium.register(" in code:  # would stay registered here
        run_as_program(code, folder)
        return
    if "read_rows" in code:
        for run in FOLDERS:
            finished_run(folder / "results" / run)
    for large, small in SMALLER.items():
        code = code.replace(large, small)
    names: dict[str, object] = {"__name__": "of_the_pages"}
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
    """Run a block in a process of its own."""
    (folder / "program.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_network_of_the_page_is_trained_and_measured_by_the_commands(folder: Path) -> None:
    (words,) = (said for of, said in COMMANDS if of == "experiments.mnist" and "--import" in said)
    assert command_main("experiments.mnist")([*shlex.split(words), "--num-tasks=2"]) == 0
    (run,) = (folder / "results").iterdir()
    assert {path.name.rpartition("-")[0] for path in run.glob("*/")} == {"mlp", "scaled-linear"}
    assert measure.main([str(run), "--metrics=fisher", "--import", "scaled_linear"]) == 0
    assert figures.main([str(run), "figure.png"]) == 0


@pytest.mark.slow
@pytest.mark.draws
def test_experiment_of_the_page_is_trained_measured_and_drawn_by_the_commands(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (words,) = (said for of, said in COMMANDS if of == "experiments" and "--arms" in said)
    assert experiments_main([*shlex.split(words), "--num-tasks=3"]) == 0
    (run,) = (folder / "results").glob("lines-small-seed0-*")
    where = "--experiment=lines:EXPERIMENT"
    assert measure.main([str(run), "--metrics=fisher", where]) == 0
    assert figures.main([str(run), "figure.png", where, "--columns=fisher_true_current"]) == 0
    assert (folder / "figure.png").stat().st_size > 10_000
    capsys.readouterr()
    with pytest.raises(SystemExit):
        experiments_main(["lines:EXPERIMENT", "--help"])
    said = capsys.readouterr().out
    assert re.match(r"usage: \S+( -m experiments)? lines:EXPERIMENT \[-h\]", said)
    assert "Training points of a task." in said
    # A later command says where it is, and nothing of the page is imported by itself.
    assert experiments_main([*shlex.split(words), "--num-tasks=3", "--metrics=fisher"]) == 0
    advice = capsys.readouterr().out.splitlines()[-1]
    assert advice.endswith(f"measure {run} --metrics fisher --experiment lines:EXPERIMENT")


@pytest.mark.slow
def test_studies_of_the_pages_train_what_others_wrote(folder: Path) -> None:
    pytest.importorskip("distributed")
    for name in ("sides", "linear_scales"):
        declared = study.find(f"{name}.py")
        small = dataclasses.replace(declared, seeds=(0,), settings={"num_tasks": 20})
        small.train("results", workers=1, progress=False)
        found = small.load("results")
        assert {finding.arm for finding in found.findings()} == {*small.arms}
        assert all(found.column(arm, "test_accuracy").shape == (1, 20) for arm in small.arms)


def command_main(module: str):
    """Return what reads a module's command line and then does what is asked for."""
    if module == "experiments":
        return experiments_main
    loaded = importlib.import_module(module)
    return getattr(loaded, "main", lambda arguments: cli.main(loaded.EXPERIMENT, arguments))


@pytest.mark.sampled(30)
@pytest.mark.parametrize(
    "command", sorted({f"{module} {words.strip()}".strip() for module, words in COMMANDS})
)
def test_commands_of_the_pages_are_right_use(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Read the command lines as their programs do; then do nothing, or find no such file."""
    module, *arguments = shlex.split(command)
    if module in ("experiments.ant", "experiments.bench_ppo"):
        pytest.importorskip("stable_baselines3")
    if "--qasm" in arguments:
        pytest.importorskip("qiskit")
    main, asked = command_main(module), []
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
    printed, said = capsys.readouterr()
    # RUN and its like are not there, which is no wrong use.
    assert status == 0 or (status == 1 and "Name the folder of a run." in said), said
    assert asked or said or printed


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
        "diagnose",
        "watch",
        "figures",
        "study",
        "runs",
    )
    commands = (*EXPERIMENTS, *others)
    helps = [help_of(name) for name in commands]
    of_others = {"--logdir"}  # of the program tensorboard
    slurm = {"--array", "--cpus-per-task", "--ntasks", "--time", "--wrap"}
    of_others |= slurm | {"--nthreads", "--scheduler-file"}  # of dask
    # Of nox, pip and docker.
    of_others |= {"--no-venv", "--require-hashes", "--no-deps", "--rm", "--build-arg"}
    # Of the network and the experiment that a page makes, which are run above.
    of_own = {"--scaled-linear.scale", "--num-points"}
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
