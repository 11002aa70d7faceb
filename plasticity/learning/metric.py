"""What is measured: a metric is a function of learner and task, and when it is due.

A metric leaves the learner and all random states as it found them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from plasticity.learning.learner import Learner
from plasticity.tasks.streams import Task


@dataclass(frozen=True)
class Metric:
    """A quantity and its schedule.

    Attributes:
        name: Its column in the rows.
        fn: From the learner and the task at hand to a number, or to several by name; those become
            columns ``<name>_<key>``.
        when: Before the task's first update or after its last.
        every: Due at tasks 0, every, 2 every, ...
    """

    name: str
    fn: Callable[[Learner, Task], float | Mapping[str, float]]
    when: Literal["before", "after"] = "after"
    every: int = 1

    def __post_init__(self) -> None:
        if self.when not in ("before", "after") or self.every < 1:
            raise ValueError(f"metric {self.name}: when={self.when!r}, every={self.every}")

    def due(self, when: str, index: int) -> bool:
        """Tell whether the metric is to be taken at this point of task ``index``."""
        return when == self.when and index % self.every == 0

    def columns(self, learner: Learner, task: Task) -> dict[str, float]:
        """Take the metric and return its columns of the row."""
        value = self.fn(learner, task)
        if isinstance(value, Mapping):
            return {f"{self.name}_{key}": number for key, number in value.items()}
        return {self.name: value}
