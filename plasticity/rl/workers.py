"""Vectorized environments in a few processes, each of which steps several."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from plasticity.rl.processes import start_fork_server

try:
    import cloudpickle  # type: ignore[import-untyped]
    import gymnasium
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
except ModuleNotFoundError as error:
    raise ImportError(
        f"plasticity.rl.workers needs stable-baselines3 ({error}): "
        "pip install 'quantum-plasticity[rl]'"
    ) from None

_PATIENCE = 5.0  # seconds that processes have, all together, to finish what they are at

Request = tuple[str, tuple[Any, ...], Mapping[str, Any]]
"""What a worker is to do: a name that _do knows, arguments, keyword arguments."""


class WorkerError(RuntimeError):
    """A worker process has ended, or an environment raised in it."""


class EnvironmentFailed(WorkerError):
    """An environment raised in a worker process.

    Attributes:
        reason: What it raised, in a line.
    """

    def __init__(self, reason: str, trace: str) -> None:
        super().__init__(f"an environment failed in a worker process:\n{trace}")
        self.reason = reason


class Workers(VecEnv):
    """Step environments in processes, neighbors in the same one, as many in each as can be.

    Stable-Baselines3's ``SubprocVecEnv`` has a process for each environment, whose messages cost
    more than steps of Ant where there are fewer cores than environments. Here a process steps its
    share in a ``DummyVecEnv``, and all numbers are those of one ``DummyVecEnv``, whatever the
    number of processes.

    What an environment raises leaves the others as they are. After a process has ended, or a call
    was interrupted while it waited, all processes are closed.

    Args:
        makers: Return a new environment each, of arrays for observations.
        num_processes: 1 to the number of environments.

    Raises:
        ValueError: ``num_processes`` is out of range.
        WorkerError: On any call, that a process ended, or what an environment raised in it.
        RuntimeError: A call came between ``step_async`` and ``step_wait``.
    """

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env]], num_processes: int) -> None:
        if not 1 <= num_processes <= len(makers):
            raise ValueError(f"num_processes must be 1 to {len(makers)}, not {num_processes}")
        self._shares = np.array_split(np.arange(len(makers)), num_processes)
        self._places = [(w, place) for w, s in enumerate(self._shares) for place in range(len(s))]
        self._asked: list[int] = []  # the workers that have yet to answer
        # A fork of this process, with its threads and perhaps a GPU, would not be safe.
        methods = multiprocessing.get_all_start_methods()
        method = "forkserver" if "forkserver" in methods else "spawn"
        context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            start_fork_server()
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        try:
            for share in self._shares:
                pipe, end = context.Pipe()
                self._pipes.append(pipe)
                work = cloudpickle.dumps([makers[i] for i in share])
                process = context.Process(target=_serve, args=(end, work), daemon=True)
                process.start()
                self._processes.append(process)
                end.close()
            self._ask(self._to_all("spaces"))
            observations, actions = self._answers()[0]
            super().__init__(len(makers), observations, actions)
        except BaseException:
            self.close()
            raise

    def reset(self) -> np.ndarray:  # noqa: D102
        if self._asked:
            self._answers()  # of a step that nobody waits for any more
        requests: dict[int, Request] = {}
        for worker, share in enumerate(self._shares):
            seeds, options = ([kind[i] for i in share] for kind in (self._seeds, self._options))
            requests[worker] = "reset", (seeds, options), {}
        self._ask(requests)
        observations, infos = zip(*self._answers(), strict=True)
        self.reset_infos = [info for of_worker in infos for info in of_worker]
        self._reset_seeds()
        self._reset_options()
        return np.concatenate(observations)

    def step_async(self, actions: np.ndarray) -> None:  # noqa: D102
        self._ask(
            {
                worker: ("step", (actions[share[0] : share[-1] + 1],), {})
                for worker, share in enumerate(self._shares)
            }
        )

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:  # noqa: D102
        observations, rewards, dones, infos, resets = zip(*self._answers(), strict=True)
        self.reset_infos = [info for of_worker in resets for info in of_worker]
        return (
            np.concatenate(observations),
            np.concatenate(rewards),
            np.concatenate(dones),
            [info for of_worker in infos for info in of_worker],
        )

    def has_attr(self, attr_name: str) -> bool:  # noqa: D102
        self._ask(self._to_all("has_attr", attr_name))
        return all(self._answers())

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:  # noqa: D102
        return self._of_each(indices, "get_attr", (attr_name,))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:  # noqa: D102
        self._of_each(indices, "set_attr", (attr_name, value))

    def env_method(  # noqa: D102
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        return self._of_each(indices, "env_method", (method_name, *method_args), method_kwargs)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:  # noqa: D102
        return self._of_each(indices, "env_is_wrapped", (wrapper_class,))

    def close(self) -> None:
        """End the processes, also in the middle of a step."""
        self._asked = []
        for pipe in self._pipes:
            pipe.close()
        deadline = time.monotonic() + _PATIENCE
        for process in self._processes:
            # It leaves when it finds its pipe closed.
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    def _of_each(
        self,
        indices: Any,
        name: str,
        arguments: tuple[Any, ...],
        options: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """Call a method of the DummyVecEnvs for chosen environments, and answer in their order."""
        if isinstance(indices, np.integer):
            indices = int(indices)
        places = [self._places[i] for i in self._get_indices(indices)]
        chosen: dict[int, list[int]] = {}
        for worker, place in places:
            chosen.setdefault(worker, []).append(place)
        self._ask(
            {w: (name, arguments, {**(options or {}), "indices": i}) for w, i in chosen.items()}
        )
        # set_attr answers None
        answers = {w: iter(a or ()) for w, a in zip(chosen, self._answers(), strict=True)}
        return [next(answers[worker], None) for worker, _ in places]

    def _to_all(self, name: str, *arguments: Any) -> dict[int, Request]:
        return {worker: (name, arguments, {}) for worker in range(len(self._shares))}

    def _ask(self, requests: Mapping[int, Request]) -> None:
        """Send workers what they are to do; they do it side by side."""
        if self._asked:
            raise RuntimeError("the environments are in a step: step_wait comes first")
        # What cannot be pickled is found before any worker has been asked.
        messages = {worker: pickle.dumps(request) for worker, request in requests.items()}
        with self._all_or_closed():
            for worker, message in messages.items():
                self._pipes[worker].send_bytes(message)
            self._asked = list(messages)

    def _answers(self) -> list[Any]:
        """Take the answers of all workers that were asked, then raise what one of them raised."""
        with self._all_or_closed():
            messages = [self._pipes[worker].recv_bytes() for worker in self._asked]
            self._asked = []
        answers = [pickle.loads(message) for message in messages]
        for done, answer in answers:
            if not done:
                raise EnvironmentFailed(*answer)
        return [answer for _, answer in answers]

    @contextlib.contextmanager
    def _all_or_closed(self) -> Iterator[None]:
        """Close if not all messages pass; the next call would take what is left for its own."""
        try:
            yield
        except (EOFError, OSError) as error:
            wait([process.sentinel for process in self._processes], timeout=1)  # for the status
            ended = [f"{p.pid} (status {p.exitcode})" for p in self._processes if not p.is_alive()]
            self.close()
            raise WorkerError(f"worker processes have ended: {', '.join(ended)}") from error
        except BaseException:
            self.close()
            raise


def _serve(pipe: Connection, work: bytes) -> None:
    """Do what the parent asks for, until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    env: DummyVecEnv | None = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = pipe.recv_bytes()
            try:
                if env is None:
                    env = DummyVecEnv(cloudpickle.loads(work))
                answer = pickle.dumps((True, _do(env, *pickle.loads(message))))
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                answer = pickle.dumps((False, (reason, traceback.format_exc())))
            pipe.send_bytes(answer)
    if env is not None:
        env.close()


def _do(env: DummyVecEnv, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if name == "spaces":
        return env.observation_space, env.action_space
    if name == "reset":
        env._seeds, env._options = arguments
        return env.reset(), env.reset_infos
    if name == "step":
        return *env.step(*arguments), env.reset_infos
    return getattr(env, name)(*arguments, **options)
