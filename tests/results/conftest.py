"""What the tests of run folders share."""

import os
from pathlib import Path

import pytest

from plasticity.results import provenance
from tests.results.demo import numbers, train


@pytest.fixture(autouse=True)
def without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare every run three processes; the commit has a test of its own."""
    monkeypatch.setattr(provenance, "git_commit", lambda: None)


@pytest.fixture(autouse=True)
def without_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk what matters where the power is cut; a test of its own asks for the calls."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return train(tmp_path / "results")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return numbers(train(tmp_path_factory.mktemp("uninterrupted")))
