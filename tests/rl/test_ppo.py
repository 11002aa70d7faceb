"""PPO as a generator of rows: what it trains, reports and evaluates, and going on from a state."""

import io
import itertools
import math
import random
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
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper

from plasticity.errors import Diverged
from plasticity.rl.checked import Checked, EnvironmentFault
from plasticity.rl.environments import Resumable, Slippery
from plasticity.rl.features import MlpFeatures, QuantumFeatures
from plasticity.rl.ppo import _GradientNorm, get_state, set_state, train_ppo

pytestmark = pytest.mark.filterwarnings(
    r"ignore:.*The environment Ant-v4 is out of date:DeprecationWarning"
)

POLICIES: dict[str, dict[str, Any]] = {
    "quantum": {
        "features_extractor_class": QuantumFeatures,
        "features_extractor_kwargs": {"num_qubits": 2, "depth": 1},
        "net_arch": {"pi": [], "vf": []},
    },
    "shared": {
        "features_extractor_class": MlpFeatures,
        "features_extractor_kwargs": {"hidden": (6, 4)},
        "net_arch": {"pi": [], "vf": []},
    },
    "mlp": {"net_arch": {"pi": [8], "vf": [6]}},
}
LIMITS = (20, 13)
ROLLOUT = 32  # steps of two environments between updates
NEVER = 10**9


def pendulum(limit: int, wrap: Callable[..., gymnasium.Env] = lambda env: env) -> Resumable:
    return Resumable(Monitor(wrap(gymnasium.make("Pendulum-v1", max_episode_steps=limit))))


def ant(limit: int) -> gymnasium.Env:
    return Monitor(gymnasium.make("Ant-v4", max_episode_steps=limit))


def slippery_ant(limit: int) -> Resumable:
    env = gymnasium.make("Ant-v4", max_episode_steps=limit)
    return Resumable(Monitor(Slippery(env, period=7, seed=5)))


def make(policy: str = "quantum", limits: tuple = LIMITS, make_env=pendulum, **settings) -> PPO:
    """Make a model with two environments whose episodes end at different steps."""
    env = DummyVecEnv([partial(make_env, limit) for limit in limits])
    settings = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 3} | settings
    settings = {"learning_rate": 0.02, "policy_kwargs": POLICIES[policy]} | settings
    return PPO("MlpPolicy", env, device="cpu", **settings)


def no_evaluation(model: PPO, update: int) -> tuple[list[float], list[int]]:
    return [0.0], [1]


def evaluator(make_env: Callable[..., gymnasium.Env] = pendulum) -> Callable[..., Any]:
    env = DummyVecEnv([partial(make_env, 9)])

    def evaluate(model: PPO, update: int) -> tuple[list[float], list[int]]:
        env.seed(update)
        returns, lengths = evaluate_policy(model, env, 2, return_episode_rewards=True)
        return [float(r) for r in returns], [int(n) for n in lengths]  # type: ignore[union-attr]

    return evaluate


def train(model: PPO, evaluate=no_evaluation, total_steps=96, evaluation_every=NEVER, **more):
    return train_ppo(
        model, evaluate, total_steps=total_steps, evaluation_every=evaluation_every, **more
    )


def parameters_of(model: PPO) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in model.policy.named_parameters()}


