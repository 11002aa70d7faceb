"""Environments in a few processes: DummyVecEnv's numbers and answers, failures, and the end."""

import multiprocessing
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from plasticity.rl.workers import Workers
from tests.rl.test_environments import action_at, make
from tests.waiting import PATIENCE, wait_until

pytestmark = [
    pytest.mark.filterwarnings(
        r"ignore:.*The environment Ant-v4 is out of date:DeprecationWarning"
    ),
    pytest.mark.processes,
]
# Workers are forked from a process that has imported these, instead of importing them in seconds.
multiprocessing.set_forkserver_preload(["plasticity.rl.workers", "plasticity.rl.environments"])

NUM_ENVS = 5


class Telling(gymnasium.Wrapper):
    """Tells of every reset in its info."""

    resets = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.resets += 1
        return observation, info | {"resets": self.resets, "seed": seed, "options": options}


class Counter(gymnasium.Env):
    """Counts its steps, and breaks or dawdles when it is told to."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self, number: int, broken: bool = False, sign: pathlib.Path | None = None) -> None:
        self.number = number
        self.sign = sign
        self.steps = 0
        self.broken = broken
        self.pause = 0.0
        self.extra: Any = 0
        self.interrupts: tuple[int, pathlib.Path] | None = None
        self.check()

    def check(self) -> None:
        if self.broken:
            raise ValueError(f"leg of {self.number} broke")

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        if options and "fail" in options:
            raise ValueError(f"reset of {self.number} fails")
        self.steps = 0
        return np.array([self.number, 0.0]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        if self.interrupts is not None:  # a process, by Ctrl-C, once there is a file
            pid, file = self.interrupts
            wait_until(file.exists)
            os.kill(pid, signal.SIGINT)
        time.sleep(self.pause)
        self.check()
        self.steps += 1
        return np.array([self.number, self.steps], float), self.number / 3, False, False, {}

    def close(self) -> None:
        if self.sign is not None:
            self.sign.touch()

    def total(self, a: int, b: int = 0, *, name: str = "", worker: int = 0) -> tuple[Any, ...]:
        return self.number + a + b, name, worker

    def tell(self, **orders: Any) -> None:
        vars(self).update(orders)

    def pid(self) -> int:
        return os.getpid()

    def local_function(self) -> Any:
        return lambda: self.number


class Marked(Counter):
    """A counter with one attribute more."""

    mark = 1


def counter_makers() -> list[Callable[[], gymnasium.Env]]:
    makers: list[Callable[[], gymnasium.Env]] = [partial(Counter, i) for i in range(NUM_ENVS)]
    makers[1], makers[4] = (lambda i=i: Monitor(Marked(i)) for i in (1, 4))
    return makers


@pytest.fixture
def counters() -> Iterator[Workers]:
    """Five environments in three processes: 0 and 1, 2 and 3, 4."""
    env = Workers(counter_makers(), 3)
    env.reset()
    yield env
    env.close()


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[DummyVecEnv, Workers]]:
    """The same in this process and in three; tests leave both alike."""
    env = Workers(counter_makers(), 3)
    yield DummyVecEnv(counter_makers()), env
    env.close()


def exact(value: Any) -> Any:
    """Turn a value into one that equals only the very same one; Monitor's clock is left out."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items() if key != "t"}
    if isinstance(value, list | tuple):
        return [exact(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return type(value), value.dtype.str, value.shape, value.tobytes()
    return type(value), repr(value)


def play(env: VecEnv, steps: range) -> list[Any]:
    rows = []
    for step in steps:
        actions = [action_at(1000 * i + step, env.action_space) for i in range(env.num_envs)]
        rows.append(exact([*env.step(np.stack(actions)), env.reset_infos]))
    return rows


def history(env: VecEnv, options: list[dict[str, Any]]) -> list[Any]:
    env.seed(7)
    rows = [exact([env.reset(), env.reset_infos]), *play(env, range(25))]
    env.set_options(options)
    rows += [exact([env.reset(), env.reset_infos]), *play(env, range(25, 30))]
    rows += [exact([env.reset(), env.reset_infos]), *play(env, range(30, 35))]
    env.seed(8)
    env.set_options(options[0])
    return [*rows, exact([env.reset(), env.reset_infos]), *play(env, range(35, 40))]


def told(name: str, limit: int, period: int = 0) -> gymnasium.Env:
    return Telling(make(name, limit=limit, period=period))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # it has just ended, or there is no /proc
        return not pathlib.Path("/proc/self").exists()
    return state != "Z"  # ended, but nobody has asked for its status


def wait_for_end(pids: list[int]) -> None:
    wait_until(lambda: not any(alive(pid) for pid in pids))


# ------------------------------------------------------------------------------------- the numbers
@pytest.mark.parametrize("num_processes", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Pendulum-v1", [{"x_init": 0.1 * i, "y_init": 0.2} if i else {} for i in range(5)]),
        ("CartPole-v1", [{"low": -0.01 * i, "high": 0.02} for i in range(5)]),
    ],
)
def test_all_outputs_are_those_of_dummy_vec_env(name, options, num_processes):
    makers = [partial(told, name, 6 + i) for i in range(NUM_ENVS)]
    expected = history(DummyVecEnv(makers), options)
    env = Workers(makers, num_processes)
    try:
        assert history(env, options) == expected
    finally:
        env.close()
    text = repr(expected)
    for word in ("terminal_observation", "TimeLimit.truncated", "episode", "'<f4'", "resets"):
        assert word in text


def test_ant_on_changing_floors_is_that_of_dummy_vec_env():
    makers = [partial(told, "Ant-v4", 9 + i, 7) for i in range(3)]
    expected = history(DummyVecEnv(makers), [{}] * 3)
    env = Workers(makers, 2)
    try:
        assert history(env, [{}] * 3) == expected
    finally:
        env.close()


def test_random_seeds_are_drawn_as_dummy_vec_env_draws_them(pair):
    def drawn(env: VecEnv) -> list[Any]:
        np.random.seed(5)  # noqa: NPY002
        return list(env.seed())

    here, there = pair
    assert drawn(there) == drawn(here)


def test_results_of_a_step_are_the_caller_s_own(counters):
    first = counters.step(np.zeros(NUM_ENVS, int))
    before = exact(first)
    counters.step(np.zeros(NUM_ENVS, int))
    assert exact(first) == before
    assert all(array.flags.writeable for array in first[:3])


@pytest.mark.parametrize("period", [0, 9])
def test_state_goes_to_dummy_vec_env_and_back(period):
    makers = [partial(make, "Ant-v4", limit=12 + i, period=period) for i in range(3)]
    there, here = Workers(makers, 2), DummyVecEnv(makers)
    try:
        there.seed(1)
        there.reset()
        play(there, range(20))
        here.reset_infos = there.reset_infos
        for i, state in enumerate(there.env_method("get_state")):
            here.env_method("set_state", state, indices=i)
        expected = play(there, range(20, 45))
        assert play(here, range(20, 45)) == expected
        assert play(there, range(45, 60)) != expected[:15]
        states = here.env_method("get_state")
        for i in (2, 0, 1):
            there.env_method("set_state", states[i], indices=i)
        assert play(there, range(45, 60)) == play(here, range(45, 60))
    finally:
        there.close()


def test_ppo_learns_the_same_parameters():
    makers = [partial(make, "CartPole-v1", limit=10 + i) for i in range(NUM_ENVS)]

    def parameters(env: VecEnv) -> tuple[dict[str, torch.Tensor], list[Any]]:
        model = PPO("MlpPolicy", env, n_steps=16, batch_size=20, n_epochs=2, seed=3, device="cpu")
        untrained = {k: v.clone() for k, v in model.policy.state_dict().items()}
        model.learn(3 * 16 * NUM_ENVS)
        learned = model.policy.state_dict()
        assert not all(torch.equal(untrained[k], v) for k, v in learned.items())
        assert model.ep_info_buffer is not None
        return learned, [exact(episode) for episode in model.ep_info_buffer]

    expected, episodes = parameters(DummyVecEnv(makers))
    env = Workers(makers, 2)
    try:
        got = parameters(env)
    finally:
        env.close()
    assert got[1] == episodes and episodes
    assert all(torch.equal(got[0][name], value) for name, value in expected.items())


# --------------------------------------------------------------------- calls of single environments
INDICES: list[Any] = [
    None, 2, 0, -1, -5, [3, 0], [4, 1, 0, 3], (2,), [-1, 0, -3], [1, 3, 1, 1], range(4, 1, -2), [],
    [np.int64(4), np.int32(0)], np.array([2, 0]), True, [True, False],
]  # fmt: skip


@pytest.mark.parametrize("indices", INDICES, ids=repr)
def test_answers_come_from_the_environments_asked_in_the_order_asked(pair, indices):
    here, there = pair
    for call in [
        lambda env: env.get_attr("number", indices),
        lambda env: env.env_method("total", 10, b=5, indices=indices),
        lambda env: env.env_is_wrapped(Monitor, indices),
        lambda env: env.set_attr("extra", [1], indices),
        lambda env: env.get_attr("extra"),
        lambda env: env.set_attr("extra", 0),
        lambda env: env.get_attr("extra"),
    ]:
        assert call(there) == call(here)


def test_single_numpy_integer_is_an_index(pair):
    for kind in (np.int64, np.int32, np.uint8):
        assert pair[1].get_attr("number", kind(3)) == [3]
    assert pair[1].env_method("total", 1, indices=np.int64(-1)) == [(5, "", 0)]


def test_index_out_of_range_is_refused_before_anything_is_done(pair):
    for env in pair:
        for indices in (5, -6, [7]):
            with pytest.raises(IndexError, match="list index out of range"):
                env.get_attr("number", indices)
    with pytest.raises(IndexError):
        pair[1].set_attr("steps", 99, [0, 5])
    assert 99 not in pair[1].get_attr("steps")


def test_arguments_may_have_any_name(pair):
    here, there = pair
    calls = [env.env_method("total", 1, 2, name="n", worker=4, indices=[3]) for env in pair]
    assert calls == [[(6, "n", 4)]] * 2
    assert there.get_attr("action_space") == here.get_attr("action_space")


def test_has_attr_asks_all_environments(pair):
    for name, expected in [("number", True), ("mark", False), ("nothing", False)]:
        assert [env.has_attr(name) for env in pair] == [expected] * 2


def test_neighbors_share_processes_as_evenly_as_can_be(pair):
    pids = pair[1].env_method("pid")
    assert [pids.index(pid) for pid in pids] == [0, 0, 2, 2, 4]
    assert os.getpid() not in pids


def test_local_functions_make_environments_and_their_number_is_checked():
    offset = 10
    makers: list[Callable[[], gymnasium.Env]] = [lambda i=i: Counter(offset + i) for i in range(2)]
    env = Workers(makers, 2)
    assert env.get_attr("number") == [10, 11]
    env.close()
    for num_processes in (0, 3, -1):
        with pytest.raises(ValueError, match=f"must be 1 to 2, not {num_processes}"):
            Workers(makers, num_processes)


# ---------------------------------------------------------------------------------------- failures
def check_intact(env: Workers) -> None:
    assert env.get_attr("number") == list(range(NUM_ENVS))
    assert env.reset().tolist() == [[i, 0] for i in range(NUM_ENVS)]
    observations, rewards, *_ = env.step(np.zeros(NUM_ENVS, int))
    assert observations.tolist() == [[i, 1] for i in range(NUM_ENVS)]
    assert np.array_equal(rewards, np.float32(np.arange(NUM_ENVS) / 3))


def test_failed_constructor_reaches_the_caller_and_leaves_no_process():
    before = set(multiprocessing.active_children())
    makers = [partial(Counter, i, broken=i == 3) for i in range(NUM_ENVS)]
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*ValueError: leg of 3 broke"):
        Workers(makers, 2)
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize("broken", [[0], [4], [2, 1], [0, 1, 2, 3, 4]], ids=repr)
def test_failed_step_reaches_the_caller_and_leaves_no_answer_behind(counters, broken):
    counters.env_method("tell", broken=True, indices=broken)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"ValueError: leg of {min(broken)} broke"):
            counters.step(np.zeros(NUM_ENVS, int))
    counters.env_method("tell", broken=False)
    check_intact(counters)


