"""``python -m experiments.measure``: what it finds, what it leaves alone, how it is stopped."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import measure, mnist
from plasticity.figures.curves import figure_columns
from plasticity.learning.learner import Learner
from plasticity.learning.metric import Metric
from plasticity.learning.remedy import Learns, Remedy
from plasticity.metrics import METRICS
from plasticity.remedies import REMEDIES
from plasticity.results import provenance
from plasticity.results.reading import recorded
from plasticity.results.record import RunFolder
from plasticity.tasks.streams import Task
from tests.experiments.measuring import KEPT, measured, start, train, write_data
from tests.experiments.runs import arm_folder, arm_folders, rows_of, snapshot

ROOT = Path(__file__).parents[2]
ALL = [*METRICS]
KEPT_NETWORKS = [name for name, metric in METRICS.items() if metric.when != "during"]
# Of a network that is none of those that a metric is valid for.
NO_COLUMN = {
    "mlp": {"circuit", "gate"},
    "qnn": {"dormant", "feature_rank", "spectrum", "singular_value"},
}
ARMS = {
    "mnist": ("mlp", "qnn", "mlp+reset-optimizer", "mlp+shrink", "qnn+shrink", "mlp+isometry"),
    "cifar": ("mlp", "qnn+reset-optimizer", "mlp+layer-norm", "mlp+input-standardisation"),
    "qdata": ("mlp+shrink", "qnn", "qnn+shrink-perturb"),
}


@dataclass
class Shrink(Remedy):
    """Shrink the network when a task begins, so that it is not the one that was kept."""

    factor: float = 0.75

    def start(self, learner: Learns, seed: int) -> None:
        self._learner = learner

    def before_task(self, index: int) -> None:
        with torch.no_grad():
            for parameter in self._learner.network.parameters():
                parameter.mul_(self.factor)


@pytest.fixture(autouse=True)
def here(empty_folder: Path) -> None:
    """Work in an empty folder."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs of six tasks that recorded every metric at every task, of arms with and without remedy.

    They are trained when they are first asked for.
    """

    @functools.cache
    def of(name: str, *arms: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(provenance, "git_commit", lambda: None)
            patch.setitem(REMEDIES, "shrink", Shrink())
            asked = ["--metrics", *ALL, "--measure-every=1"]
            return train(name, arms, data, tmp_path_factory.mktemp(name), *asked)

    return of


@pytest.fixture
def run(finished: Callable[..., Path], tmp_path: Path) -> Path:
    """A run of mnist, to do with as one likes; it lies elsewhere than where it was trained."""
    folder = tmp_path / "run"
    shutil.copytree(finished("mnist", "mlp", "qnn"), folder)
    return folder


def belongs(column: str, metric: str) -> bool:
    return column == metric or column.startswith(f"{metric}_")


# --- what is measured is what would have been recorded


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("experiment", "arm"), [(e, arm) for e in ARMS for arm in ARMS[e]])
def test_every_metric_gives_the_numbers_that_the_run_recorded(
    finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: str,
    arm: str,
) -> None:  # fmt: skip
    monkeypatch.setitem(REMEDIES, "shrink", Shrink())
    folder = tmp_path / "run"
    shutil.copytree(finished(experiment, arm), folder)
    assert start(folder, "--arms", arm, "--metrics", *KEPT_NETWORKS) == 0
    rows = rows_of(folder, arm)
    assert len(rows) == 6
    due = {"after": KEPT, "before": [0, *(task + 1 for task in KEPT[:-1])]}
    expected: dict[int, dict[str, float]] = {}
    for name in KEPT_NETWORKS:
        for task in due[METRICS[name].when]:
            columns = {c: v for c, v in rows[task].items() if belongs(c, name)}
            assert bool(columns) == (name not in NO_COLUMN[arm.partition("+")[0]])
            expected.setdefault(task, {}).update(columns)
    assert measured(folder, arm) == expected


def test_a_run_is_measured_as_far_as_it_has_come_and_again_when_it_has_grown(
    data: Path, tmp_path: Path
) -> None:
    words = ["--metrics=logit", "--measure-every=1"]
    for num_tasks, tasks in ((4, [0, 1, 2, 3]), (7, [0, 1, 2, 3, 4, 6])):
        folder = train("mnist", ("mlp",), data, tmp_path / "r", *words, f"--num-tasks={num_tasks}")
        assert start(folder, "--metrics", "logit") == 0
        found, rows = measured(folder, "mlp"), rows_of(folder, "mlp")
        assert [*found] == tasks
        for task, columns in found.items():
            assert columns == {k: v for k, v in rows[task].items() if belongs(k, "logit")}


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_run_of_one_task_is_measured(data: Path, tmp_path: Path, is_kept: bool) -> None:
    folder = train("cifar", ("mlp",), data, tmp_path / "r", "--num-tasks=1")
    if not is_kept:  # the checkpoint has the last network, too
        shutil.rmtree(arm_folder(folder, "mlp") / "snapshots")
    assert start(folder, "--metrics", "weight_norm", "test_accuracy") == 0
    (row,) = rows_of(folder, "mlp")
    (found,) = measured(folder, "mlp").values()
    assert found.items() >= {n: row[n] for n in ("weight_norm", "test_accuracy")}.items()
    assert not {*found} - {*row} - {f"weight_norm_{k}" for k in (1, 2, 3)}


@pytest.mark.slow
def test_metrics_are_added_one_by_one_or_at_once_and_measuring_again_changes_nothing(
    run: Path, tmp_path: Path
) -> None:
    at_once = tmp_path / "once"
    shutil.copytree(run, at_once)
    assert start(at_once, "--metrics", "logit", "weight_norm", "logit") == 0
    for metric in ("logit", "weight_norm", "logit"):
        assert start(run, "--metrics", metric) == 0
    for arm in ("mlp", "qnn"):
        assert measured(run, arm) == measured(at_once, arm)
    before = {path: content for path, (content, _) in snapshot(run).items()}
    assert start(run, "--metrics", "weight_norm") == 0
    assert {path: content for path, (content, _) in snapshot(run).items()} == before


def test_an_arm_can_be_named_by_its_folder(run: Path) -> None:
    path = arm_folder(run, "qnn")
    assert start(run, "--metrics", "logit", "--arms", path.name) == 0
    assert (path / "measured.jsonl").exists()
    assert not (arm_folder(run, "mlp") / "measured.jsonl").exists()


# --- a metric that is written after the run


def largest_weight(learner: Learner, task: Task) -> dict[str, float]:
    weights = [p.detach().abs().max() for p in learner.network.parameters()]
    return {"overall": float(max(weights)), "of_first": float(weights[0])}


def distance(learner: Learner, first: Task, seed: int) -> Callable[[Learner, Task], float]:
    initial = [p.detach().clone() for p in learner.network.parameters()]

    def moved(learner: Learner, task: Task) -> float:
        pairs = zip(learner.network.parameters(), initial, strict=True)
        return sum(float((p.detach() - i).square().sum()) for p, i in pairs)

    return moved


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "largest_weight", Metric("largest_weight", largest_weight))
    monkeypatch.setitem(METRICS, "moved", Metric("moved", prepare=distance))


def test_a_metric_written_after_the_run_is_measured_of_the_networks_that_were_kept(
    toys: None, run: Path
) -> None:
    assert start(run, "--metrics", "largest_weight", "moved") == 0
    for arm in ("mlp", "qnn"):
        found = measured(run, arm)
        assert [*found] == KEPT
        states = {task: torch.load(arm_folder(run, arm) / f"snapshots/task-{task:08}.pt")["network"]
                  for task in KEPT[:-1]}  # fmt: skip
        states[5] = torch.load(arm_folder(run, arm) / "checkpoint.pt")["state"]["network"]
        for task, state in states.items():
            weights = [value.abs().max().item() for value in state.values()]
            assert found[task]["largest_weight_overall"] == max(weights)
            assert found[task]["largest_weight_of_first"] == weights[0]
            assert found[task]["moved"] > 0
        assert len({columns["moved"] for columns in found.values()}) == len(KEPT)


def test_what_is_measured_is_drawn_and_nothing_else_is_touched(
    toys: None, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    save = RunFolder.save_figure

    def note(folder: RunFolder, name: str, figure: Any) -> Path:
        drawn.extend(axes.get_ylabel() for axes in figure.axes if axes.get_visible())
        assert all(axes.lines for axes in figure.axes if axes.get_visible())
        return save(folder, name, figure)

    monkeypatch.setattr(RunFolder, "save_figure", note)
    before = snapshot(run)
    assert start(run, "--metrics", "largest_weight", "moved") == 0
    after = snapshot(run)
    new = {arm_folder(run, arm) / "measured.jsonl" for arm in ("mlp", "qnn")}
    assert {*after} - {*before} == new
    drawn_again = {run / name for name in ("figure.png", "table.md", "drawn.json")}
    assert {p for p in before if after[p] != before[p]} == drawn_again
    assert after[run / "figure.png"][0] != before[run / "figure.png"][0]
    labels = ["largest weight overall", "largest weight of first", "moved"]
    assert drawn[-3:] == labels
    series = {arm: [recorded(path)] for arm, path in arm_folders(run).items()}
    columns = [column.name for column in figure_columns(mnist.EXPERIMENT, series)]
    assert columns[-3:] == [label.replace(" ", "_") for label in labels]


def test_where_a_metric_means_nothing_it_has_no_column(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undefined(learner: Learner, task: Task) -> float:
        return float("nan") if task.index % 2 else 1.0

    monkeypatch.setitem(METRICS, "odd", Metric("odd", undefined))
    assert start(run, "--metrics", "odd") == 0
    assert measured(run, "mlp") == {0: {"odd": 1.0}, 1: {}, 2: {"odd": 1.0}, 4: {"odd": 1.0}, 5: {}}


def test_it_says_what_it_measured_and_where(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(run, "--metrics", "logit", "fisher") == 0
    printed, bars = capsys.readouterr()
    lines = printed.splitlines()
    for arm, line in zip(("mlp", "qnn"), lines, strict=False):
        path = arm_folder(run, arm) / "measured.jsonl"
        assert line == f"{arm}: logit, fisher of 5 networks: {path}"
        assert f"{arm}: 100%" in bars
    assert lines[2:] == [f"figure: {run / 'figure.png'}"]


def test_help_tells_of_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        measure.main(["--help"])
    assert not stopped.value.code
    text = " ".join(capsys.readouterr().out.split())
    for part in ("RUN", "--metrics NAME", "--arms NAME", "--dataset NAME|FILE.npz", "--data-root",
                 "tasks 0, 1, 2, 4, 8, ...", "measured.jsonl", "figure.png"):  # fmt: skip
        assert part in text
    assert "``" not in text


def test_an_arm_that_is_being_measured_cannot_be_trained(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("mnist", ("mlp",), data, tmp_path / "results", "--num-tasks=1")
    folder = train(*words)

    def train_too(learner: Learner, task: Task) -> float:
        with pytest.raises(AssertionError, match="status 75"):
            train(*words)
        return 0.5

    monkeypatch.setitem(METRICS, "train_too", Metric("train_too", train_too))
    assert start(folder, "--metrics", "train_too") == 0
    assert measured(folder, "mlp") == {0: {"train_too": 0.5}}


# --- stopped


class Killed(BaseException):
    """What nothing catches: what follows in the program does not happen, as after a kill."""


def whole(path: Path) -> bytes:
    """Return what is in a file of whole lines."""
    content = path.read_bytes()
    assert content.endswith(b"\n")
    for line in content.splitlines():
        assert isinstance(json.loads(line)["task"], int)
    return content


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_measuring_that_is_killed_at_any_write_leaves_what_was_or_what_will_be(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    for path in arm_folders(run).values():
        (path / "measured.jsonl").write_bytes(b'{"task": 1, "other": 0.5}\n')
    expected = tmp_path / "expected"
    shutil.copytree(run, expected)
    assert start(expected, "--metrics", "logit") == 0
    (run / "figure.png").unlink()  # of other points in time
    call = getattr(os, function)
    calls, number = 0, 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise Killed
        return call(*arguments)

    files = [path / "measured.jsonl" for path in arm_folders(run).values()]
    allowed = [
        {file.read_bytes(), (expected / file.relative_to(run)).read_bytes()} for file in files
    ]
    assert all(len(contents) == 2 for contents in allowed)
    while True:
        number, calls = number + 1, 0
        with monkeypatch.context() as patch:
            patch.setattr(os, function, counted)
            try:
                status = start(run, "--metrics", "logit")
            except Killed:
                status = None
        for file, contents in zip(files, allowed, strict=True):
            assert whole(file) in contents
        if status == 0:
            break
    assert number >= 4
    for file in files:
        assert file.read_bytes() == (expected / file.relative_to(run)).read_bytes()
    assert not [*run.rglob("measured.jsonl.tmp")]


def test_control_c_keeps_the_arms_that_were_measured(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def interrupted(learner: Learner, task: Task) -> float:
        calls.append(task.index)
        if len(calls) == 8:  # the third of the second arm
            raise KeyboardInterrupt
        return 0.5

    assert start(run, "--metrics", "logit") == 0
    before = {arm: measured(run, arm) for arm in ("mlp", "qnn")}
    monkeypatch.setitem(METRICS, "new", Metric("new", interrupted))
    capsys.readouterr()
    assert start(run, "--metrics", "new") == 130
    assert "stopped: arms that were measured to the end are saved" in capsys.readouterr().err
    assert measured(run, "mlp") == {t: c | {"new": 0.5} for t, c in before["mlp"].items()}
    assert measured(run, "qnn") == before["qnn"]
    assert start(run, "--metrics", "new") == 0
    assert measured(run, "qnn") == {t: c | {"new": 0.5} for t, c in before["qnn"].items()}


# The command, killed when it puts the second arm's file into its place.
KILLED = """
import os, signal, sys
from experiments import measure
replace = os.replace
def fatal(source, target):
    if str(target).endswith(os.path.join(sys.argv[1], "measured.jsonl")):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = fatal
sys.exit(measure.main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_killed_command_leaves_whole_files_and_the_same_command_goes_on(run: Path) -> None:
    names = {arm: path.name for arm, path in arm_folders(run).items()}
    words = [str(run), "--metrics", "logit"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, names["qnn"], *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [*measured(run, "mlp")] == KEPT
    assert [path.name for path in run.rglob("measured.jsonl*")].count("measured.jsonl.tmp") == 1
    assert not (arm_folder(run, "qnn") / "measured.jsonl").exists()
    assert start(*map(Path, words[:1]), *words[1:]) == 0
    assert [*measured(run, "qnn")] == KEPT
    assert not [*run.rglob("*.tmp")]
