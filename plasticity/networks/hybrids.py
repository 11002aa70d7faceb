"""The QNN with something classical in it or after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from plasticity.errors import DoesNotFit
from plasticity.networks.mlp import mlp
from plasticity.networks.network import Network, Shape
from plasticity.networks.qnn import (
    AnsatzName,
    Qnn,
    ansatz_for,
    check_depth,
    check_initial_angles,
    uniform_angles,
    with_circuit_of,
)

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class QnnScaled(Qnn):
    """Classify with the QNN, its logits times a number that is learned.

    The logits are a z, with z the QNN's and a one real parameter for all of them, 1 at first.

    It takes the bound of the logits away: with a readout of Z they are no longer in (-1, 1), and
    p(1 - p) can vanish by saturation. With log-odds, which span what probabilities of 1e-7 to
    1 - 1e-7 can say, a is an inverse temperature: it makes differences of logits as large as they
    have to be, without a change of the state. Compare with ``qnn``. Ours.
    """

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        from torch import nn

        from plasticity.networks.modules.hybrids import Factor

        return nn.Sequential(super().build(shape, generator), Factor())


@dataclass(frozen=True)
class QnnRelu(Network):
    """Classify with ReLU units on the QNN's expectations of Z.

    Features are the expectations of Z on every qubit, z_q = sum_k (-1)^(bit q of k) p_k. A layer of
    ReLU units and a linear one make logits of them; weights are Glorot uniform and biases zero.

    It tells whether a classical head brings the loss of plasticity back. Compare with ``qnn``.
    Source: Tanaka 2024 (Alberta), where a hybrid of depth 1 loses it at a rate of 0.1. The circuit
    here is that of the preset's QNN.

    All probabilities are needed, so each sample's state is carried through the gates, where the QNN
    with log-odds needs as many rows of its matrix as there are classes: at permuted MNIST's size an
    update takes five times the QNN's.
    """

    like: ClassVar[str] = "qnn"

    ansatz: AnsatzName
    """How the gates are arranged."""
    depth: int
    """Layers of gates."""
    initial_angles: tuple[float, float]
    """Range from which the angles are drawn, radians."""
    units: int
    """ReLU units."""

    def __post_init__(self) -> None:
        check_depth(self.depth)
        check_initial_angles(self.initial_angles)
        if self.units < 1:
            raise ValueError(f"units {self.units}: at least 1")

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        from torch import nn

        from plasticity.networks.modules.hybrids import ZOnEveryQubit
        from plasticity.quantum.layer import QNN
        from plasticity.quantum.readouts import Probabilities

        ansatz = ansatz_for(shape, self.ansatz, self.depth)
        angles = uniform_angles(self.initial_angles, generator)
        return nn.Sequential(
            QNN(ansatz, Probabilities(), angles),
            ZOnEveryQubit(ansatz.num_qubits),
            *mlp((ansatz.num_qubits, self.units, shape.outputs), generator),
        )

    def adapted(self, preset: Network) -> Network:
        """Take the circuit of the preset's QNN (see ``Network.adapted``)."""
        return with_circuit_of(preset, self)


@dataclass(frozen=True)
class QnnReupload(Qnn):
    """Classify with the QNN; inputs rotate its qubits again between layers.

    Inputs are amplitudes, as of ``qnn``. After ``first_after`` layers, and after each of the next
    until there are ``uploads``, qubit q of sample x is rotated by exp(-i phi_q Z) with
    phi_q = w_q . x / (|x| sqrt(d)), with d inputs; the weights w of each upload and qubit are real
    and free. They are N(0, 1) at first, so the angles are small then, N(0, 1/d), and it begins
    almost as ``qnn``. Without the root of d a step of Adam would turn a qubit by sum |x_i| / |x|
    times as much as a gate's angle, 10 to 30 times: at no rate does that learn permuted MNIST.

    It breaks the linearity of probabilities in x x*. Compare with ``qnn``, which it is where w is
    zero. Source: Perez-Salinas et al. 2020, "Data re-uploading for a universal quantum classifier",
    with inputs w . x + b for a qubit; b is left out, since the gates after it absorb it. There all
    inputs are angles; here the first upload is as amplitudes, so that little else differs.

    What also differs: parameters that may grow, one for each input, qubit and upload. Each sample
    has a circuit of its own up to the last upload. By default that has no gates: inputs are
    uploaded twice before the first layer, as amplitudes and as angles, and at permuted MNIST's size
    an update takes less than twice the QNN's. With a layer before the upload each sample's state is
    carried through that, and it takes four times the QNN's. Complex inputs are refused.
    """

    uploads: int
    """How often inputs are uploaded as angles."""
    first_after: int = field(metadata={"least": 0})
    """Layers of gates before the first of these uploads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.uploads < 1:
            raise ValueError(f"uploads {self.uploads}: at least 1")
        if self.first_after < 0:
            raise ValueError(f"first-after {self.first_after}: at least 0")

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        import torch

        from plasticity.quantum.reuploading import ReuploadingQNN

        last = self.first_after + self.uploads - 1
        if last >= self.depth:
            raise DoesNotFit(
                f"the last upload is after {last} of {self.depth} layers: none is left"
            )
        ansatz, readout, angles = self.circuit(shape, generator)
        layer = ansatz.num_gates // self.depth
        return ReuploadingQNN(
            ansatz,
            readout,
            shape.inputs,
            tuple(layer * after for after in range(self.first_after, last + 1)),
            angles,
            lambda size: torch.randn(size, generator=generator),
        )
