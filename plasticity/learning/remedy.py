"""What a remedy is: hooks around a learner's updates, all of which may be left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from plasticity.learning.column import Column

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from plasticity.tasks.samples import Samples


class Learns(Protocol):
    """What a remedy may rely on in a learner.

    Attributes:
        network: As the remedies have made it.
        optimizer: The optimizer at present; a remedy may replace it, or change its state.
        steps: Updates so far, over all tasks.
        remedies: All that it has, in order.
        samples: Training samples of a task while it begins (``before_task``), if they are known.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    remedies: tuple[Remedy, ...]
    samples: Samples | None

    def new_optimizer(self) -> torch.optim.Optimizer:
        """Build an optimizer that remembers nothing."""

    def retract(self) -> None:
        """Put parameters that must stay on a manifold back onto it."""


class Remedy:
    """Something done to a learner against the loss of plasticity.

    A remedy is a dataclass whose fields are its options, and whose methods are those of the hooks
    below that it needs. Its docstring's first line is its line in ``--help``. Options have no
    default in the class: ``REMEDIES`` gives their numbers. A field that is added later has a
    default, with which it changes nothing: then no name of a run folder changes.

    What it remembers beside its options it makes in ``start``. A learner has an instance of its
    own. Draws come from ``generator_for``, so that they are the same after a resume. Import torch
    where it is needed, not at the top of the module, and ``--help`` answers at once.

    Attributes:
        tuned: The option that ``study --tune`` varies; none: the learning rate of the arm's
            optimizer.
        tries: Its values that are tried where a study names none.
        declared: What its ``columns`` are called and how they are drawn; of others, the defaults of
            ``Column`` hold.
    """

    tuned: ClassVar[str] = ""
    tries: ClassVar[tuple[float, ...]] = ()
    declared: ClassVar[tuple[Column, ...]] = ()

    @property
    def sees_tasks(self) -> bool:
        """Whether it is told where a task begins, which a learner need not know."""
        return type(self).before_task is not Remedy.before_task

    def on_build(self, network: nn.Module) -> nn.Module:
        """Return the network to train instead of this one, before there is an optimizer."""
        return network

    def on_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Return the optimizer to train with instead of this one, which remembers nothing.

        Called for each new optimizer: for the first one before ``start``, and for each one with
        which a remedy replaces it later.
        """
        return optimizer

    def start(self, learner: Learns, seed: int) -> None:
        """Begin with an untrained learner; a resume calls this too, and then loads the state."""

    def before_task(self, index: int) -> None:
        """Act before the first update of task ``index``."""

    def penalty(self) -> Tensor | None:
        """Return what is added to the loss of each update, in nats, or None."""
        return None

    def after_update(self, step: int) -> None:
        """Act after update ``step``, counted from 1 over all tasks."""

    def columns(self) -> dict[str, float]:
        """Return what was done since the last row, by the name of its column."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what decides how it goes on, as ``torch.load(weights_only=True)`` reads it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``."""
