"""What a study has found: its numbers with what they say, as values, figures and a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity.errors import Failure, UsageError
from plasticity.protocol.names import find_experiment
from plasticity.studies.findings import Comparison, Finding, comparisons, findings_of
from plasticity.studies.numbers import Numbers, load_records

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


class Results(Numbers):
    """The numbers of a study, and what they say."""

    @classmethod
    def of_numbers(cls, numbers: Numbers) -> Results:
        """Return results with these numbers."""
        return cls(**{field.name: getattr(numbers, field.name) for field in fields(numbers)})

    @property
    def _score(self) -> str:
        return find_experiment(self.study.experiment).score[0]

    def findings(self) -> list[Finding]:
        """Return what is said of each arm, ordered by verdict and then by drop."""
        return findings_of(self, self._score)[0]

    def without_verdict(self) -> dict[str, str]:
        """Return the arms of which nothing is said, and why."""
        return findings_of(self, self._score)[1]

    def comparisons(self) -> list[Comparison]:
        """Return what is said of the pairs that the study declares."""
        return comparisons(self, self.findings())

    def column(self, arm: str, name: str) -> np.ndarray:
        """Return a column of an arm's complete seeds, ``(seeds, tasks)``, NaN where undefined.

        Raises:
            UsageError: The study has no such arm, or the arm no such column.
        """
        if arm not in self.study.arms:
            raise UsageError(f"{arm}: the study has {', '.join(self.study.arms)}")
        values = self.of(arm, name)
        if values is None:
            there = ", ".join(self.columns[arm]) or "none yet"
            raise UsageError(f"{arm}: no column is called {name!r}; there are {there}")
        return values.astype(np.float64)

    def figure(self, column: str | None = None, *, arms: Sequence[str] = ()) -> Figure:
        """Draw a column over the tasks: means over seeds with 95 % intervals.

        Args:
            column: By default the score.
            arms: Which are drawn; by default all.

        Raises:
            UsageError: There is no such arm, or no arm has such a column.
        """
        from plasticity.studies.report import Drawing

        column = column or self._score
        chosen = [*arms] or [*self.study.arms]
        if unknown := [arm for arm in chosen if arm not in self.study.arms]:
            raise UsageError(f"{unknown[0]}: the study has {', '.join(self.study.arms)}")
        if all(self.of(arm, column) is None for arm in chosen):
            raise UsageError(f"no arm has a column {column!r}; there are {', '.join(self.names())}")
        verdicts = {one.arm: one.loss.verdict for one in self.findings()}
        order = [*(arm for arm in verdicts if arm in chosen)]
        order += [arm for arm in chosen if arm not in order]
        return Drawing(self, order, verdicts).over_tasks(column)

    def level_against_drop(self) -> Figure:
        """Draw what is left against what was lost, a point an arm: the deficit or the drop."""
        from plasticity.figures.level_against_drop import level_against_drop

        findings = self.findings()
        if not findings:
            raise Failure(f"{self.study.name}: no arm has a verdict yet")
        title = f"{self.study.name}: level against {findings[0].headline}"
        return level_against_drop(findings, title, self.study.drop_margin)

    def report(self, folder: str | Path) -> Path:
        """Write the report into a folder and return the path of ``report.md``.

        Raises:
            RecordError: The disk is full or fails.
        """
        from plasticity.studies.report import report_on

        return report_on(self, Path(folder).expanduser())

    def frame(self) -> pandas.DataFrame:
        """Return all numbers as a pandas DataFrame: a line a seed, arm and task.

        Raises:
            Failure: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise Failure(
                "frame() needs pandas, which is not installed: pip install pandas"
            ) from error
        lines: list[dict[str, Any]] = []
        for arm in self.study.arms:
            for row, seed in enumerate(self.study.seeds):
                for task in range(max(0, int(self.rows[arm][row]))):
                    values = {n: float(v[row, task]) for n, v in self.columns[arm].items()}
                    lines.append({"seed": seed, "arm": arm, "task": task} | values)
        return pandas.DataFrame(lines)


def load_study(folder: str | Path) -> Results:
    """Read the records that a report left, such as ``docs/records/studies/quick``.

    Args:
        folder: Of the records: it has ``study.json`` and an ``ARM.npz`` for each arm.

    Raises:
        Failure: A file is missing or damaged.
    """
    return Results.of_numbers(load_records(Path(folder).expanduser()))
