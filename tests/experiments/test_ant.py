"""The reinforcement-learning experiment as its user runs it."""

import contextlib
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("mujoco")
pytest.importorskip("stable_baselines3")
pytest.importorskip("imageio_ffmpeg")

import imageio.v3
import imageio_ffmpeg
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from experiments import ant, bench_ppo, figures, watch
from experiments.ant import EXPERIMENT, MATCHED, QUICK, RELEASED, Config
from experiments.parts import cli, policies
from plasticity.results.record import ArmRecord, run_name
from plasticity.rl.environments import MAX_FRICTION, MIN_FRICTION
from plasticity.rl.features import MlpFeatures, QuantumFeatures
from plasticity.rl.workers import Workers

ROOT = Path(__file__).parents[2]
NETWORKS = ("classical", "quantum")
TINY = (
    "--env=tests.short:ShortPendulum-v0", "--total-steps=192", "--num-envs=3", "--n-steps=16",
    "--batch-size=16",
    "--epochs=2", "--evaluation-every=100", "--evaluation-episodes=2", "--classical.pi=8",
    "--classical.vf=8", "--quantum.num-qubits=2", "--quantum.depth=2", "--env-processes=0",
)  # fmt: skip
"""Four updates of 48 steps."""
ANT = (
    *TINY,
    "--env=tests.short:ShortAnt-v0",
    "--quantum.num-qubits=5",
    "--total-steps=384",
    "--n-steps=32",
)
EXPORTS = {
    network: [f"{network}_{kind}_results.npy" for kind in ("training", "evaluation")]
    for network in NETWORKS
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of other processes, for tests.short
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(*arguments: str) -> int:
    return ant.main([*arguments])


def folder_of(*arguments: str) -> Path:
    preset, options, config = cli.parse(EXPERIMENT, arguments)
    name = run_name(f"ant-{preset}-seed{config.seed}", dataclasses.asdict(config))
    return Path(options.results) / name


def rows_of(folder: Path, network: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / network / "rows.jsonl").read_text().splitlines()]


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [file for file in folder.rglob("*") if file.is_file() and "lock" not in file.name]
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def results(folder: Path) -> dict[str, bytes]:
    """All numbers of a run: rows and exports, not the files that hold times."""
    names = [f"{network}/rows.jsonl" for network in NETWORKS]
    names += [name for of_network in EXPORTS.values() for name in of_network]
    return {name: (folder / name).read_bytes() for name in names}


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
    numbers = dataclasses.asdict(RELEASED)
    expected = {
        "env": "Ant-v4", "total_steps": 30_000_000, "num_envs": 16, "n_steps": 2048,
        "batch_size": 128, "epochs": 10, "gamma": 0.99, "gae_lambda": 0.95, "clip_range": 0.2,
        "evaluation_every": 200_000, "evaluation_episodes": 10, "friction_period": None,
    }  # fmt: skip
    assert {key: numbers[key] for key in expected} == expected
    assert numbers["classical"]["learning_rate"] == 1e-4
    assert numbers["quantum"]["learning_rate"] == 2e-3


@pytest.mark.parametrize(
    ("config", "network", "count"),
    [(RELEASED, "classical", 366_353), (RELEASED, "quantum", 6_245), (MATCHED, "quantum", 6_245)],
)
def test_arms_have_as_many_parameters_as_the_released_ones(config, network, count) -> None:
    with policy_arm(config, network) as arm:
        assert sum(p.numel() for p in arm.model.policy.parameters()) == count


@contextlib.contextmanager
def policy_arm(config: Config, network: str) -> Iterator[policies.PolicyArm]:
    config = dataclasses.replace(config, n_steps=128)
    with contextlib.closing(
        policies.PolicyArm(config, policies.Environments(config, 0), network)
    ) as arm:
        yield arm


