"""Configs and arms as JSON, both ways: what a folder is named after tells all that is in it."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.ant import EXPERIMENT as ANT
from experiments.cifar import EXPERIMENT as CIFAR
from experiments.mnist import EXPERIMENT as MNIST
from experiments.qdata import EXPERIMENT as QDATA
from plasticity.errors import UsageError
from plasticity.protocol.arms import ArmConfig, Registry
from plasticity.protocol.serialization import from_json, named_from_json, named_json, to_json
from plasticity.remedies.resets import ResetOptimizer

EXPERIMENTS = {experiment.name: experiment for experiment in (MNIST, CIFAR, QDATA, ANT)}
PRESETS = {
    f"{experiment.name}-{name}": (experiment, preset)
    for experiment in EXPERIMENTS.values()
    for name, preset in experiment.presets.items()
}
ARMS = {
    f"{preset_name}-{name}": (experiment.registry, arm)
    for preset_name, (experiment, preset) in PRESETS.items()
    for name, arm in preset.arms.items()
}


def written(content: Any) -> Any:
    """Return JSON as it comes back from a file."""
    return json.loads(json.dumps(content, allow_nan=False))


@dataclass(frozen=True)
class Inner:
    rate: float
    steps: int = 2


@dataclass(frozen=True)
class Outer:
    """A field of each kind that there is."""

    inner: Inner
    pair: tuple[float, float]
    hidden: tuple[int, ...]
    kind: Literal["a", "b"]
    name: str
    on: bool
    period: int | None
    late: bool = False


OUTER = Outer(Inner(0.5), (0.0, 1.0), (3, 4), "b", "x", True, None)
OUTER_JSON = {
    "inner": {"rate": 0.5}, "pair": [0.0, 1.0], "hidden": [3, 4], "kind": "b", "name": "x",
    "on": True, "period": None,
}  # fmt: skip


# --- there and back


@pytest.mark.parametrize("which", ARMS)
def test_an_arm_of_a_preset_comes_back_from_its_json(which: str) -> None:
    registry, arm = ARMS[which]
    assert registry.from_json(written(arm.json())) == arm
    assert registry.from_json(arm.json()) == arm


def other_than(value: Any) -> Any:
    """Return another value of an option; words are of a set that only its class knows."""
    return value if isinstance(value, str | tuple) else 7 if isinstance(value, int) else 0.875


@pytest.mark.parametrize("which", ARMS)
def test_an_arm_with_remedies_comes_back_with_their_options_and_names(which: str) -> None:
    registry, arm = ARMS[which]
    remedies = {
        name: dataclasses.replace(r, **{f: other_than(v) for f, v in vars(r).items()})
        for name, r in registry.remedies.items()
    }
    again = registry.from_json(written(dataclasses.replace(arm, remedies=remedies).json()))
    assert dict(again.remedies) == remedies
    assert [*again.remedies] == [*remedies]


@pytest.mark.parametrize("which", PRESETS)
def test_the_config_of_a_preset_comes_back_from_its_json(which: str) -> None:
    _, preset = PRESETS[which]
    assert from_json(type(preset.config), written(to_json(preset.config))) == preset.config


def test_every_kind_of_field_comes_back() -> None:
    assert written(to_json(OUTER)) == OUTER_JSON
    assert from_json(Outer, OUTER_JSON) == OUTER
    changed = dataclasses.replace(OUTER, inner=Inner(0.5, 3), period=5, late=True, hidden=())
    assert from_json(Outer, written(to_json(changed))) == changed


def test_a_whole_number_is_read_as_a_float_where_one_is_wanted() -> None:
    rate = from_json(Inner, {"rate": 1}).rate
    assert (rate, type(rate)) == (1.0, float)


def test_an_integer_that_is_no_float_is_refused() -> None:
    with pytest.raises((TypeError, ValueError)):
        from_json(Inner, {"rate": 10**400})


def test_a_class_is_told_by_its_name() -> None:
    kinds = {"Inner": Inner, "Outer": Outer}
    assert named_json(Inner(0.5)) == {"class": "Inner", "rate": 0.5}
    for value in (Inner(0.5, 3), OUTER):
        assert named_from_json(kinds, written(named_json(value))) == value


# --- defaults


def test_fields_that_have_their_default_are_left_out_and_come_back() -> None:
    content = QDATA.presets["released"].arms["mlp"].json()
    assert "bounded_logits" not in content["network"]
    assert "remedies" not in content
    arm = QDATA.registry.from_json(content)
    assert (arm.network.bounded_logits, dict(arm.remedies)) == (False, {})
    assert "friction_period" not in to_json(ANT.presets["released"].config)
    assert from_json(Outer, OUTER_JSON).late is False
    assert from_json(Outer, OUTER_JSON | {"late": False}) == OUTER


def test_a_field_that_is_added_with_a_default_changes_no_identity_and_reads_old_ones() -> None:
    @dataclass(frozen=True)
    class Later(Inner):
        added: bool = False
        more: tuple[int, ...] = ()

    assert to_json(Later(0.5, 3)) == to_json(Inner(0.5, 3))
    assert from_json(Later, to_json(Inner(0.5, 3))) == Later(0.5, 3, False, ())
    assert to_json(Later(0.5, 3, True)) == {"rate": 0.5, "steps": 3, "added": True}


def test_an_arm_of_inputs_that_nobody_changes_says_nothing_of_them() -> None:
    content = CIFAR.presets["released"].arms["mlp"].json()
    assert set(content) == {"network", "optimizer", "epochs"}
    assert set(MNIST.presets["released"].arms["qnn"].json()) == {
        "network", "optimizer", "epochs", "inputs", "remedies"
    }  # fmt: skip


# --- what is no config


def deep(levels: int) -> Any:
    content: Any = 1
    for _ in range(levels):
        content = [content]
    return content


WRONG = {
    "a field is missing": {k: v for k, v in OUTER_JSON.items() if k != "pair"},
    "an inner field is missing": OUTER_JSON | {"inner": {}},
    "a field is unknown": OUTER_JSON | {"depth": 3},
    "an inner field is unknown": OUTER_JSON | {"inner": {"rate": 0.5, "step": 2}},
    "no inner fields": OUTER_JSON | {"inner": 0.5},
    "one number of two": OUTER_JSON | {"pair": [0.0]},
    "three numbers of two": OUTER_JSON | {"pair": [0.0, 1.0, 2.0]},
    "a number, not two": OUTER_JSON | {"pair": 0.0},
    "a string, not two numbers": OUTER_JSON | {"pair": "ab"},
    "a string among the numbers": OUTER_JSON | {"hidden": [3, "4"]},
    "a list among the numbers": OUTER_JSON | {"hidden": [3, [4]]},
    "a fraction, not a whole number": OUTER_JSON | {"hidden": [3, 4.0]},
    "true, not a number": OUTER_JSON | {"hidden": [True]},
    "true, not a float": OUTER_JSON | {"inner": {"rate": True}},
    "1, not true": OUTER_JSON | {"on": 1},
    "null, not true": OUTER_JSON | {"on": None},
    "another word than those there are": OUTER_JSON | {"kind": "c"},
    "a list, not a word": OUTER_JSON | {"kind": ["a"]},
    "a number, not a name": OUTER_JSON | {"name": 3},
    "a word, not a number or null": OUTER_JSON | {"period": "x"},
    "not a number": OUTER_JSON | {"inner": {"rate": float("nan")}},
    "infinite": OUTER_JSON | {"pair": [0.0, float("inf")]},
    "more than a float holds": OUTER_JSON | {"pair": [0.0, -(10**400)]},
    "lists in lists": OUTER_JSON | {"hidden": deep(100_000)},
    "lists in lists, not a word": OUTER_JSON | {"kind": deep(100_000)},
    "lists in lists, not fields": OUTER_JSON | {"inner": deep(100_000)},
    "a long word": OUTER_JSON | {"kind": "a" * 10**6},
    "a long unknown field": OUTER_JSON | {"a" * 10**6: 1},
}
NOT_FIELDS = [None, True, 3, 0.5, "inner", [], ["rate"], [["rate", 0.5]], deep(100_000)]


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_config_is_refused_in_a_short_line(what: str) -> None:
    with pytest.raises((TypeError, ValueError)) as refused:
        from_json(Outer, WRONG[what])
    assert 0 < len(str(refused.value)) <= 100
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", NOT_FIELDS, ids=[f"{k}" for k in range(len(NOT_FIELDS))])
def test_what_is_no_mapping_is_refused(content: Any) -> None:
    for read in (
        lambda: from_json(Inner, content),
        lambda: named_from_json({"Inner": Inner}, content),
        lambda: MNIST.registry.from_json(content),
    ):
        with pytest.raises((TypeError, ValueError)) as refused:
            read()
        assert 0 < len(str(refused.value)) <= 100


ARM = written(MNIST.presets["released"].arms["qnn"].json())
RESET = {"class": "ResetOptimizer"}
NO_ARM = {
    "nothing": {},
    "no network": {k: v for k, v in ARM.items() if k != "network"},
    "no optimizer": {k: v for k, v in ARM.items() if k != "optimizer"},
    "no epochs": {k: v for k, v in ARM.items() if k != "epochs"},
    "no inputs": {k: v for k, v in ARM.items() if k != "inputs"},  # mnist's have no defaults
    "something else": ARM | {"depth": 3},
    "much else": ARM | {f"field{k}": k for k in range(1000)},
    "epochs of a fraction": ARM | {"epochs": 1.5},
    "epochs that are true": ARM | {"epochs": True},
    "deep epochs": ARM | {"epochs": deep(100_000)},
    "a class that is not registered": ARM | {"network": ARM["network"] | {"class": "Cnn"}},
    "a class that is a remedy's": ARM | {"network": RESET},
    "a class that is no name": ARM | {"network": ARM["network"] | {"class": 3}},
    "a class that is a list": ARM | {"network": ARM["network"] | {"class": ["Qnn"]}},
    "a class that is deep": ARM | {"network": ARM["network"] | {"class": deep(100_000)}},
    "no class": ARM | {"network": {k: v for k, v in ARM["network"].items() if k != "class"}},
    "a network that is a name": ARM | {"network": "Qnn"},
    "a depth that the network refuses": ARM | {"network": ARM["network"] | {"depth": 0}},
    "angles that the network refuses": ARM
    | {"network": ARM["network"] | {"initial_angles": [1.0, 0.0]}},
    "a rate that is not a number": ARM
    | {"optimizer": {"learning_rate": float("nan"), "epsilon": 1e-8}},
    "remedies by name": ARM | {"remedies": {"reset-optimizer": RESET}},
    "remedies that are a number": ARM | {"remedies": 3},
    "remedies that are null": ARM | {"remedies": None},
    "a remedy that is a name": ARM | {"remedies": ["reset-optimizer"]},
    "a remedy that is not registered": ARM | {"remedies": [{"class": "Shrink"}]},
    "a remedy with an unknown option": ARM | {"remedies": [RESET | {"often": 3}]},
    "a remedy twice": ARM | {"remedies": [RESET, RESET | {"every": 2}]},
}


@pytest.mark.parametrize("what", NO_ARM)
def test_what_is_no_arm_is_refused_in_a_short_line(what: str) -> None:
    assert isinstance(MNIST.registry.from_json(ARM), ArmConfig)
    with pytest.raises((TypeError, ValueError)) as refused:
        MNIST.registry.from_json(NO_ARM[what])
    assert 0 < len(str(refused.value)) <= 100
    assert "\n" not in str(refused.value)


def test_an_arm_of_a_class_that_is_registered_no_more_names_the_class() -> None:
    registry = Registry({"qnn": MNIST.registry.networks["qnn"]}, {}, MNIST.registry.inputs)
    with pytest.raises(TypeError, match="'ResetOptimizer' is unknown"):
        registry.from_json(ARM)
    registry = Registry({}, {"reset-optimizer": ResetOptimizer()}, MNIST.registry.inputs)
    with pytest.raises(TypeError, match="'Qnn' is unknown"):
        registry.from_json(ARM)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**320) | st.floats()
    | st.text(max_size=5) | st.sampled_from(["Mlp", "Qnn", "ring", "cpu", "cuda", "all"])
)  # fmt: skip
JSON = st.recursive(
    SCALARS,
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3)
    ),
    max_leaves=8,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of everything inside some JSON."""
    inside = content.items() if isinstance(content, dict) else ()
    inside = enumerate(content) if isinstance(content, list) else inside
    return [path, *(place for key, value in inside for place in places(value, (*path, key)))]


