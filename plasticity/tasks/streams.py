"""Task streams: ``stream[i]`` is a pure function of the seed and i.

Longer than 400 lines: the three streams, which share their checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from plasticity.errors import DataError
from plasticity.seeding import generator_for
from plasticity.tasks.images import Images
from plasticity.tasks.levels import SpinLevels
from plasticity.tasks.samples import ArraySamples, Changing, PermutedImages, Samples, Subset


@dataclass(frozen=True)
class Task:
    """One task of a stream.

    Training samples that change while they are learned have a method ``at(progress)``: it returns
    the samples as they are when that part of the task's updates, 0 to 1, is done.
    """

    index: int
    train: Samples
    test: Samples


class TaskStream(Protocol):
    """A sequence of tasks."""

    def __len__(self) -> int:
        """Count the tasks."""

    def __getitem__(self, index: int) -> Task:
        """Return a task; the same index always gives the same task."""


def _check_stream(num_tasks: int, seed: int) -> None:
    """Refuse what is no number of tasks, or no seed.

    Raises:
        TypeError, ValueError: Names it.
    """
    for name, value in (("num_tasks", num_tasks), ("seed", seed)):
        if not isinstance(value, int | np.integer):
            raise TypeError(f"{name} {value!r}: must be an integer")
        if value < 0:
            raise ValueError(f"{name} {value}: must not be negative")


def _check_images(images: Images, stream: str) -> None:
    """Refuse what are no images, or images and labels that do not belong together.

    Raises:
        TypeError, ValueError: Names the array and what is wrong with it.
    """
    if not isinstance(images, Images):
        raise TypeError(f"{stream} shows Images, say of load_images, not {type(images).__name__}")
    width = None
    for split in ("train", "test"):
        x, y = (getattr(images, f"{letter}_{split}") for letter in "xy")
        for name, array, dtypes, shape in (
            (f"x_{split}", x, ("uint8", "float32"), "(images, pixels)"),
            (f"y_{split}", y, ("int64",), "(images,)"),
        ):
            if not isinstance(array, np.ndarray):
                raise TypeError(f"{name} must be a NumPy array, not {type(array).__name__}")
            if array.dtype.name not in dtypes:
                raise TypeError(f"{name} has dtype {array.dtype}: must be {' or '.join(dtypes)}")
            if array.ndim != (2 if array is x else 1) or not array.size:
                raise ValueError(f"{name} has shape {array.shape}: must be {shape}, and not empty")
        if len(x) != len(y):
            raise ValueError(f"{len(x)} images in x_{split}, {len(y)} labels in y_{split}")
        if width not in (None, x.shape[1]):
            raise ValueError(f"{width} pixels an image in x_train, {x.shape[1]} in x_test")
        width = x.shape[1]


def _task_number(index: int, num_tasks: int) -> int:
    """Return the place of a task in its stream.

    Raises:
        TypeError: It is no integer; say, a slice.
        IndexError: There is no such task.
    """
    if not isinstance(index, int | np.integer):
        raise TypeError(f"task {index!r}: must be an integer, 0 to {num_tasks - 1}")
    if not 0 <= index < num_tasks:
        raise IndexError(f"task {index} is not one of 0..{num_tasks - 1}")
    return int(index)


def _with_norms(x: np.ndarray) -> np.ndarray:
    """Return images whose norms float32 can hold, in directions that are those of ``x``.

    Squares of pixels beyond about 1e19 overflow, those below 1e-19 lose digits or vanish. Where any
    image comes near, every image is multiplied by the power of two that brings its largest value
    to 1/2..1. That is exact, so images that did not need it have the same unit vector, bit for bit.

    Args:
        x: ``(images, pixels)``; bytes, and floats that need nothing, are returned as they are.
    """
    if x.dtype.kind != "f" or not x.size:
        return x
    largest = np.maximum(x.max(axis=1), -x.min(axis=1))
    # Up to 2**20 squares within 2**-100..2**100 sum up to what float32 holds with all its digits.
    if largest.min() > 2.0**-50 and largest.max() < 2.0**50:
        return x
    result: np.ndarray = np.ldexp(x, -np.frexp(largest)[1][:, None])
    return result


class PermutedPixels(Sequence[Task]):
    """Show the same images in every task, their pixels in another order, or their labels.

    Task 0 is permuted too. Source: protocol "Permuted MNIST"; Goodfellow et al. 2013. What changes
    from task to task can be chosen:

    * ``moved``: the part of the inputs whose order changes. With less than 1, the order of task 0
      is that of all tasks, but for a set of inputs, drawn once, which each later task permutes
      among themselves. With 0, all tasks have the order of task 0.
    * ``relabel``: each task has its own permutation of the classes: images of class c have the
      label that stands at place c of ``labels(index)``. Source: Lyle et al. 2023, "Understanding
      plasticity in neural networks"; Lee et al. 2023, "PLASTIC", tell the plasticity for inputs
      from that for labels.
    * ``recurring``: there are so many permutations, of pixels and labels, which come back in turn:
      task i has those of task i modulo that number. With 1 it is one task again and again.

    Which training images a task has, with ``num_train``, is drawn anew in each task all the same.

    With ``gradual`` above 0 a task does not begin at once: each image is shown in the old task's
    permutation until its turn comes, at a moment drawn uniformly from the first ``gradual`` of the
    task's updates. Source: how abruptly tasks change matters (arXiv:2602.09234); the mixture is
    ours. Test images are in the new permutation.

    Args:
        images: The images.
        num_tasks: Number of tasks.
        seed: Decides the permutations.
        num_inputs: Inputs of the network, at least the number of pixels; images are padded with
            zeros and all positions are permuted.
        unit_norm: Scale each image to unit Euclidean norm; a blank one would give NaN (see
            ``Images.require_nonzero``).
        num_train: Training images of a task, drawn anew for each; None: all there are.
        gradual: Part of a task's updates, 0 to 1, within which the images turn.
        moved: Part of the inputs whose order changes from task to task, 0 to 1.
        relabel: Permute the labels, too.
        recurring: Permutations that come back in turn; None: each task has its own.
        device: Where batches are made.

    Raises:
        ValueError: ``num_inputs`` is smaller than the images, or there are fewer training images
            than ``num_train``, or ``gradual`` or ``moved`` is not between 0 and 1, or ``recurring``
            is less than 1.
    """

    def __init__(
        self,
        images: Images,
        *,
        num_tasks: int,
        seed: int,
        num_inputs: int,
        unit_norm: bool = False,
        num_train: int | None = None,
        gradual: float = 0.0,
        moved: float = 1.0,
        relabel: bool = False,
        recurring: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_images(images, "PermutedPixels")
        _check_stream(num_tasks, seed)
        if num_inputs < images.num_pixels:
            raise ValueError(f"{images.num_pixels} pixels do not fit into {num_inputs} inputs")
        if num_train is not None and not 1 <= num_train <= len(images.y_train):
            raise ValueError(
                f"{num_train} training images a task: there are 1 to {len(images.y_train)}"
            )
        if not 0 <= gradual <= 1:
            raise ValueError(f"gradual {gradual}: a part of a task, 0 to 1")
        if not 0 <= moved <= 1:
            raise ValueError(f"moved {moved}: a part of the inputs, 0 to 1")
        if recurring is not None and recurring < 1:
            raise ValueError(f"recurring {recurring}: at least 1")
        self.moved = moved
        self.relabel = relabel
        self.recurring = recurring
        self.num_classes = images.num_classes
        self.num_train = num_train
        self.gradual = gradual
        self.num_tasks = num_tasks
        self.seed = seed
        self.num_inputs = num_inputs
        self.scale = images.scale
        self.unit_norm = unit_norm
        self.device = torch.device(device)
        splits = ((images.x_train, images.y_train), (images.x_test, images.y_test))
        self._train, self._test = (
            (self._padded(_with_norms(x) if unit_norm else x), self._tensor(y)) for x, y in splits
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _padded(self, x: np.ndarray) -> Tensor:
        # Raw values (a byte a pixel) are a quarter of the memory of floats.
        return torch.nn.functional.pad(self._tensor(x), (0, self.num_inputs - x.shape[1]))

    def __len__(self) -> int:
        return self.num_tasks

    def permutation(self, index: int) -> Tensor:
        """Return where each input of task ``index`` comes from, ``(num_inputs,)`` int64."""
        index = self._kind(index)
        if self.moved == 1:
            generator = generator_for(self.seed, "permutation", index)
            return torch.randperm(self.num_inputs, generator=generator)
        first = torch.randperm(
            self.num_inputs, generator=generator_for(self.seed, "permutation", 0)
        )
        if index > 0 and len(moving := self.moving()):
            generator = generator_for(self.seed, "moved", index)
            first[moving] = first[moving[torch.randperm(len(moving), generator=generator)]]
        return first

    def moving(self) -> Tensor:
        """Return the inputs whose order changes from task to task, in no order, int64."""
        order = torch.randperm(self.num_inputs, generator=generator_for(self.seed, "moving"))
        return order[: round(self.moved * self.num_inputs)]

    def labels(self, index: int) -> Tensor:
        """Return the label of each class in task ``index``, ``(num_classes,)`` int64."""
        if not self.relabel:
            return torch.arange(self.num_classes)
        generator = generator_for(self.seed, "labels", self._kind(index))
        return torch.randperm(self.num_classes, generator=generator)

    def _kind(self, index: int) -> int:
        """Return the first task that has the permutations of this one."""
        return index if self.recurring is None else index % self.recurring

    def __getitem__(self, index: int) -> Task:  # type: ignore[override]
        index = _task_number(index, self.num_tasks)
        train: Samples = self._chosen(self._permuted(self._train, index), index)
        if self.gradual and index:
            before = self._chosen(self._permuted(self._train, index - 1), index)
            turn = torch.rand(len(train), generator=generator_for(self.seed, "gradual", index))
            train = Changing(before, train, (self.gradual * turn).to(self.device))
        return Task(index, train, self._permuted(self._test, index))

    def _permuted(self, split: tuple[Tensor, Tensor], index: int) -> PermutedImages:
        permutation = self.permutation(index).to(self.device)
        pixels, labels = split
        if self.relabel:
            labels = self.labels(index).to(self.device)[labels]
        return PermutedImages(pixels, labels, permutation, self.scale, self.unit_norm)

    def _chosen(self, samples: PermutedImages, index: int) -> Samples:
        if self.num_train is None:
            return samples
        generator = generator_for(self.seed, "training images", index)
        chosen = torch.randperm(len(samples), generator=generator)[: self.num_train]
        return Subset(samples, chosen.to(self.device))


def _random_pair(count: int, seed: int, index: int) -> tuple[int, int]:
    """Draw an ordered pair of distinct numbers below ``count`` for task ``index``."""
    generator = generator_for(seed, "pair", index)
    first, second = torch.randperm(count, generator=generator)[:2].tolist()
    return first, second


class ClassPairs(Sequence[Task]):
    """Tell two classes apart, another random ordered pair of distinct ones in every task.

    Images are scaled to unit norm. A task is made when it is asked for: thousands at once would
    not fit into memory. Source: protocol "Split CIFAR-100".

    Args:
        images: The images; the pair's first class gets label 0, its second label 1.
        num_tasks: Number of tasks.
        seed: Decides the pairs.
        device: Where batches are made.

    Raises:
        DataError: There are fewer than two classes, or a class has fewer than ``MIN_TRAIN``
            training images or no test image.
    """

    MIN_TRAIN = 32

    def __init__(
        self,
        images: Images,
        *,
        num_tasks: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_images(images, "ClassPairs")
        _check_stream(num_tasks, seed)
        if images.num_classes < 2:
            raise DataError(f"{images.name}: a pair needs two classes, there is one")
        for split, y, least in (
            ("training", images.y_train, self.MIN_TRAIN),
            ("test", images.y_test, 1),
        ):
            counts = np.bincount(y, minlength=images.num_classes)
            if counts.min() < least:
                raise DataError(
                    f"{images.name}: class {counts.argmin()} has {counts.min()} {split} images, "
                    f"at least {least} are needed"
                )
        self.images = images
        self._pixels = [_with_norms(x) for x in (images.x_train, images.x_test)]
        self.num_tasks = num_tasks
        self.seed = seed
        self.device = torch.device(device)
        self._where = [
            [np.flatnonzero(y == c) for c in range(images.num_classes)]
            for y in (images.y_train, images.y_test)
        ]

    def __len__(self) -> int:
        return self.num_tasks

    def pair(self, index: int) -> tuple[int, int]:
        """Return the classes of task ``index``: label 0's, label 1's."""
        return _random_pair(self.images.num_classes, self.seed, index)

    def __getitem__(self, index: int) -> Task:  # type: ignore[override]
        index = _task_number(index, self.num_tasks)
        pair = self.pair(index)
        train, test = (
            self._samples(x, [where[c] for c in pair])
            for x, where in zip(self._pixels, self._where, strict=True)
        )
        return Task(index, train, test)

    def _samples(self, x: np.ndarray, where: list[np.ndarray]) -> ArraySamples:
        pixels = torch.from_numpy(x[np.concatenate(where)]).to(self.device) * self.images.scale
        labels = torch.arange(2).repeat_interleave(torch.tensor([len(w) for w in where]))
        norm = torch.linalg.vector_norm(pixels, dim=1, keepdim=True)
        return ArraySamples(pixels / norm, labels.to(self.device))


class SpinChainLevels(Sequence[Task]):
    """Tell two levels of a spin chain apart by their eigenstates at all anisotropies.

    Another random ordered pair of distinct levels in every task; the pair's first level gets label
    0, its second label 1. Which samples are held out, a fifth, is the same in all tasks. Source:
    protocol "XXZ eigenstates".

    Args:
        levels: The eigenstates, real.
        num_tasks: Number of tasks.
        seed: Decides the pairs and what is held out.
        imaginary: Append the imaginary parts, all zero, as the released program's MLP gets them.
        fix_sign: Make each state's largest amplitude positive: an eigenstate's sign is arbitrary.
        device: Where batches are made.

    Raises:
        DataError: There is only one level.
    """

    TRAIN = 0.8

    def __init__(
        self,
        levels: SpinLevels,
        *,
        num_tasks: int,
        seed: int,
        imaginary: bool = False,
        fix_sign: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if not hasattr(levels, "num_levels"):
            kind = type(levels).__name__
            raise TypeError(f"SpinChainLevels shows SpinLevels, say of load_levels, not {kind}")
        _check_stream(num_tasks, seed)
        if levels.num_levels < 2:
            raise DataError(
                f"{levels.name}: a pair needs two levels, there is one; take more sites"
            )
        self.levels = levels
        self.num_tasks = num_tasks
        self.seed = seed
        self.imaginary = imaginary
        self.fix_sign = fix_sign
        self.device = torch.device(device)
        order = torch.randperm(2 * len(levels.deltas), generator=generator_for(seed, "split"))
        self._train, self._test = order.tensor_split([int(self.TRAIN * len(order))])

    def __len__(self) -> int:
        return self.num_tasks

    def pair(self, index: int) -> tuple[int, int]:
        """Return the levels of task ``index``: label 0's, label 1's."""
        return _random_pair(self.levels.num_levels, self.seed, index)

    def __getitem__(self, index: int) -> Task:  # type: ignore[override]
        index = _task_number(index, self.num_tasks)
        states = [torch.from_numpy(self.levels.states(level)) for level in self.pair(index)]
        x = torch.cat(states)
        if self.fix_sign:
            x = x * x.gather(1, x.abs().argmax(1, keepdim=True)).sign()
        if self.imaginary:
            x = torch.cat([x, torch.zeros_like(x)], 1)
        y = torch.arange(2).repeat_interleave(len(self.levels.deltas))
        train, test = (
            ArraySamples(x[part].to(self.device), y[part].to(self.device))
            for part in (self._train, self._test)
        )
        return Task(index, train, test)
