"""What ``--help`` says of an experiment, of what ``--arms`` can name, and of the presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from plasticity.networks import ALIASES
from plasticity.protocol.experiment import Definition
from plasticity.protocol.serialization import to_json


def about(experiment: Definition[Any]) -> str:
    """Return what ``--help`` says first: of the experiment, and of what --arms can name."""
    and_remedies = ", and their remedies (NAME+REMEDY)" if experiment.registry.remedies else ""
    lines = [experiment.about.strip(), "", f"Networks for --arms{and_remedies}:"]
    entries: Mapping[str, Any] = experiment.registry.networks
    for registered, prefix in ((entries, ""), (experiment.registry.remedies, "+")):
        for name, value in registered.items():
            line = (type(value).__doc__ or "").splitlines()[0]
            names = ", ".join([name, *(a for a, other in ALIASES.items() if other == name)])
            lines.append(f"  {prefix + names}: {line}{_own_options(name, registered)}")
    if "start-afresh" in experiment.registry.remedies:
        lines += ["  fresh:NAME: An arm that begins tasks 0, 1, 2, 4, 8, ... with a new network."]
    if told := [f"+{n}" for n, r in experiment.registry.remedies.items() if r.sees_tasks]:
        lines += ["", f"Only {', '.join(told)} and fresh: are told where tasks begin."]
    lines += ["", "Below are the options of the chosen arms, under their names."]
    return "\n".join(lines)


def _own_options(name: str, registered: Mapping[str, Any]) -> str:
    """Return in which options an entry differs from the first of its class, or nothing."""
    value = registered[name]
    first = next(other for other in registered.values() if type(other) is type(value))
    own, others = to_json(value), to_json(first)
    differing = [
        f"{field.name.replace('_', '-')} {_as_typed(getattr(value, field.name))}"
        for field in dataclasses.fields(value)
        if own.get(field.name) != others.get(field.name)
    ]
    return f" With {', '.join(differing)}." if differing else ""


def _as_typed(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def about_presets(experiment: Definition[Any]) -> str:
    """Return what ``--help`` says of the presets: a line for each."""
    lines = [f"{name}: {preset.about}" for name, preset in experiment.presets.items()]
    return "\n".join([*lines, "Options that are not said are taken from this protocol."])
