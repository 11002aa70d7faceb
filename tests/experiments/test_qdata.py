"""What is special to ``python -m experiments.qdata``; what experiments share: test_mnist."""

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import figures, measure
from experiments.cli import parse as cli
from experiments.qdata import (
    EXPERIMENT,
    MATCHED,
    QUICK,
    RELEASED,
    RESOLVED,
    Config,
    loss,
)
from plasticity.errors import DoesNotFit
from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.networks.mlp import Mlp
from plasticity.protocol.arms import ArmConfig
from plasticity.protocol.experiment import Preset, content_of
from plasticity.protocol.options import TaskOptions
from plasticity.protocol.supervised import Supervised
from plasticity.quantum.layer import QNN
from plasticity.remedies import REMEDIES
from plasticity.results import provenance
from plasticity.studies.cells import Place, bits_of, cells, folder_of, is_complete
from plasticity.studies.study import Study
from plasticity.tasks import levels as levels_module
from plasticity.tasks.levels import SpinLevels, load_levels
from tests.experiments.runs import (
    arm_folder,
    contents,
    fields_of,
    provenance_of,
    replaced,
    rows_of,
    run_folder,
    snapshot,
)

EXPORTS = {
    "mlp": "classical_validation_accuracies.npy",
    "qnn": "quantum_validation_accuracies.npy",
}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@functools.cache
def levels_of(num_sites: int, kind: str, data_root: Path) -> SpinLevels:
    return load_levels(num_sites, kind, data_root)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "git_commit", lambda: None)  # two processes each time


@pytest.fixture
def tiny(data_root: Path, tmp_path: Path) -> list[str]:
    """Return a command that trains both arms on 3 tasks in a blink."""
    return ["--num-sites=6", "--num-tasks=3", "--batch-size=107", "--mlp.epochs=1",
            "--mlp.hidden", "4", "3", "--qnn.epochs=1", "--qnn.depth=2",
            f"--data-root={data_root}", f"--results={tmp_path / 'results'}"]  # fmt: skip


def start(*arguments: str) -> int:
    return cli.main(EXPERIMENT, arguments)


def build(preset: Preset[Config], name: str, levels: Any) -> Supervised:
    arm = EXPERIMENT.build(preset.config, levels, preset.arms[name], name, TaskOptions(arms=()))
    assert isinstance(arm, Supervised)
    return arm


TINY = RELEASED.replace(
    {"num_sites": 6, "num_tasks": 2, "batch_size": 100},
    mlp={"network": Mlp(hidden=(4, 3)), "epochs": 1},
    qnn={"network": dataclasses.replace(RELEASED.arms["qnn"].network, depth=2), "epochs": 1},
)
# For each field another value than TINY's.
SHARED: dict[str, Any] = {
    "seed": 1, "num_sites": 5, "levels": "resolved", "num_tasks": 3, "batch_size": 99
}  # fmt: skip
OF_ALL_ARMS: dict[str, Any] = {
    "optimizer.learning_rate": 3e-3,
    "optimizer.epsilon": 1e-3,
    "epochs": 2,
    "inputs.fix_sign": True,
    "remedies": {"reset-optimizer": REMEDIES["reset-optimizer"]},
}
OF_ARMS: dict[str, dict[str, Any]] = {
    "mlp": OF_ALL_ARMS
    | {
        "network.hidden": (3, 4),
        "network.bounded_logits": True,
        "inputs.imaginary": False,
    },
    "qnn": OF_ALL_ARMS
    | {
        "network.ansatz": "ring",
        "network.depth": 3,
        "network.readout": "signed-z-of-last",
        "network.initial_angles": (0.0, 1.0),
        "network.shortest": True,
        "inputs.imaginary": True,
    },
}
# A circuit does not see the sign, and these small initial angles are the shortest ones.
CHANGES_NO_NUMBER = {("qnn", "inputs.fix_sign"), ("qnn", "network.shortest")}
ELSEWHERE = {"device", "threads"}  # as in test_mnist


def train(config: Config, arm: ArmConfig, data_root: Path) -> list[dict[str, float]]:
    return train_as_recorded(config, json.dumps(arm.json()), data_root)


