"""``python -m experiments.device``: what it finds, what it leaves alone, how it is stopped."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from experiments import device
from plasticity.learning.learner import Learner
from plasticity.on_device import conditions
from plasticity.on_device import figure as device_figure
from plasticity.on_device import table as device_table
from plasticity.on_device.conditions import COLUMNS, EXACT, QUOTED, Condition
from plasticity.quantum.circuits import Brickwork
from plasticity.quantum.device import NoiseModel
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, PauliZ
from plasticity.results import provenance
from plasticity.results.record import read_rows, read_run
from plasticity.runs import drawing
from plasticity.tasks.samples import ArraySamples
from plasticity.tasks.streams import Task
from tests.experiments.measuring import EXPERIMENTS, KEPT, train, write_data
from tests.experiments.runs import arm_folder, arm_folders, rows_of, snapshot

ARMS = {
    "mnist": ("mlp", "qnn", "qnn-scaled", "qnn-relu", "qnn-trivialised", "orthogonal-brickwork"),
    "cifar": ("qnn",),
    "qdata": ("qnn", "qnn-wrapped"),
}
WITH_CIRCUIT = [(e, arm) for e in ARMS for arm in ARMS[e] if arm != "mlp"]
FEW = ["--shots", "3", "10000000000", "--depolarizing", "0", "0.1", "1", "--readout-error", "0.3"]


@pytest.fixture(autouse=True)
def here(
    request: pytest.FixtureRequest, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work in an empty folder; figures are blank, since drawing takes a second."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(device_figure, "figure", lambda *_: Figure((1, 1)))


@pytest.fixture
def drawn() -> None:
    """Ask for figures that are not blank."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of six tasks, of arms with and without a circuit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "git_commit", lambda: None)
        patch.setattr(drawing, "learning_curves", lambda *_, **__: Figure((1, 1)))
        return {name: train(name, arms, data, tmp_path_factory.mktemp(name))
                for name, arms in ARMS.items()}  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(finished: dict[str, Path]) -> dict[str, Path]:
    """The same, evaluated under few conditions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_figure, "figure", lambda *_: Figure((1, 1)))
        for folder in finished.values():
            assert start(folder, *FEW) == 0
    return finished


@pytest.fixture
def run(finished: dict[str, Path], tmp_path: Path) -> Path:
    """A run of mnist with an MLP and two circuits, to do with as one likes."""
    folder = tmp_path / "run"
    shutil.copytree(finished["mnist"], folder)
    for name, path in arm_folders(folder).items():
        if name not in ("mlp", "qnn", "qnn-scaled"):
            shutil.rmtree(path)
    for file in [*folder.rglob("device.*")]:
        file.unlink()
    return folder


def start(folder: Path, *words: str) -> int:
    """Evaluate a run."""
    return device.main([str(folder), *words])


def rows_on_device(folder: Path, arm: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return an arm's rows by task, shots, depolarization and readout error."""
    rows = read_rows(arm_folder(folder, arm), "device.jsonl")
    keys = ("task", "shots", "depolarizing", "readout_error")
    found = {tuple(row[key] for key in keys): row for row in rows}
    assert len(found) == len(rows)
    return found


def kept_networks(folder: Path, arm: str, data: Path, name: str) -> dict[int, tuple[Any, Any]]:
    """Return the network after each task that is kept, and the task's test samples, by task."""
    from plasticity.protocol.options import TaskOptions
    from plasticity.runs.restore import config_of, find_arms, load_data, networks_of

    experiment, run, found = EXPERIMENTS[name], read_run(folder), {}
    path = arm_folder(folder, arm)
    config = find_arms(experiment, run.arms(), [arm], "tests")[path]
    with run.arm(arm, run.arms()[path]) as record:
        shared = config_of(experiment, run, 6)
        images, _ = load_data(experiment, run, shared, record, None, data)
        options = TaskOptions(arms=(arm,))
        for place, state in networks_of(record):
            ready: Any = experiment.build(shared, images, config, arm, options)
            ready.learner.network.load_state_dict(state)
            found[place] = ready.learner.network.eval(), ready.stream[place].test
    return found


