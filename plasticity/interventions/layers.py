"""Interventions in one layer: its learning rate, its scale, its weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plasticity.errors import DoesNotFit
from plasticity.interventions.intervention import Aged, Intervention, is_circuit
from plasticity.learning.column import Column

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from plasticity.learning.learner import Learner
    from plasticity.networks.layers import Layer

FACTOR = Column("factor", "factor c")


ENDS = ("first", "last")
"""Other names of the layers at both ends."""


def find_layer(network: nn.Module, which: str) -> Layer:
    """Return a layer by its number, or as ``first`` or ``last``.

    Raises:
        DoesNotFit: The network has no such layer.
    """
    from plasticity.networks.layers import layers_of

    layers = layers_of(network)
    if which in ENDS and layers:
        return layers[0 if which == "first" else -1]
    if which.isdecimal() and 1 <= int(which) <= len(layers):
        return layers[int(which) - 1]
    many = f"the layers 1 to {len(layers)}, first and last" if layers else "no layer"
    raise DoesNotFit(f"there is no layer {which}: the network has {many}")


def check_factor(factor: float | str | None) -> None:
    """Refuse a factor that is neither a positive number nor the name of a layer at an end.

    Raises:
        ValueError: Names it.
    """
    if isinstance(factor, str):
        if factor not in ENDS:
            raise ValueError(f"factor {factor!r} must be a number, first or last")
    elif factor is not None and not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"factor {factor:g}: a positive number")


def trained_layer(network: nn.Module, which: str, who: str) -> Layer:
    """Return a layer of which a matrix is trained.

    Raises:
        DoesNotFit: There is no such layer, or all of it is frozen.
    """
    layer = find_layer(network, which)
    if not layer.weights:
        raise DoesNotFit(f"{who}: layer {layer.number} is frozen")
    return layer


def scalable(network: nn.Module, which: str, who: str) -> Layer:
    """Return a layer whose weights and biases can be divided by a number, all of them trained.

    Raises:
        DoesNotFit: It is a circuit, whose angles are no scale; or a part of it is frozen.
    """
    layer = trained_layer(network, which, who)
    if is_circuit(layer.module):
        raise DoesNotFit(f"{who}: layer {layer.number} is a circuit; unwind makes its angles short")
    if len(layer.trained) < len(layer.parameters):
        raise DoesNotFit(f"{who}: a part of layer {layer.number} is frozen")
    return layer


@dataclass(frozen=True)
class Rate(Intervention):
    """Multiply the learning rate of a layer.

    By default by its growth c since the first task: so the step of the layer is as large beside its
    weights as it was then. Weights, function, units and the optimizer's memory stay as they are.
    Theory: the effective step of the layer that has to be rewritten has decayed (Lyle et al. 2024).
    """

    declared = (FACTOR,)

    layer: str
    """Number of the layer, from 1, or first or last."""
    factor: float | str | None
    """Factor; none: the growth of the layer's norm since the first task, of a circuit the loss of
    its damping; first or last: the growth of that layer, as a control (``rate:last:first``)."""

    def __post_init__(self) -> None:
        check_factor(self.factor)

    @property
    def needs_growth(self) -> bool:
        """Whether no number is given."""
        return not isinstance(self.factor, float)

    def check(self, learner: Learner, x: Tensor) -> None:
        """Refuse an arm without the layer, or with a frozen one."""
        trained_layer(learner.network, self.layer, "rate")

    def act(self, aged: Aged) -> dict[str, float]:
        """Scale the rate."""
        layer = trained_layer(aged.learner.network, self.layer, "rate")
        factor = self.factor
        if not isinstance(factor, float):
            of = layer if factor is None else find_layer(aged.learner.network, factor)
            factor = aged.growth_of(of.number)
        aged.learner.scale_rate(layer.trained, factor)
        return {"factor": factor}


@dataclass(frozen=True)
class Induce(Intervention):
    """Divide all learning rates of a learner that has learned the first task only.

    By default by the growth c of the aged learner's first layer. If the deficit is there at once,
    it comes from the size of the step and from nothing that ages: the test in the other direction.
    """

    replaces = True
    declared = (FACTOR,)

    factor: float | None
    """Divisor; none: the growth of the first layer since the first task."""

    def __post_init__(self) -> None:
        check_factor(self.factor)

    @property
    def needs_young(self) -> bool:
        """It does."""
        return True

    @property
    def needs_growth(self) -> bool:
        """Whether no factor is given."""
        return self.factor is None

    def act(self, aged: Aged) -> dict[str, float]:
        """Take the learner after the first task and slow it down."""
        assert aged.young is not None
        aged.learner.load_state_dict(dict(aged.young))
        factor = aged.growth_of(1) if self.factor is None else self.factor
        aged.learner.scale_rate([*aged.learner.network.parameters()], 1 / factor)
        return {"factor": factor}


@dataclass(frozen=True)
class Rescale(Intervention):
    """Divide a layer's weights and biases by its growth since the first task.

    Its matrices have the norm of then, and keep their direction; the outputs change. What the
    optimizer remembers stays as it is. Parameters that stay on a manifold are put back onto it.
    """

    declared = (FACTOR,)

    layer: str
    """Number of the layer, from 1, or first or last."""

    @property
    def needs_growth(self) -> bool:
        """It does."""
        return True

    def check(self, learner: Learner, x: Tensor) -> None:
        """Refuse an arm without the layer, or with a circuit or frozen weights there."""
        scalable(learner.network, self.layer, "rescale")

    def act(self, aged: Aged) -> dict[str, float]:
        """Divide."""
        layer = scalable(aged.learner.network, self.layer, "rescale")
        factor = aged.growth_of(layer.number)
        if factor != 1:
            multiply(layer.parameters, 1 / factor)
            aged.learner.retract()
        return {"factor": factor}


@dataclass(frozen=True)
class Soften(Intervention):
    """Divide the last layer by its growth since the first task: logits of the first size.

    ``rescale:last`` for networks that end with a linear layer. Theory: unbounded logits saturate
    the softmax, and the Fisher information vanishes with it (Chen and Zhang 2025).
    """

    declared = (FACTOR,)

    @property
    def needs_growth(self) -> bool:
        """It does."""
        return True

    def check(self, learner: Learner, x: Tensor) -> None:
        """Refuse an arm whose logits are not those of a linear layer."""
        from torch import nn

        layer = find_layer(learner.network, "last")
        if not isinstance(layer.module, nn.Linear):
            kind = type(layer.module).__name__
            raise DoesNotFit(f"soften needs logits of a linear layer; the last one is {kind}")
        scalable(learner.network, "last", "soften")

    def act(self, aged: Aged) -> dict[str, float]:
        """Divide."""
        return Rescale("last").act(aged)


MOMENTS = {
    "exp_avg": 1, "momentum_buffer": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2, "utility": 0,
}  # fmt: skip
"""What optimizers remember of a parameter, and which power of the gradient it is."""


@dataclass(frozen=True)
class Rebalance(Intervention):
    """Divide a layer's weights and biases by its growth, and multiply the next layer's matrix.

    The function stays the same where the units between are positively homogeneous, as ReLU and
    MaxMin are; other arms are refused. The optimizer's memory goes along: for theta' = theta / c
    the gradient is c times as large, so m' = c m and v' = c^2 v. So the step of this layer is c
    times as large beside its weights, and that of the next one c times as small.
    """

    declared = (FACTOR,)

    layer: str
    """Number of the layer, from 1, or first."""

    @property
    def needs_growth(self) -> bool:
        """It does."""
        return True

    def check(self, learner: Learner, x: Tensor) -> None:
        """Refuse an arm whose function would not stay the same."""
        from plasticity.remedies.layers import require_free

        network = learner.network
        layer, following = self._pair(network)
        require_free(network, "rebalance")
        if not _is_homogeneous(network, layer.number, x):
            raise DoesNotFit(
                f"rebalance needs positively homogeneous units between layers {layer.number} and "
                f"{following.number}: here the outputs would change"
            )
        for parameter in layer.parameters:
            _powers(learner.optimizer, parameter)

    def _pair(self, network: nn.Module) -> tuple[Layer, Layer]:
        from plasticity.networks.layers import layers_of

        layer = scalable(network, self.layer, "rebalance")
        layers = layers_of(network)
        if layer.number == len(layers):
            raise DoesNotFit(f"rebalance: after layer {layer.number} there is no other layer")
        following = scalable(network, str(layer.number + 1), "rebalance")
        return layer, following

    def act(self, aged: Aged) -> dict[str, float]:
        """Move a factor from the layer to the next one."""
        layer, following = self._pair(aged.learner.network)
        factor = aged.growth_of(layer.number)
        if factor != 1:
            move_factor(layer, following, factor)
            for parameters, growth in (
                (layer.parameters, 1 / factor),
                (following.weights, factor),
            ):
                for parameter in parameters:
                    carry_memory(aged.learner.optimizer, parameter, growth)
        return {"factor": factor}


def multiply(parameters: Sequence[nn.Parameter], factor: float) -> None:
    """Multiply parameters, in place."""
    for parameter in parameters:
        parameter.detach().mul_(factor)


def move_factor(layer: Layer, following: Layer, factor: float) -> None:
    """Divide a layer by a factor and multiply the next layer's matrix by it."""
    multiply(layer.parameters, 1 / factor)
    multiply(following.weights, factor)


