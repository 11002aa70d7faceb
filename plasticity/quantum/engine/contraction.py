"""Exact, fast ways to evaluate an ansatz.

The gates never depend on the data; only the initial state does. So a circuit is a matrix U, and
what is read from U x can be had by carrying one of three sets of vectors through the gates:

* *rows* of U: the measured basis states, through the transposed (not conjugated) gates in reverse;
* *columns* of U: the basis states that the inputs touch;
* *states*: the inputs themselves.

All three are one *sweep*: gates are fused into blocks on a few neighbouring qubits, and the blocks
are multiplied onto an array of shape (2**num_qubits, vectors). With the vectors last, every window
of neighbouring qubits is a wide matrix product without a transposition.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plasticity.quantum.engine.constants import cached_constants
from plasticity.quantum.engine.gates import exponentials, gate_matrices, pull_to_angles
from plasticity.quantum.engine.planning import Plan, Transposition
from plasticity.quantum.engine.program import Lease
from plasticity.quantum.engine.transforms import (
    are_transforms_active,
    is_forward_mode,
    is_transformed,
    over_batched_gradients,
)


# ---------------------------------------------------------------------------------------- blocks
@cached_constants
def _acting(plan: Plan, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the gates that act and which of them are flipped."""
    return torch.tensor(plan.gates, device=device), torch.tensor(plan.flipped, device=device)


