"""Measurement operators pulled back through a noisy circuit, in the basis of Pauli words.

The circuit does not depend on the data, and neither does its noise. So the probability of reading
outcome k is p_k(x) = <x| E_k |x>, where E_k is the operator of the readout pulled back through
gates and noise, the last one first (Heisenberg picture). An operator is Hermitian, so it is a real
combination of Pauli words, 4**n numbers, and a gate with its noise is a real 16x16 matrix that acts
on the words of two qubits. A qubit on which an operator is the identity needs one number and not
four; one on which it is diagonal needs two. So an operator grows as gates reach it.

Operators are arrays ``(words, outcomes)``: the word's letters, I, X, Y, Z, qubit by qubit, and the
outcomes last, so that each product is one of wide matrices. A gate is a block of its own: it is as
large as the blocks of four qubits that carry states. Two gates fused into a 64x64 matrix on three
qubits were measured, and took a fifth longer than one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from plasticity.quantum.circuits import Ansatz, light_cone, pauli_words
from plasticity.quantum.engine.constants import cached_constants
from plasticity.quantum.engine.transforms import (
    are_transforms_active,
    is_forward_mode,
    is_transformed,
)

LETTERS = {1: [0], 2: [0, 3], 4: [0, 1, 2, 3]}
"""Which of I, X, Y, Z a qubit has that has so many numbers."""

LARGE = 2**18
"""From so many numbers on, a backward pass makes operators anew and does not keep them all."""


# ---------------------------------------------------------------------------- gates and noise
@cached_constants
def _words(device: torch.device) -> tuple[Tensor]:
    """Return II, IX, ..., ZZ, ``(16, 4, 4)`` complex128."""
    words = torch.from_numpy(pauli_words()).to(device)
    return (torch.cat([torch.eye(4, dtype=words.dtype, device=device).unsqueeze(0), words]),)


def pulling_back(gates: Tensor, depolarizing: float, damping: float) -> Tensor:
    """Return what each gate, followed by its noise, makes of operators behind it.

    With the words W_i of its two qubits, U* W_j U = sum_i A_ij W_i, A_ij = tr(W_i U* W_j U) / 4.
    Depolarized with probability l, all words but II are multiplied by 1 - l. A qubit damped with
    probability g has I -> I, X -> sqrt(1 - g) X, Y -> sqrt(1 - g) Y, Z -> g I + (1 - g) Z.

    Args:
        gates: ``(gates, 4, 4)``, complex, unitary.
        depolarizing: l, in [0, 1].
        damping: g, in [0, 1], of each of the two qubits.

    Returns:
        ``(gates, 16, 16)``, real: the words before a gate, from those behind it.
    """
    (words,) = _words(gates.device)
    words = words.to(gates.dtype)
    pulled = gates.mH.unsqueeze(1) @ words @ gates.unsqueeze(1)  # (gates, 16, 4, 4)
    # tr(A B) is the sum of the products of A's entries and those of B's transpose.
    result = (pulled.flatten(2) @ words.mT.flatten(1).T).real.mT / 4
    kept = result.new_full((16,), 1 - depolarizing)
    kept[0] = 1
    damped = torch.diag(result.new_tensor([1, math.sqrt(1 - damping), math.sqrt(1 - damping), 0]))
    damped[0, 3], damped[3, 3] = damping, 1 - damping
    return result @ (kept.unsqueeze(1) * torch.kron(damped, damped))


# ---------------------------------------------------------------------------------------- readouts
def basis_states(num_qubits: int, outcomes: Tensor, flips: tuple[float, float]) -> Tensor:
    """Return the operators of reading basis states, each bit of them with errors.

    Args:
        num_qubits: Qubits.
        outcomes: Which basis states, ``(outcomes,)`` int64.
        flips: The probabilities to read 1 where it is 0, and 0 where it is 1.

    Returns:
        ``(2**num_qubits, outcomes)`` float64: of each qubit, I and Z.
    """
    result = torch.ones(1, len(outcomes), dtype=torch.float64, device=outcomes.device)
    of_bits = reading_zero(flips).to(outcomes.device)
    of_bits = torch.stack([of_bits, of_bits.new_tensor([1, 0]) - of_bits], 1)  # of 0, of 1
    for qubit in range(num_qubits):
        of_qubit = of_bits[:, outcomes >> (num_qubits - 1 - qubit) & 1]  # (2, outcomes)
        result = (result.unsqueeze(1) * of_qubit).flatten(0, 1)
    return result


def reading_zero(flips: tuple[float, float]) -> Tensor:
    """Return I and Z of the operator of reading 0, diag(1 - P(1|0), P(0|1)), ``(2,)`` float64."""
    right, wrong = 1 - flips[0], flips[1]
    return torch.tensor([(right + wrong) / 2, (right - wrong) / 2], dtype=torch.float64)


# ------------------------------------------------------------------------------------------- sweep
def pull_back(
    ansatz: Ansatz, qubit: int | None, transfers: Tensor, operators: Tensor
) -> tuple[Tensor, tuple[int, ...]]:
    """Pull operators back through the gates that they depend on, the last one first.

    Args:
        ansatz: Where the gates act.
        qubit: On which qubit alone the operators act; None: they are diagonal, on all.
        transfers: Of all gates, ``(gates, 16, 16)``, as ``pulling_back`` makes them.
        operators: ``(2, outcomes)`` of one qubit, or ``(2**num_qubits, outcomes)``.

    Returns:
        The operators, ``(product of the sizes, outcomes)``, and of each qubit how many numbers it
        has: 1 (it is the identity there), 2 (diagonal) or 4.
    """
    sizes = tuple(2 if qubit in (None, q) else 1 for q in range(ansatz.num_qubits))
    gates = light_cone(ansatz, qubit)[::-1]
    memory = _memory_for(transfers)
    if not gates and memory is None:  # still a function of the gates, whose gradients are 0
        return operators + 0 * transfers.sum(), sizes

    def through(
        operators: Tensor, transfers: Tensor, before: Sequence[int], some: Sequence[int]
    ) -> Tensor:
        sizes = list(before)  # a backward pass may come here again
        for gate in some:
            operators = _through(operators, sizes, ansatz.pairs[gate], transfers[gate], memory)
        return operators

    numbers = 4**ansatz.num_qubits * operators.shape[1]
    if memory is not None or numbers < LARGE or are_transforms_active() or not gates:
        operators = through(operators, transfers, sizes, gates)
        return operators, _after(sizes, ansatz, gates)
    length = math.isqrt(len(gates) - 1) + 1
    for first in range(0, len(gates), length):
        some = gates[first : first + length]
        operators = checkpoint(
            through, operators, transfers, sizes, some, use_reentrant=False,
            preserve_rng_state=False,
        )  # fmt: skip
        sizes = _after(sizes, ansatz, some)
    return operators, sizes


def _after(sizes: Sequence[int], ansatz: Ansatz, gates: Sequence[int]) -> tuple[int, ...]:
    """Return how many numbers each qubit has once operators were pulled back through gates."""
    reached = {qubit for gate in gates for qubit in ansatz.pairs[gate]}
    return tuple(4 if qubit in reached else size for qubit, size in enumerate(sizes))


class _Memory:
    """Two arrays that take turns: a product is written where its factor was made from.

    New memory for each product would take three times as long as the product.
    """

    def __init__(self, like: Tensor) -> None:
        self._arrays = [like.new_empty(0), like.new_empty(0)]

    def next(self, *shape: int) -> Tensor:
        """Return the array that the last product is not in, in this shape."""
        size = math.prod(shape)
        self._arrays.reverse()
        if len(self._arrays[0]) < size:
            self._arrays[0] = self._arrays[0].new_empty(size)
        return self._arrays[0][:size].view(shape)


def _memory_for(tensor: Tensor) -> _Memory | None:
    """Return memory for what is made of a tensor, unless derivatives are wanted."""
    wanted = torch.is_grad_enabled() and tensor.requires_grad
    return None if wanted or is_forward_mode() or is_transformed(tensor) else _Memory(tensor)


def _product(matrix: Tensor, state: Tensor, memory: _Memory | None) -> Tensor:
    """Return the product of a matrix, (rows, columns), and each (columns, right) of a state."""
    shape = len(state), len(matrix), state.shape[2]
    out = None if memory is None else memory.next(*shape)
    if len(state) == 1:  # a batch of one would be copied
        product = torch.mm(matrix, state[0], out=None if out is None else out[0])
        return product.unsqueeze(0)
    return torch.matmul(matrix, state, out=out)


def _through(
    operators: Tensor,
    sizes: list[int],
    pair: tuple[int, int],
    transfer: Tensor,
    memory: _Memory | None = None,
) -> Tensor:
    """Pull operators back through one gate; ``sizes`` are those before, and then those after."""
    (a, b), count = pair, operators.shape[1]
    columns = [4 * i + j for i in LETTERS[sizes[a]] for j in LETTERS[sizes[b]]]
    if len(columns) < 16:
        transfer = transfer[:, columns]
    first, second = min(pair), max(pair)
    left = math.prod(sizes[:first])
    between = math.prod(sizes[first + 1 : second])
    right = math.prod(sizes[second + 1 :]) * count
    state = operators.view(left, sizes[first], between, sizes[second], right)
    if a > b:  # the second qubit of the pair comes first in a word
        transfer = transfer.view(4, 4, sizes[a], sizes[b]).permute(1, 0, 3, 2)
        transfer = transfer.reshape(16, -1)
    state = state.transpose(1, 2).reshape(left * between, -1, right)
    sizes[a] = sizes[b] = 4
    state = _product(transfer, state, memory)
    return state.view(left, between, 4, 4, right).transpose(1, 2).reshape(-1, count)


# ---------------------------------------------------------------------------------------- matrices
def _signs(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Return 1, 1, -1, -1 for words with 0, 1, 2, 3 (and so on) letters Y, int8."""
    letters = torch.zeros(1, dtype=torch.int8, device=device)
    for size in sizes:
        is_y = letters.new_tensor([letter == 2 for letter in LETTERS[size]])
        letters = (letters.unsqueeze(1) + is_y).flatten()
    return 1 - (letters & 2)


