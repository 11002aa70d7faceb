"""Run folders that come from anywhere: ``watch`` executes nothing that they hold."""

import base64
import hashlib
import io
import json
import pickle
import shutil
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
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
from plasticity.protocol.arms import Registry
from plasticity.rl import protocol as control
from plasticity.rl import trainer as policies
from plasticity.rl import video as rendering
from plasticity.rl.protocol import POLICIES
from tests.experiments.control_runs import OF_ARMS
from tests.experiments.runs import arm_folder

TRAINING = (
    "--env=Pendulum-v1", "--total-steps=32", "--num-envs=2", "--n-steps=16", "--batch-size=16",
    "--evaluation-episodes=1", *OF_ARMS, "--env-processes=0",
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

    monkeypatch.setattr(rendering, "make_gymnasium", drawing)
    yield Path("run")
    assert not Path("executed").exists()


def write(file: Path, content: Any) -> None:
    """Write JSON as a run does, however deep it is."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        file.write_text(json.dumps(content, sort_keys=True, indent=2) + "\n")
    finally:
        sys.setrecursionlimit(limit)


def change(folder: Path, **values: Any) -> None:
    """Change the config of a run, whose folder may have any name."""
    file = folder / "config.json"
    write(file, json.loads(file.read_text()) | values)


def change_arm(folder: Path, arm: str, **values: Any) -> None:
    """Change an arm, and name its folder after it."""
    path = arm_folder(folder, arm)
    write(path / "arm.json", json.loads((path / "arm.json").read_text()) | values)
    renamed(path, arm)


def renamed(path: Path, arm: str) -> None:
    """Name an arm's folder after what is in it."""
    digits = hashlib.sha256((path / "arm.json").read_bytes()).hexdigest()[:8]
    path.rename(path.with_name(f"{arm}-{digits}"))


def refused(capsys: pytest.CaptureFixture[str], *options: str, status: int = 1) -> str:
    capsys.readouterr()
    assert watch.main(["run", "out.gif", *options]) == status
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
    assert watch.main(["run", "out.gif", f"--env={planted}"]) == 0
    assert Path("imported").exists()
    assert Path("out.gif").exists()


# --- the config


HOSTILE: dict[str, dict[str, Any]] = {
    "environment that is none": {"env": "Nonsense-v3"},
    "environment that is a number": {"env": 5},
    "environment that clears the screen": {"env": "\x1b[2J\x07"},
    "environment that is longer than a line": {"env": "e" * 100_000},
    "word for a number": {"num_envs": "3"},
    "fraction for a count": {"n_steps": 2.5},
    "switch for a number": {"num_envs": True},
    "number too large": {"seed": 10**30},
    "number with 400 digits": {"gamma": 10**400},
    "number with 4000 digits": {"clip_range": -(10**4000)},
    "word for a number or none": {"friction_period": "never"},
    "field that is unknown": {"nonsense": 1},
    "field that clears the screen": {"\x1b[2J\x07": 1},
    "ten thousand fields": {f"field{k}": k for k in range(10_000)},
    "group for a number": {"batch_size": {"class": "Config"}},
    "another experiment": {"experiment": "mnist"},
    "no experiment": {"experiment": None},
    "experiment of two": {"experiment": ["ant", "mnist"]},
    "experiment that clears the screen": {"experiment": "\x1b[2J\x07"},
}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("values", HOSTILE.values(), ids=list(HOSTILE))
def test_config_that_is_none_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str], folder: Path, values: dict[str, Any]
) -> None:
    change(folder, **values)
    refused(capsys)


@pytest.mark.parametrize("field", ["env", "seed", "experiment"])
def test_config_that_lacks_a_field_is_told(
    capsys: pytest.CaptureFixture[str], folder: Path, field: str
) -> None:
    content = json.loads((folder / "config.json").read_text())
    del content[field]
    write(folder / "config.json", content)
    said = refused(capsys)
    assert ("experiment None" if field == "experiment" else f"{field} is missing") in said


NO_JSON = [b"", b"[]", b"5", b"\xff", b"[" * 9_000, b'{"env": ' * 9_000, b" " * 2_000_000,
           b'{"gamma": NaN}', b'{"seed": ' + b"9" * 9_000 + b"}"]  # fmt: skip


