"""What a command needs of an arm that is ready to train."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Row = dict[str, Any]


class Arm(abc.ABC):
    """An arm, ready to train.

    Attributes:
        remark: Printed before training.
    """

    remark: str = ""

    @property
    def about(self) -> dict[str, Any]:
        """Return what else there is to note of the arm and its data, as JSON."""
        return {}

    @abc.abstractmethod
    def rows(self, start: int, advance: Callable[[int], object]) -> Iterator[Row]:
        """Train from row ``start`` on and yield rows; ``advance`` moves the progress bar."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last row, as ``torch.load(weights_only=True)`` reads it."""

    @abc.abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state."""

    @abc.abstractmethod
    def network_state(self) -> dict[str, Any]:
        """Return the network's part of the state, for a snapshot."""

    def learner_state(self) -> dict[str, Any] | None:
        """Return the whole learner's state, to be intervened in later; None: it is not kept."""
        return None

    def files(self, row: Row) -> Mapping[str, bytes]:
        """Return files by name to put into the arm's folder, before ``row`` is recorded."""
        return {}

    def close(self) -> None:  # noqa: B027
        """Stop what runs beside this process; most arms have nothing there."""
