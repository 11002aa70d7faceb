"""What diagnoses say, from rows that are made up."""

from pathlib import Path

import pytest

from experiments import mnist
from plasticity.runs.diagnose import Diagnosis
from plasticity.studies.causes import causes_figure, causes_of, causes_text, write_causes

NONE = [74, 76, 73, 75, 77, 72, 75, 74, 76, 75]
UNTRAINED = [88, 87, 88, 87, 88, 87, 88, 88, 87, 88]
CURES = [85, 86, 84, 86, 86, 85, 87, 85, 86, 86]
HELPS = [77, 79, 75, 78, 80, 76, 78, 76, 79, 78]
NO_EFFECT = [74.2, 75.8, 73.1, 74.7, 77.3, 72.2, 74.9, 74.1, 75.6, 75.3]
HARMS = [66, 64, 68, 67, 70, 63, 66, 68, 65, 69]


def rows(name, values, folder="mlp-00000000", age=40, **columns):
    """Make rows of two tasks for each seed, whose mean is the value."""
    return [
        {"run": f"{seed:08}", "seed": seed, "arm": "mlp", "folder": folder, "age": age,
         "intervention": name, "task": age + task, "test_accuracy": (value + sign) / 100}
        | {"changed_parameters": 0.0, "changed_outputs": 0.0} | columns
        for seed, value in enumerate(values)
        for task, sign in enumerate((1, -1))
    ]  # fmt: skip


def diagnosis(*parts, **more):
    return Diagnosis(tuple(row for part in parts for row in part), Path("diagnosis.jsonl"), **more)


REFERENCES = (rows("none", NONE), rows("untrained", UNTRAINED))


def test_the_worked_example_has_its_words_and_shares():
    changed = {"changed_parameters": 40.0, "changed_outputs": 0.5}
    found = diagnosis(
        *REFERENCES,
        rows("rate:first", CURES, factor=9.8),
        rows("revive", HELPS, revived=3.0, **changed),
        rows("forget", NO_EFFECT, forgotten=2400.0),
        rows("soften", HARMS, factor=4.0),
        rows("rate:last", NO_EFFECT, factor=1.2),
        rows("rate:last:1.2", NO_EFFECT, factor=1.2),
    )
    causes = {cause.intervention: cause for cause in causes_of(found)}
    assert {name: cause.word for name, cause in causes.items()} == {
        "none": "", "untrained": "", "rate:first": "cures", "revive": "helps",
        "forget": "no effect", "soften": "harms", "rate:last": "does not apply",
        "rate:last:1.2": "no effect",
    }  # fmt: skip
    rate = causes["rate:first"]
    assert (rate.gap, rate.gain) == (pytest.approx(12.9), pytest.approx(10.9))
    assert rate.share == pytest.approx(0.845, abs=5e-4)
    assert rate.following.estimate == pytest.approx(86.6)
    text = causes_text([*causes.values()], 2)
    assert "## mlp after 40 tasks" in text
    assert "The gap to an untrained network is 12.9 points" in text
    line = next(line for line in text.splitlines() if line.startswith("| `rate:first`"))
    assert "0.84 [0.80, 0.90] | 10 of 10 | factor c 9.8 | cures |" in line
    assert "| `revive`* |" in text
    assert "| revived units 3, 40 numbers, outputs by 0.5 | helps |" in text
    assert "| numbers forgotten 2,400 | no effect |" in text


def test_one_seed_has_numbers_and_no_verdict():
    found = diagnosis(
        rows("none", [74]), rows("untrained", [88]), rows("rate:first", [85], factor=3.0)
    )
    *_, rate = causes_of(found)
    assert (rate.word, rate.share, rate.cure) == ("one seed", pytest.approx(11 / 14), None)
    assert "one seed: no verdict" in causes_text([rate], 2)


def test_only_seeds_that_have_all_three_branches_count():
    found = diagnosis(*REFERENCES, rows("rate:first", CURES[:4], factor=3.0))
    *_, rate = causes_of(found)
    assert rate.seeds == (0, 1, 2, 3)
    assert rate.cure.n == 4
    assert causes_of(diagnosis(rows("none", NONE), rows("forget", NONE))) == []


def test_a_small_gap_has_no_share():
    near = [value - 1 for value in UNTRAINED]
    found = diagnosis(rows("none", near), rows("untrained", UNTRAINED), rows("forget", UNTRAINED))
    *_, forget = causes_of(found)
    assert (forget.word, forget.share) == ("nothing to cure", None)


def test_diverged_branches_are_counted():
    found = diagnosis(*REFERENCES, rows("rate:first:9", HARMS, factor=9.0, diverged=True))
    *_, rate = causes_of(found)
    assert rate.diverged == 10
    assert "| harms; 10 diverged |" in causes_text(causes_of(found), 2)


def test_arms_of_the_same_name_are_told_apart_by_their_folders():
    other = "mlp-11111111"
    found = diagnosis(*REFERENCES, rows("none", NONE, other), rows("untrained", UNTRAINED, other))
    text = causes_text(causes_of(found), 2)
    assert "## mlp-00000000 after 40 tasks" in text
    assert f"## {other} after 40 tasks" in text


def test_the_figure_has_a_panel_for_each_arm_and_age():
    found = diagnosis(
        *REFERENCES, rows("rate:first", CURES, factor=3.0), rows("forget", NO_EFFECT),
        rows("none", NONE, age=8), rows("untrained", UNTRAINED, age=8),
    )  # fmt: skip
    figure = causes_figure(mnist.EXPERIMENT, causes_of(found), 2)
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == (
        "mlp after 40 tasks, 10 seeds", "mlp after 8 tasks, 10 seeds",
    )  # fmt: skip
    names = [label.get_text() for label in first.get_yticklabels()]
    assert names == ["none", "untrained", "rate:first", "forget"]
    (legend,) = figure.legends
    words = {text.get_text() for text in legend.get_texts()}
    assert words == {"cures", "no effect", "aged, as it is", "untrained"}


@pytest.mark.draws
def test_the_files_say_what_is_printed(tmp_path):
    found = diagnosis(*REFERENCES, rows("rate:first", CURES, factor=3.0))
    text = write_causes(mnist.EXPERIMENT, found, tmp_path)
    assert (tmp_path / "diagnosis.md").read_text() in text
    assert (tmp_path / "diagnosis.png").stat().st_size > 1000
    assert str(tmp_path / "diagnosis.png") in text
