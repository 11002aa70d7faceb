"""The gradients of each sample's logits in all parameters, and their inner products."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.metrics.accuracy import class_logits, evaluating
from plasticity.metrics.circuits import circuit_jacobian, is_plain_circuit
from plasticity.metrics.kept import Kept, numbers_of

JACOBIAN_NUMBERS = 2**24
"""Numbers of per-sample gradients held at once: bounds memory, decides nothing else."""


@dataclass(frozen=True)
class SampleGradients:
    """Gradients of some functions of each sample's logits.

    The large gradients of linear layers are never formed: they are the outer products of the
    layer's inputs and of the gradients in its outputs, so their inner products are products of two
    (Goodfellow 2015, arXiv:1510.01799).

    Attributes:
        rows: Of the other parameters, ``(samples, functions, numbers)`` each.
        layers: Of each linear layer its inputs ``(samples, inputs)``, with a 1 more if it has a
            bias, and the gradients in its outputs ``(samples, functions, outputs)``.
        logits: One a class, ``(samples, classes)``.
    """

    rows: tuple[Tensor, ...]
    layers: tuple[tuple[Tensor, Tensor], ...]
    logits: Tensor

    def within(self) -> Tensor:
        """Return inner products of a sample's functions, ``(samples, functions, functions)``."""
        total = self.logits.new_zeros(())
        for rows in self.rows:
            total = total + rows @ rows.mT
        for inputs, deltas in self.layers:
            total = total + deltas @ deltas.mT * inputs.square().sum(1)[:, None, None]
        return total

    def between(self) -> Tensor:
        """Return inner products of samples, summed over functions, ``(samples, samples)`` float64.

        In double precision: what is small beside the largest counts here.
        """
        total = self.logits.new_zeros((), dtype=torch.float64)
        for rows in self.rows:
            for some in rows.flatten(1).split(2**12, 1):  # so much stays in the cache
                some = some.double()
                total = total + some @ some.T
        for inputs, deltas in self.layers:
            inputs, deltas = inputs.double(), deltas.flatten(1).double()
            total = total + inputs @ inputs.T * (deltas @ deltas.T)
        return total


def sample_gradients(network: nn.Module, x: Tensor, functions: Tensor) -> SampleGradients:
    """Return the gradients of linear functions of each sample's logits in all parameters.

    A complex parameter counts as its real and its imaginary part. What a layer adds that sees each
    sample once and shares nothing is had from its inputs and the gradients in its outputs: of
    linear layers as above, of circuits that read a few probabilities by ``circuit_jacobian``.
    Others go the long way, a backward pass for each sample and function, all at once.

    Args:
        network: Any classifier whose samples do not see each other; in the mode to evaluate.
        x: ``(samples, features)``.
        functions: Coefficients of the logits, ``(functions, classes)``; a single output is the
            logit of class 1, that of class 0 is 0.
    """
    given = [*numbers_of(network), x, functions]
    return _last.get([network], given, lambda: _sample_gradients(network, x, functions))


_last: Kept[SampleGradients] = Kept()


