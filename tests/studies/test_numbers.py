"""What a study's cells recorded: from run folders, and from the files that stand for them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasticity.errors import Failure
from plasticity.results.compact import read_arrays, write_arrays
from plasticity.studies.cells import cells, folder_of
from plasticity.studies.findings import comparisons, findings_of
from plasticity.studies.numbers import Numbers, load_records, read_numbers, save_records
from plasticity.studies.study import Study
from tests.studies import made_up

RESULTS = Path("results")
pytestmark = pytest.mark.usefixtures("empty_folder")


def record(study: Study, arm: str, seed: int, rows: list[dict[str, Any]]) -> None:
    """Write rows as a run would; of an arm's folder, reports read no other file."""
    (cell,) = (c for c in cells(study) if (c.arm, c.seed) == (arm, seed))
    folder = folder_of(cell, RESULTS)
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(tasks: int, first: float = 0.5, **more: Any) -> list[dict[str, Any]]:
    return [{"task": t, "test_accuracy": first + 0.01 * t} | more for t in range(tasks)]


def equal(one: Numbers, other: Numbers) -> bool:
    same = [
        one.study.json() == other.study.json(),
        one.tasks == other.tasks,
        [*one.columns] == [*other.columns],
    ]
    for arm in one.study.arms:
        same += [np.array_equal(one.rows[arm], other.rows[arm])]
        same += [np.array_equal(one.complete[arm], other.complete[arm])]
        same += [[*one.columns[arm]] == [*other.columns[arm]]]
        same += [
            a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
            for a, b in zip(one.columns[arm].values(), other.columns[arm].values(), strict=True)
        ]
    return all(same)


def test_numbers_stand_at_their_seed_and_task_and_what_is_no_number_is_left_out() -> None:
    study = made_up.study(("mlp", "qnn"), seeds=2, tasks=3)
    first = rows(3, 0.5, answers=[1.0, 2.0], ended=True, remark="x")
    first[1]["fisher_true"] = 7
    record(study, "mlp", 0, first)
    record(study, "mlp", 1, rows(3, 0.6))
    found = read_numbers(study, RESULTS)
    assert found.tasks == 3
    assert {*found.columns["mlp"]} == {"test_accuracy", "fisher_true"}
    accuracy = found.columns["mlp"]["test_accuracy"]
    assert accuracy.dtype == np.float32
    np.testing.assert_allclose(accuracy, [[0.5, 0.51, 0.52], [0.6, 0.61, 0.62]], rtol=1e-6)
    np.testing.assert_equal(
        found.columns["mlp"]["fisher_true"], [[np.nan, 7, np.nan], [np.nan] * 3]
    )
    assert found.columns["qnn"] == {}
    assert found.missing() == [("qnn", 0, 0), ("qnn", 1, 0)]


def test_an_arm_with_fewer_seeds_lacks_none_of_the_others() -> None:
    arms = ("mlp", "qnn")
    study = made_up.study(arms, seeds=4, tasks=60, compared=(("qnn", "mlp"),))
    study = dataclasses.replace(study, fewer_seeds={"qnn": 2})
    wanted = [("mlp", 0), ("qnn", 0), ("mlp", 1), ("qnn", 1), ("mlp", 2), ("mlp", 3)]
    assert [(cell.arm, cell.seed) for cell in cells(study)] == wanted
    for arm, seed in wanted:
        record(study, arm, seed, rows(60, 0.2 + 0.001 * seed))
    found = read_numbers(study, RESULTS)
    assert (found.missing(), found.seeds("mlp"), found.seeds("qnn")) == ([], [0, 1, 2, 3], [0, 1])
    assert found.columns["qnn"]["test_accuracy"].shape == (4, 60)
    arms_found, _ = findings_of(found, "test_accuracy")
    assert {one.arm: one.drop.n for one in arms_found} == {"mlp": 4, "qnn": 2}
    assert not any("incomplete" in one.drop.verdict for one in arms_found)
    (pair,) = comparisons(found, arms_found)
    assert (pair.drop.n, "incomplete" in pair.drop.verdict) == (2, False)
    assert equal(load_records(save_records(found, Path("records")), study), found)
    # Where the study has other seeds than declared, no arm is as it was declared.
    two = read_numbers(study.with_seeds(2), RESULTS)
    assert {one.drop.verdict for one in findings_of(two, "test_accuracy")[0]} == {
        "incomplete (2 of 4)"
    }


