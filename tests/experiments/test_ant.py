"""The reinforcement-learning experiment as its user runs it."""

import contextlib
import dataclasses
import functools
import itertools
import json
import math
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("mujoco")
pytest.importorskip("stable_baselines3")

import gymnasium
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from experiments import figures
from experiments.ant import EXPERIMENT, MATCHED, QUICK, RELEASED, Config
from experiments.cli import parse as cli
from plasticity.protocol.arms import ArmConfig
from plasticity.protocol.optimizers import Adam
from plasticity.results.record import ArmRecord
from plasticity.rl import trainer as policies
from plasticity.rl.environments import MAX_FRICTION, MIN_FRICTION
from plasticity.rl.features import MlpFeatures, QuantumFeatures
from plasticity.rl.protocol import MlpPolicy, QnnPolicy
from plasticity.rl.workers import Workers
from tests.experiments.control_runs import (
    ANT,
    ARMS,
    EXPORTS,
    OF_ARMS,
    TINY,
    folder_of,
    only,
    policy_arm,
    ready,
    results,
    run,
)
from tests.experiments.runs import arm_folder, arm_folders, fields_of, rows_of, snapshot

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of other processes, for tests.short


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of TINY's run, finished; a test that changes it takes a copy."""
    results = tmp_path_factory.mktemp("trained") / "results"
    assert run(*TINY, f"--results={results}") == 0
    return folder_of(*TINY, f"--results={results}")


@pytest.fixture
def copied(trained: Path) -> Path:
    shutil.copytree(trained.parent, "results")
    return folder_of(*TINY)


# ------------------------------------------------------------------------------------ protocol
def test_released_is_the_protocol() -> None:
    numbers = dataclasses.asdict(RELEASED.config)
    expected = {
        "env": "Ant-v4", "total_steps": 30_000_000, "num_envs": 16, "n_steps": 2048,
        "batch_size": 128, "gamma": 0.99, "gae_lambda": 0.95, "clip_range": 0.2,
        "evaluation_every": 200_000, "evaluation_episodes": 10, "friction_period": None,
        "seed": 0, "device": "cpu", "threads": 1,
    }  # fmt: skip
    assert numbers == expected
    assert RELEASED.arms == {
        "mlp": ArmConfig(MlpPolicy((1024, 256), (256, 256), ()), Adam(1e-4, 1e-5), epochs=10),
        "qnn": ArmConfig(QnnPolicy(9, 12, 5.0), Adam(2e-3, 1e-5), epochs=10),
    }


@pytest.mark.parametrize(
    ("preset", "name", "count"),
    [(RELEASED, "mlp", 366_353), (RELEASED, "qnn", 6_245), (MATCHED, "qnn", 6_245)],
)
def test_arms_have_as_many_parameters_as_the_released_ones(preset, name, count) -> None:
    with policy_arm(preset, name) as arm:
        assert sum(p.numel() for p in arm.model.policy.parameters()) == count


def test_released_arms_are_stable_baselines3s_with_the_protocols_numbers() -> None:
    with policy_arm(RELEASED, "mlp") as arm:
        model = arm.model
        assert [type(layer).__name__ for layer in model.policy.mlp_extractor.policy_net] == [
            "Linear", "Tanh", "Linear", "Tanh",
        ]  # fmt: skip
        numbers = (model.gamma, model.gae_lambda, model.batch_size, model.n_epochs, model.n_envs)
        assert numbers == (0.99, 0.95, 128, 10, 16)
        assert model.clip_range(1.0) == 0.2
        defaults = PPO("MlpPolicy", DummyVecEnv([lambda: policies.make_gymnasium("Ant-v4")]))
        for name in ("ent_coef", "vf_coef", "max_grad_norm", "target_kl", "normalize_advantage"):
            assert getattr(model, name) == getattr(defaults, name)
        ours, theirs = model.policy.optimizer, defaults.policy.optimizer
        assert ours.defaults["lr"] == 1e-4
        assert type(ours) is type(theirs)
        assert ours.defaults["eps"] == theirs.defaults["eps"]
        assert ours.defaults["betas"] == theirs.defaults["betas"]
    with policy_arm(RELEASED, "qnn") as arm:
        extractor = arm.model.policy.features_extractor
        assert isinstance(extractor, QuantumFeatures)
        assert extractor.qnn.angles.shape == (108, 15)
        assert arm.model.policy.optimizer.defaults["lr"] == 2e-3
        assert arm.model.policy.vf_features_extractor is extractor


