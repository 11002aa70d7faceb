"""Render an episode of a policy that a run of experiments.ant has saved, as a video.

python -m experiments.watch RUN out.mp4 renders the quantum arm's best policy, if there is one.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.processes import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.cli import parse as cli
from plasticity.errors import UsageError
from plasticity.rl.protocol import needed


@dataclass(frozen=True)
class Watch:
    """Render an episode of a saved policy, by its most likely actions."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    video: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")]
    """The video to write (.mp4, .gif)."""
    arm: str | None = None
    """Whose policy: an arm, or its folder, where several have one name; left out: the quantum one,
    if there is one."""
    policy: Literal["best", "last"] = "best"
    """The one with the highest evaluation return, or the last."""
    env: str | None = None
    """The run's environment, to be said if its name is MODULE:NAME. This option imports MODULE.
    For safety, the name is never taken from the run folder."""
    seed: int = 0
    """Of the episode's start."""
    steps: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: the whole episode)")
    ] = None
    """At most so many steps of the episode. Each is a frame."""
    size: Annotated[
        tuple[int, int] | None,
        tyro.conf.arg(
            metavar="WIDTH HEIGHT", help_behavior_hint="(default: the environment's own)"
        ),
    ] = None
    """Size of the frames, in pixels."""

    def __post_init__(self) -> None:
        if self.video.suffix not in (".mp4", ".gif"):
            raise UsageError(f"{self.video}: the video is an .mp4 or a .gif")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"--steps {self.steps}: must be 1 or more")
        for pixels in self.size or ():
            # Videos have even sizes; the limit is that of what is drawn off-screen.
            if not 16 <= pixels <= 4096 or pixels % 2:
                raise UsageError(f"--size {pixels}: must be an even number, 16 to 4096")


def parse(arguments: Sequence[str]) -> Watch:
    """Read the command line.

    Raises:
        UsageError: With one line that says what is wrong.
        SystemExit: With status 0, after ``--help``.
    """
    result: Watch = cli.in_one_line(
        tyro.cli, Watch, command="watch", description=__doc__, args=arguments
    )
    return result


def render(command: Watch) -> None:
    """Render a policy."""
    with needed():
        from plasticity.rl.video import watch

    line = watch(
        command.run, command.video, arm=command.arm, policy=command.policy, env_said=command.env,
        seed=command.seed, steps=command.steps, size=command.size,
    )  # fmt: skip
    print(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """Render what the command line asks for and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    return cli.status_of(lambda: render(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main())
