"""What every command that trains leaves, and what may befall its files; asked of mnist."""

import contextlib
import errno
import math
import os
import re
import resource
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import measure
from plasticity.learning.metric import Metric
from plasticity.metrics import METRICS
from plasticity.metrics.norms import weight_norm
from plasticity.runs.exports import column
from tests.experiments.runs import (
    EXPORTS,
    UPDATES,
    Stop,
    arm_folder,
    arm_folders,
    contents,
    finish,
    interrupt,
    only,
    provenance_of,
    rows_of,
    run_folder,
    snapshot,
    start,
    tiny_images,
    write_npz,
)

pytestmark = pytest.mark.usefixtures("empty_folder")


# --- what a run leaves


def test_exports_hold_the_rows(tiny: list[str]) -> None:
    folder = finish(tiny)
    for arm, name in EXPORTS.items():
        rows = rows_of(folder, arm)
        assert [row["task"] for row in rows] == [0, 1, 2]
        columns = {"accuracies": "test_accuracy", "weight_norms": "weight_norm",
                   "grad_norms": "gradient_norm"}  # fmt: skip
        with np.load(arm_folder(folder, arm) / name, allow_pickle=False) as archive:
            assert set(archive.files) == set(columns)
            for array, column in columns.items():
                assert archive[array].dtype == np.float64
                assert archive[array].tolist() == [row[column] for row in rows]


def test_exports_stay_in_step_where_a_column_is_undefined() -> None:
    rows = [{"task": 0, "norm": 2.0}, {"task": 1}, {"task": 2, "norm": 3.0}]
    np.testing.assert_array_equal(column(rows, "norm", math.nan), [2, math.nan, 3])
    assert column(rows, "norm").tolist() == [2, 3]
    assert column(rows, "task", math.nan).tolist() == [0, 1, 2]


