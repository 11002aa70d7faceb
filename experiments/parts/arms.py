"""Networks ready to train: what the command line needs of them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.learning.metric import Metric
from plasticity.tasks.streams import TaskStream

Row = dict[str, Any]


class Arm(abc.ABC):
    """One network of an experiment, ready to train.

    Attributes:
        remark: Printed before training.
    """

    remark: str = ""

    @abc.abstractmethod
    def rows(self, start: int, advance: Callable[[int], object]) -> Iterator[Row]:
        """Train from row ``start`` on and yield rows; ``advance`` moves the progress bar."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last row, as ``torch.load(weights_only=True)`` reads it."""

    @abc.abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state."""

    def files(self, row: Row) -> Mapping[str, bytes]:
        """Return files by name to put into the run folder, before ``row`` is recorded."""
        return {}

    def close(self) -> None:  # noqa: B027
        """Stop what runs beside this process; most arms have nothing there."""


@dataclass
class Supervised(Arm):
    """A learner of a stream of tasks, one row a task."""

    learner: Learner
    stream: TaskStream
    epochs: int
    batch_size: int
    seed: int
    metrics: Sequence[Metric]
    remark: str = ""

    def rows(self, start: int, advance: Callable[[int], object]) -> Iterator[Row]:  # noqa: D102
        for row in train_on_stream(
            self.learner, self.stream, epochs=self.epochs, batch_size=self.batch_size,
            seed=self.seed, metrics=self.metrics, start=start,
        ):  # fmt: skip
            advance(1)
            yield row

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return self.learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.learner.load_state_dict(state)
