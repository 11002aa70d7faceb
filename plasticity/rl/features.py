"""Features extractors of stable-baselines3's policies: the quantum layer and its counterpart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plasticity.quantum.calls import outside_of_graphs
from plasticity.quantum.circuits import Ring
from plasticity.quantum.layer import QNN, _Evaluate, is_transformed
from plasticity.quantum.readouts import Probabilities

try:
    from gymnasium import spaces
    from stable_baselines3.common.preprocessing import is_image_space
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
except ModuleNotFoundError as error:
    raise ImportError(
        f"plasticity.rl.features needs stable-baselines3 ({error}): "
        "pip install 'quantum-plasticity[rl]'"
    ) from None


class QuantumFeatures(BaseFeaturesExtractor):
    """Extract tanh(scale * p_k) from the probabilities p_k of a quantum circuit's basis states.

    An observation of any shape is flattened, padded with zeros to 2**num_qubits amplitudes, scaled
    to unit norm and sent through ``Ring(num_qubits, depth)``: only its direction counts, and x and
    -x have the same features. A policy that has to tell them apart, to push a pole back to either
    side, needs a component of known sign among the observations, such as a constant or a height.
    An observation that is zero has no direction; it stands for the maximally mixed state, the mean
    over all directions, where every p_k is 2**-num_qubits whatever the angles.

    Under ``no_grad`` (rollouts, evaluation, target networks) and where nothing asks for a gradient
    (frozen angles), the contracted circuit is kept until the angles change, so that a step is one
    product, of one observation as of many. Otherwise each call takes the cheapest contraction.

    Observations are looked at on the CPU. On other devices, where that would stall the device, and
    under ``torch.func``, a non-finite observation gives NaN.

    The defaults are the released program's for Ant, where one linear layer each for policy and
    value follows: ``net_arch=dict(pi=[], vf=[])``.

    Args:
        observation_space: A ``Box`` of 1 to 2**num_qubits numbers, not an image.
        num_qubits: At least 2.
        depth: Layers of the ring, at least 1.
        scale: Above 0.

    Attributes:
        qnn: The ``QNN``. ``qnn.angles``, ``(num_qubits * depth, 15)``, radians, begin as N(0, 1)
            from torch's global generator, which stable-baselines3 seeds.
        features_dim: 2**num_qubits.

    Raises:
        TypeError: ``observation_space`` is not a ``Box``, or it is an image.
        ValueError: An argument is out of range, or the space has no number or more than fit; on
            calling, an observation is not finite.

    Example:
        >>> from stable_baselines3 import PPO
        >>> policy_kwargs = dict(
        ...     features_extractor_class=QuantumFeatures,
        ...     features_extractor_kwargs=dict(num_qubits=4, depth=2),
        ...     net_arch=dict(pi=[], vf=[]),
        ... )
        >>> model = PPO("MlpPolicy", "Pendulum-v1", policy_kwargs=policy_kwargs, device="cpu")
        >>> model.policy.features_extractor.qnn.angles.shape
        torch.Size([8, 15])
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        num_qubits: int = 9,
        depth: int = 12,
        scale: float = 5.0,
    ) -> None:
        ring = Ring(num_qubits, depth)
        if not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise ValueError(f"scale must be above 0 and finite, not {scale!r}")
        size = _num_observations(observation_space, "QuantumFeatures")
        if not 1 <= size <= 2**num_qubits:
            way_out = f": num_qubits must be at least {(size - 1).bit_length()}" if size else ""
            raise ValueError(
                f"{size} observations do not fit: {num_qubits} qubits have 1 to {2**num_qubits} "
                f"amplitudes{way_out}"
            )
        super().__init__(observation_space, features_dim=2**num_qubits)
        self.scale = scale
        self.qnn = QNN(ring, Probabilities(), initializer=torch.randn)
        self._size = size
        # A kept matrix serves the thousands of steps until the next update. The cost model counts
        # on ten, and would send one observation at a time through all gates.
        self._still = _Evaluate(ring, Probabilities(), carry="columns")

    @outside_of_graphs
    def forward(self, observations: Tensor) -> Tensor:
        """Map observations to features.

        Args:
            observations: ``(batch, *observation_space.shape)``, of any real dtype.

        Returns:
            ``(batch, 2**num_qubits)``, of the dtype of ``qnn.angles``.
        """
        angles = self.qnn.angles
        x, is_zero = _over_largest(_flat(observations, self._size), angles.dtype)
        if is_zero is not None:
            x = torch.where(is_zero, 1.0, x)  # any direction: its probabilities are replaced below
        learning = torch.is_grad_enabled() and (angles.requires_grad or x.requires_grad)
        if learning:
            probabilities = self.qnn(x)
        else:
            with torch.no_grad():
                probabilities = self._still(x, angles)
        if is_zero is not None:
            probabilities = torch.where(is_zero, 1 / self.features_dim, probabilities)
        return torch.tanh(self.scale * probabilities)


