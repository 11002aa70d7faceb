"""The command line that the experiments share: presets, options, error messages."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from experiments.parts import interrupts
from experiments.parts.experiment import Config, Experiment, Failure, Options, UsageError

Preset = TypeVar("Preset", bound=str)
Chosen = TypeVar("Chosen", bound=Options)
Parsed = TypeVar("Parsed")


def main(experiment: Experiment[Any], arguments: Sequence[str] | None = None) -> int:
    """Run an experiment from the command line and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def train() -> None:
        parsed = parse(experiment, arguments)
        from experiments.parts.running import run  # takes seconds

        run(experiment, *parsed)

    return status_of(train, "stopped: what is finished is kept; the same command goes on.")


def status_of(command: Callable[[], object], stopped: str = "stopped: nothing is saved.") -> int:
    """Do what a command asks for and return the exit status.

    0 for success, 2 for wrong use, 1 for a failure, 130 for Ctrl-C, 141 where nobody reads what is
    printed; what a user can cause ends in one or two lines on standard error.

    Args:
        command: Called.
        stopped: Said after Ctrl-C.
    """
    try:
        with interrupts.raised():
            try:
                command()
            finally:
                print(end="", flush=True)  # a closed pipe is found here, not when Python exits
    except BrokenPipeError:
        return interrupts.drop_output()
    except UsageError as error:
        print(f"error: {error} (see --help)", file=sys.stderr)
        return 2
    except Failure as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    return 0


@dataclass(frozen=True)
class Command(Generic[Preset, Chosen, Config]):
    """All that can be said on the command line."""

    preset: Preset
    """Protocol that the options not given are taken from: released has the numbers of the authors'
    program, deep its deepest circuit, matched treats the arms alike, resolved has levels that mean
    the same at every anisotropy, quick needs no download and little time."""
    options: Annotated[Chosen, tyro.conf.arg(name="")]
    config: Annotated[Config, tyro.conf.arg(name="")]


def parse(experiment: Experiment[Config], arguments: Sequence[str]) -> tuple[str, Options, Config]:
    """Read the command line: the preset first, whose numbers the other options then change.

    Raises:
        UsageError: With one line that says what is wrong.
        SystemExit: With status 0, after ``--help``.
    """
    presets = experiment.presets
    preset = next(iter(presets))
    for word, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        if name == "--preset":
            preset = value if equals else following
    if preset not in presets:
        raise UsageError(f"--preset {preset}: must be one of {', '.join(presets)}")
    options = experiment.options(networks=tuple(experiment.networks))
    default = Command(preset, options, presets[preset])
    # The presets' names and the own classes of options and config are known here only.
    kind: Any = Command[Literal[tuple(presets)], type(options), type(default.config)]  # type: ignore
    command: Command[str, Any, Config] = in_one_line(
        tyro.cli,
        kind,
        prog=f"python -m experiments.{experiment.name}",
        description=experiment.about,
        args=arguments,
        default=default,
    )
    if not command.options.networks:
        raise UsageError("--networks: name at least one")
    for network in command.options.networks:
        if network not in experiment.networks:
            choices = ", ".join(experiment.networks)
            raise UsageError(f"--networks {network}: must be among {choices}")
    return preset, command.options, command.config


def in_one_line(parse: Callable[..., Parsed], *arguments: Any, **options: Any) -> Parsed:
    """Call ``tyro.cli``, and turn its box of an error message into a line.

    Raises:
        UsageError: With that line.
        SystemExit: With status 0, after ``--help``.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return parse(*arguments, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
    lines = [line.strip("│ ") for line in complaint.getvalue().splitlines()]
    lines = [line for line in lines if line and not re.match(r"[╭╰]", line)]
    # What is wrong, on a line or more, stands above the first rule.
    text = " ".join(itertools.takewhile(lambda line: not line.startswith("─"), lines))
    if "Perhaps you meant:" in lines:
        text += f"; did you mean {lines[lines.index('Perhaps you meant:') + 1]}?"
    raise UsageError(text)
