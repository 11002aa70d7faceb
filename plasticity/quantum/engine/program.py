"""A plan laid out in memory: all its products, with operands that are made once.

A step of training repeats the same few dozen small products. Making their views and results anew
would take longer than multiplying, and fresh pages of memory cost as much as the products that fill
them. So a program owns its memory and is a list of calls; it serves one evaluation at a time, with
its backward pass, and then the next.

Longer than 400 lines: a program, its memory and its calls in both directions are one thing.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from plasticity.quantum.engine.blocks import BlockCalls, acting
from plasticity.quantum.engine.constants import cached_constants
from plasticity.quantum.engine.gates import ExponentialCalls
from plasticity.quantum.engine.memory import Call, Memory
from plasticity.quantum.engine.planning import Plan, Transposition
from plasticity.quantum.engine.products import products

HISTORY_BYTES = 17 * 2**20
"""Bytes of intermediate states that a backward pass may keep. Older ones are recomputed from newer
ones by the inverse blocks, so memory stops growing with depth. Where blocks are not unitary, all
are kept."""

SUMMED_BYTES = 2**18
"""Bytes of gradients that are summed in one call, at most."""

CALL_BYTES = 2048
"""Bytes of a call that is kept, with the tensors that view its operands: measured once."""

POOL_BYTES = 256 * 2**20
"""Bytes that programs which wait for their next use may hold, all together."""


class Program:
    """Make gates and blocks of weights, multiply them onto states, and pull gradients back.

    The gradient is carried conjugated: then neither the products that carry it (by transposes of
    the blocks) nor those with the states (its transpose) need a conjugated copy of a large array.

    Args:
        plan: The gates, fused.
        vectors: How many vectors are carried.
        angles: Whether weights are angles, or the gates themselves.
        basis: Whether the vectors are the leading basis states. Then qubits enter when a block
            first acts on them, and the products until then are smaller.
        grad: Whether ``pull_back`` will be called.
        dtype: Complex dtype.
        device: Where.

    Attributes:
        final: The final states after ``run``, ``(amplitudes, vectors)``, valid until the next.
        final_grad: To be filled in before ``pull_back`` with the conjugated gradient of these.
    """

    def __init__(
        self,
        plan: Plan,
        vectors: int,
        *,
        angles: bool,
        basis: bool,
        grad: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._memory = memory = Memory(dtype, device)
        self._are_operands_whole = False
        self._plan, self._vectors = plan, vectors
        self._blocks = BlockCalls(plan, memory, grad=grad)
        self._exponentials = None
        self._making = self._blocks.forward
        self._pulling = self._blocks.backward
        if angles:
            gates, grad_gates = self._blocks.gates, self._blocks.grad_gates if grad else None
            self._exponentials = ExponentialCalls(gates, grad_gates, memory)
            self._making = self._exponentials.forward + self._making
            self._pulling = self._pulling + self._exponentials.backward

        total = len(plan.steps)
        whole = 2**plan.num_qubits * vectors
        kept = HISTORY_BYTES // max(1, whole * dtype.itemsize) if grad else 0
        kept = min(total, max(2, kept)) if plan.unitary or not grad else total
        self._oldest = total - kept  # the first step whose operand is there at the end
        # To recompute a state takes a block that has an inverse, so whole blocks.
        self._products = products(plan, vectors if basis and not (grad and self._oldest) else None)

        blocks = self._blocks.blocks
        self._matrices = blocks.mT if plan.transposed else blocks
        moves = plan.after is not None or any(step.before for step in plan.steps)
        self._spare = memory.new(whole if moves else 0)
        # Step k's operand takes the place of step k - kept's. Backward, it gives the place back.
        counts = [p.left * p.columns * p.right * vectors for p in self._products]
        rows = [memory.new(max(counts[k::kept])) for k in range(kept)]
        self._operands = [rows[k % kept][:count] for k, count in enumerate(counts)]
        first, last, move = self._products[0], self._products[-1], plan.steps[0].before
        start = self._spare if move else self._operands[0]
        self._start = start.view(first.left * first.columns * first.right, vectors)
        self._basis = torch.eye(*self._start.shape, dtype=dtype, device=device) if basis else start

        self._parts_made: list[Call] = []
        self._parts = [self._part(k) for k in range(total)]
        self._forward: list[Call] = []
        if move is not None:
            self._forward.append(_transposing(move, self._spare, self._operands[0]))
        for k in range(1, total):
            move = plan.steps[k].before
            self._forward.append(self._step(k - 1, self._spare if move else self._operands[k]))
            if move is not None:
                self._forward.append(_transposing(move, self._spare, self._operands[k]))
        self.final = memory.new(last.left * last.rows * last.right, vectors)
        self._ending: list[Call] = [
            self._step(total - 1, self._spare if plan.after else self.final)
        ]
        if plan.after is not None:
            self._ending.append(_transposing(plan.after, self._spare, self.final))
        if grad:
            self._lay_out_backward(whole)
        self._num_gates, self._acting = len(plan.gates), acting(plan, device)[0]
        del self._plan  # a program that waits must not keep what nobody else needs
        calls = [self._making, self._parts_made, self._forward, self._ending, self._pulling]
        calls += [self._backward, self._to_start] if grad else []
        self._num_bytes = memory.num_bytes + CALL_BYTES * sum(map(len, calls))
        self._num_bytes += self._basis.nbytes if basis else 0

    @property
    def num_bytes(self) -> int:
        """Return how much memory the program owns."""
        return self._num_bytes

    def _part(self, k: int) -> Tensor:
        """Return the part of a step's matrix that is multiplied."""
        product = self._products[k]
        matrix = self._matrices[self._plan.steps[k].block]
        if product.is_whole:
            return matrix
        source = product.select(matrix)
        try:
            part = source.view(product.rows, product.columns)
            if 1 in part.stride():  # neighboring rows or columns: a product takes it as it is
                return part
        except RuntimeError:  # not a matrix with strides
            pass
        part = self._memory.new(product.rows, product.columns)
        self._parts_made.append(partial(part.view(source.shape).copy_, source))
        return part

    def _step(self, k: int, out: Tensor) -> Call:
        product = self._products[k]
        right = product.right * self._vectors
        return _multiplication(self._parts[k], self._operands[k], out, product.left, right)

    def _lay_out_backward(self, whole: int) -> None:
        plan, memory, total = self._plan, self._memory, len(self._plan.steps)
        in_turn = [memory.new(whole) for _ in range(2)]
        last = in_turn[total % 2][: self.final.numel()]
        self._backward: list[Call] = []
        self.final_grad = last.view(self.final.shape)
        if plan.after is not None:
            self.final_grad = memory.new(*self.final.shape)
            self._backward.append(_transposing(plan.after.inverse, self.final_grad, last))
        inverses = memory.new(*(self._matrices.shape if self._oldest else (0, 1, 1)))
        if self._oldest:
            self._backward.append(partial(torch.conj_physical, self._blocks.blocks, out=inverses))
        inverses = inverses if plan.transposed else inverses.mT
        summed = {
            step.block: product.left
            for step, product in zip(plan.steps, self._products, strict=True)
            if product.is_whole and product.left > 1
        }
        sums = _Sums(memory, self._blocks.grad_blocks, summed)
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
            self._backward += self._gradient_of_matrix(k, grad, sums)
            operand = in_turn[k % 2][: left * product.columns * right]
            move = step.before
            out = self._spare if move else operand
            carrying = [_multiplication(self._parts[k].mT, grad, out, left, right)]
            if move is not None:
                carrying.append(_transposing(move.inverse, self._spare, operand))
            if k > 0:
                self._backward += carrying
            else:
                self._to_start, self._start_grad = carrying, operand.view(self._start.shape)

    def _gradient_of_matrix(self, k: int, grad: Tensor, sums: _Sums) -> list[Call]:
        product, of_block = self._products[k], self._blocks.grad_blocks[self._plan.steps[k].block]
        left, right = product.left, product.right * self._vectors
        operand = self._operands[k].view(left, product.columns, right)
        factors = grad.view(left, product.rows, right), operand
        if self._plan.transposed:
            factors = factors[::-1]
        rows, columns = (factor.shape[1] for factor in factors)
        if product.is_whole and left > 1:
            each, adding = sums.of(self._plan.steps[k].block, left)
            return [partial(torch.bmm, factors[0], factors[1].mT, out=each), *adding]
        each = of_block.unsqueeze(0) if product.is_whole else self._memory.new(left, rows, columns)
        calls: list[Call] = [partial(torch.bmm, factors[0], factors[1].mT, out=each)]
        if not product.is_whole:
            if self._plan.transposed:
                of_block, each = of_block.mT, each.mT
            target = product.select(of_block)
            calls.append(partial(torch.sum, each.view(left, *target.shape), 0, out=target))
        return calls

    def run(self, weights: Tensor, states: Tensor | None) -> Tensor:
        """Return the final states, ``(amplitudes, vectors)``.

        Args:
            weights: Angles ``(num_gates, 15)`` of the whole ansatz, or its gates
                ``(num_gates, 4, 4)``, complex.
            states: ``(features, vectors)``, real or complex, the leading amplitudes of the initial
                states; the others are zero. None for basis states.
        """
        if self._num_gates < len(weights):
            weights = weights.index_select(0, self._acting)
        inputs = self._exponentials.angles if self._exponentials else self._blocks.gates
        inputs.copy_(weights)
        for call in self._making:
            call()
        for call in self._parts_made:
            call()
        self._sweep(states)
        for call in self._ending:
            call()
        return self.final

    def _sweep(self, states: Tensor | None) -> None:
        """Make each step's operand, from the initial states on."""
        self._are_operands_whole = False  # an interruption leaves them half made
        if states is None:
            self._start.copy_(self._basis)
        else:
            # In two steps where numbers are transposed and become complex: together it takes thrice
            # as long.
            self._start[: len(states)].copy_(states if states.is_complex() else states.contiguous())
            if len(states) < len(self._start):
                self._start[len(states) :].zero_()
        for call in self._forward:
            call()
        self._are_operands_whole = True

    def pull_back(self, states: Tensor | None, *, of: Tensor) -> Tensor:
        """Return the gradient of the weights, from that of the final states, in ``final_grad``.

        May be called any number of times after ``run``. Where older states are recomputed, they
        take the places of newer ones; the next call then has to make the newer ones again.

        Args:
            states: What ``run`` was given.
            of: The weights.
        """
        if not self._are_operands_whole:
            self._sweep(states)
        if self._oldest:
            self._are_operands_whole = False  # said first: an interruption leaves it half done
        for call in self._backward:
            call()
        for call in self._pulling:
            call()
        if self._exponentials:
            found = torch.empty_like(of[: self._num_gates]).copy_(self._exponentials.grad_angles)
        else:
            found = self._blocks.grad_gates.conj_physical()
        if self._num_gates == len(of):
            return found
        return torch.zeros_like(of).index_copy_(0, self._acting, found)

    def start_grad(self) -> Tensor:
        """Return the gradient of the initial states, ``(amplitudes, vectors)``: after the other."""
        for call in self._to_start:
            call()
        return self._start_grad.conj_physical()


