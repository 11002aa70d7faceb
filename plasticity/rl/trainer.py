"""PPO's policies as arms of an experiment: environments, networks, evaluation."""

from __future__ import annotations

import contextlib
import functools
import io
import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import joblib
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from plasticity.errors import DoesNotFit, Failure, UsageError
from plasticity.protocol.arms import ArmConfig
from plasticity.protocol.optimizers import Adam
from plasticity.protocol.trainer import Arm, Row
from plasticity.rl.checked import Checked, EnvironmentFault, reason_of
from plasticity.rl.environments import (
    NoFriction,
    Resumable,
    Slippery,
    check_resumable,
    set_friction,
)
from plasticity.rl.features import QuantumFeatures
from plasticity.rl.learner import PolicyLearner
from plasticity.rl.ppo import get_state, set_state, train_ppo
from plasticity.rl.protocol import FILES, Config, MlpPolicy, QnnPolicy
from plasticity.rl.remedies import LayerNorm
from plasticity.rl.workers import EnvironmentFailed, WorkerError, Workers
from plasticity.seeding import generator_for


def make_gymnasium(name: str, **options: Any) -> gymnasium.Env:
    """Make an environment of Gymnasium's; Ant-v4, which the protocol asks for, without advice."""
    with warnings.catch_warnings():
        advice = ".*The environment Ant-v4 is out of date"
        warnings.filterwarnings("ignore", advice, DeprecationWarning)
        return gymnasium.make(name, **options)


def make_environment(name: str, period: int | None, seed: int) -> gymnasium.Env:
    """Make an environment to train in, whose friction changes every ``period`` of its steps."""
    env = make_gymnasium(name)
    if period is not None:
        env = Slippery(env, period, seed)
    return Resumable(Monitor(env))


def make_evaluation_environment(name: str) -> gymnasium.Env:
    """Make an environment to evaluate in, whose friction others set."""
    return Monitor(make_gymnasium(name))


class Environments:
    """Where a config's policies act.

    Args:
        config: Checked on construction, with an environment made for it.
        processes: Beside this one, to step them in; None: one for each core. 0: they are stepped
            in this process.

    Attributes:
        name: Of the environment, with its version, which ``config.env`` may leave open.
        remark: What there is to say about it.

    Raises:
        UsageError: There is no such environment, or policies or the friction are not for it.
        Failure: The environment needs a package that is not installed, or cannot be made.
    """

    def __init__(self, config: Config, processes: int | None) -> None:
        if processes is None:
            cores = joblib.cpu_count()
            processes = cores if cores > 1 else 0
        self._config = config
        self._processes = min(processes, config.num_envs)
        self.name = self._checked_name()
        period = config.friction_period
        steps = None if period is None else period // config.num_envs
        self._make = functools.partial(make_environment, self.name, steps, config.seed)
        self.remark = ""
        try:
            check_resumable(self._make)
        except NoFriction as error:
            raise UsageError(f"--friction-period, --env {config.env}: {error}") from error
        except ValueError as error:
            self.remark = (
                f"{config.env} keeps state that cannot be saved ({error}); training that is "
                "stopped goes on, but not bit for bit"
            )
        except (
            RuntimeError
        ) as error:  # of the environment; training will say whether it comes again
            self.remark = (
                f"{config.env} failed when it was tried: {reason_of(error.__cause__ or error)}"
            )

    def _checked_name(self) -> str:
        """Return the environment's name with its version, if a policy can act in it."""
        option = f"--env {self._config.env}"
        try:
            env = make_gymnasium(self._config.env)
        except gymnasium.error.DependencyNotInstalled as error:
            raise Failure(f"{option}: {error}") from error
        except (gymnasium.error.Error, ImportError) as error:
            raise UsageError(f"{option}: {error}") from error
        except Exception as error:
            raise Failure(f"{option}: it cannot be made: {reason_of(error)}") from error
        with contextlib.closing(env):
            if not isinstance(env.action_space, spaces.Box):
                raise UsageError(f"{option}: its actions are {env.action_space}, not a Box")
            if not isinstance(env.observation_space, spaces.Box):
                raise UsageError(
                    f"{option}: its observations are {env.observation_space}, not a Box"
                )
            self._observations, self._actions = env.observation_space, env.action_space
            assert env.spec is not None
            module, colon, _ = self._config.env.rpartition(":")
            return f"{module}{colon}{env.spec.id}"

    def check(self, arm: ArmConfig) -> None:
        """Refuse a policy that is not for the observations, or remedies not for the policy.

        Raises:
            DoesNotFit: With the reason.
        """
        network = arm.network
        if isinstance(network, QnnPolicy):
            try:
                QuantumFeatures(self._observations, network.num_qubits, depth=1)
            except (TypeError, ValueError) as error:
                raise DoesNotFit(f"--env {self._config.env}: {error}") from error
        if arm.remedies:
            rate = arm.optimizer.learning_rate
            policy = ActorCriticPolicy(
                self._observations, self._actions, lambda _: rate, **policy_options(arm)
            )
            PolicyLearner(policy, arm.remedies.values(), self._config.seed)

    def training(self) -> VecEnv:
        """Make the environments of an arm."""
        makers: list[Callable[[], gymnasium.Env]] = [self._make] * self._config.num_envs
        if not self._processes:
            return self._made(lambda: DummyVecEnv(makers))
        # One process imports what the others, forked from it, then have.
        multiprocessing.set_forkserver_preload([__name__])
        return self._made(lambda: Workers(makers, self._processes))

    def evaluation(self) -> VecEnv:
        """Make environments to evaluate an arm in."""
        make = functools.partial(make_evaluation_environment, self.name)
        number = min(self._config.evaluation_episodes, self._config.num_envs)
        return self._made(lambda: Checked(DummyVecEnv([make] * number)))

    def _made(self, make: Callable[[], VecEnv]) -> VecEnv:
        """Return environments, or say in a line what they raised."""
        try:
            return make()
        except EnvironmentFailed as error:
            reason = error.reason
        except WorkerError:
            raise
        except Exception as error:
            reason = reason_of(error)
        raise EnvironmentFault(f"--env {self._config.env}: it cannot be made: {reason}")


