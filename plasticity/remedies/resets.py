"""Remedies that let a learner forget."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from plasticity.learning.remedy import Learns, Remedy


@dataclass
class ResetOptimizer(Remedy):
    """Forget the optimizer's moments and step count when a task begins.

    Source: the released program resets Adam at every task in its quantum arm only; itself a known
    remedy for loss of plasticity (Asadi et al. 2023, "Resetting the optimizer in deep RL: an
    empirical study", who reset it whenever the target network follows). It is told where tasks
    begin.
    """

    every: int = 1
    """Tasks from one reset to the next."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every {self.every}: at least 1")

    def start(self, learner: Learns, seed: int) -> None:
        """Remember whose optimizer it is."""
        self._learner = learner

    def before_task(self, index: int) -> None:
        """Replace the optimizer by a new one."""
        if index % self.every == 0:
            self._learner.optimizer = self._learner.new_optimizer()


@dataclass
class StartAfresh(Remedy):
    """Begin every task with the untrained network and a new optimizer.

    The weights are those with which task 0 began, and what other remedies remember is as it was
    then. It is told where tasks begin. What such a learner loses from task to task, it does not
    lose by training: it is the yardstick of plasticity (Lyle et al. 2023), and the limit of every
    remedy that lets a network forget.
    """

    def start(self, learner: Learns, seed: int) -> None:
        """Keep the untrained network."""
        self._learner = learner
        self._untrained = copy.deepcopy(learner.network.state_dict())
        self._of_others: list[dict[str, Any]] = []

    def before_task(self, index: int) -> None:
        """Go back to it."""
        others = [remedy for remedy in self._learner.remedies if remedy is not self]
        if not self._of_others:  # the first task: all of them have started, and seen nothing
            self._of_others = copy.deepcopy([remedy.state_dict() for remedy in others])
        self._learner.network.load_state_dict(self._untrained)
        self._learner.optimizer = self._learner.new_optimizer()
        for remedy, state in zip(others, self._of_others, strict=True):
            remedy.load_state_dict(copy.deepcopy(state))

    def state_dict(self) -> dict[str, Any]:
        """Return what the other remedies remembered at first."""
        return {"others": self._of_others}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take that of a ``state_dict``."""
        self._of_others = state.get("others", [])  # which older checkpoints do not have