@pytest.mark.parametrize("content", NO_JSON, ids=range(len(NO_JSON)))
def test_config_that_is_not_one_is_told(
    capsys: pytest.CaptureFixture[str], folder: Path, content: bytes
) -> None:
    (folder / "config.json").write_bytes(content)
    assert "config.json" in refused(capsys)


def nested(depth: int) -> Any:
    value: Any = "Pendulum-v1"
    for _ in range(depth):
        value = [value]
    return value


DEPTHS = (1, 250, 690)  # the last is about what fits into the largest config that is read


@pytest.mark.parametrize("depth", DEPTHS)
def test_config_that_is_nested_deeply_is_told(
    capsys: pytest.CaptureFixture[str], folder: Path, depth: int
) -> None:
    change(folder, env=nested(depth))
    assert "config.json" in refused(capsys)


def test_config_that_is_written_otherwise_is_told(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content))
    assert "was edited" in refused(capsys)


def test_folder_without_a_config_is_told(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "config.json: no such file" in refused(capsys)


def test_config_of_before_a_field_was_added_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The field has its default, which changes nothing, as --friction-period had when it came."""
    assert "friction_period" not in json.loads((folder / "config.json").read_text())

    @dataclass(frozen=True, kw_only=True)
    class Config(control.Config):
        added: float = 0.5

    @dataclass(frozen=True)
    class QnnPolicy(control.QnnPolicy):
        added: tuple[int, ...] = ()

    later = POLICIES | {"qnn": QnnPolicy(num_qubits=9, depth=12, scale=5.0)}
    monkeypatch.setattr(rendering, "Config", Config)
    monkeypatch.setattr(rendering, "QnnPolicy", QnnPolicy)
    monkeypatch.setattr(rendering, "EXPERIMENT_ARMS", Registry(later, {}))
    seen = []
    load = rendering.load_policy

    def noting(config: Any, arm: Any, file: Path) -> Any:
        seen.append((config.added, arm.network.added))
        return load(config, arm, file)

    monkeypatch.setattr(rendering, "load_policy", noting)
    assert watch.main(["run", "out.gif"]) == 0
    assert seen == [(0.5, ())]


def test_rollouts_as_long_as_the_config_says_are_not_kept(folder: Path) -> None:
    change(folder, n_steps=2**31 - 16, num_envs=2**30)
    assert watch.main(["run", "out.gif"]) == 0


# --- the arms


def network(**values: Any) -> dict[str, Any]:
    return {"class": "QnnPolicy", "num_qubits": 2, "depth": 2, "scale": 5.0} | values


HOSTILE_ARMS: dict[str, dict[str, Any]] = {
    "network that is a number": {"network": 3},
    "network that is empty": {"network": {}},
    "network without a class": {"network": {"num_qubits": 2, "depth": 2, "scale": 5.0}},
    "network of an unknown class": {"network": {"class": "Popen", "args": "touch executed"}},
    "network of a class by its module": {"network": {"class": "subprocess.Popen"}},
    "network of a class of another kind": {"network": {"class": "Adam", "learning_rate": 1.0}},
    "network of a class that clears the screen": {"network": {"class": "\x1b[2J\x07"}},
    "class that is a list": {"network": {"class": ["QnnPolicy"]}},
    "network of another arm": {"network": {"class": "MlpPolicy", "pi": [8], "vf": [8],
                                           "shared": []}},
    "option that is unknown": {"network": network(nonsense=1)},
    "option of a wrong type": {"network": network(depth="2")},
    "fraction of a qubit": {"network": network(num_qubits=2.5)},
    "more qubits than memory": {"network": network(num_qubits=60)},
    "more gates than memory": {"network": network(depth=2**31 - 1)},
    "fewer gates than none": {"network": network(depth=-5)},
    "number with 400 digits": {"network": network(scale=10**400)},
    "other sizes": {"network": network(num_qubits=3, depth=1)},
    "optimizer that is a word": {"optimizer": "Adam"},
    "optimizer that lacks a field": {"optimizer": {"learning_rate": 1e-3}},
    "learning rate below zero": {"optimizer": {"learning_rate": -1.0, "epsilon": 1e-5}},
    "epochs that are a word": {"epochs": "ten"},
    "epochs that are a switch": {"epochs": True},
    "remedy that is unknown": {"remedies": [{"class": "ResetOptimizer"}]},
    "remedies that are a number": {"remedies": 5},
    "remedies that are nested": {"remedies": nested(200)},
    "inputs that there are none of": {"inputs": {"nonsense": 1}},
    "field that is unknown": {"nonsense": 1},
    "ten thousand fields": {f"field{k}": k for k in range(10_000)},
    "nested a little": {"network": nested(20)},
}  # fmt: skip


@pytest.mark.parametrize("values", HOSTILE_ARMS.values(), ids=list(HOSTILE_ARMS))
def test_arm_that_is_none_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str], folder: Path, values: dict[str, Any]
) -> None:
    change_arm(folder, "qnn", **values)
    refused(capsys)


@pytest.mark.parametrize("depth", DEPTHS)
def test_arm_that_is_nested_deeply_is_told(
    capsys: pytest.CaptureFixture[str], folder: Path, depth: int
) -> None:
    change_arm(folder, "qnn", epochs=nested(depth))
    assert "arm.json" in refused(capsys)


@pytest.mark.parametrize("content", NO_JSON, ids=range(len(NO_JSON)))
def test_arm_that_is_not_json_is_told(
    capsys: pytest.CaptureFixture[str], folder: Path, content: bytes
) -> None:
    path = arm_folder(folder, "qnn")
    (path / "arm.json").write_bytes(content)
    renamed(path, "qnn")
    assert "arm.json" in refused(capsys)


def test_arm_with_wide_layers_does_not_fill_the_memory(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    wide = {"class": "MlpPolicy", "pi": [2**31 - 1] * 2, "vf": [8], "shared": []}
    change_arm(folder, "mlp", network=wide)
    assert "more weights" in refused(capsys, "--arm=mlp")


def test_arm_that_was_edited_is_told(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    path = arm_folder(folder, "qnn") / "arm.json"
    write(path, json.loads(path.read_text()) | {"epochs": 3})
    assert "arm.json was edited" in refused(capsys)


def test_arm_whose_name_clears_the_screen_does_not(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    name = "\x1b[2J\x07"
    renamed(arm_folder(folder, "qnn"), name)
    assert watch.main(["run", "out.gif", f"--arm={name}"]) == 0
    assert not set("".join(capsys.readouterr())) & {"\x1b", "\x07"}
    Path("out.gif").unlink()
    other = arm_folder(folder, "mlp")
    renamed(other, name)
    refused(capsys, f"--arm={name}", status=2)  # which of the two
    shutil.rmtree(next(folder.glob(f"{name}-{other.name[-8:]}")))
    change_arm(folder, name, epochs="ten")
    refused(capsys, f"--arm={name}")


# --- the policy


def rewrite(folder: Path, compression: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    """Replace members of the saved policy; ``__`` stands for a dot."""
    file = arm_folder(folder, "qnn") / "quantum_best_policy.zip"
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
    assert watch.main(["run", "out.gif"]) == 0


def test_policy_that_unpacks_to_more_than_it_is_is_refused(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    rewrite(folder, zipfile.ZIP_DEFLATED, data=bytes(10_000_000))
    assert "unpacks" in refused(capsys)


def test_policy_larger_than_memory_is_not_read(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    with open(arm_folder(folder, "qnn") / "quantum_best_policy.zip", "ab") as file:
        file.truncate(2**40)  # which takes no room
    said = refused(capsys)
    assert f"is larger than {2**31} bytes (it has {2**40})" in said
    assert "Errno" not in said


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
    assert rendering.friction_of(arm, "best") == 0.2
    assert rendering.friction_of(arm, "last") == 0.5


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
    write_rows(arm_folder(folder, "qnn"), *rows)
    said = refused(capsys, f"--policy={policy}")
    assert part in said
    assert "rows.jsonl" in said