def plain(value: Any) -> Any:
    """Turn tensors into lists and dtypes, so that == compares all of it."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def all_of(model: PPO) -> Any:
    """Return the state less the clocks of Monitor."""
    state = get_state(model)
    state["episodes"] = [{key: e[key] for key in "rl"} for e in state["episodes"]]
    for environment in state["environments"]:
        for name in ("t_start", "episode_times"):
            del environment[0]["attributes"][name]
    return plain(state)


def saved(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def loaded(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), weights_only=True)


# ------------------------------------------------------------------------------------- training
@pytest.mark.parametrize("policy", POLICIES)
def test_training_is_that_of_plain_ppo(policy: str) -> None:
    start = parameters_of(make(policy))
    expected = all_of(make(policy).learn(96))
    for evaluation_every in (1, NEVER):  # evaluation does not disturb it
        model = make(policy)
        rows = list(train(model, evaluator(), evaluation_every=evaluation_every))
        assert len(rows) == 4
        assert all_of(model) == expected
        assert all((new != start[n]).all() for n, new in parameters_of(model).items())


def test_training_goes_on_from_a_model_that_has_learned() -> None:
    reference = make().learn(64).learn(64, reset_num_timesteps=False)
    model = make().learn(64)
    assert [row["step"] for row in train(model, total_steps=128, start=3)] == [96, 128]
    assert all_of(model) == all_of(reference)


@pytest.mark.parametrize(
    "total_steps, steps", [(0, [0]), (1, [0, 32]), (64, [0, 32, 64]), (65, [0, 32, 64, 96])]
)
def test_rows_end_with_the_first_update_at_or_after_the_total(total_steps, steps) -> None:
    told: list[int] = []
    rows = list(train(make("mlp"), total_steps=total_steps, advance=told.append))
    assert [row["step"] for row in rows] == steps
    assert [row["update"] for row in rows] == list(range(len(steps)))
    assert told == [2] * (steps[-1] // 2)
    assert list(train(make("mlp"), total_steps=total_steps, start=len(steps))) == []


@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": lambda p: 0.01 * p}, {"clip_range": lambda p: p}, {"clip_range_vf": abs}],
    ids=lambda settings: next(iter(settings)),
)
def test_schedule_is_a_clear_error(settings: dict) -> None:
    with pytest.raises(ValueError, match="rate and the clip ranges must be constants"):
        next(train(make("mlp", **settings)))


# ------------------------------------------------------------------------------------- the rows
class Records(KVWriter):
    """What stable-baselines3 logs, a dict for each time."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict, key_excluded: dict, step: int = 0) -> None:
        self.rows.append(dict(key_values))


@pytest.mark.parametrize("policy", POLICIES)
def test_columns_of_the_update_are_what_stable_baselines3_logs(policy: str) -> None:
    rows = list(train(make(policy, clip_range=0.02), total_steps=128))
    reference, records = make(policy, clip_range=0.02), Records()
    reference.set_logger(Logger(None, [records]))
    reference.learn(128)
    reference.logger.dump()  # of the last update; of the others, before the next one
    logged = records.rows[1:]
    assert len(logged) == 4 == len(rows) - 1
    keys = {
        "approx_kl": "approx_kl",
        "clip_fraction": "clip_fraction",
        "policy_loss": "policy_gradient_loss",
        "value_loss": "value_loss",
        "explained_variance": "explained_variance",
    }
    for row, log in zip(rows[1:], logged, strict=True):
        for ours, theirs in keys.items():
            assert row[ours] == float(log[f"train/{theirs}"])
        assert row["entropy"] == -float(log["train/entropy_loss"])
    assert any(0 < row["clip_fraction"] < 1 for row in rows[1:])
    # of a Gaussian at first: the mean over the two epochs is near that of standard deviation 1
    assert rows[1]["entropy"] == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=0.1)


def test_episodes_are_those_that_end_in_the_rollout() -> None:
    model = make(n_steps=4, batch_size=8)
    rows = list(train(model, total_steps=120))
    env = model.get_env()
    assert env is not None
    returns, lengths = (env.env_method(f"get_episode_{what}") for what in ("rewards", "lengths"))
    episodes = sorted(
        (2 * end, i, r, n)
        for i in range(2)
        for end, r, n in zip(np.cumsum(lengths[i]), returns[i], lengths[i], strict=True)
    )
    assert len(episodes) == 3 + 4
    ended = ("episode_steps", "episode_returns", "episode_lengths")
    assert not {*ended, "return", "episode_length"} & rows[0].keys()
    for before, row in itertools.pairwise(rows):
        here = [e for e in episodes if before["step"] < e[0] <= row["step"]]
        assert row["episode_steps"] == [e[0] for e in here]
        assert row["episode_returns"] == pytest.approx([e[2] for e in here], abs=1e-6)
        assert row["episode_lengths"] == [e[3] for e in here]
        if here:
            assert row["return"] == pytest.approx(sum(e[2] for e in here) / len(here))
            assert row["episode_length"] == sum(e[3] for e in here) / len(here)
        else:
            assert "return" not in row and "episode_length" not in row
    assert {len(row["episode_steps"]) for row in rows[1:]} >= {0, 1}


