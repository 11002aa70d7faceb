"""What is special to ``python -m experiments.mnist``: its options, its presets, its numbers."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.cli import parse as cli
from experiments.mnist import EXPERIMENT, MATCHED, RELEASED
from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.metrics.norms import weight_norm
from plasticity.networks.mlp import Mlp, mlp
from plasticity.networks.qnn import Qnn
from plasticity.protocol.experiment import Preset
from plasticity.protocol.options import TaskOptions
from plasticity.protocol.serialization import to_json
from plasticity.protocol.supervised import Supervised
from plasticity.remedies.resets import ResetOptimizer
from plasticity.seeding import generator_for
from plasticity.tasks.images import Images, load_images
from plasticity.tasks.streams import PermutedPixels
from tests.experiments.runs import (
    EXPORTS,
    UPDATES,
    fields_of,
    finish,
    replaced,
    rows_of,
    run_folder,
    start,
    tiny_images,
    write_npz,
)

pytestmark = pytest.mark.usefixtures("empty_folder")


def tiny_qnn(depth: int = 2) -> Qnn:
    return Qnn("brickwork", depth, "log-odds", (0.0, 2 * math.pi))


TINY = RELEASED.replace(
    {"num_tasks": 2, "batch_size": 16},
    mlp={"network": Mlp(hidden=(5,)), "epochs": 2},
    qnn={"network": tiny_qnn(), "epochs": 2},
)
# For each field of the config another value than TINY's and RELEASED's.
OF_ALL_ARMS: dict[str, Any] = {
    "seed": 1, "num_tasks": 3, "batch_size": 15, "train_samples": 9, "gradual": 1.0,
    "relabel": True, "permute": True, "permuted_fraction": 0.5, "recurring": 1, "stationary": True,
}  # fmt: skip
NEEDED = {"permute": {"relabel": True}}  # without new labels, pixels are permuted in any case
NOT_THE_NUMBERS = {"dataset": "other.npz", "device": "meta", "threads": 2}  # tested one by one
# For each field of an arm, another value and what is said for it.
OF_ONE_ARM: dict[str, dict[str, tuple[Any, str]]] = {
    "mlp": {
        "network.hidden": ((6, 3), "--mlp.hidden 6 3"),
        "network.bounded_logits": (True, "--mlp.bounded-logits"),
        "optimizer.learning_rate": (0.002, "--mlp.optimizer.learning-rate 0.002"),
        "optimizer.epsilon": (1e-5, "--mlp.optimizer.epsilon 1e-5"),
        "epochs": (3, "--mlp.epochs 3"),
        "inputs.unit_norm": (True, "--mlp.unit-norm"),
        "inputs.permute_padding": (True, "--mlp.permute-padding"),
        "remedies": ({"reset-optimizer": ResetOptimizer()}, "--arms mlp+reset-optimizer"),
    },
    "qnn": {
        "network.ansatz": ("ring", "--qnn.ansatz ring"),
        "network.depth": (3, "--qnn.depth 3"),
        "network.readout": ("z-of-first", "--qnn.readout z-of-first"),
        "network.initial_angles": ((0.0, 1.0), "--qnn.initial-angles 0 1"),
        "network.shortest": (True, "--qnn.shortest"),
        "optimizer.learning_rate": (0.02, "--qnn.optimizer.learning-rate 0.02"),
        "optimizer.epsilon": (1e-5, "--qnn.optimizer.epsilon 1e-5"),
        "epochs": (1, "--qnn.epochs 1"),
        "inputs.unit_norm": (True, "--qnn.unit-norm"),
        "inputs.permute_padding": (False, "--qnn.no-permute-padding"),
        "remedies": (
            {"reset-optimizer": ResetOptimizer(every=2)},
            "--qnn.reset-optimizer.every 2",
        ),
    },
}
# The circuit scales its inputs to unit norm in any case.
NO_NUMBERS = {("qnn", "inputs.unit_norm")}
# Z is for two classes; whether an arm of many refuses it, is asked in test_cli.
NO_FIT = {("qnn", "network.readout")}
ARM_FIELDS = [(arm, field) for arm, fields in OF_ONE_ARM.items() for field in fields]


def ready(preset: Preset[Any], name: str, images: Images | None = None) -> Supervised:
    """Return an arm of a preset, ready to train."""
    arm = EXPERIMENT.build(
        preset.config, images or tiny_images(), preset.arms[name], name, TaskOptions(arms=(name,))
    )
    assert isinstance(arm, Supervised)
    return arm


TRAINED: dict[str, list[dict[str, float]]] = {}


def train(preset: Preset[Any], name: str) -> list[dict[str, float]]:
    """Return the rows of an arm on tiny images."""
    key = json.dumps([to_json(preset.config), preset.arms[name].json()])
    if key not in TRAINED:
        arm = ready(preset, name)
        TRAINED[key] = list(
            train_on_stream(
                arm.learner,
                arm.stream,
                epochs=arm.epochs,
                batch_size=arm.batch_size,
                seed=preset.config.seed,
                metrics=arm.metrics,
            )
        )
    return TRAINED[key]


def with_arm(preset: Preset[Any], name: str, field: str, value: Any) -> Preset[Any]:
    arm = replaced(preset.arms[name], field, value)
    return Preset(preset.config, {**preset.arms, name: arm})


# --- the config


def test_command_without_arguments_is_the_released_protocol() -> None:
    choice, options = cli.parse(EXPERIMENT, [])
    preset, config, arms = choice.preset, choice.config, choice.arms
    assert (preset, config, arms) == ("released", RELEASED.config, RELEASED.arms)
    assert options == TaskOptions(arms=("mlp", "qnn"))


@pytest.mark.parametrize("field", fields_of(RELEASED.config))
def test_every_field_of_the_config_is_an_option(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = (OF_ALL_ARMS | NOT_THE_NUMBERS)[field]
    if field == "device":
        value = "cuda"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    needed = NEEDED.get(field, {})
    before = dataclasses.replace(RELEASED.config, **needed)
    words = [f"--{name}" for name in needed] + ["--" + field.replace("_", "-")]
    choice, _ = cli.parse(EXPERIMENT, words if value is True else [*words, str(value)])
    config, arms = choice.config, choice.arms
    assert config == replaced(before, field, value) != before
    assert arms == RELEASED.arms
    identities = [EXPERIMENT.identity(c, tiny_images()) for c in (config, before)]
    # The content of the data is, and how long a run is does not matter (see test_resume).
    assert (identities[0] == identities[1]) == (field in ("dataset", "num_tasks"))


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("name", "field"), ARM_FIELDS)
def test_every_field_of_an_arm_is_an_option_and_part_of_its_identity_alone(
    name: str, field: str
) -> None:
    value, words = OF_ONE_ARM[name][field]
    choice, _ = cli.parse(EXPERIMENT, words.split())
    config, arms = choice.config, choice.arms
    assert config == RELEASED.config
    said = name
    if words.startswith("--arms "):
        (said,) = arms
    else:
        assert {n: a for n, a in arms.items() if n != name} == {
            n: a for n, a in RELEASED.arms.items() if n != name
        }
    assert arms[said] == replaced(RELEASED.arms[name], field, value)
    assert arms[said].json() != RELEASED.arms[name].json()
    assert EXPERIMENT.registry.from_json(json.loads(json.dumps(arms[said].json()))) == arms[said]


def test_every_field_of_an_arm_is_asked_for() -> None:
    for name, arm in RELEASED.arms.items():
        assert set(OF_ONE_ARM[name]) == set(fields_of(arm))


@pytest.mark.parametrize("field", OF_ALL_ARMS)
def test_no_field_of_the_config_is_ignored(field: str) -> None:
    assert {*OF_ALL_ARMS} == {*fields_of(TINY.config)} - {*NOT_THE_NUMBERS}
    preset = TINY.replace(NEEDED.get(field, {}))
    other = preset.replace({field: OF_ALL_ARMS[field]})
    for name in TINY.arms:
        rows, others = train(preset, name), train(other, name)
        assert len(others) == other.config.num_tasks
        assert rows != others
        if field == "num_tasks":
            assert others[: len(rows)] == rows
        else:
            assert rows[-1]["train_loss"] != others[-1]["train_loss"]


@pytest.mark.parametrize(
    ("name", "field"), [pair for pair in ARM_FIELDS if pair not in NO_FIT | NO_NUMBERS]
)
def test_no_field_of_an_arm_is_ignored(name: str, field: str) -> None:
    value, _ = OF_ONE_ARM[name][field]
    preset = TINY if field != "remedies" else TINY.replace({"num_tasks": 3})
    rows, others = train(preset, name), train(with_arm(preset, name, field, value), name)
    assert len(others) == len(rows)
    assert rows[-1]["train_loss"] != others[-1]["train_loss"]


# --- the reset of Adam


def slowly_reset(preset: Preset[Any]) -> list[float]:
    """Return the training losses of an MLP whose Adam is made anew for each task: all by hand."""
    config, arm, images = preset.config, preset.arms["mlp"], tiny_images()
    stream = PermutedPixels(
        images, num_tasks=config.num_tasks, seed=config.seed, num_inputs=images.num_pixels
    )
    assert isinstance(arm.network, Mlp)
    widths = (images.num_pixels, *arm.network.hidden, images.num_classes)
    network = mlp(widths, generator_for(config.seed, "initial weights"))
    losses = []
    for task in range(config.num_tasks):
        adam = torch.optim.Adam(
            network.parameters(), arm.optimizer.learning_rate, eps=arm.optimizer.epsilon, fused=True
        )
        for epoch in range(arm.epochs):
            order = torch.randperm(
                len(stream[task].train), generator=generator_for(config.seed, "order", task, epoch)
            )
            loss_sum = torch.zeros(())
            for indices in order.split(config.batch_size):
                x, y = stream[task].train.batch(indices)
                loss = torch.nn.functional.cross_entropy(network(x), y)
                adam.zero_grad()
                loss.backward()
                adam.step()
                loss_sum += loss.detach() * len(indices)
        losses.append(float(loss_sum) / len(order))
    return losses


def test_mlp_with_reset_optimizer_learns_as_with_a_new_adam_for_each_task() -> None:
    preset = TINY.replace({"num_tasks": 3}, mlp={"remedies": {"reset-optimizer": ResetOptimizer()}})
    losses = slowly_reset(preset)
    assert [row["train_loss"] for row in train(preset, "mlp")] == losses
    assert [row["train_loss"] for row in train(TINY.replace({"num_tasks": 3}), "mlp")] != losses


def test_optimizer_is_reset_where_an_arm_has_that_remedy() -> None:
    assert [*RELEASED.arms["qnn"].remedies] == ["reset-optimizer"]
    for name in TINY.arms:
        bare = train(with_arm(TINY, name, "remedies", {}), name)
        reset = train(with_arm(TINY, name, "remedies", {"reset-optimizer": ResetOptimizer()}), name)
        assert bare[0] == reset[0]  # The first task cannot tell.
        assert bare[1:] != reset[1:]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_optimizer_can_be_reset_every_few_tasks(every: int) -> None:
    arm = ready(with_arm(TINY, "mlp", "remedies", {"r": ResetOptimizer(every=every)}), "mlp")
    for task in range(7):
        before = arm.learner.optimizer
        arm.learner.start_task(task)
        assert (arm.learner.optimizer is not before) == (task in range(0, 7, every))


# --- data and device


def test_content_of_the_data_set_decides_the_run_and_its_name_does_not(tmp_path: Path) -> None:
    files = [write_npz(tmp_path / "a.npz"), tmp_path / "b.npz"]
    shutil.copy(*files)
    x = tiny_images().x_train.copy()
    x[3, 2] += 1
    files.append(write_npz(tmp_path / "c.npz", x_train=x))
    configs = [dataclasses.replace(TINY.config, dataset=str(file)) for file in files]
    first, copy, other = (load_images(config.dataset, tmp_path) for config in configs)
    identity = EXPERIMENT.identity(configs[0], first)
    assert identity == EXPERIMENT.identity(configs[1], copy)
    assert identity != EXPERIMENT.identity(configs[2], other)
    for name in TINY.arms:
        streams = [ready(TINY, name, images).stream for images in (other, first)]
        assert not torch.equal(*(stream._train[0] for stream in streams))


@pytest.mark.parametrize("name", TINY.arms)
def test_network_and_batches_are_on_the_device_of_the_config(name: str) -> None:
    preset = TINY.replace({})
    object.__setattr__(preset.config, "device", "meta")  # every machine has it; no option names it
    arm = ready(preset, name)
    x, y = arm.stream[0].train.batch(slice(0, 3))
    tensors = [x, y, *arm.learner.network.parameters()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rows_on_the_gpu_are_nearly_those_on_the_cpu() -> None:
    for name in TINY.arms:
        on_gpu = train(TINY.replace({"device": "cuda"}), name)
        for row, other in zip(train(TINY, name), on_gpu, strict=True):
            assert other == pytest.approx(row, rel=1e-3, abs=0.11)


def test_threads_of_the_config_are_torchs_while_it_trains(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    update = Learner.update

    def note(*arguments: Any) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return update(*arguments)

    monkeypatch.setattr(Learner, "update", note)
    words = [word for word in tiny if not word.startswith("--qnn.")]
    for threads in ("2", "1"):
        assert start(*words, "--threads", threads, "--arms", "mlp", "--num-tasks=1") == 0
    assert seen == [2] * UPDATES + [1] * UPDATES


# --- the presets


def images_of_mnist_shape(num_train: int, num_pixels: int) -> Images:
    return tiny_images(num_pixels, num_train, num_classes=10)


def test_released_has_the_networks_of_the_protocol() -> None:
    images = images_of_mnist_shape(20, 784)
    num_parameters, norms = {}, {}
    for name in ("mlp", "qnn"):
        arm = ready(RELEASED, name, images)
        parameters = list(arm.learner.network.parameters())
        num_parameters[name] = sum(parameter.numel() for parameter in parameters)
        norms[name] = weight_norm(arm.learner, arm.stream[0])
        assert len(arm.stream) == 1000
    assert num_parameters == {"mlp": 12_730, "qnn": 540}
    assert norms["mlp"] == pytest.approx(4.5, abs=0.2)
    # sqrt(270 / 3) 2 pi = 59.6 each, with a standard deviation of 1.6.
    assert norms["qnn"] == pytest.approx(59.5, abs=4)


def test_released_updates_as_often_as_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of_mnist_shape(60_000, 4)
    batches: list[int] = []

    def count(learner: Learner, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        batches.append(len(x))
        return torch.zeros(())

    monkeypatch.setattr(Learner, "update", count)
    num_updates = {}
    for name in ("mlp", "qnn"):
        arm = ready(RELEASED.replace({"num_tasks": 1}), name, images)
        batches.clear()
        list(train_on_stream(arm.learner, arm.stream, epochs=arm.epochs,
                             batch_size=arm.batch_size, seed=0))  # fmt: skip
        num_updates[name] = len(batches)
        assert max(batches) == 128
        assert sum(batches) == 60_000 * arm.epochs
    assert num_updates == {"mlp": 469, "qnn": 2_345}


def test_released_has_the_optimizers_and_inputs_of_the_protocol() -> None:
    images = images_of_mnist_shape(20, 784)
    mlp, qnn = (ready(RELEASED, name, images) for name in ("mlp", "qnn"))
    settings = [arm.learner.optimizer.param_groups[0] for arm in (mlp, qnn)]
    assert [(group["lr"], group["eps"]) for group in settings] == [(1e-3, 1e-7), (3e-2, 1e-8)]
    optimizers = [arm.learner.optimizer for arm in (mlp, qnn)]
    for arm in (mlp, qnn):
        arm.learner.start_task(1)
    assert mlp.learner.optimizer is optimizers[0]
    assert qnn.learner.optimizer is not optimizers[1]
    for arm, size in ((mlp, 784), (qnn, 1024)):
        x, _ = arm.stream[0].train.batch(slice(None))
        assert x.shape == (20, size)
        assert float(x.max()) == 1.0  # divided by 255
        permutation = arm.stream.permutation(0)
        assert torch.equal(permutation.sort().values, torch.arange(size))
        assert not torch.equal(permutation, arm.stream.permutation(1))


def test_matched_treats_the_arms_alike() -> None:
    images = images_of_mnist_shape(300, 784)
    mlp, qnn = (ready(MATCHED, name, images) for name in ("mlp", "qnn"))
    for index in (0, 7):
        for split in ("train", "test"):
            x, y = getattr(mlp.stream[index], split).batch(slice(None))
            x_of_qnn, y_of_qnn = getattr(qnn.stream[index], split).batch(slice(None))
            torch.testing.assert_close(torch.linalg.vector_norm(x, dim=1), torch.ones(len(x)))
            torch.testing.assert_close(
                x, x_of_qnn / torch.linalg.vector_norm(x_of_qnn, dim=1, keepdim=True)
            )
            assert torch.equal(y, y_of_qnn)
    settings = []
    for arm in (mlp, qnn):
        optimizer = arm.learner.optimizer
        arm.learner.start_task(1)
        assert arm.learner.optimizer is optimizer
        group = optimizer.param_groups[0]
        settings.append({key: v for key, v in group.items() if key not in ("params", "lr")})
    assert settings[0] == settings[1]
    assert (mlp.epochs, mlp.batch_size, mlp.metrics) == (qnn.epochs, qnn.batch_size, qnn.metrics)
    # One policy for the optimizer, which can be changed for both.
    assert all(not arm.remedies for arm in MATCHED.arms.values())
    words = ["--preset", "matched", "--arms", "mlp+reset-optimizer", "qnn+reset-optimizer"]
    choice, _ = cli.parse(EXPERIMENT, words)
    config, arms = choice.config, choice.arms
    for name, arm in arms.items():
        assert ready(Preset(config, arms), name, images).learner.remedies == (ResetOptimizer(),)
        assert [*arm.remedies] == ["reset-optimizer"]


def test_quick_needs_no_download(
    tmp_path: Path, no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("--preset", "quick", "--num-tasks", "1") == 0  # results/ by default
    assert len(rows_of(run_folder(tmp_path / "results"), "qnn")) == 1
    assert "first tenth" in capsys.readouterr().out


# --- rows


def test_rows_are_those_of_the_library_for_the_config(tiny: list[str]) -> None:
    """So what is shown of the loop above holds for the command, whose loop could differ."""
    arguments = [*tiny, "--seed=5"]
    choice, _ = cli.parse(EXPERIMENT, arguments)
    config, arms = choice.config, choice.arms
    folder = finish(arguments)
    preset = Preset(config, arms)
    for name in EXPORTS:
        rows = rows_of(folder, name)
        assert rows == train(preset, name)
        # Before the first task, nothing has been learned yet.
        arm = ready(preset, name)
        assert rows[0]["weight_norm"] == weight_norm(arm.learner, arm.stream[0])
        for row in rows:
            columns = {"task", "train_loss", "test_accuracy", "weight_norm", "gradient_norm"}
            assert set(row) == columns
            assert 0 <= row["test_accuracy"] <= 1


def test_finished_run_advises_to_measure_what_was_asked_for_and_not_what_the_preset_asks_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--preset", "why", "--dataset", "digits", "--train-samples", "128", "--arms", "mlp",
             "--num-tasks", "2"]  # fmt: skip
    rows = rows_of(finish(words), "mlp")
    assert "ntk_condition" in rows[0]
    assert not any(column.startswith("circuit") for column in rows[0])  # an MLP has no gates
    capsys.readouterr()
    finish(words)
    assert "nothing to do" in (again := capsys.readouterr().out)
    assert "experiments.measure" not in again
    finish([*words, "--metrics", "ntk", "circuit"])
    assert capsys.readouterr().out.rstrip().endswith(" --metrics circuit")
