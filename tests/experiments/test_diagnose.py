"""``python -m experiments.diagnose``: what it writes, and what it refuses with which status."""

import json
from pathlib import Path

import pytest

from experiments import diagnose
from plasticity.results.names import folder_name
from tests.experiments.runs import snapshot
from tests.runs.diagnosing import WRITTEN, rows, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("command")


@pytest.fixture(scope="module")
def run(folder):
    return train("mnist", folder, ("mlp", "qnn", "fresh:mlp"), num_tasks=2)


def test_it_writes_rows_table_and_figure_and_goes_on(run, folder, capsys):
    before = snapshot(run.path)
    assert diagnose.main([str(run.path), "--tasks", "1"]) == 0
    printed = capsys.readouterr().out
    assert "fresh:mlp: left out: it begins each task with a new network" in printed
    assert "mlp: what does not fit is left out: turns:3, unwind" in printed
    assert "20 branches of 1 run\n" in printed
    assert "## mlp after 2 tasks" in printed
    assert "## qnn after 2 tasks" in printed
    assert {path.name for path in snapshot(run.path)} - {p.name for p in before} == {*WRITTEN}
    after = {path: found for path, found in snapshot(run.path).items() if path.name not in WRITTEN}
    assert after == before
    assert {row["arm"] for row in rows(run.path)} == {"mlp", "qnn"}
    assert diagnose.main([str(run.path), "--tasks", "1", "--arms", "mlp"]) == 0
    assert "12 branches of 1 run, 12 are there already" in capsys.readouterr().out


def test_an_own_folder_gets_all(run, tmp_path, capsys):
    before = snapshot(run.path)
    words = ["--arms", "mlp", "--interventions", "rate:first", "--tasks", "1", "--at", "1", "last"]
    assert diagnose.main([str(run.path), *words, "--out", str(tmp_path / "new" / "out")]) == 0
    assert {path.name for path in (tmp_path / "new" / "out").iterdir()} == {*WRITTEN, "lock"}
    assert snapshot(run.path) == before
    assert "## mlp after 1 task\n" in capsys.readouterr().out


REFUSED = {
    "--arms cnn": "--arms cnn: the run has",
    "--arms fresh:mlp": "never ages",
    "--at 5": "has kept its learner after 1, 2 tasks",
    "--arms mlp --interventions rate:3": "there is no layer 3",
    "--arms mlp --interventions turns:3": "needs a circuit",
    "--interventions rate:5": "it fits no arm",
    "--interventions cure": "there are none, untrained, rate",
    "--tasks 0": "--tasks 0",
    "--workers 0": "--workers 0",
    "--tasks ten": "--tasks ten: must be a whole number",
}


@pytest.mark.parametrize("words", REFUSED)
def test_wrong_use_is_one_line_and_status_2_and_nothing_is_written(run, tmp_path, capsys, words):
    before = snapshot(run.path)
    out = tmp_path / "out"
    assert diagnose.main([str(run.path), *words.split(), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert REFUSED[words] in said
    assert len(said.splitlines()) == 1
    assert snapshot(run.path) == before
    assert not out.exists()


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert diagnose.main([str(tmp_path)]) == 1
    assert "config.json: no such file" in capsys.readouterr().err
    assert diagnose.main([]) == 2


def test_a_run_of_another_program_is_refused(folder, tmp_path, capsys):
    run = train("mnist", folder, num_tasks=1, results=tmp_path / "results")
    arm = run["mlp"].path
    text = (arm / "arm.json").read_text().replace('"Mlp"', '"Mlq"')
    (arm / "arm.json").write_text(text)
    arm.rename(arm.with_name(folder_name("mlp", json.loads(text))))
    assert diagnose.main([str(run.path), "--out", str(tmp_path / "out")]) == 1
    assert "no arm of this program" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_runs_that_differ_in_more_than_the_seed_are_refused(run, folder, tmp_path, capsys):
    other = train("mnist", folder, num_tasks=1, results=tmp_path / "other", batch_size=16)
    words = [str(run.path), str(other.path), "--out", str(tmp_path / "out")]
    assert diagnose.main(words) == 2
    assert "differ in batch_size, not only in seed" in capsys.readouterr().err


def test_help_lists_the_interventions(capsys):
    with pytest.raises(SystemExit) as stop:
        diagnose.main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for word in ("rate:LAYER:FACTOR", "turns:TURNS", "revive: Make new units", "--at AGE"):
        assert word in printed


def test_paths_are_found(tmp_path, run, monkeypatch):
    monkeypatch.chdir(run.path.parent)
    assert diagnose.main([run.path.name, "--arms", "mlp", "--interventions", "none",
                          "--tasks", "1", "--out", str(tmp_path)]) == 0  # fmt: skip
    assert Path(tmp_path, "diagnosis.md").is_file()
