"""The command line that the experiments share: presets, arms, options, error messages."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import itertools
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from experiments.cli import calling
from experiments.cli.about import about, about_presets
from experiments.cli.words import complain
from experiments.processes import interrupts
from plasticity.errors import PlasticityError, UsageError
from plasticity.protocol.arms import ArmConfig, optimizer_name, with_optimizer
from plasticity.protocol.choices import Choice, check_arm
from plasticity.protocol.experiment import Definition
from plasticity.protocol.names import EXPERIMENTS, import_modules
from plasticity.protocol.options import Config, Options

Name = TypeVar("Name", bound=str)
OfArms = TypeVar("OfArms")
Chosen = TypeVar("Chosen", bound=Options)
Parsed = TypeVar("Parsed")


def main(experiment: Definition[Any], arguments: Sequence[str] | None = None) -> int:
    """Run an experiment from the command line and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def train() -> None:
        parsed = parse(experiment, arguments)
        from experiments.cli.train import run  # takes seconds

        run(experiment, *parsed)

    return status_of(train, "stopped: what is finished is kept; the same command goes on.")


def status_of(command: Callable[[], object], stopped: str = "stopped: nothing is saved.") -> int:
    """Do what a command asks for and return the exit status.

    0 for success, 2 for wrong use, 1 for a failure, 75 (EX_TEMPFAIL of sysexits.h) where another
    process does the same just now, 130 for Ctrl-C, 141 where nobody reads what is printed; what a
    user or a system can cause ends in one or two lines on standard error.

    Args:
        command: Called.
        stopped: Said after Ctrl-C.
    """
    status = 0
    try:
        with interrupts.raised():
            try:
                command()
            except PlasticityError as error:
                status = error.status
                way_out = " (see --help)" if isinstance(error, UsageError) else ""
                complain(f"error: {error}{way_out}")
            finally:
                print(end="", flush=True)  # a closed pipe is found here, not when Python exits
    except BrokenPipeError:
        return interrupts.drop_output()
    except KeyboardInterrupt:
        status = 130
        complain(stopped)
    except (OSError, MemoryError, RuntimeError, ImportError, SystemError) as error:
        if isinstance(error, MemoryError):
            # What the functions on the way hold is the memory that the message needs.
            traceback.clear_frames(error.__traceback__)
        try:
            why = reason_of_system(error)
        except MemoryError:
            why = "there is not enough memory"
        if not why:
            raise
        if not status:  # else it was said why, and the output is full as well
            status = 1
            complain(f"error: {why}")
    try:
        print(end="", flush=True)
    except OSError:  # the disk is full that the output goes to; it was said above
        interrupts.drop_output(sys.stdout)
    return status


def reason_of_system(error: Exception) -> str:
    """Return what the system has no more of or does not let us do; nothing if it is no such error.

    The library words what it expects. This is the rest: whatever a command does, files can be out
    of reach, the memory or the number of threads too small.
    """
    if isinstance(error, OSError):
        what = error.strerror or str(error) or type(error).__name__
        if isinstance(error, FileNotFoundError) and not error.filename:
            what = "the folder that we are in is no longer there"
        return f"{os.fsdecode(error.filename)}: {what}" if error.filename else what
    line = (str(error).splitlines() or [""])[0]
    # torch raises RuntimeError for want of memory, Python for want of threads.
    if isinstance(error, ImportError) and "Too many open files" in line:
        return f"the system lets us open no more files ({line:.120})"
    if "can't start new thread" in line:
        return f"the system lets us start no more threads or processes ({line:.120})"
    if isinstance(error, MemoryError) or _NO_MEMORY.search(line):
        wanted = _WANTED.search(line)
        missing = f" ({wanted[1]} at once)" if wanted else ""
        return (
            f"there is not enough memory{missing}: take smaller networks, fewer qubits or smaller "
            "batches"
        )
    return ""


# torch says it in its own words, the loader of libraries in two ways. The interpreter, where no
# memory is left for the error itself, says that there was none. To compile these takes memory, too.
_NO_MEMORY = re.compile(
    r"can't allocate memory|out of memory|failed to map segment|Cannot allocate memory"
    r"|without exception set|without setting an exception"
)
_WANTED = re.compile(r"allocate (\d\S* \w+)")


FLAT = tyro.conf.arg(name="", help="")
"""For a group of options without a name. tyro looks for a help that is not said in the source, and
parses whole files for that."""


@dataclass(frozen=True)
class Command(Generic[Name, Chosen, Config, OfArms]):
    """All that can be said on the command line."""

    preset: Name
    options: Annotated[Chosen, FLAT]
    config: Annotated[Config, FLAT]
    of_arms: Annotated[OfArms, FLAT]


