"""Measure how accurate the networks of a run are on a device with noise and finitely many shots.

A run keeps its networks after tasks 0, 1, 2, 4, 8, ... and the last. Each arm with a quantum layer
is evaluated on each network's own test samples, with the layer as a device would run it: after a
number of shots, and at levels of noise, one kind at a time. Nothing is trained. It adds to
device.jsonl in each arm's folder what is not there yet, and writes device.md and device.png into
the run's.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.processes import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import contextlib
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.cli import parse as cli
from experiments.cli.recorded import Source
from plasticity.errors import Failure, UsageError
from plasticity.figures.labels import labels_of, looks_of
from plasticity.figures.titles import title_of
from plasticity.protocol.experiment import Definition
from plasticity.protocol.options import MAY_BE_EMPTY
from plasticity.results.names import arm_name
from plasticity.runs.restore import find_arms, load_network, networks_of, open_records, untrained

if TYPE_CHECKING:
    from plasticity.on_device.conditions import Condition
    from plasticity.protocol.supervised import Supervised
    from plasticity.results.record import ArmRecord, RunFolder


@dataclass(frozen=True)
class Device:
    """What a device is like."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, as the command that trained it printed it."""
    arms: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: all with a circuit)"),
    ] = ()
    """Arms to evaluate, by their names or those of their folders."""
    shots: Annotated[tuple[int, ...], MAY_BE_EMPTY] = (100, 1_000, 10_000, 100_000, 1_000_000)
    """Measurements of each sample, without noise and at the levels to quote: two-qubit gates
    depolarized with probability 0.001, bits read wrongly with probability 0.01."""
    depolarizing: Annotated[tuple[float, ...], MAY_BE_EMPTY] = (
        0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2,
    )  # fmt: skip
    """Probabilities with which the two qubits of a gate are replaced by the maximally mixed
    state."""
    readout_error: Annotated[tuple[float, ...], MAY_BE_EMPTY] = (0.0, 1e-3, 1e-2, 3e-2, 1e-1)
    """Probabilities to read a bit wrongly."""
    amplitude_damping: Annotated[tuple[float, ...], MAY_BE_EMPTY] = ()
    """Probabilities with which a qubit in |1> falls to |0> during a gate."""
    seed: int = 0
    """Random seed of the shots. Another seed evaluates the conditions again."""
    qasm: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write each arm's last circuit as OpenQASM 3: circuit.qasm in its folder. Nothing is
    evaluated, unless conditions are named beside it."""
    source: Annotated[Source, tyro.conf.arg(name="")] = field(default_factory=Source)

    def __post_init__(self) -> None:
        for name, levels in self.levels.items():
            for level in levels:
                if not 0 <= level <= 1:
                    option = name.replace("_", "-")
                    raise UsageError(f"--{option} {level:g}: a probability, 0 to 1")
        for count in self.shots:
            if not 1 <= count <= 10**12:
                raise UsageError(f"--shots {count}: 1 to 10^12 measurements of each sample")
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"--seed {self.seed}: must be 0 to 2**64 - 1")
        if not self.shots and not any(level for of in self.levels.values() for level in of):
            raise UsageError("--shots: no shots and no noise are what the run has recorded")

    @property
    def evaluates(self) -> bool:
        """Return whether there is more to do than to write circuits."""
        return not self.qasm or any(
            getattr(self, f.name) != f.default
            for f in dataclasses.fields(self)
            if f.name in ("shots", "seed", *self.levels)
        )

    @property
    def levels(self) -> dict[str, tuple[float, ...]]:
        """Return levels of noise by kind."""
        return {
            "depolarizing": self.depolarizing,
            "readout_error": self.readout_error,
            "amplitude_damping": self.amplitude_damping,
        }


def evaluate_run(command: Device) -> None:
    """Evaluate the arms of a run that have a circuit.

    Raises:
        UsageError: There is no such arm, or none with a circuit.
        Failure: The run cannot be used, or the data is not the run's.
    """
    from plasticity.on_device.conditions import conditions_for
    from plasticity.results.record import read_run
    from plasticity.runs.progress import progress_bar

    with contextlib.ExitStack() as opened:
        if command.qasm:
            check_qiskit()
        folder = read_run(command.run)
        experiment = command.source.experiment_of(folder)
        if not experiment.metrics:
            raise UsageError(f"{folder.path}: runs of {experiment.name} have no tasks to evaluate")
        there = folder.arms()
        arms = find_arms(experiment, there, command.arms, "experiments.device")
        records = open_records(folder, arms, opened)
        for path in arms:
            if path not in records:
                print(f"{arm_name(path)}: no task is finished yet")
        ready: dict[Path, Supervised] = {}
        unfit: dict[str, str] = {}
        for path, record in records.items():
            arm, remark = untrained(
                experiment,
                folder,
                arms[path],
                record,
                command.source.dataset,
                command.source.data_root,
            )
            if remark:
                print(f"{arm_name(path)}: {remark}")
            if why := unfit_for_device(arm):
                unfit[arm_name(path)] = why
            else:
                ready[path] = arm
        if unfit and (command.arms or not ready):
            reasons = "; ".join(f"{name}: {why}" for name, why in unfit.items())
            raise UsageError(f"no device can run these arms of {folder.path.name}: {reasons}")
        for name, why in unfit.items():
            print(f"{name}: left out: {why}")
        conditions = conditions_for(command.shots, **command.levels)
        # All of them first: what is wrong with the last shows before the first is evaluated.
        before = {path: evaluated(path) for path in ready} if command.evaluates else {}
        for path, arm in ready.items():
            record, name = records[path], arm_name(path)
            networks = networks_of(record)
            if command.evaluates:
                rows = Rows(record, before[path], conditions, command.seed)
                places = [arm.stream[place].index for place, _ in networks]
                total = len(networks) * len(conditions)
                left = sum(len(rows.missing(task)) for task in places)
                with progress_bar(
                    total=total, initial=total - left, desc=name, unit="condition"
                ) as bar:
                    add_rows(rows, arm, networks, bar.update)
                many = f"{len(networks)} network{'s' if len(networks) > 1 else ''}"
                there_already = f", {total - left} of {total} were there" if left < total else ""
                print(
                    f"{name}: {len(conditions)} conditions of {many}{there_already}: "
                    f"{path / 'device.jsonl'}"
                )
            if command.qasm:
                place, state = networks[-1]
                load_network(arm.learner, state, arm.stream[place].index)
                print(f"{name}: {export(record, arm)}")
        if command.evaluates:
            print(report(experiment, folder, there))


def unfit_for_device(arm: Supervised) -> str:
    """Return why no device can run an arm, or nothing."""
    from plasticity.on_device.conditions import circuits_of

    try:
        return "" if circuits_of(arm.learner.network) else "no circuit in it"
    except (TypeError, ValueError) as error:
        return str(error)


class Rows:
    """An arm's rows in device.jsonl: those that are there, and those that are asked for.

    Rows stand by task, and within a task in the order in which conditions were first asked for. So
    the file has the same bytes whether or not the command was stopped in between.

    Args:
        record: Of the arm.
        there: Its rows so far.
        conditions: Those asked for.
        seed: Of the shots.
    """

    def __init__(
        self,
        record: ArmRecord,
        there: Sequence[Mapping[str, Any]],
        conditions: Sequence[Condition],
        seed: int,
    ) -> None:
        self.record, self.conditions, self.seed = record, conditions, seed
        self._rows = {(row["task"], self._values(row)): dict(row) for row in there}
        asked = (self._values(condition.columns) for condition in conditions)
        ordered = dict.fromkeys([*(values for _, values in self._rows), *asked])
        self._order = {values: place for place, values in enumerate(ordered)}

    def missing(self, task: int) -> list[Condition]:
        """Return the conditions of a task that are asked for and not there with this seed."""
        found = (self._rows.get((task, self._values(c.columns))) for c in self.conditions)
        return [
            condition
            for condition, row in zip(self.conditions, found, strict=True)
            if row is None or row.get("seed", 0) != self.seed
        ]

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, in the place of those of the same condition, and write all."""
        of_seed = {"seed": self.seed} if self.seed else {}
        for row in rows:
            self._rows[row["task"], self._values(row)] = {**row, **of_seed}
        keys = sorted(self._rows, key=lambda key: (key[0], self._order[key[1]]))
        lines = (json.dumps(self._rows[key]).encode() + b"\n" for key in keys)
        self.record.save_bytes("device.jsonl", b"".join(lines))

    def _values(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        from plasticity.on_device.conditions import EXACT

        return tuple(row[name] for name in EXACT.columns)


def add_rows(
    rows: Rows, arm: Supervised, networks: Sequence[tuple[int, Any]], advance: Any
) -> None:
    """Evaluate an arm under the conditions that are missing, and write the rows of each network.

    Args:
        rows: Those of the arm.
        arm: Untrained.
        networks: Places in the arm's stream and the network's state after each.
        advance: Told of each row.

    Raises:
        Failure: A state does not fit the arm's network.
    """
    from plasticity.on_device.conditions import generator_of_shots, rows_of_network

    name = rows.record.path.name  # the shots depend on it, beside the seed
    for place, state in networks:
        task = arm.stream[place]
        if missing := rows.missing(task.index):
            load_network(arm.learner, state, task.index)
            generator = generator_of_shots(rows.seed, name, task.index, arm.learner.device)
            rows.add(rows_of_network(arm.learner, task, missing, generator, advance))


def report(experiment: Definition[Any], folder: RunFolder, arms: Mapping[Path, Any]) -> str:
    """Write table and figure of all arms of a run that were evaluated, and return the table."""
    from plasticity.on_device.figure import figure
    from plasticity.on_device.table import table

    with folder.locked():
        labels = labels_of(experiment, arms)
        rows = {label: found for path, label in labels.items() if (found := evaluated(path))}
        text = table(rows)
        folder.save_text("device.md", text)
        shown = {path: arms[path] for path, label in labels.items() if label in rows}
        done = 1 + max(row["task"] for of_arm in rows.values() for row in of_arm)
        title = title_of(experiment, [folder], shown, done)
        looks = [look for path, look in looks_of(experiment, arms).items() if labels[path] in rows]
        path = folder.save_figure("device.png", figure(rows, title, looks))
    return f"{text}\nfigure: {path}"


def evaluated(path: Path) -> list[dict[str, Any]]:
    """Return the rows of an arm's device.jsonl, if there is one.

    Raises:
        Failure: They are not those that are written here.
    """
    from plasticity.on_device.conditions import COLUMNS, EXACT
    from plasticity.results.record import read_rows

    rows = read_rows(path, "device.jsonl")
    # The seed of the shots is there where it is not 0.
    sound = all(
        {*row} - {"seed"} == {*COLUMNS}
        and all(value is None or isinstance(value, int | float) for value in row.values())
        for row in rows
    )
    exact = {row["task"] for row in rows if EXACT.columns.items() <= row.items()} if sound else {}
    if not sound or any(row["task"] not in exact for row in rows):
        text = "was edited, or another version wrote it.\nRemove it and evaluate the arm again"
        raise Failure(f"{path / 'device.jsonl'} {text}")
    return rows


def check_qiskit() -> None:
    """Look for what writes OpenQASM 3, before anything is evaluated.

    Raises:
        Failure: It is not installed.
    """
    from importlib.util import find_spec

    for module in ("qiskit", "qiskit_qasm3_import"):
        if find_spec(module) is None:
            way_out = "pip install 'quantum-plasticity[qiskit]'"
            raise Failure(f"--qasm needs {module}, which is not installed: {way_out}")


def export(record: ArmRecord, arm: Supervised) -> str:
    """Write the circuit of an arm's network as it is now, and return where it is and how large.

    Raises:
        Failure: It cannot be written as OpenQASM 3.
    """
    from plasticity.on_device.conditions import circuits_of
    from plasticity.quantum.export import count_gates, to_qasm3

    circuit = circuits_of(arm.learner.network)[0]
    try:
        path = record.save_bytes("circuit.qasm", to_qasm3(circuit).encode())
        return f"{path}: {count_gates(circuit)}"
    except (ImportError, TypeError, ValueError, RuntimeError) as error:
        raise Failure(f"{record.path}: no OpenQASM 3 of its circuit: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate what the command line asks for and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def evaluate() -> None:
        evaluate_run(
            cli.in_one_line(
                tyro.cli, Device, command="device", description=__doc__,
                args=arguments,
            )
        )  # fmt: skip

    return cli.status_of(evaluate, "stopped: what is evaluated is kept; the same command goes on.")


if __name__ == "__main__":
    sys.exit(main())