def test_failed_call_reaches_the_caller_and_leaves_no_answer_behind(counters):
    counters.env_method("tell", broken=True, indices=[1, 2])
    with pytest.raises(RuntimeError, match="ValueError: leg of 2 broke"):
        counters.env_method("check", indices=[4, 2, 0])
    with pytest.raises(RuntimeError, match="'nothing'"):
        counters.get_attr("nothing")
    counters.env_method("tell", broken=False)
    check_intact(counters)


def test_failed_reset_keeps_seeds_and_leaves_no_answer_behind(counters):
    counters.seed(3)
    counters.set_options([{}, {}, {}, {"fail": True}, {}])
    with pytest.raises(RuntimeError, match="ValueError: reset of 3 fails"):
        counters.reset()
    assert counters._seeds == [3, 4, 5, 6, 7]
    counters.set_options()
    check_intact(counters)


def test_what_cannot_be_pickled_does_no_harm(counters):
    with pytest.raises(RuntimeError, match=r"(?s)pickle.*local_function"):
        counters.env_method("local_function")
    with pytest.raises((AttributeError, pickle.PicklingError)):
        counters.set_attr("extra", lambda: 0)
    counters.set_options([{}, {}, {}, {}, {"function": lambda: 0}])
    with pytest.raises((AttributeError, pickle.PicklingError)):
        counters.reset()
    counters.set_options()
    check_intact(counters)


