"""Environments whose whole state can be saved, and floors that become slippery or sticky."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from plasticity.seeding import generator_for

try:
    import gymnasium
    import mujoco  # type: ignore[import-untyped]
    from gymnasium import spaces
    from stable_baselines3.common.monitor import Monitor
except ModuleNotFoundError as error:
    raise ImportError(
        f"plasticity.rl.environments needs stable-baselines3 and gymnasium[mujoco] ({error}): "
        "pip install 'quantum-plasticity[rl]'"
    ) from None

MIN_FRICTION, MAX_FRICTION = 0.02, 2.0


class NoFriction(TypeError):
    """An environment has no MuJoCo model whose friction could be set."""


class NotResumable(ValueError):
    """An environment does not go on from its saved state as it would have gone on itself."""


class Slippery(gymnasium.Wrapper):
    """Redraw the sliding friction of a MuJoCo environment every ``period`` of its steps.

    The friction of period k = 0, 1, ... is exp(u), u uniform in [log 0.02, log 2], a function of
    ``seed`` and k. As in the released program of Dohare et al. (Nature 2024), the first period has
    a drawn friction too, not the model's. That program waits for the end of the episode; here the
    friction changes after ``period`` steps to the step, within an episode if need be.

    All geoms get it: of two in contact MuJoCo takes the larger friction. Torsional and rolling
    friction stay.

    Args:
        env: An environment with a MuJoCo model, such as Ant.
        period: Steps of this environment between changes, at least 1. Dohare et al.: 2,000,000; n
            environments side by side need an n-th each.
        seed: At least 0.

    Attributes:
        steps: Steps taken since construction, over all episodes.
        current_friction: Sliding friction of the next step, a dimensionless coefficient.

    Raises:
        NoFriction: ``env`` has no MuJoCo model.
        ValueError: ``period`` or ``seed`` is out of range.
    """

    def __init__(self, env: gymnasium.Env, period: int, seed: int) -> None:
        if period < 1:
            raise ValueError(f"period must be at least 1 step, not {period}")
        super().__init__(env)
        self.period = period
        self.seed = seed
        self.steps = 0
        self._set_friction()

    def friction(self, k: int) -> float:
        """Return the friction of period ``k``, 0 for the first."""
        generator = generator_for(self.seed, "friction", k)
        u = torch.rand((), dtype=torch.float64, generator=generator).item()
        return MIN_FRICTION * (MAX_FRICTION / MIN_FRICTION) ** u

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment, then change the friction if the period is over."""
        result = self.env.step(action)
        self.steps += 1
        if self.steps % self.period == 0:
            self._set_friction()
        return result

    def _set_friction(self) -> None:
        self.current_friction = self.friction(self.steps // self.period)
        set_friction(self, self.current_friction)


def set_friction(env: gymnasium.Env, friction: float) -> None:
    """Set the sliding friction of all geoms, a dimensionless coefficient.

    Raises:
        NoFriction: ``env`` has no MuJoCo model.
    """
    model = getattr(env.unwrapped, "model", None)
    if not isinstance(model, mujoco.MjModel):
        raise NoFriction(f"friction needs an environment with a MuJoCo model; {env} has none")
    model.geom_friction[:, 0] = friction


class Resumable(gymnasium.Wrapper):
    """Hand over the state of an environment, so that a fresh one continues bit for bit.

    Wrap it around all else, ``Resumable(Monitor(env))``. Vectorized environments reach it by
    ``states = vec_env.env_method("get_state")``, where ``states[i]`` belongs to environment i, and
    ``vec_env.env_method("set_state", states[i], indices=i)``; no reset is needed between.

    The state holds, of each wrapper and of the environment inside: the attributes that are
    numbers, strings, None, NumPy arrays and generators, and lists, tuples and dicts of these; the
    generators of its spaces; of MuJoCo environments, the simulation and the geoms' friction.
    Nothing else: attributes of other kinds (an object that normalizes, a deque of frames), changes
    of the MuJoCo model and state outside the environment (globals, files) are left behind, and so
    are the lines Monitor wrote to a file. ``check_resumable`` finds out whether that matters.

    Monitor's clock goes on where it stood: its times leave out the time between.
    """

    def get_state(self) -> list[dict[str, Any]]:
        """Return the state, one dict per layer, of plain Python values only.

        ``torch.load(weights_only=True)`` accepts it and a pipe carries it without shared memory.
        """
        return [_state_of(layer) for layer in _layers(self.env)]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        """Continue from a state that ``get_state`` returned.

        Raises:
            ValueError: The state is of an environment with other wrappers, or of another size.
        """
        layers = list(_layers(self.env))
        saved, here = [part["layer"] for part in state], [type(e).__name__ for e in layers]
        if saved != here:
            raise NotResumable(f"the state is of {' of '.join(saved)}, not of {' of '.join(here)}")
        for layer, part in zip(layers, state, strict=True):
            _restore(layer, part)


def check_resumable(
    make_env: Callable[[], gymnasium.Env], num_steps: int = 50, seed: int = 0
) -> None:
    """Raise unless a fresh environment continues from the state of a used one bit for bit.

    Both take the same random actions over ``num_steps`` steps, a reset, and ``num_steps`` more.
    What two environments of one process share, such as a global, cannot be told from state that
    was carried over.

    Args:
        make_env: Returns a new environment; called twice.
        num_steps: Steps before the transfer and in each of the two comparisons, at least 1.
        seed: Of the first reset and of the actions.

    Raises:
        NotResumable: An observation, reward or end of episode differs.
        RuntimeError: The environment raised.
        ValueError: ``num_steps`` is below 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    env, twin = Resumable(make_env()), Resumable(make_env())
    try:
        actions = copy.deepcopy(env.action_space)
        actions.seed(seed)
        env.reset(seed=seed)
        for _ in range(num_steps):
            if _step(env, actions.sample())[2]:
                env.reset()
        twin.set_state(env.get_state())
        for step in range(2 * num_steps):
            action = actions.sample()
            results = [_step(e, action) for e in (env, twin)]
            _check_equal(env, results, f"step {step}")
            if results[0][2] or step == num_steps - 1:
                _check_equal(env, [e.reset()[0] for e in (env, twin)], f"reset after step {step}")
    except NotResumable:
        raise
    except Exception as error:
        raise RuntimeError(f"the environment raised {type(error).__name__}: {error}") from error
    finally:
        env.close()
        twin.close()


def _step(env: gymnasium.Env, action: Any) -> tuple[Any, float, bool, bool]:
    """Step and return observation, reward, whether the episode is over, whether truncated."""
    observation, reward, terminated, truncated, _ = env.step(action)
    return observation, float(reward), bool(terminated or truncated), bool(truncated)


def _check_equal(env: gymnasium.Env, results: list[Any], where: str) -> None:
    # repr tells all floats apart, and NaN equals itself
    original, resumed = (repr(_encode(result)) for result in results)
    if original != resumed:
        name = env.spec.id if env.spec else str(env.unwrapped)
        raise NotResumable(
            f"{name} cannot be resumed: from its saved state it goes another way at {where}; "
            "part of its state is in attributes that Resumable does not save"
        )


def _layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """Yield a wrapped environment's layers, from outside to inside."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def _state_of(layer: gymnasium.Env) -> dict[str, Any]:
    attributes, generators = {}, {}
    for name, value in vars(layer).items():
        if isinstance(value, spaces.Space):
            generators[name] = [_encode(space._np_random) for space in _spaces(value)]
            continue
        try:
            attributes[name] = _encode(value)
        except TypeError:
            continue  # of a kind that is left behind
    if isinstance(layer, Monitor):
        attributes["t_start"] -= time.time()
    state = {"layer": type(layer).__name__, "attributes": attributes, "spaces": generators}
    model, data = getattr(layer, "model", None), getattr(layer, "data", None)
    if not isinstance(layer, gymnasium.Wrapper) and isinstance(model, mujoco.MjModel):
        state["simulation"] = _encode(_integration_state(model, data))
        state["derived"] = {name: _encode(array) for name, array in _derived(data).items()}
        state["geom_friction"] = _encode(model.geom_friction)
    return state


def _restore(layer: gymnasium.Env, state: dict[str, Any]) -> None:
    for name, value in state["attributes"].items():
        setattr(layer, name, _decode(value))
    if isinstance(layer, Monitor):
        layer.t_start += time.time()
    for name, generators in state["spaces"].items():
        for space, generator in zip(_spaces(vars(layer)[name]), generators, strict=True):
            space._np_random = _decode(generator)
    if "simulation" not in state:
        return
    model, data = layer.unwrapped.model, layer.unwrapped.data  # type: ignore[attr-defined]
    simulation, friction = _decode(state["simulation"]), _decode(state["geom_friction"])
    sizes = (simulation.shape, friction.shape)
    here = (_integration_state(model, data).shape, model.geom_friction.shape)
    if sizes != here:
        raise NotResumable(f"the state is of a MuJoCo model of sizes {sizes}, not {here}")
    model.geom_friction[:] = friction
    mujoco.mj_setState(model, data, simulation, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(model, data)
    # mj_step leaves positions and forces of before its last integration, which observations and
    # rewards read; mj_forward has computed them anew.
    arrays = _derived(data)
    for name, value in state["derived"].items():
        array = _decode(value)
        if name in arrays and arrays[name].shape == array.shape:
            arrays[name][...] = array


def _integration_state(model: Any, data: Any) -> np.ndarray:
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    return state


def _derived(data: Any) -> dict[str, np.ndarray]:
    """Collect MuJoCo's arrays of numbers, less those with one row per active constraint."""
    arrays = {name: getattr(data, name) for name in dir(data) if "efc" not in name}
    return {
        name: array
        for name, array in arrays.items()
        if isinstance(array, np.ndarray) and array.dtype == np.float64
    }


def _spaces(space: spaces.Space[Any]) -> Iterator[spaces.Space[Any]]:
    """Yield a space and the spaces it is made of, each of which has a generator."""
    yield space
    parts = getattr(space, "spaces", ())
    for part in parts.values() if isinstance(parts, dict) else parts:
        yield from _spaces(part)


def _encode(value: Any) -> Any:
    """Turn a value into plain ones, a pair of kind and content unless it is one itself."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list or kind is tuple:
        return kind.__name__, [_encode(item) for item in value]
    if kind is dict:
        return "dict", [(_encode(key), _encode(item)) for key, item in value.items()]
    if kind is np.random.Generator:
        return "generator", _encode(value.bit_generator.state)
    if isinstance(value, np.generic) or kind is np.ndarray:
        array = np.asarray(value)
        if array.dtype.kind in "biufcSU":
            content = (array.dtype.str, array.shape, array.tobytes().hex())
            return "array" if kind is np.ndarray else "scalar", content
    raise TypeError(f"cannot save a {kind.__name__}")


def _decode(value: Any) -> Any:
    if type(value) is not tuple:
        return value
    kind, content = value
    if kind == "list":
        return [_decode(item) for item in content]
    if kind == "tuple":
        return tuple(_decode(item) for item in content)
    if kind == "dict":
        return {_decode(key): _decode(item) for key, item in content}
    if kind == "generator":
        state = _decode(content)
        bit_generator = getattr(np.random, state["bit_generator"])()
        bit_generator.state = state
        return np.random.Generator(bit_generator)
    dtype, shape, digits = content
    array = np.frombuffer(bytes.fromhex(digits), dtype).reshape(shape).copy()
    return array if kind == "array" else array[()]
