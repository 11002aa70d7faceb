"""Say why an aged network no longer learns: change one thing, and see whether it learns again.

A run keeps its learners after 1, 2, 4, 8, ... tasks and at its end. A copy of each is changed once,
say, one layer's learning rate is multiplied, or dead units are revived, and learns the next tasks.
What brings it back to an untrained network's accuracy was the cause. Several runs that differ in
the seed give intervals and a verdict. Nothing of the runs is changed. It writes diagnosis.jsonl,
diagnosis.md and diagnosis.png into the first run's folder. Stopped at any moment, the same command
goes on.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.processes import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments.cli import parse as cli
from experiments.cli.recorded import Source
from plasticity.errors import UsageError
from plasticity.protocol.options import expanded

if TYPE_CHECKING:
    from plasticity.runs.diagnose import Planned


@dataclass(frozen=True)
class Diagnose:
    """What to diagnose."""

    runs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN ...", help_behavior_hint="(at least one)"),
    ]
    """Run folders that differ in nothing but the seed, as the command that trained them printed
    them."""
    arms: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: all)")
    ] = ()
    """Arms to diagnose, by their names or those of their folders."""
    at: Annotated[tuple[str, ...], tyro.conf.arg(metavar="AGE ...")] = ("last",)
    """Ages: how many tasks the learner has learned, 1, 2, 4, 8, ... or last. Older runs have kept
    the last only."""
    tasks: int = 10
    """Tasks that each branch learns, from the age on."""
    interventions: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: those that fit the arm)"),
    ] = ()
    """What is done, from the list above; none and untrained are always among it."""
    out: Annotated[
        Path | None, tyro.conf.arg(help_behavior_hint="(default: the first run's folder)")
    ] = None
    """Folder that gets what is written."""
    workers: int = 1
    """Processes that branches are shared among."""
    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)


def about() -> str:
    """Return what ``--help`` says first: what the command does, and the interventions."""
    from plasticity.interventions import INTERVENTIONS

    assert __doc__ is not None
    lines = [__doc__.strip(), "", "Interventions, each with its options after colons:"]
    for name, intervention in INTERVENTIONS.items():
        options = "".join(f":{n.upper()}" for n in vars(intervention))
        first = (type(intervention).__doc__ or "").splitlines()[0]
        lines.append(f"  {name}{options}: {first}")
    lines += [
        "",
        "LAYER is a number from 1, or first or last. FACTOR may be left out: it is what the layer "
        "has grown by since the first task. A plus sign joins several that act one after another: "
        "turns:3+unwind, young+rate:first.",
    ]
    return "\n".join(lines)


def diagnose_runs(command: Diagnose) -> None:
    """Diagnose the arms of runs, and write what came out.

    Raises:
        UsageError: There is no such arm, age or intervention, or one does not fit.
        Failure: A run cannot be used, or the data is not the run's.
    """
    from plasticity.results.record import read_run
    from plasticity.runs.diagnose import Planned, diagnose
    from plasticity.runs.load import Run, check_same
    from plasticity.studies.causes import write_causes

    if not command.runs:
        raise UsageError("RUN: name a run folder, or several that differ in the seed")
    folders = [read_run(expanded(path, "RUN")) for path in command.runs]
    experiment = command.source.experiment_of(folders[0])
    check_same([Run(folder, experiment) for folder in folders])
    out = folders[0].path if command.out is None else expanded(command.out, "--out").absolute()
    growing = diagnose(
        experiment,
        folders,
        arms=command.arms,
        at=command.at,
        tasks=command.tasks,
        interventions=command.interventions,
        dataset=command.source.dataset,
        data_root=command.source.data_root,
        out=out,
        workers=command.workers,
        modules=command.source.modules,
    )
    while True:
        try:
            event = next(growing)
        except StopIteration as stop:
            found = stop.value
            break
        if isinstance(event, Planned):
            say_plan(event, len(folders), named=bool(command.interventions))
    print(write_causes(experiment, found, out))


def say_plan(plan: Planned, runs: int, *, named: bool) -> None:
    """Print what is left out, why if it was named, and what is there already."""
    for remark in plan.remarks:
        print(remark)
    for arm, reasons in plan.left_out.items():
        if "all" in reasons:
            print(f"{arm}: left out: {reasons['all']}")
        elif named:
            for name, reason in reasons.items():
                print(f"{arm}: {name} is left out: {reason}")
        else:
            print(f"{arm}: what does not fit is left out: {', '.join(reasons)}")
    there = len(plan.branches) - len(plan.missing)
    also = f", {there} are there already" if there else ""
    print(f"{len(plan.branches)} branches of {runs} run{'s' * (runs > 1)}{also}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Diagnose what the command line asks for and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def command() -> None:
        diagnose_runs(
            cli.in_one_line(
                tyro.cli, Diagnose, command="diagnose", description=about(),
                args=arguments,
            )
        )  # fmt: skip

    return cli.status_of(
        command, "stopped: branches that are done are kept; the same command goes on."
    )


if __name__ == "__main__":
    sys.exit(main())
