"""An episode of a saved policy as a video."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import imageio.v2
import numpy as np
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import DummyVecEnv

from experiments.ant import Classical, Config, Quantum
from experiments.cli import in_one_line
from experiments.experiment import Failure, UsageError
from experiments.policies import make_evaluation_environment, make_gymnasium, make_model, seed_for
from experiments.running import progress_bar
from plasticity.environments import set_friction
from plasticity.record import read_rows


@dataclass(frozen=True)
class Watch:
    """Render an episode of a saved policy, by its most likely actions."""

    watch: tuple[Path, Path]
    """Run folder, and the video to write (.mp4, .gif)."""
    network: Literal["quantum", "classical"] | None = None
    """Whose policy; left out: the quantum one, if there is one."""
    policy: Literal["best", "last"] = "best"
    """The one with the highest evaluation return, or the last."""
    seed: int = 0
    """Of the episode's start."""


def watch(arguments: Sequence[str]) -> None:
    """Read the command line, play and write the video.

    Raises:
        UsageError: The command line is wrong.
        Failure: There is no such policy, or nothing that renders or writes the video.
    """
    if {"-h", "--help"} & {*arguments}:  # or it would be taken for the run folder
        arguments = ["--help"]
    command: Watch = in_one_line(
        tyro.cli, Watch, prog="python -m experiments.ant", description=Watch.__doc__, args=arguments
    )
    run, video = command.watch
    if video.suffix not in (".mp4", ".gif"):
        raise UsageError(f"--watch {video}: the video is an .mp4 or a .gif")
    networks = [command.network] if command.network else ["quantum", "classical"]
    files = [run / f"{network}_{command.policy}_policy.zip" for network in networks]
    found = [file for file in files if file.exists()]
    if not found:
        raise Failure(f"{files[0]}: no such file; {run} is not a run folder, or has just begun")
    network = found[0].name.partition("_")[0]
    config = read_config(run / "config.json")
    env = make_rendered(config, run / network)
    model = load_policy(config, found[0], network)
    with contextlib.closing(env):
        steps, total = write_episode(env, model, video, command.seed)
    print(f"{network}, {command.policy} policy: return {total:.1f} in {steps} steps: {video}")


def read_config(file: Path) -> Config:
    """Read a run folder's config back."""
    try:
        content = tuples(json.loads(file.read_text()))
        parts = {"classical": Classical, "quantum": Quantum}
        content |= {name: part(**content[name]) for name, part in parts.items()}
        return Config(**content | {"device": "cpu"})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"{file}: not the config of a run of this experiment ({error})") from error


def tuples(value: Any) -> Any:
    """Turn JSON's lists into tuples."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


def load_policy(config: Config, file: Path, network: str) -> PPO:
    """Read a saved policy's weights; nothing is unpickled."""
    model = make_model(
        config, network, DummyVecEnv([lambda: make_evaluation_environment(config.env)])
    )
    try:
        parameters = load_from_zip_file(file, load_data=False, device="cpu")[1]
        model.set_parameters(parameters, exact_match=True, device="cpu")
    except Exception as error:
        raise Failure(f"{file}: not a policy of this run ({message_of(error)})") from error
    return model


def make_rendered(config: Config, arm: Path) -> gymnasium.Env:
    """Make an environment that draws itself off-screen, on the floor as it was at last."""
    if sys.platform == "linux" and "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")  # the default needs a display
    try:
        env = make_gymnasium(config.env, render_mode="rgb_array")
        env.reset()
        env.render()
    except Exception as error:
        raise Failure(
            f"{config.env} cannot be rendered here ({message_of(error)}): MuJoCo draws off-screen "
            "with EGL or OSMesa, if installed and chosen by the variable MUJOCO_GL=egl or osmesa"
        ) from error
    if config.friction_period is not None:
        set_friction(env, read_rows(arm)[-1]["friction"])
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
    """Return the first line of an error's message, or its kind."""
    return (str(error).splitlines() or [type(error).__name__])[0]
