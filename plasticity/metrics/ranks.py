"""Ranks and spectra: of hidden features, of the tangent kernel, of linear layers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plasticity.learning.learner import Learner
from plasticity.metrics import jacobians
from plasticity.metrics.probes import OfSeed, probe
from plasticity.metrics.units import hidden_of_probe
from plasticity.networks.evaluating import evaluating
from plasticity.networks.layers import layers_of
from plasticity.networks.trained import is_trained, trained_parameters
from plasticity.tasks.streams import Task

SRANK_SHARE = 0.99
"""Share of the singular values' sum that the srank's make up (Kumar et al. 2021)."""


def effective_rank(values: Tensor) -> float:
    """Return exp(-sum p log p) with p = values / their sum; NaN if that is not positive.

    From 1, one value alone, to their number, all equal. Source: Roy and Vetterli 2007, "The
    effective rank: a measure of effective dimensionality".

    Args:
        values: Singular values or eigenvalues, at least 0.
    """
    total = values.sum()
    if not total > 0:
        return math.nan
    p = values / total
    return float(torch.special.entr(p).sum().exp())


def srank(values: Tensor) -> float:
    """Return the least k for which the k largest make up 99 % of the sum; NaN if that is 0.

    Source: Kumar et al. 2021, "Implicit under-parameterization inhibits data-efficient deep
    reinforcement learning".

    Args:
        values: Singular values, the largest first.
    """
    total = values.sum()
    if not total > 0:
        return math.nan
    # Rounding may keep the last sum just below the share where one value is all there is.
    return float(1 + (values.cumsum(0)[:-1] < SRANK_SHARE * total).sum())


def stable_rank(values: Tensor) -> float:
    """Return the sum of squares over the largest square, ||H||_F^2 / s_1^2; NaN if that is 0.

    Args:
        values: Singular values.
    """
    largest = values.max()
    return float((values / largest).square().sum()) if largest > 0 else math.nan


@dataclass(frozen=True)
class FeatureRank(OfSeed):
    """Measure how many directions the features have that the last layer is given.

    With s the singular values of H, the features of 512 of the task's training samples, not
    centered, in three ways that the literature also mixes up by name:

    * ``effective``: exp(-sum p log p), p = s / sum s (Roy and Vetterli 2007);
    * ``srank``: the least k for which the k largest make up 99 % of sum s (Kumar et al. 2021);
    * ``stable``: ||H||_F^2 / s_1^2.

    Valid for: networks with hidden units (see ``hidden``), and a QNN whose outputs go into a layer.
    Not of a QNN's state, whose rank is that of the inputs, whatever the angles: there is no column.
    Undefined where all features are zero.

    Attributes:
        seed: Decides which samples.
    """

    def __call__(self, learner: Learner, task: Task) -> dict[str, float]:
        """Return the columns."""
        found = hidden_of_probe(learner, task, self.seed)
        features = found[0].features if found else None
        if features is None or not features.isfinite().all():
            return {}
        values = torch.linalg.svdvals(features)
        return {
            "effective": effective_rank(values),
            "srank": srank(values),
            "stable": stable_rank(values),
        }


def tangent_kernel(network: nn.Module, x: Tensor) -> Tensor:
    """Return the empirical tangent kernel, summed over logits, ``(samples, samples)`` float64.

    K_nm = sum_k <grad d_k(x_n), grad d_k(x_m)>, the gradients in all trained parameters. d are the
    logits' coordinates in an orthonormal basis of what a softmax sees of them (all but their mean);
    which basis does not matter. A single output z is the pair of logits (0, z).

    Args:
        network: Any classifier whose samples do not see each other.
        x: ``(samples, features)``.

    Raises:
        DoesNotFit: No parameter is trained, or a module has no gradient for one sample.
    """
    with evaluating(network), torch.no_grad():
        basis = jacobians.contrasts(jacobians.count_classes(network, x)).to(x.device)
        held = len(x) * jacobians.numbers_held(network, x, 1)
        kernel = torch.zeros(len(x), len(x), dtype=torch.float64, device=x.device)
        for some in basis.split(max(1, jacobians.JACOBIAN_NUMBERS // held)):
            kernel += jacobians.sample_gradients(network, x, some).between()
    return kernel


@dataclass(frozen=True)
class TangentKernel(OfSeed):
    """Measure how freely the outputs of 64 samples can be moved, by the empirical tangent kernel.

    With K = J J^T of 64 of the task's training samples, J the gradients of the logits in all
    trained parameters (see ``tangent_kernel``), and l its eigenvalues:

    * ``effective_rank``: exp(-sum p log p), p = l / sum l;
    * ``condition``: l_1 / l_64. Gradient descent learns what lies along l_64 slower than what lies
      along l_1 by this factor.

    K is summed over the logits, 64 x 64: it may have full rank wherever there are 64 parameters.
    The Gram matrix of all logits of all samples would be singular for ten classes by its size
    alone where there are fewer than 576 parameters, as a circuit of 36 gates has. From about 1e12
    on (single precision) the condition is rounding, and ends there. Undefined where all gradients
    are zero. Valid for: all networks. Source: Lyle et al. 2023, "Understanding plasticity in neural
    networks"; the condition number as the ordinate of all arms: Rosseau 2026.

    Attributes:
        seed: Decides which samples.
    """

    def __call__(self, learner: Learner, task: Task) -> dict[str, float]:
        """Return the columns."""
        x, _ = probe(task, self.seed)
        kernel = tangent_kernel(learner.network, x)
        if not kernel.isfinite().all():
            return {}
        levels = torch.linalg.eigvalsh(kernel).clamp(min=0)
        smallest, largest = float(levels[0]), float(levels[-1])
        if not largest > 0:
            return {}
        # Gradients have a relative error eps, their inner products thus one of eps^2 at best.
        dtype = trained_parameters(learner.network)[0].dtype
        resolved = max(torch.finfo(dtype).eps ** 2, torch.finfo(torch.float64).eps)
        return {
            "effective_rank": effective_rank(levels),
            "condition": largest / max(smallest, len(x) * resolved * largest),
        }


def weighted_gram(network: nn.Module, x: Tensor) -> Tensor:
    """Return the Gram matrix of what a Gauss-Newton matrix is made of, float64.

    With d(x) the C - 1 coordinates of the logits of sample x in an orthonormal basis of what a
    softmax sees of them, J(x) their gradients in all trained parameters, and H(x) = R R^T the
    Hessian of the sample's cross entropy in d, it is the matrix of the inner products of all rows
    of R^T J(x): its eigenvalues are those of sum_x J^T H J that are not zero.

    Args:
        network: Any classifier whose samples do not see each other.
        x: ``(samples, features)``.

    Returns:
        ``(samples (C - 1), samples (C - 1))``.

    Raises:
        DoesNotFit: No parameter is trained, or a module has no gradient for one sample.
    """
    with evaluating(network), torch.no_grad():
        basis = jacobians.contrasts(jacobians.count_classes(network, x)).to(x.device)
        gradients = jacobians.sample_gradients(network, x, basis)
        p = gradients.logits.double().softmax(1)
        # diag(p) - p p^T = S S^T with r = sqrt(p) and S = diag(r) (I - r r^T), as r has norm 1.
        roots = p.sqrt()
        eye = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
        half = roots.unsqueeze(2) * (eye - roots.unsqueeze(2) * roots.unsqueeze(1))
        return gradients.gram((basis @ half).mT)  # (samples, classes, C - 1)


@dataclass(frozen=True)
class Curvature(OfSeed):
    """Count the directions in which the loss is curved, and say how much it is at most.

    With l the eigenvalues of the Gauss-Newton matrix of 64 of the task's training samples, mean
    over samples of J^T H J, J the gradients of a sample's logits in all trained parameters and H
    the Hessian of its cross entropy in the logits, before the task's first update:

    * ``effective_rank``: exp(-sum p log p), p = l / sum l;
    * ``largest``: the largest of them, the sharpness by which the largest stable step of gradient
      descent is 2 / l.

    They are had from the Gram matrix of the rows of sqrt(H) J, which has the same eigenvalues
    beside zeros: 64 times the classes on each side. Where the network is sure of its answer, wrong
    or right, H vanishes, and so does what the sample adds. Undefined where all vanishes. Valid for:
    classifiers with a softmax or a sigmoid, of any network. Source: Lewandowski et al. 2023,
    "Directions of curvature as an explanation for loss of plasticity", who take the effective rank
    of the Hessian; the Gauss-Newton matrix, which leaves out the curvature of the network itself
    and is the Fisher information of the model's own labels, is ours.

    Attributes:
        seed: Decides which samples.
    """

    def __call__(self, learner: Learner, task: Task) -> dict[str, float]:
        """Return the columns."""
        x, _ = probe(task, self.seed)
        gram = weighted_gram(learner.network, x) / len(x)
        if not gram.isfinite().all():
            return {}
        levels = torch.linalg.eigvalsh(gram).clamp(min=0)
        largest = float(levels[-1])
        return {"effective_rank": effective_rank(levels), "largest": largest} if largest else {}


def singular_value(learner: Learner, task: Task) -> dict[str, float]:
    """Return the largest singular value of each layer's matrix.

    ``singular_value_k`` is that of layer k, counted from 1 as in ``step`` and all columns of layers
    (see ``layers_of``), by which it may stretch what it is given. It is ``spectrum_largest`` of the
    same layer, where linear layers are counted from 0. Valid for: layers that have a matrix
    ``weight``, as it acts; circuits and frozen layers have no column, but are counted. Source:
    Lewandowski et al. 2025, "Learning continually by spectral regularization".
    """
    columns = {}
    with torch.enable_grad(), evaluating(learner.network):
        matrices = {
            layer.number: weight
            for layer in layers_of(learner.network)
            if not isinstance(layer.module, nn.Embedding)
            and isinstance(weight := getattr(layer.module, "weight", None), Tensor)
            and weight.dim() == 2
            and is_trained(weight)
        }
    with torch.no_grad():
        for number, matrix in matrices.items():
            if matrix.isfinite().all():
                columns[str(number)] = float(torch.linalg.matrix_norm(matrix, 2))
    return columns


def spectrum(learner: Learner, task: Task) -> dict[str, float]:
    """Return of each linear layer the largest singular value and the distance from an isometry.

    With W of layer k, counted from the inputs on:

    * ``largest_k``: its largest singular value, by which it may stretch;
    * ``deviation_k``: ||W^T W - I||_F, or ||W W^T - I||_F where that is the smaller matrix, so that
      0 can be reached; 0 where it keeps lengths (on the larger side, but for what it drops).

    Valid for: linear layers, that is ``nn.Linear`` and modules that have a matrix ``weight``, as it
    acts; other networks have no column. A frozen layer has none either, but is counted in k.
    Source: Lewandowski et al. 2025, "Learning continually by spectral regularization"; the
    deviation: FIRE, 2026 (there of W^T W in all cases).
    """
    columns = {}
    with torch.enable_grad(), evaluating(learner.network):
        matrices = [
            weight
            for module in learner.network.modules()
            if not isinstance(module, nn.Embedding)
            and isinstance(weight := getattr(module, "weight", None), Tensor)
            and weight.dim() == 2
        ]
    with torch.no_grad():
        for k, matrix in enumerate(matrices):
            if is_trained(matrix) and matrix.isfinite().all():
                values = torch.linalg.svdvals(matrix)
                columns[f"largest_{k}"] = float(values.max())
                columns[f"deviation_{k}"] = float((values.square() - 1).square().sum().sqrt())
    return columns
