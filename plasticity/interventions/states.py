"""Interventions that take another state, or forget: the references among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plasticity.interventions.intervention import Aged, Intervention
from plasticity.learning.column import Column

if TYPE_CHECKING:
    from torch import Tensor

    from plasticity.learning.learner import Learner


@dataclass(frozen=True)
class Nothing(Intervention):
    """Leave the aged learner as it is: what all others are compared with.

    What it learns is what the run itself learns if it is made longer, bit for bit.
    """

    def act(self, aged: Aged) -> dict[str, float]:
        """Do nothing."""
        return {}


@dataclass(frozen=True)
class Untrained(Intervention):
    """Take the learner as it began: what it learns marks the whole gap, 100 %.

    Initial weights, an optimizer that remembers nothing, remedies that have seen nothing. It learns
    the same tasks one after another, from the same batches.
    """

    replaces = True

    def act(self, aged: Aged) -> dict[str, float]:
        """Load the state before the first task."""
        aged.learner.load_state_dict(dict(aged.untrained))
        return {}


@dataclass(frozen=True)
class Young(Intervention):
    """Take the learner as it was after its first task.

    A control: what helps a young learner as much as an aged one is a better setting, and no cure.
    ``young+rate:first`` does to the young learner what ``rate:first`` does to the aged one, with
    the growth of the aged one.
    """

    replaces = True

    @property
    def needs_young(self) -> bool:
        """It does."""
        return True

    def act(self, aged: Aged) -> dict[str, float]:
        """Load the state after the first task."""
        assert aged.young is not None
        aged.learner.load_state_dict(dict(aged.young))
        return {}


@dataclass(frozen=True)
class Forget(Intervention):
    """Clear what the optimizer remembers.

    A new optimizer takes the place of the old one, with the same numbers: Adam's moments and its
    count of steps begin anew. Weights and function stay. Theory: Adam's memory of old tasks sizes
    its steps wrongly (Lyle et al. 2023; Dohare et al. 2023). The column ``forgotten`` is how many
    numbers it remembered.
    """

    declared = (Column("forgotten", "numbers forgotten"),)

    def act(self, aged: Aged) -> dict[str, float]:
        """Replace the optimizer."""
        memories = aged.learner.optimizer.state.values()
        sizes = (getattr(m, "numel", int)() for memory in memories for m in memory.values())
        forgotten = float(sum(sizes))
        aged.learner.optimizer = aged.learner.new_optimizer()
        return {"forgotten": forgotten}


@dataclass(frozen=True)
class Revive(Intervention):
    """Make new units of those that are dead.

    Dead is a unit that is 0 for 256 training samples of the next task; so this intervention is
    privileged. Its incoming weights are redrawn at the mean length of the layer's living units, its
    bias and its outgoing weights are 0, and what the optimizer remembers of them is cleared. So the
    outputs for these samples stay as they are. For ReLU units between linear layers; layers with
    frozen weights are left alone. Theory: units die (Sokar et al. 2023; Dohare et al. 2024). The
    column ``revived`` is the number of units.
    """

    privileged = True
    declared = (Column("revived", "revived units"),)

    def check(self, learner: Learner, x: Tensor) -> None:
        """Refuse a network without such units."""
        from plasticity.remedies.dead_units import layers_with_units

        layers_with_units(learner.network, "revive")

    def act(self, aged: Aged) -> dict[str, float]:
        """Revive the dead units."""
        from plasticity.interventions.intervention import probe_of
        from plasticity.remedies.dead_units import dead_units, layers_with_units, revive
        from plasticity.seeding import generator_for

        learner = aged.learner
        layers = layers_with_units(learner.network, "revive")
        dead = dead_units(learner.network, layers, probe_of(aged.task, aged.seed))
        count = sum(map(len, dead))
        if count:
            generator = generator_for(aged.seed, "intervention revive", aged.task.index)
            revive(layers, dead, generator, learner.optimizer)
            learner.retract()
        return {"revived": float(count)}
