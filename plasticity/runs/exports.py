"""An arm's rows as files for other programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from plasticity.protocol.experiment import Definition
from plasticity.protocol.trainer import Row
from plasticity.results.arm import ArmRecord
from plasticity.results.names import record_name


def export(experiment: Definition[Any], record: ArmRecord, name: str) -> None:
    """Write an arm's rows to the files of other programs."""
    rows = record.rows
    for file, columns in experiment.exports.of(record_name(name)).items():
        if isinstance(columns, str):
            record.save_npy(file, column(rows, columns, math.nan))
        elif isinstance(columns, tuple):  # pairs, of the rows that have both
            pairs = [row for row in rows if all(name in row for name in columns)]
            record.save_npy(file, np.stack([column(pairs, name) for name in columns]))
        else:
            arrays = {array: column(rows, name, math.nan) for array, name in columns.items()}
            record.save_npz(file, **arrays)


def column(rows: Sequence[Row], name: str, missing: float | None = None) -> np.ndarray:
    """Collect what the rows hold under a name: a number, a list of numbers, or nothing.

    A row without it is left out, or has the number ``missing`` instead.
    """
    rows = rows if missing is None else [{name: missing} | row for row in rows]
    values = [row[name] for row in rows if name in row]
    return np.hstack(values) if values else np.array([])
