"""What an intervention is: something that is done once to an aged learner, before a task."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from plasticity.learning.column import Column

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plasticity.learning.learner import Learner
    from plasticity.networks.layers import Layer
    from plasticity.tasks.streams import Task

LEAST_GROWTH = 1.5
"""Growth below which an intervention that undoes growth does not apply."""


@dataclass(frozen=True)
class Aged:
    """A learner that has learned tasks, and what is known of its past.

    Attributes:
        learner: Changed in place.
        task: The next one that it is to learn.
        seed: Of the run.
        untrained: The learner's state before the first task.
        young: Its state after the first task; None where that was not kept.
        growth: How much each layer has grown since the first task, by the layer's number (see
            ``growth_of``); None where the network after the first task was not kept.
    """

    learner: Learner
    task: Task
    seed: int
    untrained: Mapping[str, Any]
    young: Mapping[str, Any] | None
    growth: Mapping[int, float] | None

    def growth_of(self, number: int) -> float:
        """Return the growth c of a layer since the first task."""
        assert self.growth is not None  # diagnose asks for ``needs_growth`` first
        return self.growth[number]


class Intervention:
    """Something that is done once to an aged learner, before it learns its next task.

    An intervention is a frozen dataclass whose fields are its options, in the order in which they
    are named after colons: ``rate:first:2``. Its docstring's first line is its line in ``--help``.
    Options have no default in the class: ``INTERVENTIONS`` gives their values. It draws from
    ``generator_for(aged.seed, "word of its own", aged.task.index)`` only. It leaves frozen
    parameters as they are, and where it finds nothing to do, it changes nothing, bit for bit.

    Attributes:
        privileged: Whether it sees samples of the next task.
        replaces: Whether it takes another state for the learner's; then it is the first of a chain.
        declared: What its columns are called.
    """

    privileged: ClassVar[bool] = False
    replaces: ClassVar[bool] = False
    declared: ClassVar[tuple[Column, ...]] = ()

    @property
    def needs_growth(self) -> bool:
        """Whether it needs the network after the first task."""
        return False

    @property
    def needs_young(self) -> bool:
        """Whether it needs the whole learner after the first task."""
        return False

    def check(self, learner: Learner, x: Tensor) -> None:
        """Refuse an arm that it does not fit.

        Args:
            learner: Untrained; it is not changed.
            x: Training samples of the first task, ``(samples, features)``.

        Raises:
            DoesNotFit: One line says why.
        """

    def act(self, aged: Aged) -> dict[str, float]:
        """Change the learner in place and return what was done, by the name of its column."""
        raise NotImplementedError


@dataclass(frozen=True)
class Chain(Intervention):
    """Do one after another.

    Attributes:
        parts: In the order in which they act.
    """

    parts: tuple[Intervention, ...]

    @property
    def privileged(self) -> bool:  # type: ignore[override]
        """Whether one of them is."""
        return any(part.privileged for part in self.parts)

    @property
    def needs_growth(self) -> bool:
        """Whether one of them does."""
        return any(part.needs_growth for part in self.parts)

    @property
    def needs_young(self) -> bool:
        """Whether one of them does."""
        return any(part.needs_young for part in self.parts)

    def check(self, learner: Learner, x: Tensor) -> None:
        """Refuse an arm that one of them does not fit."""
        for part in self.parts:
            part.check(learner, x)

    def act(self, aged: Aged) -> dict[str, float]:
        """Do all; of columns with the same name, the last counts."""
        return {name: value for part in self.parts for name, value in part.act(aged).items()}


def growth_of(now: nn.Module, young: Mapping[str, Any]) -> dict[int, float]:
    """Return how much each layer has grown since the first task, by its number.

    c = the norm of a layer's matrices now over that after the first task. Of a circuit, whose gates
    stay unitary, it is the mean damping of the gates' derivatives after the first task over that
    now (see the metric ``circuit``): by as much the same step of its angles moves the gates less.

    Args:
        now: The network.
        young: Its ``state_dict`` after the first task.
    """
    from plasticity.networks.layers import layers_of

    then = copy.deepcopy(now)
    then.load_state_dict(young)
    pairs = zip(layers_of(now), layers_of(then), strict=True)
    return {layer.number: _size(layer) / _size(before) for layer, before in pairs}


def _size(layer: Layer) -> float:
    """Return the norm of a layer's matrices; of a circuit, one over its damping."""
    from plasticity.metrics.circuits import circuits, mean_damping
    from plasticity.networks.layers import norm_of

    for circuit in circuits(layer.module):
        if circuit is layer.module:
            return 1 / mean_damping(circuit)
    return norm_of([p for p in layer.parameters if p.dim() > 1])


def is_circuit(module: nn.Module) -> bool:
    """Tell whether a layer is a circuit with angles."""
    from plasticity.metrics.circuits import circuits

    return any(circuit is module for circuit in circuits(module))


def probe_of(task: Task, seed: int) -> Tensor:
    """Return the samples of a task on which interventions look at a network, the same at each call.

    At most 256 of its training samples.
    """
    from plasticity.metrics.probes import probe
    from plasticity.remedies.dead_units import PROBE

    return probe(task, seed, PROBE)[0]


def of_parts(intervention: Intervention) -> Sequence[Intervention]:
    """Return the parts of a chain, or the intervention itself as the only one."""
    return intervention.parts if isinstance(intervention, Chain) else (intervention,)
