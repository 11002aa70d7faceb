"""A study that diagnoses: what it declares, its section, its records; hypotheses by definition."""

import numpy as np
import pytest

from plasticity import Study
from plasticity.errors import UsageError
from plasticity.results.names import config_json
from plasticity.runs.diagnose import Diagnosis
from plasticity.statistics.inference import holm, p_above
from plasticity.studies.causes_section import causes_section, outcomes
from plasticity.studies.cells import Place
from plasticity.studies.cures import judge
from plasticity.studies.diagnosed import Diagnosed, Hypothesis, load_diagnosis, save_diagnosis
from plasticity.studies.growing import grow
from plasticity.studies.numbers import load_records
from plasticity.studies.report import report_on, write_report
from tests.runs.diagnosing import train
from tests.studies.test_causes import CURES, HARMS, HELPS, NO_EFFECT, NONE, UNTRAINED, rows


def study(**more):
    fields = {
        "name": "causes", "question": "What cures?", "experiment": "mnist", "preset": "quick",
        "arms": ("mlp",), "seeds": tuple(range(10)),
        "diagnosed": (Diagnosed("mlp", ("rate:first", "revive")),),
    }  # fmt: skip
    return Study(**fields | more)


def made_up():
    other = "stiefel-00000000"
    parts = [
        rows("none", NONE), rows("untrained", UNTRAINED), rows("rate:first", CURES, factor=3.0),
        rows("revive", HELPS, revived=1.0), rows("rate:last", NO_EFFECT, factor=3.0),
        rows("turns:3", HARMS), rows("turns:3+unwind", NONE),
        [r | {"arm": "stiefel"} for r in rows("none", CURES, other)],
        [r | {"arm": "stiefel"} for r in rows("untrained", UNTRAINED, other)],
    ]  # fmt: skip
    return Diagnosis(tuple(row for part in parts for row in part), None)


def test_p_values_of_hypotheses_are_the_largest_of_their_parts_by_their_definitions():
    none, untrained, cures, helps, last, harms = map(
        np.array, (NONE, UNTRAINED, CURES, HELPS, NO_EFFECT, HARMS)
    )
    cured = judge(none, cures, untrained).p
    restored = judge(harms, none, none).p
    other_gap = untrained - cures
    expected = {
        "loses": (("loses", "mlp", 5), p_above(untrained - none, 5)),
        "cures": (("cures", "mlp", "rate:first"), max(cured["gap"], cured["cures"])),
        "less": (("gains less", "mlp", "rate:last", 1), p_above(none - last, -1)),
        "more": (("gains more", "mlp", "rate:first", "revive"), p_above(cures - helps, 0)),
        "lowers": (("lowers", "mlp", "turns:3", 5), p_above(none - harms, 5)),
        "back": (
            ("restores", "mlp", "turns:3", "turns:3+unwind"),
            max(restored["gap"], restored["cures"]),
        ),
        "loses more": (
            ("loses more", "mlp", "stiefel", 5), p_above(untrained - none - other_gap, 5)
        ),
        "loses less": (
            ("loses less", "stiefel", "mlp"), p_above((untrained - none) / 2 - other_gap, 0)
        ),
    }  # fmt: skip
    hypotheses = [Hypothesis(name, "", (part,)) for name, (part, _) in expected.items()]
    both = Hypothesis("both", "", (expected["loses"][0], expected["less"][0]))
    declared = study(
        arms=("mlp", "stiefel"), hypotheses=(*hypotheses, both),
        diagnosed=(Diagnosed("mlp", ()), Diagnosed("stiefel", ())),
    )  # fmt: skip
    found = {one.name: one for one in outcomes(declared, made_up())}
    for name, (_, p) in expected.items():
        assert found[name].p == pytest.approx(float(p), rel=1e-6), name
        assert found[name].n == 10
    assert found["both"].p == max(found["loses"].p, found["less"].p)
    adjusted = holm([one.p for one in found.values()])
    assert [one.adjusted for one in found.values()] == pytest.approx(list(adjusted))


def test_hypotheses_of_other_studies_count_as_one_in_the_adjustment():
    one = Hypothesis("H1", "It cures.", (("cures", "mlp", "rate:first"),))
    (found,) = outcomes(study(hypotheses=(one,)), made_up())
    assert found.adjusted == pytest.approx(6 * found.p)


