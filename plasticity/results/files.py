"""The files of a run folder: what they are called, how they are read, what is wrong with them."""

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plasticity.errors import RecordError
from plasticity.results.disk import UnfitFile, disk_errors, read_file, replace_file
from plasticity.results.names import checked_name, config_json

_MAX_CONFIG_BYTES = 2**20
MAX_ROWS_BYTES = 2**30  # of rows.jsonl: a million rows of a thousand characters
_WAYS_OUT = {
    "config.json": "Restore it, or remove it: training writes it again",
    "measured.jsonl": "Restore it, or remove it and measure again",
    "device.jsonl": "Restore it, or remove it and evaluate again",
}


def read_rows(path: str | Path, name: str = "rows.jsonl") -> list[dict[str, Any]]:
    """Read the finished rows in an arm's folder, also while a run writes them.

    Args:
        path: The arm's folder.
        name: ``measured.jsonl`` for what was measured after training.

    Raises:
        RecordError: there is no such folder, a line is no JSON object, or there are too many.
    """
    path = Path(path) / name
    with disk_errors(path):
        if not path.parent.is_dir():
            raise RecordError(f"{path.parent} is not a folder.\nName that of one arm of a run.")
        data = read_lines(path)
    return parse_lines(data, path)


def read_whole(path: Path, most: int | None = None) -> bytes:
    """Read a file of a run, within bounds (see ``read_file``).

    Raises:
        RecordError: It is no regular file, or too large.
        OSError: There is none, or it cannot be read.
    """
    try:
        return read_file(path, most)
    except UnfitFile as error:
        raise changed(path, str(error.strerror)) from error


def read_lines(path: Path) -> bytes:
    """Read a file of lines, or nothing where there is none; not what would fill the memory."""
    return read_whole(path, MAX_ROWS_BYTES) if path.exists() else b""


def parse_lines(data: bytes, path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file's whole lines.

    Raises:
        RecordError: A line is no JSON object.
    """
    rows = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # brackets in brackets in brackets ...
            raise changed(path, f"was edited: line {number} is not JSON") from error
        if not isinstance(row, dict):
            raise changed(path, f"was edited: line {number} is not a JSON object")
        rows.append(row)
    return rows


def changed(path: Path, what: str) -> RecordError:
    """Return the error of a file that is not as a run left it, with a way out that works."""
    way_out = _WAYS_OUT.get(path.name, "Restore the file, or start afresh with --overwrite")
    return RecordError(f"{path} {what}.\n{way_out}; nothing was changed now.")


def settle_config(file: Path, config: Mapping[str, Any]) -> None:
    """Check a folder's config, or write it."""
    text = config_json(config)
    if not file.exists():
        replace_file(file, text)
    elif read_whole(file, _MAX_CONFIG_BYTES) != text:
        raise changed(file, "was edited: its folder is named after another config")


def read_config(file: Path) -> dict[str, Any]:
    """Read config.json or arm.json, whatever its folder is called.

    Raises:
        RecordError: it is not there, or it is not as a run writes it.
    """
    with disk_errors(file):
        if not file.exists():
            raise RecordError(f"{file}: no such file.\nName the folder of a run.")
        content = read_whole(file, _MAX_CONFIG_BYTES)
    try:
        config = json.loads(content)
        if not isinstance(config, dict) or config_json(config) != content:
            raise ValueError("it is not as a run writes it")
    except (ValueError, RecursionError) as error:
        raise changed(file, f"was edited: {error}") from error
    return config


def save_file(folder: Path, name: str, suffix: str, buffer: io.BytesIO) -> Path:
    """Write a file for other programs under a name that is given the suffix where it has none."""
    path = folder / checked_name(name if name.endswith(suffix) else name + suffix)
    data = buffer.getvalue()
    with disk_errors(path):
        # What is there already keeps its date.
        if not holds(path, data):
            replace_file(path, data)
    return path


def holds(path: Path, data: bytes) -> bool:
    """Tell whether a file is there and has this content."""
    with contextlib.suppress(FileNotFoundError, UnfitFile):
        return read_file(path, len(data)) == data
    return False