# --- the numbers


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("experiment", "arm"), WITH_CIRCUIT)
def test_the_exact_row_of_a_task_has_the_accuracy_that_the_run_recorded(
    evaluated: dict[str, Path], experiment: str, arm: str
) -> None:
    rows = rows_on_device(evaluated[experiment], arm)
    recorded = rows_of(evaluated[experiment], arm)
    assert sorted({task for task, *_ in rows}) == KEPT
    for task in KEPT:
        row = rows[task, None, 0, 0]
        assert row["accuracy"] == recorded[task]["test_accuracy"]
        assert row["changed"] == 0
        assert {*row} == {*COLUMNS}


@pytest.mark.parametrize(("experiment", "arm"), WITH_CIRCUIT)
def test_very_many_shots_without_noise_are_close_to_exact_and_three_are_not_always(
    evaluated: dict[str, Path], experiment: str, arm: str
) -> None:
    rows = rows_on_device(evaluated[experiment], arm)
    samples = rows[0, None, 0, 0]["samples"]
    many = [rows[task, 10**10, 0, 0]["changed"] * samples for task in KEPT]
    few = [rows[task, 3, 0, 0]["changed"] * samples for task in KEPT]
    assert sum(many) <= 2
    assert sum(few) > 2


def oracle(network: torch.nn.Module, samples: Any, noise: NoiseModel) -> tuple[float, float]:
    """Return accuracy and the part that is read: a sample at a time, a channel at a time."""
    modules = [*network] if isinstance(network, torch.nn.Sequential) else [network]
    (qnn, *after) = modules
    assert isinstance(qnn, QNN)
    operators = qnn.on_device(noise).operators().to(torch.complex128)
    right, share = 0, 0.0
    x, y = samples.batch(slice(None))
    for sample, label in zip(x, y, strict=True):
        state = torch.zeros(operators.shape[1], dtype=torch.complex128)
        state[: len(sample)] = sample
        state = state / torch.linalg.vector_norm(state)
        p = torch.stack([(state.conj() @ (operator @ state)).real for operator in operators])
        is_z = qnn.readout.qubit is not None
        share += 1.0 if is_z else float(p.sum())
        outputs = qnn.readout(2 * p - 1 if is_z else p.unsqueeze(0)).float()
        for module in after:
            outputs = module(outputs)
        outputs = outputs.flatten().tolist()
        outputs = [0.0, *outputs] if len(outputs) == 1 else outputs
        right += outputs.index(max(outputs)) == int(label)
    return right / len(y), share / len(y)


@torch.no_grad()
@pytest.mark.parametrize(("experiment", "arm"), WITH_CIRCUIT)
def test_a_row_with_noise_is_what_each_sample_gives_by_itself(
    evaluated: dict[str, Path], data: Path, experiment: str, arm: str
) -> None:
    rows = rows_on_device(evaluated[experiment], arm)
    levels = {(0.1, 0.0): NoiseModel(depolarizing=0.1), (0.0, 0.3): NoiseModel(readout_error=0.3),
              (1e-3, 1e-2): QUOTED}  # fmt: skip
    for task, (network, samples) in kept_networks(
        evaluated[experiment], arm, data, experiment
    ).items():
        for level, noise in levels.items():
            accuracy, share = oracle(network, samples, noise)
            row = rows[task, None, *level]
            assert row["samples"] == len(samples)
            assert row["accuracy"] == pytest.approx(accuracy)
            assert row["read_share"] == pytest.approx(share, abs=1e-5)


def made_up(readout: Any, classes: int, count: int) -> tuple[Learner, Task]:
    """Return a learner whose network labels samples itself, so that it is always right."""
    torch.manual_seed(0)
    qnn = QNN(Brickwork(num_qubits=3, depth=2), readout)
    x = torch.randn(count, 8)
    with torch.no_grad():
        outputs = qnn(x)
    y = outputs.argmax(1) if classes > 2 else (outputs[:, 0] > 0).long()
    learner = Learner(qnn, torch.optim.SGD, lambda *_: torch.zeros(()))
    return learner, Task(0, ArraySamples(x, y), ArraySamples(x, y))


def rows_under(learner: Learner, task: Task, *asked: Condition) -> list[dict[str, Any]]:
    generator = conditions.generator_of_shots(0, "arm", 0, torch.device("cpu"))
    return conditions.rows_of_network(learner, task, asked, generator, lambda: None)


