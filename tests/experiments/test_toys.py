"""A new network, remedy and metric work in every command that learns a stream of tasks."""

import functools
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.cli import parse as cli
from plasticity.results.record import read_rows
from plasticity.runs import drawing
from tests.experiments import toys
from tests.experiments.runs import (
    EXPERIMENTS,
    Stop,
    arm_folders,
    contents,
    die,
    finish,
    interrupt,
    on_call,
    only,
    rows_of,
    run_folder,
    start,
    tiny_command,
)
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("empty_folder")

ARMS = ("toy", "qnn+toy-remedy")
UPDATE = ("plasticity.learning.learner:Learner", "update")
APPEND = ("plasticity.results.record:ArmRecord", "append")
COLUMNS = {"toy_metric_size", "toy_metric_spread"}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, name, value in toys.ENTRIES:
        monkeypatch.setitem(registry, name, value)


def toy_command(name: str, folder: Path) -> list[str]:
    options = ["--toy.spread=0.2", "--qnn+toy-remedy.depth=2", "--toy.epochs=2",
               "--qnn+toy-remedy.epochs=2"]  # fmt: skip
    return [*only(tiny_command(name, folder), *ARMS), *options, "--metrics", "toy_metric"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    kept, draw = [], drawing.learning_curves

    def keep(*arguments: Any, **more: Any) -> Figure:
        kept.append(draw(*arguments, **more))
        return kept[-1]

    monkeypatch.setattr(drawing, "learning_curves", keep)
    return kept


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_toys_train_and_are_drawn_and_exported(
    name: str, tmp_path: Path, drawn: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = EXPERIMENTS[name]
    folder = finish(toy_command(name, tmp_path), experiment)
    assert {*arm_folders(folder)} == {*ARMS}
    printed = capsys.readouterr().out
    (figure,) = drawn
    shown = [axes for axes in figure.axes if axes.get_visible()]
    labels = [axes.get_ylabel() for axes in shown]
    assert labels[-3:] == ["toy metric size", "toy metric spread", "toy remedy pulled"]
    assert len(labels) == len(experiment.panels) + 3
    with_remedy = 2 * sum("remedy" in arm for arm in ARMS)
    assert [len(axes.lines) for axes in shown] == [4] * (len(shown) - 1) + [with_remedy]
    assert "toy remedy pulled (`toy_remedy_pulled`)" in (folder / "table.md").read_text()
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == sorted(ARMS)
    for arm, path in arm_folders(folder).items():
        rows = read_rows(path)
        assert [row["task"] for row in rows] == [0, 1, 2]
        assert all(row.keys() >= COLUMNS for row in rows)
        assert all(("toy_remedy_pulled" in row) == ("remedy" in arm) for row in rows)
        assert f"{path.name}/{arm}_results.npz" in printed
        with np.load(path / f"{arm}_results.npz", allow_pickle=False) as archive:
            assert {*archive.files} == {*experiment.exports.others}
            for array, column in experiment.exports.others.items():
                assert archive[array].tolist() == [row[column] for row in rows]
    toy, qnn = (json.loads((arm_folders(folder)[arm] / "arm.json").read_text()) for arm in ARMS)
    assert toy["network"] == {"class": "Toy", "spread": 0.2}
    assert qnn["remedies"][-1] == {"class": "ToyRemedy"}


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_toys_that_are_killed_go_on_to_the_same_bytes(
    child: Callable[..., Any], name: str, tmp_path: Path
) -> None:
    command = toy_command(name, tmp_path)
    uninterrupted = contents(finish(command, EXPERIMENTS[name]))
    command.append(f"--results={tmp_path / 'killed'}")
    rows = []
    # Each process but the last dies in the task after its n-th row; the circuit has state to lose.
    for number in (1, 3, 1, None):
        prepare: list[Callable[[], object]] = [toys.register]
        if number:
            kill = functools.partial(on_call, *UPDATE, 2, die)
            prepare.append(functools.partial(on_call, *APPEND, number, kill))
        process = child(command, tmp_path / "log", *prepare, experiment=name)
        process.join(PATIENCE)
        expected = -signal.SIGKILL if number else 0
        assert process.exitcode == expected, (tmp_path / "log.err").read_text()
        files = (tmp_path / "killed").glob("*/*/rows.jsonl")
        rows.append(sum(path.read_bytes().count(b"\n") for path in files))
    assert rows == [1, 4, 5, 6]
    assert contents(run_folder(tmp_path / "killed")) == uninterrupted


@pytest.fixture
def resumed(stop: Stop, tmp_path: Path) -> Callable[[], Path]:
    """Train the circuit with its remedy, stopped in its last task, and return its folder."""

    def run() -> Path:
        command = only(tiny_command("mnist", tmp_path), "qnn+toy-remedy")
        stop.at(2 * 15 + 2, interrupt)  # three updates in each of five epochs
        assert start(*command) == 130
        assert len(rows_of(run_folder(tmp_path / "results"), "qnn+toy-remedy")) == 2
        folder = finish(command)
        stop.at(-1, interrupt)
        whole = finish([*command, f"--results={tmp_path / 'whole'}"])
        assert (rows_of(folder, "qnn+toy-remedy")[:2]) == rows_of(whole, "qnn+toy-remedy")[:2]
        return folder

    return run


def test_state_of_a_remedy_is_in_the_checkpoint(
    resumed: Callable[[], Path], tmp_path: Path
) -> None:
    assert contents(resumed()) == contents(run_folder(tmp_path / "whole"))


@pytest.mark.parametrize("method", ["state_dict", "load_state_dict"])
def test_remedy_that_forgets_its_state_goes_on_otherwise(
    resumed: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """So the test above would see a state that is not kept."""
    if method == "state_dict":
        monkeypatch.setattr(toys.ToyRemedy, "state_dict", lambda remedy: {"means": []})
    monkeypatch.setattr(toys.ToyRemedy, "load_state_dict", lambda remedy, state: None)
    folder, whole = resumed(), run_folder(tmp_path / "whole")
    assert rows_of(folder, "qnn+toy-remedy")[2] != rows_of(whole, "qnn+toy-remedy")[2]


def test_toys_change_no_folder_of_other_arms(tmp_path: Path) -> None:
    command = tiny_command("mnist", tmp_path)
    folder = finish(command)
    with pytest.MonkeyPatch.context() as patch:
        for registry, name, _ in toys.ENTRIES:
            patch.delitem(registry, name)
        assert finish([*command, f"--results={tmp_path / 'without'}"]).name == folder.name
    assert contents(run_folder(tmp_path / "without")) == contents(folder)


def test_help_shows_the_options_of_toys(capsys: pytest.CaptureFixture[str]) -> None:
    for experiment in EXPERIMENTS.values():
        with pytest.raises(SystemExit):
            cli.main(experiment, ["--arms", *ARMS, "--help"])
        printed = capsys.readouterr().out
        for part in ("toy: Classify with one linear layer.", "+toy-remedy: Pull the weights",
                     "--toy.spread", "--qnn+toy-remedy.toy-remedy.rate"):  # fmt: skip
            assert part in printed
