"""Samples of a task: what gives inputs and labels a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Samples(Protocol):
    """Labeled samples that can be had a batch at a time."""

    def __len__(self) -> int:
        """Count the samples."""

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return inputs ``(batch, features)`` float32 and labels ``(batch,)`` int64."""


def _rows(pixels: Tensor, index: Tensor | slice) -> Tensor:
    """Return ``pixels[index]``, where the index is a list of numbers in a sixth of the time."""
    if isinstance(index, Tensor) and pixels.device.type == "cpu":
        try:
            return pixels.index_select(0, index)
        except (IndexError, RuntimeError):  # of masks and of negative numbers, or it is no index
            pass
    return pixels[index]


@dataclass(frozen=True)
class PermutedImages:
    """Images whose pixels are permuted when a batch is asked for, never all at once."""

    pixels: Tensor
    labels: Tensor
    permutation: Tensor
    scale: float
    unit_norm: bool

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return images, their pixels permuted, and labels."""
        # Bytes are permuted one by one, numbers several at a time: so the images are scaled first.
        x = (_rows(self.pixels, index) * self.scale).index_select(1, self.permutation)
        if self.unit_norm:
            x = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return x, self.labels[index]


@dataclass(frozen=True)
class Subset:
    """Some of the samples."""

    samples: PermutedImages
    chosen: Tensor

    def __len__(self) -> int:
        return len(self.chosen)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return inputs and labels."""
        return self.samples.batch(self.chosen[index])


@dataclass(frozen=True)
class Changing:
    """Samples of which more and more are the new ones instead of the old ones.

    Attributes:
        old: Of the task before.
        new: The same images as the task at hand shows them.
        turn: ``(samples,)``: each image is the new one from this part of the task on.
    """

    old: Samples
    new: Samples
    turn: Tensor

    def __len__(self) -> int:
        return len(self.new)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of the new samples."""
        return self.new.batch(index)

    def at(self, progress: float) -> Samples:
        """Return the samples as they are when this part of the task's updates is done."""
        return self.new if progress >= float(self.turn.max()) else _Mixed(self, progress)


@dataclass(frozen=True)
class _Mixed:
    changing: Changing
    progress: float

    def __len__(self) -> int:
        return len(self.changing)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        old, old_labels = self.changing.old.batch(index)
        new, new_labels = self.changing.new.batch(index)
        is_new = self.changing.turn[index] <= self.progress
        x = torch.where(is_new.unsqueeze(1), new, old)
        return x, torch.where(is_new, new_labels, old_labels)


@dataclass(frozen=True)
class ArraySamples:
    """Samples that are held as they are."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.y)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return inputs and labels."""
        return self.x[index], self.y[index]
