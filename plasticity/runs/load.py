"""Recorded runs as values: what their arms recorded, the networks they kept, figures of them."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity.errors import Failure, RecordError, UsageError
from plasticity.figures.labels import in_order
from plasticity.protocol.columns import column_of
from plasticity.protocol.experiment import Definition
from plasticity.protocol.names import experiment_of
from plasticity.protocol.trainer import Row
from plasticity.results.arm import recorded
from plasticity.results.files import read_rows
from plasticity.results.names import arm_name, record_name
from plasticity.results.record import RunFolder, read_run
from plasticity.statistics.summaries import early_and_late, without_the_first

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from torch import nn


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

    def __init__(self, run: Run, name: str, path: Path, config: Mapping[str, Any]) -> None:
        self._run = run
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
            self._run.experiment,
            self._run.folder,
            self,
            self.config,
            task,
            dataset,
            Path(data_root),
        )


class Run:
    """A recorded run. Nothing of it is changed or locked.

    ``run["mlp"]`` is an arm. An arm's name is that of the command line. Where several arms of a run
    have the same name, because their options differ, name the folder instead.

    Attributes:
        path: Of the run folder.
        config: What its arms share, as ``config.json`` has it.
        experiment: Which it is a run of.
        folder: The same folder, for functions that read its files.
    """

    def __init__(
        self,
        folder: RunFolder,
        experiment: Definition[Any],
        chosen: Mapping[str, Path] | None = None,
    ) -> None:
        self.folder = folder
        self.path = folder.path
        self.config = dict(folder.config)
        self.experiment = experiment
        self._chosen = chosen

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, arms={list(self.arms)})"

    @cached_property
    def _arms(self) -> dict[str, RecordedArm]:
        there = self.folder.arms()
        there = {path: there[path] for path in in_order(self.experiment, there)}
        names = [arm_name(path) for path in there]
        found = {}
        if self._chosen is not None:
            return {n: RecordedArm(self, n, path, there[path]) for n, path in self._chosen.items()}
        for (path, config), name in zip(there.items(), names, strict=True):
            key = name if names.count(name) == 1 else path.name
            found[key] = RecordedArm(self, key, path, config)
        return found

    @property
    def arms(self) -> tuple[str, ...]:
        """Return the names of the arms."""
        return tuple(self._arms)

    def __getitem__(self, name: str) -> RecordedArm:
        """Return an arm by its name, or by that of its folder."""
        if name in self._arms:
            return self._arms[name]
        for arm in self._arms.values():
            if arm.path.name == name:
                return arm
        namesakes = [key for key, arm in self._arms.items() if arm_name(arm.path) == name]
        if namesakes:
            raise UsageError(f"{name}: several arms have this name: {', '.join(namesakes)}")
        raise UsageError(f"{name}: {self.path} has {', '.join(self.arms) or 'no arm yet'}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._arms)

    def __contains__(self, name: object) -> bool:
        return name in self._arms

    def summary(self) -> list[Summary]:
        """Return how each arm did in the first and the last tenth of its tasks or updates."""
        return [
            summarize(self.experiment, name, arm.rows, arm.path.name)
            for name, arm in self._arms.items()
        ]

    def figure(self, columns: Sequence[str] = (), *, arms: Sequence[str] = ()) -> Figure:
        """Draw the arms over the tasks or steps.

        Args:
            columns: Which are drawn; by default those of the experiment's figure and all that was
                measured.
            arms: Which are drawn; by default all.

        Raises:
            UsageError: There is no such arm, or no arm has such a column.
            Failure: No arm has a row yet.
        """
        return runs_figure([self], columns, arms)

    def by_layer(self, quantities: Sequence[str] = (), *, arms: Sequence[str] = ()) -> Figure:
        """Draw what was measured of each layer or gate: a column of axes for each arm.

        Args:
            quantities: Which are drawn, such as ``step`` of the columns ``step_1``, ``step_2``; by
                default all.
            arms: Which are drawn; by default all.

        Raises:
            UsageError: There is no such arm, or no arm has such columns.
        """
        return layers_figure([self], quantities, arms)[0]

    def layer_table(self, quantities: Sequence[str] = (), *, arms: Sequence[str] = ()) -> str:
        """Return the same as a table in Markdown: the first and the last tenth of the tasks."""
        return layers_figure([self], quantities, arms)[1]

    def measure(
        self,
        metrics: Sequence[str],
        *,
        arms: Sequence[str] = (),
        dataset: str | Path | None = None,
        data_root: str | Path = "~/.cache/plasticity",
        progress: bool = False,
    ) -> None:
        """Measure the networks that the arms kept. The numbers become columns of the arms.

        Args:
            metrics: Names of metrics.
            arms: Names of arms; by default all.
            dataset: The run's data set, if its file lies elsewhere now.
            data_root: Folder of data sets that are downloaded or computed.
            progress: Show a progress bar on standard error.

        Raises:
            UsageError: There is no such metric or arm, or a metric needs the training itself.
            InUse: Another process trains an arm.
            Failure: The run cannot be used, or the data is not the run's.
        """
        from plasticity.runs.measure import measure

        folders = [self[name].path.name for name in (arms or self.arms)]
        name = None if dataset is None else str(dataset)
        root = Path(data_root)
        for _ in measure(self.experiment, self.folder, metrics, folders, name, root, show=progress):
            pass
        self.__dict__.pop("_arms", None)  # read again

    def frame(self) -> pandas.DataFrame:
        """Return all numbers as a pandas DataFrame: a line an arm and row.

        Raises:
            Failure: pandas is not installed.
        """
        return _frame([self])


class RunsArm:
    """An arm in runs that differ in nothing but the seed."""

    def __init__(self, name: str, arms: Sequence[RecordedArm]) -> None:
        self.name = name
        self.of_seeds = tuple(arms)

    def column(self, name: str) -> np.ndarray:
        """Return a column, ``(seeds, tasks)`` float64, NaN where a number is undefined."""
        values = [arm.column(name) for arm in self.of_seeds]
        stacked = np.full((len(values), max(map(len, values), default=0)), np.nan)
        for row, of_seed in zip(stacked, values, strict=True):
            row[: len(of_seed)] = of_seed
        return stacked


class Runs:
    """Runs that differ in nothing but the seed; ``runs["mlp"]`` is an arm in all of them.

    Attributes:
        runs: In the order of their seeds.
        seeds: In the same order.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        check_same(runs)
        self.runs = tuple(sorted(runs, key=lambda run: run.config["seed"]))
        self.seeds = tuple(run.config["seed"] for run in self.runs)

    def __repr__(self) -> str:
        return f"Runs(seeds={list(self.seeds)}, arms={list(self.arms)})"

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def arms(self) -> tuple[str, ...]:
        """Return the names of the arms that all runs have."""
        first, *others = self.runs
        return tuple(name for name in first.arms if all(name in run for run in others))

    def __getitem__(self, name: str) -> RunsArm:
        """Return an arm by its name."""
        return RunsArm(name, [run[name] for run in self.runs])

    def figure(self, columns: Sequence[str] = (), *, arms: Sequence[str] = ()) -> Figure:
        """Draw means over seeds with their 95 % intervals; see ``Run.figure``."""
        return runs_figure(self.runs, columns, arms)

    def by_layer(self, quantities: Sequence[str] = (), *, arms: Sequence[str] = ()) -> Figure:
        """Draw means over seeds of what was measured of each layer; see ``Run.by_layer``."""
        return layers_figure(self.runs, quantities, arms)[0]

    def layer_table(self, quantities: Sequence[str] = (), *, arms: Sequence[str] = ()) -> str:
        """Return the same as a table in Markdown, of means over seeds."""
        return layers_figure(self.runs, quantities, arms)[1]

    def frame(self) -> pandas.DataFrame:
        """Return all numbers as a pandas DataFrame: a line a seed, arm and row."""
        return _frame(self.runs)


