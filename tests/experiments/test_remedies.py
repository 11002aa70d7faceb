"""Remedies on the command line: trained, recorded, stopped and resumed, refused."""

import json
import math
from pathlib import Path

import pytest

from experiments import mnist
from plasticity.remedies import REMEDIES
from plasticity.results.record import read_rows
from tests.experiments.runs import (
    EXPERIMENTS,
    Stop,
    arm_folders,
    contents,
    finish,
    interrupt,
    only,
    run_folder,
    start,
    tiny_command,
)
from tests.remedies.test_all import FOR_CIRCUITS, FOR_LAYERS, WITHOUT_COLUMNS

pytestmark = pytest.mark.usefixtures("empty_folder")


def check_rows(folder: Path, num_tasks: int) -> None:
    """Check that each arm's rows are finite, and have the columns of its remedy."""
    for arm, path in arm_folders(folder).items():
        remedy = arm.partition("+")[2]
        rows = read_rows(path)
        assert len(rows) == num_tasks
        content = json.loads((path / "arm.json").read_text())
        assert content["remedies"][-1]["class"] == type(REMEDIES[remedy]).__name__
        for row in rows:
            own = [key for key in row if key.startswith(remedy.replace("-", "_") + "_")]
            assert bool(own) == (remedy not in WITHOUT_COLUMNS), (arm, row)
            assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))


@pytest.mark.slow
def test_every_remedy_learns_digits(tmp_path: Path) -> None:
    arms = [f"mlp+{name}" for name in REMEDIES]
    command = ["--preset=quick", "--num-tasks=3", f"--results={tmp_path}", "--arms", *arms]
    folder = finish(command)
    assert {*arm_folders(folder)} == {*arms}
    check_rows(folder, num_tasks=3)
    accuracies = {
        arm: read_rows(path)[-1]["test_accuracy"] for arm, path in arm_folders(folder).items()
    }
    assert min(accuracies.values()) > 0.25, accuracies  # chance is 0.1


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["mnist", "cifar", "qdata"])
def test_remedies_learn_every_stream(name: str, tmp_path: Path) -> None:
    chosen = {"mnist": FOR_CIRCUITS, "cifar": ("l2-init", "upgd", "adamw"), "qdata": FOR_CIRCUITS}
    circuits = [f"qnn+{r}" for r in chosen[name] if (name, r) != ("mnist", "reset-optimizer")]
    layers = [] if name == "mnist" else [f"mlp+{r}" for r in ("redo", "crelu", "spectral")]
    command = only(tiny_command(name, tmp_path), *circuits, *layers)
    more = [f"--{arm}.hidden=4" for arm in layers] + [f"--{arm}.depth=2" for arm in circuits]
    check_rows(finish([*command, *more], EXPERIMENTS[name]), num_tasks=3)


@pytest.mark.parametrize(
    "arms",
    [
        ("mlp+continual-backprop", "--mlp+continual-backprop.continual-backprop.maturity=3",
         "--mlp+continual-backprop.continual-backprop.replacement-rate=0.05"),
        ("mlp+upgd+input-standardisation",),
        ("mlp+revive+hold+snr+c-chain+adamo+selective-reinit",
         "--mlp+revive+hold+snr+c-chain+adamo+selective-reinit.hold.layers", "first",
         "--mlp+revive+hold+snr+c-chain+adamo+selective-reinit.snr.longest", "2"),
    ],
)  # fmt: skip
def test_stopped_within_a_task_it_goes_on_to_the_same_bytes(
    arms: tuple[str, ...], tmp_path: Path, stop: Stop
) -> None:
    arm, *options = arms
    command = [*only(tiny_command("mnist", tmp_path), arm), f"--{arm}.epochs=4", *options]
    stop.at(20, interrupt)
    assert start(*command) == 130
    stopped = contents(finish(command))
    whole = finish([*command, f"--results={tmp_path / 'whole'}"])
    assert contents(whole) == stopped
    assert run_folder(tmp_path / "results").name == whole.name


@pytest.mark.parametrize("name", FOR_LAYERS)
def test_what_does_not_fit_a_circuit_is_one_line_and_status_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arm = f"qnn+{name}"
    assert start(*only(tiny_command("mnist", tmp_path), arm)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --arms {arm}: {name} needs ")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arms", "mlp+upgd+adamw"], "--arms mlp+upgd+adamw: adamw changes Adam"),
        (["--arms", "mlp+crelu", "--mlp+crelu.hidden=5"], "5 units, an odd number"),
        (["--arms", "mlp+l2", "--mlp+l2.l2.strength=-1"], "--mlp+l2.l2.strength -1.0: at least 0"),
        (
            ["--arms", "mlp+shrink-perturb", "--mlp+shrink-perturb.shrink-perturb.each=epoch"],
            "--mlp+shrink-perturb.shrink-perturb.each",
        ),
    ],
)
def test_wrong_options_are_one_line_and_status_2(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("--preset=quick", f"--results={tmp_path}", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_fresh_networks_have_remedies_too(tmp_path: Path) -> None:
    arm = "fresh:mlp+layer-norm+l2"
    folder = finish(["--preset=quick", "--num-tasks=3", f"--results={tmp_path}", "--arms", arm])
    (path,) = arm_folders(folder).values()
    assert [row["task"] for row in read_rows(path)] == [0, 1, 2]
    assert mnist.EXPERIMENT.registry.remedies is REMEDIES
