"""Ant with PPO: a policy that embeds a quantum neural network beside a classical one.

Stable-Baselines3's PPO on Ant-v4 or another Gymnasium environment, whose floor can be made to
change (--friction-period). Stopped at any moment, the same command goes on where it was.

python -m experiments.ant --watch RUN out.mp4 renders an episode of a policy that a run has saved.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.parts import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from experiments.parts import cli
from experiments.parts.experiment import (
    Experiment,
    Failure,
    Options,
    Panel,
    Progress,
    Setting,
    UsageError,
)

if TYPE_CHECKING:
    from experiments.parts.policies import PolicyArm


@dataclass(frozen=True)
class Classical:
    """The classical arm: layers of tanh units."""

    pi: tuple[int, ...] = (1024, 256)
    """Units of each hidden layer of the policy."""
    vf: tuple[int, ...] = (256, 256)
    """Units of each hidden layer of the value."""
    shared: tuple[int, ...] = ()
    """Units of hidden layers before those, shared by policy and value, on observations scaled to
    unit norm; none: each begins with the observations as they are."""
    learning_rate: float = 1e-4
    """Of Adam."""


@dataclass(frozen=True)
class Quantum:
    """The quantum arm: probabilities of a circuit's basis states, and linear layers."""

    num_qubits: int = 9
    """Observations are padded to 2**num_qubits amplitudes."""
    depth: int = 12
    """Layers of the ring of gates."""
    scale: float = 5.0
    """Features are tanh(scale * probability)."""
    learning_rate: float = 2e-3
    """Of Adam."""


