"""What is trained, chosen by values: a preset, arms by their names, other numbers for both.

The command line chooses the same from words (``experiments.cli``). Options have the same names in
both: of the shared config ``batch_size``; of an arm, without the arm's name, ``hidden``,
``optimizer``, ``optimizer.learning_rate``, ``epochs``, and those of a remedy after its name,
``l2.strength``. Underscores and dashes are the same.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plasticity.errors import PlasticityError, UsageError
from plasticity.protocol.arms import ArmConfig, with_optimizer
from plasticity.protocol.experiment import Definition, Preset
from plasticity.protocol.optimizers import OPTIMIZERS, Optimizer
from plasticity.protocol.options import check_numbers
from plasticity.protocol.serialization import field_value


@dataclass(frozen=True)
class Choice:
    """What is trained.

    Attributes:
        preset: The name of the protocol.
        config: What the arms share.
        arms: By name, in the order in which they are trained.
    """

    preset: str
    config: Any
    arms: Mapping[str, ArmConfig]


def choose(
    experiment: Definition[Any],
    preset: str,
    arms: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Choice:
    """Choose what is trained.

    Args:
        experiment: Whose presets and arms.
        preset: Its protocol.
        arms: Names of arms; none: those of the preset.
        settings: Values for fields of the config, by name.
        options: Values for options of arms, by the arm's name and the option's.

    Raises:
        UsageError: There is no such preset, arm, field or option, or a value is none for it.
    """
    chosen = find_preset(experiment, preset)
    if isinstance(arms, str):
        raise UsageError(f"arms={arms!r}: a list of names, such as [{arms!r}]")
    names = [*arms] or [*chosen.arms]
    if twice := [name for k, name in enumerate(names) if name in names[:k]]:
        raise UsageError(f"arms: {twice[0]} is there twice")
    found = {name: find_arm(experiment, chosen, name) for name in names}
    for name, values in (options or {}).items():
        if name not in found:
            raise UsageError(f"options: the arm {name} is not among {', '.join(names)}")
        found[name] = with_options(found[name], values, name, experiment.registry.optimizers)
    return Choice(preset, with_settings(chosen.config, settings or {}), found)


def find_preset(experiment: Definition[Any], name: str) -> Preset[Any]:
    """Return a preset by its name.

    Raises:
        UsageError: There is none.
    """
    if name not in experiment.presets:
        there = ", ".join(experiment.presets)
        raise UsageError(f"preset {name}: {experiment.name} has {there}")
    return experiment.presets[name]


def find_arm(experiment: Definition[Any], preset: Preset[Any], name: str) -> ArmConfig:
    """Return an arm by its name.

    Raises:
        UsageError: There can be none of this name.
    """
    try:
        return experiment.registry.resolve(name, preset.arms)
    except KeyError as error:
        raise UsageError(f"arm {name}: {error.args[0]}") from error


def with_settings(config: Any, settings: Mapping[str, Any]) -> Any:
    """Return a config with other values for some of its fields.

    Raises:
        UsageError: There is no such field, or a value is none for it.
    """
    fields = {field.name for field in dataclasses.fields(config)}
    values = {}
    for name, value in settings.items():
        if name not in fields:
            raise UsageError(_no_such("option", name, fields))
        values[name] = _checked(type(config), name, value, name)
    return _replaced(config, values, "")


def with_options(
    arm: ArmConfig,
    options: Mapping[str, Any],
    name: str,
    optimizers: Mapping[str, Optimizer] = OPTIMIZERS,
) -> ArmConfig:
    """Return an arm with other values for some of its options.

    Args:
        arm: As it is.
        options: Values by the options' names, as on the command line but without the arm's name.
        name: Of the arm, for errors.
        optimizers: By name, for the option ``optimizer``.

    Raises:
        UsageError: The arm has no such option, or a value is none for it.
    """
    if "optimizer" in options:
        try:
            arm = with_optimizer(arm, str(options["optimizer"]), optimizers)
        except KeyError as error:
            raise UsageError(f"{name}: optimizer: {error.args[0]}") from error
        options = {option: value for option, value in options.items() if option != "optimizer"}
    places = _places(arm)
    changed: dict[str, dict[str, Any]] = {}
    for option, value in options.items():
        key = option.replace("-", "_")
        if key not in places:
            shown = {place.replace("_", "-") for place in places}
            raise UsageError(_no_such(f"option of {name}", option, shown))
        part, field = places[key]
        owner = _part(arm, part)
        changed.setdefault(part, {})[field] = (
            _checked(type(owner), field, value, f"{name}: {option}")
        )  # fmt: skip
    for part, values in changed.items():
        if part == "":
            arm = dataclasses.replace(arm, **values)
        elif part.startswith("+"):
            remedy = _replaced(arm.remedies[part[1:]], values, f"{name}: {part[1:]}.")
            arm = dataclasses.replace(arm, remedies={**arm.remedies, part[1:]: remedy})
        else:
            replaced = _replaced(getattr(arm, part), values, f"{name}: ")
            arm = dataclasses.replace(arm, **{part: replaced})
    check_arm(arm, name)
    return arm


def check_arm(arm: ArmConfig, name: str) -> None:
    """Refuse numbers of an arm that cannot be.

    Raises:
        UsageError: With the option as one types it.
    """
    check_numbers(arm.network, f"--{name}.")
    check_numbers(arm.optimizer, f"--{name}.optimizer.")
    if arm.epochs < 1:
        raise UsageError(f"--{name}.epochs {arm.epochs}: at least 1")


def _places(arm: ArmConfig) -> dict[str, tuple[str, str]]:
    """Return the options of an arm, and which field of which of its parts each is."""
    places = {"epochs": ("", "epochs")}
    for part in ("network", "inputs"):
        places |= {f.name: (part, f.name) for f in dataclasses.fields(getattr(arm, part))}
    places |= {
        f"optimizer.{f.name}": ("optimizer", f.name) for f in dataclasses.fields(arm.optimizer)
    }
    for remedy, value in arm.remedies.items():
        prefix = remedy.replace("-", "_")
        places |= {f"{prefix}.{f.name}": (f"+{remedy}", f.name) for f in dataclasses.fields(value)}  # type: ignore[arg-type]
    return places


def _part(arm: ArmConfig, part: str) -> Any:
    if part.startswith("+"):
        return arm.remedies[part[1:]]
    return getattr(arm, part) if part else arm


def _checked(kind: type[Any], field: str, value: Any, name: str) -> Any:
    """Return a value as the type of a field wants it."""
    expected = typing.get_type_hints(kind)[field]
    if hasattr(value, "__fspath__"):
        value = str(value)
    elif hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # a number of numpy or torch
        value = value.item()
    is_many = typing.get_origin(expected) is tuple
    if is_many and not isinstance(value, list | tuple):
        value = (value,)  # as on the command line
    try:
        return field_value(expected, value, field)
    except TypeError as error:
        text = str(getattr(expected, "__name__", expected)).replace("typing.", "")
        raise UsageError(f"{name}={value!r:.60}: must be {text}") from error


def _replaced(value: Any, changes: Mapping[str, Any], prefix: str) -> Any:
    try:
        return dataclasses.replace(value, **changes)
    except PlasticityError:
        raise
    except ValueError as error:
        raise UsageError(f"{prefix}{error}") from error


def _no_such(kind: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    way_out = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
    return f"no {kind} is called {name!r}; {way_out}"
