"""Task streams: ``stream[i]`` is a pure function of the seed and i."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from plasticity.data import Images
from plasticity.seeding import generator_for


class Samples(Protocol):
    """Labelled samples that can be had a batch at a time."""

    def __len__(self) -> int:
        """Count the samples."""

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return inputs ``(batch, features)`` float32 and labels ``(batch,)`` int64."""


@dataclass(frozen=True)
class Task:
    """One task of a stream."""

    index: int
    train: Samples
    test: Samples


class TaskStream(Protocol):
    """A sequence of tasks."""

    def __len__(self) -> int:
        """Count the tasks."""

    def __getitem__(self, index: int) -> Task:
        """Return a task; the same index always gives the same task."""


@dataclass(frozen=True)
class _PermutedImages:
    """Images whose pixels are permuted when a batch is asked for, never all at once."""

    pixels: Tensor
    labels: Tensor
    permutation: Tensor
    scale: float
    unit_norm: bool

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        # Permuting rows copies whole runs of memory, permuting columns byte by byte: transpose
        # first. The result's columns are contiguous, which matrix products take as it is.
        x = self.pixels[index].T.contiguous().index_select(0, self.permutation).T * self.scale
        if self.unit_norm:
            x = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return x, self.labels[index]


class PermutedPixels(Sequence[Task]):
    """Show the same images in every task, their pixels in another order.

    Task 0 is permuted too. Source: protocol "Permuted MNIST"; Goodfellow et al. 2013.

    Args:
        images: The images.
        num_tasks: Number of tasks.
        seed: Decides the permutations.
        num_inputs: Inputs of the network, at least the number of pixels; images are padded with
            zeros and all positions are permuted.
        unit_norm: Scale each image to unit Euclidean norm; a blank one would give NaN (see
            ``Images.require_nonzero``).
        device: Where batches are made.

    Raises:
        ValueError: ``num_inputs`` is smaller than the images.
    """

    def __init__(
        self,
        images: Images,
        *,
        num_tasks: int,
        seed: int,
        num_inputs: int,
        unit_norm: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_inputs < images.num_pixels:
            raise ValueError(f"{images.num_pixels} pixels do not fit into {num_inputs} inputs")
        self.num_tasks = num_tasks
        self.seed = seed
        self.num_inputs = num_inputs
        self.scale = images.scale
        self.unit_norm = unit_norm
        self.device = torch.device(device)
        splits = ((images.x_train, images.y_train), (images.x_test, images.y_test))
        self._train, self._test = ((self._padded(x), self._tensor(y)) for x, y in splits)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _padded(self, x: np.ndarray) -> Tensor:
        # Raw values (a byte a pixel) are a quarter of the memory of floats.
        return torch.nn.functional.pad(self._tensor(x), (0, self.num_inputs - x.shape[1]))

    def __len__(self) -> int:
        return self.num_tasks

    def permutation(self, index: int) -> Tensor:
        """Return where each input of task ``index`` comes from, ``(num_inputs,)`` int64."""
        generator = generator_for(self.seed, "permutation", index)
        return torch.randperm(self.num_inputs, generator=generator)

    def __getitem__(self, index: int) -> Task:  # type: ignore[override]
        if not 0 <= index < self.num_tasks:
            raise IndexError(f"task {index} is not one of 0..{self.num_tasks - 1}")
        permutation = self.permutation(index).to(self.device)
        train, test = (
            _PermutedImages(pixels, labels, permutation, self.scale, self.unit_norm)
            for pixels, labels in (self._train, self._test)
        )
        return Task(index, train, test)
