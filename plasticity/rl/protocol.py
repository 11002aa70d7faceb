"""What decides the numbers of reinforcement learning: the protocol, and the policies' options.

What is made of them, and takes seconds to import, is in ``plasticity.rl.trainer``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from plasticity.errors import Failure, UsageError
from plasticity.learning.column import FRACTION, NONNEGATIVE, Column
from plasticity.learning.remedy import Remedy
from plasticity.networks.network import Network
from plasticity.protocol.options import MAY_BE_EMPTY, Setting
from plasticity.remedies.penalties import L2
from plasticity.remedies.steps import EqualBetas
from plasticity.rl.remedies import ContinualBackprop, LayerNorm, ReDo


@dataclass(frozen=True, kw_only=True)
class Config(Setting):
    """What the arms share."""

    env: str
    """Gymnasium environment, of a box of observations and a box of actions."""
    friction_period: int | None = None
    """Steps of all environments together after which the floor's friction is redrawn from 0.02 to
    2, log-uniformly (Dohare et al. 2024: 2,000,000); none: it stays."""
    total_steps: int
    """Steps of all environments together; the last rollout is finished. A run can be made longer
    later."""
    num_envs: int
    """Environments side by side."""
    n_steps: int
    """Steps of each environment before an update."""
    batch_size: int
    """Steps a minibatch."""
    gamma: float
    """Discount of rewards."""
    gae_lambda: float
    """Of generalized advantage estimation."""
    clip_range: float
    """Of the ratio of new and old probability of an action."""
    evaluation_every: int
    """Steps between evaluations."""
    evaluation_episodes: int
    """Episodes of an evaluation, by the most likely actions."""

    def __post_init__(self) -> None:
        super().__post_init__()
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


@dataclass(frozen=True)
class MlpPolicy(Network):
    """Act by layers of tanh units."""

    pi: Annotated[tuple[int, ...], MAY_BE_EMPTY]
    """Units of each hidden layer of the policy."""
    vf: Annotated[tuple[int, ...], MAY_BE_EMPTY]
    """Units of each hidden layer of the value."""
    shared: Annotated[tuple[int, ...], MAY_BE_EMPTY]
    """Units of hidden layers before those, shared by policy and value, on observations scaled to
    unit norm; none: each begins with the observations as they are."""

    def __post_init__(self) -> None:
        for name in ("pi", "vf", "shared"):
            units = getattr(self, name)
            if min(units, default=1) < 1:
                raise ValueError(f"{name} {units}: at least one unit a layer")

    def policy_options(self) -> dict[str, Any]:
        """Return stable-baselines3's ``policy_kwargs``."""
        from plasticity.rl.features import MlpFeatures

        options: dict[str, Any] = {"net_arch": {"pi": list(self.pi), "vf": list(self.vf)}}
        if self.shared:
            options["features_extractor_class"] = MlpFeatures
            options["features_extractor_kwargs"] = {"hidden": self.shared}
        return options


@dataclass(frozen=True)
class QnnPolicy(Network):
    """Act by the probabilities of a circuit's basis states, and linear layers."""

    num_qubits: int
    """Observations are padded to 2**num_qubits amplitudes."""
    depth: int
    """Layers of the ring of gates."""
    scale: float
    """Features are tanh(scale * probability)."""

    def __post_init__(self) -> None:
        if not 2 <= self.num_qubits <= 24:  # a row of the last linear layers has 2**num_qubits
            raise ValueError(f"num-qubits {self.num_qubits}: must be 2 to 24")

    def policy_options(self) -> dict[str, Any]:
        """Return stable-baselines3's ``policy_kwargs``."""
        from plasticity.rl.features import QuantumFeatures

        return {
            "net_arch": {"pi": [], "vf": []},
            "features_extractor_class": QuantumFeatures,
            "features_extractor_kwargs": {
                "num_qubits": self.num_qubits,
                "depth": self.depth,
                "scale": self.scale,
            },
        }


COLUMNS = (
    Column(
        "evaluation_return",
        "return of an evaluation episode",
        logarithmic=False,
        samples="evaluation_returns",
        abscissa="evaluation_step",
    ),
    Column("return", "mean return of training episodes", logarithmic=False),
    Column("entropy", "entropy of the policy", "nats", logarithmic=False),
    Column("update", "update", compared=False),
    Column("step", "environment step", compared=False),
    Column("evaluation_step", "environment step of an evaluation", compared=False),
    Column("evaluation_", "evaluation", compared=False),
    Column("episode_", "episode", compared=False),
    Column("approx_kl", "divergence of an update", "nats", compared=False),
    Column("clip_fraction", "clipped samples", "fraction", bounds=FRACTION, compared=False),
    Column("policy_loss", "loss of the policy", compared=False),
    Column("value_loss", "loss of the values", bounds=NONNEGATIVE, compared=False),
    Column("explained_variance", "explained variance of returns", compared=False),
    Column("gradient_norm", "gradient norm before clipping", bounds=NONNEGATIVE, compared=False),
    Column("largest_change", "largest change of a parameter", bounds=NONNEGATIVE, compared=False),
    Column("weight_norm", "norm of the parameters", logarithmic=True, bounds=NONNEGATIVE),
    Column("angle_norm", "norm of the angles", bounds=NONNEGATIVE, compared=False),
    Column("friction", "friction of the floor", bounds=NONNEGATIVE, compared=False),
)
"""What a row has beside what remedies say."""

POLICIES: dict[str, Network] = {
    "mlp": MlpPolicy(pi=(1024, 256), vf=(256, 256), shared=()),
    "qnn": QnnPolicy(num_qubits=9, depth=12, scale=5.0),
}
"""The policies that there are, by the names their arms have on the command line."""

REMEDIES: dict[str, Remedy] = {
    "l2": L2(strength=1e-3),
    "equal-betas": EqualBetas(beta=0.99),
    "layer-norm": LayerNorm(),
    "continual-backprop": ContinualBackprop(
        replacement_rate=1e-4, maturity=10_000, utility_decay=0.99
    ),
    "redo": ReDo(threshold=0.1, every=1_000),
}
"""The remedies that policies can have: after a plus sign, as ``mlp+l2``."""

FILES = {"mlp": "classical", "qnn": "quantum"}
"""What the released program calls the arms in the names of its files."""


@contextlib.contextmanager
def needed() -> Iterator[None]:
    """Say what to install where an import fails, or what MUJOCO_GL keeps from being imported."""
    try:
        yield
    except ImportError as error:
        raise Failure(
            f"this needs stable-baselines3, gymnasium and mujoco ({error}): "
            "pip install 'quantum-plasticity[rl]'"
        ) from error
    except Exception as error:
        # mujoco imports at once what the variable names; where that is missing, any error comes.
        if "MUJOCO_GL" not in os.environ or "mujoco" in sys.modules:
            raise
        raise Failure(
            f"MUJOCO_GL={os.environ['MUJOCO_GL']}: mujoco cannot be imported with it ({error}): "
            "unset the variable, or name what is installed"
        ) from error
