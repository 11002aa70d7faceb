"""What is special to ``python -m experiments.cifar``; what experiments share: test_mnist."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import figures
from experiments.cifar import DEEP, EXPERIMENT, MATCHED, QUICK, RELEASED, Config
from experiments.cli import parse as cli
from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.networks.mlp import Mlp
from plasticity.protocol.arms import ArmConfig
from plasticity.protocol.experiment import Preset
from plasticity.protocol.options import TaskOptions
from plasticity.protocol.supervised import Supervised
from plasticity.quantum.layer import QNN
from plasticity.remedies import REMEDIES
from plasticity.results import provenance
from plasticity.tasks.images import Images
from tests.experiments.runs import (
    arm_folder,
    contents,
    fields_of,
    replaced,
    rows_of,
    run_folder,
    snapshot,
)

EXPORTS = {"mlp": "classical_cifar100_results.npz", "qnn": "quantum_cifar100_results.npz"}


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
    monkeypatch.setattr(provenance, "git_commit", lambda: None)  # two processes each time


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Return a command that trains both arms on 3 tasks in a blink."""
    data = write_npz(tmp_path / "tiny.npz", pair_images())
    return [f"--dataset={data}", "--num-tasks=3", "--batch-size=34", "--mlp.epochs=1",
            "--mlp.hidden", "4", "3", "--qnn.epochs=1", "--qnn.depth=2",
            f"--results={tmp_path / 'results'}"]  # fmt: skip


def start(*arguments: str) -> int:
    return cli.main(EXPERIMENT, arguments)


def build(preset: Preset[Config], name: str, images: Images) -> Supervised:
    arm = EXPERIMENT.build(preset.config, images, preset.arms[name], name, TaskOptions(arms=()))
    assert isinstance(arm, Supervised)
    return arm


TINY = RELEASED.replace(
    {"num_tasks": 2, "batch_size": 20},
    mlp={"network": Mlp(hidden=(4, 3)), "epochs": 1},
    qnn={"network": dataclasses.replace(RELEASED.arms["qnn"].network, depth=2), "epochs": 1},
)
RESET = {"reset-optimizer": REMEDIES["reset-optimizer"]}
# For each field another value than TINY's.
SHARED: dict[str, Any] = {"seed": 1, "num_tasks": 3, "batch_size": 19}
OF_ALL_ARMS: dict[str, Any] = {
    "optimizer.learning_rate": 2e-3,
    "optimizer.epsilon": 1e-4,
    "epochs": 2,
    "remedies": RESET,
}
OF_ARMS: dict[str, dict[str, Any]] = {
    "mlp": OF_ALL_ARMS | {"network.hidden": (3, 4), "network.bounded_logits": True},
    "qnn": OF_ALL_ARMS
    | {
        "network.ansatz": "ring",
        "network.depth": 3,
        "network.readout": "log-odds",
        "network.initial_angles": (0.0, 1.0),
        "network.shortest": True,
    },
}
ELSEWHERE = {"dataset", "device", "threads"}  # as in test_mnist


def train(config: Config, arm: ArmConfig) -> list[dict[str, float]]:
    return train_as_recorded(config, json.dumps(arm.json()))


@functools.cache
def train_as_recorded(config: Config, arm: str) -> list[dict[str, float]]:
    """Train what arm.json tells: so it tells all that decides the numbers."""
    ready = build(
        Preset(config, {"arm": EXPERIMENT.registry.from_json(json.loads(arm))}),
        "arm",
        pair_images(),
    )
    return list(ready.rows(0, lambda done: None))


@pytest.mark.parametrize("field", [f for f in fields_of(TINY.config) if f not in ELSEWHERE])
def test_no_field_that_the_arms_share_is_ignored(field: str) -> None:
    config, images = replaced(TINY.config, field, SHARED[field]), pair_images()
    identities = [EXPERIMENT.identity(c, images) for c in (config, TINY.config)]
    # How long a run is decides no number of its rows.
    assert (identities[0] == identities[1]) == (field == "num_tasks")
    for arm in TINY.arms.values():
        rows, before = train(config, arm), train(TINY.config, arm)
        assert rows != before
        assert (rows[:2] == before) == (field == "num_tasks")