def test_what_was_measured_after_training_is_among_the_columns() -> None:
    study = made_up.study(("mlp",), seeds=1, tasks=4)
    record(study, "mlp", 0, rows(4))
    folder = folder_of(cells(study)[0], RESULTS)
    lines = [{"task": t, "churn": 0.1 * t, "test_accuracy": 17.0} for t in (1, 2)]
    (folder / "measured.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_numbers(study, RESULTS).columns["mlp"]
    np.testing.assert_allclose(found["churn"], [[np.nan, 0.1, 0.2, np.nan]], rtol=1e-6)
    assert found["test_accuracy"].max() < 1  # a row's own numbers are what was measured first


def test_arm_that_learns_few_tasks_has_its_numbers_at_these() -> None:
    study = made_up.study(("fresh:mlp",), seeds=1, tasks=6)
    at = [0, 1, 2, 4]
    record(study, "fresh:mlp", 0, [{"task": t, "test_accuracy": t / 8} for t in at])
    found = read_numbers(study, RESULTS)
    expected = [[t / 8 if t in at else np.nan for t in range(6)]]
    np.testing.assert_equal(found.columns["fresh:mlp"]["test_accuracy"], expected)
    assert found.missing() == []
    save_records(found, Path("records"))
    assert Path("records/fresh-mlp.npz").exists()
    assert equal(load_records(Path("records")), found)


def test_seed_that_is_not_complete_is_named_and_counts_nowhere() -> None:
    study = made_up.study(("mlp",), seeds=3, tasks=4)
    for seed, count in enumerate((4, 3, 4)):
        record(study, "mlp", seed, rows(count, 0.1 * seed))
    found = read_numbers(study, RESULTS)
    assert found.missing() == [("mlp", 1, 3)]
    assert found.seeds("mlp") == [0, 2]
    accuracy = found.of("mlp", "test_accuracy")
    assert accuracy is not None
    np.testing.assert_allclose(accuracy[:, 0], [0.0, 0.2])
    assert found.names() == ["test_accuracy"]
    # What is there of it is kept: it may be looked at.
    assert np.isnan(found.columns["mlp"]["test_accuracy"][1]).tolist() == [False] * 3 + [True]


def test_run_that_was_made_longer_is_read_up_to_the_length_of_the_study() -> None:
    study = made_up.study(("mlp",), seeds=2, tasks=3)
    record(study, "mlp", 0, rows(3))
    record(study, "mlp", 1, rows(9))
    found = read_numbers(study, RESULTS)
    assert found.columns["mlp"]["test_accuracy"].shape == (2, 3)
    assert found.rows["mlp"].tolist() == [3, 3] and found.missing() == []


@pytest.mark.parametrize("line", ["{", '{"test_accuracy": 0.5}', '{"task": "0"}', '{"task": -1}'])
def test_seed_whose_record_cannot_be_read_is_named_and_the_others_are_read(line: str) -> None:
    study = made_up.study(("mlp",), seeds=2, tasks=3)
    for seed in study.seeds:
        record(study, "mlp", seed, rows(3))
    path = next(folder_of(cell, RESULTS) for cell in cells(study) if cell.seed == 1) / "rows.jsonl"
    path.write_text(path.read_text() + line + "\n")
    found = read_numbers(study, RESULTS)
    assert found.missing() == [("mlp", 1, -1)] and found.seeds("mlp") == [0]


def test_records_give_back_what_was_gathered_and_equal_numbers_give_equal_bytes() -> None:
    found = made_up.read_numbers({"mlp": 0.1, "qnn": 0.0, "mlp+l2-init": 0.0}, seeds=3, tasks=40)
    found.rows["qnn"][1], found.complete["qnn"][1] = 7, False
    save_records(found, Path("records"))
    files = {path.name: path.read_bytes() for path in Path("records").iterdir()}
    assert {*files} == {"study.json", "mlp.npz", "qnn.npz", "mlp+l2-init.npz"}
    assert equal(load_records(Path("records")), found)
    assert equal(load_records(Path("records"), found.study), found)
    save_records(load_records(Path("records")), Path("again"))
    assert {path.name: path.read_bytes() for path in Path("again").iterdir()} == files


def test_records_hold_arrays_that_numpy_reads_and_say_whose_they_are() -> None:
    found = made_up.read_numbers({"mlp": 0.1}, seeds=3, tasks=40)
    save_records(found, Path("records"))
    with np.load("records/mlp.npz", allow_pickle=False) as archive:
        assert str(archive["digest"]) == found.study.digest()
        assert archive["seeds"].tolist() == [0, 1, 2]
        assert archive["column.test_accuracy"].shape == (3, 40)
    content = json.loads(Path("records/study.json").read_text())
    assert content["digest"] == found.study.digest()
    assert content["study"]["drop_margin"] == found.study.drop_margin


def test_studies_with_options_of_their_arms_and_rates_come_back_equal() -> None:
    found = made_up.read_numbers(
        {"mlp": 0.1, "qnn": 0.0}, seeds=3, tasks=40, of_arm={"mlp": {"hidden": (8,)}},
        compared=(("qnn", "mlp"),), tuning_seeds=(77,), rates=(0.01, 0.1), metrics=("logit",),
        tuning_values={"mlp": {"optimizer.epsilon": (1e-8, 1e-7)}},
    )  # fmt: skip
    save_records(found, Path("records"))
    loaded = load_records(Path("records"))
    assert loaded.study.json() == found.study.json()
    assert loaded.study.digest() == found.study.digest()


def refused(**more: Any) -> str:
    with pytest.raises(Failure) as caught:
        load_records(Path("records"), **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_records_of_another_digest_are_refused_in_one_line() -> None:
    found = made_up.read_numbers({"mlp": 0.1}, seeds=3, tasks=40)
    save_records(found, Path("records"))
    other = dataclasses.replace(found.study, drop_margin=0.02)
    message = refused(study=other)
    assert found.study.digest() in message and other.digest() in message
    # A margin that was moved after the numbers were seen.
    index = Path("records/study.json")
    written = index.read_text()
    index.write_text(written.replace('"drop_margin": 0.01', '"drop_margin": 0.1'))
    assert "study.json" in refused() and found.study.digest() in refused()
    # An arm's file from the records of another study.
    index.write_text(written)
    save_records(dataclasses.replace(found, study=other), Path("others"))
    Path("others/mlp.npz").rename("records/mlp.npz")
    assert "mlp.npz" in refused() and other.digest() in refused()


@pytest.mark.parametrize("file", ["study.json", "mlp.npz"])
@pytest.mark.parametrize("damage", ["gone", "cut off", "empty", "another"])
def test_damaged_records_are_refused_in_one_line_that_names_the_file(
    file: str, damage: str
) -> None:
    save_records(made_up.read_numbers({"mlp": 0.1}, seeds=3, tasks=40), Path("records"))
    path = Path("records") / file
    if damage == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        another = {"study.json": b'{"study": {"name": 3}}', "mlp.npz": b"\x93NUMPY"}[file]
        changed = {"cut off": content[: len(content) // 2], "empty": b"", "another": another}
        path.write_bytes(changed[damage])
    assert file in refused()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rows", lambda values: values[:-1]),
        ("rows", lambda values: values.astype("U8")),
        ("complete", lambda values: values[:, None]),
        ("complete", lambda values: values.astype(np.int64)),
        ("column.test_accuracy", lambda values: values.ravel()),
        ("column.test_accuracy", lambda values: values[:, :-1]),
        ("column.test_accuracy", lambda values: values.astype(complex)),
    ],
)
def test_arrays_of_another_shape_or_kind_are_refused_in_one_line(name: str, change: Any) -> None:
    save_records(made_up.read_numbers({"mlp": 0.1}, seeds=3, tasks=40), Path("records"))
    arrays = read_arrays(Path("records/mlp.npz"))
    write_arrays(Path("records/mlp.npz"), arrays | {name: change(arrays[name])})
    assert f"mlp.npz: {name.removeprefix('column.')} has " in refused()


@pytest.mark.parametrize("tasks", ["1e999", "[]", "null", '"many"'])
def test_number_of_tasks_that_is_none_is_refused_in_one_line(tasks: str) -> None:
    save_records(made_up.read_numbers({"mlp": 0.1}, seeds=3, tasks=40), Path("records"))
    index = Path("records/study.json")
    index.write_text(index.read_text().replace('"tasks": 40', f'"tasks": {tasks}', 1))
    assert "study.json" in refused()
