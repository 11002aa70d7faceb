"""The supervised training loop: a generator of rows, one a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from plasticity.errors import Diverged
from plasticity.learning.learner import Learner
from plasticity.learning.metric import Course, Metric
from plasticity.seeding import generator_for
from plasticity.tasks.streams import TaskStream

Row = dict[str, Any]
"""What is recorded of a task or an update: numbers, and lists of them, by the column's name."""


def train_on_stream(
    learner: Learner,
    stream: TaskStream,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    metrics: Sequence[Metric] = (),
    start: int = 0,
) -> Iterator[Row]:
    """Train on one task after the other and yield a row for each.

    The order of the samples is a function of ``(seed, task.index, epoch)``, so that training can
    start at any task from the learner's state after the task before, that two learners see the same
    batches, and that a stream of some of the tasks has the batches of the whole. The last batch of
    an epoch may be smaller.

    Args:
        learner: Trained in place.
        stream: The tasks.
        epochs: Passes over a task's training samples.
        batch_size: Samples an update.
        seed: Decides the order of the samples.
        metrics: What to measure, prepared.
        start: First task, by its place in the stream.

    Yields:
        ``{"task": index, "train_loss": mean over the last epoch in nats, without penalties,
        <metric>: value}`` and the columns of the remedies; when it is yielded, the learner is in
        its state after the task.

    Raises:
        TypeError: ``epochs`` or ``batch_size`` is no integer; or a metric is no `Metric`, or a task
            no `Task`.
        ValueError: ``epochs`` or ``batch_size`` is below 1.
        Diverged: The loss of a task is not finite.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if not hasattr(value, "__index__"):
            raise TypeError(f"{name} {value!r}: must be an integer")
        if value < 1:
            raise ValueError(f"{name} {value}: at least 1")
    for metric in metrics:
        if not isinstance(metric, Metric):
            raise TypeError(f"metrics: {metric!r:.100} is none; say Metric(name, function)")
    if not hasattr(stream, "__getitem__") or not hasattr(stream, "__len__"):
        raise TypeError(f"stream must be a sequence of Task, not {type(stream).__name__}")
    course = Course(stream, epochs, batch_size, seed)
    metrics = [metric.along(course) for metric in metrics]
    for place in range(start, len(stream)):
        task = stream[place]
        if not hasattr(task, "train"):
            raise TypeError(f"task {place} of the stream must be a Task, not {type(task).__name__}")
        learner.start_task(task.index, task.train)
        row: Row = {"task": task.index}
        for metric in (m for m in metrics if m.due("before", task.index)):
            row |= metric.columns(metric.take(learner, task))
        watching = {m: m.take(learner, task) for m in metrics if m.due("during", task.index)}
        num_samples = len(task.train)
        num_batches = -(-num_samples // batch_size)
        at = getattr(task.train, "at", None)  # of samples that change while they are learned
        for epoch in range(epochs):
            observers = tuple(watching.values()) if epoch == 0 else ()
            generator = generator_for(seed, "order", task.index, epoch)
            order = torch.randperm(num_samples, generator=generator).to(learner.device)
            loss_sum = torch.zeros((), device=learner.device)
            for number, indices in enumerate(order.split(batch_size), epoch * num_batches):
                samples = at(number / (epochs * num_batches)) if at else task.train
                x, y = samples.batch(indices)
                loss_sum += learner.update(x, y, observers) * len(indices)
        row["train_loss"] = float(loss_sum) / num_samples
        if not torch.isfinite(loss_sum):
            raise Diverged(f"the training loss of task {task.index} is {row['train_loss']}")
        for metric, watched in watching.items():
            row |= metric.columns(watched.value())
        row |= learner.columns()
        for metric in (m for m in metrics if m.due("after", task.index)):
            row |= metric.columns(metric.take(learner, task))
        yield row