def test_matched_arms_share_a_trunk_on_observations_of_unit_norm() -> None:
    with policy_arm(MATCHED, "mlp") as arm:
        policy = arm.model.policy
        assert isinstance(policy.features_extractor, MlpFeatures)
        assert policy.vf_features_extractor is policy.features_extractor
        assert [p.shape[1] for p in (policy.action_net.weight, policy.value_net.weight)] == [
            256, 256,
        ]  # fmt: skip


def test_presets_differ_from_the_released_one_where_they_say() -> None:
    trunk = dataclasses.replace(RELEASED.arms["mlp"], network=MlpPolicy((), (), (1024, 256)))
    assert MATCHED.config == RELEASED.config
    assert MATCHED.arms == {"mlp": trunk, "qnn": RELEASED.arms["qnn"]}
    assert [*QUICK.arms] == ["mlp", "qnn"]
    assert {arm.epochs for arm in QUICK.arms.values()} == {10}


def test_seeds_of_neighboring_runs_share_no_environment() -> None:
    seeds = [policies.seed_for(seed, "ppo") for seed in range(20)]
    apart = np.abs(np.subtract.outer(seeds, seeds)) + 1_000_000 * np.eye(20)
    assert apart.min() >= 16


@pytest.mark.draws
# ---------------------------------------------------------------------------------------- runs
@pytest.mark.slow
def test_run_records_rows_exports_policies_and_a_figure(capsys) -> None:
    assert run(*ANT) == 0
    folder = folder_of(*ANT)
    printed, bars = capsys.readouterr()
    for part in (
        str(folder),
        "training return",
        "steps per s",
        *itertools.chain(*EXPORTS.values()),
    ):
        assert part in printed
    assert {*arm_folders(folder)} == {*ARMS}
    for arm in ARMS:
        assert f"{arm}: 100%" in bars
        rows = rows_of(folder, arm)
        assert [row["step"] for row in rows] == [0, 96, 192, 288, 384]
        training, evaluation = (np.load(arm_folder(folder, arm) / name) for name in EXPORTS[arm])
        returns = [r for row in rows[1:] for r in row["episode_returns"]]
        steps = [s for row in rows[1:] for s in row["episode_steps"]]
        assert returns
        assert np.array_equal(training, [steps, returns])
        evaluated = [row for row in rows if "evaluation_return" in row]
        assert np.array_equal(evaluation[0], [0, 100, 200, 300, 384])
        assert np.array_equal(evaluation[1], [row["evaluation_return"] for row in evaluated])
        assert all(len(row["evaluation_returns"]) == 2 for row in evaluated)
        snapshots = [file.name for file in (arm_folder(folder, arm) / "snapshots").iterdir()]
        assert sorted(snapshots) == [f"task-{row:08}.pt" for row in (0, 1, 2, 4)]
    png = (folder / "figure.png").read_bytes()
    assert png.startswith(b"\x89PNG")


def test_finished_run_says_so_and_does_nothing(capsys, copied: Path) -> None:
    before = snapshot(copied)
    assert run(*TINY) == 0
    assert snapshot(copied) == before
    said = capsys.readouterr().out
    for arm in ARMS:
        assert f"{arm}: all 192 steps are recorded, nothing to do" in said


