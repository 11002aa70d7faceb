"""How the gates of an ansatz are fused into blocks, and the blocks laid over the qubits."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from torch import Tensor

from plasticity.quantum.circuits import Ansatz, light_cone

BLOCK_QUBITS = 4
"""Qubits of a block, where nothing else is said. A brickwork's 2x2 diamond of four gates fills a
16x16 matrix exactly: as many multiplications as gate by gate (4 x 4 per amplitude), in one
well-shaped product, not four."""

NOISE = 1.5
"""Gates by which a window may be worse than the best and still be taken in that search."""


@dataclass(frozen=True)
class Transposition:
    """Transpose the qubit axes of a ``(2**n, vectors)`` array; neighbors that stay so are one."""

    shape: tuple[int, ...]  # of the runs of qubits, and -1 for the vectors
    axes: tuple[int, ...]

    @classmethod
    def between(cls, old: tuple[int, ...], new: tuple[int, ...]) -> Transposition | None:
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
    def inverse(self) -> Transposition:
        """Return the transposition back."""
        order = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return Transposition(tuple(self.shape[axis] for axis in self.axes), tuple(order))

    def view(self, state: Tensor) -> Tensor:
        """Return the transposed state as a view of more dimensions."""
        return state.view(self.shape).permute(self.axes)


@dataclass(frozen=True)
class Step:
    """Apply one block to a window of neighboring axes."""

    before: Transposition | None  # to be done first
    left: int  # amplitudes to the left of the window
    block: int  # which block


Slot = tuple[int, int]
"""A gate, counted in ``Plan.gates``, and the place in the window where it begins."""


@dataclass(frozen=True, eq=False)  # compared and hashed by identity: there is one of each
class Plan:
    """How a sequence of gates is fused into blocks and swept over the state.

    Attributes:
        num_qubits: Qubits of the state.
        width: Qubits of a block.
        gates: Which of the ansatz's gates act, in order.
        flipped: Those of them whose first qubit comes second in the window.
        blocks: The gates of each block, layer by layer, in order; those of a layer stand side by
            side.
        steps: One a block.
        transposed: Multiply by the blocks' transposes.
        after: Transposition of the qubit axes after the last step.
        observed: For an expectation value, where its qubit is after the last step: only the
            amplitudes of states in which it is 0 are made, in whatever order they are then.
        unitary: Whether the gates are known to be unitary. If not, a backward pass keeps all
            states: those before a block do not follow from those after it.
        kept: What has been made for this plan, such as constant tensors. It goes with the plan.
    """

    num_qubits: int
    width: int
    gates: tuple[int, ...]
    flipped: tuple[bool, ...]
    blocks: tuple[tuple[tuple[Slot, ...], ...], ...]
    steps: tuple[Step, ...]
    after: Transposition | None
    observed: int | None = None
    transposed: bool = False
    unitary: bool = True
    kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)


@lru_cache(maxsize=64)
def make_plan(
    ansatz: Ansatz,
    qubit: int | None = None,
    width: int = BLOCK_QUBITS,
    unitary: bool = True,
    behind: int = 0,
) -> Plan:
    """Fuse the gates in the light cone of ``qubit`` into blocks of ``width`` qubits.

    Greedy: of all windows of neighboring qubits (around the ring, if some gate goes around), take
    the one that can absorb most of the gates that are due, until none is left.

    Args:
        ansatz: The gates.
        qubit: Where an expectation value is read, or None.
        width: Qubits of a block.
        unitary: Whether the gates are known to be unitary.
        behind: How many qubits must be behind a window, where qubits have to be moved anyway: with
            few vectors, a window at the very end is many narrow products.
    """
    return attempted_plan(ansatz, qubit, width, unitary, behind, 0)


def attempted_plan(
    ansatz: Ansatz, qubit: int | None, width: int, unitary: bool, behind: int, attempt: int
) -> Plan:
    """Make one of several plans: attempt 0 is that of ``make_plan``; others are less greedy."""
    n = ansatz.num_qubits
    width = min(width, n)
    gates = light_cone(ansatz, qubit)
    pairs = [ansatz.pairs[g] for g in gates]
    blocks = _fused(n, width, pairs, attempt)
    steps, order = _steps(n, [window for window, _ in blocks], behind)
    after = Transposition.between(order, tuple(range(n))) if qubit is None else None
    observed = None if qubit is None else order.index(qubit)
    flipped = [False] * len(gates)
    for window, content in blocks:
        for gate, position in content:
            flipped[gate] = window[position] != pairs[gate][0]
    layers = tuple(_layers(content) for _, content in blocks)
    return Plan(n, width, gates, tuple(flipped), layers, steps, after, observed, unitary=unitary)


def _fused(
    n: int, width: int, pairs: list[tuple[int, int]], attempt: int
) -> list[tuple[tuple[int, ...], list[Slot]]]:
    """Return the windows and what each holds, in order.

    Above 0, an attempt is less greedy, by pseudo-random numbers. An odd one begins at the end.
    """
    backwards, last = attempt % 2 == 1, len(pairs) - 1
    pairs = pairs[::-1] if backwards else pairs
    queues = [[k for k, pair in enumerate(pairs) if q in pair] for q in range(n)]
    heads = [0] * n
    windows = _windows(n, width, pairs)
    noise = random.Random(attempt)  # its sequence is the same on every machine
    blocks = []
    while any(head < len(queue) for head, queue in zip(heads, queues, strict=True)):
        candidates = [(_absorb(window, queues, heads), window) for window in windows]
        content, window = max(
            (c for c in candidates if c[0]),
            key=lambda c: len(c[0]) + (NOISE * noise.random() if attempt else 0),
        )
        for gate, _ in content:
            for q in pairs[gate]:
                heads[q] += 1
        blocks.append((window, content))
    if not backwards:
        return blocks
    return [(window, [(last - g, p) for g, p in content[::-1]]) for window, content in blocks[::-1]]


def _windows(n: int, width: int, pairs: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """List the windows that gates may be fused in, so that every pair stands together in one."""
    around = n > 2 and any(abs(a - b) == n - 1 for a, b in pairs)
    starts = range(n) if around else range(n - width + 1)
    windows = [tuple((s + k) % n for k in range(width)) for s in starts]
    for a, b in sorted({(min(pair), max(pair)) for pair in pairs}):
        if b - a != 1 and not (around and b - a == n - 1):
            windows.append((a, b, *[q for q in range(n) if q not in (a, b)][: width - 2]))
    return windows


def _absorb(window: tuple[int, ...], queues: list[list[int]], heads: list[int]) -> list[Slot]:
    """List the gates that are due, one after the other, inside the window.

    They make at most as many layers as the window has qubits: all blocks are multiplied together,
    so one with more layers would cost all of them.
    """
    heads = heads.copy()
    depths = [0] * len(window)
    content: list[Slot] = []
    progress = True
    while progress:
        progress = False
        for position, (a, b) in enumerate(itertools.pairwise(window)):
            while (
                heads[a] < len(queues[a])
                and heads[b] < len(queues[b])
                and queues[a][heads[a]] == queues[b][heads[b]]
                and (depth := max(depths[position : position + 2])) < max(2, len(window))
            ):
                content.append((queues[a][heads[a]], position))
                depths[position : position + 2] = depth + 1, depth + 1
                heads[a] += 1
                heads[b] += 1
                progress = True
    return content


def _layers(content: list[Slot]) -> tuple[tuple[Slot, ...], ...]:
    """Sort a block's gates into layers: each gate right after those that it depends on."""
    depths: dict[int, int] = {}
    layers: list[list[Slot]] = []
    for gate, position in content:
        depth = max(depths.get(position, 0), depths.get(position + 1, 0))
        depths[position] = depths[position + 1] = depth + 1
        layers += [[] for _ in range(depth + 1 - len(layers))]
        layers[depth].append((gate, position))
    return tuple(map(tuple, layers))