@pytest.mark.parametrize(("readout", "classes"), [(LogOdds(4), 4), (PauliZ(1), 2)])
def test_full_depolarization_leaves_chance(readout: Any, classes: int) -> None:
    learner, task = made_up(readout, classes, 4000)
    noise = NoiseModel(depolarizing=1.0)
    exact, *noisy = rows_under(learner, task, EXACT, Condition(noise, 20), Condition(noise, 1))
    assert exact["accuracy"] == 1
    for row in noisy:
        chance = 1 / classes
        assert abs(row["accuracy"] - chance) < 4 * math.sqrt(chance * (1 - chance) / 4000)
        assert row["changed"] == pytest.approx(1 - row["accuracy"])
        assert row["read_share"] == pytest.approx(1.0 if classes == 2 else classes / 8, abs=1e-5)


def test_shots_are_those_of_the_layer_on_a_device() -> None:
    learner, task = made_up(LogOdds(4), 4, 300)
    qnn: Any = learner.network
    x, y = task.test.batch(slice(None))
    for condition in (Condition(QUOTED, 50), Condition(NoiseModel(amplitude_damping=0.2), 7)):
        of = conditions.generator_of_shots(5, "arm", 2, torch.device("cpu"))
        random = of(condition)
        with torch.no_grad():
            outputs = qnn.on_device(condition.noise, condition.shots, random)(x)
        right = int((conditions.chosen(outputs, random) == y).sum())
        # Others before it use the same probabilities, and change nothing.
        before = Condition(condition.noise, 11)
        *_, row = conditions.rows_of_network(
            learner, task, [EXACT, before, condition], of, lambda: None
        )
        assert row["accuracy"] == right / 300


def test_probabilities_are_computed_anew_where_the_samples_are_others() -> None:
    learner, task = made_up(LogOdds(4), 4, 30)
    qnn: Any = learner.network
    repeated = conditions.OnDevice(qnn, QUOTED)
    x, _ = task.test.batch(slice(None))
    with torch.no_grad():
        for samples in (x, x.flip(0), x[:7]):
            for _ in range(2):
                assert torch.equal(repeated(samples), qnn.on_device(QUOTED)(samples))


def test_shots_of_conditions_tasks_arms_and_seeds_are_independent() -> None:
    found = [
        torch.rand(
            3, generator=conditions.generator_of_shots(seed, arm, task, torch.device("cpu"))(asked)
        )
        for seed in (0, 1)
        for arm in ("a", "b")
        for task in (0, 1)
        for asked in (EXACT, Condition(shots=5), Condition(QUOTED, 5))
    ]
    assert len({tuple(numbers.tolist()) for numbers in found}) == len(found)


def test_fewer_shots_and_more_noise_make_a_network_worse() -> None:
    learner, task = made_up(LogOdds(4), 4, 2000)
    shots = [Condition(shots=count) for count in (1, 10, 100, 1000, 10_000)]
    noise = [Condition(NoiseModel(depolarizing=level)) for level in (0.9, 0.3, 0.0)]
    for asked in (shots, noise):
        accuracies = [row["accuracy"] for row in rows_under(learner, task, *asked)]
        assert accuracies == sorted(accuracies)
        assert accuracies[0] < accuracies[-1] - 0.05


