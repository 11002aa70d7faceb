"""``python -m experiments.device``: what it refuses, in a line or two, and OpenQASM 3."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from experiments import ant, device, mnist
from plasticity.on_device import conditions
from plasticity.on_device import figure as device_figure
from plasticity.quantum.layer import QNN
from plasticity.results import provenance
from plasticity.results.record import open_run, read_run
from plasticity.runs import drawing
from tests.experiments.measuring import refusal, train, write_data
from tests.experiments.runs import arm_folder

SHORT = ("--shots=5", "--depolarizing=0.1", "--readout-error")


@pytest.fixture(autouse=True)
def here(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder; figures are blank, since drawing takes a second."""
    monkeypatch.setattr(device_figure, "figure", lambda *_: Figure((1, 1)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "git_commit", lambda: None)
        patch.setattr(drawing, "learning_curves", lambda *_, **__: Figure((1, 1)))
        arms = ("mlp", "qnn", "qnn-reupload")
        return train("mnist", arms, data, tmp_path_factory.mktemp("mnist"), "--num-tasks=2")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run of mnist, to do with as one likes."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Evaluate what cannot be: one or two lines, and no file written, changed or lost."""

    def refuse(*words: Any, status: int) -> str:
        return refusal(device.main, words, status, tmp_path, capsys)

    return refuse


WRONG_USE = {
    "--depolarizing 1.5": "--depolarizing 1.5: a probability, 0 to 1",
    "--depolarizing 0 nan": "--depolarizing nan: a probability, 0 to 1",
    "--readout-error -0.1": "--readout-error -0.1: a probability, 0 to 1",
    "--amplitude-damping 2": "--amplitude-damping 2: a probability, 0 to 1",
    "--shots 0": "--shots 0: 1 to 10^12",
    "--shots 100 -3": "--shots -3: 1 to 10^12",
    "--shots 10000000000000": "--shots 10000000000000: 1 to 10^12",
    "--shots many": "--shots",
    "--shots --depolarizing 0 --readout-error": "--shots: no shots and no noise",
    "--seed -1": "--seed -1",
    "--arms cnn": "--arms cnn: the run has mlp, qnn, qnn-reupload",
    "--dataset other": "--dataset other",
    "--noise 0.1": "--noise",
    "--arms mlp": "mlp: no circuit in it",
    "--arms qnn mlp": "mlp: no circuit in it",
    "--arms qnn-reupload": "qnn-reupload: the circuit of a ReuploadingQNN depends on the data",
}


@pytest.mark.parametrize("words", WRONG_USE)
def test_wrong_use_is_one_line_and_status_2(
    refused: Callable[..., str], run: Path, words: str
) -> None:
    assert WRONG_USE[words] in refused(run, *words.split(), status=2)


def test_a_run_without_a_circuit_says_which_arms_it_has(
    refused: Callable[..., str], run: Path
) -> None:
    shutil.rmtree(arm_folder(run, "qnn"))
    said = refused(run, status=2)
    assert "no device can run these arms of run: mlp: no circuit in it; qnn-reupload: " in said


def test_arms_that_no_device_can_run_are_left_out_where_none_is_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert device.main([str(run), *SHORT]) == 0
    printed = capsys.readouterr().out
    assert "mlp: left out: no circuit in it\n" in printed
    assert "qnn-reupload: left out: the circuit of a ReuploadingQNN" in printed
    assert [path.parent.name for path in run.rglob("device.jsonl")] == [arm_folder(run, "qnn").name]


def test_no_run_folder_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "RUN" in refused(status=2)
    assert "gone" in refused(tmp_path / "gone", status=1)


def test_a_run_of_ant_has_no_tasks(refused: Callable[..., str], tmp_path: Path) -> None:
    preset = ant.EXPERIMENT.presets["quick"]
    folder = open_run(tmp_path, "ant", {"experiment": "ant"})
    with folder.arm("qnn", preset.arms["qnn"].json()) as record:
        record.append({"step": 2048}, {"policy": torch.zeros(2)})
    assert "runs of ant have no tasks to evaluate" in refused(folder.path, status=2)


def test_a_run_without_a_finished_task_is_refused(
    refused: Callable[..., str], run: Path, tmp_path: Path
) -> None:
    config = json.loads((run / "config.json").read_text())
    folder = open_run(tmp_path / "new", "mnist", config)
    folder.arm("qnn", mnist.RELEASED.arms["qnn"].json()).close()
    assert "no task is finished yet" in refused(folder.path, status=1)


def test_an_arm_that_is_being_trained_is_in_use(refused: Callable[..., str], run: Path) -> None:
    path = arm_folder(run, "qnn")
    with read_run(run).arm("qnn", json.loads((path / "arm.json").read_text())):
        assert f"{path} is in use by another process" in refused(run, *SHORT, status=75)


def test_other_data_than_the_runs_is_refused(refused: Callable[..., str], run: Path) -> None:
    assert "digits: not the data of run" in refused(run, "--dataset", "digits", status=1)


def test_rows_that_were_edited_are_refused_and_removing_them_is_a_way_out(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert device.main([str(run), *SHORT]) == 0
    path = arm_folder(run, "qnn") / "device.jsonl"
    other = read_run(run).arm("qnn-scaled", mnist.RELEASED.arms["qnn"].json())
    other.close()
    odd = json.loads(path.read_text().splitlines()[0]) | {"shots": [3]}
    for content in ('{"task": 0}\n', "[]\n", "no JSON\n", json.dumps(odd) + "\n"):
        (other.path / "device.jsonl").write_text(content)
        assert device.main([str(run), *SHORT, "--arms", "qnn"]) == 1
        said = capsys.readouterr().err
        assert str(other.path / "device.jsonl") in said
        assert "evaluate" in said
        (other.path / "device.jsonl").unlink()
        path.write_text(content)
        assert device.main([str(run), *SHORT, "--arms", "qnn"]) == 1
        assert str(path) in capsys.readouterr().err
        assert path.read_text() == content
        path.unlink()
        assert device.main([str(run), *SHORT, "--arms", "qnn"]) == 0


# --- OpenQASM 3


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A double of the module that writes OpenQASM 3, with Qiskit there."""
    module = ModuleType("plasticity.quantum.export")

    def to_qasm3(qnn: QNN) -> str:
        return f"OPENQASM 3.0; // {float(qnn.angles.detach().double().sum())}\n"

    module.to_qasm3 = to_qasm3  # type: ignore[attr-defined]
    module.count_gates = lambda qnn: "12 two-qubit gates"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "plasticity.quantum.export", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    return module


def test_the_circuit_of_the_last_network_is_written_and_counted(
    export: ModuleType, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert device.main([str(run), *SHORT, "--qasm"]) == 0
    path = arm_folder(run, "qnn")
    assert f"qnn: {path / 'circuit.qasm'}: 12 two-qubit gates\n" in capsys.readouterr().out
    state = torch.load(path / "checkpoint.pt")["state"]["network"]
    expected = float(state["angles"].double().sum())
    assert (path / "circuit.qasm").read_text() == f"OPENQASM 3.0; // {expected}\n"


def test_circuits_alone_are_written_without_evaluating_anything(
    export: ModuleType, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    def evaluate(*arguments: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(conditions, "rows_of_network", evaluate)
    assert device.main([str(run), "--qasm"]) == 0
    path = arm_folder(run, "qnn")
    state = torch.load(path / "checkpoint.pt")["state"]["network"]
    expected = float(state["angles"].double().sum())
    assert (path / "circuit.qasm").read_text() == f"OPENQASM 3.0; // {expected}\n"
    assert not (path / "device.jsonl").exists()
    assert not (run / "device.md").exists()


@pytest.mark.parametrize("kind", [ImportError, TypeError, ValueError, RuntimeError])
def test_a_circuit_that_cannot_be_written_is_a_failure_and_the_rows_stay(
    export: ModuleType, run: Path, capsys: pytest.CaptureFixture[str], kind: type[Exception]
) -> None:
    def fail(qnn: QNN) -> str:
        raise kind("gate 3 is not unitary")

    export.to_qasm3 = fail  # type: ignore[attr-defined]
    assert device.main([str(run), *SHORT, "--qasm"]) == 1
    assert "no OpenQASM 3 of its circuit: gate 3 is not unitary" in capsys.readouterr().err
    assert (arm_folder(run, "qnn") / "device.jsonl").exists()
    assert not (arm_folder(run, "qnn") / "circuit.qasm").exists()


@pytest.mark.parametrize("missing", ["qiskit", "qiskit_qasm3_import"])
def test_without_qiskit_the_command_says_what_to_install_before_it_evaluates(
    refused: Callable[..., str], run: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != missing or None)
    said = refused(run, "--qasm", status=1)
    assert said.endswith(
        f"--qasm needs {missing}, which is not installed: pip install 'quantum-plasticity[qiskit]'"
    )


def test_help_tells_of_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        device.main(["--help"])
    assert not stopped.value.code
    text = " ".join(capsys.readouterr().out.split())
    for part in ("RUN", "--arms NAME", "--shots", "100 1000 10000 100000 1000000",
                 "--depolarizing", "--readout-error", "--amplitude-damping", "--seed", "--qasm",
                 "--dataset NAME|FILE.npz", "--data-root", "device.jsonl", "device.md",
                 "device.png", "circuit.qasm"):  # fmt: skip
        assert part in text
    assert "``" not in text