def _sample_gradients(network: nn.Module, x: Tensor, functions: Tensor) -> SampleGradients:
    layers = _layers_used_once(network, x[:1])
    own = {
        name: p.detach()
        for name, p in network.named_parameters()
        if name.rpartition(".")[0] not in layers
    }
    complex_ones = {name for name, p in own.items() if p.is_complex()}
    parameters = {n: torch.view_as_real(p) if p.is_complex() else p for n, p in own.items()}
    constants = {n: p.detach() for n, p in network.named_parameters() if n not in own}
    shifts = {
        name: next(layer.parameters()).new_zeros(outputs)
        for name, (layer, outputs) in layers.items()
    }

    def of_a_sample(
        parameters: dict[str, Tensor], shifts: dict[str, Tensor], sample: Tensor
    ) -> tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]:
        inputs: dict[str, Tensor] = {}

        def shifted(name: str, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            inputs[name] = given[0][0]
            return output + shifts[name]

        hooks = [
            layer.register_forward_hook(
                lambda _, given, output, name=name: shifted(name, given, output)
            )
            for name, (layer, _) in layers.items()
        ]
        whole = constants | {
            name: torch.view_as_complex(p) if name in complex_ones else p
            for name, p in parameters.items()
        }
        try:
            logits = torch.func.functional_call(network, whole, (sample.unsqueeze(0),))[0]
        finally:
            for hook in hooks:
                hook.remove()
        logits = class_logits(logits)
        return functions.to(logits.dtype) @ logits, (logits.detach(), inputs)

    jacobian = torch.func.vmap(
        torch.func.jacrev(of_a_sample, argnums=(0, 1), has_aux=True), in_dims=(None, None, 0)
    )
    with torch.no_grad(), warnings.catch_warnings():
        # Some operations, say, of a parametrisation, are not done for all samples at once.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        (gradients, deltas), (logits, inputs) = jacobian(parameters, shifts, x)
        rows = [g.reshape(*g.shape[:2], -1) for g in gradients.values()]
        factors = []
        for name, (layer, _) in layers.items():
            if not isinstance(layer, nn.Linear):
                rows.append(deltas[name] @ circuit_jacobian(layer, inputs[name]))
                continue
            given = inputs[name]
            if layer.bias is not None:
                given = torch.cat([given, given.new_ones(len(given), 1)], 1)
            factors.append((given, deltas[name]))
    return SampleGradients(tuple(rows), tuple(factors), logits)


def contrasts(num_classes: int) -> Tensor:
    """Return an orthonormal basis of what a softmax sees of logits: Helmert's contrasts.

    Returns:
        ``(classes - 1, classes)`` float64, rows that sum to 0.
    """
    rows = torch.tril(torch.ones(num_classes, num_classes, dtype=torch.float64), -1)[1:]
    k = torch.arange(1, num_classes, dtype=torch.float64)
    rows[torch.arange(num_classes - 1), torch.arange(1, num_classes)] = -k
    return rows / (k * (k + 1)).sqrt().unsqueeze(1)


def numbers_held(network: nn.Module, x: Tensor, functions: int) -> int:
    """Return about how many numbers ``sample_gradients`` holds for a sample."""
    layers = _layers_used_once(network, x[:1])
    held = 0
    for name, p in network.named_parameters():
        if name.rpartition(".")[0] not in layers:
            held += functions * p.numel() * (2 if p.is_complex() else 1)
    for layer, outputs in layers.values():
        held += functions * outputs
        if not isinstance(layer, nn.Linear):
            held += sum(p.numel() for p in layer.parameters()) * (functions + outputs)
    return held


def _layers_used_once(network: nn.Module, x: Tensor) -> dict[str, tuple[Any, int]]:
    """Find layers that see each sample once, as a vector, and share nothing; and their outputs."""
    candidates: dict[str, Any] = {
        name: module
        for name, module in network.named_modules()
        if (type(module) is nn.Linear and not module.weight.is_complex())
        or hasattr(module, "ansatz")
    }
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in candidates}
    hooks = [
        layer.register_forward_hook(
            lambda _, given, output, name=name: calls[name].append((given[0], output))
        )
        for name, layer in candidates.items()
    ]
    try:
        with torch.no_grad(), evaluating(network):
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    users = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    layers = {}
    for name, layer in candidates.items():
        once = [(tuple(given.shape[:-1]), output) for given, output in calls[name]]
        if (
            [shape for shape, _ in once] == [(1,)]
            and all(users[id(p)] == 1 for p in layer.parameters())
            and (type(layer) is nn.Linear or is_plain_circuit(layer, calls[name][0][0]))
        ):
            layers[name] = layer, once[0][1].shape[-1]
    return layers
