"""What is special to ``python -m experiments.qdata``; what experiments share: test_experiments."""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import figures
from experiments.parts import cli
from experiments.qdata import (
    EXPERIMENT,
    MATCHED,
    QUICK,
    RELEASED,
    RESOLVED,
    Config,
    Mlp,
    build,
    identify,
    loss,
)
from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.quantum.layer import QNN
from plasticity.results import record
from plasticity.tasks.levels import SpinLevels, load_levels
from tests.experiments.test_experiments import fields_of, replaced, rows_of, run_folder, snapshot

EXPORTS = {
    "mlp": "classical_validation_accuracies.npy",
    "qnn": "quantum_validation_accuracies.npy",
}
RESULTS = [*EXPORTS.values(), "mlp/rows.jsonl", "qnn/rows.jsonl"]
BOTH = {"mlp", "qnn"}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@functools.cache
def levels_of(num_sites: int, kind: str, data_root: Path) -> SpinLevels:
    return load_levels(num_sites, kind, data_root)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "git_commit", lambda: None)  # two processes each time


@pytest.fixture
def tiny(data_root: Path, tmp_path: Path) -> list[str]:
    """Return a command that trains both arms on 3 tasks in a blink."""
    return ["--num-sites=6", "--num-tasks=3", "--batch-size=107", "--epochs=1", "--depth=2",
            "--mlp.hidden", "4", "3", f"--data-root={data_root}",
            f"--results={tmp_path / 'results'}"]  # fmt: skip


def start(*arguments: str) -> int:
    return cli.main(EXPERIMENT, arguments)


TINY = Config(num_sites=6, num_tasks=2, batch_size=100, epochs=1, depth=2, mlp=Mlp(hidden=(4, 3)))
OTHER_VALUES: dict[str, tuple[Any, set[str]]] = {
    "seed": (1, BOTH),
    "num_sites": (5, BOTH),
    "levels": ("resolved", BOTH),
    "num_tasks": (3, BOTH),
    "batch_size": (99, BOTH),
    "epochs": (2, BOTH),
    "learning_rate": (3e-3, BOTH),
    "depth": (3, {"qnn"}),
    "qnn_adam_epsilon": (1e-3, {"qnn"}),
    "mlp.hidden": ((3, 4), {"mlp"}),
    "mlp.adam_epsilon": (1e-3, {"mlp"}),
    "mlp.bounded_logits": (True, {"mlp"}),
    "mlp.fix_sign": (True, {"mlp"}),
}
ELSEWHERE = {"device", "threads"}  # as in test_experiments


@functools.cache
def train(config: Config, network: str, data_root: Path) -> list[dict[str, float]]:
    arm = build(config, levels_of(config.num_sites, config.levels, data_root), network)
    return list(
        train_on_stream(arm.learner, arm.stream, epochs=arm.epochs, batch_size=arm.batch_size,
                        seed=config.seed, metrics=arm.metrics)
    )  # fmt: skip


@pytest.mark.parametrize("field", [f for f in fields_of(Config()) if f not in ELSEWHERE])
def test_no_field_of_the_config_is_ignored(field: str, data_root: Path) -> None:
    value, affected = OTHER_VALUES[field]
    config = replaced(TINY, field, value)
    levels = levels_of(6, "all", data_root)
    assert identify(config, levels) != identify(TINY, levels)
    for network in BOTH:
        changed = train(config, network, data_root) != train(TINY, network, data_root)
        assert changed == (network in affected)


def test_content_of_the_levels_is_part_of_the_identity(data_root: Path) -> None:
    one, other = (levels_of(6, kind, data_root) for kind in ("all", "resolved"))
    assert identify(TINY, one) != identify(TINY, other)


# ------------------------------------------------------------------------------------- protocol
@dataclasses.dataclass
class TenSites:
    """Random states in place of those of ten sites, whose computation takes a minute."""

    num_levels = 1024
    deltas = tuple(range(201))
    digest = "none"

    def states(self, level: int) -> np.ndarray:
        return np.random.default_rng(level).standard_normal((201, 1024), dtype=np.float32)


def test_released_has_the_numbers_of_the_protocol() -> None:
    for network, count, epsilon in (("mlp", 135_361, 1e-7), ("qnn", 810, 1e-8)):
        arm = build(RELEASED, TenSites(), network)
        assert sum(p.numel() for p in arm.learner.network.parameters()) == count
        group = arm.learner.optimizer.param_groups[0]
        assert (group["lr"], group["eps"]) == (2e-3, epsilon)
        assert (len(arm.stream), arm.epochs, arm.batch_size) == (2000, 5, 64)
        assert arm.learner.interventions == ()
        task = arm.stream[0]
        assert (len(task.train), len(task.test)) == (321, 81)
        assert task.train.batch(slice(0, 3))[0].shape[1] == (2048 if network == "mlp" else 1024)