@pytest.mark.slow
def test_numbers_do_not_depend_on_the_processes(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectorized = []
    training = policies.Environments.training

    def seen(self: policies.Environments) -> Any:
        vectorized.append(training(self))
        return vectorized[-1]

    monkeypatch.setattr(policies.Environments, "training", seen)
    # Where episodes are cut off, the last value is added to a reward in single precision.
    assert run(*TINY, "--env-processes=2") == 0
    assert results(folder_of(*TINY)) == results(trained)
    choice, _ = cli.parse(EXPERIMENT, TINY)
    config, arms = choice.config, choice.arms
    with ready(config, arms["mlp"], "mlp"):  # no processes, as in what is trained
        assert [type(env) for env in vectorized] == [Workers] * 2 + [DummyVecEnv]
    assert rows_of(trained, "qnn")[2]["episode_steps"]


def test_numbers_of_an_arm_do_not_depend_on_the_other(trained: Path) -> None:
    for arm in reversed(ARMS):
        assert run(*only(TINY, arm)) == 0
    assert results(folder_of(*TINY)) == results(trained)


def test_saved_policies_are_stable_baselines3s(trained: Path) -> None:
    for arm, file in (("mlp", "classical"), ("qnn", "quantum")):
        rows, folder = rows_of(trained, arm), arm_folder(trained, arm)
        state = torch.load(folder / "checkpoint.pt", weights_only=True)["state"]
        last = PPO.load(folder / f"{file}_last_policy.zip", device="cpu")
        snapshot = torch.load(folder / "snapshots/task-00000004.pt", weights_only=True)["network"]
        for name, tensor in last.policy.state_dict().items():
            assert torch.equal(tensor, state["ppo"]["policy"][name])
            assert torch.equal(tensor, snapshot[name])
        best = PPO.load(folder / f"{file}_best_policy.zip", device="cpu")
        scores = {row["step"]: row["evaluation_return"] for row in rows if "evaluation_step" in row}
        assert best.num_timesteps == max(scores, key=lambda step: scores[step])
        assert state["best"] == max(scores.values())


WHERE_IT_RUNS = {"device", "threads"}  # tested one by one


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(Config) if f.name not in WHERE_IT_RUNS]
)
def test_no_field_of_the_config_is_ignored(field: str) -> None:
    """Every field changes the first two rows, or how far a run goes."""
    other: dict[str, Any] = {
        "seed": 1, "env": "MountainCarContinuous-v0", "friction_period": 48, "total_steps": 240,
        "num_envs": 2, "n_steps": 32, "batch_size": 12, "gamma": 0.5, "gae_lambda": 0.5,
        "clip_range": 1e-6, "evaluation_every": 30, "evaluation_episodes": 3,
    }  # fmt: skip
    base = ANT if field == "friction_period" else TINY
    changed = first_rows(*base, f"--{field.replace('_', '-')}={other[field]}")
    assert all(changed[arm] != first_rows(*base)[arm] for arm in ARMS)


OTHER = {
    "mlp.network.pi": "9", "mlp.network.vf": "9", "mlp.network.shared": "9",
    "qnn.network.num_qubits": "3", "qnn.network.depth": "3", "qnn.network.scale": "4",
    **{f"{arm}.{field}": value for arm in ARMS for field, value in (
        ("optimizer.learning_rate", "0.05"), ("optimizer.epsilon", "0.1"), ("epochs", "1"))},
}  # fmt: skip


@pytest.mark.sampled(2)
@pytest.mark.parametrize("field", OTHER)
def test_no_field_of_an_arm_is_ignored_or_changes_the_other(field: str) -> None:
    option = field.replace("network.", "").replace("_", "-")
    before, after = first_rows(*TINY), first_rows(*TINY, f"--{option}={OTHER[field]}")
    changed = [arm for arm in ARMS if before[arm] != after[arm]]
    assert changed == [field.partition(".")[0]]


def test_fields_of_the_arms_that_were_tested_are_all_there_are() -> None:
    fields = [name for arm in ARMS for name in fields_of(QUICK.arms[arm], f"{arm}.")]
    nothing_yet = {f"{arm}.remedies" for arm in ARMS}
    assert {*fields} - nothing_yet == {*OTHER}


@functools.cache
def first_rows(*arguments: str) -> dict[str, Any]:
    choice, _ = cli.parse(EXPERIMENT, arguments)
    config, arms = choice.config, choice.arms
    rows = {}
    for name, value in arms.items():
        with ready(config, value, name) as arm:
            of_arm = arm.rows(0, lambda steps: None)
            rows[name] = [config.all_steps, *(next(of_arm) for _ in range(3))]
    return rows


@pytest.mark.filterwarnings("ignore:You are trying to run PPO on the GPU:UserWarning")
@pytest.mark.parametrize("name", ARMS)
def test_policy_is_on_the_device_of_the_config(name: str) -> None:
    choice, _ = cli.parse(EXPERIMENT, TINY)
    config, arms = choice.config, choice.arms
    object.__setattr__(config, "device", "meta")  # every machine has it; no option may name it
    env = policies.Environments(config, 0).training()
    model = policies.make_model(config, arms[name], env)
    tensors = [*model.policy.parameters(), *model.policy.buffers()]
    assert {tensor.device.type for tensor in tensors} == {model.device.type} == {"meta"}