@pytest.mark.parametrize(
    ("name", "field"), [(name, f) for name, arm in TINY.arms.items() for f in fields_of(arm)]
)
def test_no_field_of_an_arm_is_ignored(name: str, field: str) -> None:
    arm = TINY.arms[name]
    changed = replaced(arm, field, OF_ARMS[name][field])
    assert changed.json() != arm.json()
    assert train(TINY.config, changed) != train(TINY.config, arm)


def test_presets_have_the_numbers_of_the_protocol() -> None:
    images = pair_images(num_pixels=1024)
    counts = {}
    for preset_name, preset in (("released", RELEASED), ("deep", DEEP)):
        for name in preset.arms:
            arm = build(preset, name, images)
            parameters = arm.learner.network.parameters()
            counts[preset_name, name] = sum(p.numel() for p in parameters)
            group = arm.learner.optimizer.param_groups[0]
            assert group["lr"] == 1e-3
            assert group["eps"] == (1e-7 if name == "mlp" else 1e-8)
            assert (len(arm.stream), arm.epochs, arm.batch_size) == (3000, 5, 128)
            assert arm.learner.remedies == ()
    assert counts["released", "mlp"] == counts["deep", "mlp"] == 328_706
    assert (counts["released", "qnn"], counts["deep", "qnn"]) == (1_350, 4_050)
    network = build(RELEASED, "qnn", images).learner.network
    assert isinstance(network, QNN)
    assert network.readout.qubit == 9


def test_a_task_of_cifar_has_forty_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def count(learner: Learner, x: torch.Tensor, y: torch.Tensor, observers: Any) -> torch.Tensor:
        sizes.append(len(x))
        return torch.zeros(())

    monkeypatch.setattr(Learner, "update", count)
    arm = build(RELEASED.replace({"num_tasks": 1}), "mlp", pair_images(per_class=500))
    list(train_on_stream(arm.learner, arm.stream, epochs=arm.epochs, batch_size=128, seed=0))
    assert len(sizes) == 40
    assert sum(sizes) == 5 * 1000


def test_matched_bounds_the_logits_of_both_arms() -> None:
    x, _ = build(MATCHED, "mlp", pair_images()).stream[0].train.batch(slice(None))
    for name in MATCHED.arms:
        arm = build(MATCHED, name, pair_images())
        with torch.no_grad():
            for parameter in arm.learner.network.parameters():
                parameter.mul_(100)
            assert arm.learner.network(x).abs().max() <= 1
        assert arm.learner.optimizer.param_groups[0]["eps"] == 1e-8
    assert MATCHED.config == RELEASED.config
    assert MATCHED.arms["qnn"] == RELEASED.arms["qnn"]


def test_quick_needs_no_network_and_is_of_six_qubits(tmp_path: Path) -> None:
    assert QUICK.config.dataset == "digits"
    assert start("--preset", "quick", "--num-tasks=1", "--results", str(tmp_path / "r")) == 0


@pytest.mark.draws
def test_exports_hold_the_rows_and_nothing_is_done_twice(tiny: list[str], tmp_path: Path) -> None:
    assert start(*tiny) == 0
    folder = run_folder(tmp_path / "results")
    for name, file in EXPORTS.items():
        rows = rows_of(folder, name)
        with np.load(arm_folder(folder, name) / file, allow_pickle=False) as arrays:
            assert set(arrays) == {"accuracies", "fim_traces"}
            assert arrays["accuracies"].tolist() == [row["test_accuracy"] for row in rows]
            assert arrays["fim_traces"].tolist() == [row["fisher_empirical_task0"] for row in rows]
        assert {"fisher_true_current_relative", "logit_label_variance"} <= set(rows[0])
    before = snapshot(folder)
    assert start(*tiny) == 0
    assert snapshot(folder) == before
    assert figures.main([str(folder), str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").stat().st_size > 10_000


@pytest.mark.sampled(1)
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
    assert contents(whole) == contents(pieces)


@pytest.mark.parametrize(
    ("images", "words", "status", "message"),
    [
        (pair_images(num_classes=1), [], 1, "2 classes"),
        (pair_images(per_class=31), [], 1, "class 0 has 31 training images"),
        (pair_images(), ["--qnn.depth=0"], 2, "--qnn.depth 0"),
        (pair_images(), ["--qnn.depth=-1"], 2, "--qnn.depth -1"),
        (pair_images(), ["--mlp.hidden", "0"], 2, "--mlp.hidden"),
        (pair_images(), ["--dataset=mnist"], 2, "--dataset mnist"),
        (pair_images(), ["--arms=cnn"], 2, "--arms cnn"),
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