def test_run_says_where_the_results_are(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finish(tiny)
    printed, bars = capsys.readouterr()
    for part in (str(folder), "first tenth", "last tenth", "drop", str(folder / "figure.png")):
        assert part in printed
    for arm, name in EXPORTS.items():
        assert f"{arm}: 100%" in bars
        accuracy = rows_of(folder, arm)[0]["test_accuracy"]
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{arm} "))
        assert float(line.split()[1]) == pytest.approx(accuracy, abs=1e-4)
        assert line.endswith(f" {arm_folder(folder, arm).name}/{name}")
        assert (folder / line.split()[-1]).exists()


def test_finished_run_says_so_and_changes_no_file(
    tiny: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    finish(tiny)
    before = snapshot(tmp_path)
    capsys.readouterr()
    assert start(*tiny) == 0
    printed, bars = capsys.readouterr()
    for arm in EXPORTS:
        assert f"{arm}: all 3 tasks are recorded, nothing to do" in printed
    assert bars == ""
    assert snapshot(tmp_path) == before


def test_finished_run_that_is_asked_for_more_metrics_tells_how_they_are_measured(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finish([*only(tiny, "mlp"), "--metrics", "logit"])
    assert "experiments.measure" not in capsys.readouterr().out
    for asked, more in (
        (["weight_norm", "logit"], []),
        (["logit", "fisher", "fisher"], ["fisher"]),
    ):
        capsys.readouterr()
        finish([*only(tiny, "mlp"), "--metrics", *asked])
        printed = capsys.readouterr().out
        assert "mlp: all 3 tasks are recorded, nothing to do" in printed
        (line, *_) = [s for s in printed.splitlines() if "measured" in s or "measures" in s] or [""]
        command = f"python -m experiments.measure {folder} --metrics {' '.join(more)}"
        assert line.endswith(command) if more else not line
    words = shlex.split(command)
    assert measure.main(words[3:]) == 0
    assert (arm_folder(folder, "mlp") / "measured.jsonl").exists()


def test_metric_that_needs_the_training_is_not_offered_after_it(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(only(tiny, "mlp"))
    monkeypatch.setitem(METRICS, "watched", Metric("watched", weight_norm, "during"))
    capsys.readouterr()
    finish([*only(tiny, "mlp"), "--metrics", "watched"])
    assert "experiments.measure" not in capsys.readouterr().out


def test_batch_of_all_samples_is_remarked_on_before_training(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    remark = "a batch has all 40 training samples: one update an epoch"
    for size, said in ((39, False), (40, True), (100_000, True)):
        finish([*only(tiny, "mlp"), f"--batch-size={size}", f"--results=results-{size}"])
        printed = capsys.readouterr().out
        assert (f"mlp: {remark}\n" in printed) == said
        if said:
            assert printed.index(remark) < printed.index(" s\n")


@pytest.mark.parametrize(("count", "said"), [(3, "1 task"), (19, "1 task"), (20, "1 and 2 tasks")])
def test_summary_says_how_many_tasks_its_means_are_of(
    tiny: list[str], capsys: pytest.CaptureFixture[str], count: int, said: str
) -> None:
    finish([*only(tiny, "mlp"), f"--num-tasks={count}", "--mlp.epochs=1"])
    printed = capsys.readouterr().out.splitlines()
    title, line = printed[-2:]
    assert "means of" in title
    assert f" {said}  " in line
    end = title.index("means of") + len("means of")
    assert line[:end].endswith(f" {said}")
    assert re.match(r"  \S", line[end:])


@pytest.mark.parametrize("name", ["figure.png", EXPORTS["mlp"]])
def test_finished_run_replaces_an_export_that_was_removed(tiny: list[str], name: str) -> None:
    folder = finish(tiny)
    before = contents(folder)
    (file,) = folder.rglob(name)
    file.unlink()
    finish(tiny)
    assert contents(folder) == before


def test_arms_trained_by_two_commands_end_up_in_one_folder(tiny: list[str], tmp_path: Path) -> None:
    together = finish(tiny)
    apart = [*tiny, f"--results={tmp_path / 'apart'}"]
    folder = finish(only(apart, "qnn"))
    assert {*arm_folders(folder)} == {"qnn"}
    assert not [*folder.rglob(EXPORTS["mlp"])]
    assert finish(only(apart, "mlp")) == folder
    # Equal names, so equal figures too.
    assert contents(folder) == contents(together)
    assert Path("figure.png") in contents(folder)


def test_other_configs_have_folders_of_their_own(tiny: list[str], tmp_path: Path) -> None:
    finish(tiny)
    before = snapshot(tmp_path / "results")
    assert start(*tiny, "--seed=1") == 0
    assert len(list((tmp_path / "results").iterdir())) == 2
    assert before.items() <= snapshot(tmp_path / "results").items()


def test_options_of_an_arm_change_the_folder_of_that_arm_only(tiny: list[str]) -> None:
    folder = finish(tiny)
    figure = (folder / "figure.png").read_bytes()
    before = snapshot(folder)
    assert finish([*tiny, "--qnn.depth=3"]) == folder
    after = snapshot(folder)
    new = {path.parent for path in after.keys() - before.keys() if path.parent.parent == folder}
    assert [path.name.rpartition("-")[0] for path in new] == ["qnn"]
    assert new.isdisjoint(path.parent for path in before)
    drawn = {folder / name for name in ("figure.png", "table.md", "drawn.json")}
    assert {path for path, _ in before.items() - after.items()} == drawn
    assert (folder / "figure.png").read_bytes() != figure


def test_overwrite_starts_afresh(tiny: list[str]) -> None:
    folder = finish(tiny)
    before = contents(folder)
    (arm_folder(folder, "mlp") / "rows.jsonl").write_text("edited")
    finish([*tiny, "--overwrite"])
    assert contents(folder) == before
    assert [note["rows"] for note in provenance_of(folder, "mlp")] == [0]


def test_overwrite_leaves_the_arms_alone_that_are_not_trained(tiny: list[str]) -> None:
    folder = finish(tiny)
    before = snapshot(arm_folder(folder, "qnn"))
    assert finish([*only(tiny, "mlp"), "--overwrite"]) == folder
    assert snapshot(arm_folder(folder, "qnn")) == before


# --- errors


def test_mnist_without_network_offers_other_data(
    refused: Callable[..., str], no_network: None, tmp_path: Path
) -> None:
    said = refused("--data-root", str(tmp_path / "empty"), status=1)
    for part in ("MNIST", str(tmp_path / "empty"), "--dataset digits", "FILE.npz"):
        assert part in said
    assert not (tmp_path / "results").exists()


BLANK = tiny_images().x_test.copy()
BLANK[5] = 0


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"y_train": np.full(40, -1)}, "y_train[0] is -1"),
        ({"x_test": BLANK}, "image 5 of x_test is blank"),
    ],
)
def test_unusable_archive_is_refused(
    refused: Callable[..., str], tiny: list[str], tmp_path: Path, changes: dict, part: str
) -> None:
    write_npz(tmp_path / "tiny.npz", **changes)
    said = refused(*tiny, status=1)
    assert "tiny.npz" in said
    assert part in said
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(("dataset", "status"), [("minst", 2), ("gone.npz", 1)])
def test_data_set_that_is_not_there_is_refused(
    refused: Callable[..., str], dataset: str, status: int
) -> None:
    assert dataset in refused("--dataset", dataset, status=status)


def test_results_that_are_a_file_are_refused(
    refused: Callable[..., str], tiny: list[str], tmp_path: Path
) -> None:
    (tmp_path / "results").write_text("mine")
    said = refused(*tiny, status=1)
    assert str(tmp_path / "results") in said
    assert "--results" in said


def test_results_that_cannot_be_written_are_refused(
    refused: Callable[..., str], tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *arguments: object, **more: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)  # the administrator may write everywhere
    assert "Permission denied" in refused(*tiny, status=1)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 2)


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace("1", "2"))


