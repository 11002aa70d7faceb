"""An episode of a saved policy as a video; what a run folder says is never imported or executed."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import itertools
import os
import pickle
import sys
import traceback
import uuid
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v2
import imageio_ffmpeg  # type: ignore[import-untyped]
import mujoco  # type: ignore[import-untyped]
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from plasticity.errors import Failure, UsageError
from plasticity.networks.network import Network
from plasticity.protocol.arms import ArmConfig, Registry
from plasticity.protocol.serialization import from_json
from plasticity.results.disk import UnfitFile, read_file
from plasticity.results.names import arm_name, printable
from plasticity.results.record import RunFolder, read_config, read_rows, read_run
from plasticity.rl.environments import MAX_FRICTION, MIN_FRICTION, set_friction
from plasticity.rl.protocol import POLICIES, REMEDIES, Config, MlpPolicy, QnnPolicy
from plasticity.rl.trainer import make_evaluation_environment, make_gymnasium, make_model, seed_for
from plasticity.runs.progress import progress_bar

EXPERIMENT_ARMS = Registry(POLICIES, REMEDIES)
MAX_POLICY_BYTES = 2**31
"""Of a saved policy's file: that of 24 qubits on Ant, with its optimizer's state, has less."""


def watch(
    run: Path,
    video: Path,
    *,
    arm: str | None = None,
    policy: str = "best",
    env_said: str | None = None,
    seed: int = 0,
    steps: int | None = None,
    size: tuple[int, int] | None = None,
) -> str:
    """Play an episode of a saved policy and write the video; say in a line what it shows.

    Args:
        run: The run folder.
        video: The file to write.
        arm: Name of the arm, or of its folder; None: the quantum one, if there is one.
        policy: ``"best"`` or ``"last"``.
        env_said: What the user says is the environment.
        seed: Of the episode's start.
        steps: At most so many; None: the whole episode.
        size: Width and height of the frames in pixels; None: the environment's own.

    Raises:
        UsageError: The environment's name would import something that was not said.
        Failure: There is no such policy, or nothing that renders or writes the video.
    """
    if not video.parent.is_dir():
        raise Failure(f"{video}: there is no folder {video.parent}; make it first")
    folder = read_run(run)
    config = read_protocol(folder)
    path, file = find_policy(folder, arm, policy)
    value = read_arm(path)
    check_environment(config.env, env_said)
    friction = friction_of(path, policy) if config.friction_period is not None else None
    # The policy first, and used once. To make it, torch imports Triton where that is installed.
    # Triton has an LLVM of its own: the process dies if Mesa has loaded another before, to draw.
    model = load_policy(config, value, file)
    model.predict(model.observation_space.sample(), deterministic=True)
    env = make_rendered(config.env, friction, size)
    with contextlib.closing(env):
        done, total = write_episode(env, model, video, seed, steps)
    name = printable(arm_name(path))
    return f"{name}, {policy} policy: return {total:.1f} in {done} steps: {video}"


def read_protocol(folder: RunFolder) -> Config:
    """Make the config of a run folder, which may hold anything."""
    file, content = folder.path / "config.json", folder.config
    try:
        if content.get("experiment") != "ant":
            raise ValueError(f"experiment {content.get('experiment')!r:.40}")
        shared = {key: value for key, value in content.items() if key != "experiment"}
        return from_json(Config, shared | {"device": "cpu", "total_steps": 1})
    except (ValueError, TypeError, RecursionError, UsageError) as error:
        reason = message_of(error)
        raise Failure(f"{file}: not the config of a run of this experiment ({reason})") from error


def find_policy(folder: RunFolder, arm: str | None, policy: str) -> tuple[Path, Path]:
    """Return the folder of an arm that has saved a policy, and the policy's file.

    Raises:
        Failure: There is none.
        UsageError: There are several of one name.
    """
    found = {
        path: file
        for path in folder.arms()
        if arm in (None, arm_name(path), path.name)
        for file in path.glob(f"*_{policy}_policy.zip")
    }
    if not found:
        whose = f"arm {arm}" if arm else "arm"
        raise Failure(f"{folder.path}: no {whose} has saved a policy here yet")
    # Quantum arms first.
    path = min(found, key=lambda path: (not arm_name(path).startswith("qnn"), path.name))
    namesakes = [other.name for other in found if arm_name(other) == arm_name(path)]
    if len(namesakes) > 1:
        raise UsageError(f"--arm: name one of {', '.join(namesakes):.200}")
    return path, found[path]


def read_arm(path: Path) -> ArmConfig:
    """Make the arm of a folder, which may hold anything."""
    file = path / "arm.json"
    try:
        return EXPERIMENT_ARMS.from_json(read_config(file))
    except (ValueError, TypeError, RecursionError) as error:
        raise Failure(f"{file}: not an arm of this experiment ({message_of(error)})") from error


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
    return float(friction)


def load_policy(config: Config, arm: ArmConfig, file: Path) -> PPO:
    """Read a saved policy's weights; nothing is unpickled.

    Raises:
        Failure: The file holds no weights, or not those of the config; or there is no such
            environment.
    """
    try:
        env = DummyVecEnv([lambda: make_evaluation_environment(config.env)])
    except Exception as error:
        reason = message_of(error)
        drop_frames(error)
        raise Failure(f"{config.env!r:.100} cannot be made here ({reason:.200})") from error
    try:
        content = uncompressed(read_file(file, MAX_POLICY_BYTES)).read("policy.pth")
        uncompressed(content)
        if num_weights(arm.network) > len(content) / 4:
            raise ValueError("arm.json asks for more weights than it holds")
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        # Only the policy is wanted, not a buffer for rollouts as large as the config says.
        small = dataclasses.replace(config, num_envs=1, n_steps=2, batch_size=2)
        model = make_model(small, arm, env)
        model.policy.load_state_dict(weights)
    except UnfitFile as error:
        raise Failure(f"{file}: not a policy of this run ({error.strerror})") from error
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


def num_weights(network: Network) -> int:
    """Count the weights of a policy, less those that the environment decides."""
    if isinstance(network, QnnPolicy):
        return int(2 ** min(network.num_qubits, 62) + 15 * network.num_qubits * network.depth)
    assert isinstance(network, MlpPolicy)
    total = 0
    for hidden in (network.pi, network.vf):
        widths = (*network.shared, *hidden)
        total += sum(widths) + sum(a * b for a, b in itertools.pairwise(widths))
    return total // 2 if network.shared else total  # which both have


def make_rendered(
    name: str, friction: float | None, size: tuple[int, int] | None = None
) -> gymnasium.Env:
    """Make an environment that draws itself off-screen, on a floor of that friction if any."""
    options: dict[str, Any] = {"render_mode": "rgb_array"}
    if size is not None:
        options |= {"width": size[0], "height": size[1]}
    if not os.environ.get("MUJOCO_GL"):
        os.environ.pop("MUJOCO_GL", None)  # as if it were not there, which gymnasium does not do
        if sys.platform == "linux" and "DISPLAY" not in os.environ:
            os.environ["MUJOCO_GL"] = "egl"  # the default needs a display
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the renderer's, of what the error tells
            env = make_gymnasium(name, **options)
            env.reset()
            env.render()
    except Exception as error:
        reason = message_of(error)
        drop_frames(error)
        way_out = "its constructor must accept render_mode='rgb_array'"
        if size is not None and isinstance(error, TypeError):
            way_out = "for --size, its constructor must accept width and height"
        elif uses_mujoco(name):
            way_out = (
                "MuJoCo draws off-screen with EGL or OSMesa, if installed and chosen by the "
                "variable MUJOCO_GL=egl or osmesa"
            )
        raise Failure(
            f"{name!r:.100} cannot be rendered here ({reason:.200}): {way_out}"
        ) from error
    if friction is not None:
        set_friction(env, friction)
    return env


def uses_mujoco(name: str) -> bool:
    """Return whether an environment, which need not render, has a model of MuJoCo."""
    try:
        with contextlib.closing(make_gymnasium(name)) as env:
            return isinstance(getattr(env.unwrapped, "model", None), mujoco.MjModel)
    except Exception as error:  # what is wrong with it has been told
        drop_frames(error)
        return False


@contextlib.contextmanager
def silent_ends() -> Iterator[None]:
    """Print no errors of objects that are let go of."""
    printing = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    try:
        yield
    finally:
        sys.unraisablehook = printing


def drop_frames(error: Exception) -> None:
    """Let go of what an error's frames hold, in silence.

    The renderer of gymnasium that could not be made is among it, and ends in an error of its own;
    so does a writer of videos that could not write.
    """
    with silent_ends():
        traceback.clear_frames(error.__traceback__)
        gc.collect()


def write_episode(
    env: gymnasium.Env, model: PPO, file: Path, seed: int, steps: int | None
) -> tuple[int, float]:
    """Play an episode, write its frames as they come, and return its length and return.

    They are written aside. The file is there, or replaced, once the video is whole.

    Raises:
        Failure: The video cannot be written.
    """
    target = file.resolve()  # a link stays one
    aside = target.with_name(f".{target.stem}-{uuid.uuid4().hex[:8]}{file.suffix}")
    try:
        with silent_ends():
            if target.exists() and not target.is_file():
                raise OSError("there is something that is no file")
            done, total = _write_episode(env, model, aside, seed, steps)
            os.replace(aside, target)
            return done, total
    except OSError as error:  # of the disk, or of the program that makes an .mp4
        drop_frames(error)
        reason = message_of(error).replace(str(aside), str(target))
        raise Failure(f"{file}: cannot be written ({reason})") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _write_episode(
    env: gymnasium.Env, model: PPO, file: Path, seed: int, limit: int | None
) -> tuple[int, float]:
    rate = float(env.metadata.get("render_fps", 30))
    # Sizes are kept as they are; by default they are made multiples of 16.
    pace = {"fps": rate, "macro_block_size": 2}
    if file.suffix == ".gif":
        pace = {"duration": 1000 / rate}
    writer = imageio.v2.get_writer(file, **pace)  # type: ignore[arg-type]
    steps, total, over = 0, 0.0, False
    observation, _ = env.reset(seed=seed_for(seed, "watch"))
    of_env = env.spec.max_episode_steps if env.spec else None
    longest = min((n for n in (limit, of_env) if n is not None), default=None)
    # Closed also where something fails, which its own "with" does not: else ffmpeg would go on, and
    # make the file after it was removed.
    with (
        contextlib.closing(writer),
        progress_bar(total=longest, unit="frame", desc="rendering") as bar,
    ):
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            writer.append_data(np.asarray(env.render()))
            steps, total = steps + 1, total + float(reward)
            over = terminated or truncated or steps == limit
            bar.update()
    if file.suffix == ".mp4":
        check_frames(file, steps)
    return steps, total


def check_frames(file: Path, number: int) -> None:
    """Look whether a video is whole: imageio does not ask whether ffmpeg has written it.

    Raises:
        OSError: It is not.
    """
    try:
        written, _ = imageio_ffmpeg.count_frames_and_secs(str(file))
    except (RuntimeError, ValueError):  # it is no video, or has no frames
        written = 0
    if written != number:
        raise OSError(f"{written} of {number} frames are in it")


def message_of(error: Exception) -> str:
    """Return the first line of an error's message, or its kind; nothing that moves a cursor."""
    return printable((str(error).splitlines() or [type(error).__name__])[0])