class _Sums:
    """Sums over windows: of a block's gradients, one of each window that it is multiplied onto.

    Small ones lie side by side in memory, so that many blocks are summed in one call. Blocks with
    as many windows share the memory.

    Args:
        memory: Where tensors are made.
        grad_blocks: Where the sums are to be, ``(blocks, size, size)``.
        num_windows: Of each block that is to be summed.
    """

    def __init__(self, memory: Memory, grad_blocks: Tensor, num_windows: dict[int, int]) -> None:
        self._grad_blocks = grad_blocks
        self._rooms: dict[int, tuple[Tensor, Tensor]] = {}
        self._waiting: dict[int, list[int]] = {}
        self._to_come = Counter(num_windows.values())
        size = grad_blocks.shape[1:]
        for left, blocks in self._to_come.items():
            most = max(1, SUMMED_BYTES // (left * grad_blocks[0].nbytes))
            room = memory.new(min(blocks, most), left, *size), memory.new(min(blocks, most), *size)
            self._rooms[left], self._waiting[left] = room, []

    def of(self, block: int, left: int) -> tuple[Tensor, list[Call]]:
        """Return where a block's gradients go, ``(left, size, size)``, and what to call then."""
        waiting, (windows, sums) = self._waiting[left], self._rooms[left]
        waiting.append(block)
        here = windows[len(waiting) - 1]
        self._to_come[left] -= 1
        if len(waiting) < len(windows) and self._to_come[left]:
            return here, []
        self._waiting[left] = []
        if len(waiting) == 1:
            return here, [partial(torch.sum, here, 0, out=self._grad_blocks[block])]
        windows, sums = windows[: len(waiting)], sums[: len(waiting)]
        (index,) = _index(tuple(waiting), sums.device)
        return here, [
            partial(torch.sum, windows, 1, out=sums),
            partial(self._grad_blocks.index_copy_, 0, index, sums),
        ]


@cached_constants
def _index(numbers: tuple[int, ...], device: torch.device) -> tuple[Tensor]:
    return (torch.tensor(numbers, device=device),)


def _multiplication(matrix: Tensor, source: Tensor, out: Tensor, left: int, right: int) -> Call:
    """Multiply a matrix onto the middle axis of ``(left, columns, right)``.

    One product is a batch, too: ``bmm`` looks at its operands less than ``mm``, so it is faster.
    """
    rows, columns = matrix.shape
    return partial(
        torch.bmm,
        matrix.expand(left, -1, -1),
        source.view(left, columns, right),
        out=out.view(left, rows, right),
    )


def _transposing(move: Transposition, source: Tensor, out: Tensor) -> Call:
    view = move.view(source)
    return partial(out.view(view.shape).copy_, view)


_Entry: TypeAlias = "tuple[tuple[Any, ...], Program, weakref.ref[Lease]]"
"""What a program is asked for by, the program, and who has it or had it last."""


class Lease:
    """A program in use; when nothing refers to the lease any more, it waits for its next use.

    The pool holds each program together with a weak reference to its last lease, and finds out by
    that whether it waits. So nothing has to run when a lease ends: in a ``__del__``, Python loses
    a Ctrl-C. What the pool holds, in use or not, is bounded: a program that has no room in it goes
    with its lease.

    On devices other than the CPU each use makes its own: torch keeps their memory, and kernels may
    still be at work on it.
    """

    _pool: ClassVar[list[_Entry]] = []

    def __init__(
        self,
        plan: Plan,
        vectors: int,
        *,
        angles: bool,
        basis: bool,
        grad: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        key = weakref.ref(plan), vectors, angles, basis, grad, dtype, device, HISTORY_BYTES
        for entry in reversed(self._pool.copy()):
            if entry[0] == key and entry[2]() is None:
                try:
                    self._pool.remove(entry)
                except ValueError:  # another thread was faster
                    continue
                self.program = entry[1]
                self._pool.append((key, self.program, weakref.ref(self)))
                return
        with torch.inference_mode(False):
            self.program = Program(
                plan, vectors, angles=angles, basis=basis, grad=grad, dtype=dtype, device=device
            )
        if device.type == "cpu" and self._make_room(self.program.num_bytes):
            self._pool.append((key, self.program, weakref.ref(self)))

    @classmethod
    def _make_room(cls, num_bytes: int) -> bool:
        """Let go of programs that wait, the oldest first, until so much more may be held."""
        for entry in cls._pool.copy():
            if entry[0][0]() is None:  # nobody can ask for it again
                cls._let_go(entry)
        in_use = cls._bytes_of(entry for entry in cls._pool.copy() if entry[2]() is not None)
        if in_use + num_bytes > POOL_BYTES:  # what does not fit does not drive out the others
            return False
        for entry in cls._pool.copy():
            if cls._bytes_of(cls._pool.copy()) + num_bytes <= POOL_BYTES:
                return True
            cls._let_go(entry)
        return cls._bytes_of(cls._pool.copy()) + num_bytes <= POOL_BYTES

    @staticmethod
    def _bytes_of(entries: Iterable[_Entry]) -> int:
        return sum(program.num_bytes for _, program, _ in entries)

    @classmethod
    def _let_go(cls, entry: _Entry) -> None:
        """Take a program that waits out of the pool; leave one that is in use."""
        if entry[2]() is None:
            with suppress(ValueError):  # another thread was faster
                cls._pool.remove(entry)

    @classmethod
    def waiting_bytes(cls) -> int:
        """Return the bytes that programs which wait for their next use hold."""
        return cls._bytes_of(entry for entry in cls._pool.copy() if entry[2]() is None)

    @classmethod
    def forget_waiting(cls) -> None:
        """Let go of the programs that wait for their next use."""
        for entry in cls._pool.copy():
            cls._let_go(entry)