@pytest.mark.sampled(7)
@pytest.mark.parametrize("num_updates", [0, 2 * UPDATES + 1, 4 * UPDATES + 1])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", cut),
        ("config.json", edit),
        ("mlp/arm.json", cut),
        ("mlp/arm.json", edit),
        ("mlp/rows.jsonl", cut),
        ("mlp/rows.jsonl", edit),
        ("mlp/checkpoint.pt", cut),
    ],
)
def test_run_that_was_edited_or_cut_off_is_refused(
    refused: Callable[..., str],
    tiny: list[str],
    stop: Stop,
    tmp_path: Path,
    name: str,
    change: Callable[[Path], None],
    num_updates: int,
) -> None:
    """Of a finished run, and of one stopped in its first or second arm."""
    stop.at(num_updates, interrupt)
    assert start(*tiny) == (130 if num_updates else 0)
    folder = run_folder(tmp_path / "results")
    path = folder / name
    if path.parent != folder:
        path = arm_folder(folder, "mlp") / path.name
    change(path)
    said = refused(*tiny, status=1)
    assert str(path) in said
    assert ("remove it" if name == "config.json" else "--overwrite") in said
    if name.endswith(".json"):  # also for another arm: the figure has them all
        assert str(path) in refused(*only(tiny, "qnn"), status=1)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("num_updates", [1, 2 * UPDATES + 1, 5 * UPDATES + 3])
