"""Measure more of a recorded run, from the networks that it kept. Nothing is trained.

A run keeps its networks after tasks 0, 1, 2, 4, 8, ... and the last. What is measured of them is
written into measured.jsonl in each arm's folder, and drawn into the run's figure.png.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.processes import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from experiments.cli import parse as cli
from experiments.cli.recorded import Source
from plasticity.results.names import arm_name


@dataclass(frozen=True)
class Measure:
    """What to measure."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, as the command that trained it printed it."""
    metrics: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(required)")
    ] = ()
    """What to measure; an unknown name is answered with a list."""
    arms: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: all)")
    ] = ()
    """Arms to measure, by their names or those of their folders."""
    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)


def measure_run(command: Measure) -> None:
    """Measure the arms of a run.

    Raises:
        UsageError: There is no such metric or arm, or a metric needs the training itself.
        Failure: The run cannot be used, or the data is not the run's.
    """
    from plasticity.results.record import read_run
    from plasticity.runs.drawing import draw_run
    from plasticity.runs.measure import measure

    folder = read_run(command.run)
    experiment = command.source.experiment_of(folder)
    for done in measure(
        experiment,
        folder,
        command.metrics,
        command.arms,
        command.source.dataset,
        command.source.data_root,
    ):
        if done.remark:
            print(f"{arm_name(done.path)}: {done.remark}")
        if not done.networks:
            continue
        many = f"{done.networks} network{'s' if done.networks > 1 else ''}"
        file = done.path / "measured.jsonl"
        print(f"{arm_name(done.path)}: {', '.join(done.metrics)} of {many}: {file}")
    print(f"figure: {draw_run(experiment, folder)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def command() -> None:
        measure_run(
            cli.in_one_line(
                tyro.cli, Measure, command="measure", description=__doc__,
                args=arguments,
            )
        )  # fmt: skip

    return cli.status_of(command, "stopped: arms that were measured to the end are saved.")


if __name__ == "__main__":
    sys.exit(main())