@cached_constants
def _tables(plan: Plan, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return what spreads gates over the matrices of layers, and gathers gradients back.

    A layer has as many slots as the fullest one has; a slot that is not there holds ones.

    Returns:
        The identity and ones ``(2, 16)``; the gate in each slot, or one of those behind the gates,
        ``(layers * slots, blocks)``; the slot, counted through blocks, of each gate; which of a
        gate's 16 numbers each entry of a block's matrix has as a factor, ``(layers * slots, 1,
        size**2)``, and as zeros and ones ``(layers, slots, size**2, 16)``; where the qubits that no
        slot of a layer touches agree, ``(layers, 1, size**2)``.
    """
    n, blocks = plan.width, len(plan.steps)
    slots = max(len(layer) for layer in plan.layers)
    missing = (0, (len(plan.gates) + 1,) * blocks)
    padded = [slot for layer in plan.layers for slot in (*layer, *[missing] * slots)[:slots]]
    index = torch.tensor([gates for _, gates in padded], device=device)
    where = index.flatten().argsort(stable=True)[: len(plan.gates)]
    row = torch.arange(2**n, device=device).unsqueeze(1)
    column = row.T

    def two_bits(k: Tensor, position: int) -> Tensor:
        return k >> (n - 2 - position) & 3

    spread = torch.stack([4 * two_bits(row, p) + two_bits(column, p) for p, _ in padded]).flatten(1)
    agreeing = []
    for layer in plan.layers:
        touched = sum(3 << (n - 2 - position) for position, _ in layer)
        agreeing.append(((row ^ column) & ~touched) == 0)
    gather = torch.nn.functional.one_hot(spread, 16).to(dtype).unflatten(0, (-1, slots))
    others = torch.stack([torch.eye(4), torch.ones(4, 4)]).flatten(1).to(device, dtype)
    agree = torch.stack(agreeing).flatten(1).unsqueeze(1).to(dtype)
    return others, index, where, spread.unsqueeze(1), gather, agree


class _Blocks(torch.autograd.Function):
    """Multiply gates into blocks, layer by layer, all blocks at once."""

    generate_vmap_rule = True

    @staticmethod
    def forward(plan: Plan, gates: Tensor) -> Tensor:
        return _product_of_layers(*_factors(plan, gates)[1:])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.plan, gates = inputs
        ctx.save_for_backward(gates)

    @staticmethod
    @over_batched_gradients
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if is_forward_mode():
            (gates,) = ctx.saved_tensors
            return None, _pull_to_gates(ctx.plan, None, grad, *_factors(ctx.plan, gates))
        return None, _BlocksBackward.apply(ctx.plan, None, grad, *ctx.saved_tensors)


class _BlocksBackward(torch.autograd.Function):
    """The map from the gradient of blocks to that of gates, for ``torch.func`` as for the sweep.

    With ``samples``, there is a gradient of the blocks for each: ``(blocks, size, size, samples)``,
    and the result is ``(gates, 4, 4, samples)``.
    """

    @staticmethod
    def forward(plan: Plan, samples: int | None, grad: Tensor, gates: Tensor) -> Tensor:
        return _pull_to_gates(plan, samples, grad, *_factors(plan, gates))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.plan, ctx.samples, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, plan: Plan, samples: int | None, grad: Tensor, gates: Tensor
    ) -> tuple[Tensor, int]:
        *_, grad_dim, gates_dim = in_dims
        size = info.batch_size
        if gates_dim is None:
            grad = grad.movedim(grad_dim, -1).flatten(3)  # samples of a map around this one first
            result = _BlocksBackward.apply(plan, size * (samples or 1), grad, gates)
            return (result if samples is None else result.unflatten(3, (samples, size))), -1
        each = [
            _BlocksBackward.apply(
                plan,
                samples,
                grad if grad_dim is None else grad.select(grad_dim, k),
                gates.select(gates_dim, k),
            )
            for k in range(size)
        ]
        return torch.stack(each), 0

    @staticmethod
    @over_batched_gradients
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        def plainly(grad: Tensor, gates: Tensor) -> Tensor:
            return _pull_to_gates(ctx.plan, ctx.samples, grad, *_factors(ctx.plan, gates))

        return None, None, *torch.func.vjp(plainly, *ctx.saved_tensors)[1](grad)


def _pull_to_gates(
    plan: Plan,
    samples: int | None,
    grad: Tensor,
    spread: Tensor,
    layers: tuple[Tensor, ...],
    products: list[Tensor],
) -> Tensor:
    num_blocks, size = grad.shape[:2]
    # Conjugated gradients, as in the sweep. Products from the left see columns and samples as one
    # long row, those from the right samples and rows as one long column.
    grad = grad.conj().resolve_conj().reshape(num_blocks, size, -1)
    _, _, where, _, gather, agree = _tables(plan, spread.device, spread.dtype)
    of_layers = []
    for k in reversed(range(len(layers))):
        of_layer = grad.unflatten(2, (size, -1)).movedim(3, 1)
        if k > 0:
            of_layer = of_layer.reshape(num_blocks, -1, size) @ products[k - 1].mT
            grad = layers[k].mT @ grad
        of_layers.append(of_layer.reshape(num_blocks, -1, size**2))
    # For each slot, the product of what its gates' numbers are multiplied with.
    others = agree.unsqueeze(1).expand(-1, spread.shape[1], -1, -1)
    for shift in range(1, spread.shape[1]):
        others = others * spread.roll(shift, 1)
    stacked = torch.stack(of_layers[::-1]).unsqueeze(1)
    of_layers.clear()  # deep circuits have large ones
    of_slots = stacked * others.unsqueeze(3)
    of_slots = of_slots.flatten(2, 3) @ gather  # (layers, slots, blocks * samples, 16)
    of_gates = of_slots.reshape(-1, samples or 1, 16)[where].conj()
    if samples is None:
        return of_gates.reshape(-1, 4, 4)
    return of_gates.movedim(1, 2).unflatten(1, (4, 4))


def _factors(plan: Plan, gates: Tensor) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
    """Return the slots' factors, each layer's matrices, and the products before each.

    The factors of each entry of each block's matrix, ``(layers, slots, blocks, size**2)``; a layer
    is their product, the Kronecker product of gates and identities. The products are those of
    layers 0..k, for all layers but the last.
    """
    others, index, _, factors, gather, agree = _tables(plan, gates.device, gates.dtype)
    table = torch.cat([gates.flatten(1), others])[index]
    spread = table.gather(2, factors.expand(-1, index.shape[1], -1))
    spread = spread.unflatten(0, gather.shape[:2])
    size = 2**plan.width
    layers = math.prod(spread.unbind(1), start=agree).unflatten(2, (size, size)).unbind()
    products = list(itertools.accumulate(layers[:-1], lambda before, layer: layer @ before))
    return spread, layers, products


def _product_of_layers(layers: tuple[Tensor, ...], products: list[Tensor]) -> Tensor:
    return layers[-1] @ products[-1] if products else layers[0]


def _flipped(plan: Plan, gates: Tensor) -> Tensor:
    """Exchange the qubits of those gates whose first qubit comes second in the window."""
    if not any(plan.flipped):
        return gates
    swap = [0, 2, 1, 3]
    flipped = _acting(plan, gates.device)[1]
    return torch.where(flipped[:, None, None], gates[:, swap][:, :, swap], gates)


def block_matrices(plan: Plan, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply the gates of each block into one matrix.

    Args:
        plan: The plan.
        weights: Angles ``(num_gates, 15)`` of the whole ansatz, radians, or its gates
            ``(num_gates, 4, 4)``, complex.
        dtype: Complex dtype of the result.

    Returns:
        ``(blocks, 2**width, 2**width)``.
    """
    acting = weights[_acting(plan, weights.device)[0]]
    gates = acting if weights.is_complex() else gate_matrices(acting)
    gates = _flipped(plan, gates.to(dtype))
    if is_forward_mode():
        return _product_of_layers(*_factors(plan, gates)[1:])
    return _Blocks.apply(plan, gates)


# ----------------------------------------------------------------------------------------- sweep
def _transposed(state: Tensor, transposition: Transposition | None) -> Tensor:
    if transposition is None:
        return state
    return transposition.view(state.contiguous()).reshape(state.shape)


class _Sweep(torch.autograd.Function):
    """Multiply blocks onto states, for ``torch.func`` and higher derivatives.

    Only the final states are saved; backward, those before are recomputed from those after a block,
    by the block's inverse, its conjugate transpose.
    """

    @staticmethod
    def forward(plan: Plan, state: Tensor, blocks: Tensor) -> Tensor:
        table = (blocks.mT if plan.transposed else blocks).unbind()
        state = state.contiguous()
        for step in plan.steps:
            state = _transposed(state, step.before)
            state = _multiply(table[step.block], state, step.left, torch.empty_like(state))
        return _transposed(state, plan.after)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.plan, _, blocks = inputs
        ctx.save_for_backward(output, blocks)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, plan: Plan, state: Tensor, blocks: Tensor
    ) -> tuple[Tensor, int]:
        _, state_dim, blocks_dim = in_dims
        if blocks_dim is None:
            together = state.movedim(state_dim, -1)
            result = _Sweep.apply(plan, together.flatten(1), blocks)
            return result.unflatten(1, together.shape[1:]), 2
        each = [
            _Sweep.apply(plan, state if state_dim is None else state.select(state_dim, k), block)
            for k, block in enumerate(blocks.movedim(blocks_dim, 0))
        ]
        return torch.stack(each), 0

    @staticmethod
    @over_batched_gradients
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if is_forward_mode():
            return None, *_pull_back_plainly(ctx.plan, grad, *ctx.saved_tensors)
        return None, *_SweepBackward.apply(ctx.plan, None, grad, *ctx.saved_tensors)


