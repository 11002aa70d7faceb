"""Arms that learn log-spaced tasks, each with the untrained network."""

import json
from pathlib import Path

import pytest

from experiments import measure
from experiments.cli import parse as cli
from experiments.mnist import EXPERIMENT, QUICK
from plasticity.results.record import read_rows

WORDS = ["--preset=quick", "--train-samples=200"]


def train(results: Path, num_tasks: int, *arms: str) -> Path:
    words = [*WORDS, f"--num-tasks={num_tasks}", f"--results={results}", "--arms", *arms]
    assert cli.main(EXPERIMENT, words) == 0
    (run,) = results.glob("mnist-*")
    return run


def rows_of(run: Path, name: str) -> list[dict]:
    (arm,) = run.glob(f"{name}-????????")
    return read_rows(arm)


def test_a_fresh_arm_learns_log_spaced_tasks_as_one_that_starts_afresh(tmp_path: Path) -> None:
    run = train(tmp_path, 6, "fresh:mlp", "mlp+start-afresh", "mlp")
    fresh, afresh = rows_of(run, "fresh-mlp"), rows_of(run, "mlp+start-afresh")
    assert [row["task"] for row in fresh] == [0, 1, 2, 4]
    assert fresh == [afresh[row["task"]] for row in fresh]
    assert len({row["weight_norm"] for row in fresh}) == 1  # before each task, the untrained one
    plain = rows_of(run, "mlp")
    assert plain[0] == afresh[0]
    assert plain[1] != afresh[1]


def test_a_fresh_arm_that_is_made_longer_equals_the_longer_one(tmp_path: Path, capsys) -> None:
    short = train(tmp_path / "a", 3, "fresh:qnn")
    train(tmp_path / "a", 6, "fresh:qnn")
    long = train(tmp_path / "b", 6, "fresh:qnn")
    assert rows_of(short, "fresh-qnn") == rows_of(long, "fresh-qnn")
    capsys.readouterr()
    train(tmp_path / "b", 8, "fresh:qnn")  # tasks 5, 6 and 7 are not its
    assert "nothing to do" in capsys.readouterr().out


def test_metrics_of_a_fresh_arm_measured_afterwards_are_those_recorded(tmp_path: Path) -> None:
    run = train(tmp_path, 5, "fresh:mlp")
    words = [str(run), "--metrics", "test_accuracy", "weight_norm"]
    assert measure.main(words) == 0
    (arm,) = run.glob("fresh-mlp-*")
    rows = {row["task"]: row for row in read_rows(arm)}
    for measured in read_rows(arm, "measured.jsonl"):
        # Layer by layer only where it is asked for, as here.
        of_all = {k: v for k, v in measured.items() if not k.startswith("weight_norm_")}
        assert of_all.items() <= rows[measured["task"]].items() and len(of_all) < len(measured)


def test_a_fresh_arm_is_a_value_that_json_holds() -> None:
    arm = EXPERIMENT.registry.resolve("fresh:qnn", QUICK.arms)
    assert [*arm.remedies] == ["start-afresh", "reset-optimizer"]
    assert arm.tasks(9) == [0, 1, 2, 4, 8]
    assert (arm.end(9), arm.end(8), arm.end(1)) == (9, 5, 1)
    again = EXPERIMENT.registry.from_json(json.loads(json.dumps(arm.json())))
    assert again == arm
    assert arm.json() != QUICK.arms["qnn"].json()


@pytest.mark.parametrize("words", ["fresh:nonsense", "fresh:", "fresh:mlp+nonsense"])
def test_a_fresh_arm_of_nothing_is_a_line(words: str, capsys) -> None:
    assert cli.main(EXPERIMENT, ["--arms", words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --arms {words}: no ")
    assert len(said.splitlines()) == 1