def test_threads_of_the_config_are_torchs_while_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    train, seen = PPO.train, []

    def noting(self: PPO) -> None:
        seen.append(torch.get_num_threads())
        train(self)

    monkeypatch.setattr(PPO, "train", noting)
    for threads in ("3", "1"):
        run(*only(TINY, "mlp"), "--total-steps=48", f"--threads={threads}")
    assert seen == [3, 1]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("since", ["the beginning", "a resume", "the end"])
def test_tensorboard_gets_the_numbers_of_all_rows_once(
    monkeypatch: pytest.MonkeyPatch, since: str
) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    append, calls = ArmRecord.append, []

    def interrupted(self: ArmRecord, row: Any, state: Any) -> None:
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        append(self, row, state)

    monkeypatch.setattr(ArmRecord, "append", interrupted)
    arguments = only(TINY, "qnn")
    assert run(*arguments, *["--tensorboard"] * (since == "the beginning")) == 130
    assert run(*arguments, *["--tensorboard"] * (since != "the end")) == 0
    assert run(*arguments, "--tensorboard") == 0
    folder = folder_of(*arguments)
    log = loader.EventAccumulator(
        str(arm_folder(folder, "qnn") / "tensorboard"), purge_orphaned_data=False
    )
    log.Reload()
    rows = rows_of(folder, "qnn")
    for name in ("return", "approx_kl", "angle_norm", "evaluation_return"):
        logged = [(event.step, event.value) for event in log.Scalars(name)]
        expected = [(row["step"], pytest.approx(row[name])) for row in rows if name in row]
        assert logged == expected


def test_tensorboard_that_cannot_be_written_is_told(capsys) -> None:
    pytest.importorskip("tensorboard")
    arguments = (*only(TINY, "mlp"), "--total-steps=48")
    assert run(*arguments) == 0
    (arm_folder(folder_of(*arguments), "mlp") / "tensorboard").write_text("no folder")
    assert run(*arguments, "--tensorboard") == 1
    said = capsys.readouterr().err
    error = said[said.index("error: ") :]
    assert "/tensorboard: not a folder" in error
    assert len(error.splitlines()) == 2