def test_released_arms_are_stable_baselines3s_with_the_protocols_numbers() -> None:
    with policy_arm(RELEASED, "classical") as arm:
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
    with policy_arm(RELEASED, "quantum") as arm:
        extractor = arm.model.policy.features_extractor
        assert isinstance(extractor, QuantumFeatures)
        assert extractor.qnn.angles.shape == (108, 15)
        assert arm.model.policy.optimizer.defaults["lr"] == 2e-3
        assert arm.model.policy.vf_features_extractor is extractor


def test_matched_arms_share_a_trunk_on_observations_of_unit_norm() -> None:
    with policy_arm(MATCHED, "classical") as arm:
        policy = arm.model.policy
        assert isinstance(policy.features_extractor, MlpFeatures)
        assert policy.vf_features_extractor is policy.features_extractor
        assert [p.shape[1] for p in (policy.action_net.weight, policy.value_net.weight)] == [
            256, 256,
        ]  # fmt: skip


def test_seeds_of_neighbouring_runs_share_no_environment() -> None:
    seeds = [policies.seed_for(seed, "ppo") for seed in range(20)]
    apart = np.abs(np.subtract.outer(seeds, seeds)) + 1_000_000 * np.eye(20)
    assert apart.min() >= 16


# ---------------------------------------------------------------------------------------- runs
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
    for network in NETWORKS:
        assert f"{network}: 100%" in bars
        rows = rows_of(folder, network)
        assert [row["step"] for row in rows] == [0, 96, 192, 288, 384]
        training, evaluation = (np.load(folder / name) for name in EXPORTS[network])
        returns = [r for row in rows[1:] for r in row["episode_returns"]]
        steps = [s for row in rows[1:] for s in row["episode_steps"]]
        assert returns
        assert np.array_equal(training, [steps, returns])
        evaluated = [row for row in rows if "evaluation_return" in row]
        assert np.array_equal(evaluation[0], [0, 100, 200, 300, 384])
        assert np.array_equal(evaluation[1], [row["evaluation_return"] for row in evaluated])
        assert all(len(row["evaluation_returns"]) == 2 for row in evaluated)
    png = (folder / "figure.png").read_bytes()
    assert png.startswith(b"\x89PNG")


def test_finished_run_says_so_and_does_nothing(capsys, copied: Path) -> None:
    before = snapshot(copied)
    assert run(*TINY) == 0
    assert snapshot(copied) == before
    assert "all 192 steps are recorded, nothing to do" in capsys.readouterr().out


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
    with policy_arm(cli.parse(EXPERIMENT, TINY)[2], "classical"):  # none, as in what is trained
        assert [type(env) for env in vectorized] == [Workers] * 2 + [DummyVecEnv]
    assert rows_of(trained, "quantum")[2]["episode_steps"]


def test_saved_policies_are_stable_baselines3s(trained: Path) -> None:
    for network in NETWORKS:
        rows = rows_of(trained, network)
        state = torch.load(trained / network / "checkpoint.pt", weights_only=True)["state"]
        last = PPO.load(trained / f"{network}_last_policy.zip", device="cpu")
        for name, tensor in last.policy.state_dict().items():
            assert torch.equal(tensor, state["ppo"]["policy"][name])
        best = PPO.load(trained / f"{network}_best_policy.zip", device="cpu")
        scores = {row["step"]: row["evaluation_return"] for row in rows if "evaluation_step" in row}
        assert best.num_timesteps == max(scores, key=lambda step: scores[step])
        assert state["best"] == max(scores.values())


WHERE_IT_RUNS = {"device", "threads"}  # tested one by one


@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(Config) if f.name not in WHERE_IT_RUNS]
)
def test_no_field_of_the_config_is_ignored(field: str) -> None:
    """Every field changes the first two rows, or how far a run goes."""
    other: dict[str, Any] = {
        "seed": 1, "env": "MountainCarContinuous-v0", "friction_period": 48, "total_steps": 240,
        "num_envs": 2, "n_steps": 32, "batch_size": 12, "epochs": 1, "gamma": 0.5,
        "gae_lambda": 0.5, "clip_range": 1e-6, "evaluation_every": 30, "evaluation_episodes": 3,
        "classical": ant.Classical(pi=(8,), vf=(9,)), "quantum": ant.Quantum(2, 3),
    }  # fmt: skip
    base = ANT if field == "friction_period" else TINY
    _, _, config = cli.parse(EXPERIMENT, base)
    changed = dataclasses.replace(config, **{field: other[field]})
    assert first_rows(config) != first_rows(changed)


