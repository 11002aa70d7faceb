"""A recorded arm as a value: what it recorded, the networks it kept, how it did."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity.errors import RecordError, UsageError
from plasticity.protocol.experiment import Definition
from plasticity.protocol.trainer import Row
from plasticity.results.files import read_rows
from plasticity.results.names import record_name
from plasticity.results.reading import recorded
from plasticity.results.record import RunFolder
from plasticity.statistics.summaries import early_and_late, without_the_first

if TYPE_CHECKING:
    from torch import nn

    from plasticity.runs.diagnose import Diagnosis


@dataclass(frozen=True)
class Summary:
    """How an arm did, as the command prints it.

    Attributes:
        arm: Its name.
        early: Mean score of the first tenth of the tasks or updates, without the first of all where
            there are 20 or more; NaN where there is no score.
        late: Mean score of the last tenth.
        count: How many tasks or updates ``late`` is the mean of.
        early_count: The same of ``early``: one fewer where the first of all is left out.
        files: What was exported, relative to the run folder.
    """

    arm: str
    early: float
    late: float
    count: int
    early_count: int
    files: tuple[str, ...]

    @property
    def drop(self) -> float:
        """Return early less late: positive where the score has fallen."""
        return self.early - self.late


class RecordedArm:
    """What is recorded of an arm of a run; it is read when it is first asked for.

    Attributes:
        name: As one types it: ``mlp+l2``, ``fresh:mlp``.
        path: Its folder.
        config: All that decides its numbers, as ``arm.json`` has it.
    """

    def __init__(
        self,
        experiment: Definition[Any],
        folder: RunFolder,
        name: str,
        path: Path,
        config: Mapping[str, Any],
    ) -> None:
        self._experiment = experiment
        self._folder = folder
        self.name = name
        self.path = path
        self.config = dict(config)

    def __repr__(self) -> str:
        return f"RecordedArm({self.name!r}, {len(self.rows)} rows, {str(self.path)!r})"

    @cached_property
    def rows(self) -> list[Row]:
        """Return the rows, as they were recorded: one a task, or one an update of a policy.

        Raises:
            RecordError: They were edited.
        """
        return read_rows(self.path)

    @cached_property
    def _all(self) -> list[Row]:
        return recorded(self.path)

    @property
    def columns(self) -> list[str]:
        """Return the names of all columns, those measured after training among them."""
        return [*dict.fromkeys(name for row in self._all for name in row)]

    def column(self, name: str) -> np.ndarray:
        """Return the numbers of a column, also of one that was measured after training.

        Args:
            name: Such as ``test_accuracy``.

        Returns:
            ``(tasks,)`` float64, NaN where the number is undefined or the task was not learned;
            of policies ``(updates,)``.

        Raises:
            UsageError: There is no such column, or it does not hold numbers.
            RecordError: The rows were edited.
        """
        rows = self._all
        if name not in self.columns:
            near = difflib.get_close_matches(name, self.columns, 1)
            way_out = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.columns)}"
            raise UsageError(f"{self.name}: no column is called {name!r}; {way_out}")
        places = [row.get("task", k) for k, row in enumerate(rows)]
        if any(type(place) is not int or place < 0 for place in places):
            raise RecordError(f"{self.path / 'rows.jsonl'} was edited: a task is no number.")
        values = np.full(max(places, default=-1) + 1, np.nan)
        for place, row in zip(places, rows, strict=True):
            value = row.get(name, np.nan)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UsageError(f"{self.name}: the column {name} holds {type(value).__name__}s")
            values[place] = value
        return values

    def network(
        self,
        task: int | None = None,
        *,
        dataset: str | None = None,
        data_root: str | Path = "~/.cache/plasticity",
    ) -> nn.Module:
        """Return the network as it was kept after a task.

        A run keeps its networks after tasks 0, 1, 2, 4, 8, ... and the last.

        Args:
            task: Which; by default the last.
            dataset: The run's data set, if its file lies elsewhere now.
            data_root: Folder of data sets that are downloaded or computed.

        Raises:
            UsageError: No network was kept after this task.
            Failure: The arm cannot be made here, or the data is not the run's.
            RecordError: What was kept is damaged.
        """
        from plasticity.runs.restore import restored_network

        return restored_network(
            self._experiment,
            self._folder,
            self,
            self.config,
            task,
            dataset,
            Path(data_root),
        )

    def diagnose(
        self,
        at: int | str | Sequence[int | str] = "last",
        interventions: Sequence[str] = (),
        *,
        tasks: int = 10,
        dataset: str | Path | None = None,
        data_root: str | Path = "~/.cache/plasticity",
        out: str | Path | None = None,
        workers: int = 1,
        progress: bool = False,
    ) -> Diagnosis:
        """Intervene in copies of the aged learner, and let each learn the next tasks.

        The rows are written into ``diagnosis.jsonl``, and what is there already is not learned
        again. Nothing of the run is changed.

        Args:
            at: Ages: how many tasks the learner has learned, 1, 2, 4, 8, ... or ``"last"``.
            interventions: By name, such as ``"rate:first"``; by default all that fit the arm.
            tasks: How many each branch learns.
            dataset: The run's data set, if its file lies elsewhere now.
            data_root: Folder of data sets that are downloaded or computed.
            out: Folder that gets the file; by default the run's.
            workers: Processes that branches are shared among.
            progress: Show a progress bar on standard error.

        Raises:
            UsageError: The learner was not kept at an age, or an intervention does not fit the arm.
            InUse: Another process diagnoses into the same folder.
            Failure: The arm cannot be made here, or the data is not the run's.
            RecordError: What was kept is damaged.
        """
        return diagnosed(
            [self], at, interventions, tasks, dataset, data_root, out, workers, progress
        )


def diagnosed(
    arms: Sequence[RecordedArm],
    at: int | str | Sequence[int | str],
    interventions: Sequence[str],
    tasks: int,
    dataset: str | Path | None,
    data_root: str | Path,
    out: str | Path | None,
    workers: int,
    progress: bool,
) -> Diagnosis:
    """Diagnose an arm of runs that differ in nothing but the seed."""
    from plasticity.runs.diagnose import diagnose

    growing = diagnose(
        arms[0]._experiment,
        [arm._folder for arm in arms],
        arms=[*dict.fromkeys(arm.path.name for arm in arms)],
        at=[at] if isinstance(at, int | str) else at,
        tasks=tasks,
        interventions=interventions,
        dataset=None if dataset is None else str(dataset),
        data_root=Path(data_root),
        out=None if out is None else Path(out).expanduser().absolute(),
        workers=workers,
        show=progress,
    )
    while True:
        try:
            next(growing)
        except StopIteration as stop:
            found: Diagnosis = stop.value
            return found


def summarize(experiment: Definition[Any], arm: str, rows: Sequence[Row], folder: str) -> Summary:
    """Return how an arm did, from its rows; ``folder`` is the name of its folder."""
    score, _ = experiment.score
    files = (
        tuple(f"{folder}/{file}" for file in experiment.exports.of(record_name(arm)))
        if rows
        else ()
    )
    scores = [row[score] for row in rows if score in row]
    if not scores:
        return Summary(arm, np.nan, np.nan, 0, 0, files)
    early, late = early_and_late(np.array(scores)[None])
    count = max(1, len(scores) // 10)
    first = count - without_the_first(len(scores))
    return Summary(arm, float(early[0]), float(late[0]), count, first, files)
