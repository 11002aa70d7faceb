"""The presets are what they were: a change of any number would leave recorded runs behind.

Nor does what is added to the program change the names of the folders that are there.
"""

import dataclasses
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.cli import parse as cli
from plasticity.learning.remedy import Remedy
from plasticity.networks.network import Network
from plasticity.protocol.arms import ArmConfig
from plasticity.protocol.experiment import Preset
from plasticity.results.names import config_hash
from plasticity.results.record import open_run
from plasticity.runs.experiment import Experiment
from plasticity.runs.places import recorded_identity

# Stands for the data: its content has this digest, or it is the environment of this name.
DATA = SimpleNamespace(digest="0" * 64, name="Ant-v4")
# The first 8 digits are those of the folder of a run of such data, and of its arms' in it.
HASHES: dict[tuple[str, str], tuple[str, dict[str, str]]] = {
    ("mnist", "released"): ("53a0f916", {"mlp": "e5ffe965", "qnn": "a9a3cf5c"}),
    ("mnist", "matched"): ("53a0f916", {"mlp": "a5d1eb36", "qnn": "b5b4edb9"}),
    ("mnist", "why"): (
        "cb6e4abd",
        {
            "mlp": "747d8d27",
            "qnn": "25920c90",
            "linear": "a08750f4",
            "quadratic": "bdbf294f",
            "stiefel": "8923d6cb",
            "stiefel-free": "310e914e",
            "free-brickwork": "08ae3b78",
            "orthogonal-brickwork": "481bef39",
            "qnn-wrapped": "d0eb370d",
            "qnn-trivialised": "473c513d",
            "qnn-scaled": "3fa4115c",
            "qnn-relu": "f13f2536",
            "qnn-reupload": "222f7486",
            "mlp-bounded": "06184a4f",
            "mlp-wide": "7963cb41",
            "mlp-small": "fa487442",
            "mlp-torus": "fa42c738",
            "mlp-orthogonal": "8f6e5a85",
            "mlp-orthogonal-max-min": "e7aace33",
            "mlp-sphere": "7f131c11",
            "mlp-sphere-ln": "2f5d5cc8",
            "mlp-sin": "1bbddf91",
        },
    ),
    ("mnist", "labels"): (
        "3782fc2d",
        {
            "mlp": "f1c09b4f",
            "mlp-sin": "1bbddf91",
            "mlp-orthogonal": "5cb5ee97",
            "qnn": "25920c90",
            "stiefel": "8923d6cb",
            "stiefel-free": "310e914e",
        },
    ),
    ("mnist", "quick"): ("b3de78b4", {"mlp": "e572c9c9", "qnn": "c2691720"}),
    ("cifar", "released"): ("1f2ee76b", {"mlp": "4aa50c5d", "qnn": "82c6f919"}),
    ("cifar", "deep"): ("1f2ee76b", {"mlp": "4aa50c5d", "qnn": "b8c25783"}),
    ("cifar", "matched"): ("1f2ee76b", {"mlp": "790e15a3", "qnn": "82c6f919"}),
    ("cifar", "quick"): ("61905cfa", {"mlp": "7a86aee5", "qnn": "87fae53b"}),
    ("qdata", "released"): ("158d2073", {"mlp": "7e9b5e0f", "qnn": "3b24a980"}),
    ("qdata", "matched"): ("158d2073", {"mlp": "53711daf", "qnn": "3b24a980"}),
    ("qdata", "resolved"): ("472fd2be", {"mlp": "7e9b5e0f", "qnn": "3b24a980"}),
    ("qdata", "why"): (
        "472fd2be",
        {
            "mlp": "f94ab04a",
            "qnn": "f6f96853",
            "linear": "2b851ff4",
            "quadratic": "1963d731",
            "stiefel": "96c674b6",
            "stiefel-free": "bf69b434",
            "free-brickwork": "f8e70210",
            "orthogonal-brickwork": "c384b877",
            "qnn-wrapped": "85af2ab0",
            "qnn-trivialised": "7bb93541",
            "qnn-scaled": "666c039e",
            "qnn-relu": "5fab4a30",
            "qnn-reupload": "b8e5e93a",
            "mlp-bounded": "2917d776",
            "mlp-wide": "cb3b7868",
            "mlp-small": "68d890cf",
            "mlp-torus": "3ee6e968",
            "mlp-orthogonal": "3a1e1b58",
            "mlp-orthogonal-max-min": "93add153",
            "mlp-sphere": "301c5add",
            "mlp-sphere-ln": "9f41f724",
            "mlp-sin": "49b9e74a",
        },
    ),
    ("qdata", "quick"): ("50ad1696", {"mlp": "0dc3bfd8", "qnn": "cd420f72"}),
    ("ant", "released"): ("4fdbee6e", {"mlp": "6a6d3cf9", "qnn": "875b832a"}),
    ("ant", "matched"): ("4fdbee6e", {"mlp": "ae102693", "qnn": "875b832a"}),
    ("ant", "quick"): ("814eccec", {"mlp": "aa80eaa4", "qnn": "c83dc055"}),
}
# Run folders of states of this digest had these digits while they were named after it.
NAMED_BEFORE = {
    ("qdata", "released"): "d32ab6cb",
    ("qdata", "matched"): "d32ab6cb",
    ("qdata", "resolved"): "4b24f151",
    ("qdata", "why"): "4b24f151",
    ("qdata", "quick"): "47eb311a",
}
EXPERIMENTS = {
    name: importlib.import_module(f"experiments.{name}").EXPERIMENT
    for name in dict.fromkeys(name for name, _ in HASHES)
}


