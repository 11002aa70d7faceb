"""Vectorized environments in a few processes, each of which steps several."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

try:
    import gymnasium
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper
except ModuleNotFoundError as error:
    raise ImportError(
        f"plasticity.workers needs stable-baselines3 ({error}): "
        "pip install 'quantum-plasticity[rl]'"
    ) from None


class Workers(VecEnv):
    """Step environments in processes, neighbours in the same one, as many in each as can be.

    Stable-Baselines3's ``SubprocVecEnv`` has a process for each environment, whose messages cost
    more than steps of Ant where there are fewer cores than environments. Here a process steps its
    share in a ``DummyVecEnv``, and all numbers are those of one ``DummyVecEnv``, whatever the
    number of processes.

    Args:
        makers: Return a new environment each, of arrays for observations.
        num_processes: 1 to the number of environments.

    Raises:
        ValueError: ``num_processes`` is out of range.
        RuntimeError: On any call, that a process ended, or what an environment raised in it.
    """

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env]], num_processes: int) -> None:
        if not 1 <= num_processes <= len(makers):
            raise ValueError(f"num_processes must be 1 to {len(makers)}, not {num_processes}")
        self._shares = np.array_split(np.arange(len(makers)), num_processes)
        # A fork of this process, with its threads and perhaps a GPU, would not be safe.
        methods = multiprocessing.get_all_start_methods()
        method = "forkserver" if "forkserver" in methods else "spawn"
        context: Any = multiprocessing.get_context(method)
        self._pipes: list[Connection] = []
        self._processes = []
        for share in self._shares:
            pipe, end = context.Pipe()
            work = CloudpickleWrapper([makers[i] for i in share])
            process = context.Process(target=_serve, args=(end, work), daemon=True)
            process.start()
            end.close()
            self._pipes.append(pipe)
            self._processes.append(process)
        try:
            self._ask(0, "spaces")
            observations, actions = self._answer(0)
            super().__init__(len(makers), observations, actions)
        except BaseException:
            self.close()
            raise

    def reset(self) -> np.ndarray:  # noqa: D102
        for worker, share in enumerate(self._shares):
            seeds, options = ([kind[i] for i in share] for kind in (self._seeds, self._options))
            self._ask(worker, "reset", seeds, options)
        observations, infos = zip(*self._answers(), strict=True)
        self.reset_infos = [info for of_worker in infos for info in of_worker]
        self._reset_seeds()
        self._reset_options()
        return np.concatenate(observations)

    def step_async(self, actions: np.ndarray) -> None:  # noqa: D102
        for worker, share in enumerate(self._shares):
            self._ask(worker, "step", actions[share[0] : share[-1] + 1])

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:  # noqa: D102
        observations, rewards, dones, infos = zip(*self._answers(), strict=True)
        return (
            np.concatenate(observations),
            np.concatenate(rewards),
            np.concatenate(dones),
            [info for of_worker in infos for info in of_worker],
        )

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:  # noqa: D102
        return self._of_each(indices, "get_attr", attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:  # noqa: D102
        self._of_each(indices, "set_attr", attr_name, value)

    def env_method(  # noqa: D102
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        return self._of_each(indices, "env_method", method_name, *method_args, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:  # noqa: D102
        return self._of_each(indices, "env_is_wrapped", wrapper_class)

    def close(self) -> None:
        """End the processes, also in the middle of a step."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=5)  # it leaves when it finds its pipe closed
            if process.is_alive():
                process.kill()

    def _of_each(self, indices: Any, name: str, *arguments: Any, **options: Any) -> list[Any]:
        """Call a method of the DummyVecEnvs for single environments, and collect the answers."""
        chosen = set(self._get_indices(indices))
        places = [
            (worker, place)
            for worker, share in enumerate(self._shares)
            for place, i in enumerate(share)
            if i in chosen
        ]
        answers: list[Any] = []
        for worker, place in places:
            self._ask(worker, name, *arguments, indices=[place], **options)
            answer = self._answer(worker)
            answers.extend(answer if answer is not None else [])
        return answers

    def _ask(self, worker: int, name: str, *arguments: Any, **options: Any) -> None:
        try:
            self._pipes[worker].send((name, arguments, options))
        except OSError as error:
            raise self._ended(worker) from error

    def _answer(self, worker: int) -> Any:
        try:
            done, answer = self._pipes[worker].recv()
        except (EOFError, OSError) as error:
            raise self._ended(worker) from error
        if not done:
            raise RuntimeError(f"an environment failed in a worker process:\n{answer}")
        return answer

    def _answers(self) -> Iterable[Any]:
        return [self._answer(worker) for worker in range(len(self._pipes))]

    def _ended(self, worker: int) -> RuntimeError:
        process = self._processes[worker]
        process.join(timeout=1)
        return RuntimeError(f"worker process {process.pid} has ended, status {process.exitcode}")


def _serve(pipe: Connection, work: CloudpickleWrapper) -> None:
    """Do what the parent asks for, until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    env: DummyVecEnv | None = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            name, arguments, options = pipe.recv()
            try:
                if env is None:
                    env = DummyVecEnv(work.var)
                answer = True, _do(env, name, arguments, options)
            except Exception:
                answer = False, traceback.format_exc()
            pipe.send(answer)
    if env is not None:
        env.close()


def _do(env: DummyVecEnv, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if name == "spaces":
        return env.observation_space, env.action_space
    if name == "reset":
        env._seeds, env._options = arguments
        return env.reset(), env.reset_infos
    return getattr(env, name)(*arguments, **options)
