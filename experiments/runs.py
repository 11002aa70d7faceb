"""List, compare or delete recorded runs and their arms, with their size. Nothing is trained.

Without a RUN, all runs in --results are listed. Of one RUN, its settings and arms are listed; of
several, the settings in which they differ. --delete removes the runs, or with --arms only these.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.processes import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.cli import parse as cli
from experiments.cli.words import printable
from plasticity.errors import UsageError


@dataclass(frozen=True)
class Runs:
    """What to list, compare or delete."""

    runs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[RUN ...]", help_behavior_hint="(default: all)"),
    ] = ()
    """Run folders; without one, all in --results."""
    results: Path = Path("results")
    """Folder of run folders."""
    arms: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: all)")
    ] = ()
    """With --delete: only these arms, by their names or those of their folders."""
    delete: tyro.conf.FlagCreatePairsOff[bool] = False
    """Delete what is listed; it asks first."""
    yes: tyro.conf.FlagCreatePairsOff[bool] = False
    """With --delete: do not ask."""

    def __post_init__(self) -> None:
        if self.delete and not self.runs:
            raise UsageError("--delete: name the RUN folders")
        if (self.arms or self.yes) and not self.delete:
            raise UsageError(f"{'--arms' if self.arms else '--yes'}: with --delete only")


def carry_out(command: Runs) -> None:
    """Do what the command line asks for.

    Raises:
        UsageError: A run has no such arm.
        Failure: A folder is no run, is in use, or cannot be deleted.
    """
    from plasticity.runs.inventory import differences, stored_run, stored_runs

    if not command.runs:
        results = command.results.expanduser()
        lines = [("run", "arms", "rows", "MB")]
        for run in stored_runs(results) if results.is_dir() else ():
            total = sum(max(0, arm.rows) for arm in run.arms)
            lines.append(
                (str(run.folder.path), str(len(run.arms)), str(total), megabytes(run.num_bytes))
            )
        print_table(lines)
        return
    found = [stored_run(path.expanduser()) for path in command.runs]
    if command.delete:
        delete(found, command.arms, ask=not command.yes)
        return
    if len(found) > 1:
        named = [("setting", *(run.folder.path.name for run in found))]
        for key, values in differences([run.folder for run in found]).items():
            named.append((key, *(json.dumps(value) for value in values)))
        print_table(named)
        print()
    for run in found:
        if len(found) == 1:
            print_table([(k, json.dumps(v)) for k, v in run.folder.config.items()])
            print()
        lines = [(f"arm of {run.folder.path.name}", "rows", "MB", "folder")]
        for arm in run.arms:
            rows = str(arm.rows) if arm.rows >= 0 else "damaged"
            lines.append((arm.name, rows, megabytes(arm.num_bytes), arm.path.name))
        print_table(lines)


def delete(runs: Sequence[Any], names: Sequence[str], *, ask: bool) -> None:
    """Delete runs, or arms of them.

    Raises:
        UsageError: A run has no such arm, or the answer is not yes.
    """
    from plasticity.runs import inventory

    for run in runs:
        for name in names:
            if not any(name in (arm.name, arm.path.name) for arm in run.arms):
                has = ", ".join(arm.name for arm in run.arms) or "none"
                raise UsageError(f"--arms {name}: {run.folder.path.name} has {has}")
    chosen = {
        run.folder: [
            arm.path for arm in run.arms if not names or arm.name in names or arm.path.name in names
        ]
        for run in runs
    }
    for folder, arms in chosen.items():
        for path in arms if names else [folder.path]:
            print(printable(f"delete {path}"))
    if ask:
        if not sys.stdin.isatty():
            raise UsageError("--delete: nobody can be asked here; say --yes")
        if input("Delete? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was deleted")
            return
    inventory.delete(chosen, whole=not names)


def megabytes(num_bytes: int) -> str:
    """Return a size in megabytes."""
    return f"{num_bytes / 1e6:.1f}"


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Print lines in columns."""
    lines = [[printable(cell).replace("\n", "?") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (f"{cell:{width}}" for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def runs() -> None:
        carry_out(
            cli.in_one_line(
                tyro.cli, Runs, command="runs", description=__doc__,
                args=arguments,
            )
        )  # fmt: skip

    return cli.status_of(runs)


if __name__ == "__main__":
    sys.exit(main())
