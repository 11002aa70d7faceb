"""PPO as a generator of rows, one an update, and its whole state to continue from."""

from __future__ import annotations

import copy
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity.errors import Diverged
from plasticity.networks.trained import is_trained, trained_parameters

try:
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import Logger
except ModuleNotFoundError as error:
    raise ImportError(
        f"plasticity.rl.ppo needs stable-baselines3 ({error}): pip install 'quantum-plasticity[rl]'"
    ) from None

from plasticity.rl.checked import Checked, EnvironmentFault

Row = dict[str, Any]
"""Column names to values: numbers, and lists of numbers where a row has several episodes."""

_LOGGED = {  # our columns: stable-baselines3's keys, sign
    "approx_kl": ("train/approx_kl", 1),
    "clip_fraction": ("train/clip_fraction", 1),
    "entropy": ("train/entropy_loss", -1),
    "policy_loss": ("train/policy_gradient_loss", 1),
    "value_loss": ("train/value_loss", 1),
    "explained_variance": ("train/explained_variance", 1),
}


def train_ppo(
    model: PPO,
    evaluate: Callable[[PPO, int], tuple[list[float], list[int]]],
    *,
    total_steps: int,
    evaluation_every: int,
    start: int = 0,
    advance: Callable[[int], object] = lambda steps: None,
) -> Iterator[Row]:
    """Train with stable-baselines3's own rollouts and updates, and yield a row after each update.

    Row k describes the policy after k updates, row 0 the untrained one. Training ends with the
    first update at or after ``total_steps``. A policy that acts at a step divisible by
    ``evaluation_every`` is evaluated, and so is the last.

    Args:
        model: Its environments' episodes are recorded by ``Monitor``; its learning rate and clip
            ranges are constants. Trained in place.
        evaluate: From the model and the number of updates to the returns and the lengths of
            episodes.
        total_steps: Steps of all environments together.
        evaluation_every: Steps.
        start: First row; rows after the first one go on from a model that has been trained or
            restored to the row before.
        advance: Told the number of steps since it was last called, for a progress bar.

    Yields:
        ``update``; ``step``, of all environments; ``weight_norm``, of all that is trained, and
        ``angle_norm``, of those called angles, Euclidean; of evaluated policies
        ``evaluation_step``, ``evaluation_returns``, ``evaluation_lengths`` and the means
        ``evaluation_return``, ``evaluation_length``. From row 1 on, of the update's rollout:
        ``episode_steps`` (when episodes ended), ``episode_returns``, ``episode_lengths`` and, if
        any ended, the means ``return`` and ``episode_length``. Of the update:
        ``approx_kl`` (nats, mean over the last epoch), ``clip_fraction``, ``entropy`` (nats),
        ``policy_loss``, ``value_loss`` (means over its minibatches), ``explained_variance`` (of
        the returns, by the values before the update; absent where the returns are constant),
        ``gradient_norm`` (Euclidean, before clipping, root mean square over the minibatches) and
        ``largest_change`` (of a parameter, absolute).

    Raises:
        Diverged: A loss or a parameter is not finite, or the policy's standard deviation is 0 or
            infinite.
        EnvironmentFault: An environment raised, or gave an observation or a reward that is not
            finite.
        ValueError: The learning rate or a clip range is a schedule.
    """
    bare_env = model.get_env()
    assert bare_env is not None
    for schedule in (model.lr_schedule, model.clip_range, model.clip_range_vf):
        # ``learn`` is called for one update at a time, at the end of which a schedule has run out
        if callable(schedule) and schedule(0.0) != schedule(1.0):
            raise ValueError("the learning rate and the clip ranges must be constants")
    env = model.env = Checked(bare_env)
    model.set_logger(Logger(None, []))
    steps_per_update = model.n_steps * env.num_envs
    tracker = _Tracker(advance)
    gradients = _GradientNorm(model)
    try:
        if model._last_obs is None:
            model._last_obs = env.reset()
            model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
        for update in range(start, math.ceil(total_steps / steps_per_update) + 1):
            row: Row = {"update": update}
            if update:
                before = [p.detach().clone() for p in model.policy.parameters()]
                try:
                    model.learn(
                        steps_per_update,
                        tracker,
                        log_interval=None,  # type: ignore[arg-type]
                        reset_num_timesteps=False,
                    )
                except EnvironmentFault as error:
                    raise EnvironmentFault(f"in update {update} of PPO {error}") from error
                except ValueError as error:  # of distributions and features, which check
                    if _is_sound(model):
                        raise
                    text = "a parameter is not finite, or a standard deviation 0 or not finite"
                    raise Diverged(f"in update {update} of PPO {text}") from error
                row |= tracker.columns() | _logged(model) | gradients.columns()
                row["largest_change"] = _largest_change(before, model)
            row["step"] = model.num_timesteps
            row |= _norms(model)
            if not all(math.isfinite(v) for v in row.values() if isinstance(v, float)):
                raise Diverged(f"after update {update} of PPO the losses or weights are not finite")
            mark = math.ceil(model.num_timesteps / evaluation_every) * evaluation_every
            last = model.num_timesteps >= total_steps
            if last or mark < model.num_timesteps + steps_per_update:
                try:
                    returns, lengths = evaluate(model, update)
                except EnvironmentFault as error:
                    text = f"in an evaluation after update {update} of PPO {error}"
                    raise EnvironmentFault(text) from error
                row |= {
                    "evaluation_step": model.num_timesteps if last else mark,
                    "evaluation_returns": returns,
                    "evaluation_lengths": lengths,
                    "evaluation_return": float(np.mean(returns)),
                    "evaluation_length": float(np.mean(lengths)),
                }
            yield row
    finally:
        gradients.remove()
        model.env = bare_env