@pytest.mark.filterwarnings("ignore:You are trying to run PPO on the GPU:UserWarning")
@pytest.mark.parametrize("network", NETWORKS)
def test_policy_is_on_the_device_of_the_config(network: str) -> None:
    _, _, config = cli.parse(EXPERIMENT, TINY)
    object.__setattr__(config, "device", "meta")  # every machine has it; no option may name it
    env = policies.Environments(config, 0).training()
    model = policies.make_model(config, network, env)
    tensors = [*model.policy.parameters(), *model.policy.buffers()]
    assert {tensor.device.type for tensor in tensors} == {model.device.type} == {"meta"}


def test_threads_of_the_config_are_torchs_while_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    train, seen = PPO.train, []

    def noting(self: PPO) -> None:
        seen.append(torch.get_num_threads())
        train(self)

    monkeypatch.setattr(PPO, "train", noting)
    for threads in ("3", "1"):
        run(*TINY, "--total-steps=48", "--networks=classical", f"--threads={threads}")
    assert seen == [3, 1]


@functools.cache
def first_rows(config: Config) -> Any:
    rows = [config.all_steps]
    for network in NETWORKS:
        with contextlib.closing(
            policies.PolicyArm(config, policies.Environments(config, 0), network)
        ) as arm:
            of_arm = arm.rows(0, lambda steps: None)
            rows.append([next(of_arm) for _ in range(3)])
    return rows


def test_tensorboard_gets_the_numbers_of_all_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    append, calls = ArmRecord.append, []

    def interrupted(self: ArmRecord, row: Any, state: Any) -> None:
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        append(self, row, state)

    monkeypatch.setattr(ArmRecord, "append", interrupted)
    arguments = (*TINY, "--networks=quantum", "--tensorboard")
    assert run(*arguments) == 130
    assert run(*arguments) == 0
    folder = folder_of(*arguments)
    log = loader.EventAccumulator(str(folder / "quantum/tensorboard"))
    log.Reload()
    rows = rows_of(folder, "quantum")
    for name in ("return", "approx_kl", "angle_norm", "evaluation_return"):
        logged = [(event.step, event.value) for event in log.Scalars(name)]
        expected = [(row["step"], pytest.approx(row[name])) for row in rows if name in row]
        assert logged == expected


