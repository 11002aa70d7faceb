"""What tests of reinforcement learning share: short runs, and where they lie."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from experiments import ant
from experiments.ant import EXPERIMENT, Config
from experiments.cli import parse as cli
from plasticity.protocol.arms import ArmConfig
from plasticity.protocol.experiment import Preset
from plasticity.results.names import folder_name
from plasticity.rl import trainer as policies
from tests.experiments.runs import arm_folder

ARMS = ("mlp", "qnn")
OF_ARMS = ("--mlp.epochs=2", "--mlp.pi=8", "--mlp.vf=8", "--qnn.epochs=2", "--qnn.num-qubits=2",
           "--qnn.depth=2")  # fmt: skip
TINY = (
    "--env=tests.short:ShortPendulum-v0", "--total-steps=192", "--num-envs=3", "--n-steps=16",
    "--batch-size=16", "--evaluation-every=100", "--evaluation-episodes=2", *OF_ARMS,
    "--env-processes=0",
)  # fmt: skip
"""Four updates of 48 steps."""
ANT = (
    *TINY,
    "--env=tests.short:ShortAnt-v0",
    "--qnn.num-qubits=5",
    "--total-steps=384",
    "--n-steps=32",
)
"""Four updates of 96 steps."""
EXPORTS = {
    arm: [f"{file}_{kind}_results.npy" for kind in ("training", "evaluation")]
    for arm, file in (("mlp", "classical"), ("qnn", "quantum"))
}


def run(*arguments: str) -> int:
    return ant.main([*arguments])


def only(arguments: tuple[str, ...], arm: str) -> tuple[str, ...]:
    """Return a command for one arm, without what it says of the other."""
    others = tuple(f"--{other}." for other in ARMS if other != arm)
    return (*(word for word in arguments if not word.startswith(others)), f"--arms={arm}")


def folder_of(*arguments: str) -> Path:
    """Return the run folder of a command."""
    choice, options = cli.parse(EXPERIMENT, arguments)
    preset, config = choice.preset, choice.config
    identity = EXPERIMENT.identity(config, SimpleNamespace(name=config.env))
    return Path(options.results) / folder_name(f"ant-{preset}-seed{config.seed}", identity)


def results(folder: Path) -> dict[str, bytes]:
    """All numbers of a run: rows and exports, not the files that hold times."""
    return {
        f"{arm}/{name}": (arm_folder(folder, arm) / name).read_bytes()
        for arm in ARMS
        for name in ("rows.jsonl", *EXPORTS[arm])
    }


@contextlib.contextmanager
def policy_arm(preset: Preset[Config], name: str) -> Iterator[policies.PolicyArm]:
    """Make an arm of a preset, of short rollouts."""
    config = dataclasses.replace(preset.config, n_steps=128)
    with ready(config, preset.arms[name], name) as arm:
        yield arm


@contextlib.contextmanager
def ready(config: Config, arm: ArmConfig, name: str) -> Iterator[policies.PolicyArm]:
    """Make an arm, which steps its environments in this process."""
    environments = policies.Environments(config, 0)
    with contextlib.closing(policies.PolicyArm(config, environments, arm, name)) as made:
        yield made
