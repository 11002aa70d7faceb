"""The gradients of each sample's logits in all trained parameters, and their inner products."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.errors import DoesNotFit
from plasticity.metrics.accuracy import class_logits
from plasticity.metrics.circuits import circuit_jacobian, is_plain_circuit
from plasticity.metrics.kept import Kept, numbers_of
from plasticity.networks.evaluating import evaluating
from plasticity.networks.trained import is_trained, trained_parameters

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

    def gram(self, weights: Tensor) -> Tensor:
        """Return the inner products of linear combinations of the functions' gradients.

        Args:
            weights: Of each sample, ``(samples, combinations, functions)``.

        Returns:
            ``(samples combinations, samples combinations)`` float64, sample by sample.
        """
        samples, count = weights.shape[:2]
        weights = weights.double()
        total = self.logits.new_zeros((), dtype=torch.float64)
        for rows in self.rows:
            for some in rows.split(2**12, 2):
                combined = (weights @ some.double()).flatten(0, 1)
                total = total + combined @ combined.T
        for inputs, deltas in self.layers:
            inputs, combined = inputs.double(), (weights @ deltas.double()).flatten(0, 1)
            products = (combined @ combined.T).view(samples, count, samples, count)
            products = products * (inputs @ inputs.T).view(samples, 1, samples, 1)
            total = total + products.view(samples * count, samples * count)
        return total


def sample_gradients(network: nn.Module, x: Tensor, functions: Tensor) -> SampleGradients:
    """Return the gradients of linear functions of each sample's logits in all trained parameters.

    A complex parameter counts as its real and its imaginary part. What a layer adds that sees each
    sample once and shares nothing is had from its inputs and the gradients in its outputs: of
    linear layers as above, of circuits that read a few probabilities by ``circuit_jacobian``.
    Others go the long way, a backward pass for each sample and function: all at once by torch.func,
    or one by one where it cannot map a module (PReLU, RReLU, recurrent layers, autograd functions
    of one's own), which takes 4 to 17 times as long (64 samples, 10 functions, small networks).

    Args:
        network: Any classifier whose samples do not see each other; in the mode to evaluate.
        x: ``(samples, features)``.
        functions: Coefficients of the logits, ``(functions, classes)``; a single output is the
            logit of class 1, that of class 0 is 0.

    Raises:
        DoesNotFit: No parameter is trained, or a module has no gradient for one sample.
    """
    given = [*numbers_of(network), x, functions]
    return _last.get([network], given, lambda: _sample_gradients(network, x, functions))


_last: Kept[SampleGradients] = Kept()


def _sample_gradients(network: nn.Module, x: Tensor, functions: Tensor) -> SampleGradients:
    trained_parameters(network)  # or there would be no gradient
    layers = _layers_used_once(network, x[:1])
    own = {
        name: p
        for name, p in network.named_parameters()
        if is_trained(p) and name.rpartition(".")[0] not in layers
    }
    # Recurrent layers keep what functional_call lends them.
    if not any(isinstance(module, nn.RNNBase) for module in network.modules()):
        with contextlib.suppress(Exception):  # of any kind, by what torch.func cannot map
            return _at_once(network, x, functions, layers, own)
    return _one_by_one(network, x, functions)


def _at_once(
    network: nn.Module,
    x: Tensor,
    functions: Tensor,
    layers: dict[str, tuple[Any, int]],
    own: dict[str, nn.Parameter],
) -> SampleGradients:
    """Return the gradients of all samples by one call of torch.func."""
    complex_ones = {name for name, p in own.items() if p.is_complex()}
    parameters = {
        n: torch.view_as_real(p.detach()) if p.is_complex() else p.detach() for n, p in own.items()
    }
    constants = {n: p.detach() for n, p in network.named_parameters() if n not in own}
    shifts = {
        name: next(layer.parameters()).new_zeros(outputs)
        for name, (layer, outputs) in layers.items()
    }

    def of_a_sample(
        parameters: dict[str, Tensor], shifts: dict[str, Tensor], sample: Tensor
    ) -> tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]:
        whole = constants | {
            name: torch.view_as_complex(p) if name in complex_ones else p
            for name, p in parameters.items()
        }
        with _shifted(layers, shifts) as inputs:
            logits = torch.func.functional_call(network, whole, (sample.unsqueeze(0),))[0]
        logits = class_logits(logits)
        return functions.to(logits.dtype) @ logits, (logits.detach(), inputs)

    jacobian = torch.func.vmap(
        torch.func.jacrev(of_a_sample, argnums=(0, 1), has_aux=True), in_dims=(None, None, 0)
    )
    with torch.no_grad(), warnings.catch_warnings():
        # Some operations, say, of a parametrization, are not done for all samples at once.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        (gradients, deltas), (logits, inputs) = jacobian(parameters, shifts, x)
        rows = [g.reshape(*g.shape[:2], -1) for g in gradients.values()]
        factors = []
        for name, (layer, _) in layers.items():
            if isinstance(layer, nn.Linear):
                factors.append((_given(layer, inputs[name]), deltas[name]))
            else:
                rows.append(deltas[name] @ circuit_jacobian(layer, inputs[name]))
    return SampleGradients(tuple(rows), tuple(factors), logits)


def _one_by_one(network: nn.Module, x: Tensor, functions: Tensor) -> SampleGradients:
    """Return the same, with a backward pass for each sample and function."""
    layers = {
        name: found
        for name, found in _layers_used_once(network, x[:1]).items()
        if isinstance(found[0], nn.Linear)
    }
    own = [
        p
        for name, p in network.named_parameters()
        if is_trained(p) and name.rpartition(".")[0] not in layers
    ]
    found: list[list[list[Tensor]]] = []
    all_logits, all_inputs = [], []
    # A network may draw at random even where it evaluates: the numbers are given back.
    with torch.enable_grad(), torch.random.fork_rng(), blaming(network):
        for sample in x.split(1):
            shifts = {
                name: layer.weight.new_zeros(outputs, requires_grad=True)
                for name, (layer, outputs) in layers.items()
            }
            with _shifted(layers, shifts) as inputs:
                logits = class_logits(network(sample)[0])
            wanted = [*own, *shifts.values()]
            found.append([])
            for value in functions.to(logits.dtype) @ logits:
                gradients: Sequence[Tensor] = [torch.zeros_like(p) for p in wanted]
                if is_trained(value):
                    gradients = torch.autograd.grad(
                        value, wanted, retain_graph=True, materialize_grads=True
                    )
                parts = [torch.view_as_real(g) if g.is_complex() else g for g in gradients]
                found[-1].append([part.flatten() for part in parts])
            all_logits.append(logits.detach())
            all_inputs.append(inputs)
    with torch.no_grad():
        stacked = [
            torch.stack([torch.stack([of[k] for of in functions]) for functions in found])
            for k in range(len(own) + len(layers))
        ]
        factors = [
            (_given(layer, torch.stack([inputs[name] for inputs in all_inputs])), deltas)
            for (name, (layer, _)), deltas in zip(layers.items(), stacked[len(own) :], strict=True)
        ]
    return SampleGradients(tuple(stacked[: len(own)]), tuple(factors), torch.stack(all_logits))


@contextlib.contextmanager
def _shifted(
    layers: dict[str, tuple[Any, int]], shifts: dict[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Add a number to each output of layers, and note what these are given: one sample."""
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
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def _given(layer: nn.Linear, inputs: Tensor) -> Tensor:
    """Return what the gradients in a layer's outputs are multiplied with, sample by sample."""
    parts = [inputs] if is_trained(layer.weight) else []
    if layer.bias is not None and is_trained(layer.bias):
        parts.append(inputs.new_ones(len(inputs), 1))
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


@contextlib.contextmanager
def blaming(network: nn.Module) -> Iterator[None]:
    """Say in a line which module cannot do with one sample, or without its gradient.

    Raises:
        DoesNotFit: Instead of whatever was raised.
    """
    inside: list[str] = []

    def enter(name: str, module: nn.Module) -> None:
        inside.append(f"{type(module).__name__} {name}".strip())

    def leave() -> None:
        inside.pop()

    hooks: list[Any] = []
    for name, module in network.named_modules():
        hooks += [
            module.register_forward_pre_hook(lambda m, _, name=name: enter(name, m)),
            module.register_forward_hook(lambda *_: leave()),
        ]
    try:
        yield
    except Exception as error:
        module_name = inside[-1] if inside else type(network).__name__
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DoesNotFit(
            f"{module_name} has no gradient for one sample by itself, which fisher and ntk need: "
            f"{reason}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def count_classes(network: nn.Module, x: Tensor) -> int:
    """Return the number of classes that a network tells apart.

    Args:
        network: In the mode to evaluate.
        x: Samples, of which it is shown one.
    """
    with blaming(network):
        return class_logits(network(x[:1])).shape[1]


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
        if is_trained(p) and name.rpartition(".")[0] not in layers:
            held += functions * p.numel() * (2 if p.is_complex() else 1)
    for layer, outputs in layers.values():
        held += functions * outputs
        if not isinstance(layer, nn.Linear):
            held += sum(p.numel() for p in layer.parameters()) * (functions + outputs)
    return max(1, held)


def _has_free_matrix(module: nn.Module) -> bool:
    """Tell whether a module is a linear layer whose matrix is not made of other parameters."""
    return type(module) is nn.Linear and isinstance(module.weight, nn.Parameter)


def _layers_used_once(network: nn.Module, x: Tensor) -> dict[str, tuple[Any, int]]:
    """Find layers that see each sample once, as a vector, and share nothing; and their outputs."""
    candidates: dict[str, Any] = {
        name: module
        for name, module in network.named_modules()
        if (_has_free_matrix(module) and not module.weight.is_complex())
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
            and any(is_trained(p) for p in layer.parameters())
            and all(users[id(p)] == 1 for p in layer.parameters())
            and (_has_free_matrix(layer) or is_plain_circuit(layer, calls[name][0][0]))
        ):
            layers[name] = layer, once[0][1].shape[-1]
    return layers
