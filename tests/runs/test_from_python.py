"""Experiments that are run from Python, and runs that are read, as on the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import plasticity
from experiments import mnist
from plasticity import Run, load_run, load_runs
from plasticity.errors import Diverged, Failure, PlasticityError, RecordError, UsageError
from plasticity.runs import train as training
from tests.experiments.runs import contents, finish, run_folder, tiny_command

SMALL = {"num_tasks": 3, "batch_size": 16, "progress": False}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    tiny_command("mnist", tmp_path)
    return tmp_path / "tiny.npz"


@pytest.fixture
def make(tmp_path: Path, data: Path) -> Callable[..., Run]:
    def run(**more: Any) -> Run:
        options = {"arms": ["mlp", "mlp+l2"], "dataset": data, "results": tmp_path / "results"}
        return mnist.EXPERIMENT.run("quick", **SMALL | options | more)

    return run


def test_a_run_from_python_is_that_of_the_command_byte_for_byte(
    tmp_path: Path, data: Path, make: Callable[..., Run]
) -> None:
    run = make(options={"mlp": {"hidden": 5}, "mlp+l2": {"l2.strength": 1e-2, "epochs": 2}})
    words = [
        "--preset=quick", f"--dataset={data}", "--num-tasks=3", "--batch-size=16",
        "--arms", "mlp", "mlp+l2", "--mlp.hidden", "5", "--mlp+l2.l2.strength=0.01",
        "--mlp+l2.epochs=2", f"--results={tmp_path / 'typed'}",
    ]  # fmt: skip
    typed = finish(words)
    assert run.path.name == typed.name
    drawn = {"figure.png", "table.md", "drawn.json"}
    mine = {k: v for k, v in contents(run.path).items() if Path(k).name not in drawn}
    assert mine == {k: v for k, v in contents(typed).items() if Path(k).name not in drawn}


def test_a_run_is_read_as_it_was_recorded(make: Callable[..., Run]) -> None:
    run = make(arms=["mlp", "fresh:mlp"], num_tasks=5)
    again = load_run(run.path)
    assert {*again.arms} == {"mlp", "fresh:mlp"} and run.arms == ("mlp", "fresh:mlp")
    assert again["mlp"].rows == plasticity.read_rows(again["mlp"].path)
    accuracy = again["mlp"].column("test_accuracy")
    assert accuracy.dtype == np.float64
    assert accuracy.tolist() == [row["test_accuracy"] for row in again["mlp"].rows]
    fresh = again["fresh:mlp"].column("test_accuracy")
    assert np.isnan(fresh).tolist() == [False, False, False, True, False]
    (first, _) = again.summary()
    assert first.early - first.late == first.drop
    again.measure(["spectrum"])
    spectrum = next(name for name in again["mlp"].columns if name.startswith("spectrum"))
    assert np.isnan(again["mlp"].column(spectrum)).tolist() == [False, False, False, True, False]


def test_kept_networks_are_those_of_a_run_that_ended_there(make: Callable[..., Run]) -> None:
    long = make(arms=["mlp"], num_tasks=6)
    short = make(arms=["mlp"], num_tasks=3, results=long.path.parent / "short")
    kept, last = long["mlp"].network(task=2), short["mlp"].network()
    for one, other in zip(kept.parameters(), last.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(UsageError, match="networks were kept after the tasks 0, 1, 2, 4, 5"):
        long["mlp"].network(3)


def test_seeds_are_stacked_and_shorter_ones_end_in_nan(make: Callable[..., Run]) -> None:
    runs = [make(arms=["mlp"], seed=seed, num_tasks=n) for seed, n in ((4, 3), (3, 2))]
    found = load_runs(str(runs[0].path.parent / "mnist-quick-seed*"))
    assert found.seeds == (3, 4) and found.arms == ("mlp",)
    stacked = found["mlp"].column("test_accuracy")
    assert stacked.shape == (2, 3)
    assert np.isnan(stacked).tolist() == [[False, False, True], [False] * 3]
    assert len(found.figure(["test_accuracy"]).axes) == 1
    other = make(arms=["mlp"], seed=5, batch_size=8)
    with pytest.raises(UsageError, match="differ in batch_size"):
        load_runs([runs[0].path, other.path])


def test_namesakes_are_told_apart_by_their_folders(make: Callable[..., Run]) -> None:
    make(arms=["mlp"])
    chosen = make(arms=["mlp"], options={"mlp": {"hidden": 3}})
    assert chosen["mlp"].network()[0].out_features == 3
    run = load_run(chosen.path)
    assert len(run.arms) == 2 and chosen["mlp"].path.name in run.arms
    with pytest.raises(UsageError, match="several arms have this name"):
        run["mlp"]


def test_events_are_in_order_and_a_stopped_run_goes_on(
    tmp_path: Path, data: Path, make: Callable[..., Run]
) -> None:
    from plasticity.protocol.choices import choose

    settings = {"num_tasks": 3, "batch_size": 16, "dataset": data}
    choice = choose(mnist.EXPERIMENT, "quick", ["mlp"], settings)
    options = mnist.EXPERIMENT.options(arms=("mlp",), results=tmp_path / "results")
    events = training.train(mnist.EXPERIMENT, choice, options)
    seen = [type(next(events)).__name__ for _ in range(3)]
    events.close()  # after the first row
    seen += [type(e).__name__ for e in training.train(mnist.EXPERIMENT, choice, options)]
    assert seen == [
        "RunOpened", "ArmBegan", "RowRecorded",
        "RunOpened", "ArmBegan", "RowRecorded", "RowRecorded", "ArmFinished",
    ]  # fmt: skip
    whole = make(arms=["mlp"], results=tmp_path / "whole")
    assert load_run(run_folder(tmp_path / "results"))["mlp"].rows == whole["mlp"].rows


def test_an_arm_that_diverges_keeps_no_other_from_being_trained(make: Callable[..., Run]) -> None:
    with pytest.raises(Diverged, match=r"^mlp\+upgd: "):
        make(arms=["mlp+upgd", "mlp"], options={"mlp+upgd": {"upgd.learning_rate": 2e9}})
    assert len(make(arms=["mlp"])["mlp"].rows) == 3


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "preset": ({"preset": "quik"}, "preset quik: mnist has released"),
    "arm": ({"arms": ["mpl"]}, "arm mpl: no network"),
    "arms that are a word": ({"arms": "mlp"}, r"arms='mlp': a list of names"),
    "an arm twice": ({"arms": ["mlp", "mlp"]}, "mlp is there twice"),
    "option": ({"options": {"mlp": {"hiden": 3}}}, "did you mean hidden"),
    "option of another arm": ({"options": {"qnn": {"depth": 3}}}, "qnn is not among mlp"),
    "a value of an option": ({"options": {"mlp": {"epochs": "x"}}}, "epochs='x': must be int"),
    "a value that is refused": (
        {"options": {"mlp": {"optimizer.learning_rate": -1}}}, "learning-rate -1"),
    "setting": ({"num_task": 3}, "did you mean num_tasks"),
    "a value of a setting": ({"num_tasks": 0}, "num-tasks 0"),
    "metric": ({"metrics": ["luck"]}, "luck: there are"),
    "device": ({"device": "tpu"}, "tpu"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_use_is_one_line_and_nothing_is_written(
    what: str, make: Callable[..., Run], tmp_path: Path
) -> None:
    more, part = WRONG[what]
    preset = more.pop("preset", "quick") if "preset" in more else "quick"
    with pytest.raises(UsageError, match=part) as refused:
        mnist.EXPERIMENT.run(
            preset, **SMALL | {"results": tmp_path / "results", "arms": ["mlp"]} | more
        )
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("number", "fits", "refused", "there"),
    [
        (0, ["cpu"], ["cuda", "cuda:0"], "no CUDA device"),
        (1, ["cpu", "cuda", "cuda:0"], ["cuda:1"], "CUDA devices 0 to 0"),
        (2, ["cuda", "cuda:1"], ["cuda:2"], "CUDA devices 0 to 1"),
    ],
)
def test_a_device_is_there_or_refused(
    number: int, fits: list[str], refused: list[str], there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    for device in fits:
        training.check_device(device)
    for device in refused:
        with pytest.raises(UsageError, match=f"^--device {device}: this torch finds {there}$"):
            training.check_device(device)


def test_what_cannot_be_read_is_named(make: Callable[..., Run], tmp_path: Path) -> None:
    run = make(arms=["mlp"])
    with pytest.raises(UsageError, match="did you mean test_accuracy"):
        run["mlp"].column("test_acuracy")
    with pytest.raises(UsageError, match="has mlp"):
        run["qnn"]
    with pytest.raises(UsageError, match="no arm has a column 'luck'"):
        run.figure(["luck"])
    with pytest.raises(RecordError, match="no such file"):
        load_run(tmp_path)
    with pytest.raises(UsageError, match="there is no such run folder"):
        load_runs(str(tmp_path / "nothing*"))
    (run["mlp"].path / "rows.jsonl").write_text("{\n")
    with pytest.raises(RecordError, match="edited or cut off"):
        load_run(run.path)["mlp"].column("test_accuracy")
    assert issubclass(Failure, PlasticityError)
