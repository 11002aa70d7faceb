"""Norms of a network's weights, of what a task changes in them, and of the loss's gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plasticity.learning.learner import Learner
from plasticity.metrics.kept import Kept, numbers_of
from plasticity.networks.evaluating import evaluating
from plasticity.networks.layers import layers_of, norm_of
from plasticity.networks.trained import is_trained, trained_parameters
from plasticity.quantum.known import is_qnn
from plasticity.tasks.streams import Task

GRADIENT_BATCH = 128
"""Samples of the gradient norm (protocol "Permuted MNIST")."""


def weight_norm(learner: Learner, task: Task) -> float:
    """Return the mean Frobenius norm of the weight tensors; NaN where there is none.

    See ``weight_norms`` for what weight tensors are.
    """
    weights: dict[Tensor, list[Tensor]] = {}
    for module in learner.network.modules():
        for parameter, parts in _weights(module):
            if is_trained(parameter):
                weights.setdefault(parameter, parts)
    norms = [torch.linalg.vector_norm(part) for parts in weights.values() for part in parts]
    return float(torch.stack(norms).mean()) if norms else math.nan


def weight_norms(learner: Learner, task: Task) -> dict[str, float]:
    """Return the mean Frobenius norm of the weight tensors, and the norm of each layer's weights.

    The column ``weight_norm`` is the mean over the weight tensors: the matrices of linear layers,
    without biases, and of a QNN its angles split by ``ansatz.gate_groups`` (even and odd bricks).
    Of any other module they are its own parameters of two dimensions or more. Each counts once, and
    frozen ones do not count. Source: protocol "Permuted MNIST".

    The columns ``weight_norm_k`` are the norms of all weights of layer k as one vector, without
    biases. Layers are counted from 1, in the order of the network's modules (see ``layers_of``); a
    circuit is one layer. A frozen layer has no column, but is counted. An experiment that always
    measures the mean records these columns only where ``--metrics weight_norm`` asks for them.
    """
    of_layers = {
        str(layer.number): norm_of(layer.weights)
        for layer in layers_of(learner.network)
        if layer.weights
    }
    return {"": weight_norm(learner, task)} | of_layers


def _weights(module: nn.Module) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield a module's own weight tensors, and the parts of each that have norms of their own."""
    if is_qnn(module):
        angles = module.angles
        yield angles, [angles.detach()[list(g)] for g in module.ansatz.gate_groups]
        return
    for parameter in module.parameters(recurse=False):
        if parameter.dim() > 1:
            yield parameter, [parameter.detach()]


def gradient_norm(learner: Learner, task: Task) -> float:
    """Return the mean norm of the loss's gradient over the trained parameter tensors.

    On the task's first 128 training samples; biases count as tensors of their own, and a QNN's
    angles are split as in ``weight_norm``. Source: protocol "Permuted MNIST".
    """
    return _mean_norm(learner, _gradients(learner, task))


def gradient_start(learner: Learner, task: Task) -> dict[str, float]:
    """Return the fraction of the gradient's numbers that are exactly zero, as a task begins.

    ``zeros``: on the same samples as ``gradient_norm``, of all trained parameters. Dead units,
    saturated sines and clipped logits give zeros; so do, and always, pixels that are black in all
    samples, gates that the readout does not depend on, and parameters that are not used. So look at
    how it changes. A complex number counts as two.
    """
    return {"zeros": _zeros(_gradients(learner, task))}


def gradient_end(learner: Learner, task: Task) -> dict[str, float]:
    """Return what ``gradient_norm`` and ``gradient_start`` tell, after a task's last update."""
    gradients = _gradients(learner, task)
    return {"norm": _mean_norm(learner, gradients), "zeros": _zeros(gradients)}


_kept_gradients: Kept[list[Tensor]] = Kept()


def _gradients(learner: Learner, task: Task) -> list[Tensor]:
    """Return the loss's gradient in each trained parameter, on the task's first samples."""
    network = learner.network
    parameters = trained_parameters(network)

    def make() -> list[Tensor]:
        x, y = task.train.batch(slice(0, GRADIENT_BATCH))
        with torch.enable_grad(), evaluating(network):
            loss = learner.loss(network(x), y)
            # What the loss does not depend on has the gradient 0.
            return list(torch.autograd.grad(loss, parameters, materialize_grads=True))

    return _kept_gradients.get([learner, network, task], [*numbers_of(network)], make)


