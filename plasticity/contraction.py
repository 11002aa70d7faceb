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
from typing import Any, ClassVar

import torch
from torch import Tensor

from plasticity.constants import cached_constants, is_transformed
from plasticity.gates import gate_matrices
from plasticity.planning import Plan, Transposition

HISTORY_BYTES = 20 * 2**20
"""Bytes of intermediate states that a backward pass may keep. Older ones are recomputed from newer
ones by the inverse blocks, so memory stops growing with depth."""


# ---------------------------------------------------------------------------------------- blocks
@cached_constants
def _acting(plan: Plan, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the gates that act and which of them are flipped."""
    return torch.tensor(plan.gates, device=device), torch.tensor(plan.flipped, device=device)


@cached_constants
def _tables(plan: Plan, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return what spreads gates over the matrices of layers, and gathers gradients back.

    Returns:
        The gate in each slot ``(slots, blocks)``; the slot, counted through, of each gate; for each
        slot which of a gate's 16 numbers each entry of a block's matrix has as a factor, ``(slots,
        1, size**2)`` and as a matrix of zeros and ones ``(slots, size**2, 16)``; for each layer
        where the qubits that no slot touches agree, ``(layers, size**2)``.
    """
    n = plan.width
    slots = [slot for layer in plan.layers for slot in layer]
    index = torch.tensor([gates for _, gates in slots], device=device)
    where = index.flatten().argsort(stable=True)[: len(plan.gates)]
    row = torch.arange(2**n, device=device).unsqueeze(1)
    column = row.T

    def two_bits(k: Tensor, position: int) -> Tensor:
        return k >> (n - 2 - position) & 3

    factors = [4 * two_bits(row, p) + two_bits(column, p) for p, _ in slots]
    agreeing = []
    for layer in plan.layers:
        touched = sum(3 << (n - 2 - position) for position, _ in layer)
        agreeing.append(((row ^ column) & ~touched) == 0)
    spread = torch.stack(factors).flatten(1)
    gather = torch.nn.functional.one_hot(spread, 16).to(dtype)
    return index, where, spread[:, None], gather, torch.stack(agreeing).flatten(1).to(dtype)


class _Blocks(torch.autograd.Function):
    """Multiply gates into blocks, layer by layer, all blocks at once."""

    generate_vmap_rule = True

    @staticmethod
    def forward(plan: Plan, kept: list[Any], gates: Tensor) -> Tensor:
        factors = _factors(plan, gates)
        kept += factors
        _, layers, products = factors
        return layers[-1] @ products[-1] if products else layers[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.plan, ctx.kept, gates = inputs
        ctx.save_for_backward(gates)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if not ctx.kept or torch.is_grad_enabled() or is_transformed(grad):
            return None, None, _BlocksBackward.apply(ctx.plan, None, grad, *ctx.saved_tensors)
        return None, None, _pull_to_gates(ctx.plan, None, grad, *ctx.kept)


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
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        def plainly(grad: Tensor, gates: Tensor) -> Tensor:
            return _pull_to_gates(ctx.plan, ctx.samples, grad, *_factors(ctx.plan, gates))

        return None, None, *torch.func.vjp(plainly, *ctx.saved_tensors)[1](grad)


def _pull_to_gates(
    plan: Plan,
    samples: int | None,
    grad: Tensor,
    spread: Tensor,
    layers: list[Tensor],
    products: list[Tensor],
) -> Tensor:
    num_blocks, size = grad.shape[:2]
    # Conjugated gradients, as in the sweep. Products from the left see columns and samples as one
    # long row, those from the right samples and rows as one long column.
    grad = grad.conj().resolve_conj().reshape(num_blocks, size, -1)
    grads, slot = [], spread.shape[0]
    _, where, _, gather, agreeing = _tables(plan, spread.device, spread.dtype)
    for k in reversed(range(len(layers))):
        slots = range(slot - len(plan.layers[k]), slot)
        slot = slots.start
        of_layer = grad.unflatten(2, (size, -1)).movedim(3, 1)
        if k > 0:
            of_layer = of_layer.reshape(num_blocks, -1, size) @ products[k - 1].mT
            grad = layers[k].mT @ grad
        masked = of_layer.reshape(num_blocks, -1, size**2) * agreeing[k]
        for j in reversed(slots):
            others = [spread[i].unsqueeze(1) for i in slots if i != j]
            grads.append(math.prod(others, start=masked) @ gather[j])
    of_slots = torch.stack(grads[::-1]).flatten(0, 1)[where].conj()  # (gates, samples, 16)
    if samples is None:
        return of_slots.reshape(-1, 4, 4)
    return of_slots.movedim(1, 2).unflatten(1, (4, 4))


def _factors(plan: Plan, gates: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the slots spread over matrices, each layer's matrices, and the products before each.

    The products are those of layers 0..k, for all layers but the last.
    """
    spread = _spread(plan, gates)
    layers = _layer_matrices(plan, spread)
    products = list(itertools.accumulate(layers[:-1], lambda before, layer: layer @ before))
    return spread, layers, products


def _spread(plan: Plan, gates: Tensor) -> Tensor:
    """Return each slot's factor of each entry of each block, ``(slots, blocks, size**2)``."""
    index, _, factors, _, _ = _tables(plan, gates.device, gates.dtype)
    identity = torch.eye(4, dtype=gates.dtype, device=gates.device)
    table = torch.cat([gates, identity[None]]).flatten(1)[index]
    return table.gather(2, factors.expand(-1, index.shape[1], -1))


def _layer_matrices(plan: Plan, spread: Tensor) -> list[Tensor]:
    """Multiply the factors of each layer: the Kronecker products of gates and identities."""
    size, slot, layers = 2**plan.width, 0, []
    for layer, same in zip(plan.layers, _tables(plan, spread.device, spread.dtype)[4], strict=True):
        entries = math.prod(spread[slot : slot + len(layer)].unbind(), start=same)
        layers.append(entries.reshape(-1, size, size))
        slot += len(layer)
    return layers


def block_matrices(plan: Plan, angles: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply the gates of each block into one matrix.

    Args:
        plan: The plan.
        angles: ``(num_gates, 15)`` of the whole ansatz, radians.
        dtype: Complex dtype of the result.

    Returns:
        ``(blocks, 2**width, 2**width)``.
    """
    acting, flipped = _acting(plan, angles.device)
    if len(plan.gates) < len(angles):
        angles = angles[acting]
    gates = gate_matrices(angles).to(dtype)
    if any(plan.flipped):
        swap = [0, 2, 1, 3]
        gates = torch.where(flipped[:, None, None], gates[:, swap][:, :, swap], gates)
    return _Blocks.apply(plan, [], gates)


# ----------------------------------------------------------------------------------------- sweep
def _transposed(state: Tensor, transposition: Transposition | None) -> Tensor:
    if transposition is None:
        return state
    return transposition.view(state.contiguous()).reshape(state.shape)


def _transposed_into(out: Tensor, state: Tensor, transposition: Transposition) -> Tensor:
    source = transposition.view(state)
    out.view(source.shape).copy_(source)
    return out


class _Workspace:
    """Memory for intermediate states, used again by the next step of training.

    Fresh pages cost as much as the matrix products that fill them; the C library hands large blocks
    back to the system as soon as they are free. On other devices torch's allocator keeps them.
    """

    _free: ClassVar[list[Tensor]] = []

    def __init__(self, count: int, like: Tensor) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8, device=like.device)
        size = count * like.numel() * like.itemsize
        if like.device.type == "cpu" and self._free:
            self._bytes = self._free.pop()
        if self._bytes.numel() < size:
            self._bytes = torch.empty(size, dtype=torch.uint8, device=like.device)
        self.rows = self._bytes[:size].view(like.dtype).view(count, *like.shape)

    def __del__(self) -> None:
        if self._bytes.device.type == "cpu" and len(self._free) < 2:
            self._free.append(self._bytes)


class _Sweep(torch.autograd.Function):
    """Multiply blocks onto states; the hand-written backward pass keeps little and copies nothing.

    Backward needs the state before each block. The newest of them are kept in ``history``; the
    others are recomputed from the state after the block, by the block's inverse, its conjugate
    transpose. When a second derivative is asked for, and under ``torch.func``, all are recomputed.
    """

    @staticmethod
    def forward(plan: Plan, kept: int, history: list[Any], state: Tensor, blocks: Tensor) -> Tensor:
        state = state.contiguous()
        table = (blocks.mT.contiguous() if plan.transposed else blocks).unbind()
        total = len(plan.steps)
        first = total - kept
        # Rows 0 and 1 in turn, 2 before a transposition, then one for each state that is kept.
        workspace = _Workspace(3 + kept, state)
        rows = workspace.rows
        before = []

        def row(step: int) -> Tensor:
            if step == total:
                return torch.empty_like(state)
            return rows[3 + step - first] if step >= first else rows[step % 2]

        for k, step in enumerate(plan.steps):
            if step.before is not None:
                state = _transposed_into(row(k), state, step.before)
            if k >= first:
                before.append(state)
            following = plan.after if k + 1 == total else plan.steps[k + 1].before
            state = _multiply(
                table[step.block], state, step.left, row(k + 1) if following is None else rows[2]
            )
        if kept:
            history += [workspace, before]
        return _transposed(state, plan.after)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.plan, _, ctx.history, _, blocks = inputs
        ctx.save_for_backward(blocks, output)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, plan: Plan, kept: int, history: Any, state: Tensor, blocks: Tensor
    ) -> tuple[Tensor, int]:
        *_, state_dim, blocks_dim = in_dims
        if blocks_dim is None:
            together = state.movedim(state_dim, -1)
            result = _Sweep.apply(plan, 0, [], together.flatten(1), blocks)
            return result.unflatten(1, together.shape[1:]), 2
        each = [
            _Sweep.apply(
                plan, 0, [], state if state_dim is None else state.select(state_dim, k), block
            )
            for k, block in enumerate(blocks.movedim(blocks_dim, 0))
        ]
        return torch.stack(each), 0

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        blocks, state = ctx.saved_tensors
        if torch.is_grad_enabled() or is_transformed(grad):
            grad_state, grad_blocks = _SweepBackward.apply(ctx.plan, None, grad, state, blocks)
        else:
            grad_state, grad_blocks = _pull_back(
                ctx.plan, grad, state, blocks, ctx.history, to_start=ctx.needs_input_grad[3]
            )
        return None, None, None, grad_state, grad_blocks


class _SweepBackward(torch.autograd.Function):
    """The map from the gradient of the final states to those of initial states and blocks.

    For second derivatives, and for per-sample gradients under ``torch.func.vmap``, where all
    samples go through the blocks together.
    """

    @staticmethod
    def forward(
        plan: Plan, samples: int | None, grad: Tensor, state: Tensor, blocks: Tensor
    ) -> tuple[Tensor, Tensor]:
        grad_state, grad_blocks = _pull_back(
            plan, grad, state, blocks, [], to_start=True, samples=samples
        )
        assert grad_state is not None
        return grad_state, grad_blocks

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
    if left == 1:
        torch.mm(matrix, state.view(len(matrix), -1), out=out.view(len(matrix), -1))
        return out
    shape = left, len(matrix), -1
    torch.bmm(matrix.expand(left, -1, -1), state.view(shape), out=out.view(shape))
    return out


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
    plan: Plan,
    grad: Tensor,
    state: Tensor,
    blocks: Tensor,
    history: list[Any],
    *,
    to_start: bool,
    samples: int | None = None,
) -> tuple[Tensor | None, Tensor]:
    """Do the same in place, with the states that were kept; to the initial state only if asked.

    The gradient is carried conjugated: then neither the products that carry it (by transposes of
    the blocks) nor those with the states (its transpose) need a conjugated copy of a large array.

    With ``samples``, vectors come in that many interleaved samples (the sample is the last index),
    and the blocks' gradients are returned for each: ``(blocks, samples, size, size)``.
    """
    transposes = (blocks if plan.transposed else blocks.mT).contiguous()
    inverses = transposes.conj().resolve_conj().unbind()
    before = list(history[1]) if history else []
    workspace = _Workspace(5, grad)  # gives its memory back when it is deleted
    rows = workspace.rows  # two in turn for the state, two for the gradient, one for its transpose
    back = plan.after.inverse if plan.after else None
    state = _transposed(state, back)
    grad = torch.conj_physical(_transposed(grad, back), out=rows[4])
    grads = [grad] * len(plan.steps)
    for k in reversed(range(len(plan.steps))):
        step = plan.steps[k]
        back = step.before.inverse if step.before else None
        shape = step.left, 2**plan.width, -1
        if before:
            state = before.pop()
        else:
            state = _multiply(inverses[step.block], state, step.left, rows[k % 2])
        if samples is not None:
            by_sample = (
                a.view(*shape, samples).permute(3, 1, 0, 2).flatten(2) for a in (grad, state)
            )
            grads[step.block] = next(by_sample) @ next(by_sample).mT
        elif step.left == 1:
            grads[step.block] = grad.view(shape[1:]) @ state.view(shape[1:]).mT
        else:
            grads[step.block] = torch.bmm(grad.view(shape), state.view(shape).mT).sum(0)
        if k > 0 or to_start:
            grad = _multiply(transposes[step.block], grad, step.left, rows[2 + k % 2])
            if back is not None:
                grad = _transposed_into(rows[4], grad, back)
        if back is not None and not before and k > 0:
            state = _transposed(state, back)
    start = grad.conj().resolve_conj() if to_start else None
    grad_blocks = torch.stack(grads).conj()
    return start, grad_blocks.mT if plan.transposed else grad_blocks


def sweep(plan: Plan, angles: Tensor, states: Tensor) -> Tensor:
    """Return U S for the plan's matrix U.

    Args:
        plan: The gates that act, fused; ``reversed_plan`` of it for the transpose of U.
        angles: ``(num_gates, 15)`` of the whole ansatz.
        states: ``(2**num_qubits, vectors)`` complex; its dtype is the one computed in.
    """
    if not plan.gates:
        return states + 0 * angles.sum()  # a qubit that no gate touches
    blocks = block_matrices(plan, angles, states.dtype)
    kept = 0
    if torch.is_grad_enabled() and (blocks.requires_grad or states.requires_grad):
        kept = min(len(plan.steps), HISTORY_BYTES // max(1, states.numel() * states.itemsize))
    return _Sweep.apply(plan, kept, [], states, blocks)