def test_episodes_that_end_together_are_all_reported() -> None:
    row = list(train(make(limits=(8, 8, 8), n_steps=16), total_steps=48))[1]
    assert row["episode_steps"] == [24] * 3 + [48] * 3
    assert row["episode_lengths"] == [8] * 6
    assert row["return"] == pytest.approx(sum(row["episode_returns"]) / 6)


@pytest.mark.parametrize(
    "largest, more", [(1e-3, {}), (1e6, {}), (0.5, {"target_kl": 1e-4})], ids=str
)
def test_gradient_norm_is_root_mean_square_of_those_before_clipping(
    largest: float, more: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def recorded(*args: Any) -> torch.Tensor:
        norm = clip(*args)
        norms.append(float(norm))
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", recorded)
    for policy in POLICIES:
        for row in train(make(policy, max_grad_norm=largest, **more)):
            if row["update"]:
                assert row["gradient_norm"] == pytest.approx(
                    math.sqrt(sum(norm**2 for norm in norms) / len(norms)), rel=1e-5
                )
                # two epochs of two minibatches, unless the policy has moved too far
                assert 1 <= len(norms) < 4 if more else len(norms) == 4
                assert more or (min(norms) > largest) == (largest < 1)
                assert more or (max(norms) > largest) == (largest < 1)
            norms.clear()


@pytest.mark.parametrize("policy", POLICIES)
def test_norms_and_largest_change_are_those_of_the_parameters(policy: str) -> None:
    model = make(policy)
    before: dict[str, np.ndarray] = {}
    for row in train(model):
        now = parameters_of(model)
        flat = np.concatenate([p.ravel() for p in now.values()]).astype(float)
        assert row["weight_norm"] == pytest.approx(np.sqrt((flat**2).sum()), rel=1e-12)
        if policy == "quantum":
            angles = now["features_extractor.qnn.angles"].astype(float)
            assert row["angle_norm"] == pytest.approx(np.sqrt((angles**2).sum()), rel=1e-12)
        else:
            assert "angle_norm" not in row
        if row["update"]:
            changes = [np.abs(now[name] - before[name]).max() for name in now]
            assert row["largest_change"] == max(changes) > 0
        else:
            assert "largest_change" not in row
        before = now


def test_constant_returns_have_no_explained_variance() -> None:
    class Worthless(gymnasium.RewardWrapper):
        def reward(self, reward):  # type: ignore[no-untyped-def]
            return 0.0

    make_env = partial(pendulum, wrap=Worthless)
    model = make("mlp", make_env=make_env, gamma=0.0)
    rows = list(train(model))
    assert all("explained_variance" not in row and "value_loss" in row for row in rows[1:])


# ----------------------------------------------------------------------------------- evaluation
@pytest.mark.parametrize("every", [1, 10, 32, 50, 64, 1000])
@pytest.mark.parametrize("total_steps", [0, 96, 110])
def test_policies_that_act_at_multiples_are_evaluated_and_so_is_the_last(
    every: int, total_steps: int
) -> None:
    acting: list[bytes] = []  # the policy that acts at each step
    evaluated: list[tuple[int, bytes]] = []
    model = make("mlp", policy_kwargs={"net_arch": [2]})

    def policy() -> bytes:
        return b"".join(p.tobytes() for p in parameters_of(model).values())

    def evaluate(given: PPO, update: int) -> tuple[list[float], list[int]]:
        assert given is model
        evaluated.append((update, policy()))
        return [1.0 * update, 4.0], [2 * update, 5]

    rows = list(
        train(
            model, evaluate, total_steps, every,
            advance=lambda steps: acting.extend([policy()] * steps),
        )
    )  # fmt: skip
    last = len(acting)
    expected: dict[bytes, int] = {}
    for multiple in range(0, last, every):
        expected.setdefault(acting[multiple], multiple)
    expected[policy()] = last
    done = [row for row in rows if "evaluation_step" in row]
    assert [(p, row["evaluation_step"]) for (_, p), row in zip(evaluated, done, strict=True)] == [
        *expected.items()
    ]
    assert done[0]["update"] == 0 and done[-1] is rows[-1]
    for (update, _), row in zip(evaluated, done, strict=True):
        assert row["update"] == update
        assert row["evaluation_returns"] == [update, 4.0]
        assert row["evaluation_lengths"] == [2 * update, 5]
        assert row["evaluation_return"] == (update + 4) / 2
        assert row["evaluation_length"] == (2 * update + 5) / 2
    for row in rows:
        assert row in done or not any(name.startswith("evaluation") for name in row)


# --------------------------------------------------------------------------------- going on
def scramble() -> None:
    """Leave the global generators as other work would."""
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    torch.randn(3), np.random.normal(size=3), random.gauss(0, 1)  # noqa: NPY002


FUSED = {"optimizer_kwargs": {"fused": True, "eps": 1e-5}}
RUNS: dict[str, dict[str, Any]] = {
    "quantum": {},
    "mlp": {"policy": "mlp", "policy_kwargs": POLICIES["mlp"] | FUSED},
    "gSDE": {"policy": "mlp", "use_sde": True, "sde_sample_freq": 3},
    "Ant, slippery": {
        "limits": (25, 11),
        "make_env": slippery_ant,
        "policy_kwargs": POLICIES["quantum"]
        | {"features_extractor_kwargs": {"num_qubits": 5, "depth": 1}},
    },
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("run", RUNS)
def test_fresh_model_goes_on_from_every_row_bit_for_bit(run: str) -> None:
    evaluate = evaluator(ant if "Ant" in run else pendulum)
    model, rows, states = make(**RUNS[run]), [], []
    for row in train(model, evaluate, total_steps=96, evaluation_every=50):
        rows.append(row)
        states.append(saved(get_state(model)))
    assert sum("evaluation_step" in row for row in rows) == 3
    for k, content in enumerate(states):
        scramble()
        fresh = make(**RUNS[run] | {"seed": 77})
        fresh_rows = train(fresh, evaluate, total_steps=96, evaluation_every=50, start=k + 1)
        set_state(fresh, loaded(content))
        assert list(fresh_rows) == rows[k + 1 :]
        assert all_of(fresh) == all_of(model)


def test_all_random_numbers_go_on() -> None:
    model = make("mlp")
    next(train(model))
    state = saved(get_state(model))

    def draws() -> list[float]:
        numpy = [np.random.normal() for _ in range(3)]  # noqa: NPY002  odd: half of a pair is kept
        return [*torch.randn(3).tolist(), *numpy, random.random(), random.gauss(0, 1)]

    expected = draws()
    scramble()
    set_state(model, loaded(state))
    assert draws() == expected


def test_statistics_of_stable_baselines3_go_on() -> None:
    model = make("mlp")
    list(train(model))
    fresh = make("mlp")
    set_state(fresh, loaded(saved(get_state(model))))
    assert model.ep_info_buffer and model.ep_info_buffer == fresh.ep_info_buffer
    assert fresh.ep_info_buffer.maxlen == model.ep_info_buffer.maxlen == 100
    assert (fresh.num_timesteps, fresh._n_updates) == (96, 6)


def test_state_in_memory_stays_as_it_was() -> None:
    model = make()
    generator = train(model)
    next(generator), next(generator)
    state = get_state(model)
    as_it_was = saved(state)
    rows = list(generator)
    for _ in range(2):
        fresh = make()
        set_state(fresh, state)
        assert list(train(fresh, start=2)) == rows
    assert plain(state) == plain(loaded(as_it_was))


def test_state_of_another_number_of_environments_is_an_error() -> None:
    model, other = make("mlp"), make("mlp", limits=(20, 20, 20))
    next(train(model))
    before = parameters_of(other)
    with pytest.raises(ValueError, match=r"^the state is of 2 environments, not of 3$"):
        set_state(other, get_state(model))
    assert all(np.array_equal(before[n], p) for n, p in parameters_of(other).items())


# ------------------------------------------------------------------------------------- failures
def spoiled(at: int, value: float, reward: bool = False) -> Callable[..., gymnasium.Env]:
    """Make a pendulum that observes ``value``, or is rewarded with it, at a step of its own."""

    class Spoiled(gymnasium.Wrapper):
        steps = 0

        def step(self, action):  # type: ignore[no-untyped-def]
            self.steps += 1
            observation, given, *rest = self.env.step(action)
            if self.steps == at and reward:
                given = value
            elif self.steps == at:
                observation = observation * value
            return observation, given, *rest

    return partial(pendulum, wrap=Spoiled)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "update, settings",
    [
        (1, {"learning_rate": 1e30}),  # parameters are NaN in the next minibatch
        (2, {"learning_rate": 1e30, "batch_size": 32, "n_epochs": 1}),  # log_std is finite, exp not
    ],
    ids=["minibatches", "one minibatch"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinite numbers
def test_divergence_names_the_update(policy: str, update: int, settings: dict) -> None:
    generator = train(make(policy, **settings))
    for _ in range(update):
        next(generator)
    with pytest.raises(Diverged, match=f"update {update} of PPO"):
        next(generator)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinite numbers
@pytest.mark.parametrize(
    ("reward", "value", "text"),
    [
        (False, np.nan, "last observation 0 of . is not finite: number 0 is nan"),
        (False, np.inf, "last observation 0 of . is not finite: number . is -?inf"),
        (True, np.nan, "reward 0 of . is not finite: nan"),
        (True, -np.inf, "reward 0 of . is not finite: -inf"),
        (True, "no number", "it raised .*"),
    ],
)
def test_an_environment_at_fault_is_blamed_in_a_line_and_no_parameter(
    reward: bool, value: float, text: str
) -> None:
    model = make(make_env=spoiled(20, value, reward))
    env = model.get_env()
    generator = train(model)
    next(generator), next(generator)
    expected = f"^in update 2 of PPO the environment is at fault: {text}$"
    with pytest.raises(EnvironmentFault, match=expected):
        next(generator)
    assert model.get_env() is env


class Gone(VecEnvWrapper):
    """Give NaN for actions that are not finite, as a simulation does."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, *rest = self.venv.step_wait()
        return np.full_like(observations, np.nan), *rest


def test_an_environment_is_not_blamed_for_actions_that_are_not_finite() -> None:
    env = Checked(Gone(DummyVecEnv([partial(pendulum, 30)])))
    env.reset()
    with pytest.raises(EnvironmentFault):
        env.step(np.zeros((1, 1)))
    env.reset()
    with pytest.raises(Diverged, match=r"^the actions are not finite") as caught:
        env.step(np.full((1, 1), np.nan))
    assert not isinstance(caught.value, EnvironmentFault)


def test_norms_are_of_what_is_trained() -> None:
    model = make()
    for p in model.policy.value_net.parameters():
        p.requires_grad_(False)
    generator = train(model)
    before = [p.detach().clone() for p in model.policy.value_net.parameters()]
    next(generator)
    row = next(generator)
    trained = [p.detach().flatten() for p in model.policy.parameters() if p.requires_grad]
    assert row["weight_norm"] == pytest.approx(float(torch.cat(trained).norm()))
    assert all(map(torch.equal, model.policy.value_net.parameters(), before))


def close(generator: Iterator) -> None:
    next(generator), next(generator)
    generator.close()  # type: ignore[attr-defined]


def fail(generator: Iterator) -> None:
    with pytest.raises(ValueError, match="not finite"):
        list(generator)


@pytest.mark.parametrize("end", [close, fail, list], ids=["closed", "failed", "exhausted"])
def test_model_is_left_without_hooks(end: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    for name in ("_see", "_count"):
        monkeypatch.setattr(_GradientNorm, name, lambda self, *args: seen.append(args))
    monkeypatch.setattr(_GradientNorm, "columns", lambda self: {})
    model = make(make_env=spoiled(20, np.nan)) if end is fail else make()
    reference = make().learn(32)
    end(train(model))
    assert len(seen) >= 4 * 7  # minibatches of six parameters and a step
    seen.clear()
    model.set_env(DummyVecEnv([partial(pendulum, limit) for limit in LIMITS]))
    model.learn(32)
    assert seen == []
    assert reference.num_timesteps == model.num_timesteps