def gradients_of(learner: Learner, task: Task) -> dict[nn.Parameter, Tensor]:
    """Return the gradient of ``gradient_norm`` by the trained parameter."""
    parameters = trained_parameters(learner.network)
    return dict(zip(parameters, _gradients(learner, task), strict=True))


def _mean_norm(learner: Learner, gradients: list[Tensor]) -> float:
    groups = {
        id(module.angles): module.ansatz.gate_groups
        for module in learner.network.modules()
        if is_qnn(module)
    }
    norms = []
    for parameter, gradient in zip(trained_parameters(learner.network), gradients, strict=True):
        parts = [gradient[list(g)] for g in groups.get(id(parameter), ())] or [gradient]
        norms += [torch.linalg.vector_norm(part) for part in parts]
    return float(torch.stack(norms).mean())


def _zeros(gradients: list[Tensor]) -> float:
    numbers = [torch.view_as_real(g) if g.is_complex() else g for g in gradients]
    zeros = torch.stack([(part == 0).sum() for part in numbers])
    return int(zeros.sum()) / sum(part.numel() for part in numbers)


class UpdateRatio:
    """Relate how far a task's updates move the parameters to how large these were before them.

    ||theta' - theta|| / ||theta||, with theta the trained parameters as the first update finds them
    and theta' as its last one leaves them, all as one vector. As weights grow, the same steps
    change the function less and less: an effective learning rate. Undefined where all parameters
    are zero. Valid for: all networks; where a gate's angles are put back to an equivalent point
    after a step, that counts as movement. Source: Lyle et al. 2024, "Normalization and
    effective learning rates in reinforcement learning".

    The columns ``update_ratio_k`` are the same of the parameters of layer k alone, biases among
    them (see ``layers_of``). The number of all parameters together hides which layer has slowed
    down: the layer with most numbers decides it.
    """

    def __init__(self, learner: Learner, task: Task) -> None:
        self._trained = trained_parameters(learner.network)
        self._layers = [(layer.number, layer.trained) for layer in layers_of(learner.network)]
        self._before = [p.detach().clone() for p in self._trained]

    def __call__(self, outputs: Tensor, labels: Tensor) -> None:
        """Wait for the task's end."""

    def value(self) -> dict[str, float]:
        """Return the ratios, of all parameters and of each layer's."""
        differences = _differences(self._trained, self._before)
        size = _norm(self._before)
        ratios = {"": _norm(differences) / size if size else math.nan}
        pairs = dict(zip(self._trained, zip(differences, self._before, strict=True), strict=True))
        for number, trained in self._layers:
            of_layer = [pairs[p] for p in trained if p in pairs]
            if size := _norm(before for _, before in of_layer):
                ratios[str(number)] = _norm(moved for moved, _ in of_layer) / size
        return ratios


@dataclass(frozen=True)
class InitialDistance:
    """Tell how far the parameters are from the untrained ones, per number.

    ||theta - theta_0|| / sqrt(P), with P numbers in theta, the parameters that are trained; a
    complex one has two. Valid for: all networks. Source: Kumar et al. 2023, "Maintaining plasticity
    in continual learning via regenerative regularization", whose penalty is on this distance.

    Attributes:
        initial: The untrained parameters, frozen ones among them.
    """

    initial: tuple[Tensor, ...]

    @classmethod
    def of(cls, learner: Learner, first: Task, seed: int) -> InitialDistance:
        """Keep the parameters of the untrained learner."""
        return cls(tuple(p.detach().clone() for p in learner.network.parameters()))

    def __call__(self, learner: Learner, task: Task) -> float:
        """Return the distance."""
        initial = dict(zip(learner.network.parameters(), self.initial, strict=True))
        trained = trained_parameters(learner.network)
        count = sum(p.numel() * (2 if p.is_complex() else 1) for p in trained)
        return _norm(_differences(trained, [initial[p] for p in trained])) / math.sqrt(count)


def _differences(parameters: Iterable[Tensor], before: Iterable[Tensor]) -> list[Tensor]:
    return [p.detach() - b for p, b in zip(parameters, before, strict=True)]


def _norm(parts: Iterable[Tensor]) -> float:
    """Return the norm of all numbers as one vector."""
    return math.hypot(*(float(torch.linalg.vector_norm(part)) for part in parts))