def parse(experiment: Definition[Any], arguments: Sequence[str]) -> tuple[Choice, Options]:
    """Read the command line: preset and arms first, whose numbers the other options then change.

    Returns:
        What is trained; where, and what is measured.

    Raises:
        UsageError: With one line that says what is wrong.
        SystemExit: With status 0, after ``--help``.
    """
    import_modules(values_of(arguments, "--import"))
    presets = experiment.presets
    unsaid = "" if "--preset" in arguments else next(iter(presets))
    preset = (values_of(arguments, "--preset") or [unsaid])[0]
    if preset not in presets:
        raise UsageError(f"--preset {preset}: must be one of {', '.join(presets)}")
    chosen = presets[preset]
    if sum(word.partition("=")[0] == "--arms" for word in arguments) > 1:
        raise UsageError("--arms: say it once, with all arms")
    if arguments and arguments[0] in presets:
        raise UsageError(f"{arguments[0]}: did you mean --preset {arguments[0]}?")
    names = values_of(arguments, "--arms") or [*chosen.arms]
    if any(word in ("--arms", "--arms=") for word in arguments) and not values_of(
        arguments, "--arms"
    ):
        raise UsageError(f"--arms: name at least one; the preset has {', '.join(chosen.arms)}")
    arms = {}
    for name in names:
        if name in arms:
            raise UsageError(f"--arms: {name} is there twice")
        try:
            arms[name] = experiment.registry.resolve(name, chosen.arms)
        except KeyError as error:
            commas = "; spaces separate names, not commas" if "," in name else ""
            raise UsageError(f"--arms {name}: {error.args[0]}{commas}") from error
        for optimizer in values_of(arguments, f"--{name}.optimizer")[:1]:
            try:
                arms[name] = with_optimizer(arms[name], optimizer, experiment.registry.optimizers)
            except KeyError as error:
                raise UsageError(f"--{name}.optimizer {optimizer}: {error.args[0]}") from error
    of_arms = dataclasses.make_dataclass(
        "OfArms",
        [
            (f"arm_{k}", Annotated[type(v), _named(name, v)], dataclasses.field(default=v))
            for k, (name, v) in enumerate((n, options_of(experiment, a)) for n, a in arms.items())
        ],
        frozen=True,
    )
    options = experiment.options(arms=tuple(names))
    if chosen.metrics:
        options = dataclasses.replace(options, metrics=chosen.metrics)  # type: ignore[call-arg]
    default = Command(preset, options, chosen.config, of_arms())
    named: Any = Literal[tuple(presets)]
    first = next(iter(presets))
    now = "" if preset == first else f", now: {preset}"
    hint = f"(default: {first}{now})"
    # The presets' names and the own classes of options and config are known here only.
    kind: Any = Command[  # type: ignore[misc]
        Annotated[named, tyro.conf.arg(help=about_presets(experiment), help_behavior_hint=hint)],
        type(options),
        type(chosen.config),
        of_arms,
    ]
    try:
        command: Command[str, Any, Any, Any] = in_one_line(
            tyro.cli,
            kind,
            command=command_of(experiment),
            description=about(experiment),
            args=arguments,
            default=default,
        )
    except UsageError as error:
        text = of_an_arm(str(error), arms)
        raise UsageError(of_another_arm(text, experiment, arms, chosen.arms)) from error
    if command.options.arms != tuple(names):
        raise UsageError("--arms: say it once, with all arms")
    for k, (name, arm) in enumerate(arms.items()):
        arms[name] = arm_of(getattr(command.of_arms, f"arm_{k}"), arm)
        check_arm(arms[name], name)
    return Choice(preset, command.config, arms), command.options


def command_of(experiment: Definition[Any]) -> str:
    """Return how the command of an experiment is called, after what all commands begin with."""
    if experiment.name in EXPERIMENTS:
        return experiment.name
    return calling.own or experiment.name


def of_an_arm(text: str, arms: Mapping[str, ArmConfig]) -> str:
    """Return what a network or a remedy refused, by the name of the option."""
    inside = re.match(r"Error parsing of-arms\.arm-(\d+)\.(?:remedy-(\d+)|(\w+)): ", text)
    if not inside:
        return text
    name, arm = [*arms.items()][int(inside[1])]
    remedy = f"{[*arm.remedies][int(inside[2])]}." if inside[2] else ""
    if inside[3] == "optimizer":
        remedy = "optimizer."
    return f"--{name}.{remedy}{text[inside.end() :]}"


def of_another_arm(
    text: str,
    experiment: Definition[Any],
    arms: Mapping[str, ArmConfig],
    of_preset: Mapping[str, ArmConfig],
) -> str:
    """Return what was refused, or that the option is one of an arm that is not trained."""
    option = re.match(r"--([^.\s]+)\.\S+(?=: .* no such option)", text)
    if option and option[1] not in arms:
        with contextlib.suppress(KeyError):  # there is no such arm
            experiment.registry.resolve(option[1], of_preset)
            return f"{option[0]}: the arm {option[1]} is not among --arms {' '.join(arms)}"
    return text


def values_of(arguments: Sequence[str], option: str) -> list[str]:
    """Return the words that follow an option, where it is said last."""
    words: list[str] = []
    for k, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name == option:
            following = itertools.takewhile(lambda w: not w.startswith("-"), arguments[k + 1 :])
            words = [value] if equals else [*following]
    return words


