"""Without the extra ``rl``: what needs it says what to install, and nothing else needs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("module", MODULES)
def test_import_says_what_to_install(answers: dict[str, list], module: str, hidden: str) -> None:
    kind, message = answers[f"{hidden}, {module}"]
    assert kind == "ImportError"
    assert message.startswith(f"{module} needs stable-baselines3")
    assert hidden in message.partition("(")[2]
    assert message.endswith("): pip install 'quantum-plasticity[rl]'")


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
