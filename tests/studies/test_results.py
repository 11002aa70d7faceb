"""A study's numbers as they are read from Python."""

from pathlib import Path

import pytest

from plasticity import load_study
from plasticity.errors import UsageError

ROOT = Path(__file__).parents[2]


def test_a_column_is_that_of_an_arm_of_the_study_and_no_other() -> None:
    found = load_study(ROOT / "docs/records/studies/quick")
    arm = found.study.arms[0]
    assert found.column(arm, "test_accuracy").shape[0] == len(found.study.seeds)
    with pytest.raises(UsageError, match=f"^nobody: the study has {arm}, "):
        found.column("nobody", "test_accuracy")
    with pytest.raises(UsageError, match=f"^{arm}: no column is called 'nothing'; there are "):
        found.column(arm, "nothing")
