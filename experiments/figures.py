"""Draw figures from recorded runs. Nothing is trained.

One RUN, finished or not, is drawn again. Several that differ in nothing but the seed become one
figure, of means over seeds. Without FILE.png, the figure lies here, under the name of the first.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.parts import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.parts.calling import called
from experiments.parts.cli import status_of
from experiments.parts.drawing import done_of, figure_of, recorded, series_of
from experiments.parts.experiment import Experiment, Failure, UsageError
from experiments.parts.labels import looks_of
from experiments.parts.titles import title_of

if TYPE_CHECKING:
    from plasticity.results.record import RunFolder

EXPERIMENTS = ("ant", "cifar", "mnist", "qdata")
SYNTAX = "RUN [RUN ...] [FILE.png]"


def experiment_of(folder: RunFolder) -> Experiment[Any]:
    """Return the experiment that a run is of.

    Raises:
        Failure: Its config names none of them.
    """
    name = folder.config.get("experiment")
    if name not in EXPERIMENTS:
        raise Failure(f"{folder.path / 'config.json'}: its experiment is {name!r:.40}")
    found: Experiment[Any] = importlib.import_module(f"experiments.{name}").EXPERIMENT
    return found


def draw(arguments: Sequence[str]) -> None:
    """Read the command line and draw run folders.

    Raises:
        UsageError: There is no folder on the command line, or folders that do not belong together.
        Failure: A folder cannot be drawn.
    """
    if "-h" in arguments or "--help" in arguments:
        print(called(f"usage: python -m experiments.figures [-h] {SYNTAX}\n\n{__doc__}"), end="")
        return
    if unknown := [word for word in arguments if word.startswith("-")]:
        raise UsageError(f"{unknown[0]}: say {SYNTAX}")
    paths = [Path(word) for word in arguments]
    target = paths.pop() if len(paths) > 1 and not paths[-1].is_dir() else None
    if not paths:
        raise UsageError(f"no run folder: say {SYNTAX}")
    from plasticity.results.record import RecordError, read_run

    try:
        folders = [read_run(path) for path in paths]
        experiment = experiment_of(folders[0])
        target = target or Path(f"{folders[0].path.name}.png")
        if not target.suffix:
            target = target.with_suffix(".png")
        if not target.parent.is_dir():
            raise Failure(f"{target}: there is no folder {target.parent}; make it first")
        draw_runs(experiment, folders, target)
    except OSError as error:
        where = str(error.filename or target).removesuffix(".tmp")
        raise Failure(f"{where}: {error.strerror or error}") from error
    except (RecordError, ValueError) as error:  # ValueError: a format that is none
        raise Failure(str(error)) from error
    print(target)


def draw_runs(experiment: Experiment[Any], folders: Sequence[RunFolder], target: Path) -> None:
    """Draw runs that differ in nothing but the seed.

    Raises:
        UsageError: They differ in something else.
        Failure: They have no rows, or not those of the experiment.
    """
    first = folders[0]
    config = experiment.named_now(first.config)
    for folder in folders[1:]:
        other = experiment.named_now(folder.config)
        for key in sorted({*config, *other} - {"seed"}):
            if config.get(key) != other.get(key):
                raise UsageError(
                    f"{first.path.name} and {folder.path.name} differ in {key}, not only in seed"
                )
    seeds = [folder.config["seed"] for folder in folders]
    if len({*seeds}) < len(seeds):
        raise UsageError(f"the runs have the seeds {', '.join(map(str, seeds))}: some are equal")
    arms = {path: arm for folder in folders for path, arm in folder.arms().items()}
    rows = {path: of_arm for path in arms if (of_arm := recorded(path))}
    if not rows:
        raise Failure(f"{first.path} holds no rows: it is not a run folder, or has just begun.")
    # An arm has the same folder name in the runs of all seeds.
    by_name = {path.name: path for path in rows}
    shown = {path: arms[path] for path in by_name.values()}
    runs = {path: [rows[other] for other in rows if other.name == path.name] for path in shown}
    series = series_of(experiment, shown, runs)
    columns = {
        column for runs in series.values() for rows in runs for row in rows for column in row
    }
    if missing := [panel.column for panel in experiment.panels if panel.column not in columns]:
        raise Failure(
            f"rows of {first.path} have no {missing[0]!r}: the run has just begun, or they were "
            "edited"
        )
    title = title_of(experiment, folders, shown, done_of(experiment, series))
    looks = [*looks_of(experiment, shown).values()]
    drawn = io.BytesIO()
    figure_of(experiment, series, title, looks).savefig(drawn, format=target.suffix[1:])
    from plasticity.results.disk import replace_file

    replace_file(target, drawn.getbuffer())  # whole, or not at all


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw what the command line asks for and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    return status_of(lambda: draw(arguments))


if __name__ == "__main__":
    sys.exit(main())
