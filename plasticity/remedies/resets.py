"""Remedies that let a learner forget."""

from __future__ import annotations

from dataclasses import dataclass

from plasticity.learning.remedy import Learns, Remedy


@dataclass
class ResetOptimizer(Remedy):
    """Forget the optimiser's moments and step count when a task begins.

    Source: the released program resets Adam at every task in its quantum arm only; itself a known
    remedy for loss of plasticity (Asadi et al. 2023, "Resetting the optimizer in deep RL").
    """

    every: int = 1
    """Tasks from one reset to the next."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every {self.every}: at least 1")

    def start(self, learner: Learns, seed: int) -> None:
        """Remember whose optimiser it is."""
        self._learner = learner

    def before_task(self, index: int) -> None:
        """Replace the optimiser by a new one."""
        if index % self.every == 0:
            self._learner.optimizer = self._learner.new_optimizer()
