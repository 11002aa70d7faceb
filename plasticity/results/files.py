"""The files of a run folder: what they are called, how they are read, what is wrong with them."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plasticity.errors import RecordError
from plasticity.results.disk import disk_errors, replace_file
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
    if not path.parent.is_dir():
        raise RecordError(f"{path.parent} is not a folder.\nName that of one arm of a run.")
    with disk_errors(path):
        data = read_lines(path)
    return parse_lines(data, path)


def read_lines(path: Path) -> bytes:
    """Read a file of lines, or nothing where there is none; not what would fill the memory."""
    if not path.exists():
        return b""
    if (num_bytes := path.stat().st_size) > MAX_ROWS_BYTES:
        raise changed(path, f"has {num_bytes} bytes; a run writes {MAX_ROWS_BYTES} at most")
    return path.read_bytes()


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
    # The size first: what is much larger need not be read.
    elif file.stat().st_size != len(text) or file.read_bytes() != text:
        raise changed(file, "was edited: its folder is named after another config")


def read_config(file: Path) -> dict[str, Any]:
    """Read config.json or arm.json, whatever its folder is called.

    Raises:
        RecordError: it is not there, or it is not as a run writes it.
    """
    with disk_errors(file):
        if not file.exists():
            raise RecordError(f"{file}: no such file.\nName the folder of a run.")
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            raise changed(file, f"is larger than {_MAX_CONFIG_BYTES} bytes")
        content = file.read_bytes()
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
        if not path.exists() or path.stat().st_size != len(data) or path.read_bytes() != data:
            replace_file(path, data)
    return path


def recorded(path: Path) -> list[dict[str, Any]]:
    """Return an arm's rows, with what was measured after training among their columns."""
    rows, measured = read_rows(path), {}
    if (path / "measured.jsonl").exists():
        measured = {row.get("task"): row for row in read_rows(path, "measured.jsonl")}
    return [measured.get(row["task"], {}) | row for row in rows] if measured else rows
