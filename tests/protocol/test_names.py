"""Experiments by their words, or by a module and a name in it."""

from pathlib import Path

import pytest

from plasticity.errors import Failure, UsageError
from plasticity.protocol.names import find_experiment


@pytest.mark.parametrize(("said", "shown"), [("'first\\nsecond'", "first"), ("", "")])
def test_a_module_that_cannot_be_imported_is_a_line(
    said: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(f"raise ValueError({said})\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Failure) as failure:
        find_experiment("broken:EXPERIMENT")
    expected = f"experiment broken:EXPERIMENT: broken cannot be imported: ValueError: {shown}"
    assert str(failure.value) == expected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nsitm", "must be one of .*mnist.*, or module:EXPERIMENT"),
        ("json:EXPERIMENT", "json has no experiment called EXPERIMENT"),
        ("json:loads", "json has no experiment called loads"),
    ],
)
def test_what_is_no_experiment_is_refused_by_name(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_experiment(name)