class _SweepBackward(torch.autograd.Function):
    """The map from the gradient of the final states to those of initial states and blocks.

    For second derivatives, and for per-sample gradients under ``torch.func.vmap``, where all
    samples go through the blocks together.
    """

    @staticmethod
    def forward(
        plan: Plan, samples: int | None, grad: Tensor, state: Tensor, blocks: Tensor
    ) -> tuple[Tensor, Tensor]:
        return _pull_back(plan, samples, grad, state, blocks)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.plan, ctx.samples, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        plan: Plan,
        samples: int | None,
        grad: Tensor,
        state: Tensor,
        blocks: Tensor,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        *_, grad_dim, state_dim, blocks_dim = in_dims
        size = info.batch_size

        def sample_last(tensor: Tensor, dim: int | None) -> Tensor:
            if dim is None:
                return tensor.unsqueeze(-1).expand(*tensor.shape, size)
            return tensor.movedim(dim, -1)

        if blocks_dim is None:
            grad, state = sample_last(grad, grad_dim), sample_last(state, state_dim)
            grad_state, grad_blocks = _SweepBackward.apply(
                plan, size * (samples or 1), grad.flatten(1), state.flatten(1), blocks
            )
            if samples is not None:  # a map inside a map
                grad_blocks = grad_blocks.unflatten(1, (samples, size))
            return (grad_state.unflatten(1, grad.shape[1:]), grad_blocks), (
                2,
                1 if samples is None else 2,
            )
        each = [
            _SweepBackward.apply(
                plan,
                samples,
                grad if grad_dim is None else grad.select(grad_dim, k),
                state if state_dim is None else state.select(state_dim, k),
                blocks.select(blocks_dim, k),
            )
            for k in range(size)
        ]
        return (torch.stack([a for a, _ in each]), torch.stack([b for _, b in each])), (0, 0)

    @staticmethod
    @over_batched_gradients
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        # In words of torch, with the inverses of the blocks written as conjugate transposes:
        # right along all directions in which blocks stay unitary, and there are no others.
        def plainly(grad: Tensor, state: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
            if ctx.samples is None:
                return _pull_back_plainly(ctx.plan, grad, state, blocks)
            each = torch.func.vmap(
                lambda g, s: _pull_back_plainly(ctx.plan, g, s, blocks), (2, 2), (2, 1)
            )
            grad_state, grad_blocks = each(
                *(a.unflatten(1, (-1, ctx.samples)) for a in (grad, state))
            )
            return grad_state.flatten(1), grad_blocks

        return None, None, *torch.func.vjp(plainly, *ctx.saved_tensors)[1](grads)


def _multiply(matrix: Tensor, state: Tensor, left: int, out: Tensor) -> Tensor:
    """Multiply a block onto its window of the state, into ``out``."""
    shape = left, len(matrix), state.numel() // (left * len(matrix))
    torch.bmm(matrix.expand(left, -1, -1), state.reshape(shape), out=out.view(shape))
    return out


def _sweep_plainly(plan: Plan, state: Tensor, blocks: Tensor) -> Tensor:
    """Multiply blocks onto states by functions that torch itself differentiates in any way."""
    table, shape = (blocks.mT if plan.transposed else blocks), state.shape
    for step in plan.steps:
        state = _transposed(state, step.before).reshape(step.left, table.shape[-1], -1)
        state = (table[step.block] @ state).reshape(shape)
    return _transposed(state, plan.after)


def _pull_back_plainly(
    plan: Plan, grad: Tensor, state: Tensor, blocks: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the initial state and of each block, as differentiable formulae."""
    inverses = blocks.conj() if plan.transposed else blocks.mH
    size, shape = inverses.shape[-1], grad.shape
    grads = [grad] * len(plan.steps)
    back = plan.after.inverse if plan.after else None
    grad, state = _transposed(grad, back), _transposed(state, back)
    for step in reversed(plan.steps):
        before = inverses[step.block] @ state.reshape(step.left, size, -1)
        grad = grad.reshape(step.left, size, -1)
        grads[step.block] = (grad @ before.mH).sum(0)
        grad = inverses[step.block] @ grad
        grad, state = grad.reshape(shape), before.reshape(shape)
        if step.before is not None:
            grad, state = (_transposed(a, step.before.inverse) for a in (grad, state))
    grad_blocks = torch.stack(grads)
    return grad, grad_blocks.mT if plan.transposed else grad_blocks


def _pull_back(
    plan: Plan, samples: int | None, grad: Tensor, state: Tensor, blocks: Tensor
) -> tuple[Tensor, Tensor]:
    """Do the same with fewer copies: the gradient is carried conjugated, as in ``program``.

    With ``samples``, vectors come in that many interleaved samples (the sample is the last index),
    and the blocks' gradients are returned for each: ``(blocks, samples, size, size)``.
    """
    transposes = (blocks if plan.transposed else blocks.mT).contiguous()
    inverses = transposes.conj().resolve_conj().unbind()
    size = 2**plan.width
    back = plan.after.inverse if plan.after else None
    state = _transposed(state, back)
    grad = _transposed(grad, back).conj().resolve_conj()
    grads = [grad] * len(plan.steps)
    rows = torch.empty(2, 2, *grad.shape, dtype=grad.dtype, device=grad.device)
    for k, step in enumerate(reversed(plan.steps)):
        state = _multiply(inverses[step.block], state, step.left, rows[0, k % 2])
        shape = step.left, size, grad.numel() // (step.left * size * (samples or 1)), samples or 1
        by_sample = (
            a.reshape(shape).permute(3, 1, 0, 2).reshape(samples or 1, size, -1)
            for a in (grad, state)
        )
        of_block = next(by_sample) @ next(by_sample).mT
        grads[step.block] = of_block if samples is not None else of_block[0]
        grad = _multiply(transposes[step.block], grad, step.left, rows[1, k % 2])
        if step.before is not None:
            grad, state = (_transposed(a, step.before.inverse) for a in (grad, state))
    grad_blocks = torch.stack(grads).conj().resolve_conj()
    return grad.conj().resolve_conj(), grad_blocks.mT if plan.transposed else grad_blocks


def _in_words(plan: Plan, weights: Tensor, states: Tensor | int) -> Tensor:
    """Do what ``sweep`` says in functions that ``torch.func`` and higher derivatives can take."""
    dtype, amplitudes = weights.dtype.to_complex(), 2**plan.num_qubits
    if isinstance(states, int):
        start = torch.eye(amplitudes, states, dtype=dtype, device=weights.device)
    else:
        padding = 0, 0, 0, amplitudes - len(states)
        start = torch.nn.functional.pad(states, padding).to(dtype)
    if plan.gates:
        plainly = is_forward_mode() or not plan.unitary
        multiply = _sweep_plainly if plainly else _Sweep.apply
        final = multiply(plan, start, block_matrices(plan, weights, dtype))
    else:
        final = start + 0 * weights.sum()  # a qubit that no gate touches
    if plan.observed is None:
        return final
    return final.unflatten(0, (2**plan.observed, 2, -1))[:, 0].flatten(0, 1)


# ------------------------------------------------------------------------------- in one function
@dataclass(frozen=True)
class _Kept:
    """What a backward pass needs beside weights and states."""

    lease: Lease
    spectrum: tuple[Tensor, ...]  # eigenvalues and eigenvectors, where there are angles
    factors: tuple[Tensor, tuple[Tensor, ...], list[Tensor]]


def _contract(
    plan: Plan, weights: Tensor, states: Tensor | None, count: int, grad: bool
) -> tuple[Tensor, _Kept]:
    dtype, acting = weights.dtype.to_complex(), weights
    if len(plan.gates) < len(weights):
        acting = weights[_acting(plan, weights.device)[0]]
    gates, *spectrum = (acting,) if weights.is_complex() else exponentials(acting)
    factors = _factors(plan, _flipped(plan, gates.to(dtype)))
    lease = Lease(plan, count, basis=states is None, grad=grad, dtype=dtype, device=weights.device)
    final = lease.program.run(_product_of_layers(*factors[1:]), states)
    return final, _Kept(lease, tuple(spectrum), factors)


class _Contraction(torch.autograd.Function):
    """Gates, blocks and sweep in one function, with the arithmetic of those above: for training.

    When a second derivative is asked for, or one by a transform, those above take over.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, weights: Tensor, states: Tensor | None, count: int) -> Tensor:
        grad = any(ctx.needs_input_grad)
        final, kept = _contract(plan, weights, states, count, grad)
        if grad:
            ctx.plan, ctx.count = plan, count
            # Autograd lets go of what is saved after the backward pass, but of the context's
            # attributes only with the graph, which a loss that is kept keeps. So a program in use
            # hangs on a tensor that is saved.
            holder: Any = weights.new_empty(0)
            holder.kept = kept
            ctx.save_for_backward(weights, states, holder)
        return final

    @staticmethod
    @over_batched_gradients
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        plan, count = ctx.plan, ctx.count
        weights, states, holder = ctx.saved_tensors
        if torch.is_grad_enabled() or is_transformed(grad) or is_forward_mode():
            given = [] if states is None else [states]
            pull_back = torch.func.vjp(
                lambda weights, *given: _in_words(plan, weights, *given or [count]), weights, *given
            )[1]
            return None, *pull_back(grad), *([None] if given else [None, None])
        # What saves tensors elsewhere (checkpoints, offloading) brings back their numbers only.
        kept = getattr(holder, "kept", None) or _contract(plan, weights, states, count, True)[1]
        grad_blocks, grad_start = kept.lease.program.pull_back(
            grad, states, to_start=ctx.needs_input_grad[2]
        )
        grad_weights = _flipped(plan, _pull_to_gates(plan, None, grad_blocks, *kept.factors))
        if kept.spectrum:
            grad_gates = grad_weights.to(kept.spectrum[1].dtype)
            grad_weights = pull_to_angles(grad_gates, *kept.spectrum).to(weights.dtype)
        if len(plan.gates) < len(weights):
            acting = _acting(plan, weights.device)[0]
            grad_weights = torch.zeros_like(weights).index_copy_(0, acting, grad_weights)
        if grad_start is not None:
            grad_start = grad_start[: len(states)]
            grad_start = grad_start if states.is_complex() else grad_start.real
        return None, grad_weights, grad_start, None


def sweep(plan: Plan, weights: Tensor, states: Tensor | int) -> Tensor:
    """Return U S for the plan's matrix U.

    Args:
        plan: The gates that act, fused; ``reversed_plan`` of it for the transpose of U.
        weights: Angles ``(num_gates, 15)`` of the whole ansatz, or its gates ``(num_gates, 4, 4)``,
            complex. Their precision is the one computed in.
        states: S: ``(features, vectors)``, real or complex, the leading amplitudes, the others are
            zero; or a number, for that many leading basis states.

    Returns:
        ``(2**num_qubits, vectors)``, complex; half as many rows for an expectation value (see
        ``Plan.observed``).
    """
    if not plan.gates or are_transforms_active() or is_forward_mode():
        return _in_words(plan, weights, states)
    if isinstance(states, int):
        return _Contraction.apply(plan, weights, None, states)
    return _Contraction.apply(plan, weights, states, states.shape[1])
