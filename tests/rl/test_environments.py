"""Environments that continue bit for bit, and friction that changes."""

import io
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("mujoco")
pytest.importorskip("stable_baselines3")

import gymnasium
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from plasticity.rl.environments import Resumable, Slippery, check_resumable

pytestmark = pytest.mark.filterwarnings(
    r"ignore:.*The environment Ant-v4 is out of date:DeprecationWarning"
)

IDS = ["Pendulum-v1", "CartPole-v1", "Ant-v4"]


def make(name: str, limit: int = 30, period: int = 0, **kwargs: Any) -> Resumable:
    """Make an environment with short episodes; a period above 0 changes its friction."""
    env = gymnasium.make(name, max_episode_steps=limit, **kwargs)
    return Resumable(Monitor(Slippery(env, period, seed=5) if period else env))


def action_at(step: int, space: spaces.Space) -> Any:
    generator = np.random.default_rng(step)
    if isinstance(space, spaces.Discrete):
        return int(generator.integers(space.n))
    assert isinstance(space, spaces.Box)
    return generator.uniform(space.low, space.high).astype(np.float32)


def play(env: gymnasium.Env, steps: range) -> list[Any]:
    """Step through, resetting where episodes end, and record all that comes out."""
    rows: list[Any] = []
    for step in steps:
        observation, reward, terminated, truncated, info = env.step(
            action_at(step, env.action_space)
        )
        episode = {key: info["episode"][key] for key in "rl"} if "episode" in info else None
        rows.append((observation.tobytes(), float(reward), terminated, truncated, episode))
        if terminated or truncated:
            rows.append(env.reset()[0].tobytes())
    return rows


def play_many(env: VecEnv, steps: range) -> list[Any]:
    rows: list[Any] = []
    for step in steps:
        actions = [action_at(1000 * i + step, env.action_space) for i in range(env.num_envs)]
        observations, rewards, dones, infos = env.step(np.stack(actions))
        episodes = [{k: i["episode"][k] for k in "rl"} if "episode" in i else None for i in infos]
        rewards = rewards.astype(np.float32)  # as DummyVecEnv returns them, SubprocVecEnv in double
        rows.append((observations.tobytes(), rewards.tobytes(), dones.tobytes(), episodes))
    return rows


