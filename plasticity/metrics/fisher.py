"""Fisher information: the traces of the empirical and of the true one, and their probes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plasticity.learning.learner import Learner
from plasticity.metrics.accuracy import class_logits, evaluating
from plasticity.metrics.jacobians import used_once
from plasticity.metrics.probes import probe
from plasticity.tasks.streams import Task

JACOBIAN_NUMBERS = 2**23
"""Numbers of per-sample gradients held at once: bounds memory, decides nothing else."""


def fisher_traces(network: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the traces of the empirical and of the true Fisher information, exactly.

    With g_c the gradient of log p(c | x) in all parameters and p the softmax of the outputs (for a
    single output: the sigmoid of it, labels 0 and 1), these are the means over samples of

    * empirical: ||g_y||^2 at the observed label y (what the released program calls the trace);
    * true: sum_c p_c ||g_c||^2, the expectation over the model's own labels.

    Both follow from the Gram matrix of the gradients of logit differences d_k = l_k - l_0, since
    g_c = sum_k (delta_ck - p_k) grad d_k: classes - 1 backward passes, for all samples together.
    The large gradients of linear layers are never formed: their inner products are those of the
    layer's inputs times those of the gradients of its outputs (Goodfellow 2015, arXiv:1510.01799).
    That holds where a layer sees each sample once and shares nothing; others go the long way.
    A complex parameter counts as its real and its imaginary part.
    Source: Kunstner, Hennig and Balles 2019, "Limitations of the empirical Fisher approximation".

    Args:
        network: Any classifier whose samples do not see each other.
        x: ``(samples, features)``.
        y: ``(samples,)``, int64.
    """
    seen = used_once(network, x[:1], lambda module: type(module) is nn.Linear)
    layers: dict[str, nn.Linear] = {name: layer for name, (layer, _, _) in seen.items()}
    parameters = {
        name: torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
        for name, p in network.named_parameters()
        if name.rpartition(".")[0] not in layers
    }
    complex_ones = {name for name, p in network.named_parameters() if p.is_complex()}
    shifts = {name: x.new_zeros(layer.out_features) for name, layer in layers.items()}

    def differences(
        parameters: dict[str, Tensor], shifts: dict[str, Tensor], sample: Tensor
    ) -> tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]:
        inputs: dict[str, Tensor] = {}

        def shifted(name: str, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            inputs[name] = given[0]
            return output + shifts[name]

        hooks = [
            layer.register_forward_hook(
                lambda _, given, output, name=name: shifted(name, given, output)
            )
            for name, layer in layers.items()
        ]
        given_back = {
            name: torch.view_as_complex(p) if name in complex_ones else p
            for name, p in parameters.items()
        }
        try:
            logits = torch.func.functional_call(network, given_back, (sample.unsqueeze(0),))[0]
        finally:
            for hook in hooks:
                hook.remove()
        logits = class_logits(logits)
        return logits[1:] - logits[0], (logits.detach(), inputs)

    jacobian = torch.func.vmap(
        torch.func.jacrev(differences, argnums=(0, 1), has_aux=True), in_dims=(None, None, 0)
    )
    empirical = true = 0.0
    with evaluating(network), torch.no_grad():
        num_differences = max(1, network(x[:1]).shape[1] - 1)
        held = sum(p.numel() for p in (*parameters.values(), *shifts.values())) * num_differences
        chunk = max(1, JACOBIAN_NUMBERS // held)
        for some_x, some_y in zip(x.split(chunk), y.split(chunk), strict=True):
            (gradients, deltas), (logits, inputs) = jacobian(parameters, shifts, some_x)
            gram = x.new_zeros(())
            for gradient in gradients.values():
                rows = gradient.reshape(*gradient.shape[:2], -1)
                gram = gram + rows @ rows.mT
            for name, delta in deltas.items():
                # The weight's gradient is the outer product of delta and input, the bias's delta.
                square = inputs[name].square().flatten(1).sum(1) + (layers[name].bias is not None)
                gram = gram + delta @ delta.mT * square[:, None, None]
            p = logits.softmax(1)
            of_labels = torch.eye(p.shape[1], dtype=p.dtype, device=p.device) - p.unsqueeze(1)
            weights = of_labels[:, :, 1:]  # (samples, classes, differences)
            squared_norms = torch.einsum("sck,skl,scl->sc", weights, gram, weights)
            empirical += float(squared_norms.gather(1, some_y.unsqueeze(1)).sum())
            true += float((p * squared_norms).sum())
    return empirical / len(x), true / len(x)


@dataclass(frozen=True)
class FisherProbe:
    """Both Fisher traces on a probe that never changes and on the current task's.

    Each as the trace, per parameter, and relative to its value at initialisation on the fixed
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
        num_parameters = sum(p.numel() for p in learner.network.parameters())
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
