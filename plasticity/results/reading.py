"""What is recorded of an arm, read without its lock: rows, tensors, later measurements."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from plasticity.results.disk import disk_errors
from plasticity.results.files import changed, parse_lines, read_lines, read_rows, read_whole

FORMAT = 2
"""Of checkpoints and snapshots. Those of format 1 had the whole run in their config."""


def finished_rows(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows in an arm's folder, and compare them with its checkpoint if it has one.

    Nothing is locked: a run may be writing them.

    Raises:
        RecordError: Rows were edited, cut off or removed, or one of the files cannot be read.
    """
    path = Path(path)
    file, checkpoint = path / "rows.jsonl", path / "checkpoint.pt"
    before = None
    while True:
        with disk_errors(path):
            # The checkpoint first: rows are only ever added, so that they are of it or after it.
            said = load_tensors(checkpoint) if checkpoint.exists() else {"rows": 0}
            data = read_lines(file)
        number = said.get("rows")
        if type(number) is not int:
            raise changed(checkpoint, "cannot be used: it is no checkpoint of a run")
        lines = data.split(b"\n")[:-1]
        kept = b"".join(line + b"\n" for line in lines[:number])
        if number and hashlib.sha256(kept).hexdigest() != said.get("rows_sha256"):
            text = f"was edited or cut off: its first {number} rows are not checkpoint.pt's"
            raise changed(file, text)
        if not number or len(lines) <= number + 1:
            break
        # A run may have written them since its checkpoint was read. Then there is a new one.
        if number == before:
            text = f"has {len(lines) - number} more rows than the {number} of checkpoint.pt"
            raise changed(file, text)
        before = number
    return parse_lines(data, file)


def recorded(path: Path) -> list[dict[str, Any]]:
    """Return an arm's rows, with what was measured after training among their columns.

    Raises:
        RecordError: They were edited or cut off: there are other rows in the arm's checkpoint.
    """
    rows, measured = finished_rows(path), {}
    if (path / "measured.jsonl").exists():
        measured = {row.get("task"): row for row in read_rows(path, "measured.jsonl")}
    return [measured.get(row["task"], {}) | row for row in rows] if measured else rows


def load_tensors(path: Path) -> dict[str, Any]:
    """Read a checkpoint or a snapshot of any arm, without executing what it may hold.

    Raises:
        RecordError: It is damaged, of another format, or would fill the memory.
        OSError: There is none, or it cannot be read.
    """
    data = read_whole(path)
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        # torch compresses nothing, so what unpacks to more is not torch's.
        if sum(member.file_size for member in archive.infolist()) > len(data):
            raise ValueError("it unpacks to more than it is")
        # torch.load does not look at the archive's checksums.
        if damaged := archive.testzip():
            raise ValueError(f"wrong checksum of {damaged}")
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is {content.get('format', 1)}, not {FORMAT}")
    except pickle.UnpicklingError as error:
        # torch's own message recommends to read the file with its code executed.
        text = "cannot be used: it holds more than tensors and plain values, none of it was run"
        raise changed(path, text) from error
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        if isinstance(error, MemoryError) or "can't allocate memory" in reason:
            raise  # it is not the file's fault, and to overwrite the arm would be bad advice
        raise changed(path, f"cannot be used: {type(error).__name__}, {reason}") from error
    return dict(content)
