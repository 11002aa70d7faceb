"""Train Ant with PPO: a policy that embeds a quantum neural network beside a classical one.

Stable-Baselines3's PPO on Ant-v4 or another Gymnasium environment, whose floor can be made to
change (--friction-period). Stopped at any moment, the same command goes on where it was.

python -m experiments.watch RUN out.mp4 renders an episode of a policy that a run has saved.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.processes import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.cli import parse as cli
from plasticity.errors import UsageError
from plasticity.protocol.arms import ArmConfig, Registry
from plasticity.protocol.experiment import Exports, Preset, Progress
from plasticity.protocol.optimizers import OPTIMIZERS, Adam
from plasticity.protocol.options import Options
from plasticity.rl.protocol import (
    COLUMNS,
    FILES,
    POLICIES,
    REMEDIES,
    Config,
    MlpPolicy,
    QnnPolicy,
    needed,
)
from plasticity.runs.experiment import Experiment

if TYPE_CHECKING:
    from plasticity.rl.trainer import PolicyArm

# The released program's numbers (quantum-plasticity, commit c3c6cb4), but for n_steps: the released
# 30,000,000 / 16 make one rollout by the untrained policy and a single update, so that no
# evaluation sees a trained policy. 2,048 is stable-baselines3's default, and so is the epsilon.
RELEASED = Preset(
    Config(
        seed=0, device="cpu", threads=1, env="Ant-v4", total_steps=30_000_000, num_envs=16,
        n_steps=2048, batch_size=128, gamma=0.99, gae_lambda=0.95, clip_range=0.2,
        evaluation_every=200_000, evaluation_episodes=10,
    ),
    {
        "mlp": ArmConfig(POLICIES["mlp"], Adam(learning_rate=1e-4, epsilon=1e-5), epochs=10),
        "qnn": ArmConfig(POLICIES["qnn"], Adam(learning_rate=2e-3, epsilon=1e-5), epochs=10),
    },
    "the numbers of the authors' program, but for rollouts of 2,048 steps",
)  # fmt: skip
# What differs between the arms for no reason is made equal: policy and value share a trunk, of
# which each takes one linear layer, and observations have unit norm. The layers are the policy's.
MATCHED = RELEASED.replace(
    {},
    "what differs between the arms for no reason is made equal",
    mlp={"network": MlpPolicy(pi=(), vf=(), shared=(1024, 256))},
)
# Chosen to finish within a minute, and to see both arms learn. (The quantum arm cannot balance the
# simpler InvertedPendulum: it does not see the sign of an observation.)
QUICK = RELEASED.replace(
    {
        "env": "Hopper-v5", "total_steps": 32_768, "num_envs": 4, "n_steps": 512,
        "batch_size": 64, "evaluation_every": 4_096,
    },
    "the small robot Hopper-v5; done within a minute",
    mlp={
        "network": MlpPolicy(pi=(64, 64), vf=(64, 64), shared=()),
        "optimizer": Adam(learning_rate=3e-4, epsilon=1e-5),
    },
    qnn={
        "network": QnnPolicy(num_qubits=4, depth=4, scale=5.0),
        "optimizer": Adam(learning_rate=1e-2, epsilon=1e-5),
    },
)  # fmt: skip


@dataclass(frozen=True)
class AntOptions(Options):
    """Those of experiments with environments."""

    arms: tuple[str, ...]
    """Which arms to train, in this order: names of networks, each with remedies after a plus."""
    env_processes: int | None = None
    """Processes to step the environments in, 0 for none beside the program's own; left out: one
    for each core."""

    def __post_init__(self) -> None:
        if self.env_processes is not None and self.env_processes < 0:
            raise UsageError(f"--env-processes {self.env_processes}: must be 0 or more")


def load(config: Config, options: AntOptions) -> Any:
    """Check the environment, and choose where its copies run."""
    with needed():
        from plasticity.rl.trainer import Environments
    return Environments(config, options.env_processes)


def check(config: Config, environments: Any, arm: ArmConfig) -> None:
    """Refuse a policy that is not for the environment, and remedies that are not for the policy."""
    environments.check(arm)


def build(
    config: Config, environments: Any, arm: ArmConfig, name: str, options: AntOptions
) -> PolicyArm:
    """Make an arm; this process's random states are the arm's from here on."""
    from plasticity.rl.trainer import PolicyArm

    return PolicyArm(config, environments, arm, name)


TRAINING = ("episode_steps", "episode_returns")
EVALUATION = ("evaluation_step", "evaluation_return")
EXPERIMENT = Experiment(
    name="ant",
    about=__doc__,
    presets={"released": RELEASED, "matched": MATCHED, "quick": QUICK},
    # Policies are trained by stable-baselines3, with its optimizer.
    registry=Registry(POLICIES, REMEDIES, optimizers={"adam": OPTIMIZERS["adam"]}),
    load=load,
    identify=lambda config, environments: {"env": environments.name},
    check=check,
    build=build,
    exports=Exports(
        {
            arm: {
                f"{file}_training_results.npy": TRAINING,
                f"{file}_evaluation_results.npy": EVALUATION,
            }
            for arm, file in FILES.items()
        },
        others={name: name for name in (*TRAINING, *EVALUATION)},
    ),
    panels=("evaluation_return", "return", "entropy"),
    columns=COLUMNS,
    options=AntOptions,
    progress=Progress(
        "step",
        "total_steps",
        lambda config: config.all_steps,
        lambda row: row["step"],
        "return",
    ),
    score=("return", "training return"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or render a policy that has been trained."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if "--watch" in arguments:
        from experiments import watch

        return watch.main([word for word in arguments if word != "--watch"])
    return cli.main(EXPERIMENT, arguments)


if __name__ == "__main__":
    sys.exit(main())