def hash_of(experiment: Experiment[Any], config: Any) -> str:
    return config_hash(experiment.identity(config, DATA))[:8]


def hashes_of(experiment: Experiment[Any], config: Any, arms: Any) -> tuple[str, dict[str, str]]:
    """Return the hash of what all arms share, and that of each arm."""
    of_arms = {name: config_hash(arm.json())[:8] for name, arm in arms.items()}
    return hash_of(experiment, config), of_arms


def said(name: str, *words: str) -> tuple[str, dict[str, str]]:
    """Return the hashes of what a command line asks for."""
    choice, _ = cli.parse(EXPERIMENTS[name], words)
    config, arms = choice.config, choice.arms
    return hashes_of(EXPERIMENTS[name], config, arms)


def test_every_preset_is_pinned() -> None:
    there = [(name, preset) for name in EXPERIMENTS for preset in EXPERIMENTS[name].presets]
    assert there == [*HASHES]


@pytest.mark.parametrize(("name", "preset"), HASHES)
def test_hashes_of_presets_are_as_recorded(name: str, preset: str) -> None:
    pinned = HASHES[name, preset]
    found = EXPERIMENTS[name].presets[preset]
    assert hashes_of(EXPERIMENTS[name], found.config, found.arms) == pinned
    assert said(name, "--preset", preset) == pinned


@pytest.mark.parametrize(("name", "preset"), NAMED_BEFORE)
@pytest.mark.parametrize("digest", ["0" * 64, "1" * 64])
def test_runs_that_were_named_otherwise_before_are_found_whatever_the_bits_of_the_data(
    name: str, preset: str, digest: str, tmp_path: Path
) -> None:
    experiment, found = EXPERIMENTS[name], EXPERIMENTS[name].presets[preset]
    identity = experiment.identity(found.config, DATA)
    before = identity | {"dataset": f"sha256:{DATA.digest}"}
    folder = open_run(tmp_path, f"{name}-{preset}-seed0", before).path
    assert folder.name == f"{name}-{preset}-seed0-{NAMED_BEFORE[name, preset]}"
    data = SimpleNamespace(digest=digest)
    for config, there in ((found.config, before), (dataclasses.replace(found.config, seed=1), None),
                          (dataclasses.replace(found.config, batch_size=63), None)):  # fmt: skip
        asked = recorded_identity(experiment, preset, config, data, found.arms, tmp_path)
        assert asked == (there or experiment.identity(config, DATA))


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("name", "preset"), HASHES)
def test_length_of_a_run_is_no_part_of_its_hash_and_all_else_is(name: str, preset: str) -> None:
    experiment = EXPERIMENTS[name]
    config = experiment.presets[preset].config
    pinned, of_arms = HASHES[name, preset]
    length = experiment.progress.length
    assert length == ("total_steps" if name == "ant" else "num_tasks")
    option = "--" + length.replace("_", "-")
    assert said(name, "--preset", preset, option, "7") == (pinned, of_arms)
    identity = experiment.identity(config, DATA)
    assert length not in identity
    # What has its class's default is left out: the hash is that of the name of the experiment, and
    # of all fields that have none, or another value than that.
    named = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != f.default}
    assert identity.keys() - {"dataset"} == (named | {"experiment"}) - {length, "dataset"}
    assert identity["experiment"] == name
    others = {config_hash({**identity, key: "another"})[:8] for key in identity}
    assert len(others) == len(identity)
    assert pinned not in others