def make_model(config: Config, arm: ArmConfig, env: VecEnv) -> PPO:
    """Make stable-baselines3's PPO with an arm's policy, untrained.

    It seeds the environments, torch, NumPy and Python.
    """
    return PPO(
        "MlpPolicy",
        env,
        learning_rate=arm.optimizer.learning_rate,
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=arm.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        policy_kwargs=policy_options(arm),
        seed=seed_for(config.seed, "ppo"),
        device=config.device,
    )


def policy_options(arm: ArmConfig) -> dict[str, Any]:
    """Return stable-baselines3's ``policy_kwargs``, of which it makes a saved policy again too."""
    assert isinstance(arm.network, MlpPolicy | QnnPolicy)
    assert isinstance(arm.optimizer, Adam)
    options = arm.network.policy_options() | {
        "activation_fn": torch.nn.Tanh,
        "optimizer_kwargs": {"eps": arm.optimizer.epsilon, "fused": True},
    }
    for remedy in arm.remedies.values():
        if isinstance(remedy, LayerNorm):
            options = remedy.policy_options(options)
    return options


def seed_for(seed: int, purpose: str, *indices: int) -> int:
    """Draw a seed for those who count on from it: runs of neighboring seeds share none."""
    return int(torch.randint(2**31, (), generator=generator_for(seed, purpose, *indices)))


@contextlib.contextmanager
def ends_of_workers() -> Iterator[None]:
    """Turn the end of a worker process, whenever it is noticed, into an error of a command."""
    try:
        yield
    except WorkerError as error:
        raise Failure(f"{error}\nThe same command goes on after the last update.") from error


class PolicyArm(Arm):
    """A policy that PPO trains."""

    def __init__(
        self, config: Config, environments: Environments, arm: ArmConfig, name: str
    ) -> None:
        self._config = config
        self._file = FILES.get(name, name)
        self._evaluation = environments.evaluation()
        with ends_of_workers():
            self._training = environments.training()
        self.model = make_model(config, arm, self._training)
        # One without remedies is as if there were none: so is what is recorded of it.
        self._learner = (
            PolicyLearner(self.model.policy, arm.remedies.values(), config.seed)
            if arm.remedies
            else None
        )
        self._best: float | None = None
        parameters = sum(p.numel() for p in self.model.policy.parameters())
        self.remark = f"{parameters:,} parameters"
        if environments.remark:
            self.remark += f"; {environments.remark}"

    def rows(self, start: int, advance: Callable[[int], object]) -> Iterator[Row]:  # noqa: D102
        config = self._config
        with ends_of_workers():
            for row in train_ppo(
                self.model, self.evaluate, total_steps=config.total_steps,
                evaluation_every=config.evaluation_every, start=start, advance=advance,
            ):  # fmt: skip
                if self._learner and row["update"]:
                    row |= self._learner.columns()
                if config.friction_period is not None:
                    row["friction"] = self._friction()
                yield row

    def evaluate(self, model: PPO, update: int) -> tuple[list[float], list[int]]:
        """Return returns and lengths of episodes, on the floor as it is in training."""
        if self._config.friction_period is not None:
            friction = self._friction()
            for env in self._evaluation.get_attr("unwrapped"):
                set_friction(env, friction)
        self._evaluation.seed(seed_for(self._config.seed, "evaluation", update))
        returns, lengths = evaluate_policy(
            model, self._evaluation, self._config.evaluation_episodes, return_episode_rewards=True
        )
        return [float(r) for r in returns], [int(n) for n in lengths]  # type: ignore[union-attr]

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        state = {"ppo": get_state(self.model), "best": self._best}
        return state | ({"remedies": self._learner.state_dict()} if self._learner else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        with ends_of_workers():
            set_state(self.model, state["ppo"])
        self._best = state["best"]
        if self._learner:
            self._learner.load_state_dict(state["remedies"])

    def network_state(self) -> dict[str, Any]:  # noqa: D102
        return self.model.policy.state_dict()

    def files(self, row: Row) -> Mapping[str, bytes]:
        """Return the policy after ``row``, also as the best one if no evaluation was better."""
        policy = io.BytesIO()
        self.model.save(policy)
        files = {f"{self._file}_last_policy.zip": policy.getvalue()}
        score = row.get("evaluation_return")
        if score is not None and (self._best is None or score > self._best):
            self._best = score
            files[f"{self._file}_best_policy.zip"] = policy.getvalue()
        return files

    def close(self) -> None:  # noqa: D102
        self._training.close()
        self._evaluation.close()

    def _friction(self) -> float:
        return float(self._training.get_attr("current_friction", indices=0)[0])
