"""Interventions in an aged learner, by their names.

``python -m experiments.diagnose RUN --interventions rate:first revive`` does each to a copy of an
aged learner, and tells what cures it. Options follow after colons; several that act one after
another are joined by a plus sign: ``turns:3+unwind``. To add one, write a class (see
``plasticity.interventions.intervention``) and enter it here with its options.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import typing
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from plasticity.errors import UsageError
from plasticity.interventions.circuits import Turns, Unwind
from plasticity.interventions.intervention import Chain, Intervention
from plasticity.interventions.layers import Induce, Rate, Rebalance, Redraw, Rescale, Soften
from plasticity.interventions.states import Forget, Nothing, Revive, Untrained, Young

INTERVENTIONS: dict[str, Intervention] = {
    "none": Nothing(),
    "untrained": Untrained(),
    "rate": Rate(layer="first", factor=None),
    "rescale": Rescale(layer="first"),
    "rebalance": Rebalance(layer="first"),
    "soften": Soften(),
    "forget": Forget(),
    "revive": Revive(),
    "redraw": Redraw(layer="first"),
    "turns": Turns(turns=3),
    "unwind": Unwind(),
    "induce": Induce(factor=None),
    "young": Young(),
}

REFERENCES = ("none", "untrained")
"""Those that all others are compared with."""

USUAL = (
    "none", "untrained", "rate:first", "rate:last", "rescale:first", "rebalance:first", "soften",
    "forget", "revive", "redraw:first", "redraw:last", "turns:3", "unwind", "induce",
)  # fmt: skip
"""What is done where nothing is named: of these, those that fit an arm."""


def parse(text: str) -> tuple[str, Intervention]:
    """Return an intervention by what is typed, and its name with all its options.

    Args:
        text: Such as ``rate:first``, ``rate:1:2.5`` or ``turns:3+unwind``.

    Raises:
        UsageError: There is no such intervention, or it takes no such option.
    """
    # Not the plus sign in 1e+3.
    found = [_parse_one(part, text) for part in re.split(r"\+(?=[A-Za-z])", text)]
    if len(found) == 1:
        return found[0]
    names, parts = zip(*found, strict=True)
    for name, part in found[1:]:
        if part.replaces:
            raise UsageError(
                f"intervention {text!r}: {name} takes another state, so it must come first"
            )
    return "+".join(names), Chain(parts)


def _parse_one(text: str, whole: str) -> tuple[str, Intervention]:
    name, *options = text.split(":")
    if name not in INTERVENTIONS:
        near = get_close_matches(name, INTERVENTIONS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"intervention {whole!r}: there are {', '.join(INTERVENTIONS)}{meant}")
    registered = INTERVENTIONS[name]
    fields = dataclasses.fields(registered)  # type: ignore[arg-type]
    if len(options) > len(fields):
        takes = ", ".join(field.name for field in fields) or "no option"
        raise UsageError(f"intervention {whole!r}: {name} takes {takes}")
    hints = typing.get_type_hints(type(registered))
    values: dict[str, Any] = {}
    for field, word in zip(fields, options, strict=False):
        kinds = typing.get_args(hints[field.name]) or (hints[field.name],)
        try:
            values[field.name] = _converted(word, kinds)
        except ValueError:
            wanted = {int: "a whole number", float: "a number"}.get(kinds[0], kinds[0].__name__)
            raise UsageError(
                f"intervention {whole!r}: {field.name} {word!r:.40} must be {wanted}"
            ) from None
    try:
        made = dataclasses.replace(registered, **values)  # type: ignore[type-var]
    except ValueError as error:
        raise UsageError(f"intervention {whole!r}: {error}") from error
    return _name_of(name, made), made


def _converted(word: str, kinds: Sequence[Any]) -> Any:
    """Return a word as the first of some types that takes it."""
    for kind in kinds:
        if kind is not type(None):
            with contextlib.suppress(ValueError):
                return kind(word)
    raise ValueError(word)


def _name_of(name: str, intervention: Intervention) -> str:
    """Return the name with all options up to the last that is said."""
    values = [getattr(intervention, f.name) for f in dataclasses.fields(intervention)]  # type: ignore[arg-type]
    while values and values[-1] is None:
        values.pop()
    return ":".join([name, *(str(value).removesuffix(".0") for value in values)])