def test_other_calls_wait_for_the_end_of_a_step(counters):
    counters.step_async(np.zeros(NUM_ENVS, int))
    for call in (partial(counters.get_attr, "number"), partial(counters.step_async, [0] * 5)):
        with pytest.raises(RuntimeError, match="in a step: step_wait comes first"):
            call()
    assert counters.step_wait()[0].tolist() == [[i, 1] for i in range(NUM_ENVS)]
    counters.step_async(np.zeros(NUM_ENVS, int))
    assert counters.reset().tolist() == [[i, 0] for i in range(NUM_ENVS)]
    check_intact(counters)


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("i", [0, 4])
def test_killed_worker_is_an_error_that_says_so(counters, i, busy):
    pids = counters.env_method("pid")
    counters.env_method("tell", pause=PATIENCE if busy else 0, indices=i)
    if busy:
        counters.step_async(np.zeros(NUM_ENVS, int))
    os.kill(pids[i], signal.SIGKILL)
    ended = rf"worker processes have ended: .*{pids[i]} \(status -9\)"
    with pytest.raises(RuntimeError, match=ended):
        counters.step_wait() if busy else counters.step(np.zeros(NUM_ENVS, int))
    with pytest.raises(RuntimeError, match=ended):
        counters.reset()
    wait_for_end(pids)


