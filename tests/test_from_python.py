"""What a notebook does: the promise as it was given, and the page on it, run in a fresh folder."""

import re
from pathlib import Path

import pytest

from plasticity import load_run
from plasticity.errors import Failure

pytestmark = pytest.mark.pages

ROOT = Path(__file__).parents[1]
PAGE = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs/from-python.md").read_text(), re.DOTALL | re.MULTILINE
)
# The contract, to the letter: what stands here works, and goes on working.
PROMISED = """
from experiments import mnist
from plasticity import Study, load_run, load_runs, load_study

run = mnist.EXPERIMENT.run("quick", arms=["mlp", "mlp+l2"], seed=3, num_tasks=4, results="results", progress=False,
                           options={"mlp+l2": {"l2.strength": 1e-2}})      # trains what is missing, resumes, returns a Run
run = load_run(run.path)                    # .path .config .arms (names as typed, fresh:mlp too)
run["mlp"].column("test_accuracy")          # (tasks,) float64, NaN where undefined; what was measured afterwards is in it
run["mlp"].rows                             # list of dicts, as recorded
run["mlp"].network(task=2)                  # the nn.Module as it was kept after that many tasks
run.summary()                               # what the command prints, as data        run.figure(["test_accuracy"])  a matplotlib Figure
runs = load_runs("results/mnist-quick-seed*")          # runs["mlp"].column("test_accuracy") -> (seeds, tasks)
study = Study(name="held", question="...", experiment="mnist", preset="quick", arms=("mlp", "mlp-sphere"), seeds=(0, 1, 2),
              settings={"num_tasks": 40}, of_arm={"mlp-sphere": {"optimizer.learning_rate": 0.01}}, drop_margin=0.01)
study.train(results="results", workers=2)
found = study.load("results")               # also load_study("docs/records/studies/quick")
for f in found.findings(): print(f.arm, f.drop.verdict, f.drop.estimate, f.drop.interval_95)
found.figure("test_accuracy"); found.report("folder")
run.frame(), found.frame()                  # pandas DataFrames, if pandas is there; a one-line error if not
"""  # noqa: E501
OF_RUNS, STUDY, OF_STUDIES = PROMISED.partition("study = Study(")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let studies start one worker, whatever was asked for: each imports everything anew."""
    from plasticity.studies import workers

    start = workers.own_cluster
    monkeypatch.setattr(workers, "own_cluster", lambda asked_for: start(1))


def test_runs_are_trained_and_read_as_promised() -> None:
    import numpy as np
    from matplotlib.figure import Figure
    from torch import nn

    names: dict = {}
    exec(OF_RUNS, names)
    run, runs = names["run"], names["runs"]
    assert run.arms == ("mlp", "mlp+l2")
    assert run.config["seed"] == 3
    accuracies = run["mlp"].column("test_accuracy")
    assert (accuracies.shape, accuracies.dtype) == ((4,), np.float64)
    assert [row["task"] for row in run["mlp"].rows] == [0, 1, 2, 3]
    assert isinstance(run["mlp"].network(task=2), nn.Module)
    assert run["mlp+l2"].config["remedies"][0]["strength"] == 1e-2
    assert [(of.arm, of.early, of.late) for of in run.summary()] == [
        (name, run[name].column("test_accuracy")[0], run[name].column("test_accuracy")[-1])
        for name in run
    ]
    assert isinstance(run.figure(["test_accuracy"]), Figure)
    assert runs["mlp"].column("test_accuracy").shape == (1, 4)


@pytest.mark.slow
@pytest.mark.usefixtures("one_worker")
def test_all_that_was_promised_works_to_the_letter(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed")
    pandas = pytest.importorskip("pandas")
    names: dict = {}
    exec(PROMISED, names)
    found = names["found"]
    said = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in said} == {"mlp", "mlp-sphere"}
    assert found.column("mlp", "test_accuracy").shape == (3, 40)
    assert (folder / "folder/report.md").is_file()
    frame = found.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == 2 * 3 * 40
    assert len(names["run"].frame()) == 2 * 4


def test_without_pandas_a_frame_is_an_error_of_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from plasticity import load_study

    monkeypatch.setitem(sys.modules, "pandas", None)
    exec(OF_RUNS.partition("run = load_run")[0], names := {})
    for frame in (
        load_run(names["run"].path).frame, load_study(ROOT / "docs/records/studies/quick").frame,
    ):  # fmt: skip
        with pytest.raises(Failure, match=r"^[^\n]*pip install pandas$"):
            frame()


def test_the_page_has_a_block_of_each_kind() -> None:
    assert len(PAGE) == 3
    for promised in ("EXPERIMENT.run(", "load_runs(", "Study("):
        assert any(promised in block for block in PAGE)


@pytest.mark.slow
@pytest.mark.usefixtures("one_worker")
def test_blocks_of_the_page_run_one_after_another(folder: Path) -> None:
    pytest.importorskip("distributed")
    names: dict = {"__name__": "notebook"}
    for block in PAGE:
        exec(block, names)
    assert names["runs"]["mlp"].column("test_accuracy").shape == (3, 4)
    assert {path.name for path in (folder / "report").iterdir()} >= {"report.md", "summary.csv"}
