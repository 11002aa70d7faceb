"""How accurate a network with a quantum layer is where a device runs the layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.learning.learner import Learner
from plasticity.metrics.accuracy import class_logits, evaluate
from plasticity.networks.evaluating import evaluating
from plasticity.quantum.device import DeviceQNN, NoiseModel
from plasticity.quantum.layer import QNN
from plasticity.seeding import generator_for
from plasticity.tasks.streams import Task

COLUMNS = (
    "task", "shots", "depolarizing", "amplitude_damping", "readout_error", "accuracy", "read_share",
    "samples", "changed",
)  # fmt: skip
"""Of a row: the task, the condition, the test accuracy, the part of the shots that is read, the
number of test samples, and the part of these that are right exactly and wrong here, or reversed."""

QUOTED = NoiseModel(depolarizing=1e-3, readout_error=1e-2)
"""The levels at which shots are counted, beside none: 0.1 % a gate and 1 % a bit (arXiv:2601.06392,
for superconducting qubits)."""


@dataclass(frozen=True)
class Condition:
    """Under what a circuit is run.

    Attributes:
        noise: How gates and measurements err.
        shots: Measurements of each sample; None: infinitely many.
    """

    noise: NoiseModel = field(default_factory=NoiseModel)
    shots: int | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """Return what a row says of it."""
        noise = self.noise
        return {
            "shots": self.shots,
            "depolarizing": noise.depolarizing,
            "amplitude_damping": noise.amplitude_damping,
            "readout_error": noise.readout_error,
        }


EXACT = Condition()


def conditions_for(shots: Iterable[int], **levels: Iterable[float]) -> list[Condition]:
    """Return the exact condition, shots with and without noise, and levels of one noise at a time.

    Args:
        shots: Numbers of shots, each without noise and at the levels ``QUOTED``.
        levels: Of noise, by the names of the fields of ``NoiseModel``; with infinitely many shots.
    """
    found = [EXACT, *(Condition(shots=count) for count in shots), Condition(QUOTED)]
    found += [Condition(QUOTED, count) for count in shots]
    for name, values in levels.items():
        found += [Condition(replace(NoiseModel(), **{name: value})) for value in values]
    return [*dict.fromkeys(found)]


class OnDevice(DeviceQNN):
    """A quantum layer as a device runs it, again and again on the same samples.

    Noisy probabilities are kept for as long as the same tensor comes in, since numbers of shots
    do not change them. So neither the layer's parameters nor the tensor may change meanwhile.
    """

    def __init__(self, qnn: QNN, noise: NoiseModel) -> None:
        super().__init__(qnn, noise)
        self._last: tuple[Tensor, Tensor] | None = None

    def probabilities(self, x: Tensor) -> Tensor:
        """Return the probabilities of outcomes (see ``DeviceQNN.probabilities``)."""
        if self._last is None or self._last[0] is not x:
            self._last = x, super().probabilities(x)
        return self._last[1]

    @property
    def read_share(self) -> float:
        """Return the part of the shots that the readout reads, a mean over the last samples.

        It does not depend on how many shots there are. Of a readout of Z it is 1.
        """
        assert self._last is not None
        read = self._last[1]
        return 1.0 if read.dim() == 1 else float(read.double().sum(1).mean())


def circuits_of(network: nn.Module) -> list[QNN]:
    """Return the quantum layers in a network.

    Raises:
        TypeError, ValueError: A device cannot run one as it is.
    """
    circuits = [module for module in network.modules() if isinstance(module, QNN)]
    for circuit in circuits:
        circuit.on_device()
    return circuits


def on_device(network: nn.Module, noise: NoiseModel) -> nn.Module:
    """Return a copy of a network whose quantum layers are run by a device."""
    network = copy.deepcopy(network)
    if isinstance(network, QNN):
        return OnDevice(network, noise)
    for parent in [*network.modules()]:
        for name, child in parent.named_children():
            if isinstance(child, QNN):
                setattr(parent, name, OnDevice(child, noise))
    return network


@torch.no_grad()
def rows_of_network(
    learner: Learner,
    task: Task,
    conditions: Sequence[Condition],
    generator: Callable[[Condition], torch.Generator],
    advance: Callable[[], object],
) -> list[dict[str, Any]]:
    """Return how accurate a network is on a task's test samples, a row a condition.

    Args:
        learner: Its network is evaluated.
        task: Whose test samples.
        conditions: Each gives a row; the exact one is the network's own test accuracy.
        generator: Gives what a condition's shots are drawn from, and its ties decided by.
        advance: Told of each condition.
    """
    batches = evaluate(learner, task)
    exact = torch.cat([class_logits(outputs).argmax(1) == y for outputs, y in batches])
    x, y = task.test.batch(slice(None))
    rows = {}
    for noise in dict.fromkeys(condition.noise for condition in conditions):
        network = on_device(learner.network, noise)
        devices = [module for module in network.modules() if isinstance(module, OnDevice)]
        for condition in conditions:
            if condition.noise != noise:
                continue
            random = generator(condition)
            for device in devices:
                device.shots, device.generator = condition.shots, random
            with evaluating(network):
                right = chosen(network(x), random) == y
            if condition == EXACT:
                right = exact
            shares = [device.read_share for device in devices]
            rows[condition] = {
                "task": task.index,
                **condition.columns,
                "accuracy": int(right.sum()) / len(y),
                "read_share": math.fsum(shares) / len(shares),
                "samples": len(y),
                "changed": int((right != exact).sum()) / len(y),
            }
            advance()
    return [rows[condition] for condition in conditions]


def chosen(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return the class of the largest logit, ``(batch,)``, one at random where several are equal.

    Equal counts, of no shot among them, give equal logits. They say nothing, and the first class
    should have no advantage of that.
    """
    logits = class_logits(outputs)
    is_largest = logits == logits.amax(1, keepdim=True)
    order = torch.rand(logits.shape, generator=generator, device=logits.device)
    return torch.where(is_largest, order, -1).argmax(1)


def generator_of_shots(
    seed: int, arm: str, task: int, device: torch.device
) -> Callable[[Condition], torch.Generator]:
    """Return what gives a generator for each condition, which no other condition changes."""

    def of(condition: Condition) -> torch.Generator:
        drawn = generator_for(seed, f"shots {arm} {[*condition.columns.values()]}", task)
        return torch.Generator(device).manual_seed(drawn.initial_seed())

    return of