def _steps(
    n: int, windows: list[tuple[int, ...]], behind: int
) -> tuple[tuple[Step, ...], tuple[int, ...]]:
    """Lay the qubits so that each window is contiguous, and as rarely as possible anew.

    Returns:
        The steps, and the order of the qubits after the last.
    """
    order = natural = tuple(range(n))

    def place(order: tuple[int, ...], window: tuple[int, ...]) -> int | None:
        start = order.index(window[0])
        return start if order[start : start + len(window)] == window else None

    if all(place(natural, window) is not None for window in windows):
        behind = 0

    def fits(order: tuple[int, ...], window: tuple[int, ...]) -> bool:
        start = place(order, window)
        return start is not None and start <= max(0, n - len(window) - behind)

    def lasts(order: tuple[int, ...], first: int) -> int:
        count = 0
        while first + count < len(windows) and fits(order, windows[first + count]):
            count += 1
        return count

    rotations = [natural[k:] + natural[:k] for k in range(n)]
    steps = []
    for k, window in enumerate(windows):
        before = None
        if not fits(order, window):
            moved = window + tuple(q for q in natural if q not in window)
            # Of orders that last as long, the one with the window in front: its product is largest.
            new = max([*rotations, moved], key=lambda new: (lasts(new, k), -new.index(window[0])))
            before, order = Transposition.between(order, new), new
        start = place(order, window)
        assert start is not None
        steps.append(Step(before, 2**start, k))
    return tuple(steps), order


