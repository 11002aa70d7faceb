"""An episode of a saved policy as a video; what a run folder says is never imported or executed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import pickle
import sys
import typing
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
import imageio.v2
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from experiments.ant import Config, Watch
from experiments.parts.experiment import Failure, UsageError
from experiments.parts.policies import (
    make_evaluation_environment,
    make_gymnasium,
    make_model,
    seed_for,
)
from experiments.parts.running import library_errors, progress_bar
from plasticity.results.record import read_rows
from plasticity.rl.environments import MAX_FRICTION, MIN_FRICTION, set_friction

MAX_CONFIG = 10_000  # bytes; our own configs have fewer than 1,000
Parsed = TypeVar("Parsed")


@library_errors()
def watch(command: Watch) -> None:
    """Play an episode and write the video.

    Raises:
        UsageError: The environment's name would import something that was not said.
        Failure: There is no such policy, or nothing that renders or writes the video.
    """
    run, video = command.watch
    networks = [command.network] if command.network else ["quantum", "classical"]
    files = [run / f"{network}_{command.policy}_policy.zip" for network in networks]
    found = [file for file in files if file.exists()]
    if not found:
        raise Failure(f"{files[0]}: no such file; {run} is not a run folder, or has just begun")
    network = found[0].name.partition("_")[0]
    config = read_config(run / "config.json")
    check_environment(config.env, command.env)
    friction = None
    if config.friction_period is not None:
        friction = friction_of(run / network, command.policy)
    env = make_rendered(config.env, friction)
    model = load_policy(config, found[0], network)
    with contextlib.closing(env):
        steps, total = write_episode(env, model, video, command.seed)
    print(f"{network}, {command.policy} policy: return {total:.1f} in {steps} steps: {video}")


def read_config(file: Path) -> Config:
    """Read a run folder's config back, which may hold anything."""
    try:
        with open(file, "rb") as content:
            text = content.read(MAX_CONFIG + 1)
        if len(text) > MAX_CONFIG:
            raise ValueError(f"longer than {MAX_CONFIG} bytes")
        return parsed(Config, json.loads(text) | {"device": "cpu"})
    except (OSError, ValueError, TypeError, RecursionError, UsageError) as error:
        reason = message_of(error)
        raise Failure(f"{file}: not the config of a run of this experiment ({reason})") from error


def parsed(kind: type[Parsed], content: dict[str, Any]) -> Parsed:
    """Make a dataclass of JSON.

    Raises:
        TypeError: A field is missing, unknown, or not of its type.
    """
    values: dict[str, Any] = {}
    expected: Any
    for name, expected in typing.get_type_hints(kind).items():
        if name not in content:
            raise TypeError(f"{name} is missing")
        value = content[name]
        if isinstance(expected, type) and dataclasses.is_dataclass(expected):
            value = parsed(expected, value)
        elif isinstance(value, list):
            value = tuple(value)
        if expected == tuple[int, ...]:
            fits = isinstance(value, tuple) and all(type(item) is int for item in value)
        else:
            allowed = (int, float) if expected is float else expected
            fits = isinstance(value, allowed) and type(value) is not bool
        if not fits:
            raise TypeError(f"{name} is {value!r:.40}")
        values[name] = value
    if unknown := set(content) - set(values):
        raise TypeError(f"{min(unknown)!r:.40} is unknown")
    return kind(**values)


def check_environment(name: str, said: str | None) -> None:
    """Refuse an environment that another than the user has chosen to import.

    Gymnasium imports the module of a name MODULE:NAME; a run folder may come from anywhere.

    Raises:
        UsageError: It was not said on the command line, or something else was.
    """
    if said not in (name, None):
        raise UsageError(f"--env {said}: the run's environment is {name!r}")
    if ":" in name and said is None:
        module = name.partition(":")[0]
        raise UsageError(
            f"the run's environment is {name!r}: if its module {module!r} may be imported, say so "
            "by --env and that name"
        )


