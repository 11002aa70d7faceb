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
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, wraps
from typing import Any, ClassVar, Literal, ParamSpec

import numpy as np
import torch
from torch import Tensor

from plasticity.circuits import Ansatz

Key = ParamSpec("Key")

BLOCK_QUBITS = 4
"""Qubits of a block. A brickwork's 2x2 diamond of four gates fills a 16x16 matrix exactly: as many
multiplications as gate by gate (4 x 4 per amplitude), in one well-shaped product, not four."""

HISTORY_BYTES = 24 * 2**20
"""Bytes of intermediate states that a backward pass may keep. Older ones are recomputed from newer
ones by the inverse blocks, so memory stops growing with depth."""


def is_transformed(tensor: Tensor) -> bool:
    """Tell whether a tensor is inside ``torch.func``, where values cannot be looked at or kept."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def cached_constants(
    build: Callable[Key, tuple[Tensor, ...]],
) -> Callable[Key, tuple[Tensor, ...]]:
    """Keep constant tensors, unless they were made inside a transform that ends with the call."""
    cache: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}

    @wraps(build)
    def get(*key: Key.args, **named: Key.kwargs) -> tuple[Tensor, ...]:
        if key in cache:
            return cache[key]
        with torch.inference_mode(False):
            tensors = build(*key, **named)
        if not any(is_transformed(tensor) for tensor in tensors):
            cache[key] = tensors
        return tensors

    return get


# --------------------------------------------------------------------------------------- gates
@lru_cache
def pauli_words() -> np.ndarray:
    """Return the P_k of ``plasticity.circuits`` in its order, ``(15, 4, 4)`` complex128."""
    letters = [
        np.array(m, dtype=np.complex128)
        for m in ([[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]])
    ]
    return np.stack([np.kron(a, b) for a, b in itertools.product(letters, letters)][1:])


@cached_constants
def _pauli_basis(device: torch.device) -> tuple[Tensor]:
    """Return P_k as rows of interleaved real and imaginary parts, ``(15, 32)`` float64."""
    words = torch.from_numpy(pauli_words()).reshape(15, 16)
    return (torch.view_as_real(words).reshape(15, 32).to(device),)


class _GateExponential(torch.autograd.Function):
    """exp(-i sum_k angles_k P_k), by ``eigh`` with the Daleckii-Krein derivative.

    With H = V diag(l) V*, the derivative of exp(-iH) in direction E is V (F o (V* E V)) V*, where
    F_jk = (exp(-i l_j) - exp(-i l_k)) / (l_j - l_k) = -i exp(-i (l_j + l_k)/2) sinc((l_j - l_k)/2),
    which is smooth at equal eigenvalues (Higham, Functions of Matrices, theorem 3.11).
    Computed in complex128 whatever the angles' dtype: at 4x4 it costs the same.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hamiltonian = _hamiltonian(angles)
        try:
            levels, vectors = torch.linalg.eigh(hamiltonian)
        except torch.linalg.LinAlgError:  # angles that are not finite give NaN, as any layer would
            levels = torch.full_like(hamiltonian[..., 0].real, math.nan)
            vectors = torch.full_like(hamiltonian, math.nan)
        phases = torch.polar(torch.ones_like(levels), -levels)
        return (vectors * phases.unsqueeze(-2)) @ vectors.mH, levels, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, levels, vectors = output
        ctx.mark_non_differentiable(levels, vectors)
        ctx.save_for_backward(inputs[0], levels, vectors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Tensor:
        return _GateExponentialBackward.apply(grad, *ctx.saved_tensors)


class _GateExponentialBackward(torch.autograd.Function):
    """The map from the gradient of the gates to that of the angles, itself differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, angles: Tensor, levels: Tensor, vectors: Tensor) -> Tensor:
        mean = (levels.unsqueeze(-1) + levels.unsqueeze(-2)) / 2
        gap = levels.unsqueeze(-1) - levels.unsqueeze(-2)
        # The conjugate of F: i exp(i mean) sinc(gap/2); torch's sinc has a factor pi.
        quotient = torch.polar(torch.sinc(gap / (2 * math.pi)), mean + math.pi / 2)
        inner = vectors.mH @ grad @ vectors
        return _along_paulis(vectors @ (quotient * inner) @ vectors.mH, angles)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        def by_matrix_exponential(grad_gates: Tensor, angles: Tensor) -> Tensor:
            # The same map without eigenvectors, whose derivatives are singular at equal
            # eigenvalues: the adjoint derivative at X is the upper right block of
            # exp [[X*, G], [0, X*]] (Higham, theorem 3.6).
            adjoint = 1j * _hamiltonian(angles)
            blank = torch.zeros_like(adjoint)
            both = torch.cat(
                [torch.cat([adjoint, grad_gates], -1), torch.cat([blank, adjoint], -1)], -2
            )
            return _along_paulis(1j * torch.linalg.matrix_exp(both)[..., :4, 4:], angles)

        return *torch.func.vjp(by_matrix_exponential, *ctx.saved_tensors)[1](grad), None, None


def _along_paulis(grad_hamiltonian: Tensor, angles: Tensor) -> Tensor:
    parts = torch.view_as_real(grad_hamiltonian.resolve_conj()).flatten(-3)
    return (parts @ _pauli_basis(angles.device)[0].T).to(angles.dtype)


def _hamiltonian(angles: Tensor) -> Tensor:
    parts = angles.double() @ _pauli_basis(angles.device)[0]
    return torch.view_as_complex(parts.unflatten(-1, (16, 2))).unflatten(-1, (4, 4))


def gate_matrices(angles: Tensor) -> Tensor:
    """Return the gates exp(-i sum_k angles[g, k] P_k).

    Args:
        angles: ``(gates, 15)``, float32 or float64, radians.

    Returns:
        ``(gates, 4, 4)`` complex128, unitary to rounding. Differentiable any number of times.
    """
    return _GateExponential.apply(angles)[0]


# -------------------------------------------------------------------------------------- planning
@dataclass(frozen=True)
class _Transposition:
    """Transpose the qubit axes of a ``(2**n, vectors)`` array; neighbours that stay so are one."""

    shape: tuple[int, ...]  # of the runs of qubits, and -1 for the vectors
    axes: tuple[int, ...]

    @classmethod
    def between(cls, old: tuple[int, ...], new: tuple[int, ...]) -> _Transposition | None:
        """Make the transposition from one order of the qubits to another, or None."""
        places = [old.index(q) for q in new]
        starts = [k for k, p in enumerate(places) if k == 0 or p != places[k - 1] + 1]
        lengths = [b - a for a, b in itertools.pairwise([*starts, len(places)])]
        if len(starts) == 1:
            return None
        in_old_order = sorted(range(len(starts)), key=lambda run: places[starts[run]])
        shape = tuple(2 ** lengths[run] for run in in_old_order)
        return cls((*shape, -1), (*map(in_old_order.index, range(len(starts))), len(starts)))

    @cached_property
    def inverse(self) -> _Transposition:
        """Return the transposition back."""
        order = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return _Transposition(tuple(self.shape[axis] for axis in self.axes), tuple(order))

    def view(self, state: Tensor) -> Tensor:
        """Return the transposed state as a view of more dimensions."""
        return state.view(self.shape).permute(self.axes)


def _transposed(state: Tensor, transposition: _Transposition | None) -> Tensor:
    if transposition is None:
        return state
    return transposition.view(state.contiguous()).reshape(state.shape)


def _transposed_into(out: Tensor, state: Tensor, transposition: _Transposition) -> Tensor:
    source = transposition.view(state)
    out.view(source.shape).copy_(source)
    return out


@dataclass(frozen=True)
class _Step:
    """Apply one block to a window of neighbouring axes."""

    before: _Transposition | None  # to be done first
    left: int  # amplitudes to the left of the window
    block: int  # which block


Slot = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Plan:
    """How a sequence of gates is fused into blocks and swept over the state.

    Attributes:
        num_qubits: Qubits of the state.
        width: Qubits of a block.
        gates: Which of the ansatz's gates act, in order.
        flipped: Those of them whose first qubit comes second in the window.
        layers: Slots side by side in a block, layer by layer, in order. A slot is ``(position in
            the window, gate of each block)``; a block that has no gate in a slot has ``len(gates)``
            there, the identity.
        steps: One a block.
        transposed: Multiply by the blocks' transposes.
        after: Transposition of the qubit axes after the last step.
    """

    num_qubits: int
    width: int
    gates: tuple[int, ...]
    flipped: tuple[bool, ...]
    layers: tuple[tuple[Slot, ...], ...]
    steps: tuple[_Step, ...]
    after: _Transposition | None
    transposed: bool = False


def light_cone(ansatz: Ansatz, qubit: int | None) -> tuple[int, ...]:
    """List the gates that an observable on one qubit depends on (all gates for ``qubit=None``)."""
    if qubit is None:
        return tuple(range(ansatz.num_gates))
    seen, gates = {qubit}, []
    for gate in reversed(range(ansatz.num_gates)):
        if seen & set(ansatz.pairs[gate]):
            seen |= set(ansatz.pairs[gate])
            gates.append(gate)
    return tuple(reversed(gates))


@lru_cache
def make_plan(ansatz: Ansatz, qubit: int | None = None, width: int = BLOCK_QUBITS) -> Plan:
    """Fuse the gates in the light cone of ``qubit`` into blocks of ``width`` qubits.

    Greedy: of all windows of neighbouring qubits (around the ring, if some gate goes around), take
    the one that can absorb most of the gates that are due, until none is left.
    """
    n = ansatz.num_qubits
    width = min(width, n)
    gates = light_cone(ansatz, qubit)
    pairs = [ansatz.pairs[g] for g in gates]
    queues: list[list[int]] = [[k for k, pair in enumerate(pairs) if q in pair] for q in range(n)]
    heads = [0] * n
    windows = _windows(n, width, pairs)
    blocks: list[tuple[tuple[int, ...], list[tuple[int, int]]]] = []
    while any(head < len(queue) for head, queue in zip(heads, queues, strict=True)):
        candidates = [(_absorb(window, queues, heads), window) for window in windows]
        content, window = max(candidates, key=lambda candidate: len(candidate[0]))
        for gate, _ in content:
            for q in pairs[gate]:
                heads[q] += 1
        blocks.append((window, content))
    steps, after = _steps(n, [window for window, _ in blocks])
    flipped = [False] * len(gates)
    for window, content in blocks:
        for gate, position in content:
            flipped[gate] = window[position] != pairs[gate][0]
    return Plan(n, width, gates, tuple(flipped), _layers(blocks, len(gates)), steps, after)


def _windows(n: int, width: int, pairs: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """List the windows that gates may be fused in, so that every pair stands together in one."""
    around = n > 2 and any(abs(a - b) == n - 1 for a, b in pairs)
    starts = range(n) if around else range(n - width + 1)
    windows = [tuple((s + k) % n for k in range(width)) for s in starts]
    for a, b in sorted({(min(pair), max(pair)) for pair in pairs}):
        if b - a != 1 and not (around and b - a == n - 1):
            windows.append((a, b, *[q for q in range(n) if q not in (a, b)][: width - 2]))
    return windows


def _absorb(
    window: tuple[int, ...], queues: list[list[int]], heads: list[int]
) -> list[tuple[int, int]]:
    """List (gate, position) of the gates that are due, one after the other, inside the window."""
    heads = heads.copy()
    content: list[tuple[int, int]] = []
    progress = True
    while progress:
        progress = False
        for position, (a, b) in enumerate(itertools.pairwise(window)):
            while (
                heads[a] < len(queues[a])
                and heads[b] < len(queues[b])
                and queues[a][heads[a]] == queues[b][heads[b]]
            ):
                content.append((queues[a][heads[a]], position))
                heads[a] += 1
                heads[b] += 1
                progress = True
    return content


def _layers(
    blocks: list[tuple[tuple[int, ...], list[tuple[int, int]]]], identity: int
) -> tuple[tuple[Slot, ...], ...]:
    """Align the gates of all blocks, so that one batched product serves a layer of all blocks.

    A gate's layer is its depth inside its block, even at even positions and odd at odd ones, so
    that the gates of a layer stand side by side and blocks may start on either kind of brick.
    """
    table: dict[int, dict[int, list[int]]] = {}
    for block, (window, content) in enumerate(blocks):
        depths = [-1] * len(window)
        for gate, position in content:
            depth = max(depths[position], depths[position + 1]) + 1
            depth += (depth + position) % 2
            depths[position] = depths[position + 1] = depth
            slots = table.setdefault(depth, {})
            slots.setdefault(position, [identity] * len(blocks))[block] = gate
    return tuple(
        tuple((position, tuple(gates)) for position, gates in sorted(table[depth].items()))
        for depth in sorted(table)
    )


def _steps(
    n: int, windows: list[tuple[int, ...]]
) -> tuple[tuple[_Step, ...], _Transposition | None]:
    """Lay the qubits so that each window is contiguous, and as rarely as possible anew."""

    def place(order: tuple[int, ...], window: tuple[int, ...]) -> int | None:
        start = order.index(window[0])
        return start if order[start : start + len(window)] == window else None

    def fits(order: tuple[int, ...], first: int) -> int:
        count = 0
        while first + count < len(windows) and place(order, windows[first + count]) is not None:
            count += 1
        return count

    order = natural = tuple(range(n))
    rotations = [natural[k:] + natural[:k] for k in range(n)]
    steps = []
    for k, window in enumerate(windows):
        before = None
        if place(order, window) is None:
            moved = window + tuple(q for q in natural if q not in window)
            new = max([*rotations, moved], key=lambda candidate: fits(candidate, k))
            before, order = _Transposition.between(order, new), new
        start = place(order, window)
        assert start is not None
        steps.append(_Step(before, 2**start, k))
    return tuple(steps), _Transposition.between(order, natural)


# ------------------------------------------------------------------------------------ cost model
Carry = Literal["rows", "columns", "states"]

REUSE = 10
"""How many batches one contracted matrix is expected to serve while no gradient is asked for."""


def floating_point_operations(
    carry: Carry, plan: Plan, *, batch: int, features: int, outcomes: int | None, grad: bool
) -> float:
    """Estimate the work of one evaluation, with its backward pass if ``grad``.

    A sweep multiplies a 2**width square matrix onto every window: 8 real operations for each of
    2**width x 2**n x vectors complex products a block, where the vectors are the outcomes (rows),
    the features (columns) or the batch (states); backward does it twice more. Rows and columns are
    then multiplied with the batch of real inputs: 4 operations for each of batch x features x
    (outcomes or 2**n), and once more backward. Where weights stand still, a matrix serves ``REUSE``
    batches.

    Args:
        carry: What is carried through the gates.
        plan: The gates that act.
        batch: Samples.
        features: Leading basis states that the inputs touch.
        outcomes: Leading basis states that are read, or None for an expectation value.
        grad: Whether a backward pass follows.
    """
    amplitudes = 2**plan.num_qubits
    sweep_vector = 8 * 2**plan.width * amplitudes * len(plan.steps) * (3 if grad else 1)
    if carry == "states":
        return sweep_vector * batch
    vectors, width = (outcomes, outcomes) if carry == "rows" else (features, amplitudes)
    if vectors is None or width is None:
        return float("inf")  # an expectation value has no few rows
    product = 4 * batch * features * width * (2 if grad else 1)
    return sweep_vector * vectors / (1 if grad else REUSE) + product


def cheapest(plan: Plan, *, batch: int, features: int, outcomes: int | None, grad: bool) -> Carry:
    """Choose what to carry through the gates (arguments: ``floating_point_operations``)."""
    choices: tuple[Carry, ...] = ("rows", "columns", "states")
    return min(
        choices,
        key=lambda carry: floating_point_operations(
            carry, plan, batch=batch, features=features, outcomes=outcomes, grad=grad
        ),
    )


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
        spread = _spread(plan, gates)
        layers = _layer_matrices(plan, spread)
        products = list(
            itertools.accumulate(layers, lambda before, layer: torch.bmm(layer, before))
        )
        kept += [spread, layers, products[:-1]]
        return products[-1]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.plan, ctx.kept, gates = inputs
        ctx.save_for_backward(gates, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        plan, (gates, blocks) = ctx.plan, ctx.saved_tensors
        if not ctx.kept or torch.is_grad_enabled() or is_transformed(grad):
            spread, products = _spread(plan, gates), []
            layers = _layer_matrices(plan, spread)
        else:
            spread, layers, products = ctx.kept
        # Conjugated gradients, as in the sweep.
        grad = grad.conj().resolve_conj()
        grad_layers = [grad] * len(layers)
        for k in reversed(range(1, len(layers))):
            blocks = products[k - 1] if products else layers[k].mH @ blocks
            grad_layers[k] = grad @ blocks.mT
            grad = layers[k].mT @ grad
        grad_layers[0] = grad
        _, where, _, gather, agreeing = _tables(plan, gates.device, gates.dtype)
        grads, slot = [], 0
        for layer, same, grad in zip(plan.layers, agreeing, grad_layers, strict=True):
            masked = grad.flatten(1) * same
            for k in range(slot, slot + len(layer)):
                others = [spread[j] for j in range(slot, slot + len(layer)) if j != k]
                grads.append(math.prod(others, start=masked))
            slot += len(layer)
        of_slots = torch.stack(grads) @ gather
        return None, None, of_slots.conj().reshape(-1, 4, 4)[where]


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


@lru_cache
def reversed_plan(plan: Plan) -> Plan:
    """Return the plan of the transposed matrix: the blocks' transposes in the opposite order."""
    # Backwards, the inverse of what comes before a step comes after it: before the next one.
    moves = [*(step.before for step in plan.steps), plan.after]
    inverses = [move and move.inverse for move in moves]
    steps = tuple(
        _Step(inverses[k + 1], plan.steps[k].left, plan.steps[k].block)
        for k in reversed(range(len(plan.steps)))
    )
    return replace(plan, steps=steps, after=inverses[0], transposed=not plan.transposed)
