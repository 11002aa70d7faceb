"""Recorded runs as values: their arms, alone or over seeds, summaries and figures of them.

Longer than 400 lines: one run and runs that differ in the seed have the same verbs.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity.errors import Failure, UsageError
from plasticity.figures.labels import in_order
from plasticity.protocol.columns import column_of
from plasticity.protocol.experiment import Definition
from plasticity.protocol.names import experiment_of
from plasticity.results.names import arm_name
from plasticity.results.reading import recorded
from plasticity.results.record import RunFolder, read_run
from plasticity.runs.recorded import RecordedArm, Summary, diagnosed, summarize

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from plasticity.runs.diagnose import Diagnosis


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
        about = self.experiment, self.folder
        if self._chosen is not None:
            chosen = self._chosen.items()
            return {name: RecordedArm(*about, name, path, there[path]) for name, path in chosen}
        found = {}
        for (path, config), name in zip(there.items(), names, strict=True):
            key = name if names.count(name) == 1 else path.name
            found[key] = RecordedArm(*about, key, path, config)
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
        """Diagnose the arm with all seeds; see ``RecordedArm.diagnose``.

        The file is that of the first run, unless ``out`` names another folder.
        """
        return diagnosed(
            self.of_seeds, at, interventions, tasks, dataset, data_root, out, workers, progress
        )


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