def description_of(value: Any) -> str:
    """Return what the docstring of a value's class says before its attributes."""
    return (inspect.getdoc(type(value)) or "").partition("\n\nAttributes:")[0]


def _named(name: str, value: Any) -> Any:
    """Return how the options of a value are shown: under a name, with what the value is."""
    return tyro.conf.arg(name=name, help=description_of(value))


def options_of(experiment: Definition[Any], arm: ArmConfig) -> Any:
    """Return what can be said of an arm, as a dataclass: the options of all its parts."""
    of_tasks = experiment.progress.unit == "task"
    epochs = (
        f"Passes over the {'training samples of a task' if of_tasks else 'steps of a rollout'}."
    )
    optimizers = experiment.registry.optimizers
    names: Any = Literal[tuple(optimizers)]
    kind = optimizer_name(arm.optimizer, optimizers)
    of_optimizer = tyro.conf.arg(help=description_of(arm.optimizer))
    fields: list[tuple[str, Any, Any]] = [
        ("network", Annotated[type(arm.network), FLAT], arm.network),
        ("optimizer", Annotated[type(arm.optimizer), of_optimizer], arm.optimizer),
        ("epochs", Annotated[int, tyro.conf.arg(help=epochs)], arm.epochs),
        ("inputs", Annotated[type(arm.inputs), FLAT], arm.inputs),
    ]
    if len(optimizers) > 1:
        help_text = "Optimizer; one that the preset does not have begins with its own numbers."
        fields.insert(
            1, ("kind", Annotated[names, tyro.conf.arg(name="optimizer", help=help_text)], kind)
        )
    fields += [
        (f"remedy_{k}", Annotated[type(remedy), _named(name, remedy)], remedy)
        for k, (name, remedy) in enumerate(arm.remedies.items())
    ]
    return dataclasses.make_dataclass(
        type(arm.network).__name__,
        [(n, t, dataclasses.field(default_factory=lambda v=v: v)) for n, t, v in fields],  # type: ignore[misc]
        frozen=True,
        namespace={"__doc__": (type(arm.network).__doc__ or "").replace("``", "")},
    )()


def arm_of(options: Any, arm: ArmConfig) -> ArmConfig:
    """Return an arm with what was said of it."""
    remedies = {name: getattr(options, f"remedy_{k}") for k, name in enumerate(arm.remedies)}
    return dataclasses.replace(
        arm, network=options.network, optimizer=options.optimizer, epochs=options.epochs,
        inputs=options.inputs, remedies=remedies,
    )  # fmt: skip


KINDS = {
    r"invalid literal for int\(\) with base \d+: '(.*)'": "must be a whole number",
    r"could not convert string to float: '(.*)'": "must be a number",
    r"Could not find valid parse for arguments: \['(.*)'\]": "not what this option takes",
    r"no type matching .* could be instantiated from \['(.*?)'\]\. Got errors.*": (
        "not what this option takes"
    ),
}
"""What is said of words that an option cannot take, in place of what Python and tyro say."""


def in_one_line(
    parse: Callable[..., Parsed],
    *arguments: Any,
    command: str,
    description: str | None,
    **options: Any,
) -> Parsed:
    """Call ``tyro.cli``, and turn its box of an error message into a line.

    Args:
        parse: ``tyro.cli``.
        arguments: Its positional ones.
        command: Name of the command.
        description: What ``--help`` says of it.
        options: Others of ``tyro.cli``.

    Raises:
        UsageError: With that line.
        SystemExit: With status 0, after ``--help``.
    """
    program, text = calling.prefix + command, calling.called(description or "")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return parse(
                *arguments,
                prog=calling.prefix + command,
                description=calling.called(description or ""),
                **options,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
    lines = [line.strip("│ ") for line in complaint.getvalue().splitlines()]
    lines = [line for line in lines if line and not re.match(r"[╭╰]", line)]
    if set("".join(lines[1:2])) == {"-"}:  # a title: an output that knows ASCII only has no boxes
        del lines[:2]
    # What is wrong, on a line or more, stands above the first rule.
    text = " ".join(itertools.takewhile(lambda line: line.strip("─-"), lines))
    words = text.removeprefix("Unrecognized options: ").split(", ")
    unknown = [word.partition("=")[0] for word in words if word.startswith("--")]
    if unknown and text.startswith("Unrecognized options: "):  # and their values
        text = f"{', '.join(unknown)}: {program} has no such option"
    elif text.startswith("Unrecognized options: "):
        stray = text.removeprefix("Unrecognized options: ")
        text = f"{stray}: {program} has nothing that takes this; options begin with --"
    for pattern, meaning in KINDS.items():
        if refused := re.fullmatch(rf"Error parsing (\S+): {pattern}", text):
            given = refused[2].replace("', '", " ")
            text = f"{refused[1]} {given}: {meaning}"
    if "Perhaps you meant:" in lines:
        text += f"; did you mean {lines[lines.index('Perhaps you meant:') + 1]}?"
    raise UsageError(text)
