"""What a command prints at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plasticity.protocol.experiment import Definition
from plasticity.results.arm import ArmRecord
from plasticity.runs.recorded import summarize


def print_summary(experiment: Definition[Any], records: Mapping[str, ArmRecord]) -> None:
    """Print how each arm did in the first and the last tenth of the rows that have a score."""
    _, words = experiment.score
    row = "task" if experiment.progress.unit == "task" else "update"
    titles = [words, "first tenth", "last tenth", "drop", "means of", "exported to"]
    lines = [titles]
    for name, record in records.items():
        of = summarize(experiment, name, record.rows, record.path.name)
        files = ", ".join(of.files) or "nothing yet"
        numbers = ["", "none", "", ""]
        if of.count:
            counts = " and ".join(map(str, dict.fromkeys((of.early_count, of.count))))
            count = f"{counts} {row}{'s' if of.count > 1 else ''}"
            numbers = [f"{of.early:.5g}", f"{of.late:.5g}", f"{of.drop:.4g}", count]
        lines.append([name, *numbers, files])
    widths = [max(len(line[k]) for line in lines) for k in range(5)]
    print()
    for name, *numbers, files in lines:
        columns = "  ".join(f"{n:>{w}}" for n, w in zip(numbers, widths[1:], strict=True))
        print(f"{name:{widths[0]}}  {columns}  {files}")