def test_without_tensorboard_it_says_what_to_install(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert run(*TINY, "--tensorboard") == 1
    assert capsys.readouterr().err.endswith("pip install tensorboard\n")


def test_environment_without_version_is_the_latest() -> None:
    _, options, config = cli.parse(EXPERIMENT, ["--env=Pendulum", "--env-processes=0"])
    with pytest.warns(UserWarning, match="Using the latest versioned environment") as warned:
        environments = EXPERIMENT.load(config, options)
    environments.training()  # warnings would be errors
    assert len(warned) == 1
    identified = EXPERIMENT.identify(config, environments)
    assert identified == dataclasses.asdict(config) | {"env": "Pendulum-v1"}
    _, options, config = cli.parse(EXPERIMENT, TINY)
    identified = EXPERIMENT.identify(config, EXPERIMENT.load(config, options))
    assert identified["env"] == "tests.short:ShortPendulum-v0"


# -------------------------------------------------------------------------------------- friction
def test_friction_changes_in_training_and_is_that_of_the_evaluation() -> None:
    _, _, config = cli.parse(EXPERIMENT, (*ANT, "--friction-period=96", "--n-steps=32"))
    environments = policies.Environments(config, 0)
    with contextlib.closing(policies.PolicyArm(config, environments, "classical")) as arm:
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
    _, _, config = cli.parse(EXPERIMENT, (*ANT, "--friction-period=96"))
    environments = policies.Environments(config, 0)
    with contextlib.closing(policies.PolicyArm(config, environments, "classical")) as arm:
        of_arm = arm.rows(0, lambda steps: None)
        next(of_arm)
        next(of_arm)
        first = arm.evaluate(arm.model, 0)
        assert arm.evaluate(arm.model, 0) == first  # the same seed
        arm._friction = lambda: 0.02  # type: ignore[method-assign]
        assert arm.evaluate(arm.model, 0) != first


# ---------------------------------------------------------------------------------------- resume
# A process that has imported everything forks one after the other; each goes on with the run and
# kills itself before the n-th call of something. The first one has workers.
KILLED = """
import os, signal, sys
import torch
from experiments import ant
from experiments.parts import policies
from plasticity.rl.workers import Workers

def killed(owner, name, limit, arguments):
    calls, function = [], getattr(owner, name)
    def counted(*arguments, **options):
        calls.append(0)
        if len(calls) == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    child = os.fork()
    if child == 0:
        setattr(owner, name, counted)
        os._exit(ant.main(arguments))
    return os.waitpid(child, 0)[1] == signal.SIGKILL

for moment in (
    (Workers, "step_wait", 40, [*sys.argv[1:], "--env-processes=2"]),
    (torch.optim.Adam, "step", 30, sys.argv[1:]),
    (os, "replace", 8, sys.argv[1:]),
    (os, "fsync", 16, sys.argv[1:]),
):
    print("killed:", killed(*moment))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_run_killed_in_the_midst_of_anything_ends_like_an_uninterrupted_one() -> None:
    arguments = (*ANT, "--friction-period=150")
    assert run(*arguments, "--results=whole") == 0
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("killed: True") == 4, done.stderr
    folder = folder_of(*arguments)
    assert 0 < len(rows_of(folder, "quantum")) < 5
    assert run(*arguments) == 0
    assert results(folder) == results(folder_of(*arguments, "--results=whole"))


@pytest.mark.parametrize("stop", range(1, 10, 2))
def test_run_interrupted_in_an_update_ends_like_an_uninterrupted_one(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys, stop: int
) -> None:
    train, calls = PPO.train, []

    def interrupted(self: PPO) -> None:
        calls.append(0)
        if len(calls) == stop:
            raise KeyboardInterrupt
        train(self)

    monkeypatch.setattr(PPO, "train", interrupted)
    assert run(*TINY) == (130 if stop <= 8 else 0)
    assert run(*TINY) == 0
    assert results(folder_of(*TINY)) == results(trained)
    said = capsys.readouterr()
    assert ("the same command goes on" in said.err) == (stop <= 8)


# ---------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["--env=Ant-v77"], 2, "--env Ant-v77"),
        (["--env=CartPole-v1"], 2, "actions are Discrete"),
        (["--env=nonsense:Ant-v4"], 2, "--env nonsense:Ant-v4: No module named"),
        (["--env=FrozenLake-v1"], 2, "--env FrozenLake-v1"),
        (["--env=Pendulum-v1", "--friction-period=64"], 2, "MuJoCo"),
        (["--friction-period=2"], 2, "--friction-period 2"),
        (["--quantum.num-qubits=4"], 2, "num_qubits must be at least 5"),
        (["--quantum.num-qubits=1"], 2, "--quantum.num-qubits 1"),
        (["--batch-size=7"], 2, "--batch-size 7: must divide the 96"),
        (["--total-steps=0"], 2, "--total-steps 0"),
        (["--gamma=1.5"], 2, "--gamma 1.5"),
        (["--classical.pi=0"], 2, "--classical.pi"),
        (["--env-processes=-1"], 2, "--env-processes -1"),
        (["--networks=mlp"], 2, "--networks mlp"),
        (["--total-step=5"], 2, "did you mean --total-steps"),
        (["--classical.learning-rate=2e9"], 1, "not finite"),
    ],
)
def test_wrong_use_is_told_in_a_line_or_two(capsys, arguments, status, part) -> None:
    base = [word for word in ANT if word.partition("=")[0] != arguments[0].partition("=")[0]]
    assert run(*base, *arguments) == status
    said = capsys.readouterr().err
    error = said[said.index("error:") :]
    assert part in error
    assert len(error.splitlines()) <= 2


def test_run_in_which_no_episode_ends_is_exported_and_drawn() -> None:
    arguments = (*TINY, "--env=Pendulum-v1", "--total-steps=48")
    assert run(*arguments) == 0
    assert np.load(folder_of(*arguments) / EXPORTS["quantum"][0]).shape == (2, 0)
    assert (folder_of(*arguments) / "figure.png").exists()


def test_killed_worker_is_told_and_the_run_goes_on(trained: Path, capsys, monkeypatch) -> None:
    arguments = (*TINY, "--networks=quantum")
    append = ArmRecord.append

    def killing(self: ArmRecord, row: Any, state: Any) -> None:
        append(self, row, state)
        if row["update"] == 2:
            for process in multiprocessing.active_children():
                process.kill()

    with monkeypatch.context() as patch:
        patch.setattr(ArmRecord, "append", killing)
        assert run(*arguments, "--env-processes=2") == 1
    error = capsys.readouterr().err
    error = error[error.index("error:") :]
    assert "worker processes have ended" in error
    assert len(error.splitlines()) == 2
    assert run(*arguments) == 0
    rows = rows_of(folder_of(*arguments), "quantum")
    assert rows == rows_of(trained, "quantum")


def test_environment_that_cannot_be_saved_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(make: Any) -> None:
        raise ValueError("step 3 differs")

    monkeypatch.setattr(policies, "check_resumable", refuse)
    with policy_arm(QUICK, "classical") as arm:
        assert "step 3 differs" in arm.remark
        assert "not bit for bit" in arm.remark


# ----------------------------------------------------------------------------- figures and videos
def test_figures_draws_a_run_again(trained: Path) -> None:
    assert figures.main([str(trained), "again.png"]) == 0
    assert Path("again.png").read_bytes() == (trained / "figure.png").read_bytes()


def test_figure_has_an_interval_where_there_are_several_episodes() -> None:
    samples = [1.0, 2.0, 4.0, 9.0]
    # Student's t for 3 degrees of freedom, 95 %, from a table.
    half = 3.182 * np.std(samples, ddof=1) / 2
    assert figures.half_interval(samples) == pytest.approx(half, rel=1e-3)
    assert figures.half_interval([3.0]) == 0


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let environments render without a renderer, and collect what was asked for."""
    made = []
    make = policies.make_gymnasium

    def drawing(name: str, **options: Any) -> Any:
        env = make(name)
        if options.get("render_mode") == "rgb_array":
            made.append(env)
            env.render = lambda: np.full((64, 64, 3), len(made), np.uint8)
        return env

    monkeypatch.setattr(watch, "make_gymnasium", drawing)
    return made


@pytest.fixture(scope="module")
def slippery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run on changing floors."""
    results = tmp_path_factory.mktemp("slippery") / "results"
    arguments = (*ANT, "--friction-period=96", "--networks", "quantum", f"--results={results}")
    assert run(*arguments) == 0
    return folder_of(*arguments)


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_watch_writes_an_episode_of_a_saved_policy(
    slippery: Path, capsys, drawn: list[Any], name: str
) -> None:
    assert run("--watch", str(slippery), name, "--env=tests.short:ShortAnt-v0") == 0
    said = capsys.readouterr().out
    assert "quantum, best policy: return" in said
    if name.endswith("mp4"):
        count, seconds = imageio_ffmpeg.count_frames_and_secs(name)
        assert f"in {count} steps" in said
        assert seconds == pytest.approx(count / drawn[0].metadata["render_fps"], rel=0.1)
    else:
        assert imageio.v3.improps(name, plugin="pillow").shape[-3:] == (64, 64, 3)
    evaluated = [row for row in rows_of(slippery, "quantum") if "evaluation_return" in row]
    friction = max(evaluated, key=lambda row: row["evaluation_return"])["friction"]
    assert set(drawn[0].unwrapped.model.geom_friction[:, 0]) == {friction}


def test_watch_plays_the_policy_that_was_saved(trained: Path, drawn: list[Any]) -> None:
    for network in NETWORKS:
        file = trained / f"{network}_last_policy.zip"
        config = watch.read_config(trained / "config.json")
        assert config == cli.parse(EXPERIMENT, TINY)[2]
        model = watch.load_policy(config, file, network)
        env = watch.make_rendered(config.env, None)
        steps, total = watch.write_episode(env, model, Path("out.mp4"), seed=3)
        env = policies.make_gymnasium(config.env)
        policy = PPO.load(file, device="cpu")
        observation, _ = env.reset(seed=policies.seed_for(3, "watch"))
        expected = 0.0
        for _ in range(steps):
            action, _ = policy.predict(observation, deterministic=True)
            observation, reward, *_ = env.step(action)
            expected += float(reward)
        assert steps == 20
        assert total == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["gone", "out.mp4"], 1, "gone/quantum_best_policy.zip: no such file"),
        (["run", "out.avi"], 2, "an .mp4 or a .gif"),
        (["run"], 2, "--watch"),
        (["run", "gone/out.mp4"], 1, "gone/out.mp4"),
        (["run", "out.mp4", "--network=classical"], 1, "classical_best_policy.zip: no such file"),
        (["run", "out.mp4", "--policy=last"], 1, "not a policy of this run"),
        (["run", "out.mp4", "--netwrk=classical"], 2, "--netwrk"),
    ],
)
def test_watch_names_what_is_wrong(
    capsys, copied: Path, drawn: list[Any], arguments, status, part
) -> None:
    Path("run").symlink_to(copied)
    (copied / "classical_best_policy.zip").unlink()
    (copied / "quantum_last_policy.zip").write_bytes(b"nothing")
    assert run("--watch", *arguments, "--env=tests.short:ShortPendulum-v0") == status
    said = capsys.readouterr().err
    error = said[said.index("error:") :]
    assert part in error
    assert len(error.splitlines()) <= 2


def test_watch_has_help(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        run("--watch", "--help")
    assert not stop.value.code
    assert "--policy {best,last}" in capsys.readouterr().out


def test_watch_says_where_nothing_renders(
    trained: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_renderer(name: str, **options: Any) -> Any:
        raise RuntimeError("no display\nand more")

    monkeypatch.setattr(watch, "make_gymnasium", no_renderer)
    env = "--env=tests.short:ShortPendulum-v0"
    assert run("--watch", str(trained), "out.mp4", env) == 1
    said = capsys.readouterr().err
    assert "cannot be rendered here (no display)" in said
    assert not Path("out.mp4").exists()


# --------------------------------------------------------------------------------------- bench
class Ticking:
    """Stands for the module `time`: every reading of the clock is a second later."""

    now = 0

    def perf_counter(self) -> int:
        self.now += 1
        return self.now


def test_bench_says_where_the_time_goes(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_ppo, "time", Ticking())
    # 16 processes take long to start.
    monkeypatch.setattr("stable_baselines3.common.vec_env.SubprocVecEnv", DummyVecEnv)
    monkeypatch.setattr(policies.joblib, "cpu_count", lambda: 1)
    arguments = ["--env=tests.short:ShortPendulum-v0", "--n-steps=8", "--rounds=2"]
    assert bench_ppo.main(arguments) == 0
    *_, header, quantum, classical, dummy, subproc = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["steps/s", "environments"]
    # An update has 21 seconds: its rollout 17, of which its 8 steps have one each, its training 1.
    for line in (quantum, classical, dummy, subproc):
        rate, *shares, ratio = line[36:].split()
        assert float(rate) == round(8 * 16 / 21)
        assert shares == ["38%", "43%", "5%"]
        assert ratio == "1.00x"


@pytest.mark.parametrize("option", ["--rounds=0", "--n-steps=0", "--threads=0", "--round=1"])
def test_bench_refuses_wrong_use(capsys, option: str) -> None:
    assert bench_ppo.main([option]) == 2
    assert option.partition("=")[0] in capsys.readouterr().err
