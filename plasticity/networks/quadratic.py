"""Networks without hidden units: linear in the input, or in the products of its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from plasticity.errors import DoesNotFit
from plasticity.networks.mlp import mlp
from plasticity.networks.network import Network, Shape
from plasticity.networks.qnn import qubits_for

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from plasticity.networks.modules.quadratic import Scores

Readout = Literal["log-odds", "log", "difference"]


@dataclass(frozen=True)
class Linear(Network):
    """Classify by a matrix and a bias, without hidden units.

    z = W x + b, with Glorot uniform weights and biases of zero, as those of ``Mlp``.

    Isolates hidden units: what loses plasticity here cannot be the death of a unit. Source:
    Lewandowski, Schuurmans and Machado 2025, "Plastic Learning with Deep Fourier Features", who
    prove that linear function approximation does not lose it.
    """

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        return mlp((shape.inputs, shape.outputs), generator)


@dataclass(frozen=True)
class Quadratic(Network):
    """Classify by squared overlaps |u . x|^2 with free complex vectors, one a class.

    With x of unit norm (the module divides by the norm) and padded with zeros to d = 2^n numbers,
    the n qubits of the circuit for the same problem: p_k = |u_k . x|^2 = |sum_j u_kj x_j|^2, and
    z_k = log p_k - log(1 - p_k). A single logit is that of class 1 less that of class 0, of two
    vectors, so that it is two classes' softmax. (The logit of a single p_0 against 1 - p_0 would
    begin at about -log d for all inputs.) The parts of u_kj begin at N(0, 1/(2d)).

    Isolates linearity in x x*: a circuit read out at basis states is the same map, where the u_k
    are rows of its unitary. Here nothing is compact. Source: ours.

    The u_k are stored as real numbers, real and imaginary part apart. So Adam has a second moment
    for each part, as torch's Adam has for a complex parameter, and as it has for the angles of a
    circuit; its steps depend on the phase of a u_k, which no output depends on. Where there are
    fewer inputs than d, the numbers of u_k beyond them get no gradient.

    Free vectors can grow until a p_k exceeds 1. Then the clip of the log-odds, at 1 - 1e-7, takes
    the gradient, and the arm dies for a reason that is not the loss of plasticity (on MNIST, with
    Adam at 0.01, within ten tasks): readout log is the same without that end.
    """

    readout: Readout
    """How logits are made of the p_k: log-odds; log, z_k = log p_k, whose softmax does not see the
    vectors' common scale; or difference, p_0 - p_1 and its negative, for two classes, the range of
    a circuit's Z where the vectors are orthonormal."""

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        from plasticity.networks.modules.quadratic import Overlaps

        return Overlaps(_vectors(shape, generator), _scores(self.readout, shape))


@dataclass(frozen=True)
class Stiefel(Network):
    """Classify by squared overlaps with complex vectors that are kept orthonormal.

    The map of ``Quadratic``, and its first draws, orthonormalized. After each update the d x k
    matrix W of the vectors is put back: W <- Q of W = Q R, with the phases of R's diagonal moved
    into Q (a retraction; see ``orthonormalized``). So the p_k are probabilities: they sum up to at
    most 1.

    Isolates compact parameters without a circuit: the parameters themselves are on the manifold
    and cannot grow. Source: Absil, Mahony and Sepulchre 2008, "Optimization Algorithms on Matrix
    Manifolds", for the retraction. Our deviation from their algorithms: the optimizer takes its
    step with the gradient as it is, not projected onto the tangent space, and its moments are not
    transported.
    """

    readout: Readout
    """How logits are made of the p_k (see the card of quadratic): log-odds, log or difference."""

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        from plasticity.networks.modules.quadratic import RetractedOverlaps

        return RetractedOverlaps(_vectors(shape, generator), _scores(self.readout, shape))


@dataclass(frozen=True)
class StiefelFree(Network):
    """Classify by squared overlaps with the orthonormal factor of a free matrix.

    The map of ``Stiefel``, of Q in W = Q R, but the parameter is W, which nothing puts back. It
    begins with the draws of ``Quadratic``, and so with the outputs of ``Stiefel``.

    Isolates the compact map from the compact parameters: the map is the same, but W may grow, and
    its gradient is the smaller, the larger W is (Q does not depend on W's scale). Source: ours. The
    phases of R's diagonal are left as they are: no p_k depends on them.
    """

    readout: Readout
    """How logits are made of the p_k (see the card of quadratic): log-odds, log or difference."""

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        from plasticity.networks.modules.quadratic import FactorizedOverlaps

        return FactorizedOverlaps(_vectors(shape, generator), _scores(self.readout, shape))


def _vectors(shape: Shape, generator: torch.Generator) -> Tensor:
    """Draw a vector for each class, of as many numbers as the state of the problem's circuit."""
    from plasticity.networks.modules.quadratic import complex_normal

    return complex_normal(2 ** qubits_for(shape), max(2, shape.outputs), generator)


def _scores(readout: Readout, shape: Shape) -> Scores:
    """Return what makes a problem's logits of the squared overlaps."""
    from plasticity.networks.modules import quadratic

    if readout == "difference" and shape.outputs > 2:
        raise DoesNotFit(f"readout difference gives 1 or 2 logits, the task has {shape.outputs}")
    several: dict[str, Scores] = {
        "log-odds": quadratic.log_odds,
        "log": quadratic.logarithms,
        "difference": quadratic.differences,
    }
    one: dict[str, Scores] = {**several, "difference": quadratic.unchanged}
    if shape.outputs == 1:
        return partial(quadratic.second_less_first, one[readout])
    return several[readout]