def test_run_stopped_by_a_full_disk_goes_on_once_there_is_room(
    tiny: list[str],
    stop: Stop,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    num_updates: int,
) -> None:
    uninterrupted = contents(finish([*tiny, f"--results={tmp_path / 'uninterrupted'}"]))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    stop.at(num_updates, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1])))
    capsys.readouterr()
    try:
        assert start(*tiny) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err.partition("error: ")[2]
    assert "File too large" in said
    assert "the same command goes on" in said
    assert len(said.splitlines()) <= 2
    folder = run_folder(tmp_path / "results")
    with contextlib.suppress(FileNotFoundError):
        kept = (arm_folder(folder, "mlp") / "rows.jsonl").read_bytes()
        assert len(kept.splitlines()) >= min(3, num_updates // UPDATES)
    assert finish(tiny) == folder
    assert contents(folder) == uninterrupted


def test_training_that_diverges_says_so_and_keeps_its_rows(
    tiny: list[str], stop: Stop, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def spoil() -> None:
        monkeypatch.setattr(torch.optim.Adam, "step", lambda self: self.param_groups[0]["params"][
            0].data.fill_(torch.nan))  # fmt: skip

    with pytest.MonkeyPatch.context() as monkeypatch:
        stop.at(UPDATES + 1, spoil)
        assert start(*only(tiny, "mlp")) == 1
    said = capsys.readouterr().err.partition("error: ")[2]
    assert "mlp" in said
    assert "task 1" in said
    assert len(said.splitlines()) == 1
    assert len(rows_of(run_folder(tmp_path / "results"), "mlp")) == 1


# The weights of five layers, all of about 1e9, have a product that float32 cannot hold.
DIVERGING = ["--mlp.optimizer.learning-rate", "1e9", "--mlp.hidden", "8", "8", "8", "8"]


def test_arm_that_diverges_keeps_no_other_from_being_trained(
    tiny: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sound = finish([*tiny, f"--results={tmp_path / 'sound'}"])
    figure = (sound / "figure.png").read_bytes()
    for _ in range(2):  # again where it has diverged before
        capsys.readouterr()
        assert start(*tiny, *DIVERGING) == 1
        printed, said = capsys.readouterr()
        error = said[said.index("error: ") :]
        assert re.fullmatch(r"error: mlp: the training loss of task 0 is (nan|inf)\n", error)
        assert error.removeprefix("error: ") in printed
        folder = run_folder(tmp_path / "results")
        assert rows_of(folder, "mlp") == []
        assert contents(arm_folder(folder, "qnn")) == contents(arm_folder(sound, "qnn"))
        assert (folder / "figure.png").read_bytes() != figure
        for name in arm_folders(folder):
            assert len([line for line in printed.splitlines() if line.startswith(f"{name} ")]) == 1


def test_arm_that_diverged_has_the_rows_before_that_in_its_exports(
    tiny: list[str], stop: Stop, tmp_path: Path
) -> None:
    def spoil() -> None:
        monkeypatch.setattr(torch.optim.Adam, "step", lambda self: self.param_groups[0]["params"][
            0].data.fill_(torch.nan))  # fmt: skip

    with pytest.MonkeyPatch.context() as monkeypatch:
        stop.at(UPDATES + 1, spoil)
        assert start(*only(tiny, "mlp")) == 1
    arm = arm_folder(run_folder(tmp_path / "results"), "mlp")
    with np.load(arm / EXPORTS["mlp"], allow_pickle=False) as archive:
        assert archive["accuracies"].shape == (1,)
    uninterrupted = contents(arm_folder(finish([*tiny, f"--results={tmp_path / 'whole'}"]), "mlp"))
    finish(tiny)
    assert contents(arm) == uninterrupted


@pytest.mark.parametrize("update", [62, 68])  # of the learner, and of the untrained copy
def test_a_run_that_stops_within_its_last_tasks_has_the_same_deficits(
    tiny: list[str], stop: Stop, tmp_path: Path, update: int
) -> None:
    longer = [*only([w for w in tiny if not w.startswith("--num-tasks")], "mlp"), "--num-tasks=12"]
    longer += ["--metrics", "deficit"]
    whole = finish([*longer, f"--results={tmp_path / 'whole'}"])
    stop.at(update, interrupt)
    assert start(*longer) != 0
    stopped = run_folder(tmp_path / "results")
    assert 0 < len(rows_of(stopped, "mlp")) < 12
    assert finish(longer) == stopped
    rows = rows_of(stopped, "mlp")
    assert rows == rows_of(whole, "mlp")
    assert ["deficit" in row for row in rows] == [False] * 2 + [True] * 10