class MlpFeatures(BaseFeaturesExtractor):
    """Extract features by layers of tanh units from an observation's direction.

    What ``QuantumFeatures`` is compared with when all else is to be alike: it too is shared by
    policy and value, and an observation is flattened and scaled to unit norm; zero stays zero.

    Args:
        observation_space: A ``Box``, not an image.
        hidden: Units of each layer, at least one layer; the last are the features.
        activation_fn: The units' class, called once for each layer.

    Raises:
        TypeError: ``observation_space`` is not a ``Box``, or it is an image.
        ValueError: The space has no number, or a layer no unit; on calling, an observation is not
            finite.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        hidden: Sequence[int] = (1024, 256),
        activation_fn: type[torch.nn.Module] = torch.nn.Tanh,
    ) -> None:
        if not isinstance(hidden, Sequence):
            raise TypeError(f"hidden {hidden!r}: integers, one for each layer, such as (64,)")
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden {tuple(hidden)}: at least one layer, of at least one unit")
        size = _num_observations(observation_space, "MlpFeatures")
        if not size:
            raise ValueError(f"no features of {observation_space}: it holds no observations")
        super().__init__(observation_space, features_dim=hidden[-1])
        self._size = size
        self.layers = torch.nn.Sequential()
        for width, following in itertools.pairwise((size, *hidden)):
            self.layers.extend([torch.nn.Linear(width, following), activation_fn()])

    def forward(self, observations: Tensor) -> Tensor:
        """Map observations, ``(batch, *observation_space.shape)``, to ``(batch, hidden[-1])``."""
        x = _flat(observations, self._size)
        x, _ = _over_largest(x, next(self.parameters()).dtype)
        result: Tensor = self.layers(torch.nn.functional.normalize(x))
        return result


class NormalisedTanh(torch.nn.Module):
    """Give tanh of numbers that are normalized over the units: (z - mean) / sqrt(var + 1e-5).

    It has no parameters. ``activation_fn`` of a policy can be this class: then ``PPO.load`` makes
    it again.
    """

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(batch, units)`` to the same."""
        return torch.nn.functional.layer_norm(z, z.shape[-1:]).tanh()


def _flat(observations: Tensor, size: int) -> Tensor:
    """Return observations ``(batch, size)``.

    Raises:
        TypeError: They are no tensor.
        ValueError: They have another number of components.
    """
    if not isinstance(observations, Tensor):
        kind = type(observations).__name__
        raise TypeError(f"observations must be a tensor, not {kind}: call torch.as_tensor first")
    try:
        return observations.reshape(len(observations), size)
    except RuntimeError as error:
        raise ValueError(
            f"observations have shape {tuple(observations.shape)}: must be (batch, ...), with "
            f"{size} numbers each"
        ) from error


def _over_largest(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Divide each row by its largest absolute value; also tell which rows are zero, if any are.

    Beside the largest number no square is lost to underflow or overflow.
    """
    x = x.to(dtype)
    largest = x.abs().amax(1, keepdim=True)
    tiny = torch.finfo(dtype).tiny
    if x.device.type == "cpu" and not is_transformed(x) and len(x):
        low, high = (bound.item() for bound in largest.detach().aminmax())
        if tiny <= low and high < math.inf:  # NaN is neither
            return x / largest, None
        _check_finite(x, largest)
    return x / largest.clamp(min=tiny), largest == 0


def _num_observations(space: spaces.Space[Any], accepting: str) -> int:
    """Count the numbers in an observation, or raise where they are not features' input."""
    if not isinstance(space, spaces.Box):
        raise TypeError(
            f"{accepting} accepts a Box of observations, not {space}: wrap the environment in "
            "gymnasium.wrappers.FlattenObservation"
        )
    if is_image_space(space):
        raise TypeError(
            f"{accepting} accepts a Box of observations, not an image, {space.shape} of "
            f"{space.dtype}: extract features from it before"
        )
    return math.prod(space.shape)


def _check_finite(x: Tensor, largest: Tensor) -> None:
    """Raise if a row is not finite; ``largest``, each row's largest absolute value, tells."""
    if bool(largest.isfinite().all()):
        return
    row, column = (~x.isfinite()).nonzero()[0].tolist()
    raise ValueError(
        f"observation {row} of {len(x)} is not finite: number {column} is {x[row, column].item()}"
    )
