"""The benchmark of PPO as its user runs it."""

import contextlib
import dataclasses

import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("mujoco")
pytest.importorskip("stable_baselines3")

from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

from experiments import bench_ppo
from experiments.ant import RELEASED
from plasticity.rl import trainer as policies
from plasticity.rl.features import QuantumFeatures

pytestmark = pytest.mark.usefixtures("empty_folder")


class Ticking:
    """Stands for the module `time`: every reading of the clock is a second later."""

    now = 0

    def perf_counter(self) -> int:
        self.now += 1
        return self.now


@pytest.mark.slow
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


def test_bench_times_the_released_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies.joblib, "cpu_count", lambda: 1)
    config = dataclasses.replace(RELEASED.config, env="Pendulum-v1", n_steps=8)
    with contextlib.ExitStack() as environments:
        for name, kind in (("mlp", FlattenExtractor), ("qnn", QuantumFeatures)):
            model = bench_ppo.ours(config, name).model
            environments.enter_context(contextlib.closing(model.get_env()))
            assert type(model.policy.features_extractor) is kind
            arm = RELEASED.arms[name]
            assert model.learning_rate == arm.optimizer.learning_rate
            assert model.n_epochs == arm.epochs == 10


@pytest.mark.parametrize("option", ["--rounds=0", "--n-steps=0", "--threads=0", "--round=1"])
def test_bench_refuses_wrong_use(capsys, option: str) -> None:
    assert bench_ppo.main([option]) == 2
    assert option.partition("=")[0] in capsys.readouterr().err
