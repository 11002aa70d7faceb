"""Run folders that come from anywhere: ``--watch`` executes nothing that they hold."""

import base64
import io
import json
import pickle
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("mujoco")
pytest.importorskip("stable_baselines3")
pytest.importorskip("imageio_ffmpeg")

from experiments import ant, watch
from experiments.parts import policies

TRAINING = (
    "--env=Pendulum-v1", "--total-steps=32", "--num-envs=2", "--n-steps=16", "--batch-size=16",
    "--epochs=1", "--evaluation-episodes=1", "--classical.pi=8", "--classical.vf=8",
    "--quantum.num-qubits=2", "--quantum.depth=2", "--env-processes=0",
)  # fmt: skip


class Payload:
    """What is unpickled makes a file."""

    def __reduce__(self) -> Any:
        return open, ("executed", "w")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("watch") / "results"
    assert ant.main([*TRAINING, f"--results={results}"]) == 0
    return next(results.iterdir())


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a copy of a run folder in the current one, where environments render pixels."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "run")
    make = policies.make_gymnasium

    def drawing(name: str, **options: Any) -> Any:
        env = make(name)
        env.render = lambda: np.zeros((16, 16, 3), np.uint8)
        return env

    monkeypatch.setattr(watch, "make_gymnasium", drawing)
    yield Path("run")
    assert not Path("executed").exists()