@dataclass(frozen=True)
class Another(Network):
    """Be another network."""

    width: int = 3
    """Of it."""


@dataclass
class Something(Remedy):
    """Do something."""

    rate: float = 0.1
    """Of it."""


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("name", "preset"), HASHES)
def test_another_entry_of_a_registry_and_another_arm_change_no_hash(
    name: str, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned, of_arms = HASHES[name, preset]
    registry = EXPERIMENTS[name].registry
    monkeypatch.setitem(registry.networks, "another", Another())
    monkeypatch.setitem(registry.remedies, "something", Something())
    assert said(name, "--preset", preset) == (pinned, of_arms)
    run, arms = said(name, "--preset", preset, "--arms", "another", "qnn+something", "qnn")
    assert run == pinned
    assert arms["qnn"] == of_arms["qnn"]
    assert len({*arms.values(), *of_arms.values()}) == len(of_arms) + 2


def with_another_field(value: Any) -> Any:
    """Return a dataclass as it would be if its class had one field more, with a default."""
    kind = dataclasses.make_dataclass(
        type(value).__name__,
        [("another", int, dataclasses.field(default=3, kw_only=True))],
        bases=(type(value),),
        frozen=type(value).__dataclass_params__.frozen,
    )
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return kind(**{n: with_another_field(v) if dataclasses.is_dataclass(v) else v
                   for n, v in fields.items()})  # fmt: skip


def arm_with_other_fields(arm: ArmConfig) -> ArmConfig:
    remedies = {name: with_another_field(remedy) for name, remedy in arm.remedies.items()}
    parts = {part: with_another_field(getattr(arm, part)) for part in ("network", "optimizer",
                                                                        "inputs")}  # fmt: skip
    return dataclasses.replace(arm, remedies=remedies, **parts)


@pytest.mark.parametrize(("name", "preset"), HASHES)
def test_new_field_with_its_default_changes_no_hash(name: str, preset: str) -> None:
    experiment = EXPERIMENTS[name]
    old: Preset[Any] = experiment.presets[preset]
    config = with_another_field(old.config)
    arms = {arm: arm_with_other_fields(of_arm) for arm, of_arm in old.arms.items()}
    assert hashes_of(experiment, config, arms) == HASHES[name, preset]
    # And with another value it does.
    run, of_arms = HASHES[name, preset]
    assert hash_of(experiment, dataclasses.replace(config, another=4)) != run
    for arm, of_arm in arms.items():
        for part in ("network", "optimizer", "inputs"):
            other = dataclasses.replace(getattr(of_arm, part), another=4)
            changed = dataclasses.replace(of_arm, **{part: other})
            assert config_hash(changed.json())[:8] != of_arms[arm]


@pytest.mark.parametrize(("name", "preset"), HASHES)
def test_what_is_recorded_of_an_arm_is_read_back_as_the_arm(name: str, preset: str) -> None:
    experiment = EXPERIMENTS[name]
    for arm in experiment.presets[preset].arms.values():
        recorded = json.loads(json.dumps(arm.json()))
        assert experiment.registry.from_json(recorded) == arm
