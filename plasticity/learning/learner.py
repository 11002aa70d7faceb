"""A learner is a network, an optimiser, a loss and interventions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Intervention = Callable[["Learner", int], None]
"""Called with the learner and the task's index before each task."""


class Learner:
    """Learn a stream of tasks.

    Args:
        network: From ``(batch, features)`` to ``(batch, outputs)``.
        make_optimizer: Builds the optimiser from the network's parameters.
        loss: From outputs and labels to a scalar in nats.
        interventions: What happens before each task, in order.
    """

    def __init__(
        self,
        network: nn.Module,
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        loss: Callable[[Tensor, Tensor], Tensor],
        interventions: Sequence[Intervention] = (),
    ) -> None:
        self.network = network
        self.make_optimizer = make_optimizer
        self.loss = loss
        self.interventions = tuple(interventions)
        self.optimizer = self.new_optimizer()

    def new_optimizer(self) -> torch.optim.Optimizer:
        """Build an optimiser that remembers nothing."""
        return self.make_optimizer(list(self.network.parameters()))

    @property
    def device(self) -> torch.device:
        """Return where the network lives."""
        return next(self.network.parameters()).device

    def start_task(self, index: int) -> None:
        """Let the interventions act before task ``index``."""
        for intervention in self.interventions:
            intervention(self, index)

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        """Take one step of the optimiser and return the batch's loss before it, detached."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.network(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return all that decides how learning goes on."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))


def reset_optimizer(learner: Learner, index: int) -> None:
    """Forget the optimiser's moments and step count before each task.

    Source: the released program resets Adam at every task in its quantum arm only; itself a known
    remedy for loss of plasticity (Asadi et al. 2023, "Resetting the optimizer in deep RL").
    """
    learner.optimizer = learner.new_optimizer()
