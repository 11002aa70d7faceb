"""``python -m experiments.measure``: what it refuses, in a line or two and with which status."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from experiments import ant, measure, mnist
from plasticity.learning.metric import Metric
from plasticity.metrics import METRICS
from plasticity.metrics.norms import weight_norm
from plasticity.networks import NETWORKS
from plasticity.remedies import REMEDIES
from plasticity.results import provenance
from plasticity.results.record import open_run, read_run
from plasticity.runs import drawing
from tests.experiments.measuring import KEPT, measured, refusal, start, train, write_data
from tests.experiments.runs import arm_folder, arm_folders


@pytest.fixture(autouse=True)
def here(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder; figures are blank, since drawing takes a second."""
    monkeypatch.setattr(drawing, "learning_curves", lambda *_, **__: Figure((1, 1)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "git_commit", lambda: None)
        patch.setattr(drawing, "learning_curves", lambda *_, **__: Figure((1, 1)))
        return train("mnist", ("mlp", "qnn"), data, tmp_path_factory.mktemp("mnist"))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run of mnist, to do with as one likes; it lies elsewhere than where it was trained."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Measure what cannot be: one or two lines, and no file written, changed or lost."""

    def refuse(*words: Any, status: int) -> str:
        return refusal(measure.main, words, status, tmp_path, capsys)

    return refuse


WRONG_USE = {
    "--metrics logits": ["--metrics logits", *METRICS],
    "--metrics logit fishr": ["--metrics fishr", *METRICS],
    "--metrics": ["--metrics", *METRICS],
    "": ["--metrics", *METRICS],
    "--metric logit": ["--metric", "did you mean --metrics"],
    "--metrics logit --arms cnn": ["--arms cnn", "mlp, qnn"],
    "--metrics logit --arms mlp cnn": ["--arms cnn", "mlp, qnn"],
    "--metrics logit --arms mlp-00000000": ["--arms mlp-00000000", "mlp, qnn"],
    "--metrics logit --dataset other": ["--dataset other", "digits"],
    "--metrics watched": ["--metrics watched", "while a task is learned"],
    "--metrics logit watched": ["--metrics watched", "while a task is learned"],
}


@pytest.mark.parametrize("words", WRONG_USE)
def test_wrong_use_is_one_line_and_status_2(
    refused: Callable[..., str], run: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    watched = Metric("watched", weight_norm, "during")
    monkeypatch.setitem(METRICS, "watched", watched)
    said = refused(run, *words.split(), status=2)
    for part in WRONG_USE[words]:
        assert part in said


def test_no_run_folder_is_one_line_and_status_2(refused: Callable[..., str]) -> None:
    assert "RUN" in refused(status=2)


def test_a_folder_that_is_no_run_is_refused(
    refused: Callable[..., str], run: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    for folder in ("gone", "empty", "file", arm_folder(run, "mlp")):
        assert str(folder) in refused(folder, "--metrics", "logit", status=1)


@pytest.mark.parametrize("config", [{}, {"experiment": "atari"}, {"experiment": ["mnist"]}])
def test_a_run_of_no_experiment_is_refused(
    refused: Callable[..., str], tmp_path: Path, config: dict[str, Any]
) -> None:
    folder = open_run(tmp_path, "other", config).path
    said = refused(folder, "--metrics", "logit", status=1)
    assert str(folder / "config.json") in said


def test_a_run_of_ant_has_no_tasks_to_measure(refused: Callable[..., str], tmp_path: Path) -> None:
    preset = ant.EXPERIMENT.presets["quick"]
    folder = open_run(tmp_path, "ant", {"experiment": "ant"})
    with folder.arm("mlp", preset.arms["mlp"].json()) as record:
        record.append({"step": 2048}, {"policy": torch.zeros(2)})
    said = refused(folder.path, "--metrics", "logit", status=2)
    assert "ant" in said
    assert "no tasks" in said


def test_a_run_without_a_finished_task_is_refused(
    refused: Callable[..., str], run: Path, tmp_path: Path
) -> None:
    config = json.loads((run / "config.json").read_text())
    folder = open_run(tmp_path / "new", "mnist", config)
    assert "no task is finished" in refused(folder.path, "--metrics", "logit", status=1)
    folder.arm("mlp", mnist.RELEASED.arms["mlp"].json()).close()
    assert "no task is finished" in refused(folder.path, "--metrics", "logit", status=1)


def test_an_arm_without_a_finished_task_keeps_no_other_from_being_measured(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read_run(run).arm("mlp+reset-optimizer", mnist.RELEASED.arms["mlp"].json()).close()
    assert start(run, "--metrics", "logit") == 0
    assert "mlp+reset-optimizer: no task is finished" in capsys.readouterr().out
    assert [*measured(run, "mlp")] == KEPT
    assert not (arm_folder(run, "mlp+reset-optimizer") / "measured.jsonl").exists()


def test_an_arm_that_is_being_trained_is_in_use(refused: Callable[..., str], run: Path) -> None:
    path = arm_folder(run, "qnn")
    with read_run(run).arm("qnn", json.loads((path / "arm.json").read_text())):
        said = refused(run, "--metrics", "logit", status=75)
        assert f"{path} is in use by another process" in said
        refused(run, "--metrics", "logit", "--arms", "qnn", status=75)
        # The others can be measured meanwhile.
        assert start(run, "--metrics", "logit", "--arms", "mlp") == 0
    assert start(run, "--metrics", "logit") == 0


# --- data


def test_other_data_than_the_runs_is_refused(
    refused: Callable[..., str], run: Path, data: Path, tmp_path: Path
) -> None:
    for other in ("digits", str(data / "cifar.npz")):
        said = refused(run, "--metrics", "logit", "--dataset", other, status=1)
        assert f"{other}: not the data of run" in said
        assert "--dataset" in said


def test_data_that_was_moved_is_found_by_its_new_name(
    refused: Callable[..., str], data: Path, tmp_path: Path
) -> None:
    (tmp_path / "before").mkdir()
    shutil.copy(data / "mnist.npz", tmp_path / "before")
    words = (tmp_path / "before", tmp_path / "results", "--num-tasks=1")
    folder = train("mnist", ("mlp",), *words)
    (tmp_path / "before/mnist.npz").rename(tmp_path / "after.npz")
    said = refused(folder, "--metrics", "logit", status=1)
    assert "before/mnist.npz" in said
    assert "--dataset" in said
    assert start(folder, "--metrics", "logit", "--dataset", "after.npz") == 0
    assert [*measured(folder, "mlp")] == [0]


def test_a_run_that_does_not_tell_its_data_set_is_measured_with_the_one_that_is_named(
    refused: Callable[..., str], run: Path, data: Path
) -> None:
    for content in (None, "", "no JSON\n", "{}\n", "[]\n"):
        path = arm_folder(run, "mlp") / "provenance.jsonl"
        path.unlink() if content is None else path.write_text(content)
        said = refused(run, "--metrics", "logit", "--arms", "mlp", status=2)
        assert "--dataset" in said
    assert start(run, "--metrics=logit", f"--dataset={data}/mnist.npz") == 0


def test_qdata_computes_its_data_which_has_no_name(
    refused: Callable[..., str], data: Path, tmp_path: Path
) -> None:
    folder = train("qdata", ("mlp",), data, tmp_path / "results", "--num-tasks=1")
    said = refused(folder, "--metrics=logit", "--dataset=digits", status=2)
    assert "--dataset digits" in said


# --- files that were damaged


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:  # torch fills it up with bytes that mean nothing
        weights = archive.read(next(n for n in archive.namelist() if n.endswith("data/0")))
    content = path.read_bytes()
    assert content.count(weights) == 1
    path.write_bytes(content.replace(weights, bytes([weights[0] ^ 1]) + weights[1:]))


def swap(path: Path) -> None:
    (other,) = set(arm_folders(path.parents[2]).values()) - {path.parents[1]}
    shutil.copy(other / path.relative_to(path.parents[1]), path)


@pytest.mark.parametrize("damage", [cut, flip, swap])
@pytest.mark.parametrize("arm", ["mlp", "qnn"])
def test_a_network_that_was_damaged_or_is_another_arms_is_refused(
    refused: Callable[..., str], run: Path, arm: str, damage: Callable[[Path], None]
) -> None:
    path = arm_folder(run, arm) / "snapshots/task-00000002.pt"
    damage(path)
    assert str(path) in refused(run, "--arms", arm, "--metrics", "logit", status=1)


def test_a_network_that_this_program_would_not_build_is_refused(
    refused: Callable[..., str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = type(NETWORKS["mlp"]).build

    def with_more(network: Any, *arguments: Any) -> torch.nn.Module:
        return torch.nn.Sequential(build(network, *arguments), torch.nn.Linear(4, 4))

    monkeypatch.setattr(type(NETWORKS["mlp"]), "build", with_more)
    said = refused(run, "--arms", "mlp", "--metrics", "logit", status=1)
    assert "network after task 0" in said


@pytest.mark.parametrize(("registered", "name", "missing"), [(NETWORKS, "qnn", "Qnn"),
    (REMEDIES, "reset-optimizer", "ResetOptimizer")])  # fmt: skip
@pytest.mark.usefixtures("registries")
def test_an_arm_of_a_class_that_is_registered_no_more_is_refused(
    refused: Callable[..., str], run: Path, registered: dict[str, Any], name: str, missing: str
) -> None:  # fmt: skip
    del registered[name]
    said = refused(run, "--metrics", "logit", status=1)
    assert str(arm_folder(run, "qnn") / "arm.json") in said
    assert f"{missing!r} is unknown" in said
    assert said.endswith(
        "leave it out with --arms mlp, or call experiments.measure.main from the program that "
        "registers it"
    )
    said = refused(run, "--metrics", "logit", "--arms", "qnn", status=1)
    assert said.splitlines()[1].startswith("call experiments.measure.main")
    assert start(run, "--metrics", "logit", "--arms", "mlp") == 0


def test_an_edited_config_or_arm_is_refused(refused: Callable[..., str], run: Path) -> None:
    for path in (run / "config.json", arm_folder(run, "mlp") / "arm.json"):
        content = path.read_bytes()
        assert content.count(b"1") >= 1
        path.write_bytes(content.replace(b"1", b"2"))
        refused(run, "--metrics", "logit", status=1)
        path.write_bytes(b"[" * 100_000)
        assert str(path) in refused(run, "--metrics", "logit", status=1)
        path.write_bytes(content)
    assert start(run, "--metrics", "logit") == 0


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"device": "cuda:7"}, "cuda:7"),
        ({"device": "tpu"}, "tpu"),
        ({"threads": 0}, "threads"),
        ({"threads": "one"}, "threads"),
        ({"seed": None}, "seed"),
        ({"speed": 3}, "speed"),
    ],
)
def test_a_config_that_cannot_be_used_here_is_refused(
    refused: Callable[..., str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any], part: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = json.loads((run / "config.json").read_text()) | changes
    folder = open_run(tmp_path / "other", "mnist", config)
    with folder.arm("mlp", mnist.RELEASED.arms["mlp"].json()) as record:
        record.append({"task": 0}, {"network": {}})
    said = refused(folder.path, "--metrics", "logit", status=1)
    assert str(folder.path / "config.json") in said
    assert part in said