def test_without_tensorboard_it_says_what_to_install(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert run(*TINY, "--tensorboard") == 1
    assert capsys.readouterr().err.endswith("pip install tensorboard\n")


# -------------------------------------------------------------------------------------- identity
def test_environment_without_version_is_the_latest() -> None:
    choice, options = cli.parse(EXPERIMENT, ["--env=Pendulum", "--env-processes=0"])
    config = choice.config
    with pytest.warns(UserWarning, match="Using the latest versioned environment") as warned:
        environments = EXPERIMENT.load(config, options)
    environments.training()  # warnings would be errors
    assert len(warned) == 1
    choice, _ = cli.parse(EXPERIMENT, ["--env=Pendulum-v1"])
    named = choice.config
    identity = EXPERIMENT.identity(config, environments)
    assert identity["env"] == "Pendulum-v1"
    assert identity == EXPERIMENT.identity(named, environments)
    choice, options = cli.parse(EXPERIMENT, TINY)
    config = choice.config
    identity = EXPERIMENT.identity(config, EXPERIMENT.load(config, options))
    assert identity["env"] == "tests.short:ShortPendulum-v0"


def test_run_folder_is_named_after_what_the_arms_share_without_the_length(trained: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    shared = {field.name for field in dataclasses.fields(Config)}
    # A floor that stays is no part of it either: it is what it was before there were others.
    assert {*config} == {"experiment"} | shared - {"total_steps", "friction_period"}
    for option in ("--total-steps=480", "--friction-period=None", "--mlp.pi=9"):
        assert folder_of(*TINY, option).name == trained.name
    for option in ("--seed=1", "--gamma=0.9", "--friction-period=480"):
        assert folder_of(*TINY, option).name != trained.name


def test_floor_that_changes_is_in_the_config() -> None:
    choice, _ = cli.parse(EXPERIMENT, (*ANT, "--friction-period=96"))
    config = choice.config
    assert EXPERIMENT.identity(config, policies.Environments(config, 0))["friction_period"] == 96


# -------------------------------------------------------------------------------------- friction
@contextlib.contextmanager
def on_changing_floors(*arguments: str) -> Iterator[policies.PolicyArm]:
    choice, _ = cli.parse(EXPERIMENT, (*ANT, "--friction-period=96", *arguments))
    config, arms = choice.config, choice.arms
    with ready(config, arms["mlp"], "mlp") as arm:
        yield arm


def test_friction_changes_in_training_and_is_that_of_the_evaluation() -> None:
    with on_changing_floors("--n-steps=32") as arm:
        seen = []
        for row in arm.rows(0, lambda steps: None):
            assert MIN_FRICTION <= row["friction"] <= MAX_FRICTION
            for env in arm._training.envs:
                assert set(env.unwrapped.model.geom_friction[:, 0]) == {row["friction"]}
            if "evaluation_step" in row:
                for env in arm._evaluation.envs:
                    assert set(env.unwrapped.model.geom_friction[:, 0]) == {row["friction"]}
            seen.append(row["friction"])
        assert len(set(seen)) == len(seen) == 5


def test_friction_matters_to_the_evaluation() -> None:
    with on_changing_floors() as arm:
        of_arm = arm.rows(0, lambda steps: None)
        next(of_arm)
        next(of_arm)
        first = arm.evaluate(arm.model, 0)
        assert arm.evaluate(arm.model, 0) == first  # the same seed
        arm._friction = lambda: 0.02  # type: ignore[method-assign]
        assert arm.evaluate(arm.model, 0) != first


# ---------------------------------------------------------------------------------------- errors
@pytest.mark.sampled(12)
@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["--env=Ant-v77"], 2, "--env Ant-v77"),
        (["--env=CartPole-v1"], 2, "actions are Discrete"),
        (["--env=nonsense:Ant-v4"], 2, "--env nonsense:Ant-v4: No module named"),
        (["--env=FrozenLake-v1"], 2, "--env FrozenLake-v1"),
        (["--env=Pendulum-v1", "--friction-period=64"], 2, "MuJoCo"),
        (["--friction-period=2"], 2, "--friction-period 2"),
        (["--qnn.num-qubits=4"], 2, "--arms qnn: --env tests.short:ShortAnt-v0: 27 observations"),
        (["--qnn.num-qubits=4"], 2, "num_qubits must be at least 5"),
        (["--qnn.num-qubits=1"], 2, "--qnn.num-qubits 1"),
        (["--qnn.num-qubits=40"], 2, "--qnn.num-qubits 40"),
        (["--qnn.depth=0"], 2, "--qnn.depth 0"),
        (["--batch-size=7"], 2, "--batch-size 7: must divide the 96"),
        (["--total-steps=0"], 2, "--total-steps 0"),
        (["--gamma=1.5"], 2, "--gamma 1.5"),
        (["--mlp.pi=0"], 2, "--mlp.pi"),
        (["--mlp.epochs=0"], 2, "--mlp.epochs 0"),
        (["--env-processes=-1"], 2, "--env-processes -1"),
        (["--arms=toy"], 2, "--arms toy: no network is called 'toy'; there are mlp, qnn"),
        (["--arms=classical"], 2, "--arms classical: no network is called 'classical'"),
        (["--arms=mlp+toy"], 2, "--arms mlp+toy: no remedy is called 'toy'; there are continual"),
        (["--total-step=5"], 2, "did you mean --total-steps"),
        (["--mlp.optimizer.learning-rate=2e9"], 1, "not finite"),
    ],
)
def test_wrong_use_is_told_in_a_line_or_two(capsys, arguments, status, part) -> None:
    base = [word for word in ANT if word.partition("=")[0] != arguments[0].partition("=")[0]]
    assert run(*base, *arguments) == status
    said = capsys.readouterr().err
    error = said[said.index("error:") :]
    assert part in error
    assert len(error.splitlines()) == 1
    assert status == 1 or not Path("results").exists()


