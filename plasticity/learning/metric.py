"""What a metric is: something measured of a learner, and when it is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from plasticity.learning.column import Column, find_column

if TYPE_CHECKING:
    from torch import Tensor

    from plasticity.learning.learner import Learner
    from plasticity.tasks.streams import Task, TaskStream

Value = float | Mapping[str, float]


def is_log_spaced(index: int) -> bool:
    """Tell whether a number is one of 0, 1, 2, 4, 8, ..."""
    return index & (index - 1) == 0


class Watching(Protocol):
    """A measurement that goes on during a task."""

    def __call__(self, outputs: Tensor, labels: Tensor) -> None:
        """Look at a batch of the task's first epoch, right before its update."""

    def value(self) -> Value:
        """Return what came out."""


@dataclass(frozen=True)
class Course:
    """All that a learner is to learn, from its beginning to its end.

    Attributes:
        stream: The tasks.
        epochs: Passes over a task's training samples.
        batch_size: Samples an update.
        seed: That of the order of the samples.
    """

    stream: TaskStream
    epochs: int
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Metric:
    """A quantity and its schedule.

    A metric leaves the learner and all random states as it found them. Where it means nothing it
    returns NaN, and the record leaves its column out.

    Attributes:
        name: Its column in the rows.
        fn: From the learner and the task at hand to a number, or to several by name; those become
            columns ``<name>_<key>``, and one without a key the column ``<name>``. For
            ``when="during"``, to a ``Watching``. If it has a method ``along``, that is called with
            the ``Course`` when training begins, and what it returns is taken instead.
        when: Before the task's first update, during its first epoch, or after its last update.
        every: Due at tasks 0, every, 2 every, ...
        sparse: Due at tasks 1, 2, 4, 8, ... too: for what takes long, with a large ``every``.
        prepare: Makes ``fn`` from the untrained learner, the first task and the seed, for metrics
            that compare with the beginning; instead of ``fn``.
        declared: What its columns are called and how they are drawn; of others, the defaults hold.
        layers: Whether it has its columns of layers and gates, those that are declared ``by`` them.
    """

    name: str
    fn: Callable[[Learner, Task], Any] | None = None
    when: Literal["before", "during", "after"] = "after"
    every: int = 1
    sparse: bool = False
    prepare: Callable[[Learner, Task, int], Callable[[Learner, Task], Any]] | None = None
    declared: tuple[Column, ...] = ()
    layers: bool = True

    def __post_init__(self) -> None:
        if self.when not in ("before", "during", "after"):
            raise ValueError(f"metric {self.name}: when={self.when!r} is not before, during, after")
        if self.every < 1:
            raise ValueError(f"metric {self.name}: every={self.every} is not at least 1")
        if (self.fn is None) == (self.prepare is None):
            raise ValueError(f"metric {self.name}: give fn or prepare, and not both")
        for column in self.declared:
            if not self.owns(column.name):
                raise ValueError(
                    f"metric {self.name}: the column {column.name} is not one of its own"
                )

    def prepared(self, learner: Learner, first: Task, seed: int) -> Metric:
        """Return the metric ready to be taken: ``learner`` is untrained, ``first`` its task 0."""
        if self.prepare is None:
            return self
        return replace(self, fn=self.prepare(learner, first, seed), prepare=None)

    def along(self, course: Course) -> Metric:
        """Return the metric told of all that the learner is to learn, if it wants to know."""
        along = getattr(self.fn, "along", None)
        return self if along is None else replace(self, fn=along(course))

    def due(self, when: str, index: int) -> bool:
        """Tell whether the metric is to be taken at this point of task ``index``."""
        doubling = self.sparse and is_log_spaced(index)
        return when == self.when and (index % self.every == 0 or doubling)

    def owns(self, column: str) -> bool:
        """Tell whether a column of a row is this metric's (see ``columns``)."""
        return column == self.name or column.startswith(f"{self.name}_")

    def take(self, learner: Learner, task: Task) -> Any:
        """Call the metric's function."""
        if self.fn is None:
            raise ValueError(f"metric {self.name} has to be prepared first")
        return self.fn(learner, task)

    def columns(self, value: Value) -> dict[str, float]:
        """Return what was measured as columns of a row."""
        if not isinstance(value, Mapping):
            return {self.name: value}
        columns = {f"{self.name}_{k}" if k else self.name: number for k, number in value.items()}
        if self.layers:
            return columns
        return {name: number for name, number in columns.items() if not self._is_of_a_layer(name)}

    def _is_of_a_layer(self, name: str) -> bool:
        column = find_column(self.declared, name)
        return column is not None and bool(column.by)
