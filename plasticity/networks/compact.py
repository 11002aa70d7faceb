"""Multilayer perceptrons that differ from ``Mlp`` in one thing: sizes, weights' range, units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from plasticity.errors import DoesNotFit
from plasticity.networks.mlp import glorot, mlp, require_units
from plasticity.networks.network import Network, Shape

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class SmallMlp(Network):
    """Classify with an MLP of ReLU units that has no more parameters than a circuit.

    An MLP of one hidden layer of h units with m inputs and k outputs has m h + h + h k + k
    parameters. If ``hidden`` units or more that read all inputs are within ``num_parameters``, it
    has as many as are. Otherwise it has ``hidden`` units, which read m fixed random projections of
    the input, as many as are within the number: P x, with the m rows of P orthonormal, drawn
    uniformly, and scaled by sqrt(inputs / m), so that the squared norm of P x is on average that
    of x. P is not learned, and no parameter.

    Isolates capacity, together with an MLP of 1,024 units. The circuits of the presets have 540
    parameters (mnist), 1,350 (cifar) and 810 (qdata): fewer than the 784, 1,024 and 1,024 weights
    that a single unit needs to read all inputs. Hence the projections. Source: ours.
    """

    num_parameters: int
    """Number of parameters that it comes as close to as it can from below."""
    hidden: int
    """Least number of hidden units."""

    def __post_init__(self) -> None:
        require_units((self.hidden,))

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        from torch import nn

        from plasticity.networks.modules.orthonormal import haar_columns
        from plasticity.networks.modules.units import FixedProjection

        of_units = self.num_parameters - shape.outputs
        width = of_units // (shape.inputs + 1 + shape.outputs)
        if width >= self.hidden:
            return mlp((shape.inputs, width, shape.outputs), generator)
        num_read = of_units // self.hidden - 1 - shape.outputs
        if num_read < 1:
            least = self.hidden * (2 + shape.outputs) + shape.outputs
            raise DoesNotFit(
                f"num-parameters {self.num_parameters} is too few: {self.hidden} hidden units and "
                f"{shape.outputs} output{'s' * (shape.outputs > 1)} need {least}"
            )
        projection = haar_columns(shape.inputs, num_read, generator)
        return nn.Sequential(
            FixedProjection(math.sqrt(shape.inputs / num_read) * projection),
            *mlp((num_read, self.hidden, shape.outputs), generator),
        )

    def remark(self, module: nn.Module) -> str:
        """Tell what came out."""
        first, *_ = module.children()
        number = sum(p.numel() for p in module.parameters())
        return f"{number} parameters of at most {self.num_parameters}; first layer: {first}"


@dataclass(frozen=True)
class TorusMlp(Network):
    """Classify with an MLP of ReLU units whose weights are sines of angles.

    W = b sin(Theta), b = g sqrt(3 / inputs of the layer), with gain g = sqrt(2) before a ReLU and 1
    in the last layer; biases likewise, b sin(phi). Theta begins as the arcsine of uniform numbers,
    so that W is uniform in [-b, b] (He et al. 2015), and phi begins at 0.

    Isolates a compact range of weights in a network with hidden units. The angles live on a torus:
    whole turns change nothing. Source: ours. With ``wrap`` the parameters themselves stay within
    [-pi, pi]; but weights and gradients, and so all that is learned, are the same without it, up
    to rounding. So this arm bounds the norm of its parameters without any change of what it learns.
    """

    hidden: tuple[int, ...]
    """Units of each hidden layer."""
    wrap: bool
    """Take whole turns off the angles after each update."""

    def __post_init__(self) -> None:
        require_units(self.hidden)

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        import torch
        from torch import nn

        from plasticity.networks.modules.compact import TorusLinear

        widths = (shape.inputs, *self.hidden, shape.outputs)
        layers: list[nn.Module] = []
        for place, (inputs, outputs) in enumerate(pairwise(widths)):
            gain = math.sqrt(2) if place < len(self.hidden) else 1.0
            sines = 2 * torch.rand(outputs, inputs, generator=generator) - 1
            bound = gain * math.sqrt(3 / inputs)
            layers += [TorusLinear(sines.asin(), bound, self.wrap), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class OrthogonalMlp(Network):
    """Classify with an MLP whose hidden layers are orthogonal matrices times a gain.

    A hidden layer is W x + b with W = g Q, where Q has orthonormal rows (or columns, where there
    are more units than inputs), drawn uniformly; g = sqrt(2) before ReLU, and 1 before MaxMin,
    which sorts pairs of units and changes no norm. The last layer and all biases are free, as those
    of ``Mlp``.

    Isolates isometry in a network with hidden units. Sources: Anil, Lucas and Grosse 2019,
    "Sorting out Lipschitz function approximation" (MaxMin); isometry as a remedy: Chung et al.
    2024, "Parseval regularization for continual reinforcement learning".

    Two ways to keep it. With retraction the matrix itself is the parameter, and is put back after
    each update as that of ``Stiefel``: map and parameters are compact. That is what the column
    "isolates" needs beside ``StiefelFree``, and the default. With householder the matrix is a
    product of reflections (``torch.nn.utils.parametrizations.orthogonal``), whose vectors are free:
    the map is as compact, but these parameters can grow, and the more they have grown the less a
    step turns them. Of k vectors, k (k + 1) / 2 numbers get no gradient; torch casts those of the
    diagonal, which are 1 and -1, to whole numbers, so that weight decay of any size makes them 0
    and the layer dead. And an update takes torch some 14 ms at MNIST's size; with retraction, 0.3.
    """

    hidden: tuple[int, ...]
    """Units of each hidden layer."""
    units: Literal["relu", "max-min"]
    """What follows a hidden layer."""
    kept_by: Literal["retraction", "householder"]
    """How the matrices stay orthogonal."""

    def __post_init__(self) -> None:
        require_units(self.hidden)
        if self.units == "max-min" and any(width % 2 for width in self.hidden):
            raise ValueError(f"hidden {self.hidden}: units max-min come in pairs")

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        from torch import nn

        from plasticity.networks.modules.compact import OrthogonalHidden, reflected
        from plasticity.networks.modules.units import MaxMin

        gain = math.sqrt(2) if self.units == "relu" else 1.0
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((shape.inputs, *self.hidden)):
            layer = glorot(inputs, outputs, generator)
            nn.init.normal_(layer.weight, generator=generator)
            layers.append(reflected(layer, gain) if self.kept_by == "householder" else layer)
            layers.append(nn.ReLU() if self.units == "relu" else MaxMin())
        layers.append(glorot(self.hidden[-1], shape.outputs, generator))
        if self.kept_by == "householder":
            return nn.Sequential(*layers)
        return OrthogonalHidden(layers, gain)


@dataclass(frozen=True)
class SphereMlp(Network):
    """Classify with an MLP of ReLU units whose layers are held at constant norms.

    W <- W rho / norm(W) after each update, for each layer by itself, with rho = c times the norm of
    the layer's Glorot draw. The network begins on its spheres: so the first update is no jump by c.

    Isolates parameters that cannot grow, in a network with hidden ReLU units. Source: the
    projection of Lyle et al. 2024, "Normalization and effective learning rates in reinforcement
    learning", where it comes with normalization layers (``layer_norm``) and holds the first norm,
    c = 1. Here c = 3 is the default, as a first look kept everything with it.

    Biases: with held, the default, a bias is one more weight, from an input that is always 1, and
    the norm is that of (W, b) together. So the norm of all parameters is a constant. And as a
    layer's output scales as (W, b) does, the projection of a hidden layer scales the logits (less
    the last layer's biases), but moves no ReLU's kink; with layer norm it changes nothing at all,
    up to rounding and the norm's epsilon. With free, W alone is held, and nothing holds the biases.
    The layer norm has no scale and no offset of its own, which would be free to grow; the bias of
    the layer before it does what an offset does.
    """

    hidden: tuple[int, ...]
    """Units of each hidden layer."""
    growth: float
    """Norm that is held, c, relative to the norm of the first draw."""
    biases: Literal["held", "free"]
    """Whether a layer's norm is that of weights and biases together, or of the weights alone."""
    layer_norm: bool
    """Set mean and variance of each hidden layer's units to 0 and 1 before the ReLU."""

    def __post_init__(self) -> None:
        require_units(self.hidden)
        if not (math.isfinite(self.growth) and self.growth > 0):
            raise ValueError(f"growth {self.growth}: must be positive")
        if self.layer_norm and min(self.hidden) < 2:
            raise ValueError(f"hidden {self.hidden}: a layer's variance needs two units")

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        from torch import nn

        from plasticity.networks.modules.compact import OnSpheres

        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((shape.inputs, *self.hidden)):
            layers.append(glorot(inputs, outputs, generator))
            if self.layer_norm:
                layers.append(nn.LayerNorm(outputs, elementwise_affine=False))
            layers.append(nn.ReLU())
        layers.append(glorot(self.hidden[-1], shape.outputs, generator))
        return OnSpheres(layers, self.growth, with_biases=self.biases == "held")


