"""List the commands, or run one: ``python -m experiments``, ``python -m experiments mnist ...``.

``python -m experiments mnist`` does what ``python -m experiments.mnist`` does. So does ``plasticity
mnist``, which is installed with the package, and also in a folder that has an ``experiments`` of
its own: there, ``python -m`` finds that one first.
"""

from __future__ import annotations

import sys
from typing import Any

from experiments.processes import interrupts

PROGRAM = "python -m experiments" if __name__ == "__main__" else "plasticity"


def summaries(folder: str | None = None) -> dict[str, str]:
    """Return the commands and the first line of what each says of itself; imports none of them.

    A command is a module of ``experiments`` that does something where it is run as a program.

    Args:
        folder: Where to look, by default here.
    """
    import ast
    from pathlib import Path

    found = {}
    for path in sorted(Path(folder or Path(__file__).parent).glob("[!_]*.py")):
        tree = ast.parse(path.read_bytes())
        conditions = [ast.unparse(node.test) for node in tree.body if isinstance(node, ast.If)]
        if "__name__ == '__main__'" in conditions:
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def main(arguments: list[str]) -> int:
    """Do what the command line asks for and return the exit status.

    Raises:
        SystemExit: With the exit status of the command that was run.
    """
    commands = summaries()
    if arguments and ":" in arguments[0]:
        from experiments.cli import calling
        from experiments.cli.parse import main as run_experiment
        from experiments.cli.parse import status_of

        calling.prefix, calling.own = f"{PROGRAM} ", arguments[0]
        found: list[Any] = []
        status = status_of(lambda: found.append(_own_experiment(arguments[0])))
        return status or run_experiment(found[0], arguments[1:])
    if arguments and arguments[0] in commands:
        import runpy

        from experiments.cli import calling

        calling.prefix = f"{PROGRAM} "  # in usage lines, and in commands that are advised
        command, *sys.argv[1:] = arguments
        runpy.run_module(f"experiments.{command}", run_name="__main__", alter_sys=True)
        return 0
    from experiments.cli.parse import status_of

    return status_of(lambda: answer(arguments, commands))


def _own_experiment(name: str) -> Any:
    """Return an experiment that a user wrote; its module is looked for in this folder, too."""
    from plasticity.protocol.names import find_experiment

    if "" not in sys.path:
        sys.path.append("")
    return find_experiment(name)


def answer(arguments: list[str], commands: dict[str, str]) -> None:
    """List the commands, or print the version.

    Raises:
        UsageError: Something else was asked for.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, commands))
        lines = [f"  {name:{width}}  {summary}" for name, summary in commands.items()]
        print(f"usage: {PROGRAM} COMMAND [OPTION ...]\n", *lines, sep="\n")
        print(f"\n{PROGRAM} COMMAND --help shows the options of a command.")
        print(f"{PROGRAM} --version prints the version.")
        return
    if arguments == ["--version"]:
        from plasticity import __version__

        print(f"quantum-plasticity {__version__}")
        return
    from difflib import get_close_matches

    from plasticity.errors import UsageError

    near = get_close_matches(arguments[0], commands, 1)
    way_out = f"did you mean {near[0]}?" if near else f"must be one of {', '.join(commands)}"
    raise UsageError(f"{arguments[0]}: no such command; {way_out}")


def script() -> None:
    """Run as a program."""
    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    script()
