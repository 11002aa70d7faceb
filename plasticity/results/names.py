"""The rule of folder names: what runs and arms are called on the disk."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOCK_FILES = {"lock", "lock.held", "lock.pid"}


OF_TRAINING = {
    "provenance.jsonl", "rows.jsonl", "checkpoint.pt", "snapshots", "measured.jsonl",
    "diverged.json",
}  # fmt: skip


_NOT_FREE = LOCK_FILES | OF_TRAINING | {"config.json", "arm.json", "", ".", ".."}


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the sha256, in hex, of a config as config.json or arm.json holds it.

    Raises:
        ValueError, TypeError: the config holds NaN, an infinity or something JSON cannot.
    """
    return hashlib.sha256(config_json(config)).hexdigest()


def folder_name(prefix: str, config: Mapping[str, Any]) -> str:
    """Return the name of a config's folder: the prefix and 8 digits of the config's hash."""
    return checked_name(f"{prefix}-{config_hash(config)[:8]}")


def config_json(config: Mapping[str, Any]) -> bytes:
    """Return a config as config.json or arm.json holds it."""
    return json.dumps(config, sort_keys=True, allow_nan=False, indent=2).encode() + b"\n"


def checked_name(name: str) -> str:
    """Return the name of a file or folder.

    Raises:
        ValueError: It leads elsewhere, or is the name of a file that a run has.
    """
    if name in _NOT_FREE or name.endswith(".tmp") or set(name) & set("/\\:\0"):
        raise ValueError(f"{name!r} cannot name a file or folder of a run")
    return name


FRESH = "fresh:"
"""Before an arm's name: a network that is new at every task."""


AT_RATE_OF = "@"
"""In an arm's name, before the arm whose learning rate it takes: ``mlp-sphere@mlp``."""


def record_name(name: str) -> str:
    """Return what an arm's folder is called after: its name, without what no file may have."""
    return name.replace(":", "-")


def arm_name(path: Path) -> str:
    """Return the name of the arm that a folder is of, as one types it: ``fresh:mlp``, too."""
    name = path.name.rpartition("-")[0]
    fresh = record_name(FRESH)
    return FRESH + name.removeprefix(fresh) if name.startswith(fresh) else name


def printable(name: str) -> str:
    """Return a name without what moves a cursor; names of files and folders may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
