"""Time our quantum layer beside other libraries, and beside what the hardware can do.

For each shape of the project it times a step, forward and backward to the gradient of the angles
(forward alone for evaluations), of our layer and of other ways to have the same numbers. All
libraries take turns in one process. The command first checks that outputs and gradients agree.
Memory is measured in a process of its own for each.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.processes import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import contextlib
import sys
from collections.abc import Iterator, Sequence

import tyro

from experiments.benchmarks.options import Options
from experiments.cli.parse import in_one_line, status_of
from plasticity.errors import Failure
from plasticity.protocol.options import expanded


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line; raise UsageError with one line that says what is wrong."""
    result: Options = in_one_line(
        tyro.cli, Options, command="bench", description=__doc__, args=arguments
    )
    return result


def measure(options: Options) -> None:
    """Measure, print a table and save it.

    Raises:
        Failure: Results differ from ours, or nothing can be saved.
    """
    from experiments.benchmarks import stopwatch

    folder = expanded(options.results, "--results")
    with disk_errors():
        folder.mkdir(parents=True, exist_ok=True)
    report = stopwatch.run(options)
    with disk_errors():
        path = stopwatch.save(report, folder)
    print(f"\n{stopwatch.table(report)}\nsaved: {path}")


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Say what cannot be written, and why."""
    try:
        yield
    except OSError as error:
        what = "not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise Failure(f"{error.filename}: {what}; name other --results") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return status_of(lambda: measure(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main())