def test_the_section_has_hypotheses_and_tables_and_no_word_before_all_seeds_are_there():
    one = Hypothesis("H1", "It cures.", (("cures", "mlp", "rate:first"),))
    text = causes_section(study(hypotheses=(one,)), made_up())
    assert text.startswith("## Causes")
    assert "| H1 | It cures. | 10 | 3.88e-08 | 2.33e-07 | shown |" in text
    assert "### mlp after 40 tasks" in text
    text = causes_section(study(hypotheses=(one,), seeds=tuple(range(20))), made_up())
    assert "no word: not the seeds that are declared" in text
    empty = causes_section(study(hypotheses=(one,)), Diagnosis((), None))
    assert "| H1 | It cures. | 0 |  |  | not tested yet |" in empty


def test_records_give_the_same_section(tmp_path):
    found = made_up()
    save_diagnosis(found, tmp_path / "d.npz")
    again = load_diagnosis(tmp_path / "d.npz")
    assert len(again.rows) == len(found.rows)
    save_diagnosis(again, tmp_path / "e.npz")
    assert (tmp_path / "d.npz").read_bytes() == (tmp_path / "e.npz").read_bytes()
    one = Hypothesis("H1", "It cures.", (("cures", "mlp", "rate:first"),))
    texts = [causes_section(study(hypotheses=(one,)), of) for of in (found, again)]
    tables = [text.partition("### mlp after")[2] for text in texts]
    assert tables[0] == tables[1]


def test_what_is_declared_is_in_the_digest_and_comes_back_from_json():
    import json

    plain = study(diagnosed=())
    assert "diagnosed" not in plain.json()
    assert study().digest() != plain.digest()
    assert json.loads(config_json(study().json()))["diagnosed"][0]["interventions"] == [
        "none", "untrained", "rate:first", "revive",
    ]  # fmt: skip


WRONG = {
    "an arm that is not there": ({"diagnosed": (Diagnosed("qnn", ()),)}, "qnn is not among"),
    "no value": ({"diagnosed": ("mlp",)}, "is no Diagnosed"),
    "an arm of a hypothesis": (
        {"hypotheses": (Hypothesis("H", "", (("cures", "qnn", "revive"),)),)},
        "hypothesis H: qnn is not diagnosed",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_diagnosed_is_refused_in_a_line(case):
    fields, reason = WRONG[case]
    with pytest.raises(UsageError, match=reason):
        study(**fields)


def test_values_that_mean_nothing_are_refused():
    with pytest.raises(UsageError, match="did you mean rate"):
        Diagnosed("mlp", ("rat",))
    with pytest.raises(UsageError, match="at 0: must be a number of tasks"):
        Diagnosed("mlp", (), at=(0,))
    with pytest.raises(UsageError, match="hypothesis H: 'heals' with 1 words"):
        Hypothesis("H", "", (("heals", "mlp"),))


def test_a_study_diagnoses_its_cells_and_its_report_and_records_have_the_causes(tmp_path):
    declared = study(
        arms=("mlp",), seeds=(0, 1), settings={"num_tasks": 2, "batch_size": 8},
        of_arm={"mlp": {"epochs": 2}},
        diagnosed=(Diagnosed("mlp", ("rate:first:2", "forget"), tasks=2),),
        hypotheses=(Hypothesis("H1", "It loses.", (("loses", "mlp", 5.0),)),),
    )  # fmt: skip
    for seed in declared.seeds:
        train("mnist", tmp_path, num_tasks=2, seed=seed)
    results, folder = tmp_path / "results", tmp_path / "report"
    place = Place(str(tmp_path / "tiny.npz"), None)
    report = write_report(declared, results, folder, place)
    assert "No branch of a complete cell has all references yet" in report.read_text()
    grow(declared, results, folder, place)
    text = write_report(declared, results, folder, place).read_text()
    assert "## Causes" in text
    assert "### mlp after 2 tasks" in text
    assert "| `rate:first:2` |" in text
    assert "| H1 | It loses. | 2 |" in text
    assert (folder / "causes.png").is_file()
    found = load_records(folder / "records", declared)
    again = report_on(found, tmp_path / "again")
    assert again.read_text() == text