@functools.cache
def train_as_recorded(config: Config, arm: str, data_root: Path) -> list[dict[str, float]]:
    """Train what arm.json tells: so it tells all that decides the numbers."""
    preset = Preset(config, {"arm": EXPERIMENT.registry.from_json(json.loads(arm))})
    levels = levels_of(config.num_sites, config.levels, data_root)
    return list(build(preset, "arm", levels).rows(0, lambda done: None))


@pytest.mark.parametrize("field", [f for f in fields_of(TINY.config) if f not in ELSEWHERE])
def test_no_field_that_the_arms_share_is_ignored(field: str, data_root: Path) -> None:
    config = replaced(TINY.config, field, SHARED[field])
    levels = levels_of(6, "all", data_root)
    identities = [EXPERIMENT.identity(c, levels) for c in (config, TINY.config)]
    # How long a run is decides no number of its rows.
    assert (identities[0] == identities[1]) == (field == "num_tasks")
    for arm in TINY.arms.values():
        rows, before = train(config, arm, data_root), train(TINY.config, arm, data_root)
        assert rows != before
        assert (rows[:2] == before) == (field == "num_tasks")


@pytest.mark.parametrize(
    ("name", "field"), [(name, f) for name, arm in TINY.arms.items() for f in fields_of(arm)]
)
def test_no_field_of_an_arm_is_ignored(name: str, field: str, data_root: Path) -> None:
    arm = TINY.arms[name]
    changed = replaced(arm, field, OF_ARMS[name][field])
    assert changed.json() != arm.json()
    if field == "network.readout":  # the only other ones do not fit a single logit
        with pytest.raises(DoesNotFit):
            train(TINY.config, changed, data_root)
        return
    rows, before = (train(TINY.config, each, data_root) for each in (changed, arm))
    assert (rows == before) == ((name, field) in CHANGES_NO_NUMBER)


