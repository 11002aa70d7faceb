"""Blocks: the gates of a few neighboring qubits, multiplied into one matrix, all blocks at once.

A block is a product of layers. A layer is a Kronecker product of gates and identities: each entry
of its matrix is the product of one number of each of its gates, or it is zero. So all layers of all
blocks are a few selections from the gates' numbers, multiplied entry by entry, and their gradients
are selections, too. What is selected depends on the plan alone.
"""

from __future__ import annotations

import itertools
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity.quantum.engine.constants import constants_of_plan
from plasticity.quantum.engine.gates import gate_matrices
from plasticity.quantum.engine.memory import Call, Memory
from plasticity.quantum.engine.planning import Plan, Slot
from plasticity.quantum.engine.transforms import is_forward_mode, over_batched_gradients


# ---------------------------------------------------------------------------------------- tables
@constants_of_plan
def acting(plan: Plan, device: torch.device) -> tuple[Tensor]:
    """Return the gates of the ansatz that act, in order."""
    return (torch.tensor(plan.gates, device=device),)


@constants_of_plan
def _tables(plan: Plan, device: torch.device) -> tuple[Tensor, ...]:
    """Return what is selected from numbers: all entries of all gates, then a zero and a one.

    The others of a gate in a layer are the gates beside it and the identity on the qubits that none
    touches. The layer's gradient is to be summed over their entries, of which there are
    ``4 ** (width - 2)``, times their numbers.

    Returns:
        factors: Which numbers an entry of a layer is the product of,
            ``(most gates in a layer, layers, blocks, size, size)``.
        places: The entries of layers that each of a gate's 16 numbers is a factor of,
            ``(gates, 16, others)``, counted through layers, blocks and entries.
        others: Which numbers the other factor of these entries is the product of,
            ``(at least 1, gates, others)``.
    """
    width, size = plan.width, 2**plan.width
    depth = max(len(block) for block in plan.blocks)
    most = max(len(layer) for block in plan.blocks for layer in block)
    zero, one = 16 * len(plan.gates), 16 * len(plan.gates) + 1
    row, column = np.indices((size, size))

    def entry(slot: Slot) -> np.ndarray:
        """Return which of the gate's 16 numbers is a factor of each entry of a layer."""
        gate, position = slot
        bits = [k >> (width - 2 - position) & 3 for k in (row, column)]
        if plan.flipped[gate]:
            bits = [k >> 1 | (k & 1) << 1 for k in bits]
        return 4 * bits[0] + bits[1]

    def numbers(slots: list[Slot], agree: np.ndarray, count: int) -> np.ndarray:
        """Return which numbers each entry is the product of; a zero, where qubits disagree."""
        of_slots = [16 * slot[0] + entry(slot) for slot in slots]
        of_slots += [np.full_like(row, one)] * (count - len(slots))
        of_slots[0] = np.where(agree, of_slots[0], zero)
        return np.stack(of_slots)

    factors = np.empty((most, depth, len(plan.blocks), size, size), dtype=np.int64)
    places = np.empty((len(plan.gates), 16, size**2 // 16), dtype=np.int64)
    others = np.empty((max(1, most - 1), len(plan.gates), size**2 // 16), dtype=np.int64)
    for b, block in enumerate(plan.blocks):
        for k in range(depth):
            slots = list(block[k]) if k < len(block) else []
            touched = sum(3 << (width - 2 - position) for _, position in slots)
            agree = ((row ^ column) & ~touched) == 0
            factors[:, k, b] = numbers(slots, agree, most)
            for slot in slots:
                where = entry(slot).ravel().argsort(kind="stable").reshape(16, -1)
                rest = numbers([s for s in slots if s != slot], agree, len(others))
                places[slot[0]] = (k * len(plan.blocks) + b) * size**2 + where
                others[:, slot[0]] = rest.reshape(len(others), -1)[:, where[0]]
    return tuple(torch.from_numpy(table).to(device) for table in (factors, places, others))


def _numbers(gates: Tensor) -> Tensor:
    return torch.cat([gates.flatten(), gates.new_zeros(1), gates.new_ones(1)])


# ------------------------------------------------------------------------------- for transforms
class _Blocks(torch.autograd.Function):
    """Multiply gates into blocks, layer by layer, all blocks at once."""

    generate_vmap_rule = True

    @staticmethod
    def forward(plan: Plan, gates: Tensor) -> Tensor:
        return _multiplied(plan, gates)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.plan, gates = inputs
        ctx.save_for_backward(gates)

    @staticmethod
    @over_batched_gradients
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (gates,) = ctx.saved_tensors
        if is_forward_mode():
            return None, _pull_to_gates(ctx.plan, None, grad, gates)
        return None, _BlocksBackward.apply(ctx.plan, None, grad, gates)


class _BlocksBackward(torch.autograd.Function):
    """The map from the gradient of blocks to that of gates, for ``torch.func`` as for the sweep.

    With ``samples``, there is a gradient of the blocks for each: ``(blocks, size, size, samples)``,
    and the result is ``(gates, 4, 4, samples)``.
    """

    @staticmethod
    def forward(plan: Plan, samples: int | None, grad: Tensor, gates: Tensor) -> Tensor:
        return _pull_to_gates(plan, samples, grad, gates)

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
            return _pull_to_gates(ctx.plan, ctx.samples, grad, gates)

        return None, None, *torch.func.vjp(plainly, *ctx.saved_tensors)[1](grad)


def _layers(plan: Plan, gates: Tensor) -> tuple[Tensor, ...]:
    """Return each layer's matrices, ``(blocks, size, size)``."""
    factors, _, _ = _tables(plan, gates.device)
    numbers = _numbers(gates)
    return reduce(torch.mul, [numbers[factor] for factor in factors]).unbind()


def _products(layers: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the products of layers 0..k, for each k."""
    return list(itertools.accumulate(layers, lambda before, layer: layer @ before))


def _multiplied(plan: Plan, gates: Tensor) -> Tensor:
    return _products(_layers(plan, gates))[-1]


def _pull_to_gates(plan: Plan, samples: int | None, grad: Tensor, gates: Tensor) -> Tensor:
    num_blocks, size = grad.shape[:2]
    layers = _layers(plan, gates)
    products = _products(layers[:-1])
    # Conjugated gradients, as in the sweep. Products from the left see columns and samples as one
    # long row, those from the right samples and rows as one long column.
    grad = grad.conj().resolve_conj().reshape(num_blocks, size, -1)
    of_layers = []
    for k in reversed(range(len(layers))):
        of_layer = grad.unflatten(2, (size, -1)).movedim(3, 1)
        if k > 0:
            of_layer = of_layer.reshape(num_blocks, -1, size) @ products[k - 1].mT
            grad = layers[k].mT @ grad
        of_layers.append(of_layer.reshape(num_blocks, -1, size**2))
    stacked = torch.cat(of_layers[::-1])  # (layers * blocks, samples, entries)
    of_layers.clear()  # deep circuits have large ones
    _, places, others = _tables(plan, gates.device)
    layer = places[:, 0, 0] // size**2
    entries = (places % size**2).flatten(1).unsqueeze(1).expand(-1, stacked.shape[1], -1)
    selected = stacked[layer].gather(2, entries).unflatten(2, (16, -1))
    weights = reduce(torch.mul, _numbers(gates)[others].unbind())
    of_gates = (selected @ weights[:, None, :, None]).squeeze(3).conj()
    if samples is None:
        return of_gates.reshape(-1, 4, 4)
    return of_gates.movedim(1, 2).unflatten(1, (4, 4))


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
    of_plan = weights[acting(plan, weights.device)[0]]
    gates = of_plan if weights.is_complex() else gate_matrices(of_plan)
    gates = gates.to(dtype)
    if is_forward_mode():
        return _multiplied(plan, gates)
    return _Blocks.apply(plan, gates)


# --------------------------------------------------------------------------------- for a program
class BlockCalls:
    """The same as calls on memory that is made once; the gradients are conjugated.

    Args:
        plan: The gates, fused.
        memory: Where tensors are made.
        grad: Whether gradients are wanted.

    Attributes:
        gates: To be filled in before ``forward``, ``(gates, 4, 4)``.
        blocks: What ``forward`` makes, ``(blocks, size, size)``.
        grad_blocks: To be filled in before ``backward``.
        grad_gates: What ``backward`` makes.
        forward: Calls.
        backward: Calls.
    """

    def __init__(self, plan: Plan, memory: Memory, *, grad: bool) -> None:
        factors, places, others = _tables(plan, memory.device)
        num_gates = len(plan.gates)
        numbers = memory.new(16 * num_gates + 2)
        numbers[-2].fill_(0)
        numbers[-1].fill_(1)
        self.gates = numbers[:-2].view(num_gates, 4, 4)
        selected = memory.new(*factors.shape)
        layers = selected[0]  # the product of the factors takes the place of the first
        self.forward: list[Call] = [
            partial(torch.index_select, numbers, 0, factors.flatten(), out=selected.flatten())
        ]
        self.forward += [partial(torch.mul, layers, f, out=layers) for f in selected[1:]]
        products = [layers[0]]
        for layer in layers[1:]:
            products.append(memory.new(*layer.shape))
            self.forward.append(partial(torch.bmm, layer, products[-2], out=products[-1]))
        self.blocks = products[-1]

        self.backward: list[Call] = []
        if not grad:
            return
        of_layers = memory.new(*layers.shape)
        self.grad_blocks = of = of_layers[0] if len(layers) == 1 else memory.new(*layers[0].shape)
        self.grad_blocks.zero_()  # outside the parts that are multiplied
        for k in reversed(range(1, len(layers))):
            self.backward.append(partial(torch.bmm, of, products[k - 1].mT, out=of_layers[k]))
            before = of_layers[0] if k == 1 else memory.new(*of.shape)
            self.backward.append(partial(torch.bmm, layers[k].mT, of, out=before))
            of = before
        self.grad_gates = memory.new(num_gates, 4, 4)
        summands, weights = memory.new(*places.shape), memory.new(*others.shape)
        self.backward += [
            partial(
                torch.index_select, of_layers.flatten(), 0, places.flatten(), out=summands.flatten()
            ),
            partial(torch.index_select, numbers, 0, others.flatten(), out=weights.flatten()),
        ]
        self.backward += [partial(torch.mul, weights[0], w, out=weights[0]) for w in weights[1:]]
        self.backward.append(
            partial(
                torch.bmm,
                summands,
                weights[0].unsqueeze(2),
                out=self.grad_gates.view(num_gates, 16, 1),
            )
        )
