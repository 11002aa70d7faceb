"""Tests of ``python -m experiments.mnist``: what it trains, what it leaves, what may befall it."""

import contextlib
import dataclasses
import errno
import functools
import json
import math
import multiprocessing.forkserver
import os
import pkgutil
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import sklearn.datasets  # noqa: F401  # here, so that child processes have it from the start
import torch

from experiments import figures
from experiments.mnist import EXPERIMENT, MATCHED, RELEASED, Config, build, identify
from experiments.parts import cli, running
from experiments.parts.experiment import DataOptions
from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.metrics.norms import weight_norm
from plasticity.results import record
from plasticity.results.record import RunFolder
from plasticity.tasks.images import Images, load_images
from tests.waiting import PATIENCE, killed_on_failure, wait_until

ROOT = Path(__file__).parents[2]
EXPORTS = {"mlp": "classical_model_results.npz", "qnn": "quantum_model_results.npz"}
RESULTS = sorted([*EXPORTS.values(), "mlp/rows.jsonl", "qnn/rows.jsonl"])
UPDATES = 6  # an arm and task of the commands that TINY begins


def tiny_images(num_pixels: int = 12, num_train: int = 40, num_classes: int = 4) -> Images:
    """Return images too few to learn from; 12 pixels are padded to 16 amplitudes."""
    rng = np.random.default_rng(0)
    x = rng.integers(1, 256, (num_train + 20, num_pixels), dtype=np.uint8)
    y = np.arange(len(x)) % num_classes
    return Images("tiny", x[20:], y[20:], x[:20], y[:20], 1 / 255)


