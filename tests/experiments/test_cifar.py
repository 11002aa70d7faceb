"""What is special to ``python -m experiments.cifar``; what experiments share: test_experiments."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import figures
from experiments.cifar import (
    DEEP,
    EXPERIMENT,
    MATCHED,
    QUICK,
    RELEASED,
    Config,
    Mlp,
    build,
    identify,
)
from experiments.parts import cli
from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.quantum.layer import QNN
from plasticity.results import record
from plasticity.tasks.images import Images
from tests.experiments.test_experiments import fields_of, replaced, rows_of, run_folder, snapshot

EXPORTS = {"mlp": "classical_cifar100_results.npz", "qnn": "quantum_cifar100_results.npz"}
RESULTS = [*EXPORTS.values(), "mlp/rows.jsonl", "qnn/rows.jsonl"]


def pair_images(per_class: int = 34, num_classes: int = 3, num_pixels: int = 12) -> Images:
    rng = np.random.default_rng(0)
    y = np.arange(num_classes).repeat(per_class)
    x = rng.integers(1, 256, (len(y), num_pixels), dtype=np.uint8)
    return Images("pairs", x, y, x[::4].copy(), y[::4].copy(), 1 / 255)


def write_npz(path: Path, images: Images, **changes: Any) -> Path:
    arrays = {name: getattr(images, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(path, **arrays | changes)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "git_commit", lambda: None)  # two processes each time


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Return a command that trains both arms on 3 tasks in a blink."""
    data = write_npz(tmp_path / "tiny.npz", pair_images())
    return [f"--dataset={data}", "--num-tasks=3", "--batch-size=34", "--epochs=1", "--depth=2",
            "--mlp.hidden", "4", "3", f"--results={tmp_path / 'results'}"]  # fmt: skip


def start(*arguments: str) -> int:
    return cli.main(EXPERIMENT, arguments)


TINY = Config(num_tasks=2, batch_size=20, epochs=1, depth=2, mlp=Mlp(hidden=(4, 3)))
BOTH = {"mlp", "qnn"}
OTHER_VALUES: dict[str, tuple[Any, set[str]]] = {
    "seed": (1, BOTH),
    "num_tasks": (3, BOTH),
    "batch_size": (19, BOTH),
    "epochs": (2, BOTH),
    "learning_rate": (2e-3, BOTH),
    "depth": (3, {"qnn"}),
    "qnn_adam_epsilon": (1e-4, {"qnn"}),
    "mlp.hidden": ((3, 4), {"mlp"}),
    "mlp.adam_epsilon": (1e-4, {"mlp"}),
    "mlp.bounded_logits": (True, {"mlp"}),
}
ELSEWHERE = {"dataset", "device", "threads"}  # as in test_experiments


@functools.cache
def train(config: Config, network: str) -> list[dict[str, float]]:
    arm = build(config, pair_images(), network)
    return list(
        train_on_stream(arm.learner, arm.stream, epochs=arm.epochs, batch_size=arm.batch_size,
                        seed=config.seed, metrics=arm.metrics)
    )  # fmt: skip


@pytest.mark.parametrize("field", [f for f in fields_of(Config()) if f not in ELSEWHERE])
def test_no_field_of_the_config_is_ignored(field: str) -> None:
    value, affected = OTHER_VALUES[field]
    config = replaced(TINY, field, value)
    assert identify(config, pair_images()) != identify(TINY, pair_images())
    for network in BOTH:
        assert (train(config, network) != train(TINY, network)) == (network in affected)


def test_presets_have_the_numbers_of_the_protocol() -> None:
    images = pair_images(num_pixels=1024)
    counts = {}
    for name, config in (("released", RELEASED), ("deep", DEEP)):
        for network in BOTH:
            arm = build(config, images, network)
            counts[name, network] = sum(p.numel() for p in arm.learner.network.parameters())
            group = arm.learner.optimizer.param_groups[0]
            assert group["lr"] == 1e-3
            assert group["eps"] == (1e-7 if network == "mlp" else 1e-8)
            assert (len(arm.stream), arm.epochs, arm.batch_size) == (3000, 5, 128)
            assert arm.learner.interventions == ()
    assert counts["released", "mlp"] == counts["deep", "mlp"] == 328_706
    assert (counts["released", "qnn"], counts["deep", "qnn"]) == (1_350, 4_050)
    network = build(RELEASED, images, "qnn").learner.network
    assert isinstance(network, QNN)
    assert network.readout.qubit == 9


def test_a_task_of_cifar_has_forty_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def count(learner: Learner, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return torch.zeros(())

    monkeypatch.setattr(Learner, "update", count)
    config = dataclasses.replace(RELEASED, num_tasks=1)
    arm = build(config, pair_images(per_class=500), "mlp")
    list(train_on_stream(arm.learner, arm.stream, epochs=5, batch_size=128, seed=0))
    assert len(sizes) == 40
    assert sum(sizes) == 5 * 1000


def test_matched_bounds_the_logits_of_both_arms() -> None:
    x, _ = build(MATCHED, pair_images(), "mlp").stream[0].train.batch(slice(None))
    for network in BOTH:
        arm = build(MATCHED, pair_images(), network)
        with torch.no_grad():
            for parameter in arm.learner.network.parameters():
                parameter.mul_(100)
            assert arm.learner.network(x).abs().max() <= 1
        assert arm.learner.optimizer.param_groups[0]["eps"] == 1e-8


def test_quick_needs_no_network_and_is_of_six_qubits(tmp_path: Path) -> None:
    assert QUICK.dataset == "digits"
    assert start("--preset", "quick", "--num-tasks=1", "--results", str(tmp_path / "r")) == 0


def test_exports_hold_the_rows_and_nothing_is_done_twice(tiny: list[str], tmp_path: Path) -> None:
    assert start(*tiny) == 0
    folder = run_folder(tmp_path / "results")
    for network, file in EXPORTS.items():
        rows = rows_of(folder, network)
        with np.load(folder / file, allow_pickle=False) as arrays:
            assert set(arrays) == {"accuracies", "fim_traces"}
            assert arrays["accuracies"].tolist() == [row["test_accuracy"] for row in rows]
            assert arrays["fim_traces"].tolist() == [row["fisher_empirical_task0"] for row in rows]
        assert {"fisher_true_current_relative", "logit_label_variance"} <= set(rows[0])
    before = snapshot(folder)
    assert start(*tiny) == 0
    assert snapshot(folder) == before
    assert figures.main([str(folder), str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").stat().st_size > 10_000


@pytest.mark.parametrize("after", [2, 7, 13, 20])
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
    ("images", "words", "status", "message"),
    [
        (pair_images(num_classes=1), [], 1, "2 classes"),
        (pair_images(per_class=31), [], 1, "class 0 has 31 training images"),
        (pair_images(), ["--depth=0"], 2, "--depth 0"),
        (pair_images(), ["--depth=-1"], 2, "--depth -1"),
        (pair_images(), ["--mlp.hidden", "0"], 2, "--mlp.hidden"),
        (pair_images(), ["--dataset=mnist"], 2, "--dataset mnist"),
        (pair_images(), ["--networks=cnn"], 2, "--networks cnn"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    images: Images, words: list[str], status: int, message: str, tiny: list[str],
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = write_npz(tmp_path / "given.npz", images)
    assert start(*tiny, f"--dataset={data}", *words) == status
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) <= 2
    assert "Traceback" not in said
    assert not (tmp_path / "results").exists()