# ----------------------------------------------------------------------------------------- the end
def test_close_ends_environments_and_processes_and_may_come_twice(tmp_path):
    env = Workers([partial(Counter, i, sign=tmp_path / str(i)) for i in range(NUM_ENVS)], 3)
    pids = env.env_method("pid")
    env.step_async(np.zeros(NUM_ENVS, int))
    env.close()
    assert not any(alive(pid) for pid in pids)
    assert sorted(path.name for path in tmp_path.iterdir()) == list("01234")
    env.close()
    with pytest.raises(RuntimeError, match=rf"have ended: {pids[0]} \(status 0\), "):
        env.get_attr("number")


def test_close_does_not_wait_for_the_end_of_a_step(counters, monkeypatch):
    monkeypatch.setattr("plasticity.rl.workers._PATIENCE", 0.3)
    pids = counters.env_method("pid")
    counters.env_method("tell", pause=PATIENCE)
    counters.step_async(np.zeros(NUM_ENVS, int))
    counters.close()
    # Killed, all of them; had they come to the end of the step, the status would be 0.
    assert [process.exitcode for process in counters._processes] == [-signal.SIGKILL] * 3
    assert not any(alive(pid) for pid in pids)


@pytest.mark.usefixtures("interruptible")
def test_interrupted_step_ends_the_processes(counters, monkeypatch, tmp_path):
    monkeypatch.setattr("plasticity.rl.workers._PATIENCE", 0.3)
    pids = counters.env_method("pid")
    waiting = tmp_path / "the step is waited for"
    counters.env_method("tell", interrupts=(os.getpid(), waiting), pause=PATIENCE, indices=3)
    pipe = counters._pipes[0]
    receive = pipe.recv_bytes
    monkeypatch.setattr(pipe, "recv_bytes", lambda: (waiting.touch(), receive())[1])
    with pytest.raises(KeyboardInterrupt):
        counters.step(np.zeros(NUM_ENVS, int))
    assert not any(alive(pid) for pid in pids)
    with pytest.raises(RuntimeError, match="worker processes have ended"):
        counters.get_attr("number")


def test_processes_end_when_nobody_holds_them():
    env = Workers(counter_makers(), 2)
    pids = env.env_method("pid")
    del env
    wait_for_end(pids)


@pytest.mark.slow
def test_workers_are_silent_at_ctrl_c_and_end_with_their_parent():
    code = (
        "import numpy as np, signal, time\n"
        "from tests.rl.test_workers import Workers, counter_makers\n"
        "if __name__ == '__main__':\n"
        # A shell starts background jobs with Ctrl-C ignored, and so their children.
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    env = Workers(counter_makers(), 3)\n"
        "    env.reset()\n"
        "    try:\n"
        "        print(*set(env.env_method('pid')), flush=True)\n"
        f"        for _ in range({100 * PATIENCE:.0f}):\n"
        "            time.sleep(0.01)\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted', env.get_attr('number'), flush=True)\n"
        "    while True:\n"
        "        env.step(np.zeros(5, int))\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as parent:
        try:
            assert parent.stdout is not None and parent.stderr is not None
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(pids) == 3 and all(alive(pid) for pid in pids)
            os.killpg(parent.pid, signal.SIGINT)
            assert parent.stdout.readline() == "interrupted [0, 1, 2, 3, 4]\n"
            assert all(alive(pid) for pid in pids)
        finally:
            parent.kill()
        wait_for_end(pids)
        assert parent.stderr.read() == ""