def spoiled(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return JSON with another value at a place."""
    if not path:
        return value
    copy = content.copy()
    copy[path[0]] = spoiled(copy[path[0]], path[1:], value)
    return copy


@settings(deadline=None, derandomize=True)
@given(st.sampled_from([*ARMS]), st.data())
def test_whatever_stands_in_arm_json_is_read_or_refused(which: str, data: st.DataObject) -> None:
    registry, arm = ARMS[which]
    content = written(arm.json())
    place = data.draw(st.sampled_from(places(content)))
    changed = spoiled(content, place, data.draw(JSON))
    try:
        read = registry.from_json(changed)
    except (TypeError, ValueError):
        return
    assert registry.from_json(written(read.json())) == read


@settings(deadline=None, derandomize=True)
@given(st.sampled_from([*PRESETS]), st.data())
def test_whatever_stands_in_config_json_is_read_or_refused(which: str, data: st.DataObject) -> None:
    config = PRESETS[which][1].config
    content = written(to_json(config))
    place = data.draw(st.sampled_from(places(content)))
    changed = spoiled(content, place, data.draw(JSON))
    try:
        read = from_json(type(config), changed)
    except (TypeError, ValueError, UsageError):  # a config says which option is wrong
        return
    assert from_json(type(config), written(to_json(read))) == read