def reversed_plan(plan: Plan) -> Plan:
    """Return the plan of the transposed matrix: the blocks' transposes in the opposite order.

    Raises:
        ValueError: The plan is of an expectation value, which has no few rows.
    """
    if plan.observed is not None:
        raise ValueError("an expectation value depends on all rows: carry columns or states")
    if reversed_plan in plan.kept:
        result: Plan = plan.kept[reversed_plan]
        return result
    # Backwards, the inverse of what comes before a step comes after it: before the next one.
    moves = [*(step.before for step in plan.steps), plan.after]
    inverses = [move and move.inverse for move in moves]
    steps = tuple(
        Step(inverses[k + 1], plan.steps[k].left, plan.steps[k].block)
        for k in reversed(range(len(plan.steps)))
    )
    result = replace(plan, steps=steps, after=inverses[0], transposed=not plan.transposed)
    return plan.kept.setdefault(reversed_plan, result)  # another thread may have been faster


def pieces(plan: Plan, most_gates: int) -> tuple[Plan, ...]:
    """Cut a plan of states into plans of at most so many gates each, or of one block.

    The plan must not observe a qubit. One piece after the other does what the plan does.
    """
    if len(plan.gates) <= most_gates:
        return (plan,)
    key = pieces, most_gates
    if key not in plan.kept:
        starts, count = [0], 0
        for k, step in enumerate(plan.steps):
            size = sum(map(len, plan.blocks[step.block]))
            if count and count + size > most_gates:
                starts.append(k)
                count = 0
            count += size
        bounds = itertools.pairwise([*starts, len(plan.steps)])
        plan.kept[key] = tuple(_piece(plan, start, end) for start, end in bounds)
    result: tuple[Plan, ...] = plan.kept[key]
    return result


def _piece(plan: Plan, start: int, end: int) -> Plan:
    """Return the plan of the steps from ``start`` to before ``end``."""
    steps = plan.steps[start:end]
    blocks = [plan.blocks[step.block] for step in steps]
    gates = sorted(gate for block in blocks for layer in block for gate, _ in layer)
    number = {gate: k for k, gate in enumerate(gates)}
    return replace(
        plan,
        gates=tuple(plan.gates[gate] for gate in gates),
        flipped=tuple(plan.flipped[gate] for gate in gates),
        blocks=tuple(
            tuple(tuple((number[gate], place) for gate, place in layer) for layer in block)
            for block in blocks
        ),
        steps=tuple(replace(step, block=k) for k, step in enumerate(steps)),
        after=plan.after if end == len(plan.steps) else None,
    )
