"""A network's hidden units: how to see them, and how many of them sleep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.learning.learner import Learner
from plasticity.metrics.probes import OfSeed, probe
from plasticity.networks.evaluating import evaluating
from plasticity.networks.layers import layers_of
from plasticity.networks.trained import is_trained
from plasticity.tasks.streams import Task

HIDDEN_SAMPLES = 512
"""Samples on which hidden units are looked at."""

DORMANT = 0.025
"""Share of its layer's mean at and below which a unit is dormant (Sokar et al. 2023)."""


@dataclass(frozen=True)
class Hidden:
    """What is seen inside a network: numbers of its hidden units, ``(samples, units)`` each.

    Attributes:
        outputs: Of the network.
        units: Of each layer but the last one: what it puts out, before any activation.
        rectified: Of each ``nn.ReLU`` before the last layer: what it puts out.
        features: What the last layer is given; None where nothing is learned before it.
        unit_layers: The number of the layer that each of ``units`` is of (see ``layers_of``).
        rectified_layers: The same of ``rectified``: of the layer that ended last before it.
    """

    outputs: Tensor
    units: tuple[Tensor, ...]
    rectified: tuple[Tensor, ...]
    features: Tensor | None
    unit_layers: tuple[int, ...] = ()
    rectified_layers: tuple[int, ...] = ()