def load_run(path: str | Path, experiment: Definition[Any] | str | None = None) -> Run:
    """Read a run folder, wherever it lies and whatever it is called.

    Args:
        path: Of the run folder.
        experiment: Which it is of, or its name; by default the one that its config names.

    Raises:
        RecordError: It is no run folder, or its config was edited.
        Failure: Its experiment is not known here.
    """
    folder = read_run(Path(path).expanduser())
    return Run(folder, experiment_of(folder.config, folder.path, experiment))


def load_runs(
    paths: str | Path | Sequence[str | Path], experiment: Definition[Any] | str | None = None
) -> Runs:
    """Read runs that differ in nothing but the seed.

    Args:
        paths: Run folders, or a pattern such as ``"results/mnist-quick-seed*"``.
        experiment: As of ``load_run``.

    Raises:
        UsageError: There is no such folder, or the runs differ in more than the seed.
        RecordError, Failure: As of ``load_run``.
    """
    if isinstance(paths, str | Path):
        found = [*map(Path, sorted(glob.glob(str(Path(paths).expanduser()))))]
        found = [path for path in found if (path / "config.json").exists()]
        if not found:
            raise UsageError(f"{paths}: there is no such run folder")
    else:
        found = [*map(Path, paths)]
        if not found:
            raise UsageError("no run folder is named")
    return Runs([load_run(path, experiment) for path in found])