def test_network_too_small_for_the_environment_hinders_only_those_who_choose_it(capsys) -> None:
    # The preset's four qubits do not hold the 27 observations.
    arguments = ["--preset=quick", "--env=tests.short:ShortAnt-v0", "--total-steps=8",
                 "--num-envs=1", "--n-steps=8", "--batch-size=8", "--evaluation-episodes=1",
                 "--env-processes=0"]  # fmt: skip
    for arms in ([], ["--arms=qnn"], ["--arms", "mlp", "qnn"]):
        assert run(*arguments, *arms) == 2
        assert capsys.readouterr().err.startswith("error: --arms qnn: --env ")
        assert not Path("results").exists()
    assert run(*arguments, "--arms=mlp") == 0
    (folder,) = Path("results").iterdir()
    assert {*arm_folders(folder)} == {"mlp"}


def test_run_in_which_no_episode_ends_is_exported_and_drawn() -> None:
    arguments = (*TINY, "--env=Pendulum-v1", "--total-steps=48")
    assert run(*arguments) == 0
    folder = folder_of(*arguments)
    assert np.load(arm_folder(folder, "qnn") / EXPORTS["qnn"][0]).shape == (2, 0)
    assert (folder / "figure.png").exists()


def test_environment_that_cannot_be_saved_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(make: Any) -> None:
        raise ValueError("step 3 differs")

    monkeypatch.setattr(policies, "check_resumable", refuse)
    with policy_arm(QUICK, "mlp") as arm:
        assert "step 3 differs" in arm.remark
        assert "not bit for bit" in arm.remark


def test_figures_draws_a_run_again(trained: Path) -> None:
    assert figures.main([str(trained), "again.png"]) == 0
    assert Path("again.png").read_bytes() == (trained / "figure.png").read_bytes()


class Faulty(gymnasium.Env):
    """Raise, or give NaN, in the step or at the reset that the name says; be well afterwards."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    faults: ClassVar[list[str]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.ones(3, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        fault = self.faults.pop() if self.steps == 10 and self.faults else ""
        if fault == "raise":
            raise ZeroDivisionError("no\nfloor")
        observation = np.full(3, np.nan if fault == "observation" else 1, np.float32)
        reward = math.nan if fault == "reward" else 1.0
        return observation, reward, False, self.steps == 12, {}


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("raise", "it raised ZeroDivisionError: no floor"),
        ("observation", "observation 0 of 2 is not finite: number 0 is nan"),
        ("reward", "reward 0 of 2 is not finite: nan"),
    ],
)
def test_an_environment_at_fault_ends_its_arm_in_a_line_and_the_next_is_trained(
    fault: str, text: str, capsys, monkeypatch
) -> None:
    if "Faulty-v0" not in gymnasium.registry:
        gymnasium.register("Faulty-v0", Faulty)
    monkeypatch.setattr(policies, "check_resumable", lambda make: None)
    monkeypatch.setattr(Faulty, "faults", [fault])
    arguments = ["--env=Faulty-v0", "--total-steps=32", "--num-envs=2", "--n-steps=16",
                 "--batch-size=16", "--evaluation-every=1000", "--evaluation-episodes=2", *OF_ARMS,
                 "--env-processes=0"]  # fmt: skip
    assert run(*arguments) == 1
    out, error = capsys.readouterr()
    line = error[error.index("error:") :]
    assert line.startswith("error: mlp: in an evaluation after update 0 of PPO the environment is")
    assert line.endswith(f"at fault: {text}\n")
    assert "qnn" not in line
    assert "exported to" in out
    assert re.search(r"qnn: \S+ (steps per s|s per step)", out)
    assert run(*arguments) == 0  # the fault does not come again


def test_an_environment_that_cannot_be_made_or_tried_is_told_in_a_line(capsys, monkeypatch) -> None:
    if "Faulty-v0" not in gymnasium.registry:
        gymnasium.register("Faulty-v0", Faulty)
    config = dataclasses.replace(QUICK.config, env="Faulty-v0")
    monkeypatch.setattr(Faulty, "faults", ["raise"])
    remark = policies.Environments(config, 0).remark
    assert remark == "Faulty-v0 failed when it was tried: ZeroDivisionError: no floor"

    def broken(self: Faulty) -> None:
        raise RuntimeError("no engine")

    monkeypatch.setattr(Faulty, "__init__", broken)
    assert run("--preset=quick", "--env=Faulty-v0", "--env-processes=0") == 1
    expected = "error: --env Faulty-v0: it cannot be made: RuntimeError: no engine\n"
    assert capsys.readouterr().err.endswith(expected)
