"""Circuits of other gates than a QNN's, or of the same gates in other parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from plasticity.errors import DoesNotFit
from plasticity.networks.network import Network, Shape
from plasticity.networks.qnn import (
    AnsatzName,
    Qnn,
    ReadoutName,
    ansatz_for,
    check_depth,
    readout_for,
    with_circuit_of,
)

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class FreeBrickwork(Network):
    """Classify with the QNN's circuit, its gates free complex matrices.

    The gate on a pair of qubits is any complex 4x4 matrix G_g: 32 real parameters in place of 15
    angles. With psi the state after all gates, p_k = |psi_k|^2 / sum_j |psi_j|^2, and the readout
    is the QNN's. The first gates are unitary, drawn from the Haar measure, so that the first map is
    a QNN's.

    It drops unitarity, and nothing else: parameters may grow, and gates may shrink some states and
    stretch others. Compare with ``qnn``. Ours.

    What it computes does not depend on the scale of a gate, so the gradient is orthogonal to each
    gate and a step can but make it longer. Each is divided by half its Frobenius norm, a constant
    to the gradient, before it is applied: this changes nothing but the range of the numbers.

    The norm of the final state needs all its amplitudes, so each sample's state is carried through
    the gates; the QNN with log-odds needs as many rows of its matrix as there are classes. At
    permuted MNIST's size an update takes five times the QNN's, without renormalization no longer
    than the QNN's.
    """

    like: ClassVar[str] = "qnn"

    ansatz: AnsatzName
    """How the gates are arranged."""
    depth: int
    """Layers of gates."""
    readout: ReadoutName
    """What is measured, as of qnn."""
    renormalised: bool
    """Scale the final state to unit norm; without it the logits are log |psi_k|^2, whose softmax
    does not see the scale, and there is no readout of Z."""

    def __post_init__(self) -> None:
        check_depth(self.depth)

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        from plasticity.quantum.gates import FreeCircuit, haar_unitaries
        from plasticity.quantum.readouts import LogProbabilities

        readout = readout_for(shape, self.readout)
        if not self.renormalised:
            if readout.qubit is not None:
                raise DoesNotFit(f"readout {self.readout} needs a state that is renormalized")
            readout = LogProbabilities(shape.outputs)
        return FreeCircuit(
            ansatz_for(shape, self.ansatz, self.depth),
            readout,
            renormalised=self.renormalised,
            initializer=lambda size: haar_unitaries(size, generator),
        )

    def adapted(self, preset: Network) -> Network:
        """Take the circuit of the preset's QNN (see ``Network.adapted``)."""
        return with_circuit_of(preset, self)


@dataclass(frozen=True)
class OrthogonalBrickwork(Qnn):
    """Classify with the QNN's circuit, its gates real orthogonal.

    The gate is exp(A), A real and antisymmetric, 4x4: A = -i sum_k theta_k P_k over the six Pauli
    words with an odd number of Y, which are IY, XY, YI, YX, YZ and ZY. So it is a QNN whose other
    nine angles are zero, with 6 angles a gate.

    It drops complex amplitudes, where the inputs are real, and keeps compactness. Compare with
    ``qnn``. Ours.
    """

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        from plasticity.networks.modules.bricks import OrthogonalQNN

        return OrthogonalQNN(*self.circuit(shape, generator))


@dataclass(frozen=True)
class QnnWrapped(Qnn):
    """Classify with the QNN; angles that wind around are wrapped.

    After each update, the angles of a gate exp(-i H) whose largest eigenvalue gap exceeds 2 pi are
    replaced by those of its principal logarithm: with H = V diag(l) V*, l_j becomes
    l_j - 2 pi round(l_j / 2 pi). The same is done once to the first angles. The network computes
    what it did before, and the angles of a gate, as a vector, are never longer than pi.

    It bounds the angles without changing the map. Compare with ``qnn``, whose angles may grow; at a
    gap of more than 2 pi, exp(-i H) passes the same gate again and its derivative is damped. Ours.

    The principal logarithm has a part along the identity, a phase of the gate that no probability
    shows: it is dropped, so the gate stays the same up to a power of i. The optimizer's moments
    stay, though they belong to the old angles.
    """

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        from plasticity.networks.modules.bricks import WrappedQNN

        return WrappedQNN(*self.circuit(shape, generator))


@dataclass(frozen=True)
class QnnTrivialised(Qnn):
    """Classify with the QNN; in each task, angles count from the task's first gates.

    The gate is exp(-i theta . P) G_g, with the matrix G_g no parameter. Before each task G_g
    becomes the gate, and theta becomes zero: the same map in other parameters. The first G_g are
    the gates of the first angles.

    It removes the damping of the exponential's derivative, which is the identity at zero, and with
    it the memory of how far angles have grown. Compare with ``qnn``. Source: dynamic
    trivialization, Lezcano-Casado 2019, "Trivializations for gradient-based optimization on
    manifolds", where the base changes every K steps; here it changes at each task.

    The optimizer's moments stay over the change. Before each task theta is zero, and so is its
    norm. G_g is brought back onto the unitary matrices by a Newton-Schulz step at each change,
    since products of rounded matrices drift away from them.
    """

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        from plasticity.networks.modules.bricks import TrivializedQNN

        return TrivializedQNN(*self.circuit(shape, generator))
