"""Tests of where numbers come from: command, commit, versions, and a line for each training."""

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import plasticity
from plasticity.errors import RecordError
from plasticity.results import disk, provenance
from tests.results.demo import ARMS, MLP, NUM_ROWS, QNN, files, open_demo, train

commit_of_checkout = provenance.git_commit  # before a fixture replaces it


def notes(path: Path) -> list[dict]:
    """Return the notes of an arm."""
    return [json.loads(line) for line in (path / "provenance.jsonl").read_text().splitlines()]


def test_provenance_tells_command_versions_machine_and_time(finished: Path) -> None:
    (note,) = notes(finished / MLP)
    assert list(note) == [
        "rows", "command", "commit", "versions", "platform", "device", "threads", "started",
    ]  # fmt: skip
    assert note["rows"] == 0
    assert note["command"] == ["demo"]
    assert note["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert note["platform"] == platform.platform()
    assert note["device"] == platform.machine()
    assert note["threads"] == torch.get_num_threads()
    started = datetime.datetime.fromisoformat(note["started"])
    assert started.utcoffset() == datetime.timedelta(0)


def test_command_that_is_not_given_is_that_of_this_process() -> None:
    assert provenance.provenance(None, "cpu")["command"] == sys.orig_argv


def test_every_training_adds_a_line_and_leaves_the_earlier_ones(tmp_path: Path) -> None:
    path = train(tmp_path, 1) / MLP
    first = (path / "provenance.jsonl").read_bytes()
    train(tmp_path, 2)
    second = (path / "provenance.jsonl").read_bytes()
    with open_demo(tmp_path).arm("mlp", ARMS["mlp"]) as arm:
        arm.note_provenance(["again"], about={"dataset": "cifar100", "tasks": [1, 2]})
    third = (path / "provenance.jsonl").read_bytes()
    assert second.startswith(first) and third.startswith(second)
    assert [data.count(b"\n") for data in (first, second, third)] == [1, 2, 3]
    assert [note["rows"] for note in notes(path)] == [0, 1, 2]
    assert [note["command"] for note in notes(path)] == [["demo"], ["demo"], ["again"]]
    assert notes(path)[2]["dataset"] == "cifar100"
    assert notes(path)[2]["tasks"] == [1, 2]
    assert "dataset" not in notes(path)[0]


def test_arm_that_is_only_opened_gets_no_line(finished: Path) -> None:
    with open_demo(finished.parent).arm("mlp", ARMS["mlp"]) as arm:
        assert len(arm.rows) == NUM_ROWS
    assert len(notes(finished / MLP)) == 1
    train(finished.parent, names=["mlp"])
    assert [len(notes(finished / arm)) for arm in (MLP, QNN)] == [2, 1]


def test_line_that_meets_a_full_disk_leaves_the_earlier_ones(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = files(finished)
    with open_demo(finished.parent).arm("mlp", ARMS["mlp"]) as arm:
        with monkeypatch.context() as patch:
            patch.setattr(disk.os, "fsync", full)
            with pytest.raises(RecordError, match=r"provenance.jsonl: No space.*\n.*goes on"):
                arm.note_provenance()
        assert files(finished) == before
        arm.note_provenance()
    assert len(notes(finished / MLP)) == 2


def test_provenance_names_the_versions_of_all_that_may_decide_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version(distribution: str) -> str:
        if distribution == "mujoco":
            raise importlib.metadata.PackageNotFoundError(distribution)
        return f"version of {distribution}"

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(provenance, "_version_of", provenance._version_of.__wrapped__)
    versions = provenance.provenance(["demo"], "cpu")["versions"]
    assert versions.pop("quantum-plasticity") == plasticity.__version__
    assert versions.pop("python") == platform.python_version()
    assert versions.pop("mujoco") is None
    assert versions == {
        name: f"version of {name}"
        for name in (
            "torch", "torchvision", "tensorcircuit-ng", "numpy", "scipy", "scikit-learn",
            "stable-baselines3", "gymnasium",
        )
    }  # fmt: skip


def test_every_package_of_the_provenance_is_one_that_setup_cfg_asks_for() -> None:
    # A name that is misspelled here would be noted as not installed for good.
    setup = (Path(__file__).parents[2] / "setup.cfg").read_text()
    for name in provenance._PACKAGES:
        assert re.search(rf"(^ +|\[){re.escape(name)}\b", setup, re.MULTILINE), name


def test_commit_is_that_of_the_checkout_the_package_is_tracked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    module = tmp_path / "provenance.py"
    module.write_text("first")
    monkeypatch.setattr(provenance, "__file__", str(module))
    assert commit_of_checkout() is None
    git("init")
    assert commit_of_checkout() is None  # inside a checkout, but not of it
    git("add", "provenance.py")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert commit_of_checkout() == commit
    os.utime(module, (0, 0))  # git looks at the content again, and would like to note that
    before = files(tmp_path / ".git")
    assert commit_of_checkout() == commit
    (tmp_path / "untracked").write_text("")
    assert commit_of_checkout() == commit
    module.write_text("second")
    assert commit_of_checkout() == f"{commit}-dirty"
    assert files(tmp_path / ".git") == before
