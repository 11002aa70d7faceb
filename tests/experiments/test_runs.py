"""The command that lists, compares and deletes what was recorded."""

import io
import re
import sys
from pathlib import Path

import pytest

from experiments import runs
from tests.experiments.runs import (
    UPDATES,
    Stop,
    arm_folder,
    arm_folders,
    contents,
    finish,
    only,
    snapshot,
    start,
)

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture
def run(tiny: list[str]) -> Path:
    return finish(tiny)


def printed(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> list[list[str]]:
    """Call the command and return the cells of the lines that it prints."""
    capsys.readouterr()
    assert runs.main([str(word) for word in words]) == status
    return [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]


def num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_all_runs_are_listed_with_arms_rows_and_size_and_other_folders_are_not(
    run: Path, tiny: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    finish([*only(tiny, "mlp"), "--seed=1", f"--results={tmp_path / 'aside'}"]).rename(
        run.parent / "renamed"
    )
    (run.parent / "studies").mkdir()
    (run.parent / "broken").mkdir()
    (run.parent / "broken/config.json").write_text("{")
    head, first, second = printed(capsys, "--results", run.parent)
    assert head == ["run", "arms", "rows", "MB"]
    assert [first[:3], second[:3]] == [
        [str(run), "2", "6"],
        [str(run.parent / "renamed"), "1", "3"],
    ]
    assert first[3] == f"{num_bytes(run) / 1e6:.1f}"
    assert printed(capsys, "--results", tmp_path / "nowhere") == [head]


def test_one_run_is_shown_with_its_settings_and_arms_damaged_ones_too(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arm = arm_folder(run, "qnn")
    (arm / "rows.jsonl").write_text("no row\n")
    lines = printed(capsys, run)
    assert ["seed", "0"] in lines
    assert lines[-3] == [f"arm of {run.name}", "rows", "MB", "folder"]
    assert lines[-2][:2] == ["mlp", "3"]
    assert lines[-1] == ["qnn", "damaged", f"{num_bytes(arm) / 1e6:.1f}", arm.name]


def test_several_runs_are_compared_by_the_settings_in_which_they_differ(
    run: Path, tiny: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = finish([*tiny, "--seed=7", "--batch-size=20", f"--results={tmp_path / 'other'}"])
    lines = printed(capsys, run, other)
    assert lines[0] == ["setting", run.name, other.name]
    assert sorted(lines[1:3]) == [["batch_size", "16", "20"], ["seed", "0", "7"]]
    assert lines[3] == [""]
    assert [line[0] for line in lines[4:]] == [f"arm of {run.name}", "mlp", "qnn",
                                               f"arm of {other.name}", "mlp", "qnn"]  # fmt: skip


def test_an_arm_is_deleted_by_its_name_or_folder_and_the_rest_stays(
    run: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, folders = contents(run), arm_folders(run)
    kept = snapshot(folders["mlp"])
    lines = printed(capsys, run, "--delete", "--yes", "--arms", folders["qnn"].name)
    assert lines == [[f"delete {folders['qnn']}"]]
    assert [*arm_folders(run)] == ["mlp"]
    assert snapshot(folders["mlp"]) == kept
    finish(tiny)
    assert contents(run) == whole


def test_a_run_is_deleted_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, run, "--delete", "--yes") == [[f"delete {run}"]]
    assert not run.exists()


@pytest.mark.parametrize(("answer", "deleted"), [("y\n", True), ("\n", False), ("no\n", False)])
def test_it_asks_first(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str,
    deleted: bool,
) -> None:  # fmt: skip
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    lines = printed(capsys, run, "--delete")
    assert run.exists() != deleted
    assert ("nothing was deleted" in lines[-1][0]) != deleted


def test_nothing_is_deleted_where_one_of_the_arms_is_being_trained(
    run: Path, tiny: list[str], stop: Stop, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the other arm nor another run, whatever comes first."""
    other = finish([*only(tiny, "mlp"), "--seed=1", f"--results={run.parent}2"])
    found = []

    def delete() -> None:
        before = snapshot(run), snapshot(other)
        found.append(runs.main([str(other), str(run), "--delete", "--yes"]))
        assert (snapshot(run), snapshot(other)) == before

    stop.at(UPDATES + 1, delete)
    assert start(*only(tiny, "qnn"), "--num-tasks=5") == 0
    assert found == [75]
    assert "is in use by another process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--delete", "--yes"], 2, "--delete: name the RUN folders"),
        (["run", "--arms", "mlp"], 2, "--arms: with --delete only"),
        (["run", "--yes"], 2, "--yes: with --delete only"),
        (["run", "--delete"], 2, "--delete: nobody can be asked here; say --yes"),
        (["run", "--delete", "--yes", "--arms", "mlp", "cnn"], 2, "--arms cnn: run has mlp, qnn"),
        (["run", "nowhere", "--delete", "--yes"], 1, "nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line_and_deletes_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    words: list[str], status: int, said: str,
) -> None:  # fmt: skip
    run.rename("run")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    before = snapshot(Path())
    assert runs.main(words) == status
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert snapshot(Path()) == before
