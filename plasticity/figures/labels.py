"""What arms are called in a figure, in which order they stand, and how their curves look."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plasticity.protocol.arms import Registry
from plasticity.protocol.experiment import LABELS, Definition
from plasticity.results.names import arm_name

NUM_STYLES = 54
"""Of ``plasticity.figures.style.style``, which is imported with matplotlib."""


def labels_of(
    experiment: Definition[Any], arms: Mapping[Path, Mapping[str, Any]]
) -> dict[Path, str]:
    """Return what arms are called in a figure, by their folders, in the order of their curves.

    Arms of one name are told apart by the options in which they differ, as one types them.
    """
    labels = {}
    options = {path: _options(experiment, arms[path]) for path in arms}
    for path in in_order(experiment, arms):
        name, own = arm_name(path), options[path]
        namesakes = [options[other] for other in arms if arm_name(other) == name]
        differing = sorted({k for other in namesakes for k in other.keys() | own.keys()
                            if other.get(k) != own.get(k)})  # fmt: skip
        text = " ".join(typed(name, key, own[key]) for key in differing if key in own)
        # What is not in its JSON has the default of its class.
        text = text or "default " + " ".join(f"--{name}.{key}" for key in differing)
        label = LABELS.get(name, name)
        labels[path] = label if len(namesakes) == 1 else f"{label}, {text}"
    return labels


def looks_of(
    experiment: Definition[Any], arms: Mapping[Path, Mapping[str, Any]]
) -> dict[Path, int]:
    """Return the numbers of the arms' colors and lines, in the order of their curves.

    They are those of the arms' names (``looks_of_names``). Of namesakes, the first one has it.
    """
    paths = in_order(experiment, arms)
    numbers = looks_of_names(experiment.registry, [arm_name(path) for path in paths])
    return dict(zip(paths, numbers, strict=True))


def looks_of_names(registry: Registry, names: Sequence[str]) -> list[int]:
    """Return the numbers of the arms' colors and lines, so that an arm has one in every figure.

    A registered network has its place in the registry, and the first network with a single remedy
    the places after these. So neither the preset, nor the study, nor the other arms change them.
    Other arms, and second namesakes, take the next free ones beyond the first two.
    """
    networks = [*registry.networks]
    known = [*networks, *(f"{networks[0]}+{remedy}" for remedy in registry.remedies)]
    numbers: list[int | None] = []
    for name in names:
        number = known.index(name) % NUM_STYLES if name in known else None
        numbers.append(None if number in numbers else number)
    free = (k for k in itertools.count(2) if k not in numbers)
    return [next(free) if number is None else number for number in numbers]


def in_order(experiment: Definition[Any], arms: Mapping[Path, Mapping[str, Any]]) -> list[Path]:
    """Return the arms' folders: those of the preset's names first, of namesakes its own first."""
    first = preset_names(experiment)
    own = [
        json.loads(json.dumps(arm.json()))
        for preset in experiment.presets.values()
        for arm in preset.arms.values()
    ]

    def place(path: Path) -> tuple[int, bool, str]:
        name = arm_name(path)
        return first.index(name) if name in first else len(first), arms[path] not in own, path.name

    return sorted(arms, key=place)


def preset_names(experiment: Definition[Any]) -> list[str]:
    """Return the names of the default preset's arms."""
    return [*next(iter(experiment.presets.values())).arms]


def _options(experiment: Definition[Any], arm: Mapping[str, Any]) -> dict[str, Any]:
    """Return an arm's values by the options that set them, less the arm's name."""
    known = {type(value).__name__: name for name, value in experiment.registry.remedies.items()}
    flat: dict[str, Any] = {}

    def add(prefix: str, content: Mapping[str, Any]) -> None:
        for key, value in content.items():
            inner = prefix if key in ("network", "inputs") else f"{prefix}{key}."
            if isinstance(value, Mapping):
                add(inner, value)
            else:
                flat[f"{prefix}{key}".replace("_", "-")] = value

    add("", {key: value for key, value in arm.items() if key != "remedies"})
    if kind := flat.pop("optimizer.class", None):
        optimizers = experiment.registry.optimizers
        named = {type(value).__name__: name for name, value in optimizers.items()}
        flat["optimizer"] = named.get(str(kind), kind)
    names: list[str] = []
    remedies = arm.get("remedies")
    for remedy in remedies if isinstance(remedies, list) else []:
        if not isinstance(remedy, Mapping):  # arm.json may hold anything
            continue
        kind = remedy.get("class")
        names.append(known.get(str(kind), str(kind)))
        add(f"{names[-1]}.", {key: value for key, value in remedy.items() if key != "class"})
    return flat | {"remedies": names or ["none"]}


def changed_options(
    experiment: Definition[Any], before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options of an arm that differ from another config of it, and their values."""
    old, new = _options(experiment, before), _options(experiment, after)
    return {key: new[key] for key in sorted(new) if old.get(key) != new[key]}


def typed(arm: str, option: str, value: Any) -> str:
    """Return an option with its value as one types it."""
    if option in ("class", "remedies"):  # what the name of the arm stands for
        return f"{option} {_word(value)}"
    if isinstance(value, bool):
        group, dot, last = option.rpartition(".")
        return f"--{arm}.{option}" if value else f"--{arm}.{group}{dot}no-{last}"
    return f"--{arm}.{option} {_word(value)}"


def _word(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_word, value))
    return value if isinstance(value, str) else json.dumps(value)