# ------------------------------------------------------------------------- on another processor
@pytest.fixture
def rounded_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of data whose states differ from those of the others in their last bits."""
    solve = levels_module.eigensystem

    def other(num_sites: int, delta: float) -> tuple[np.ndarray, np.ndarray]:
        energies, states = solve(num_sites, delta)
        return energies, states * (1 + 2**-22)

    with monkeypatch.context() as patch:
        patch.setattr(levels_module, "eigensystem", other)
        load_levels(6, "all", tmp_path / "other")
    return tmp_path / "other"


@pytest.mark.parametrize("named_after", ["content", "definition"])
def test_run_goes_on_where_states_have_other_bits_and_says_so(
    named_after: str, tiny: list[str], tmp_path: Path, data_root: Path, rounded_otherwise: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    here, there = (levels_of(6, "all", root) for root in (data_root, rounded_otherwise))
    before = dataclasses.replace(EXPERIMENT, identify=content_of, renamed=None)
    named = before if named_after == "content" else EXPERIMENT
    alone = [*tiny, "--num-tasks=2", "--arms=mlp"]
    alone = [word for word in alone if "--qnn" not in word]
    assert cli.main(named, alone) == 0
    assert "trained on states" not in capsys.readouterr().out
    folder = run_folder(tmp_path / "results")
    words = [*alone, f"--data-root={rounded_otherwise}", "--num-tasks=3"]
    assert start(*words) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "trained on states" in line]
    digests = f"(sha256:{here.digest[:8]}; here sha256:{there.digest[:8]})"
    assert len(said) == 1 and said[0].startswith("mlp: ") and digests in said[0]
    assert run_folder(tmp_path / "results") == folder
    assert len(rows_of(folder, "mlp")) == 3
    assert provenance_of(folder, "mlp")[-1]["content"] == f"sha256:{there.digest}"
    # Both are in it now; what is measured is compared with both.
    for root in (data_root, rounded_otherwise):
        words = [str(folder), "--metrics=spectrum", f"--data-root={root}"]
        assert measure.main(words) == 0
        assert capsys.readouterr().out.count("mlp: trained on states") == 1


@pytest.mark.parametrize("named_after", ["content", "definition"])
def test_uninterrupted_and_resumed_runs_are_equal_whatever_they_are_named_after(
    named_after: str, tiny: list[str], tmp_path: Path
) -> None:
    before = dataclasses.replace(EXPERIMENT, identify=content_of, renamed=None)
    named = before if named_after == "content" else EXPERIMENT
    assert cli.main(named, [*tiny, f"--results={tmp_path / 'whole'}"]) == 0
    assert cli.main(named, [*tiny, "--num-tasks=2"]) == 0
    assert start(*tiny) == 0
    whole, pieces = run_folder(tmp_path / "whole"), run_folder(tmp_path / "results")
    assert whole.name == pieces.name
    assert contents(whole) == contents(pieces)


def test_cells_are_found_in_the_folder_where_they_have_most_rows(
    data_root: Path, rounded_otherwise: Path, tmp_path: Path
) -> None:
    settings = {"num_sites": 6, "num_tasks": 3, "batch_size": 107}
    study = Study("s", "?", "qdata", "quick", ("mlp",), (0,), settings)
    (cell,) = cells(study, Place(data_root=rounded_otherwise))
    (on_the_other,) = cells(study, Place(data_root=data_root))
    results = tmp_path / "results"
    before = dataclasses.replace(EXPERIMENT, identify=content_of, renamed=None)
    for machine, tasks in ((on_the_other, 2), (cell, 3)):  # each in a folder of its own bits
        assert not is_complete(cell, results)
        words = [*machine.command(results)[3:], f"--num-tasks={tasks}"]
        assert cli.main(before, words) == 0
    assert len([*results.iterdir()]) == 2
    for of_either in (cell, on_the_other):
        assert is_complete(of_either, results)
        assert len(rows_of(folder_of(of_either, results).parent, "mlp")) == 3
    config = json.loads((folder_of(cell, results).parent / "config.json").read_text())
    assert config["dataset"] == f"sha256:{levels_of(6, 'all', rounded_otherwise).digest}"
    # The command that was typed on the other machine finds it, too: nothing is trained twice.
    earlier = snapshot(results)
    assert start(*on_the_other.command(results)[3:]) == 0
    assert snapshot(results) == earlier


def test_study_says_that_its_cells_were_trained_on_states_of_different_bits(
    data_root: Path, rounded_otherwise: Path, tmp_path: Path
) -> None:
    settings = {"num_sites": 6, "num_tasks": 1, "batch_size": 107}
    study = Study("s", "?", "qdata", "quick", ("mlp", "linear"), (0,), settings)
    place = Place(data_root=data_root)
    results = tmp_path / "results"
    for cell, root in zip(cells(study, place), (data_root, rounded_otherwise), strict=True):
        assert bits_of(cells(study, place), results) == ""
        assert start(*cell.command(results)[3:], f"--data-root={root}") == 0
    said = bits_of(cells(study, place), results)
    assert "2 processors or libraries" in said and "\n" not in said
    for root in (data_root, rounded_otherwise):
        assert f"1 of sha256:{levels_of(6, 'all', root).digest[:8]}" in said


def test_seeds_of_runs_that_are_named_after_either_are_drawn_together(
    tiny: list[str], tmp_path: Path
) -> None:
    before = dataclasses.replace(EXPERIMENT, identify=content_of, renamed=None)
    assert cli.main(before, tiny) == 0
    assert start(*tiny, "--seed=1") == 0
    folders = [str(path) for path in (tmp_path / "results").iterdir()]
    assert figures.main([*folders, str(tmp_path / "both.png")]) == 0
    assert start(*tiny, "--seed=2", "--batch-size=99") == 0
    folders = [str(path) for path in (tmp_path / "results").iterdir()]
    assert figures.main([*folders, str(tmp_path / "all.png")]) == 2


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
    for name, count, epsilon in (("mlp", 135_361, 1e-7), ("qnn", 810, 1e-8)):
        arm = build(RELEASED, name, TenSites())
        assert sum(p.numel() for p in arm.learner.network.parameters()) == count
        group = arm.learner.optimizer.param_groups[0]
        assert (group["lr"], group["eps"]) == (2e-3, epsilon)
        assert (len(arm.stream), arm.epochs, arm.batch_size) == (2000, 5, 64)
        assert arm.learner.remedies == ()
        task = arm.stream[0]
        assert (len(task.train), len(task.test)) == (321, 81)
        assert task.train.batch(slice(0, 3))[0].shape[1] == (2048 if name == "mlp" else 1024)


def test_a_task_has_thirty_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def count(learner: Learner, x: torch.Tensor, y: torch.Tensor, observers: Any) -> torch.Tensor:
        sizes.append(len(x))
        return torch.zeros(())

    monkeypatch.setattr(Learner, "update", count)
    arm = build(RELEASED.replace({"num_tasks": 1}), "mlp", TenSites())
    list(train_on_stream(arm.learner, arm.stream, epochs=arm.epochs, batch_size=64, seed=0))
    assert len(sizes) == 30
    assert sum(sizes) == 5 * 321


def test_angles_begin_small_and_only_those_in_the_light_cone_move() -> None:
    arm = build(RELEASED.replace({"num_tasks": 1}), "qnn", TenSites())
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
    preset = MATCHED.replace({"num_sites": 6})
    for name in preset.arms:
        arm = build(preset, name, levels)
        x, _ = arm.stream[0].train.batch(slice(None))
        assert arm.learner.optimizer.param_groups[0]["eps"] == 1e-8
        with torch.no_grad():
            outputs = arm.learner.network(x)
            for parameter in arm.learner.network.parameters():
                parameter.mul_(100)
            assert arm.learner.network(x).abs().max() <= 1
        if name == "mlp":  # its stream fixes the sign, the circuit does not see it
            largest = x.gather(1, x.abs().argmax(1, keepdim=True))
            assert bool((largest > 0).all())
        else:
            fresh = build(preset, name, levels).learner.network
            torch.testing.assert_close(fresh(-x).detach(), outputs)
    assert MATCHED.config == RELEASED.config
    assert MATCHED.arms["qnn"] == RELEASED.arms["qnn"]
    assert MATCHED.replace({}, mlp=vars(RELEASED.arms["mlp"])) == RELEASED


def test_resolved_differs_in_the_levels_only() -> None:
    assert RESOLVED.replace({"levels": "all"}) == RELEASED


def test_quick_takes_seconds_and_learns(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (QUICK.config.num_sites, QUICK.config.num_tasks) == (6, 20)
    words = ["--preset=quick", f"--data-root={data_root}", f"--results={tmp_path / 'quick'}"]
    assert start(*words) == 0
    assert "qnn: Z on qubit 0 depends on" in capsys.readouterr().out
    folder = run_folder(tmp_path / "quick")
    for name in QUICK.arms:
        accuracies = [row["test_accuracy"] for row in rows_of(folder, name)]
        assert np.mean(accuracies) > 0.6  # 81 x 20 validation states: chance is 0.5 +- 0.013


# -------------------------------------------------------------------------------------- commands
def test_exports_hold_the_rows_and_nothing_is_done_twice(tiny: list[str], tmp_path: Path) -> None:
    assert start(*tiny) == 0
    folder = run_folder(tmp_path / "results")
    for name, file in EXPORTS.items():
        rows = rows_of(folder, name)
        accuracies = np.load(arm_folder(folder, name) / file, allow_pickle=False)
        assert accuracies.tolist() == [row["test_accuracy"] for row in rows]
        assert {"train_loss", "weight_norm", "gradient_norm", "logit_magnitude"} <= set(rows[0])
        assert 0 < rows[0]["logit_label_variance"] <= 0.25
    before = snapshot(folder)
    assert start(*tiny) == 0
    assert snapshot(folder) == before
    assert figures.main([str(folder), str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == (folder / "figure.png").read_bytes()


@pytest.mark.sampled(1)
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
    assert contents(whole) == contents(pieces)


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
        (["--qnn.depth=0"], 2, "--qnn.depth 0"),
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
