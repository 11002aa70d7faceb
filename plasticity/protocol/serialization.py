"""Configs as JSON, both ways: what a folder is named after.

A field whose value is its class's default is left out. So a field that is added later, with a
default that changes nothing, changes no name of a folder that is there. Fields that decide numbers
from the start have no default in their class; presets and registries give their values.
"""

from __future__ import annotations

import dataclasses
import reprlib
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

Parsed = TypeVar("Parsed")


def to_json(value: Any) -> dict[str, Any]:
    """Return a dataclass's fields as JSON, without those that have their default."""
    content = {}
    for field in dataclasses.fields(value):
        number = getattr(value, field.name)
        if number != field.default:
            content[field.name] = to_json(number) if dataclasses.is_dataclass(number) else number
    return content


def named_json(value: Any) -> dict[str, Any]:
    """Return a dataclass's fields as JSON, and under ``"class"`` the name of its class."""
    return {"class": type(value).__name__} | to_json(value)


def from_json(kind: type[Parsed], content: Mapping[str, Any]) -> Parsed:
    """Make a dataclass of JSON, which may hold anything.

    Raises:
        TypeError: A field is missing, unknown, or not of its type.
        ValueError: The class refuses a value. (The config of an experiment raises ``UsageError``.)
    """
    if not isinstance(content, Mapping):
        raise TypeError(f"{short(content)} is no {kind.__name__}")
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in content:
            values[field.name] = field_value(hints[field.name], content[field.name], field.name)
        elif field.default is dataclasses.MISSING:
            raise TypeError(f"{field.name} is missing")
    if unknown := {*content} - {*values}:
        raise TypeError(f"{short(min(unknown))} is unknown")
    return kind(**values)


def named_from_json(kinds: Mapping[str, type[Parsed]], content: Mapping[str, Any]) -> Parsed:
    """Make a dataclass of what ``named_json`` returned; its class is one of ``kinds``, by name.

    Raises:
        TypeError, ValueError: It is none of them, or not what they write.
    """
    name = content.get("class") if isinstance(content, Mapping) else None
    if not isinstance(name, str) or name not in kinds:
        raise TypeError(f"{short(name)} is unknown")
    return from_json(kinds[name], {key: v for key, v in content.items() if key != "class"})


def field_value(expected: Any, value: Any, name: str) -> Any:
    """Return a field's value as its type wants it."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if isinstance(expected, type) and dataclasses.is_dataclass(expected):
        return from_json(expected, value)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) == len(value):
            return tuple(field_value(kind, v, name) for kind, v in zip(kinds, value, strict=True))
    elif expected is Path and isinstance(value, str):
        return Path(value)
    elif origin is typing.Literal and value in arguments:
        return value
    elif origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return field_value(arguments[0], value, name)
    elif expected is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)  # which NaN and infinities are not
    elif expected in (int, str, bool) and type(value) is expected:
        return value
    raise TypeError(f"{name} is {short(value)}")


def short(value: Any) -> str:
    """Return what JSON holds in some 40 characters, however long or deep it is."""
    return f"{reprlib.repr(value):.40}"


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return what JSON holds by the path to it: ``{"a": {"b": 1}}`` gives ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