def change(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refused(capsys: pytest.CaptureFixture[str], *options: str, status: int = 1) -> str:
    capsys.readouterr()
    assert ant.main(["--watch", "run", "out.gif", *options]) == status
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert len(said.splitlines()) <= 2
    assert len(said) < 1000
    assert not set(said) & {"\x1b", "\x07"}
    assert not Path("out.gif").exists()
    return said


# --- the environment


@pytest.fixture
def planted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name an environment whose module lies in the run folder."""
    (folder / "payload.py").write_text(
        "import gymnasium\nopen('imported', 'w').close()\n"
        "entry = 'gymnasium.envs.classic_control.pendulum:PendulumEnv'\n"
        "gymnasium.register('Planted-v0', entry, max_episode_steps=5)\n"
    )
    monkeypatch.syspath_prepend(".")
    change(folder, env="run.payload:Planted-v0")
    yield "run.payload:Planted-v0"
    policies.gymnasium.registry.pop("Planted-v0", None)
    for name in ("run", "run.payload"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "options", [[], ["--env=Pendulum-v1"], ["--env=Planted-v0"], ["--env=other:Planted-v0"]]
)
def test_module_that_only_the_folder_names_is_not_imported(
    capsys: pytest.CaptureFixture[str], planted: str, options: list[str]
) -> None:
    said = refused(capsys, *options, status=2)
    assert planted in said
    assert "--env" in said
    assert not Path("imported").exists()


def test_module_that_the_command_line_names_too_is_imported(planted: str) -> None:
    assert ant.main(["--watch", "run", "out.gif", f"--env={planted}"]) == 0
    assert Path("imported").exists()
    assert Path("out.gif").exists()


# --- the config


HOSTILE: dict[str, dict[str, Any]] = {
    "environment that is none": {"env": "Nonsense-v3"},
    "environment that is a number": {"env": 5},
    "environment that clears the screen": {"env": "\x1b[2J\x07"},
    "word for a number": {"num_envs": "3"},
    "fraction for a count": {"n_steps": 2.5},
    "switch for a number": {"epochs": True},
    "number too large": {"seed": 10**30},
    "number with 400 digits": {"gamma": 10**400},
    "number that is none": {"learning_rate": float("nan")},
    "group that is a number": {"classical": 3},
    "group that is empty": {"quantum": {}},
    "field that is unknown": {"nonsense": 1},
    "more qubits than memory": {"quantum": {"num_qubits": 60, "depth": 2, "scale": 5.0,
                                            "learning_rate": 1e-3}},
    "more gates than memory": {"quantum": {"num_qubits": 2, "depth": 2**31 - 1, "scale": 5.0,
                                           "learning_rate": 1e-3}},
    "other sizes": {"quantum": {"num_qubits": 3, "depth": 1, "scale": 5.0, "learning_rate": 1e-3}},
}  # fmt: skip


@pytest.mark.parametrize("values", HOSTILE.values(), ids=list(HOSTILE))
def test_config_that_is_none_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str], folder: Path, values: dict[str, Any]
) -> None:
    change(folder, **values)
    refused(capsys)


def test_config_with_wide_layers_does_not_fill_the_memory(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    wide = {"pi": [2**31 - 1] * 2, "vf": [8], "shared": [], "learning_rate": 1e-4}
    change(folder, classical=wide)
    assert "more weights" in refused(capsys, "--network=classical")


@pytest.mark.parametrize("field", ["env", "seed", "quantum", "friction_period"])
def test_config_that_lacks_a_field_is_told(
    capsys: pytest.CaptureFixture[str], folder: Path, field: str
) -> None:
    content = json.loads((folder / "config.json").read_text())
    del content[field]
    (folder / "config.json").write_text(json.dumps(content))
    assert f"{field} is missing" in refused(capsys)


@pytest.mark.parametrize("content", [b"", b"[]", b"5", b"\xff", b"[" * 9_000, b" " * 2_000_000])
def test_config_that_is_not_one_is_told(
    capsys: pytest.CaptureFixture[str], folder: Path, content: bytes
) -> None:
    (folder / "config.json").write_bytes(content)
    assert "config.json" in refused(capsys)


def test_rollouts_as_long_as_the_config_says_are_not_kept(folder: Path) -> None:
    change(folder, n_steps=2**31 - 16, num_envs=2**30)
    assert ant.main(["--watch", "run", "out.gif"]) == 0


# --- the policy


def rewrite(folder: Path, compression: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    """Replace members of the saved policy; ``__`` stands for a dot."""
    file = folder / "quantum_best_policy.zip"
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content |= {name.replace("__", "."): value for name, value in members.items()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, value in content.items():
            archive.writestr(name, value)


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Payload()),
        saved(Payload()),
        saved({"log_std": Payload()}),
        saved(Payload(), _use_new_zipfile_serialization=False),
    ],
)
def test_policy_with_a_planted_pickle_is_refused(
    capsys: pytest.CaptureFixture[str], folder: Path, content: bytes
) -> None:
    rewrite(folder, policy__pth=content)
    said = refused(capsys)
    assert "not a policy of this run" in said
    assert "can still be loaded" not in said


def test_planted_pickles_beside_the_weights_are_not_read(folder: Path) -> None:
    serialized = base64.b64encode(pickle.dumps(Payload())).decode()
    data = {"policy_class": {":type:": "function", ":serialized:": serialized}}
    rewrite(
        folder,
        data=json.dumps(data).encode(),
        pytorch_variables__pth=saved(Payload()),
        **{"policy.optimizer__pth": saved(Payload())},
    )
    assert ant.main(["--watch", "run", "out.gif"]) == 0


def test_policy_that_unpacks_to_more_than_it_is_is_refused(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    rewrite(folder, zipfile.ZIP_DEFLATED, data=bytes(10_000_000))
    assert "unpacks" in refused(capsys)


# --- the friction


def write_rows(arm: Path, *rows: Any) -> Path:
    arm.mkdir(exist_ok=True)
    (arm / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return arm


def test_friction_is_that_of_the_policys_own_row(tmp_path: Path) -> None:
    rows = [
        {"friction": 0.1, "evaluation_return": 1.0},
        {"friction": 0.2, "evaluation_return": 7.0},
        {"friction": 0.3},
        {"friction": 0.4, "evaluation_return": 7.0},  # not better: not saved
        {"friction": 0.5},
    ]
    arm = write_rows(tmp_path / "arm", *rows)
    assert watch.friction_of(arm, "best") == 0.2
    assert watch.friction_of(arm, "last") == 0.5


@pytest.mark.parametrize("policy", ["best", "last"])
@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([], "no row tells the floor's friction yet"),
        ([{"evaluation_return": 1.0}], "do not tell"),
        ([[5]], ""),
        ([{"evaluation_return": 1.0, "friction": "slippery"}], "slippery"),
        ([{"evaluation_return": 1.0, "friction": 10**400}], "friction is 1000"),
        ([{"evaluation_return": 1.0, "friction": float("nan")}], "nan"),
    ],
)
def test_run_whose_rows_do_not_tell_the_friction_is_told(
    capsys: pytest.CaptureFixture[str], folder: Path, policy: str, rows: list[Any], part: str
) -> None:
    change(folder, friction_period=96)
    write_rows(folder / "quantum", *rows)
    said = refused(capsys, f"--policy={policy}")
    assert part in said
    assert "rows.jsonl" in said