@dataclass(frozen=True)
class Config(Setting):
    """What decides the numbers. No default is a matter of taste: see PRESETS."""

    env: str = "Ant-v4"
    """Gymnasium environment, of a box of observations and a box of actions."""
    friction_period: int | None = None
    """Steps of all environments together after which the floor's friction is redrawn from 0.02 to
    2, log-uniformly (Dohare et al. 2024: 2,000,000); none: it stays."""
    total_steps: int = 30_000_000
    """Steps of all environments together; the last rollout is finished."""
    num_envs: int = 16
    """Environments side by side."""
    n_steps: int = 2048
    """Steps of each environment before an update."""
    batch_size: int = 128
    """Steps a minibatch."""
    epochs: int = 10
    """Passes over a rollout's steps in an update."""
    gamma: float = 0.99
    """Discount of rewards."""
    gae_lambda: float = 0.95
    """Of generalized advantage estimation."""
    clip_range: float = 0.2
    """Of the ratio of new and old probability of an action."""
    evaluation_every: int = 200_000
    """Steps between evaluations."""
    evaluation_episodes: int = 10
    """Episodes of an evaluation, by the most likely actions."""
    classical: Classical = Classical()
    """The classical arm."""
    quantum: Quantum = Quantum()
    """The quantum arm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pi", "vf", "shared"):
            units = getattr(self.classical, name)
            if min(units, default=1) < 1:
                raise UsageError(f"--classical.{name} {units}: at least one unit a layer")
        if self.quantum.num_qubits < 2:
            raise UsageError(f"--quantum.num-qubits {self.quantum.num_qubits}: at least 2")
        for name in ("gamma", "gae_lambda"):
            if getattr(self, name) > 1:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} {getattr(self, name)}: at most 1")
        if self.rollout % self.batch_size:
            raise UsageError(
                f"--batch-size {self.batch_size}: must divide the {self.rollout} steps of a rollout"
            )
        if self.friction_period is not None and self.friction_period < self.num_envs:
            raise UsageError(
                f"--friction-period {self.friction_period}: at least a step of each of "
                f"{self.num_envs} environments"
            )

    @property
    def rollout(self) -> int:
        """Steps of all environments between two updates."""
        return self.num_envs * self.n_steps

    @property
    def all_steps(self) -> int:
        """Steps of the whole rollouts that reach ``total_steps``."""
        return -(-self.total_steps // self.rollout) * self.rollout


# The released program's numbers (quantum-plasticity, commit c3c6cb4) are Config's defaults, but for
# n_steps: the released 30,000,000 / 16 make one rollout by the untrained policy and a single
# update, so that no evaluation sees a trained policy. 2,048 is stable-baselines3's default.
RELEASED = Config()
# What differs between the arms for no reason is made equal: policy and value share a trunk, of
# which each takes one linear layer, and observations have unit norm. The layers are the policy's.
MATCHED = dataclasses.replace(RELEASED, classical=Classical(pi=(), vf=(), shared=(1024, 256)))
# Chosen to finish within a minute, and to see both arms learn. (The quantum arm cannot balance the
# simpler InvertedPendulum: it does not see the sign of an observation.)
QUICK = dataclasses.replace(
    RELEASED, env="Hopper-v5", total_steps=32_768, num_envs=4, n_steps=512,
    batch_size=64, evaluation_every=4_096,
    classical=Classical(pi=(64, 64), vf=(64, 64), learning_rate=3e-4),
    quantum=Quantum(num_qubits=4, depth=4, learning_rate=1e-2),
)  # fmt: skip


@dataclass(frozen=True)
class AntOptions(Options):
    """Those of experiments with environments."""

    env_processes: int | None = None
    """Processes to step the environments in, 0 for none beside the program's own; left out: one
    for each core."""

    def __post_init__(self) -> None:
        if self.env_processes is not None and self.env_processes < 0:
            raise UsageError(f"--env-processes {self.env_processes}: must be 0 or more")


@contextlib.contextmanager
def needed() -> Iterator[None]:
    """Say what to install where an import fails."""
    try:
        yield
    except ImportError as error:
        raise Failure(
            f"this needs stable-baselines3, gymnasium and mujoco ({error}): "
            "pip install 'quantum-plasticity[rl]'"
        ) from error


def load(config: Config, options: AntOptions) -> Any:
    """Check the environment, and choose where its copies run."""
    with needed():
        from experiments.parts.policies import Environments
    return Environments(config, options.env_processes)


def build(config: Config, environments: Any, network: str) -> PolicyArm:
    """Make an arm; this process's random states are the arm's from here on."""
    from experiments.parts.policies import PolicyArm

    return PolicyArm(config, environments, network)


EXPERIMENT = Experiment(
    name="ant",
    about=__doc__,
    presets={"released": RELEASED, "matched": MATCHED, "quick": QUICK},
    networks={"classical": "classical (MLP)", "quantum": "quantum (QNN)"},
    load=load,
    identify=lambda config, environments: dataclasses.asdict(config) | {"env": environments.name},
    build=build,
    exports={
        network: {
            f"{network}_training_results.npy": ("episode_steps", "episode_returns"),
            f"{network}_evaluation_results.npy": ("evaluation_step", "evaluation_return"),
        }
        for network in ("classical", "quantum")
    },
    panels=(
        Panel(
            "evaluation_return",
            "return of an evaluation episode",
            samples="evaluation_returns",
            abscissa="evaluation_step",
        ),
        Panel("return", "mean return of training episodes"),
        Panel("entropy", "entropy of the policy (nats)"),
    ),
    options=AntOptions,
    progress=Progress("step", lambda config: config.all_steps, lambda row: row["step"], "return"),
    score=("return", "training return"),
)


@dataclass(frozen=True)
class Watch:
    """Render an episode of a saved policy, by its most likely actions."""

    watch: tuple[Path, Path]
    """Run folder, and the video to write (.mp4, .gif)."""
    network: Literal["quantum", "classical"] | None = None
    """Whose policy; left out: the quantum one, if there is one."""
    policy: Literal["best", "last"] = "best"
    """The one with the highest evaluation return, or the last."""
    env: str | None = None
    """The run's environment, to be said if its name is MODULE:NAME: the module is imported, and
    what is imported is for you to say, not for a folder."""
    seed: int = 0
    """Of the episode's start."""

    def __post_init__(self) -> None:
        _, video = self.watch
        if video.suffix not in (".mp4", ".gif"):
            raise UsageError(f"--watch {video}: the video is an .mp4 or a .gif")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or render a policy that has been trained."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if "--watch" not in arguments:
        return cli.main(EXPERIMENT, arguments)
    return cli.status_of(lambda: render(parse_watch(arguments)))


def parse_watch(arguments: Sequence[str]) -> Watch:
    """Read the command line of ``--watch``.

    Raises:
        UsageError: With one line that says what is wrong.
        SystemExit: With status 0, after ``--help``.
    """
    if {"-h", "--help"} & {*arguments}:  # or it would be taken for the run folder
        arguments = ["--help"]
    return cli.in_one_line(
        tyro.cli, Watch, prog="python -m experiments.ant", description=Watch.__doc__, args=arguments
    )


def render(command: Watch) -> None:
    """Render a policy."""
    with needed():
        from experiments.watch import watch

    watch(command)


if __name__ == "__main__":
    sys.exit(main())
