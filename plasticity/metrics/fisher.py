"""Fisher information: the traces of the empirical and of the true one, and their probes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plasticity.learning.learner import Learner
from plasticity.metrics import jacobians
from plasticity.metrics.probes import probe
from plasticity.networks.evaluating import evaluating
from plasticity.networks.trained import trained_parameters
from plasticity.tasks.streams import Task


def fisher_traces(network: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the traces of the empirical and of the true Fisher information, exactly.

    With g_c the gradient of log p(c | x) in all trained parameters and p the softmax of the outputs
    (for a single output: the sigmoid of it, labels 0 and 1), these are the means over samples of

    * empirical: ||g_y||^2 at the observed label y (what the released program calls the trace);
    * true: sum_c p_c ||g_c||^2, the expectation over the model's own labels.

    Both follow from the Gram matrix of the gradients of logits d = B l, B an orthonormal basis of
    what a softmax sees of them: g_c = sum_k b_ck grad d_k with b_c = B (e_c - p), which takes
    classes - 1 backward passes, for all samples together (see ``sample_gradients``). A complex
    parameter counts as its real and its imaginary part.
    Source: Kunstner, Hennig and Balles 2019, "Limitations of the empirical Fisher approximation for
    natural gradient descent".

    Args:
        network: Any classifier whose samples do not see each other.
        x: ``(samples, features)``.
        y: ``(samples,)``, int64.

    Raises:
        DoesNotFit: No parameter is trained, or a module has no gradient for one sample.
    """
    empirical = true = 0.0
    with evaluating(network), torch.no_grad():
        num_classes = jacobians.count_classes(network, x)
        basis = jacobians.contrasts(num_classes).to(x.device)
        held = jacobians.numbers_held(network, x, len(basis))
        chunk = max(1, jacobians.JACOBIAN_NUMBERS // held)
        for some_x, some_y in zip(x.split(chunk), y.split(chunk), strict=True):
            gradients = jacobians.sample_gradients(network, some_x, basis)
            gram, p = gradients.within(), gradients.logits.softmax(1)
            of_labels = torch.eye(num_classes, dtype=p.dtype, device=p.device) - p.unsqueeze(1)
            weights = of_labels @ basis.T.to(p.dtype)  # (samples, classes, contrasts)
            squared_norms = torch.einsum("sck,skl,scl->sc", weights, gram, weights)
            empirical += float(squared_norms.gather(1, some_y.unsqueeze(1)).sum())
            true += float((p * squared_norms).sum())
    return empirical / len(x), true / len(x)


@dataclass(frozen=True)
class FisherProbe:
    """Both Fisher traces on a probe that never changes and on the current task's.

    Each as the trace, per parameter, and relative to its value at initialization on the fixed
    probe. The fixed probe is old data: what is forgotten moves it. The current one tells how
    sensitive the network is to what it is learning now.

    Attributes:
        fixed: Inputs and labels of the fixed probe (the released program's: from task 0).
        initial: ``fisher_traces`` of the untrained network on it.
        seed: Decides which of a task's training samples are its probe.
    """

    fixed: tuple[Tensor, Tensor]
    initial: tuple[float, float]
    seed: int

    @classmethod
    def of(cls, learner: Learner, first: Task, seed: int) -> FisherProbe:
        """Make the probe from the untrained learner and the first task."""
        fixed = probe(first, seed)
        return cls(fixed, fisher_traces(learner.network, *fixed), seed)

    def __call__(self, learner: Learner, task: Task) -> dict[str, float]:
        """Return the columns."""
        num_parameters = sum(p.numel() for p in trained_parameters(learner.network))
        columns = {}
        for where, samples in (("task0", self.fixed), ("current", probe(task, self.seed))):
            traces = fisher_traces(learner.network, *samples)
            for kind, trace, initial in zip(
                ("empirical", "true"), traces, self.initial, strict=True
            ):
                columns[f"{kind}_{where}"] = trace
                columns[f"{kind}_{where}_per_parameter"] = trace / num_parameters
                columns[f"{kind}_{where}_relative"] = trace / initial if initial else math.nan
        return columns
