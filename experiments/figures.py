"""Draw figures from recorded runs. Nothing is trained.

One RUN, finished or not, is drawn again. Several that differ in nothing but the seed become one
figure, of means over seeds. Without FILE.png, the figure lies here, under the name of the first.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.processes import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.cli import parse as cli
from plasticity.errors import Failure, UsageError


@dataclass(frozen=True)
class Figures:
    """What to draw."""

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...] [FILE.png]")
    ]
    """Run folders, as the command that trained them printed them, and the file to draw into."""
    arms: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: all)")
    ] = ()
    """Arms to draw, by their names or those of their folders."""
    columns: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="NAME ...",
            help_behavior_hint="(default: the experiment's, and what was measured)",
        ),
    ] = ()
    """Columns to draw; an unknown name is answered with a list."""
    by_layer: bool = False
    """Draw what was measured of each layer, a column of axes for each arm, and write the table
    beside it. --columns are then the names without the layer's number, such as step."""
    experiment: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="MODULE:NAME", help_behavior_hint="(default: the one that the run names)"
        ),
    ] = None
    """The experiment, if it is one of your own."""


def draw(command: Figures) -> Path:
    """Draw run folders and return the file.

    Raises:
        UsageError: There is no folder on the command line, or folders that do not belong together.
        Failure: A folder cannot be drawn.
    """
    paths = [*command.runs]
    target = paths.pop() if len(paths) > 1 and not paths[-1].is_dir() else None
    if not paths:
        raise UsageError("no run folder: say RUN [RUN ...] [FILE.png]")
    from plasticity.results.disk import replace_file
    from plasticity.runs.load import load_runs

    runs = load_runs(paths, command.experiment)
    target = target or Path(f"{runs.runs[0].path.name}.png")
    if not target.suffix:
        target = target.with_suffix(".png")
    table = ""
    if command.by_layer:
        figure = runs.by_layer(command.columns, arms=command.arms)
        table = runs.layer_table(command.columns, arms=command.arms)
    else:
        figure = runs.figure(command.columns, arms=command.arms)
    try:
        if not target.parent.is_dir():
            raise Failure(f"{target}: there is no folder {target.parent}; make it first")
        drawn = io.BytesIO()
        figure.savefig(drawn, format=target.suffix[1:])
        replace_file(target, drawn.getbuffer())  # whole, or not at all
        if table:
            replace_file(target.with_suffix(".md"), table.encode())
    except OSError as error:
        where = str(error.filename or target).removesuffix(".tmp")
        raise Failure(f"{where}: {error.strerror or error}") from error
    except ValueError as error:  # a format that is none
        raise Failure(str(error)) from error
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw what the command line asks for and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def figures() -> None:
        command = cli.in_one_line(
            tyro.cli, Figures, command="figures", description=__doc__,
            args=arguments,
        )  # fmt: skip
        print(draw(command))

    return cli.status_of(figures)


if __name__ == "__main__":
    sys.exit(main())