def get_state(model: PPO) -> dict[str, Any]:
    """Return all that decides how training goes on, between two updates.

    Policy, optimizer, counters, the environments with their last observations, episode buffers and
    the random states of torch, NumPy and Python. It holds tensors and plain Python values, which
    ``torch.load(weights_only=True)`` reads. The environments are ``Resumable``.
    """
    env, device = model.get_env(), model.device
    assert env is not None
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "policy": copy.deepcopy(model.policy.state_dict()),
        "optimizer": copy.deepcopy(model.policy.optimizer.state_dict()),
        "counters": {name: getattr(model, name) for name in _COUNTERS},
        "episodes": list(model.ep_info_buffer or ()),
        "successes": list(model.ep_success_buffer or ()),
        "environments": env.env_method("get_state"),
        "last_observations": torch.from_numpy(np.array(model._last_obs)),
        "last_episode_starts": torch.from_numpy(np.array(model._last_episode_starts)),
        "random": {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "numpy": (kind, np.asarray(keys).tolist(), *rest),
            "python": random.getstate(),
        },
    }


def set_state(model: PPO, state: dict[str, Any]) -> None:
    """Continue from a state that ``get_state`` returned, in environments made alike.

    Raises:
        ValueError: The state has another number of environments, or theirs are of other kinds.
    """
    env = model.get_env()
    assert env is not None
    if len(state["environments"]) != env.num_envs:
        raise ValueError(
            f"the state is of {len(state['environments'])} environments, not of {env.num_envs}"
        )
    model.policy.load_state_dict(state["policy"])
    model.policy.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # keeps tensors
    for name, value in state["counters"].items():
        setattr(model, name, value)
    model.ep_info_buffer = deque(state["episodes"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(state["successes"], maxlen=model._stats_window_size)
    for i, of_environment in enumerate(state["environments"]):
        env.env_method("set_state", of_environment, indices=i)
    model._last_obs = state["last_observations"].numpy()
    model._last_episode_starts = state["last_episode_starts"].numpy()
    saved = state["random"]
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None and model.device.type == "cuda":
        torch.cuda.set_rng_state(saved["cuda"], model.device)
    kind, keys, *rest = saved["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    random.setstate(saved["python"])


_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num")


class _Tracker(BaseCallback):
    """Collects the episodes that end in a rollout."""

    def __init__(self, advance: Callable[[int], object]) -> None:
        super().__init__()
        self._advance = advance

    def _on_rollout_start(self) -> None:
        self._steps: list[int] = []
        self._returns: list[float] = []
        self._lengths: list[int] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self._steps.append(self.num_timesteps)
                self._returns.append(float(info["episode"]["r"]))
                self._lengths.append(int(info["episode"]["l"]))
        self._advance(self.training_env.num_envs)
        return True

    def columns(self) -> Row:
        row: Row = {
            "episode_steps": self._steps,
            "episode_returns": self._returns,
            "episode_lengths": self._lengths,
        }
        if self._steps:
            row["return"] = float(np.mean(self._returns))
            row["episode_length"] = float(np.mean(self._lengths))
        return row


class _GradientNorm:
    """Sees the gradients of every minibatch, as they are before stable-baselines3 clips them."""

    def __init__(self, model: PPO) -> None:
        self._squares: list[Tensor] = []
        self._num_minibatches = 0
        self._handles: list[Any] = [
            p.register_post_accumulate_grad_hook(self._see)
            for p in trained_parameters(model.policy)
        ]
        step_hook = model.policy.optimizer.register_step_pre_hook(self._count)
        self._handles.append(step_hook)

    def _see(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.detach().flatten()
        self._squares.append(gradient.dot(gradient))

    def _count(self, *_: Any) -> None:
        self._num_minibatches += 1

    def columns(self) -> Row:
        mean = float(torch.stack(self._squares).double().sum()) / self._num_minibatches
        self._squares, self._num_minibatches = [], 0
        return {"gradient_norm": math.sqrt(mean)}

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _logged(model: PPO) -> Row:
    """Collect what stable-baselines3 recorded of the last update."""
    values = model.logger.name_to_value
    row = {name: sign * float(values[key]) for name, (key, sign) in _LOGGED.items()}
    if math.isnan(row["explained_variance"]):  # the returns have no variance to explain
        del row["explained_variance"]
    return row


def _is_sound(model: PPO) -> bool:
    """Tell whether parameters are finite and standard deviations neither 0 nor infinite."""
    numbers = [p.detach() for p in model.policy.parameters()]
    if hasattr(model.policy, "log_std"):
        numbers.append(model.policy.log_std.detach().exp().log())
    return all(bool(t.isfinite().all()) for t in numbers)


def _largest_change(before: list[Tensor], model: PPO) -> float:
    changes = zip(before, model.policy.parameters(), strict=True)
    return max(float((new.detach() - old).abs().max()) for old, new in changes)


def _norms(model: PPO) -> Row:
    parameters = {name: p for name, p in model.policy.named_parameters() if is_trained(p)}
    angles = [p.detach() for name, p in parameters.items() if name.rpartition(".")[2] == "angles"]
    row = {"weight_norm": _norm([p.detach() for p in parameters.values()])}
    return row | ({"angle_norm": _norm(angles)} if angles else {})


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))