def write_npz(path: Path, **changes: np.ndarray) -> Path:
    images = tiny_images()
    arrays = {name: getattr(images, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(path, **arrays | changes)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, for nothing says where a wrong program would write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "git_commit", lambda: None)  # two processes each time
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Return a command that trains both arms on 3 tasks of 6 updates in a blink."""
    data = write_npz(tmp_path / "tiny.npz")
    return [f"--dataset={data}", "--num-tasks=3", "--batch-size=16", "--mlp.epochs=2",
            "--qnn.epochs=2", "--qnn.depth=2", f"--results={tmp_path / 'results'}"]  # fmt: skip


def start(*arguments: str) -> int:
    return cli.main(EXPERIMENT, arguments)


def run_folder(results: Path) -> Path:
    (folder,) = results.iterdir()
    return folder


def finish(arguments: list[str]) -> Path:
    """Run a command to its end and return its run folder."""
    assert start(*arguments) == 0
    _, options, _ = cli.parse(EXPERIMENT, arguments)
    return run_folder(options.results)


def read(folder: Path, names: list[str] = RESULTS) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def snapshot(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Return content and time of last change of all files, lock files excepted."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("lock", "lock.pid", "MNIST.lock")
    }


def rows_of(folder: Path, network: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / network / "rows.jsonl").read_text().splitlines()]


# --- the config


TINY = Config(
    num_tasks=2,
    batch_size=16,
    mlp=dataclasses.replace(RELEASED.mlp, hidden=5, epochs=2),
    qnn=dataclasses.replace(RELEASED.qnn, depth=2, epochs=2),
)
# For each field another value than TINY's and RELEASED's, and the arms whose numbers it changes.
OTHER_VALUES: dict[str, tuple[Any, set[str]]] = {
    "seed": (1, {"mlp", "qnn"}),
    "num_tasks": (3, {"mlp", "qnn"}),
    "batch_size": (15, {"mlp", "qnn"}),
    "reset_optimizer": ("mlp", {"mlp", "qnn"}),
    "mlp.hidden": (6, {"mlp"}),
    "mlp.epochs": (3, {"mlp"}),
    "mlp.learning_rate": (0.002, {"mlp"}),
    "mlp.adam_epsilon": (1e-5, {"mlp"}),
    "mlp.unit_norm": (True, {"mlp"}),
    "qnn.depth": (3, {"qnn"}),
    "qnn.epochs": (1, {"qnn"}),
    "qnn.learning_rate": (0.02, {"qnn"}),
    "qnn.adam_epsilon": (1e-5, {"qnn"}),
    "qnn.permute_padding": (False, {"qnn"}),
}
NOT_THE_NUMBERS = {"dataset": "other.npz", "device": "meta", "threads": 2}  # tested one by one


def fields_of(config: Any, prefix: str = "") -> list[str]:
    """Return the names of all fields that are not themselves a group of fields."""
    names = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        inner = dataclasses.is_dataclass(value)
        names += fields_of(value, f"{field.name}.") if inner else [prefix + field.name]
    return names


def replaced(config: Any, field: str, value: Any) -> Any:
    group, dot, rest = field.partition(".")
    if dot:
        value = replaced(getattr(config, group), rest, value)
    return dataclasses.replace(config, **{group: value})


@functools.cache
def train(config: Config, network: str) -> list[dict[str, float]]:
    arm = build(config, tiny_images(), network)
    return list(
        train_on_stream(
            arm.learner,
            arm.stream,
            epochs=arm.epochs,
            batch_size=arm.batch_size,
            seed=config.seed,
            metrics=arm.metrics,
        )
    )


def test_command_without_arguments_is_the_released_protocol() -> None:
    preset, options, config = cli.parse(EXPERIMENT, [])
    assert (preset, config) == ("released", RELEASED)
    assert options == DataOptions(networks=("mlp", "qnn"))


@pytest.mark.parametrize("field", fields_of(Config()))
def test_every_field_of_the_config_is_an_option_and_part_of_the_identity(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = (OTHER_VALUES | {name: (v, set()) for name, v in NOT_THE_NUMBERS.items()})[field][0]
    if field == "device":
        value = "cuda"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    option = "--" + field.replace("_", "-")
    words = [option, str(value)]
    if isinstance(value, bool):
        group, dot, name = option.rpartition(".")
        words = [option if value else f"{group}{dot}no-{name.removeprefix('--')}"]
    _, _, config = cli.parse(EXPERIMENT, words)
    assert config == replaced(RELEASED, field, value) != RELEASED
    if field != "dataset":
        assert identify(config, tiny_images()) != identify(RELEASED, tiny_images())


@pytest.mark.parametrize("field", [f for f in fields_of(Config()) if f not in NOT_THE_NUMBERS])
def test_no_field_of_the_config_is_ignored(field: str) -> None:
    value, affected = OTHER_VALUES[field]
    config = replaced(TINY, field, value)
    for network in ("mlp", "qnn"):
        rows, others = train(TINY, network), train(config, network)
        assert len(others) == config.num_tasks
        assert (rows != others) == (network in affected)
        if field == "num_tasks":
            assert others[: len(rows)] == rows
        elif network in affected:
            assert rows[-1]["train_loss"] != others[-1]["train_loss"]


@pytest.mark.parametrize(
    ("value", "affected"),
    [("neither", {"qnn"}), ("qnn", set()), ("both", {"mlp"}), ("mlp", {"mlp", "qnn"})],
)
def test_optimizer_is_reset_in_the_named_arms_only(value: str, affected: set[str]) -> None:
    assert TINY.reset_optimizer == "qnn"
    config = dataclasses.replace(TINY, reset_optimizer=value)
    for network in ("mlp", "qnn"):
        # The first task cannot tell.
        assert train(config, network)[0] == train(TINY, network)[0]
        changed = train(config, network)[1:] != train(TINY, network)[1:]
        assert changed == (network in affected)


def test_content_of_the_data_set_decides_the_run_and_its_name_does_not(tmp_path: Path) -> None:
    files = [write_npz(tmp_path / "a.npz"), tmp_path / "b.npz"]
    shutil.copy(*files)
    x = tiny_images().x_train.copy()
    x[3, 2] += 1
    files.append(write_npz(tmp_path / "c.npz", x_train=x))
    configs = [dataclasses.replace(TINY, dataset=str(file)) for file in files]
    first, copy, other = (load_images(config.dataset, tmp_path) for config in configs)
    assert identify(configs[0], first) == identify(configs[1], copy)
    assert identify(configs[0], first) != identify(configs[2], other)
    for network in ("mlp", "qnn"):
        arm = build(TINY, other, network)
        assert not torch.equal(arm.stream._train[0], build(TINY, first, network).stream._train[0])


@pytest.mark.parametrize("network", ["mlp", "qnn"])
def test_network_and_batches_are_on_the_device_of_the_config(network: str) -> None:
    config = dataclasses.replace(TINY)
    object.__setattr__(config, "device", "meta")  # every machine has it; no option may name it
    arm = build(config, tiny_images(), network)
    x, y = arm.stream[0].train.batch(slice(0, 3))
    tensors = [x, y, *arm.learner.network.parameters()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rows_on_the_gpu_are_nearly_those_on_the_cpu() -> None:
    for network in ("mlp", "qnn"):
        config = dataclasses.replace(TINY, device="cuda")
        for row, on_gpu in zip(train(TINY, network), train(config, network), strict=True):
            assert on_gpu == pytest.approx(row, rel=1e-3, abs=0.11)


def test_threads_of_the_config_are_torchs_while_it_trains(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    update = Learner.update

    def note(*arguments: Any) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return update(*arguments)

    monkeypatch.setattr(Learner, "update", note)
    for threads in ("2", "1"):
        start(*tiny, "--threads", threads, "--networks=mlp", "--num-tasks=1")
    assert seen == [2] * UPDATES + [1] * UPDATES


# --- the presets


def images_of_mnist_shape(num_train: int, num_pixels: int) -> Images:
    return tiny_images(num_pixels, num_train, num_classes=10)


def test_released_has_the_networks_of_the_protocol() -> None:
    images = images_of_mnist_shape(20, 784)
    num_parameters, norms = {}, {}
    for network in ("mlp", "qnn"):
        arm = build(RELEASED, images, network)
        parameters = list(arm.learner.network.parameters())
        num_parameters[network] = sum(parameter.numel() for parameter in parameters)
        norms[network] = weight_norm(arm.learner, arm.stream[0])
        assert len(arm.stream) == 1000
    assert num_parameters == {"mlp": 12_730, "qnn": 540}
    assert norms["mlp"] == pytest.approx(4.5, abs=0.2)
    # sqrt(270 / 3) 2 pi = 59.6 each, with a standard deviation of 1.6.
    assert norms["qnn"] == pytest.approx(59.5, abs=4)


def test_released_updates_as_often_as_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of_mnist_shape(60_000, 4)
    batches: list[int] = []

    def count(learner: Learner, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        batches.append(len(x))
        return torch.zeros(())

    monkeypatch.setattr(Learner, "update", count)
    num_updates = {}
    for network in ("mlp", "qnn"):
        arm = build(dataclasses.replace(RELEASED, num_tasks=1), images, network)
        batches.clear()
        list(train_on_stream(arm.learner, arm.stream, epochs=arm.epochs,
                             batch_size=arm.batch_size, seed=0))  # fmt: skip
        num_updates[network] = len(batches)
        assert max(batches) == 128
        assert sum(batches) == 60_000 * arm.epochs
    assert num_updates == {"mlp": 469, "qnn": 2_345}


def test_released_has_the_optimisers_and_inputs_of_the_protocol() -> None:
    images = images_of_mnist_shape(20, 784)
    mlp, qnn = (build(RELEASED, images, network) for network in ("mlp", "qnn"))
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
    mlp, qnn = (build(MATCHED, images, network) for network in ("mlp", "qnn"))
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
    # One policy for the optimiser, which a switch can change for both.
    assert MATCHED.reset_optimizer == "neither"
    both = dataclasses.replace(MATCHED, reset_optimizer="both")
    for network in ("mlp", "qnn"):
        assert build(both, images, network).learner.interventions


def test_quick_needs_no_download(
    tmp_path: Path, no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("--preset", "quick", "--num-tasks", "1") == 0  # results/ by default
    assert len(rows_of(run_folder(tmp_path / "results"), "qnn")) == 1
    assert "first tenth" in capsys.readouterr().out


# --- what a run leaves


def test_exports_hold_the_rows(tiny: list[str]) -> None:
    folder = finish(tiny)
    for network, name in EXPORTS.items():
        rows = rows_of(folder, network)
        assert [row["task"] for row in rows] == [0, 1, 2]
        columns = {"accuracies": "test_accuracy", "weight_norms": "weight_norm",
                   "grad_norms": "gradient_norm"}  # fmt: skip
        with np.load(folder / name, allow_pickle=False) as archive:
            assert set(archive.files) == set(columns)
            for array, column in columns.items():
                assert archive[array].dtype == np.float64
                assert archive[array].tolist() == [row[column] for row in rows]


def test_exports_stay_in_step_where_a_column_is_undefined() -> None:
    rows = [{"task": 0, "norm": 2.0}, {"task": 1}, {"task": 2, "norm": 3.0}]
    np.testing.assert_array_equal(running.column(rows, "norm", math.nan), [2, math.nan, 3])
    assert running.column(rows, "norm").tolist() == [2, 3]
    assert running.column(rows, "task", math.nan).tolist() == [0, 1, 2]


def test_rows_are_those_of_the_library_for_the_config(tiny: list[str]) -> None:
    """So what is shown of the loop above holds for the command, whose loop could differ."""
    arguments = [*tiny, "--seed=5"]
    _, _, config = cli.parse(EXPERIMENT, arguments)
    folder = finish(arguments)
    for network in EXPORTS:
        rows = rows_of(folder, network)
        assert rows == train(config, network)
        # Before the first task, nothing has been learned yet.
        arm = build(config, tiny_images(), network)
        assert rows[0]["weight_norm"] == weight_norm(arm.learner, arm.stream[0])
        for row in rows:
            columns = {"task", "train_loss", "test_accuracy", "weight_norm", "gradient_norm"}
            assert set(row) == columns
            assert 0 <= row["test_accuracy"] <= 1


def test_run_says_where_the_results_are(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finish(tiny)
    printed, bars = capsys.readouterr()
    for part in (str(folder), "first tenth", "last tenth", "change", *EXPORTS.values()):
        assert part in printed
    for network in EXPORTS:
        assert f"{network}: 100%" in bars
        accuracy = rows_of(folder, network)[0]["test_accuracy"]
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{network} "))
        assert float(line.split()[1]) == pytest.approx(accuracy, abs=1e-4)


def test_finished_run_says_so_and_changes_no_file(
    tiny: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    finish(tiny)
    before = snapshot(tmp_path)
    capsys.readouterr()
    assert start(*tiny) == 0
    printed, bars = capsys.readouterr()
    for network in EXPORTS:
        assert f"{network}: all 3 tasks are recorded, nothing to do" in printed
    assert bars == ""
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["figure.png", EXPORTS["mlp"]])
def test_finished_run_replaces_an_export_that_was_removed(tiny: list[str], name: str) -> None:
    folder = finish(tiny)
    before = snapshot(folder)
    (folder / name).unlink()
    finish(tiny)
    assert {path: content for path, (content, _) in snapshot(folder).items()} == {
        path: content for path, (content, _) in before.items()
    }


def test_arms_trained_by_two_commands_end_up_in_one_folder(tiny: list[str], tmp_path: Path) -> None:
    together = finish(tiny)
    apart = [*tiny[:-1], f"--results={tmp_path / 'apart'}"]
    folder = finish([*apart, "--networks", "qnn"])
    assert not (folder / "mlp").exists()
    assert not (folder / EXPORTS["mlp"]).exists()
    assert finish([*apart, "--networks", "mlp"]) == folder
    # Equal names, so equal figures too.
    assert read(folder, [*RESULTS, "figure.png"]) == read(together, [*RESULTS, "figure.png"])


def test_other_configs_have_folders_of_their_own(tiny: list[str], tmp_path: Path) -> None:
    finish(tiny)
    before = snapshot(tmp_path / "results")
    assert start(*tiny, "--seed=1", "--networks=mlp") == 0
    assert len(list((tmp_path / "results").iterdir())) == 2
    assert before.items() <= snapshot(tmp_path / "results").items()


def test_overwrite_starts_afresh(tiny: list[str]) -> None:
    folder = finish(tiny)
    before = read(folder)
    (folder / "mlp/rows.jsonl").write_text("edited")
    finish([*tiny, "--overwrite"])
    assert read(folder) == before


# --- stopped and started again


class Stop:
    """Do something at the n-th update from now on, counted over both arms."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.countdown, self.action = -1, lambda: None
        update = Learner.update

        def count(*arguments: Any) -> torch.Tensor:
            self.countdown -= 1
            if self.countdown == 0:
                self.action()
            return update(*arguments)

        monkeypatch.setattr(Learner, "update", count)

    def at(self, countdown: int, action: Callable[[], None]) -> None:
        self.countdown, self.action = countdown, action


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    return Stop(monkeypatch)


@pytest.mark.parametrize("seed", range(4))
def test_run_stopped_in_the_middle_of_tasks_ends_like_an_uninterrupted_one(
    tiny: list[str], stop: Stop, tmp_path: Path, seed: int
) -> None:
    uninterrupted = finish(tiny)
    again = [*tiny[:-1], f"--results={tmp_path / 'again'}"]
    rng = random.Random(seed)
    # A task of 6 updates may be begun several times: 6 tasks take 36 updates and those lost.
    while True:
        stop.at(rng.randint(1, 3 * UPDATES), interrupt)
        status = start(*again)
        if status == 0:
            break
        assert status == 130
    folder = run_folder(tmp_path / "again")
    assert read(folder, [*RESULTS, "figure.png"]) == read(uninterrupted, [*RESULTS, "figure.png"])


@pytest.mark.parametrize("method", ["save_figure", "save_npz"])
def test_run_stopped_at_its_exports_makes_them_up(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str
) -> None:
    uninterrupted = finish(tiny)
    again = [*tiny[:-1], f"--results={tmp_path / 'again'}"]
    finish([*again, "--networks=qnn"])
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, method, lambda *a, **k: interrupt())
        assert start(*again, "--networks=mlp") == 130
    folder = finish([*again, "--networks=mlp"])
    assert read(folder, [*RESULTS, "figure.png"]) == read(uninterrupted, [*RESULTS, "figure.png"])


