"""Time PPO's arms beside stable-baselines3's own loop, and show where the time goes.

Whole training is timed: rollouts and updates, without evaluations. All arms take turns in one
process. A shorter rollout than the protocol's changes no proportion.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.processes import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tyro

from experiments.ant import RELEASED
from experiments.cli.parse import in_one_line, status_of
from plasticity.protocol.options import check_numbers
from plasticity.rl.protocol import Config, MlpPolicy, needed

if TYPE_CHECKING:
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv


@dataclass(frozen=True)
class Options:
    """What to measure."""

    env: str = RELEASED.config.env
    """Gymnasium environment."""
    n_steps: int = 512
    """Steps of each environment before an update."""
    rounds: int = 5
    """Updates of each contestant, after one that is not timed."""
    threads: int = 1
    """Threads of torch."""

    def __post_init__(self) -> None:
        check_numbers(self, "--")


class Contestant:
    """A model whose updates are timed.

    Args:
        model: PPO.
        update: Does a rollout and an update.
    """

    def __init__(self, model: PPO, update: Callable[[], object]) -> None:
        self.update = update
        self.seconds: dict[str, list[float]] = {}
        self.model = model
        self._spent: dict[str, float] = {}
        # Not ``step``: what wraps these environments calls the two halves of it.
        env: Any = model.get_env()
        env.step_async = self._begins_step(env.step_async)
        env.step_wait = self._ends_step(env.step_wait)
        owner: Any = model
        owner.collect_rollouts = self._timed(owner.collect_rollouts, "rollout")
        owner.train = self._timed(owner.train, "update")

    def run(self) -> None:
        """Time an update."""
        self._spent = dict.fromkeys(("environments", "rollout", "update"), 0.0)
        began = time.perf_counter()
        self.update()
        self._spent["all"] = time.perf_counter() - began
        for name, spent in self._spent.items():
            self.seconds.setdefault(name, []).append(spent)

    def median(self) -> float:
        """Return the median seconds of an update; the first one was to warm up."""
        return statistics.median(self.seconds["all"][1:])

    def share(self, name: str) -> float:
        """Return what part of the time, less the first update's, went into something."""
        return sum(self.seconds[name][1:]) / sum(self.seconds["all"][1:])

    def _begins_step(self, step_async: Callable[[Any], None]) -> Callable[[Any], None]:
        def begins(actions: Any) -> None:
            self._step_began = time.perf_counter()
            step_async(actions)

        return begins

    def _ends_step(self, step_wait: Callable[[], Any]) -> Callable[[], Any]:
        def ends() -> Any:
            result = step_wait()
            self._spent["environments"] += time.perf_counter() - self._step_began
            return result

        return ends

    def _timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **options)
            self._spent[name] += time.perf_counter() - began
            return result

        return timed


def ours(config: Config, name: str) -> Contestant:
    """Enter one of our arms."""
    from plasticity.rl.trainer import Environments, PolicyArm

    policy = PolicyArm(config, Environments(config, None), RELEASED.arms[name], name)
    rows = policy.rows(1, lambda steps: None)
    return Contestant(policy.model, lambda: next(rows))


def own_loop(config: Config, kind: type[DummyVecEnv] | type[SubprocVecEnv]) -> Contestant:
    """Enter stable-baselines3's ``learn`` with the classical network, all else as it comes."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    from plasticity.rl.trainer import make_gymnasium

    env = make_vec_env(
        lambda: make_gymnasium(config.env), config.num_envs, seed=0, vec_env_cls=kind
    )
    arm = RELEASED.arms["mlp"]
    assert isinstance(arm.network, MlpPolicy)
    arch = {"pi": list(arm.network.pi), "vf": list(arm.network.vf)}
    model = PPO(
        "MlpPolicy", env, learning_rate=arm.optimizer.learning_rate, n_steps=config.n_steps,
        batch_size=config.batch_size, n_epochs=arm.epochs, seed=0, device=config.device,
        policy_kwargs={"activation_fn": torch.nn.Tanh, "net_arch": arch},
    )  # fmt: skip
    return Contestant(model, lambda: model.learn(config.rollout, reset_num_timesteps=False))


def run(options: Options) -> None:
    """Measure and print a table."""
    # A run that is never over, and is not evaluated.
    config = dataclasses.replace(
        RELEASED.config, env=options.env, n_steps=options.n_steps,
        total_steps=2**31 - 1, evaluation_every=2**31 - 1,
    )  # fmt: skip
    with needed():
        from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

        import plasticity.rl.trainer  # noqa: F401  # what it needs is found to be there, or not
    import torch

    from plasticity.runs.progress import progress_bar

    torch.set_num_threads(options.threads)
    contestants = {
        "quantum": ours(config, "qnn"),
        "classical": ours(config, "mlp"),
        "classical, learn(), DummyVecEnv": own_loop(config, DummyVecEnv),
        "classical, learn(), SubprocVecEnv": own_loop(config, SubprocVecEnv),
    }
    with progress_bar(total=(options.rounds + 1) * len(contestants), unit="update") as bar:
        for _ in range(options.rounds + 1):
            for contestant in contestants.values():
                contestant.run()
                bar.update()
    reference = contestants["classical"].median()
    print(
        f"\n{options.rounds} updates of {config.rollout} steps of {config.env}, "
        f"{config.num_envs} environments: medians, and shares of the time\n"
        f"{'':36}{'steps/s':>8}{'environments':>14}{'rest of rollout':>17}{'update':>9}"
        f"{'of the classical arm':>22}"
    )
    for name, contestant in contestants.items():
        environments = contestant.share("environments")
        rest = contestant.share("rollout") - environments
        print(
            f"{name:36}{config.rollout / contestant.median():8.0f}{environments:14.0%}{rest:17.0%}"
            f"{contestant.share('update'):9.0%}{reference / contestant.median():21.2f}x"
        )
        environment = contestant.model.get_env()
        assert environment is not None
        environment.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for."""

    def measure() -> None:
        run(
            in_one_line(
                tyro.cli, Options, command="bench_ppo", description=__doc__,
                args=arguments,
            )
        )  # fmt: skip

    return status_of(measure)


if __name__ == "__main__":
    sys.exit(main())
