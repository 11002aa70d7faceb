"""Quantum neural networks as arms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from plasticity.networks.network import DoesNotFit, Network, Shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def qubits_for(shape: Shape) -> int:
    """Return how many qubits hold a problem's inputs as amplitudes, and its classes; at least 2."""
    return max(2, math.ceil(math.log2(max(shape.inputs, shape.outputs))))


@dataclass(frozen=True)
class Qnn(Network):
    """Classify with a parametrised quantum circuit on amplitude-encoded inputs.

    It has as many qubits as inputs and outputs need. Source: the released program's quantum arms.
    """

    like: ClassVar[str] = "qnn"

    ansatz: Literal["brickwork", "staircase", "ring"]
    """How the gates are arranged."""
    depth: int
    """Layers of gates."""
    readout: Literal["log-odds", "z-of-first", "signed-z-of-last"]
    """What is measured: a probability for each class, Z on the first qubit as the logit of two
    classes, or (Z, -Z) on the last qubit as the logits of two classes."""
    initial_angles: tuple[float, float]
    """Range from which the angles are drawn, radians."""

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth {self.depth}: at least 1")
        low, high = self.initial_angles
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(f"initial-angles {low} {high}: two finite numbers, the smaller first")

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        import torch

        from plasticity.quantum.circuits import Ansatz, Brickwork, Ring, Staircase
        from plasticity.quantum.layer import QNN
        from plasticity.quantum.readouts import LogOdds, PauliZ, Readout, SignedPauliZ

        num_qubits = qubits_for(shape)
        families: dict[str, Callable[[int, int], Ansatz]] = {
            "brickwork": Brickwork, "staircase": Staircase, "ring": Ring,
        }  # fmt: skip
        readouts: dict[str, tuple[Readout, int]] = {
            "log-odds": (LogOdds(shape.outputs), shape.outputs),
            "z-of-first": (PauliZ(0), 1),
            "signed-z-of-last": (SignedPauliZ(num_qubits - 1), 2),
        }
        readout, outputs = readouts[self.readout]
        if outputs != shape.outputs:
            raise DoesNotFit(
                f"readout {self.readout} gives {outputs} logit{'s' * (outputs > 1)}, "
                f"the task has {shape.outputs}"
            )
        low, high = self.initial_angles

        def initial(size: tuple[int, int]) -> Tensor:
            return low + (high - low) * torch.rand(size, generator=generator)

        return QNN(families[self.ansatz](num_qubits, self.depth), readout, initial)

    def remark(self, module: nn.Module) -> str:
        """Tell of the gates that the readout does not depend on."""
        from plasticity.quantum.circuits import light_cone
        from plasticity.quantum.layer import QNN

        assert isinstance(module, QNN)
        ansatz, qubit = module.ansatz, module.readout.qubit
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