Moment = tuple[str, str, int]
"""Class or module, a function of it, and which of its calls."""


def in_child(arguments: list[str], log: Path, fatal: Moment | None = None) -> None:
    """Run a command; before the n-th call of something, be killed."""
    if fatal is not None:
        owner, name, limit = pkgutil.resolve_name(fatal[0]), *fatal[1:]
        calls, function = [], getattr(owner, name)

        def counted(*some: Any, **more: Any) -> Any:
            calls.append(0)
            if len(calls) == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*some, **more)

        setattr(owner, name, counted)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(start(*arguments))


@pytest.fixture(scope="module")
def child() -> Callable[..., Any]:
    """Start commands in processes of their own, forked where all is imported but nothing ran."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:  # the server does not get this process's sys.path
        patch.setenv("PYTHONPATH", str(ROOT))
        multiprocessing.forkserver.ensure_running()

    def launch(*arguments: Any) -> Any:
        process = context.Process(target=in_child, args=arguments)
        process.start()
        return process

    return launch


def test_equal_commands_give_equal_rows_in_two_processes_and_another_seed_others(
    child: Callable[..., Any], tiny: list[str], tmp_path: Path
) -> None:
    commands = [[*tiny, f"--results={tmp_path / name}"] for name in "abc"]
    commands[2].append("--seed=1")
    processes = [child(command, tmp_path / "log") for command in commands]
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    first, second, other = (run_folder(tmp_path / name) for name in "abc")
    assert read(first) == read(second) == read(finish(tiny))
    for network in EXPORTS:
        for row, other_row in zip(rows_of(first, network), rows_of(other, network), strict=True):
            assert row["train_loss"] != other_row["train_loss"]


def num_rows(results: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in results.glob("*/*/rows.jsonl"))


QUICK = ["--preset", "quick", "--num-tasks", "8"]


@pytest.fixture(scope="module")
def uninterrupted_quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return read(finish([*QUICK, f"--results={tmp_path_factory.mktemp('quick') / 'results'}"]))


# Of these calls some n-th one is a process's last, n up to this.
FATAL = {
    ("plasticity.learning.learner:Learner", "update"): 150,
    ("plasticity.results.record:ArmRecord", "append"): 6,
    ("os", "replace"): 12,
    ("os", "fsync"): 40,
}


@pytest.mark.slow
def test_run_killed_at_random_calls_ends_like_an_uninterrupted_one(
    child: Callable[..., Any], uninterrupted_quick: dict[str, bytes], tmp_path: Path
) -> None:
    rng = random.Random(2)
    results = tmp_path / "results"
    arguments = [*QUICK, f"--results={results}"]
    num_kills = 0
    while True:
        function, most = rng.choice([*FATAL.items()])
        process = child(arguments, tmp_path / "log", (*function, rng.randint(1, most)))
        process.join(PATIENCE)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
        num_kills += 1
    assert num_kills >= 4
    assert read(run_folder(results)) == uninterrupted_quick


# The command, which stops in the task after its n-th row, says so by a file and waits for a signal.
HELD = """
import os, pathlib, runpy, sys
from plasticity.learning.learner import Learner
from plasticity.results.record import ArmRecord
append, update, rows, updates = ArmRecord.append, Learner.update, [], []
limit, sign = int(sys.argv.pop(1)), pathlib.Path(sys.argv.pop(1))
def noted(*arguments):
    append(*arguments)
    rows.append(0)
