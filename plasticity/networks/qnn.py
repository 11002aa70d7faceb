"""Quantum neural networks as arms, and what networks with a circuit share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from plasticity.errors import DoesNotFit
from plasticity.networks.network import Network, Shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from plasticity.quantum.circuits import Ansatz
    from plasticity.quantum.readouts import Readout

WithCircuit = TypeVar("WithCircuit", bound=Network)

AnsatzName = Literal["brickwork", "staircase", "ring"]
ReadoutName = Literal["log-odds", "z-of-first", "signed-z-of-last"]


def qubits_for(shape: Shape) -> int:
    """Return how many qubits hold a problem's inputs as amplitudes, and its classes; at least 2."""
    return max(2, math.ceil(math.log2(max(shape.inputs, shape.outputs))))


@dataclass(frozen=True)
class Qnn(Network):
    """Classify with a parametrized quantum circuit on amplitude-encoded inputs.

    It has as many qubits as inputs and outputs need. Source: the released program's quantum arms.
    """

    like: ClassVar[str] = "qnn"

    ansatz: AnsatzName
    """How the gates are arranged."""
    depth: int
    """Layers of gates."""
    readout: ReadoutName
    """What is measured: a probability for each class, Z on the first qubit as the logit of two
    classes, or (Z, -Z) on the last qubit as the logits of two classes."""
    initial_angles: tuple[float, float]
    """Range from which the angles are drawn, radians."""
    shortest: bool = dataclasses.field(default=False, kw_only=True)
    """Begin with the shortest angles of the gates that are drawn."""

    def __post_init__(self) -> None:
        check_depth(self.depth)
        check_initial_angles(self.initial_angles)

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        from plasticity.quantum.layer import QNN

        return QNN(*self.circuit(shape, generator))

    def circuit(
        self, shape: Shape, generator: torch.Generator
    ) -> tuple[Ansatz, Readout, Callable[[tuple[int, int]], Tensor]]:
        """Return ansatz, readout, and what draws the first angles.

        Raises:
            DoesNotFit: The readout gives more logits than the problem has, or fewer.
        """
        draw = uniform_angles(self.initial_angles, generator)
        return (
            ansatz_for(shape, self.ansatz, self.depth),
            readout_for(shape, self.readout),
            shortest_of(draw) if self.shortest else draw,
        )

    def adapted(self, preset: Network) -> Network:
        """Take the circuit of the preset's QNN (see ``Network.adapted``)."""
        return with_circuit_of(preset, self)

    def remark(self, module: nn.Module) -> str:
        """Tell of the gates that the readout does not depend on."""
        from plasticity.quantum.circuits import light_cone
        from plasticity.quantum.layer import QNN

        layer = next(part for part in module.modules() if isinstance(part, QNN))
        ansatz, qubit = layer.ansatz, layer.readout.qubit
        if qubit is None:
            return ""
        cone = light_cone(ansatz, qubit)
        if len(cone) == ansatz.num_gates:
            return ""
        touched = {q for gate in cone for q in ansatz.pairs[gate]}
        return (
            f"Z on qubit {qubit} depends on {len(cone)} of {ansatz.num_gates} gates, on qubits "
            f"{min(touched)} to {max(touched)}; the angles of the others get no gradient and stay "
            "as they are"
        )


# --------------------------------------------------------- what other networks with a circuit need
def check_depth(depth: int) -> None:
    """Raise if there are no layers."""
    if depth < 1:
        raise ValueError(f"depth {depth}: at least 1")


def check_initial_angles(bounds: tuple[float, float]) -> None:
    """Raise if it is no range."""
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"initial-angles {low} {high}: two finite numbers, the smaller first")


def ansatz_for(shape: Shape, name: AnsatzName, depth: int) -> Ansatz:
    """Return the ansatz of this name on the qubits that a problem needs."""
    from plasticity.quantum.circuits import Brickwork, Ring, Staircase

    families: dict[str, Callable[[int, int], Ansatz]] = {
        "brickwork": Brickwork, "staircase": Staircase, "ring": Ring,
    }  # fmt: skip
    return families[name](qubits_for(shape), depth)


def readout_for(shape: Shape, name: ReadoutName) -> Readout:
    """Return the readout of this name on the qubits that a problem needs.

    Raises:
        DoesNotFit: It gives more logits than the problem has, or fewer.
    """
    if name == "log-odds" and shape.outputs < 2:
        raise DoesNotFit(
            "readout log-odds gives a logit for each of two or more classes, the task has "
            f"{shape.outputs} logit"
        )
    from plasticity.quantum.readouts import LogOdds, PauliZ, SignedPauliZ

    readouts: dict[str, tuple[Readout, int]] = {
        "log-odds": (LogOdds(shape.outputs), shape.outputs),
        "z-of-first": (PauliZ(0), 1),
        "signed-z-of-last": (SignedPauliZ(qubits_for(shape) - 1), 2),
    }
    readout, outputs = readouts[name]
    if outputs != shape.outputs:
        raise DoesNotFit(
            f"readout {name} gives {outputs} logit{'s' * (outputs > 1)}, "
            f"the task has {shape.outputs}"
        )
    return readout


def uniform_angles(
    bounds: tuple[float, float], generator: torch.Generator
) -> Callable[[tuple[int, int]], Tensor]:
    """Return what draws angles of a shape uniformly from a range, radians."""
    import torch

    low, high = bounds
    return lambda size: low + (high - low) * torch.rand(size, generator=generator)


def shortest_of(
    draw: Callable[[tuple[int, int]], Tensor],
) -> Callable[[tuple[int, int]], Tensor]:
    """Return what draws the shortest angles of the gates of other angles."""
    from plasticity.networks.modules.bricks import REAL_WORDS
    from plasticity.quantum.angles import shortest

    def drawn(size: tuple[int, int]) -> Tensor:
        angles = draw(size)
        if size[1] == 15:
            return shortest(angles)
        every = angles.new_zeros(size[0], 15)
        every[:, list(REAL_WORDS)] = angles
        return shortest(every, of_real_gates=True)[:, list(REAL_WORDS)]

    return drawn


def with_circuit_of(preset: Network, network: WithCircuit) -> WithCircuit:
    """Return a network with the options that it shares with a preset's QNN, as they are there."""
    if not isinstance(preset, Qnn):
        return network
    options = {field.name for field in dataclasses.fields(preset)}
    shared = [field.name for field in dataclasses.fields(network) if field.name in options]
    return dataclasses.replace(network, **{name: getattr(preset, name) for name in shared})
