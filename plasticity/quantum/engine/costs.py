"""What is cheapest to carry through the gates, and by which plan: a model of time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from plasticity.quantum.circuits import Ansatz
from plasticity.quantum.engine.planning import (
    Plan,
    attempted_plan,
    make_plan,
    reversed_plan,
)
from plasticity.quantum.engine.products import products

Carry = Literal["rows", "columns", "states"]

ATTEMPTED_GATES = 1000
"""How many gates are put into plans, all together, in search of the cheapest: milliseconds."""

WIDTHS = (3, 4, 5)
"""Qubits of a block that ``cheapest`` chooses from.

Of more, making the blocks takes too long; narrow batches of 4x4 matrices torch multiplies at a
tenth of the speed.
"""

REUSE = 10
"""How many batches one contracted matrix is expected to serve while no gradient is asked for."""

PIECE = 8_000
"""What each of a batch of small products costs before it computes anything."""

CALL = 250_000
"""What a call of torch costs before it computes anything, in floating point operations.

Like ``TRAFFIC`` it is measured, once, on one processor (2.3 microseconds at 110 GFLOP/s in single
precision), and then a constant: what is chosen, and with it the last bits of results, must be the
same on every machine.
"""
MOST_CHOICES = 4096
"""For how many sizes of batches a circuit remembers what was chosen: some words of memory each."""

MOST_WAYS = 32
"""How many plans, with what is made of them, a circuit keeps."""

MOST_SEARCHED = 16
"""How many of the plans that were searched last are kept for circuits that have not asked yet.