def carry_memory(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, growth: float) -> None:
    """Scale what an optimizer remembers of a parameter that was multiplied by ``growth``.

    The gradient is divided by it, so memory of the k-th power of gradients is divided by its k-th
    power.
    """
    for name, power in _powers(optimizer, parameter).items():
        optimizer.state[parameter][name].mul_(growth**-power)


def _powers(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, int]:
    """Return the names and powers of what an optimizer remembers in a parameter's shape.

    Raises:
        DoesNotFit: It remembers something of which it is not known how it scales.
    """
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    found = {}
    for name, memory in state.items():
        if getattr(memory, "shape", None) == parameter.shape and parameter.dim() > 0:
            if name not in MOMENTS:
                kind = type(optimizer).__name__
                raise DoesNotFit(f"rebalance: it is not known how {name} of {kind} scales")
            found[name] = MOMENTS[name]
    return found


def _is_homogeneous(network: nn.Module, number: int, x: Tensor) -> bool:
    """Tell whether a layer can be halved and the next one doubled without a change of outputs.

    Powers of two round nothing, so that the outputs are equal, but for what the modules between do.
    """
    import torch

    from plasticity.networks.evaluating import evaluating
    from plasticity.networks.layers import layers_of

    halved = copy.deepcopy(network)
    layers = layers_of(halved)
    move_factor(layers[number - 1], layers[number], 2.0)
    with torch.no_grad(), evaluating(network), evaluating(halved):
        return torch.allclose(network(x), halved(x), rtol=1e-5, atol=1e-7)


@dataclass(frozen=True)
class Redraw(Intervention):
    """Take a layer as it began.

    Its weights and biases are the untrained ones, and the optimizer remembers nothing of them. The
    other layers stay.
    """

    layer: str
    """Number of the layer, from 1, or first or last."""

    def check(self, learner: Learner, x: Tensor) -> None:
        """Refuse an arm without the layer, or with a frozen one."""
        trained_layer(learner.network, self.layer, "redraw")

    def act(self, aged: Aged) -> dict[str, float]:
        """Load the layer's part of the state before the first task."""
        learner = aged.learner
        layer = trained_layer(learner.network, self.layer, "redraw")
        (name,) = (n for n, m in learner.network.named_modules() if m is layer.module)
        prefix = f"{name}." if name else ""
        inside = layer.module.state_dict().keys()
        untrained = aged.untrained["network"]
        layer.module.load_state_dict({name: untrained[prefix + name] for name in inside})
        for parameter in layer.parameters:
            learner.optimizer.state.pop(parameter, None)
        learner.retract()
        return {}