def test_a_task_has_thirty_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def count(learner: Learner, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return torch.zeros(())

    monkeypatch.setattr(Learner, "update", count)
    arm = build(dataclasses.replace(RELEASED, num_tasks=1), TenSites(), "mlp")
    list(train_on_stream(arm.learner, arm.stream, epochs=5, batch_size=64, seed=0))
    assert len(sizes) == 30
    assert sum(sizes) == 5 * 321


def test_angles_begin_small_and_only_those_in_the_light_cone_move() -> None:
    arm = build(dataclasses.replace(RELEASED, num_tasks=1, epochs=1), TenSites(), "qnn")
    assert isinstance(arm.learner.network, QNN)
    before = arm.learner.network.angles.detach().clone()
    assert 0.09 < before.abs().max() <= 0.1
    assert abs(before.mean()) < 0.01
    list(train_on_stream(arm.learner, arm.stream, epochs=1, batch_size=64, seed=0))
    moved = (arm.learner.network.angles.detach() != before).any(1)
    assert int(moved.sum()) == 21
    pairs = [arm.learner.network.ansatz.pairs[gate] for gate in moved.nonzero().flatten()]
    assert {q for pair in pairs for q in pair} == set(range(7))
    assert "21 of 54 gates, on qubits 0 to 6;" in arm.remark


def test_loss_is_that_of_a_single_logit() -> None:
    logits, labels = torch.tensor([[-1.0], [0.5], [3.0]]), torch.tensor([0, 1, 0])
    p = 1 / (1 + np.exp(-logits.flatten().double().numpy()))
    expected = -np.mean([np.log(1 - p[0]), np.log(p[1]), np.log(1 - p[2])])
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_the_quantum_arms_loss_is_bounded_below() -> None:
    assert loss(torch.tensor([[1.0]]), torch.tensor([1])).item() == pytest.approx(0.3133, abs=1e-4)


def test_matched_mlp_has_a_bounded_logit_and_does_not_see_the_sign(data_root: Path) -> None:
    levels = levels_of(6, "all", data_root)
    config = dataclasses.replace(MATCHED, num_sites=6)
    for network in BOTH:
        arm = build(config, levels, network)
        x, _ = arm.stream[0].train.batch(slice(None))
        assert arm.learner.optimizer.param_groups[0]["eps"] == 1e-8
        with torch.no_grad():
            outputs = arm.learner.network(x)
            for parameter in arm.learner.network.parameters():
                parameter.mul_(100)
            assert arm.learner.network(x).abs().max() <= 1
        if network == "mlp":  # its stream fixes the sign, the circuit does not see it
            largest = x.gather(1, x.abs().argmax(1, keepdim=True))
            assert bool((largest > 0).all())
        else:
            fresh = build(config, levels, network).learner.network
            torch.testing.assert_close(fresh(-x).detach(), outputs)
    assert dataclasses.replace(MATCHED, mlp=RELEASED.mlp) == RELEASED


def test_resolved_differs_in_the_levels_only() -> None:
    assert dataclasses.replace(RESOLVED, levels="all") == RELEASED


def test_quick_takes_seconds_and_learns(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (QUICK.num_sites, QUICK.num_tasks) == (6, 20)
    words = ["--preset=quick", f"--data-root={data_root}", f"--results={tmp_path / 'quick'}"]
    assert start(*words) == 0
    assert "qnn: Z on qubit 0 depends on" in capsys.readouterr().out
    folder = run_folder(tmp_path / "quick")
    for network in BOTH:
        accuracies = [row["test_accuracy"] for row in rows_of(folder, network)]
        assert np.mean(accuracies) > 0.6  # 81 x 20 validation states: chance is 0.5 +- 0.013


# -------------------------------------------------------------------------------------- commands
def test_exports_hold_the_rows_and_nothing_is_done_twice(tiny: list[str], tmp_path: Path) -> None:
    assert start(*tiny) == 0
    folder = run_folder(tmp_path / "results")
    for network, file in EXPORTS.items():
        rows = rows_of(folder, network)
        accuracies = np.load(folder / file, allow_pickle=False)
        assert accuracies.tolist() == [row["test_accuracy"] for row in rows]
        assert {"train_loss", "weight_norm", "gradient_norm", "logit_magnitude"} <= set(rows[0])
        assert 0 < rows[0]["logit_label_variance"] <= 0.25
    before = snapshot(folder)
    assert start(*tiny) == 0
    assert snapshot(folder) == before
    assert figures.main([str(folder), str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == (folder / "figure.png").read_bytes()


@pytest.mark.parametrize("after", [2, 6, 9, 13])
def test_run_interrupted_in_a_task_ends_like_an_uninterrupted_one(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    assert start(*tiny, f"--results={tmp_path / 'whole'}") == 0
    updates = 0
    update = Learner.update

    def interrupted(*arguments: Any) -> torch.Tensor:
        nonlocal updates
        updates += 1
        if updates == after:
            raise KeyboardInterrupt
        return update(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", interrupted)
        while (status := start(*tiny)) == 130:
            assert updates == after
        assert status == 0
    whole, pieces = run_folder(tmp_path / "whole"), run_folder(tmp_path / "results")
    for name in RESULTS:
        assert (whole / name).read_bytes() == (pieces / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--num-sites=3"], 2, "--num-sites 3"),
        (["--num-sites=2"], 2, "--num-sites 2"),
        (["--num-sites=-4"], 2, "--num-sites -4"),
        (["--num-sites=ten"], 2, "--num-sites"),
        (["--num-sites=40"], 1, "GB"),
        (["--num-sites=18"], 1, "GB"),
        (["--levels=some"], 2, "--levels"),
        (["--num-sites=4", "--levels=resolved"], 1, "4 sites, resolved levels: a pair needs two"),
        (["--depth=0"], 2, "--depth 0"),
        (["--mlp.hidden", "0"], 2, "--mlp.hidden"),
        (["--data-root=blocked"], 1, "blocked"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line_or_two(
    words: list[str], status: int, message: str, tiny: list[str],
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "blocked").write_text("a file where the data should go")
    assert start(*tiny, *words) == status
    said = "".join(line for line in capsys.readouterr().err.splitlines(True) if "|" not in line)
    assert message in said
    assert len(said.strip().splitlines()) <= 2
    assert "Traceback" not in said
    assert not (tmp_path / "results").exists()


def test_threads_that_compute_the_data_leave_torchs_setting_alone(
    tiny: list[str], tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    try:
        assert start(*tiny, f"--data-root={tmp_path / 'fresh'}", "--threads=2") == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert os.listdir(tmp_path / "fresh")