def test_ties_are_decided_at_random_and_by_the_seed_alone() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0], [3.0, 1.0, 3.0, 0.0]]).repeat(3000, 1)
    first, again, other = (
        conditions.chosen(logits, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for start, classes in ((0, (1, 2, 3)), (1, (0, 2))):
        counts = torch.bincount(first[start::2], minlength=4) / 3000
        for number in range(4):
            expected = 1 / len(classes) if number in classes else 0
            assert abs(float(counts[number]) - expected) < 0.04 * (expected > 0) + 1e-9


def test_a_single_output_of_zero_is_a_tie() -> None:
    chosen = conditions.chosen(torch.zeros(2000, 1), torch.Generator().manual_seed(0))
    assert 0.45 < float(chosen.double().mean()) < 0.55


def test_the_same_seed_gives_the_same_rows_and_other_conditions_change_none(run: Path) -> None:
    path = arm_folder(run, "qnn") / "device.jsonl"
    found = []
    for words in (
        FEW,
        FEW,
        [*FEW, "--seed=1"],
        ["--shots=3", "--depolarizing=0.1", "--readout-error"],
    ):
        assert start(run, *words) == 0
        found.append(path.read_bytes())
    first, again, other, fewer = found
    assert first == again
    assert not {*first.splitlines()} & {*other.splitlines()}
    # Those of fewer conditions take the place of the same conditions with another seed.
    of_first = {*fewer.splitlines()} - {*other.splitlines()}
    assert len(of_first) == 5 * len(KEPT)
    assert of_first < {*first.splitlines()}
    assert len(fewer.splitlines()) == len(first.splitlines())
    arm_rows = [json.loads(line) for line in first.splitlines()]
    of_other_arm = (arm_folder(run, "qnn-scaled") / "device.jsonl").read_bytes()
    assert [json.loads(line)["changed"] for line in of_other_arm.splitlines()] != [
        row["changed"] for row in arm_rows
    ]


def test_conditions_are_added_to_those_that_are_there_which_are_not_evaluated_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = arm_folder(run, "qnn") / "device.jsonl"
    real, evaluated = conditions.rows_of_network, []

    def counted(learner: Any, task: Any, some: Any, *rest: Any) -> Any:
        evaluated.extend((task.index, condition) for condition in some)
        return real(learner, task, some, *rest)

    monkeypatch.setattr(conditions, "rows_of_network", counted)
    one = ["--arms=qnn", "--shots=3", "--depolarizing=0.1", "--readout-error"]
    assert start(run, *one) == 0
    first = path.read_bytes()
    assert len(evaluated) == len(first.splitlines()) == 5 * len(KEPT)
    evaluated.clear()
    assert start(run, *one) == 0
    assert (evaluated, path.read_bytes()) == ([], first)
    capsys.readouterr()
    assert start(run, *one, "--readout-error=0.3", "--depolarizing") == 0
    assert len(evaluated) == len(KEPT)
    assert "qnn: 5 conditions of 5 networks, 20 of 25 were there: " in capsys.readouterr().out
    both = path.read_bytes()
    assert {*first.splitlines()} < {*both.splitlines()}
    assert len(both.splitlines()) == 6 * len(KEPT)
    path.unlink()
    assert start(run, *one, "--readout-error=0.3") == 0
    assert path.read_bytes() == both
    # A condition that not all of the compared networks have is in no table.
    lines = both.splitlines(keepends=True)
    late = [line for line in lines if json.loads(line)["task"] >= 4]
    kept = [line for line in lines if line not in late or json.loads(line)["readout_error"] != 0.3]
    path.write_bytes(b"".join(kept))
    table = device_table.table({"qnn": read_rows(path.parent, "device.jsonl")})
    assert "Left out: 1 condition, not evaluated for all of these networks.\n" in table
    assert table.count("| 0.3 |") == 0


def test_conditions_are_shots_twice_and_each_noise_by_itself() -> None:
    found = conditions.conditions_for([10, 20], depolarizing=[0.0, 0.5], readout_error=[0.0, 0.1])
    none = NoiseModel()
    assert found == [
        Condition(none, None), Condition(none, 10), Condition(none, 20), Condition(QUOTED, None),
        Condition(QUOTED, 10), Condition(QUOTED, 20), Condition(NoiseModel(depolarizing=0.5)),
        Condition(NoiseModel(readout_error=0.1)),
    ]  # fmt: skip


def test_evaluating_changes_nothing_in_the_learner() -> None:
    learner, task = made_up(LogOdds(4), 4, 20)
    before = [p.detach().clone() for p in learner.network.parameters()]
    network = learner.network
    rows_under(learner, task, EXACT, Condition(QUOTED, 5))
    assert learner.network is network
    assert type(network) is QNN
    assert all(torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))


# --- what is written


def test_rows_table_and_figure_are_written_and_nothing_else_is_touched(
    drawn: None, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(run)
    capsys.readouterr()
    assert start(run, *FEW) == 0
    after = snapshot(run)
    new = {arm_folder(run, arm) / "device.jsonl" for arm in ("qnn", "qnn-scaled")}
    assert {*after} - {*before} == {*new, run / "device.md", run / "device.png"}
    assert all(after[path] == before[path] for path in before)
    printed, bars = capsys.readouterr()
    assert (run / "device.md").read_text() in printed
    assert printed.endswith(f"figure: {run / 'device.png'}\n")
    assert "qnn: 100%" in bars
    path = arm_folder(run, "qnn") / "device.jsonl"
    assert f"\nqnn: 9 conditions of 5 networks: {path}\n" in printed
    assert len(read_rows(path.parent, "device.jsonl")) == 9 * len(KEPT)


def test_arms_that_are_named_are_evaluated_and_those_of_before_stay_in_the_table(
    run: Path,
) -> None:
    assert start(run, *FEW, "--arms", "qnn") == 0
    assert not (arm_folder(run, "qnn-scaled") / "device.jsonl").exists()
    table = (run / "device.md").read_text()
    assert start(run, *FEW, "--arms", arm_folder(run, "qnn-scaled").name) == 0
    both = (run / "device.md").read_text()
    note = table.partition("\n\n±")[2]
    assert both.startswith(table.partition("\n\n±")[0])
    assert both.endswith(note)
    assert "## qnn-scaled" in both
    assert "## qnn-scaled" not in table


def test_damping_is_a_kind_of_noise_too(run: Path) -> None:
    assert (
        start(
            run, "--shots", "--depolarizing", "--readout-error", "--amplitude-damping", "0.5", "1"
        )
        == 0
    )
    rows = read_rows(arm_folder(run, "qnn"), "device.jsonl")
    assert [row["amplitude_damping"] for row in rows if row["task"] == 4] == [0, 0, 0.5, 1]
    assert "| amplitude damping |" in (run / "device.md").read_text()


def test_a_run_of_one_task_has_no_change_over_tasks(
    drawn: None, data: Path, tmp_path: Path
) -> None:
    folder = train("mnist", ("qnn",), data, tmp_path / "results", "--num-tasks=1")
    assert start(folder, *FEW) == 0
    text = (folder / "device.md").read_text()
    assert "One network, of task 0: there is no change over tasks." in text
    assert "| accuracy |" in text
    assert "late" not in text.partition("\n±")[0]


# --- stopped


class Killed(BaseException):
    """What nothing catches, as a kill."""


def test_a_command_that_is_killed_while_it_writes_leaves_no_half_file(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(run, "--shots=5") == 0
    files = [arm_folder(run, arm) / "device.jsonl" for arm in ("qnn", "qnn-scaled")]
    old = [file.read_bytes() for file in files]
    replace, calls = os.replace, []

    def fatal(source: Any, target: Any) -> None:
        if str(target).endswith("device.jsonl"):
            calls.append(target)
            if target.parent != files[0].parent and len(calls) > len(KEPT):
                raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fatal)
        with pytest.raises(Killed):
            start(run, *FEW)
    assert files[0].read_bytes() != old[0]
    assert files[1].read_bytes() == old[1]
    assert start(run, *FEW) == 0
    assert files[1].read_bytes() != old[1]
    assert not [*run.rglob("*.tmp")]


def test_control_c_keeps_the_networks_that_were_evaluated(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = conditions.rows_of_network, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(0)
        if len(calls) == 8:  # the third network of the second arm
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(conditions, "rows_of_network", interrupted)
    assert start(run, *FEW) == 130
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == "stopped: what is evaluated is kept; the same command goes on."
    assert len(rows_on_device(run, "qnn")) == 9 * len(KEPT)
    assert len(rows_on_device(run, "qnn-scaled")) == 9 * 2
    calls.clear()
    calls.extend([0] * 8)
    assert start(run, *FEW) == 0
    assert len(calls) == 8 + len(KEPT) - 2
    files = [arm_folder(run, arm) / "device.jsonl" for arm in ("qnn", "qnn-scaled")]
    resumed = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    assert start(run, *FEW) == 0
    assert [file.read_bytes() for file in files] == resumed


def test_an_arm_is_locked_while_it_is_evaluated(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, statuses = conditions.rows_of_network, []

    def second(*arguments: Any) -> Any:
        statuses.append(start(run, "--shots=5"))
        return real(*arguments)

    monkeypatch.setattr(conditions, "rows_of_network", second)
    assert start(run, *FEW) == 0
    assert {*statuses} == {75}
    assert "is in use by another process" in capsys.readouterr().err