def check_same(runs: Sequence[Run]) -> None:
    """Refuse runs that differ in something else than the seed.

    Raises:
        UsageError: With what differs.
    """
    first, *others = runs
    config = first.experiment.named_now(first.config)
    for run in others:
        other = run.experiment.named_now(run.config)
        for key in sorted({*config, *other} - {"seed"}):
            if config.get(key) != other.get(key):
                raise UsageError(
                    f"{first.path.name} and {run.path.name} differ in {key}, not only in seed"
                )
    seeds = [run.config.get("seed") for run in runs]
    if len({*seeds}) < len(seeds):
        raise UsageError(f"the runs have the seeds {', '.join(map(str, seeds))}: some are equal")


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


def runs_figure(runs: Sequence[Run], columns: Sequence[str], arms: Sequence[str]) -> Figure:
    """Draw runs that differ in nothing but the seed; see ``Run.figure``."""
    from plasticity.figures.labels import looks_of
    from plasticity.figures.titles import title_of
    from plasticity.runs.drawing import done_of, figure_of, series_of

    for names, what in ((columns, "columns"), (arms, "arms")):
        if isinstance(names, str):
            raise UsageError(f"{what}={names!r}: a list of names, such as [{names!r}]")
    experiment = runs[0].experiment
    chosen = [run[name].path for run in runs for name in (arms or run.arms)]
    of_folder: dict[str, list[Path]] = {}
    for path in chosen:
        of_folder.setdefault(path.name, []).append(path)
    rows = {
        paths[0]: found
        for paths in of_folder.values()
        if (found := [r for r in map(recorded, paths) if r])
    }
    if not rows:
        raise Failure(f"{runs[0].path} holds no rows: it is not a run folder, or has just begun.")
    configs = {arm.path: arm.config for run in runs for arm in map(run.__getitem__, run.arms)}
    shown = {path: configs[path] for path in rows}
    there = {c for of in rows.values() for r in of for row in r for c in row}
    panels = [column_of(experiment, name) for name in columns]
    if not panels and (missing := [name for name in experiment.panels if name not in there]):
        raise Failure(
            f"rows of {runs[0].path} have no {missing[0]!r}: the run has just begun, or they were "
            "edited"
        )
    if missing := [name for name in columns if name not in there]:
        raise UsageError(
            f"no arm has a column {missing[0]!r}; there are {', '.join(sorted(there))}"
        )
    looks = [*looks_of(experiment, shown).values()]
    series = series_of(experiment, shown, rows)
    folders = [run.folder for run in runs]
    title = title_of(experiment, folders, shown, done_of(experiment, series))
    return figure_of(experiment, series, title, looks, panels)


def layers_figure(
    runs: Sequence[Run], chosen: Sequence[str], arms: Sequence[str]
) -> tuple[Figure, str]:
    """Draw and tabulate arms by their layers; see ``Run.by_layer``."""
    from plasticity.figures.by_layer import by_layer, layer_table, quantities
    from plasticity.figures.titles import title_of
    from plasticity.runs.drawing import done_of

    for names, what in ((chosen, "quantities"), (arms, "arms")):
        if isinstance(names, str):
            raise UsageError(f"{what}={names!r}: a list of names, such as [{names!r}]")
    experiment = runs[0].experiment
    of_arms = {name: [run[name] for run in runs] for name in (arms or runs[0].arms)}
    series = {name: [recorded(arm.path) for arm in of] for name, of in of_arms.items()}
    series = {name: of for name, of in series.items() if any(of)}
    there = quantities(experiment, series)
    if missing := [name for name in chosen if name not in there]:
        raise UsageError(
            f"nothing called {missing[0]!r} was measured by layers; "
            f"there are {', '.join(there) or 'no such columns'}"
        )
    if not there:
        raise UsageError(
            f"{runs[0].path} has no columns of layers: measure step, update_ratio or dormant"
        )
    shown = {of_arms[name][0].path: of_arms[name][0].config for name in series}
    folders = [run.folder for run in runs]
    title = title_of(experiment, folders, shown, done_of(experiment, series))
    title = title.encode("utf-8", "replace").decode().replace("$", r"\$")
    figure = by_layer(experiment, series, title, chosen)
    return figure, layer_table(experiment, series, chosen)


def _frame(runs: Sequence[Run]) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError as error:
        raise Failure("frame() needs pandas, which is not installed: pip install pandas") from error
    lines = [
        {"seed": run.config["seed"], "arm": name} | row
        for run in runs
        for name in run
        for row in recorded(run[name].path)
    ]
    return pandas.DataFrame(lines)
