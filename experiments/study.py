"""Train a study, arms with many seeds, on all cores or a cluster, and write its report.

What is complete is never trained again: the same command goes on, and the command of a cell typed
by hand, or run as a job by --list, counts as well. A report is written of what there is.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.processes import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import ast
import contextlib
import importlib
import json
import re
import runpy
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.cli import parse as cli
from experiments.cli.words import complain, in_shell
from plasticity.errors import Failure, UsageError
from plasticity.protocol.names import EXPERIMENTS, find_experiment
from plasticity.protocol.options import expanded
from plasticity.results.names import FRESH
from plasticity.studies.cells import Place, bits_of, cells, check_metrics, is_complete
from plasticity.studies.study import Study

STUDIES = Path(__file__).parent / "studies"
MAX_STUDY_BYTES = 2**24


@dataclass(frozen=True)
class Command:
    """What to do."""

    study: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME|FILE.py")]
    """A study from the list above, or a file of Python with a STUDY of your own."""
    seeds: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: the study's)")] = None
    """So many seeds: the first of the study; where it has fewer, also those that follow its
    largest."""
    workers: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: the physical cores; 1 on a GPU)")
    ] = None
    """Cells at a time on this machine."""
    cluster: Annotated[
        str | None,
        tyro.conf.arg(metavar="ADDRESS|FILE.json", help_behavior_hint="(default: this machine)"),
    ] = None
    """Address of a Dask scheduler, such as tcp://node1:8786, or its --scheduler-file: train on its
    workers."""
    results: Path = Path("results")
    """Folder of the run folders, and of studies/ with the reports."""
    dataset: Annotated[
        str | None,
        tyro.conf.arg(metavar="NAME|FILE.npz", help_behavior_hint="(default: the study's)"),
    ] = None
    """The study's data set, if its file lies elsewhere."""
    data_root: Annotated[
        Path | None, tyro.conf.arg(help_behavior_hint="(default: that of the experiment)")
    ] = None
    """Folder that data sets are downloaded or computed into, once."""
    list: tyro.conf.FlagCreatePairsOff[bool] = False
    """Train nothing: print the commands of the cells that are not complete, a line each."""
    report: tyro.conf.FlagCreatePairsOff[bool] = False
    """Train nothing: write the report of what there is."""
    records: Annotated[
        Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(default: run folders)")
    ] = None
    """With --report: read the numbers from records/ of an earlier report, not from run folders."""
    tune: tyro.conf.FlagCreatePairsOff[bool] = False
    """Try the learning rates, or what else the remedies are tuned by, on the study's tuning seeds,
    instead of the study itself."""

    def __post_init__(self) -> None:
        for name in ("seeds", "workers"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 10_000:
                raise UsageError(f"--{name} {value}: must be 1 to 10000")
        if self.list and self.report:
            raise UsageError("--list --report: say one of them")
        if self.records is not None and not self.report:
            raise UsageError("--records: with --report only")
        if self.cluster is not None and self.workers is not None:
            raise UsageError("--workers: the cluster says how many")


def summaries() -> dict[str, str]:
    """Return the studies that come with the program and a line on each; imports none of them."""
    return {
        path.stem.replace("_", "-"): (ast.get_docstring(ast.parse(path.read_bytes())) or "")
        .partition("\n")[0]
        for path in sorted(STUDIES.glob("[!_]*.py"))
    }  # fmt: skip


def find(name: str) -> Study:
    """Return a study by its name, or from a file.

    Raises:
        UsageError: There is none.
        Failure: The file cannot be run, or what it says is no study.
    """
    if not name.endswith(".py"):
        if name not in summaries():
            there = ", ".join(summaries())
            raise UsageError(f"{name}: no such study; there are {there}, or name a FILE.py")
        found = importlib.import_module(f"experiments.studies.{name.replace('-', '_')}").STUDY
        assert isinstance(found, Study)
        return found
    if not Path(name).is_file():
        raise UsageError(f"{name}: there is no such file")
    before = registered()
    try:
        if (size := Path(name).stat().st_size) > MAX_STUDY_BYTES:
            raise ValueError(f"it has {size} bytes; it may have {MAX_STUDY_BYTES} at most")
        with contextlib.redirect_stdout(sys.stderr):  # what --list prints are commands
            content = runpy.run_path(name)
    except (Exception, SystemExit) as error:  # it is the user's own, and may do anything
        line = (str(error).splitlines() or [""])[0]
        raise Failure(f"{name}: {type(error).__name__}: {line}") from error
    if not isinstance(content.get("STUDY"), Study):
        raise Failure(f"{name}: it has no STUDY = Study(...)")
    result: Study = content["STUDY"]
    # Cells import the module of the experiment, too, if it is one of your own.
    known = result.modules or ":" in result.experiment
    if not known and (own := only_here(result, before)):
        raise Failure(
            f"{name}: it registers {own}, which the commands of its cells do not know.\n"
            'Register it in a module, say mine.py, and give the study modules=("mine",).'
        )
    return result


def registered() -> dict[str, dict[str, Any]]:
    """Return what arms, metrics and presets can be named, by what it is and by its name."""
    from plasticity.metrics import METRICS  # takes seconds

    found: dict[str, dict[str, Any]] = {"metric": {**METRICS}}
    for name in EXPERIMENTS:
        experiment = find_experiment(name)
        found.setdefault("network", {}).update(experiment.registry.networks)
        found.setdefault("remedy", {}).update(experiment.registry.remedies)
        found[f"preset of {name}"] = {**experiment.presets}
    return found


def only_here(study: Study, before: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what a study names that was registered in this process since, or nothing."""
    words = {word for arm in study.arms for word in re.split(r"[+@]", arm.removeprefix(FRESH))}
    words |= {*study.metrics, study.preset}
    for what, now in registered().items():
        for name in sorted(words & {*now}):
            if now[name] is not before[what].get(name):
                return f"the {what} {name!r}"
    return ""


def carry_out(command: Command) -> None:
    """Do what the command line asks for.

    Raises:
        UsageError: There is no such study.
        Failure: Cells have failed, or nothing can be trained.
    """
    study = find(command.study)
    if command.seeds is not None:
        study = study.with_seeds(command.seeds)
    check_metrics(study)
    results = expanded(command.results, "--results").absolute()
    place = Place(command.dataset, command.data_root)
    if command.tune:
        from plasticity.studies.tuning import tuning_cells

        todo = [cell for some in tuning_cells(study, place).values() for cell in some]
    else:
        todo = cells(study, place)
    if command.list:
        for cell in todo:
            if not is_complete(cell, results):
                print(in_shell(cell.command(results)))
        return
    failed = []
    if not command.report:
        from plasticity.studies import workers

        address = address_in(command.cluster) if command.cluster else None
        failed = workers.train(todo, results, workers=command.workers, address=address)
        if study.diagnosed and not command.tune:
            from plasticity.studies.growing import grow

            folder = results / "studies" / f"{study.name}-{study.digest()}"
            grow(study, results, folder, place, command.workers or 1)
    for cell, why in failed:  # before the report, which may be refused; the command by itself
        complain(in_shell(cell.command(results)))
        complain(textwrap.indent(why, "  "))
    if command.records is None and (said := bits_of(todo, results)):
        complain(said)
    write(command, study, results, place)
    if failed:
        names = ", ".join(f"{cell.arm} seed {cell.seed}" for cell, _ in failed[:5])
        more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
        raise Failure(f"{len(failed)} of {len(todo)} cells failed: {names}{more}")


def write(command: Command, study: Study, results: Path, place: Place) -> None:
    """Write the report of a study, or of its tuning.

    Raises:
        Failure: One is there that has more, which is kept; or there is nothing to report yet.
    """
    folder = results / "studies" / f"{study.name}-{study.digest()}"
    if command.tune:
        from plasticity.studies.tuning import mean_scores, tuning_table, write_tuning

        scores = mean_scores(study, results, place)
        print(tuning_table(study, scores))
        print(f"tuning: {write_tuning(study, scores, folder)}")
        return
    from plasticity.studies import report

    if command.records is None:
        path = report.write_report(study, results, folder, place)
    else:
        from plasticity.studies.numbers import load_records

        path = report.report_on(load_records(expanded(command.records, "--records"), study), folder)
    print(f"report: {path}")
    if command.report and not report.complete_cells(folder):
        raise Failure(
            f"no seed of any arm is complete in {command.records or results}; the report says what "
            "is missing"
        )


def address_in(cluster: str) -> str:
    """Return the address in a scheduler file; what is no file's name is an address itself.

    Raises:
        Failure: There is no such file, or it names no address.
    """
    path = Path(cluster).expanduser()
    if "://" in cluster or not (path.suffix == ".json" or path.is_file()):
        return cluster
    try:
        address = json.loads(path.read_text())["address"]
    except OSError as error:
        raise Failure(f"--cluster {cluster}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Failure(f"--cluster {cluster}: it is no scheduler file") from error
    return str(address)


def about() -> str:
    """Return what ``--help`` says first: what the command does, and the studies there are."""
    assert __doc__ is not None
    lines = [__doc__.strip(), "", "Studies:"]
    return "\n".join([*lines, *(f"  {name}: {line}" for name, line in summaries().items())])


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def study() -> None:
        carry_out(
            cli.in_one_line(
                tyro.cli, Command, command="study", description=about(),
                args=arguments,
            )
        )  # fmt: skip

    return cli.status_of(study, "stopped: what is finished is kept; the same command goes on.")


if __name__ == "__main__":
    sys.exit(main())
