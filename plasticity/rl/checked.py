"""Environments whose faults are told from those of the policy that acts in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from plasticity.errors import Diverged
from plasticity.rl.workers import EnvironmentFailed, WorkerError

try:
    from stable_baselines3.common.vec_env import VecEnvWrapper
except ModuleNotFoundError as error:
    raise ImportError(
        f"plasticity.rl.checked needs stable-baselines3 ({error}): "
        "pip install 'quantum-plasticity[rl]'"
    ) from None


class EnvironmentFault(Diverged, ValueError):
    """An environment raised, or gave an observation or a reward that is not finite."""


class Checked(VecEnvWrapper):
    """Refuse what environments raise, and observations and rewards that are NaN or infinite.

    Where the actions were not finite, the policy is at fault.

    Raises:
        EnvironmentFault: On ``reset`` and ``step``, in a line.
        Diverged: The actions were not finite, and what came of them was not either.
    """

    def reset(self) -> Any:  # noqa: D102
        self._finite_actions = True
        with self._blamed():
            observations = self.venv.reset()
        self._check("observation", observations)
        return observations

    def step_async(self, actions: np.ndarray) -> None:  # noqa: D102
        self._finite_actions = bool(np.isfinite(actions).all())
        with self._blamed():
            self.venv.step_async(actions)

    def step_wait(self) -> Any:  # noqa: D102
        with self._blamed():
            observations, rewards, dones, infos = self.venv.step_wait()
        self._check("reward", rewards)
        for env in map(int, dones.nonzero()[0]):
            if (last := infos[env].get("terminal_observation")) is not None:
                self._check("last observation", last, env)
        self._check("observation", observations)
        return observations, rewards, dones, infos

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except EnvironmentFailed as error:
            raise self._fault(f"it raised {error.reason}") from error
        except WorkerError:  # a process has ended
            raise
        except Exception as error:
            raise self._fault(f"it raised {reason_of(error)}") from error

    def _check(self, what: str, numbers: Any, of: int | None = None) -> None:
        """Refuse numbers of all environments, or of one, that are not finite."""
        for values in numbers.values() if isinstance(numbers, dict) else (numbers,):
            finite = np.isfinite(values)
            if finite.all():
                continue
            place = tuple(map(int, np.argwhere(~finite)[0]))
            env, inside = (place[0], place[1:]) if of is None else (of, place)
            number = f"number {', '.join(map(str, inside))} is " if inside else ""
            raise self._fault(
                f"{what} {env} of {self.num_envs} is not finite: {number}{values[place]}"
            )

    def _fault(self, text: str) -> Diverged:
        if self._finite_actions:
            return EnvironmentFault(f"the environment is at fault: {text}")
        return Diverged(f"the actions are not finite ({text})")


def reason_of(error: BaseException) -> str:
    """Return in a line what was raised."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