@dataclass(frozen=True)
class SineMlp(Network):
    """Classify with an MLP whose hidden units are sines and cosines.

    A hidden layer of m units makes z = W x + b of m / 2 numbers, and of them the units sin z_i and
    cos z_i. Where one of the two is flat, the other is nearly linear, so that no unit is dead.
    Weights are Glorot uniform and biases zero, as those of ``Mlp``.

    Isolates a periodic nonlinearity, whose range is bounded while its weights are free. Source:
    the deep Fourier features of Lewandowski, Schuurmans and Machado 2025, "Plastic Learning with
    Deep Fourier Features". Our deviations: Glorot weights, and none of their regularization.
    """

    hidden: tuple[int, ...]
    """Units of each hidden layer: half of them sines, half of them cosines."""

    def __post_init__(self) -> None:
        require_units(self.hidden)
        if any(width % 2 for width in self.hidden):
            raise ValueError(f"hidden {self.hidden}: sines and cosines come in pairs")

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build it (see ``Network.build``)."""
        from torch import nn

        from plasticity.networks.modules.units import SineAndCosine

        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((shape.inputs, *self.hidden)):
            layers += [glorot(inputs, outputs // 2, generator), SineAndCosine()]
        return nn.Sequential(*layers, glorot(self.hidden[-1], shape.outputs, generator))
