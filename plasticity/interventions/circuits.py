"""Interventions in circuits: the same gates in other angles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plasticity.errors import DoesNotFit
from plasticity.interventions.intervention import Aged, Intervention
from plasticity.learning.column import Column
from plasticity.networks.trained import is_trained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plasticity.learning.learner import Learner

DAMPING = (
    Column("damping_before", "damping before"),
    Column("damping_after", "damping after"),
)


def trained_circuits(network: nn.Module, who: str) -> list[Any]:
    """Return the circuits of a network whose angles are trained and stay as they are put.

    Raises:
        DoesNotFit: There is none, or one takes whole turns off its angles by itself.
    """
    from plasticity.metrics.circuits import circuits

    found = [module for module in circuits(network) if is_trained(module.angles)]
    if not found:
        raise DoesNotFit(f"{who} needs a circuit with angles that are trained; there is none")
    for module in found:
        if callable(getattr(module, "after_update", None) or getattr(module, "before_task", None)):
            kind = type(module).__name__
            raise DoesNotFit(f"{who}: {kind} takes whole turns off its angles by itself")
    return found


def _replace(aged: Aged, who: str, change: Callable[..., Tensor]) -> dict[str, float]:
    """Replace the angles of all circuits, and return their mean damping before and after."""
    import torch

    from plasticity.metrics.circuits import mean_damping
    from plasticity.networks.modules.bricks import REAL_WORDS

    modules = trained_circuits(aged.learner.network, who)
    before = sum(map(mean_damping, modules)) / len(modules)
    for module in modules:
        is_real = module.angles.shape[1] == len(REAL_WORDS)
        with torch.no_grad():
            all_angles = getattr(module, "all_angles", module.angles)
            new = change(all_angles, is_real)
            module.angles.copy_(new[:, list(REAL_WORDS)] if is_real else new)
    after = sum(map(mean_damping, modules)) / len(modules)
    return {"damping_before": before, "damping_after": after}


@dataclass(frozen=True)
class Turns(Intervention):
    """Add whole turns to the angles of each gate: the same gates, longer angles.

    With the gate exp(-i H), whole turns are added to the eigenphases of H such that each is K turns
    farther from the one before, and the trace stays 0. Every gate stays what it was, up to a phase;
    outputs move by rounding only. But the derivative of the gate in its angles is damped. What the
    optimizer remembers stays. Theory: plasticity belongs to the set of unitaries, and then this has
    no effect (Chen and Zhang 2025); or to the angles, and then it does harm.
    """

    declared = DAMPING

    turns: int
    """Whole turns K."""

    def __post_init__(self) -> None:
        if self.turns < 0:
            raise ValueError(f"turns {self.turns}: at least 0")

    def check(self, learner: Learner, x: Tensor) -> None:
        """Refuse an arm without such a circuit."""
        trained_circuits(learner.network, "turns")

    def act(self, aged: Aged) -> dict[str, float]:
        """Add the turns."""
        from plasticity.quantum.angles import turned

        return _replace(aged, "turns", lambda angles, is_real: turned(angles, self.turns))


@dataclass(frozen=True)
class Unwind(Intervention):
    """Replace the angles of each gate by the shortest ones of the same gate.

    The eigenphases of a gate lie on a circle, which is cut where the angles become the shortest.
    Every gate stays what it was, up to a phase. Gates whose angles are the shortest already keep
    them, bit for bit. What the optimizer remembers stays, though it belongs to the old angles.
    """

    declared = DAMPING

    def check(self, learner: Learner, x: Tensor) -> None:
        """Refuse an arm without such a circuit."""
        trained_circuits(learner.network, "unwind")

    def act(self, aged: Aged) -> dict[str, float]:
        """Take the turns off."""
        from plasticity.quantum.angles import shortest

        return _replace(
            aged, "unwind", lambda angles, is_real: shortest(angles, of_real_gates=is_real)
        )