def saved_and_loaded(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("played", [0, 17, 29, 75])
@pytest.mark.parametrize("name", IDS)
def test_fresh_environment_continues_bit_for_bit(name, played):
    env = make(name)
    env.reset(seed=3)
    play(env, range(played))
    state = saved_and_loaded(env.get_state())
    fresh = make(name)
    fresh.set_state(state)
    assert fresh.get_wrapper_attr("total_steps") == played
    steps = range(played, played + 70)
    expected = play(env, steps)
    assert play(fresh, steps) == expected
    assert any(row[-1] for row in expected if isinstance(row, tuple))  # an episode ended


@pytest.mark.parametrize("name", IDS)
def test_state_at_the_end_of_an_episode_awaits_the_same_reset(name):
    env = make(name, limit=4)
    env.reset(seed=3)
    for step in range(4):
        *_, truncated, _ = env.step(action_at(step, env.action_space))
    assert truncated
    fresh = make(name, limit=4)
    fresh.set_state(env.get_state())
    with pytest.raises(RuntimeError, match="needs reset"):
        fresh.step(action_at(0, env.action_space))
    assert np.array_equal(env.reset()[0], fresh.reset()[0])
    assert np.array_equal(env.reset()[0], fresh.reset()[0])


def test_used_environment_goes_back_to_a_state():
    env = make("Ant-v4", period=7)
    env.reset(seed=3)
    play(env, range(20))
    state = env.get_state()
    expected = play(env, range(20, 60))
    assert play(env, range(60, 80)) != expected
    env.set_state(state)
    assert play(env, range(20, 60)) == expected


def test_contact_forces_and_unstepped_observations_come_back():
    env = make("Ant-v4", use_contact_forces=True)
    env.reset(seed=3)
    step = 0
    while not env.unwrapped.contact_forces.any():
        play(env, range(step, step + 1))
        step += 1
    fresh = make("Ant-v4", use_contact_forces=True)
    fresh.set_state(env.get_state())
    assert np.array_equal(env.unwrapped._get_obs(), fresh.unwrapped._get_obs())
    assert play(fresh, range(step, 60)) == play(env, range(step, 60))


def test_simulation_comes_back_with_time_warm_start_and_contacts():
    env, fresh = make("Ant-v4", limit=200), make("Ant-v4", limit=200)
    env.reset(seed=3)
    play(env, range(2))
    while not env.unwrapped.data.ncon:
        env.step(np.zeros(8, np.float32))
    fresh.set_state(env.get_state())
    data, restored = env.unwrapped.data, fresh.unwrapped.data
    assert restored.time == data.time > 0 and restored.ncon > 0
    assert data.qacc_warmstart.any()
    assert np.array_equal(restored.qacc_warmstart, data.qacc_warmstart)


@pytest.mark.slow
def test_state_passes_between_processes_and_kinds_of_vectorized_environments():
    makers = [partial(make, "Ant-v4", limit=20 + i, period=9) for i in range(2)]
    here = DummyVecEnv(makers)
    here.seed(1)
    here.reset()
    play_many(here, range(33))
    there = SubprocVecEnv(makers, start_method="forkserver")  # fresh processes, never reset
    try:
        for i, state in enumerate(saved_and_loaded(here.env_method("get_state"))):
            there.env_method("set_state", state, indices=i)
        expected = play_many(here, range(33, 80))
        assert play_many(there, range(33, 80)) == expected
        assert any(episode for row in expected for episode in row[-1])
        back = DummyVecEnv(makers)
        for i, state in enumerate(there.env_method("get_state")):
            back.env_method("set_state", state, indices=i)
        assert play_many(back, range(80, 110)) == play_many(there, range(80, 110))
    finally:
        there.close()


def test_generators_of_spaces_come_back():
    env, fresh = make("Ant-v4"), make("Ant-v4")
    for space in (env.action_space, env.observation_space):
        space.seed(4)
        space.sample()
    fresh.set_state(env.get_state())
    assert np.array_equal(env.action_space.sample(), fresh.action_space.sample())
    assert np.array_equal(env.observation_space.sample(), fresh.observation_space.sample())


def test_generator_of_the_environment_comes_back():
    env, fresh = make("CartPole-v1"), make("CartPole-v1")
    env.reset(seed=9)
    fresh.set_state(env.get_state())
    assert (
        env.unwrapped.np_random.random(5).tolist() == fresh.unwrapped.np_random.random(5).tolist()
    )
    assert fresh.unwrapped.np_random_seed == 9


class Oddities(gymnasium.Env):
    """An environment with attributes of many kinds, or with one that cannot be saved."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self, hidden: bool = False) -> None:
        self.kinds: list[Any] = []
        self.count: Any = iter(range(10**6)) if hidden else 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        if isinstance(self.count, int):
            self.count += 1
            count = self.count
        else:
            count = next(self.count)
        return np.array([float(count)]), 0.0, False, False, {}


def test_each_kind_of_attribute_comes_back_as_it_was():
    env, fresh = Resumable(Oddities()), Resumable(Oddities())
    kinds: list[Any] = [
        None, True, -(2**127), 0.1, math.inf, "word", (), [], {}, (1, [2.0, {"a": (3,), 4: None}]),
        np.float32(0.1), np.bool_(True), np.int64(7), np.str_("x"),
        np.arange(6, dtype=np.uint16).reshape(2, 3).T, np.zeros((0, 2)), np.array(-0.0),
        np.array(["ab", "c"]), np.random.Generator(np.random.MT19937(1)),
    ]  # fmt: skip
    env.unwrapped.kinds = kinds
    fresh.set_state(saved_and_loaded(env.get_state()))
    got = fresh.unwrapped.kinds
    assert [type(value) for value in got] == [type(value) for value in kinds]
    assert repr(got[:-1]) == repr(kinds[:-1])
    assert got[-1].random() == kinds[-1].random()
    assert not np.shares_memory(got[14], kinds[14])
    got[14][0] = 9  # writable


@pytest.mark.parametrize("name", IDS)
def test_check_accepts_environments_that_can_be_resumed(name):
    check_resumable(partial(make, name))


def test_check_names_an_environment_that_cannot_be_resumed():
    check_resumable(Oddities)
    with pytest.raises(ValueError, match=r"Oddities.* cannot be resumed.*at step 0"):
        check_resumable(partial(Oddities, hidden=True))
    normalized = partial(gymnasium.make, "Pendulum-v1")
    with pytest.raises(ValueError, match="Pendulum-v1 cannot be resumed"):
        check_resumable(lambda: gymnasium.wrappers.NormalizeObservation(normalized()))
    with pytest.raises(ValueError, match="num_steps must be at least 1, not 0"):
        check_resumable(normalized, num_steps=0)


def test_monitor_s_clock_leaves_out_the_time_between(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("time.time", lambda: clock[0])
    env = make("Pendulum-v1", limit=2)
    env.reset(seed=0)
    clock[0] = 1010.0
    env.step(np.zeros(1, np.float32))
    state = env.get_state()
    clock[0] = 9000.0
    fresh = make("Pendulum-v1", limit=2)
    fresh.set_state(state)
    clock[0] = 9005.0
    *_, info = fresh.step(np.zeros(1, np.float32))
    assert info["episode"]["l"] == 2 and info["episode"]["t"] == 15.0


def test_state_of_another_environment_is_refused():
    cartpole, ant = (make(name).get_state() for name in IDS[1:])
    with pytest.raises(ValueError, match=r"the state is of Monitor of .* of CartPoleEnv, not of"):
        make("Pendulum-v1").set_state(cartpole)
    with pytest.raises(ValueError, match="not of Monitor of Slippery"):
        make("Ant-v4", period=3).set_state(ant)
    hopper = Resumable(gymnasium.make("Hopper-v5")).get_state()
    ant[-1].update({key: hopper[-1][key] for key in ("simulation", "geom_friction")})
    with pytest.raises(ValueError, match="MuJoCo model of sizes"):
        make("Ant-v4").set_state(ant)


def test_friction_is_log_uniform_and_a_function_of_the_seed():
    ant = gymnasium.make("Ant-v4")
    envs = [Slippery(ant, 1, seed) for seed in (0, 0, 1)]
    a, b, c = ([env.friction(k) for k in range(1000)] for env in envs)
    assert a == b and len(set(a + c)) == 2000
    for draws in (a, c):
        assert 0.02 <= min(draws) < 0.021 and 1.9 < max(draws) <= 2
        levels = np.sort([math.log(f / 0.02) / math.log(100) for f in draws])
        distance = np.abs(levels - (np.arange(1000) + 0.5) / 1000).max()
        assert distance < 1.63 / math.sqrt(1000)  # Kolmogorov-Smirnov, 1 percent
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.1


def test_friction_changes_on_every_geom_at_multiples_of_the_period_and_nowhere_else():
    env = Slippery(gymnasium.make("Ant-v4"), period=5, seed=2)
    stock = gymnasium.make("Ant-v4").unwrapped.model.geom_friction
    model = env.unwrapped.model
    for step in range(23):
        expected = env.friction(step // 5)
        assert env.steps == step and env.current_friction == expected
        assert (model.geom_friction[:, 0] == expected).all() and model.ngeom == 14
        assert np.array_equal(model.geom_friction[:, 1:], stock[:, 1:])
        if step % 3 == 0:
            env.reset(seed=step)
            assert (model.geom_friction[:, 0] == expected).all() and env.steps == step
        env.step(action_at(step, env.action_space))


def test_friction_comes_back_with_the_state():
    env, fresh = make("Ant-v4", period=5), make("Ant-v4", period=5)
    env.reset(seed=0)
    play(env, range(13))
    fresh.set_state(env.get_state())
    slippery = fresh.env.env
    assert slippery.steps == 13 and slippery.current_friction == slippery.friction(2)
    assert (fresh.unwrapped.model.geom_friction[:, 0] == slippery.friction(2)).all()


def test_friction_decides_the_trajectory():
    def positions(friction: float) -> np.ndarray:
        env = Slippery(gymnasium.make("Ant-v4"), period=1000, seed=0)
        env.friction = lambda k: friction
        env._set_friction()
        env.reset(seed=0)
        rows = [env.step(action_at(step, env.action_space))[0] for step in range(60)]
        return np.array(rows)

    low, again, high = positions(0.02), positions(0.02), positions(2.0)
    assert np.array_equal(low, again)
    assert np.abs(low - high).max() > 0.1


def test_wrong_input_is_refused():
    with pytest.raises(TypeError, match=r"MuJoCo model; .*Pendulum-v1.* has none"):
        Slippery(gymnasium.make("Pendulum-v1"), period=5, seed=0)
    ant = gymnasium.make("Ant-v4")
    with pytest.raises(ValueError, match="period must be at least 1 step, not 0"):
        Slippery(ant, period=0, seed=0)
    with pytest.raises(ValueError, match="seed -1"):
        Slippery(ant, period=5, seed=-1)
