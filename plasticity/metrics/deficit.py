"""The deficit: what an untrained network learns of a run's last tasks, and what ours learns."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plasticity.errors import Diverged
from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.learning.metric import Course, Metric
from plasticity.metrics.accuracy import test_accuracy
from plasticity.networks.evaluating import evaluating
from plasticity.statistics.summaries import last_tasks
from plasticity.tasks.streams import Task


@dataclass(eq=False)
class Deficit:
    """Tell how much better an untrained network learns the last tasks of a run, one after another.

    A copy of the untrained learner, with its remedies and a new optimizer, learns the last m of T
    tasks as the learner does: in the same order, from the same batches, as often. It is trained on
    from task to task, so both have a task behind them when they begin the next one. The column is
    the fraction of the test samples that the copy classifies right, less the same of the learner.
    Above 0, plasticity was lost in the tasks before. m = T / 30, but at least 10, or all tasks
    where there are fewer. The mean over the m tasks is what the reports of studies call *deficit*.

    It needs no early tasks to compare with: warm-up, a first task that is a handicap, and a loss
    within the first tenth do not fool it. A copy that diverges is at chance from then on, 1 /
    classes. Valid for: classifiers. It has to be measured while a task is learned, and takes as
    long as m tasks: a thirtieth of a run of 300 or more, a tenth of one of 100. One that goes on
    within its last tasks trains the copy on those before again. If a run is made longer, the
    column has values at the last tasks of either length. Source: ours; the metric ``fresh``
    compares with a network that learns one task alone.

    Attributes:
        untrained: A copy of the learner before its first task.
        course: What the learner learns; None: that is not known, and there is no deficit.
    """

    untrained: Learner
    course: Course | None = None
    _indices: list[int] | None = field(default=None, repr=False)
    _accuracies: Iterator[float] | None = field(default=None, repr=False)
    _next: int = field(default=0, repr=False)

    @classmethod
    def of(cls, learner: Learner, first: Task, seed: int) -> Deficit:
        """Keep the untrained learner."""
        return cls(copy.deepcopy(learner))

    def along(self, course: Course) -> Deficit:
        """Return the metric of a learner that learns a stream from its beginning to its end."""
        return Deficit(self.untrained, course)

    def __call__(self, learner: Learner, task: Task) -> DeficitOfTask:
        """Prepare for the end of a task."""
        return DeficitOfTask(self, learner, task)

    def accuracies(self) -> Iterator[float]:
        """Yield the copy's accuracy after each of the last tasks, which it learns meanwhile."""
        assert self.course is not None
        stream, twin = self.course.stream, copy.deepcopy(self.untrained)
        for place in self._places():
            try:
                with torch.random.fork_rng():  # of a network that draws at random, say, by dropout
                    (row,) = train_on_stream(
                        twin,
                        [stream[place]],
                        epochs=self.course.epochs,
                        batch_size=self.course.batch_size,
                        seed=self.course.seed,
                        metrics=[Metric("test_accuracy", test_accuracy)],
                    )
            except Diverged:
                break
            yield row["test_accuracy"]
        while True:  # only if it has diverged, anything is asked for after the last task
            yield 1 / self._classes()

    def accuracy_at(self, task: Task) -> float | None:
        """Return the copy's accuracy after a task; None where the task is not one of the last."""
        if self.course is None:
            return None
        if self._indices is None:
            self._indices = [self.course.stream[place].index for place in self._places()]
        if task.index not in self._indices:
            return None
        number = self._indices.index(task.index)
        if self._accuracies is None or self._next > number:
            self._accuracies, self._next = self.accuracies(), 0
        while self._next < number:  # of a run that goes on
            next(self._accuracies)
            self._next += 1
        self._next += 1
        return next(self._accuracies)

    def _places(self) -> range:
        assert self.course is not None
        tasks = len(self.course.stream)
        return range(tasks - last_tasks(tasks), tasks)

    def _classes(self) -> int:
        """Return the number of classes: a single output tells two apart."""
        assert self.course is not None
        x, _ = self.course.stream[0].test.batch(slice(0, 1))
        with torch.no_grad(), evaluating(self.untrained.network):
            return max(2, int(self.untrained.network(x).shape[-1]))


@dataclass
class DeficitOfTask:
    """Compare learner and copy at the end of a task."""

    deficit: Deficit
    learner: Learner
    task: Task

    def __call__(self, outputs: Tensor, labels: Tensor) -> None:
        """Do nothing: the copy learns when the task is over."""

    def value(self) -> float | dict[str, float]:
        """Return the column; none before the last tasks."""
        theirs = self.deficit.accuracy_at(self.task)
        return {} if theirs is None else theirs - test_accuracy(self.learner, self.task)