def held(*arguments):
    if len(rows) == limit:
        updates.append(0)
        if len(updates) == 3:
            sign.touch()
            os.read(0, 1)
    return update(*arguments)
ArmRecord.append, Learner.update = noted, held
runpy.run_module("experiments.mnist", run_name="__main__", alter_sys=True)
"""


def launch_command(limit: int, sign: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """Start the command and return once it stands in the midst of a task."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HELD, str(limit), str(sign), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with Ctrl-C ignored, and so their children.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    with killed_on_failure(process):
        wait_until(sign.exists, lambda: process.poll() is None)
    return process


@pytest.mark.slow
def test_command_goes_on_after_kill_and_control_c_to_the_same_bytes(
    uninterrupted_quick: dict[str, bytes], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    arguments = [*QUICK, f"--results={results}"]

    killed = launch_command(2, tmp_path / "first", arguments)
    assert num_rows(results) == 2
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL

    interrupted = launch_command(7, tmp_path / "second", arguments)
    interrupted.send_signal(signal.SIGINT)
    interrupted.wait(PATIENCE)
    _, said = interrupted.communicate()
    assert interrupted.returncode == 130
    lines = [line for line in re.split(r"[\r\n]+", said) if line]
    lines = [line for line in lines if not re.match(r"(mlp|qnn): +\d+%\|", line)]
    assert len(lines) == 1
    assert "the same command goes on" in lines[0]
    assert num_rows(results) == 9

    assert read(finish(arguments)) == uninterrupted_quick
    printed = capsys.readouterr().out
    assert "mlp: all 8 tasks are recorded, nothing to do" in printed
    assert "qnn: going on after" in printed


# --- errors


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(request: Any, *arguments: Any, **more: Any) -> None:
        raise URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", fail)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Run a command that has to fail: one or two lines, and no file written, changed or lost."""

    def refuse(*arguments: str, status: int) -> str:
        before = snapshot(tmp_path)
        capsys.readouterr()
        assert start(*arguments) == status
        printed, said = capsys.readouterr()
        assert said.startswith("error: ")
        assert said.endswith("\n")
        assert len(said.splitlines()) <= 2
        assert "Traceback" not in printed + said
        assert snapshot(tmp_path) == before
        return said

    return refuse


WRONG_USE = {
    "--num-tasks 0": ["--num-tasks 0", "positive"],
    "--num-tasks -3": ["--num-tasks -3", "positive"],
    "--num-tasks 99999999999999999999": ["--num-tasks", "at most"],
    "--num-tasks x": ["--num-tasks", "'x'"],
    "--num-tasks 2.5": ["--num-tasks", "'2.5'"],
    "--num-tasks": ["--num-tasks"],
    "--num-task 3": ["--num-task,", "did you mean --num-tasks"],
    "--mlp.hiden 3": ["--mlp.hiden", "did you mean --mlp.hidden"],
    "--prest quick": ["--prest", "did you mean --preset"],
    "--preset quik": ["quik", "released, matched, quick"],
    "--preset=quik": ["quik", "released, matched, quick"],
    "--preset": ["released, matched, quick"],
    "--networks rnn": ["rnn", "mlp, qnn"],
    "--networks mlp rnn": ["rnn", "mlp, qnn"],
    "--networks": ["--networks"],
    "--reset-optimizer all": ["all", "'neither', 'mlp', 'qnn', 'both'"],
    "quick": ["quick"],
    "--seed -1": ["--seed -1"],
    "--seed 18446744073709551616": ["--seed"],
    "--threads 0": ["--threads 0"],
    "--threads 1000000": ["--threads 1000000", "1024"],
    "--batch-size -128": ["--batch-size -128"],
    "--mlp.hidden 0": ["--mlp.hidden 0"],
    "--qnn.depth 0": ["--qnn.depth 0"],
    "--qnn.epochs 0": ["--qnn.epochs 0"],
    "--mlp.learning-rate nan": ["--mlp.learning-rate nan"],
    "--qnn.learning-rate inf": ["--qnn.learning-rate inf"],
    "--mlp.adam-epsilon 0": ["--mlp.adam-epsilon 0"],
    "--device cupy": ["cupy", "cpu or cuda"],
    "--device meta": ["meta", "cpu or cuda"],
    "--device cuda": ["cuda", "no CUDA device"],
}


@pytest.mark.parametrize("arguments", WRONG_USE)
def test_wrong_use_is_one_line_and_status_2(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = refused(*arguments.split(), status=2)
    for part in WRONG_USE[arguments]:
        assert part in said
    assert len(said.splitlines()) == 1
    assert "--help" in said


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


@pytest.mark.parametrize("num_updates", [0, 2 * UPDATES + 1, 4 * UPDATES + 1])
@pytest.mark.parametrize("change", [cut, edit])
@pytest.mark.parametrize("name", ["config.json", "mlp/rows.jsonl", "mlp/checkpoint.pt"])
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
    path = run_folder(tmp_path / "results") / name
    if name.endswith(".pt"):
        change = cut
    change(path)
    for networks in ("mlp", "qnn"):
        # Also a command for the other arm, for it would draw this one.
        said = refused(*tiny, f"--networks={networks}", status=1)
        assert str(path) in said
        assert "--overwrite" in said


def test_second_command_on_a_run_that_trains_is_refused(
    refused: Callable[..., str], tiny: list[str], stop: Stop, tmp_path: Path
) -> None:
    uninterrupted = read(finish([*tiny, f"--results={tmp_path / 'uninterrupted'}"]))
    said = []

    def try_again() -> None:
        for arguments in (tiny, [*tiny, "--overwrite"]):
            said.append(refused(*arguments, status=1))

    stop.at(4 * UPDATES + 1, try_again)
    folder = finish(tiny)
    assert len(said) == 2
    for message in said:
        assert f"{folder} is in use by another process (pid {os.getpid()})" in message
    assert read(folder) == uninterrupted


@pytest.mark.parametrize("num_updates", [1, 2 * UPDATES + 1, 5 * UPDATES + 3])
def test_run_stopped_by_a_full_disk_goes_on_once_there_is_room(
    tiny: list[str],
    stop: Stop,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    num_updates: int,
) -> None:
    uninterrupted = read(finish([*tiny, f"--results={tmp_path / 'uninterrupted'}"]))
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
        kept = (folder / "mlp/rows.jsonl").read_bytes()
        assert len(kept.splitlines()) >= min(3, num_updates // UPDATES)
    assert finish(tiny) == folder
    assert read(folder) == uninterrupted


def test_training_that_diverges_says_so_and_keeps_its_rows(
    tiny: list[str], stop: Stop, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def spoil() -> None:
        monkeypatch.setattr(torch.optim.Adam, "step", lambda self: self.param_groups[0]["params"][
            0].data.fill_(torch.nan))  # fmt: skip

    with pytest.MonkeyPatch.context() as monkeypatch:
        stop.at(UPDATES + 1, spoil)
        assert start(*tiny) == 1
    said = capsys.readouterr().err.partition("error: ")[2]
    assert "task 1" in said
    assert len(said.splitlines()) == 1
    assert len(rows_of(run_folder(tmp_path / "results"), "mlp")) == 1


# --- help


def help_texts(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, dict[str, str]]:
    """Return what --help says, all of it and by option."""
    with pytest.raises(SystemExit) as stopped:
        start(*arguments, "--help")
    assert not stopped.value.code
    text = capsys.readouterr().out
    lines = [line.strip("│ ") for line in text.splitlines() if not re.match(r"[╭╰]", line)]
    _, *chunks = re.split(r"^(?=--[a-z])", "\n".join(lines), flags=re.MULTILINE)
    return text, {re.match(r"[\w.-]+", chunk)[0]: " ".join(chunk.split()) for chunk in chunks}


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    text, by_option = help_texts(capsys)
    fields = [*fields_of(Config()), *(field.name for field in dataclasses.fields(DataOptions))]
    assert set(by_option) == {"--preset"} | {"--" + field.replace("_", "-") for field in fields}
    for option, explained in by_option.items():
        explained = re.sub(r"\(default:[^)]*\)|\{[^}]*\}|\[[^]]*\]|--\S+|\b[A-Z]+\b", "", explained)
        assert len(re.findall("[A-Za-z]", explained)) >= 6, option
    assert "Permuted MNIST" in text
    assert "python -m experiments.mnist" in text


def test_help_shows_the_presets_and_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    _, by_option = help_texts(capsys)
    assert "{released,matched,quick}" in by_option["--preset"]
    for preset in ("released", "matched", "quick"):
        assert by_option["--preset"].count(preset) >= 2
    assert "(default: 1000)" in by_option["--num-tasks"]
    _, by_option = help_texts(capsys, "--preset", "quick")
    assert "(default: 40)" in by_option["--num-tasks"]


# --- figures


def test_figures_draws_a_run_again_finished_or_not(
    tiny: list[str], stop: Stop, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stop.at(5 * UPDATES + 1, interrupt)
    assert start(*tiny) == 130
    folder = run_folder(tmp_path / "results")
    before = snapshot(folder)
    assert figures.main([str(folder)]) == 0
    unfinished = (tmp_path / f"{folder.name}.png").read_bytes()
    assert snapshot(folder) == before
    finish(tiny)
    capsys.readouterr()
    for target in ("again.png", "again"):
        assert figures.main([str(folder), target]) == 0
        assert capsys.readouterr().out == "again.png\n"
        assert (tmp_path / "again.png").read_bytes() == (folder / "figure.png").read_bytes()
        (tmp_path / "again.png").unlink()
    assert unfinished != (folder / "figure.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["."], 1, "no rows"),
        (["gone"], 1, "gone"),
        (["run", "a.xyz"], 1, "xyz"),
        (["run", "gone/a.png"], 1, "gone/a.png"),
        (["short"], 1, "weight_norm"),
        (["broken"], 1, "line 1 is not JSON"),
        ([], 2, "RUN_FOLDER"),
        (["run", "a.png", "b.png"], 2, "RUN_FOLDER"),
    ],
)
def test_figures_names_what_it_cannot_draw(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    status: int,
    part: str,
) -> None:
    row = {"task": 0, "test_accuracy": 0.5, "weight_norm": 1.0, "gradient_norm": 1.0}
    short = {"task": 0, "test_accuracy": 0.5}
    contents = {"run": json.dumps(row), "short": json.dumps(short), "broken": "{"}
    for name, line in contents.items():
        (tmp_path / name / "qnn").mkdir(parents=True)
        (tmp_path / name / "qnn/rows.jsonl").write_text(line + "\n")
    before = snapshot(tmp_path)
    assert figures.main(arguments) == status
    said = capsys.readouterr().err
    assert part in said
    assert len(said.splitlines()) <= 2
    assert snapshot(tmp_path) == before


def test_figure_has_both_arms_and_a_running_mean() -> None:
    rows = {n: [{"task": t, "a": t / 60} for t in range(60)] for n in ("mlp", "qnn")}
    panels = [figures.Panel("a", "label a"), figures.Panel("a", "label b", logarithmic=True)]
    figure = figures.learning_curves(rows, EXPERIMENT.networks, panels, "title")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["classical (MLP)", "quantum (QNN)"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["label a", "label b"]
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "log"]
    assert all(len(axes.lines) == 4 for axes in figure.axes)  # points and running mean
    assert "running mean of 6 tasks" in figure.get_suptitle()
