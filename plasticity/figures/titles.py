"""Titles of figures in words: what was run, and what of its protocol was changed."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plasticity.figures.labels import changed_options, typed
from plasticity.protocol.experiment import Definition
from plasticity.protocol.serialization import to_json
from plasticity.results.names import arm_name

if TYPE_CHECKING:
    from plasticity.results.record import RunFolder

WORDS = {
    "mnist": "permuted images",
    "cifar": "pairs of classes",
    "qdata": "pairs of energy levels",
    "ant": "PPO",
}
"""What the experiments are called in a title."""
MOST_OPTIONS = 6
"""Of the changed ones, how many a title names."""


def title_of(
    experiment: Definition[Any],
    folders: Sequence[RunFolder],
    arms: Mapping[Path, Mapping[str, Any]],
    done: int,
) -> str:
    """Return what a figure of runs is of: experiment, preset, changed options, length, seeds.

    Args:
        experiment: What they are runs of.
        folders: Runs that differ in nothing but the seed.
        arms: The configs of the arms that are shown, by their folders.
        done: How many tasks or steps are drawn.
    """
    name = WORDS.get(experiment.name, experiment.name)
    parts = [f"{name[0].upper()}{name[1:]} ({experiment.name})"]
    first = folders[0]
    preset = _preset_of(experiment, first.path.name)
    if preset is not None:
        changed = _changed(experiment, preset, first.config, arms)
        if changed:
            more = f" and {len(changed) - MOST_OPTIONS} more" * (len(changed) > MOST_OPTIONS)
            options = " ".join(changed[:MOST_OPTIONS])
            parts.append(f"not preset {preset}, but with {options}{more}")
        else:
            parts.append(f"preset {preset}")
        planned = experiment.progress.total(experiment.presets[preset].config)
        if done != planned:
            parts.append(f"{done:,} {experiment.progress.unit}s, not {planned:,}")
    seeds = sorted(folder.config.get("seed", 0) for folder in folders)
    parts.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}")
    return ", ".join(parts)


def _preset_of(experiment: Definition[Any], folder: str) -> str | None:
    """Return the preset in a run folder's name; None if the folder was renamed."""
    found = re.fullmatch(rf"{experiment.name}-(.+)-seed\d+-[0-9a-f]{{8}}", folder)
    return found[1] if found and found[1] in experiment.presets else None


def _changed(
    experiment: Definition[Any],
    preset: str,
    config: Mapping[str, Any],
    arms: Mapping[Path, Mapping[str, Any]],
) -> list[str]:
    """Return the options in which a run and its arms differ from a preset, as one types them.

    Of arms that have namesakes, the legend says in what they differ.
    """
    protocol = experiment.presets[preset]
    planned = json.loads(json.dumps(to_json(protocol.config)))
    # What stands for a data set's content in a config is no option.
    skipped = {"seed", "experiment", "dataset", experiment.progress.length}
    found = [
        f"--{key.replace('_', '-')} {_value(config[key])}"
        for key in sorted({*config} & {*planned} - skipped)
        if config[key] != planned[key]
    ]
    found += [
        f"--{key.replace('_', '-')} {_value(config[key])}"
        for key in sorted({*config} - {*planned} - skipped)
        if key in {field for field in type(protocol.config).__dataclass_fields__}
    ]
    names = [arm_name(path) for path in arms]
    for path, arm in arms.items():
        name = arm_name(path)
        if names.count(name) > 1:
            continue
        try:
            plain = experiment.registry.resolve(name, protocol.arms).json()
        except KeyError:  # an arm of somebody's own, or one that is no more
            continue
        plain = json.loads(json.dumps(plain))
        options = changed_options(experiment, plain, arm)
        found += [typed(name, key, value) for key, value in options.items()]
    return found


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def lines_of(text: str, inches: float, size: float = 9) -> str:
    """Break a text where it would leave a figure of this width."""
    characters = int(inches * 72 / (0.6 * size))
    return "\n".join(
        textwrap.fill(line, characters, break_on_hyphens=False) for line in text.split("\n")
    )