def as_matrices(operators: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Write operators, E = A + iB with A symmetric and B antisymmetric, as real matrices A + B.

    With Y = i V, V real, a word with m letters Y is i**m times a real matrix that is symmetric if m
    is even, antisymmetric if m is odd. So A + B is the sum of these real matrices, with the signs
    1, 1, -1, -1 of m = 0, 1, 2, 3.

    Args:
        operators: ``(product of the sizes, outcomes)``.
        sizes: Numbers of each qubit; the qubits with 1 are left out.

    Returns:
        ``(amplitudes, amplitudes, outcomes)``, of the qubits that are not left out, in order.
    """
    count = operators.shape[1]
    signs, memory = _signs(sizes, operators.device), _memory_for(operators)
    out = None if memory is None else memory.next(*operators.shape)
    state = torch.mul(operators, signs.to(operators).unsqueeze(1), out=out)
    sizes = tuple(size for size in sizes if size > 1)
    # The entries 00, 01, 10, 11 of I, X, V, Z.
    entries = operators.new_tensor([[1, 0, 0, 1], [0, 1, -1, 0], [0, 1, 1, 0], [1, 0, 0, -1]])
    for k in range(0, len(sizes), 2):  # two qubits at once: fewer passes over the memory
        two = [entries[:, LETTERS[size]] for size in sizes[k : k + 2]]
        matrix = reduce(torch.kron, two)
        right = math.prod(sizes[k + 2 :]) * count
        state = _product(matrix, state.view(4**k, matrix.shape[1], right), memory)
    state = state.view(*(2,) * (2 * len(sizes)), count)
    rows = range(0, 2 * len(sizes), 2)
    columns = range(1, 2 * len(sizes), 2)
    state = state.permute(*rows, *columns, 2 * len(sizes))
    return state.reshape(2 ** len(sizes), 2 ** len(sizes), count)


def as_operators(matrices: Tensor) -> Tensor:
    """Return the operators E that were written as real matrices, ``(outcomes, n, n)`` complex."""
    real = matrices.movedim(2, 0)
    return torch.complex((real + real.mT) / 2, (real - real.mT) / 2)


def expectations(x: Tensor, matrices: Tensor) -> Tensor:
    """Return <x| E |x>.

    Args:
        x: ``(batch, features)``, real or complex, of any norm.
        matrices: ``(features, features, outcomes)``, as ``as_matrices`` writes them.

    Returns:
        ``(batch, outcomes)``, real.
    """
    if not x.is_complex():
        return _forms(x, x, matrices)
    # <x|E|x> with x = a + ib is a.Ma + b.Mb - a.(M - M^T)b.
    a, b = x.real, x.imag
    return _forms(a, a - b, matrices) + _forms(b, a + b, matrices)


def _forms(x: Tensor, y: Tensor, matrices: Tensor) -> Tensor:
    """Return x.My of each sample, ``(batch, outcomes)``."""
    products = (x @ matrices.flatten(1)).unflatten(1, matrices.shape[1:])
    return (y.unsqueeze(1) @ products).squeeze(1)