A circuit keeps its own (``Ways``). So nothing stays of a circuit that is there no more.
"""

TRAFFIC = 21
"""What it costs to read a complex amplitude and to write one, in floating point operations."""


@dataclass(frozen=True)
class Way:
    """How a batch is evaluated: what is carried through which blocks."""

    carry: Carry
    plan: Plan


class Size(NamedTuple):
    """How much is evaluated.

    Attributes:
        batch: Samples.
        features: Leading basis states that the inputs touch.
        outcomes: Leading basis states that are read, or None for an expectation value.
        grad: Whether a backward pass follows.
    """

    batch: int
    features: int
    outcomes: int | None
    grad: bool


def cost(way: Way, size: Size) -> float:
    """Estimate the time of one evaluation, with its backward pass if there is one.

    A sweep multiplies a 2**width square matrix onto every window: 8 real operations for each of
    2**width x 2**n x vectors complex products a block (fewer at both ends: ``products``), where the
    vectors are the outcomes (rows), the features (columns) or the batch (states). Each product is a
    call, too, and reads and writes the states. Backward does it twice more. The blocks themselves
    are products of their layers: one for each layer after the first, and twice more backward.

    Rows and columns are then multiplied with the batch of real inputs: 4 operations for each of
    batch x features x (outcomes or amplitudes), and once more backward. Where weights stand still,
    a matrix serves ``REUSE`` batches.

    Args:
        way: What is carried through the gates, and the plan, in the order of the gates.
        size: Of what is evaluated.

    Returns:
        Floating point operations that take as long.
    """
    batch, features, outcomes, grad = size
    carry, plan = way.carry, way.plan
    if carry == "rows":
        if outcomes is None:
            return float("inf")  # an expectation value has no few rows
        plan, vectors, width = reversed_plan(plan), outcomes, outcomes
    elif carry == "columns":
        amplitudes = 2**plan.num_qubits // (1 if plan.observed is None else 2)
        vectors, width = features, outcomes or amplitudes
    else:
        vectors, width = batch, 0
    parts = products(plan, None if carry == "states" else vectors)
    work = sum(
        part.left * part.right * vectors * (8 * part.rows * part.columns + TRAFFIC * part.columns)
        + PIECE * part.left
        for part in parts
    )
    moves = sum(step.before is not None for step in plan.steps) + (plan.after is not None)
    work += moves * 2 * TRAFFIC * 2**plan.num_qubits * vectors  # across memory: twice as slow
    layers = max((len(block) for block in plan.blocks), default=1)
    work += 8 * len(plan.blocks) * (layers - 1) * 2 ** (3 * plan.width)
    work += CALL * (len(parts) + moves + layers - 1)
    work *= 3 if grad else 1
    if carry == "states":
        return float(work)
    return work / (1 if grad else REUSE) + 4 * batch * features * width * (2 if grad else 1)


@lru_cache(maxsize=MOST_SEARCHED)
def searched_plan(
    ansatz: Ansatz,
    qubit: int | None,
    carry: Carry,
    vectors: int,
    width: int,
    unitary: bool = True,
    behind: int = 0,
) -> Plan:
    """Return the cheapest of several plans that differ in the order in which windows are taken.

    The arguments are those of ``make_plan``, with as many vectors as are carried.
    """
    size = Size(vectors, vectors, vectors if qubit is None else None, grad=True)
    attempts = min(32, max(8, ATTEMPTED_GATES // ansatz.num_gates))
    plans = (
        attempted_plan(ansatz, qubit, width, unitary, behind, attempt)
        for attempt in range(attempts)
    )
    return min(plans, key=lambda plan: cost(Way(carry, plan), size))


class _Choice(NamedTuple):
    """What is carried, of how many vectors, and which kinds of plans are searched."""

    carry: Carry
    vectors: int
    width: int
    behind: int


class Ways:
    """The cheapest ways of one circuit, which live as long as it does.

    To compare plans takes a while, so what was chosen for a size of batch is remembered.

    Args:
        ansatz: The gates.
        qubit: Where an expectation value is read, or None.
        unitary: Whether the gates are known to be unitary.
    """

    def __init__(self, ansatz: Ansatz, qubit: int | None, unitary: bool = True) -> None:
        self.ansatz, self.qubit, self.unitary = ansatz, qubit, unitary
        self._choices: dict[tuple[Any, ...], _Choice] = {}
        self._ways: dict[_Choice, Way] = {}

    def __reduce__(self) -> tuple[Any, ...]:  # copies and pickles choose anew
        return Ways, (self.ansatz, self.qubit, self.unitary)

    def cheapest(self, size: Size, carry: Carry | None = None) -> Way:
        """Choose what to carry through the gates, and a plan.

        Args:
            size: Of what is evaluated.
            carry: Choose the plan only.
        """
        key = int(size.batch), int(size.features), size.outcomes, size.grad, carry
        choice = self._choices.get(key)
        if choice is None:
            choice = self._chosen(Size(*key[:-1]), carry)
            _remember(self._choices, key, choice, MOST_CHOICES)
        way = self._ways.get(choice)
        if way is None:
            way = self._way(choice)
            _remember(self._ways, choice, way, MOST_WAYS)
        return way

    def _chosen(self, size: Size, carry: Carry | None) -> _Choice:
        """Choose what to carry through the gates, and the kind of the plan."""
        ansatz, qubit, unitary = self.ansatz, self.qubit, self.unitary
        carries: tuple[Carry, ...] = (carry,) if carry else ("rows", "columns", "states")
        kinds = [
            (carry, width, behind)
            for carry in carries
            for width in sorted({min(width, ansatz.num_qubits) for width in WIDTHS})
            for behind in (0, 2)
        ]
        plans = [make_plan(ansatz, qubit, width, unitary, behind) for _, width, behind in kinds]
        ways = [Way(carry, plan) for (carry, *_), plan in zip(kinds, plans, strict=True)]
        best = min(range(len(ways)), key=lambda k: cost(ways[k], size))
        carry, width, behind = kinds[best]
        # Of states any number, so that batches of all sizes have the same plan.
        vectors = {"rows": size.outcomes or 0, "columns": size.features, "states": 128}[carry]
        return _Choice(carry, vectors, width, behind)

    def _way(self, choice: _Choice) -> Way:
        """Return the cheapest way of a kind."""
        carry, vectors, width, behind = choice
        circuit = self.ansatz, self.qubit
        if not vectors:
            return Way(carry, make_plan(*circuit, width, self.unitary, behind))
        return Way(carry, searched_plan(*circuit, carry, vectors, width, self.unitary, behind))


def _remember(known: dict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Add to a dictionary, and drop the oldest beyond so many."""
    known[key] = value
    if len(known) > most:
        for old in list(known)[:-most]:
            known.pop(old, None)  # another thread may have been faster