def hidden(network: nn.Module, x: Tensor) -> Hidden:
    """Send samples through a network and return what its modules show of hidden units.

    A layer is a module with a matrix of its own: linear ones, angles of a circuit, whatever has a
    parameter of two dimensions or more; the last one is the one that begins last. Activations may
    be modules or functions. What a module does inside is not seen. Nothing is shown of a network
    whose hidden layers do not put out ``(samples, units)``, say, convolutions; and of one that has
    no layer before its last, as a linear network or a QNN alone: a state is no feature. What
    depends on no parameter that is trained, as features of a frozen layer, is input.

    Args:
        network: Any.
        x: ``(samples, features)``.

    Returns:
        With ``outputs`` and ``units`` in one graph, for gradients.
    """
    begun: list[tuple[Tensor, int, int]] = []  # a layer's inputs; how much was there before it
    ended: list[tuple[int, Any]] = []  # with the layer's number
    rectified: list[tuple[int, Tensor]] = []

    def before(module: nn.Module, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            begun.append((given[0], len(ended), len(rectified)))

    def after(module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        ended.append((numbers[module], output))
        # An activation may work in place: on a copy.
        return output.clone() if isinstance(output, Tensor) else output

    def after_relu(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        rectified.append((ended[-1][0] if ended else 0, output.clone()))

    hooks = []
    numbers = {layer.module: layer.number for layer in layers_of(network)}
    for name, module in network.named_modules():
        if "parametrizations" in name.split("."):
            continue  # called to make a matrix, not for samples
        if module in numbers:
            hooks.append(module.register_forward_pre_hook(before))
            hooks.append(module.register_forward_hook(after))
        elif isinstance(module, nn.ReLU):
            hooks.append(module.register_forward_hook(after_relu))
    try:
        with torch.enable_grad(), evaluating(network):
            outputs = network(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not begun:
        return Hidden(outputs, (), (), None)
    features, num_units, num_rectified = begun[-1]
    units = ended[:num_units]
    if not all(_is_of_units(u, len(x)) for u in (*(u for _, u in units), features)):
        return Hidden(outputs, (), (), None)
    # What does not depend on a trained parameter is input, however it was put.
    learned = [(k, u) for k, u in units if is_trained(u)]
    of_relu = [
        (k, r.detach())
        for k, r in rectified[:num_rectified]
        if is_trained(r) and _is_of_units(r, len(x))
    ]
    return Hidden(
        outputs,
        tuple(u for _, u in learned),
        tuple(r for _, r in of_relu),
        features.detach() if learned and is_trained(features) else None,
        tuple(k for k, _ in learned),
        tuple(k for k, _ in of_relu),
    )


def _is_of_units(values: Any, samples: int) -> bool:
    return isinstance(values, Tensor) and values.dim() == 2 and len(values) == samples


def hidden_of_probe(learner: Learner, task: Task, seed: int) -> tuple[Hidden, Tensor] | None:
    """Return what is seen with 512 of the task's training samples, and their labels.

    None of a network without hidden units, and before so many samples are made.
    """
    x, _ = probe(task, seed, 1)
    if not hidden(learner.network, x).units:
        return None
    x, y = probe(task, seed, HIDDEN_SAMPLES)
    return hidden(learner.network, x), y


@dataclass(frozen=True)
class Dormancy(OfSeed):
    """Count hidden units that sleep, as fractions of all units of all layers.

    On 512 of the task's training samples, with h_i the activation of unit i:

    * ``fraction``: the score s_i = mean |h_i| / mean over the layer's units of it is at most 0.025;
    * ``dead``: h_i = 0 for all samples;
    * ``gradient_fraction``: the same score of |dL / dz_i|, of the gradient of a sample's loss in
      what the layer puts out before the activation: what the unit's incoming weights get;
    * ``gradient_dead``: dL / dz_i = 0 for all samples.

    In a layer whose numbers are all zero, all units count. Valid for: the first two, units whose
    activation is an ``nn.ReLU``, for which 0 means off (of a tanh or a sine it means nothing: they
    have no such column); the gradients', all hidden units, of ReLU, tanh and sine, and the features
    that a QNN gives to a layer after it; a saturated tanh and a dead ReLU have no gradient. A
    network without hidden units has no column (see ``hidden`` for what is seen). Where units are
    normalized together before the activation, the gradients of dead ones are small, not zero.
    Source: Sokar et al. 2023, "The dormant neuron phenomenon in deep reinforcement learning"; by
    gradients: Ji et al. 2024, "ACE: off-policy actor-critic with causality-aware entropy
    regularization", Liu et al. 2025, "Measure gradients, not activations! Enhancing neuronal
    activity in deep reinforcement learning" (GraMa). In both versions the scores are those of the
    layer's units; theirs take the gradient of weights or of h_i, ours that of z_i.

    Each column with ``_k`` after its name, as ``dead_1``, is the same fraction of the units of
    layer k alone (see ``layers_of``).

    Attributes:
        seed: Decides which samples.
    """

    def __call__(self, learner: Learner, task: Task) -> dict[str, float]:
        """Return the columns."""
        found = hidden_of_probe(learner, task, self.seed)
        if found is None:
            return {}
        seen, y = found
        columns: dict[str, float] = {}
        if seen.rectified:
            columns |= _by_layer(("fraction", "dead"), seen.rectified_layers, seen.rectified)
        with torch.enable_grad():
            loss = learner.loss(seen.outputs, y)
        gradients = torch.autograd.grad(loss, seen.units, allow_unused=True)
        pairs = zip(seen.unit_layers, gradients, strict=True)
        used = [(number, gradient) for number, gradient in pairs if gradient is not None]
        if used:
            columns |= _by_layer(("gradient_fraction", "gradient_dead"), *zip(*used, strict=True))
        return columns


def _by_layer(
    names: tuple[str, str], numbers: Sequence[int], layers: Sequence[Tensor]
) -> dict[str, float]:
    """Return the fractions of ``_sleeping`` of all layers, and of each by its number."""
    columns = dict(zip(names, _sleeping(layers), strict=True))
    for number in dict.fromkeys(numbers):
        own = [layer for k, layer in zip(numbers, layers, strict=True) if k == number]
        of_layer = _sleeping(own)
        columns |= {f"{n}_{number}": v for n, v in zip(names, of_layer, strict=True)}
    return columns


def _sleeping(layers: Sequence[Tensor]) -> tuple[float, float]:
    """Return the fractions of units that are dormant, and dead, by numbers a sample and unit."""
    dormant = dead = units = 0
    for numbers in layers:
        size = numbers.abs().mean(0)
        dormant += int((size <= DORMANT * size.mean()).sum())
        dead += int((numbers == 0).all(0).sum())
        units += len(size)
    return dormant / units, dead / units
