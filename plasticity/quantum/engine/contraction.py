"""Exact, fast ways to evaluate an ansatz.

The gates never depend on the data; only the initial state does. So a circuit is a matrix U, and
what is read from U x can be had by carrying one of three sets of vectors through the gates:

* *rows* of U: the measured basis states, through the transposed (not conjugated) gates in reverse;
* *columns* of U: the basis states that the inputs touch;
* *states*: the inputs themselves.

All three are one *sweep*: gates are fused into blocks on a few neighboring qubits, and the blocks
are multiplied onto an array of shape (2**num_qubits, vectors). With the vectors last, every window
of neighboring qubits is a wide matrix product without a transposition.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plasticity.quantum.engine.blocks import block_matrices
from plasticity.quantum.engine.planning import Plan, Transposition
from plasticity.quantum.engine.program import Lease
from plasticity.quantum.engine.transforms import (
    are_transforms_active,
    is_forward_mode,
    over_batched_gradients,
)


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


def _sweep_plainly(plan: Plan, state: Tensor, blocks: Tensor, rescaled: bool = False) -> Tensor:
    """Multiply blocks onto states by functions that torch itself differentiates in any way."""
    table, shape = (blocks.mT if plan.transposed else blocks), state.shape
    for step in plan.steps:
        size = table.shape[-1]
        right = state.numel() // (step.left * size)  # said, as of no vectors it cannot be inferred
        state = _transposed(state, step.before).reshape(step.left, size, right)
        state = (table[step.block] @ state).reshape(shape)
        state = rescaled_states(state) if rescaled else state
    return _transposed(state, plan.after)


def largest_parts(states: Tensor) -> Tensor:
    """Return the largest real or imaginary part of each vector, ``(vectors,)``, a constant."""
    parts = torch.view_as_real(states.detach()).flatten(1)  # long rows: twice as fast
    return parts.abs().amax(0).unflatten(0, (-1, 2)).amax(1)


def rescaled_states(states: Tensor) -> Tensor:
    """Divide each vector by a power of two, so that its largest part is between 1 and 2.

    This changes no digit. For derivatives it is a constant, as the power is a step function.
    """
    largest = largest_parts(states)
    return states * torch.exp2(-largest.clamp(min=torch.finfo(largest.dtype).tiny).log2().floor())


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
        right = state.numel() // (step.left * size)
        before = inverses[step.block] @ state.reshape(step.left, size, right)
        grad = grad.reshape(step.left, size, right)
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


def in_words(
    plan: Plan, weights: Tensor, states: Tensor | int, *, rescaled: bool = False
) -> Tensor:
    """Do what ``sweep`` says in functions that ``torch.func`` and higher derivatives can take.

    With ``rescaled``, and where gates are not unitary, states are rescaled after each block.
    """
    dtype, amplitudes = weights.dtype.to_complex(), 2**plan.num_qubits
    if isinstance(states, int):
        start = torch.eye(amplitudes, states, dtype=dtype, device=weights.device)
    else:
        padding = 0, 0, 0, amplitudes - len(states)
        start = torch.nn.functional.pad(states, padding).to(dtype)
    if plan.gates:
        plainly = is_forward_mode() or not plan.unitary
        blocks = block_matrices(plan, weights, dtype)
        if plainly:
            final = _sweep_plainly(plan, start, blocks, rescaled)
        else:
            final = _Sweep.apply(plan, start, blocks)
    else:
        final = start + 0 * weights.sum()  # a qubit that no gate touches
    if plan.observed is None:
        return final
    return final.unflatten(0, (2**plan.observed, 2, -1))[:, 0].flatten(0, 1)


# ------------------------------------------------------------------------------- in one function
class _Contraction(torch.autograd.Function):
    """Gates, blocks and sweep in one function, by a program: for training.

    When a second derivative is asked for, or one by a transform, the functions above take over.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, weights: Tensor, states: Tensor | None, count: int) -> Tensor:
        grad = any(ctx.needs_input_grad)
        lease = lease_for(plan, weights, states, count, grad=grad)
        final = lease.program.run(weights, states)
        if grad:
            ctx.plan, ctx.count = plan, count
            ctx.save_for_backward(weights, states, holding(weights, lease))
        return final.clone()

    @staticmethod
    @over_batched_gradients
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        plan, count = ctx.plan, ctx.count
        weights, states, holder = ctx.saved_tensors
        if torch.is_grad_enabled() or are_transforms_active() or is_forward_mode():
            given = [] if states is None else [states]
            pull_back = torch.func.vjp(
                lambda weights, *given: in_words(plan, weights, *given or [count]), weights, *given
            )[1]
            return None, *pull_back(grad), *([None] if given else [None, None])
        lease = held(holder)
        if lease is None:
            lease = lease_for(plan, weights, states, count, grad=True)
            lease.program.run(weights, states)
        torch.conj_physical(grad, out=lease.program.final_grad)
        grad_weights = lease.program.pull_back(states, of=weights)
        grad_states = None
        if ctx.needs_input_grad[2]:
            grad_states = lease.program.start_grad()[: len(states)]
            grad_states = grad_states if states.is_complex() else grad_states.real
        return None, grad_weights, grad_states, None


def lease_for(
    plan: Plan, weights: Tensor, states: Tensor | None, count: int, *, grad: bool
) -> Lease:
    """Return a program for so many vectors, which are ``states`` or, if None, basis states."""
    return Lease(
        plan,
        count,
        angles=not weights.is_complex(),
        basis=states is None,
        grad=grad,
        dtype=weights.dtype.to_complex(),
        device=weights.device,
    )


def holding(like: Tensor, kept: object) -> Tensor:
    """Return a tensor to be saved, with what a backward pass needs hanging on it.

    Autograd lets go of what is saved after the backward pass, but of the context's attributes only
    with the graph, which a loss that is kept keeps.
    """
    holder: Any = like.new_empty(0)
    holder.kept = kept
    return holder


def held(holder: Tensor) -> Any:
    """Return what hangs on it, or None: what saves tensors elsewhere brings back numbers only."""
    return getattr(holder, "kept", None)


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
        return in_words(plan, weights, states)
    if not torch.is_grad_enabled():  # else the function is told that gradients are wanted
        weights = weights.detach()
        states = states if isinstance(states, int) else states.detach()
    if isinstance(states, int):
        return _Contraction.apply(plan, weights, None, states)
    return _Contraction.apply(plan, weights, states, states.shape[1])
