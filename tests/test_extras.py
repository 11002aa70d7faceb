"""Without an extra: what needs it says what to install, and nothing else needs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[1]
MODULES = (
    "plasticity.rl.features",
    "plasticity.rl.ppo",
    "plasticity.rl.environments",
    "plasticity.rl.workers",
)
COMMANDS = {
    "train": ["ant", "--preset=quick"],
    "watch": ["watch", "run", "out.mp4"],
    "watch, as an option": ["ant", "--watch", "run", "out.mp4"],
    "benchmark": ["bench_ppo"],
}
# One process for all, since most of its time goes into imports that they share.
PROGRAM = """
import contextlib, importlib, io, json, sys
hidden, modules, commands = map(json.loads, sys.argv[1:])
answers = {}
for package in hidden:
    for name in [name for name, module in sys.modules.items() if module is None]:
        del sys.modules[name]
    for name in [name for name in sys.modules if name.startswith(package + ".")] + [package]:
        sys.modules[name] = None
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            answers[f"{package}, {module}"] = [type(error).__name__, str(error)]
    from experiments import figures, measure  # which need none of it
    for command, (module, *arguments) in commands.items():
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            status = importlib.import_module(f"experiments.{module}").main(arguments)
        answers[f"{package}, {command}"] = [status, said.getvalue()]
print(json.dumps(answers))
"""
HIDDEN = ("stable_baselines3", "gymnasium")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    arguments = [json.dumps(value) for value in (HIDDEN, MODULES, COMMANDS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM, *arguments],
            cwd=tmp_path_factory.mktemp("without"), capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("module", MODULES)
def test_import_says_what_to_install(answers: dict[str, list], module: str, hidden: str) -> None:
    kind, message = answers[f"{hidden}, {module}"]
    assert kind == "ImportError"
    assert message.startswith(f"{module} needs stable-baselines3")
    assert hidden in message.partition("(")[2]
    assert message.endswith("): pip install 'quantum-plasticity[rl]'")


@pytest.mark.slow
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("command", COMMANDS)
def test_command_says_in_a_line_what_to_install(
    answers: dict[str, list], command: str, hidden: str
) -> None:
    status, said = answers[f"{hidden}, {command}"]
    assert status == 1
    assert said.startswith("error: ")
    assert hidden in said
    assert "pip install 'quantum-plasticity[rl]'" in said
    assert len(said.splitlines()) == 1


# TensorCircuit imports qiskit itself where it is installed: so it is hidden, not looked for.
EXPORT = """
import sys
hidden = sys.argv[1]
if hidden != "qiskit":
    import qiskit.qasm3
sys.modules[hidden] = None
import plasticity.quantum.export as export
from plasticity import QNN, Brickwork, LogOdds
net = QNN(Brickwork(3, 1), LogOdds(2))
calls = {
    "to_qiskit": lambda: export.to_qiskit(net),
    "to_qasm3": lambda: export.to_qasm3(net),
    "count_gates": lambda: export.count_gates(net),
    "save_qasm3": lambda: export.save_qasm3(net, "circuit.qasm"),
}
for name, call in calls.items():
    try:
        call()
        print(name)
    except ImportError as error:
        print(name, type(error).__name__, error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["qiskit", "qiskit_qasm3_import"])
def test_export_says_what_to_install(hidden: str, tmp_path: Path) -> None:
    if hidden != "qiskit":
        pytest.importorskip("qiskit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", EXPORT, hidden],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    said = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    needs = {"to_qasm3", "save_qasm3"} | (
        {"to_qiskit", "count_gates"} if hidden == "qiskit" else set()
    )
    assert {name for name, message in said.items() if message} == needs
    assert len(said) == 4
    for name in needs:
        assert said[name].startswith("ImportError plasticity.quantum.export needs qiskit (")
        assert hidden in said[name].partition("(")[2]
        assert said[name].endswith("): pip install 'quantum-plasticity[qiskit]'")
    assert not list(tmp_path.iterdir())


def test_the_package_alone_imports_no_qiskit() -> None:
    program = "import sys, plasticity; print([m for m in sys.modules if m.startswith('qiskit')])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
