"""A plan laid out in memory: all its products, with operands that are made once.

A step of training repeats the same few dozen small products. Making their views and results anew
would take longer than multiplying, and fresh pages of memory cost as much as the products that fill
them. So a program owns its memory and is a list of calls; it serves one evaluation at a time, with
its backward pass, and then the next.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from plasticity.quantum.engine.planning import Plan, Transposition, products

HISTORY_BYTES = 17 * 2**20
"""Bytes of intermediate states that a backward pass may keep. Older ones are recomputed from newer
ones by the inverse blocks, so memory stops growing with depth. Where blocks are not unitary, all
are kept."""

POOL_BYTES = 256 * 2**20
"""Bytes that programs which wait for their next use may hold, all together."""

Call = Callable[[], Any]


class Program:
    """Multiply a plan's blocks onto states, and pull gradients back.

    The gradient is carried conjugated: then neither the products that carry it (by transposes of
    the blocks) nor those with the states (its transpose) need a conjugated copy of a large array.

    Args:
        plan: The gates, fused.
        vectors: How many vectors are carried.
        basis: Whether they are the leading basis states. Then qubits enter when a block first acts
            on them, and the products until then are smaller.
        grad: Whether ``pull_back`` will be called.
        dtype: Complex dtype.
        device: Where.
    """

    def __init__(
        self,
        plan: Plan,
        vectors: int,
        *,
        basis: bool,
        grad: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_bytes = 0
        self._rewound = False
        self._plan, self._vectors = plan, vectors
        self._dtype, self._device = dtype, device
        total, size = len(plan.steps), 2**plan.width
        whole = 2**plan.num_qubits * vectors
        kept = HISTORY_BYTES // max(1, whole * dtype.itemsize) if grad else 0
        kept = min(total, max(2, kept)) if plan.unitary or not grad else total
        self._oldest = total - kept  # the first step whose operand is there at the end
        # To recompute a state takes a block that has an inverse, so whole blocks.
        self._products = products(plan, vectors if basis and not (grad and self._oldest) else None)

        self._blocks = self._new(total, size, size)
        self._matrices = self._blocks.mT if plan.transposed else self._blocks
        moves = plan.after is not None or any(step.before for step in plan.steps)
        self._spare = self._new(whole if moves else 0)
        # Step k's operand takes the place of step k - kept's. Backward, it gives the place back.
        counts = [p.left * p.columns * p.right * vectors for p in self._products]
        rows = [self._new(max(counts[k::kept])) for k in range(kept)]
        self._operands = [rows[k % kept][:count] for k, count in enumerate(counts)]
        first, move = self._products[0], plan.steps[0].before
        start = self._spare if move else self._operands[0]
        self._start = start.view(first.left * first.columns * first.right, vectors)
        self._identity = torch.eye(*self._start.shape, dtype=dtype, device=device)

        self._forward: list[Call] = []
        self._parts = [self._part(k) for k in range(total)]
        if move is not None:
            self._forward.append(_transposing(move, self._spare, self._operands[0]))
        for k in range(1, total):
            move = plan.steps[k].before
            self._forward.append(self._step(k - 1, self._spare if move else self._operands[k]))
            if move is not None:
                self._forward.append(_transposing(move, self._spare, self._operands[k]))
        if plan.after is not None:
            self._forward.append(self._step(total - 1, self._spare))
        if grad:
            self._lay_out_backward(whole)

    def _new(self, *shape: int) -> Tensor:
        memory = torch.empty(shape, dtype=self._dtype, device=self._device)
        self.num_bytes += memory.nbytes
        return memory

    def _part(self, k: int) -> Tensor:
        """Return the part of a step's matrix that is multiplied, filled anew in each run."""
        product = self._products[k]
        matrix = self._matrices[self._plan.steps[k].block]
        if product.is_whole:
            return matrix
        source = product.select(matrix)
        part = self._new(product.rows, product.columns)
        self._forward.append(partial(part.view(source.shape).copy_, source))
        return part

    def _step(self, k: int, out: Tensor) -> Call:
        product = self._products[k]
        right = product.right * self._vectors
        return _multiplication(self._parts[k], self._operands[k], out, product.left, right)

    def _lay_out_backward(self, whole: int) -> None:
        plan, total = self._plan, len(self._plan.steps)
        in_turn = [self._new(whole) for _ in range(2)]
        self._grads = self._new(*self._blocks.shape).zero_()  # zero outside the parts
        self._windows = self._new(max(p.left * p.rows * p.columns for p in self._products))
        self._final_grad = in_turn[total % 2]
        self._inverses = self._new(*(self._blocks.shape if self._oldest else (0, 1, 1)))
        inverses = self._inverses if plan.transposed else self._inverses.mT
        self._backward: list[Call] = []
        if self._oldest:
            self._backward.append(partial(torch.conj_physical, self._blocks, out=self._inverses))
        for k in reversed(range(total)):
            step, product = plan.steps[k], self._products[k]
            left, right = product.left, product.right * self._vectors
            if k < self._oldest:
                after, move = self._operands[k + 1], plan.steps[k + 1].before
                if move is not None:
                    self._backward.append(_transposing(move.inverse, after, self._spare))
                    after = self._spare
                self._backward.append(
                    _multiplication(inverses[step.block], after, self._operands[k], left, right)
                )
            grad = in_turn[(k + 1) % 2][: left * product.rows * right]
            self._backward += self._gradient_of_matrix(k, grad)
            operand = in_turn[k % 2][: left * product.columns * right]
            move = step.before
            out = self._spare if move else operand
            carrying = [_multiplication(self._parts[k].mT, grad, out, left, right)]
            if move is not None:
                carrying.append(_transposing(move.inverse, self._spare, operand))
            if k > 0:
                self._backward += carrying
            else:
                self._to_start, self._start_grad = carrying, operand

    def _gradient_of_matrix(self, k: int, grad: Tensor) -> list[Call]:
        product = self._products[k]
        left, right = product.left, product.right * self._vectors
        grad = grad.view(left, product.rows, right)
        operand = self._operands[k].view(left, product.columns, right).mT
        target = self._grads[self._plan.steps[k].block]
        part = target if product.is_whole else self._new(product.rows, product.columns)
        if left == 1:
            calls: list[Call] = [partial(torch.mm, grad[0], operand[0], out=part)]
        else:
            count = left * product.rows * product.columns
            each = self._windows[:count].view(left, product.rows, product.columns)
            calls = [
                partial(torch.bmm, grad, operand, out=each),
                partial(torch.sum, each, 0, out=part),
            ]
        if not product.is_whole:
            target = product.select(target)
            calls.append(partial(target.copy_, part.view(target.shape)))
        return calls

    def run(self, blocks: Tensor, states: Tensor | None) -> Tensor:
        """Return the final states, ``(amplitudes, vectors)``.

        Args:
            blocks: ``(blocks, 2**width, 2**width)``.
            states: ``(features, vectors)``, real or complex, the leading amplitudes of the initial
                states; the others are zero. None for basis states.
        """
        self._blocks.copy_(blocks)
        self._sweep(states)
        last = self._products[-1]
        count = last.left * last.rows * last.right
        final = torch.empty(count, self._vectors, dtype=self._dtype, device=self._device)
        if self._plan.after is None:
            self._step(len(self._products) - 1, final)()
        else:
            _transposing(self._plan.after, self._spare, final)()
        return final

    def _sweep(self, states: Tensor | None) -> None:
        """Make each step's operand, from the initial states on."""
        if states is None:
            self._start.copy_(self._identity)
        else:
            self._start[: len(states)].copy_(states)
            self._start[len(states) :].zero_()
        self._rewound = False
        for call in self._forward:
            call()

    def pull_back(
        self, grad: Tensor, states: Tensor | None, *, to_start: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the gradients of blocks and initial states, from that of the final states.

        May be called any number of times after ``run``. Where older states are recomputed, they
        take the places of newer ones; the next call then has to make the newer ones again.

        Args:
            grad: As the final states, ``(amplitudes, vectors)``.
            states: What ``run`` was given.
            to_start: Whether the initial states' gradient is asked for.

        Returns:
            The gradients of blocks, valid until the next use, and of initial states or None.
        """
        if self._rewound:
            self._sweep(states)
        self._rewound = self._oldest > 0  # said first: an interruption leaves it half done
        if self._plan.after is not None:
            grad = self._plan.after.inverse.view(grad.contiguous())
        torch.conj_physical(grad, out=self._final_grad[: grad.numel()].view(grad.shape))
        for call in self._backward:
            call()
        start = None
        if to_start:
            for call in self._to_start:
                call()
            start = self._start_grad.view(self._start.shape).conj().resolve_conj()
        grads = self._grads.mT if self._plan.transposed else self._grads
        return grads.conj(), start  # not in memory: what comes next needs it conjugated again


def _multiplication(matrix: Tensor, source: Tensor, out: Tensor, left: int, right: int) -> Call:
    """Multiply a matrix onto the middle axis of ``(left, columns, right)``."""
    rows, columns = matrix.shape
    if left == 1:
        return partial(torch.mm, matrix, source.view(columns, right), out=out.view(rows, right))
    return partial(
        torch.bmm,
        matrix.expand(left, -1, -1),
        source.view(left, columns, right),
        out=out.view(left, rows, right),
    )


def _transposing(move: Transposition, source: Tensor, out: Tensor) -> Call:
    view = move.view(source)
    return partial(out.view(view.shape).copy_, view)


class Lease:
    """A program in use; when nothing refers to the lease any more, it waits for its next use.

    On devices other than the CPU each use makes its own: torch keeps their memory, and kernels may
    still be at work on it.
    """

    _waiting: ClassVar[list[tuple[tuple[Any, ...], Program]]] = []

    def __init__(
        self,
        plan: Plan,
        vectors: int,
        *,
        basis: bool,
        grad: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._key = plan, vectors, basis, grad, dtype, device, HISTORY_BYTES
        for entry in reversed(self._waiting.copy()):
            if entry[0] == self._key:
                try:
                    self._waiting.remove(entry)
                except ValueError:  # another thread was faster
                    continue
                self.program = entry[1]
                return
        with torch.inference_mode(False):
            self.program = Program(
                plan, vectors, basis=basis, grad=grad, dtype=dtype, device=device
            )

    @classmethod
    def waiting_bytes(cls) -> int:
        """Return the bytes that programs which wait for their next use hold."""
        return sum(program.num_bytes for _, program in cls._waiting)

    @classmethod
    def forget_waiting(cls) -> None:
        """Let go of the programs that wait for their next use."""
        cls._waiting.clear()

    def __del__(self) -> None:
        if not hasattr(self, "program") or self._key[5].type != "cpu":
            return
        self._waiting.append((self._key, self.program))
        while self.waiting_bytes() > POOL_BYTES:
            del self._waiting[0]
