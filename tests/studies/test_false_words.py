"""The simulation of false words gives the recorded table again, and is compared with ``decide``."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"
FEWER = 2000


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    specification = importlib.util.spec_from_file_location("false_words", DOCS / "false_words.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "DRAWS", FEWER)
    return module


@pytest.mark.slow
def test_fewer_draws_say_what_the_record_says(program) -> None:
    """Each case compares its words with those of the program, too."""
    recorded, again = (
        [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
        for text in ((DOCS / "records/false-words.md").read_text(), program.table())
    )
    assert [row[:2] for row in recorded] == [row[:2] for row in again]
    for row, other in zip(recorded, again, strict=True):
        for cell, theirs in zip(row[2:], other[2:], strict=False):
            for one, two in zip(cell.split(", "), theirs.split(", "), strict=True):
                if one.strip():
                    q = min(max(float(one) / 100, 0.002), 0.998)
                    assert abs(float(one) - float(two)) < 100 * 5 * np.sqrt(q * (1 - q) / FEWER)


def test_the_page_has_the_recorded_table() -> None:
    page = (DOCS / "studies/verdict.md").read_text()
    assert (DOCS / "records/false-words.md").read_text() in page


def test_words_that_differ_from_those_of_the_program_are_found(
    program, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = np.random.default_rng(0).normal(1.0, 1.0, (200, 10))
    program.check(losses)
    monkeypatch.setattr(program, "keeps_now", program.loses_now)
    with pytest.raises(AssertionError):
        program.check(losses)