def friction_of(arm: Path, policy: str) -> float:
    """Return the floor's friction when a policy was saved: the best at its evaluation, or the last.

    Raises:
        Failure: No row tells it.
    """
    try:
        rows = read_rows(arm)
        if policy == "best":  # of equals the first, as they were saved
            evaluated = [row for row in rows if "evaluation_return" in row]
            row = max(evaluated, key=lambda row: row["evaluation_return"], default=None)
        else:
            row = rows[-1] if rows else None
        friction = row["friction"] if row is not None else None
    except (KeyError, TypeError, RecursionError) as error:
        raise Failure(f"{arm / 'rows.jsonl'}: its rows do not tell the floor's friction") from error
    if friction is None:
        raise Failure(
            f"{arm / 'rows.jsonl'}: no row tells the floor's friction yet; watch again after the "
            "first update"
        )
    if type(friction) not in (int, float) or not MIN_FRICTION <= friction <= MAX_FRICTION:
        raise Failure(f"{arm / 'rows.jsonl'}: the floor's friction is {friction!r:.40}")
    return friction


def load_policy(config: Config, file: Path, network: str) -> PPO:
    """Read a saved policy's weights; nothing is unpickled.

    Raises:
        Failure: The file holds no weights, or not those of the config.
    """
    try:
        content = uncompressed(file.read_bytes()).read("policy.pth")
        uncompressed(content)
        if num_weights(config, network) > len(content) / 4:
            raise ValueError("config.json asks for more weights than it holds")
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        # Only the policy is wanted, not a buffer for rollouts as large as the config says.
        small = dataclasses.replace(config, num_envs=1, n_steps=2, batch_size=2)
        env = DummyVecEnv([lambda: make_evaluation_environment(config.env)])
        model = make_model(small, network, env)
        model.policy.load_state_dict(weights)
    except pickle.UnpicklingError as error:  # torch's own message says how to execute it
        raise Failure(f"{file}: not a policy of this run (it holds more than weights)") from error
    except Exception as error:
        raise Failure(f"{file}: not a policy of this run ({message_of(error)})") from error
    return model


def uncompressed(content: bytes) -> zipfile.ZipFile:
    """Open a zip archive; that of a policy has nothing compressed, and fills no memory.

    Raises:
        ValueError: It unpacks to more than it is.
    """
    archive = zipfile.ZipFile(io.BytesIO(content))
    if sum(member.file_size for member in archive.infolist()) > len(content):
        raise ValueError("it unpacks to more than it is")
    return archive


def num_weights(config: Config, network: str) -> int:
    """Count the weights of a policy, less those that the environment decides."""
    if network == "quantum":
        qubits, depth = config.quantum.num_qubits, config.quantum.depth
        return 2 ** min(qubits, 62) + 15 * qubits * depth
    shared, total = config.classical.shared, 0
    for hidden in (config.classical.pi, config.classical.vf):
        widths = (*shared, *hidden)
        total += sum(widths) + sum(a * b for a, b in itertools.pairwise(widths))
    return total // 2 if shared else total  # which both have


def make_rendered(name: str, friction: float | None) -> gymnasium.Env:
    """Make an environment that draws itself off-screen, on a floor of that friction if any."""
    if sys.platform == "linux" and "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")  # the default needs a display
    try:
        env = make_gymnasium(name, render_mode="rgb_array")
        env.reset()
        env.render()
    except Exception as error:
        raise Failure(
            f"{name!r:.100} cannot be rendered here ({message_of(error)}): MuJoCo draws off-screen "
            "with EGL or OSMesa, if installed and chosen by the variable MUJOCO_GL=egl or osmesa"
        ) from error
    if friction is not None:
        set_friction(env, friction)
    return env


def write_episode(env: gymnasium.Env, model: PPO, file: Path, seed: int) -> tuple[int, float]:
    """Play an episode, write its frames as they come, and return its length and return."""
    rate = float(env.metadata.get("render_fps", 30))
    pace = {"fps": rate} if file.suffix == ".mp4" else {"duration": 1000 / rate}
    try:
        writer = imageio.v2.get_writer(file, **pace)  # type: ignore[arg-type]
    except OSError as error:
        raise Failure(f"{file}: {message_of(error)}") from error
    steps, total, over = 0, 0.0, False
    observation, _ = env.reset(seed=seed_for(seed, "watch"))
    limit = env.spec.max_episode_steps if env.spec else None
    with writer, progress_bar(total=limit, unit="frame", desc="rendering") as bar:
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            writer.append_data(np.asarray(env.render()))
            steps, total = steps + 1, total + float(reward)
            over = terminated or truncated
            bar.update()
    return steps, total


def message_of(error: Exception) -> str:
    """Return the first line of an error's message, or its kind; nothing that moves a cursor."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return "".join(letter if letter.isprintable() else "?" for letter in line)
