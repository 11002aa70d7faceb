"""An arm is a value: a network with its options, and how it is trained.

``--arms mlp+reset-optimizer`` is the preset's arm ``mlp`` with a remedy, and ``mlp-sphere@mlp`` is
``mlp-sphere`` with the learning rate of ``mlp``. An arm whose network is
registered, but which the preset does not have, is trained as the preset's arm is that its network
is like, and has the options of that arm's network as far as it adapts to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plasticity.learning.metric import is_log_spaced
from plasticity.learning.remedy import Remedy
from plasticity.networks import ALIASES
from plasticity.networks.network import Network
from plasticity.protocol.optimizers import OPTIMIZERS, Adam, Optimizer
from plasticity.protocol.serialization import from_json, named_from_json, named_json, short, to_json
from plasticity.results.names import AT_RATE_OF, FRESH


@dataclass(frozen=True)
class AsTheyAre:
    """Inputs that no arm wants otherwise."""


@dataclass(frozen=True)
class ArmConfig:
    """All that decides the numbers of an arm, beside what all arms of a run share.

    Attributes:
        network: Its network's options.
        optimizer: Its optimizer's options.
        epochs: Passes over a task's training samples, or over a rollout's steps.
        inputs: How it sees the samples; a dataclass of the experiment's.
        remedies: By name, in the order in which they act.
        log_spaced: Learn tasks 0, 1, 2, 4, 8, ... only.
    """

    network: Network
    optimizer: Optimizer
    epochs: int
    inputs: Any = AsTheyAre()
    remedies: Mapping[str, Remedy] = field(default_factory=dict)
    log_spaced: bool = False

    def tasks(self, num_tasks: int) -> list[int]:
        """Return which of so many tasks the arm learns."""
        if not self.log_spaced:
            return list(range(num_tasks))
        return [task for task in range(num_tasks) if is_log_spaced(task)]

    def end(self, total: int) -> int:
        """Return after how many of so many tasks or steps the arm has nothing left to learn."""
        return self.tasks(total)[-1] + 1 if self.log_spaced else total

    def json(self) -> dict[str, Any]:
        """Return it as JSON, which the arm's folder is named after."""
        is_adam = type(self.optimizer).__name__ == Adam.__name__
        content: dict[str, Any] = {
            "network": named_json(self.network),
            # Arms that were recorded before there were others have Adam, and say no class.
            "optimizer": (to_json if is_adam else named_json)(self.optimizer),
            "epochs": self.epochs,
        }
        if inputs := to_json(self.inputs):
            content["inputs"] = inputs
        if self.remedies:
            content["remedies"] = [named_json(remedy) for remedy in self.remedies.values()]
        if self.log_spaced:
            content["log_spaced"] = True
        return content


@dataclass(frozen=True)
class Registry:
    """What arms of an experiment are made of.

    Attributes:
        networks: By name, with the options they have where a preset says nothing.
        remedies: The same.
        inputs: The experiment's dataclass of how an arm sees the samples.
        optimizers: As networks, by name.
    """

    networks: Mapping[str, Network]
    remedies: Mapping[str, Remedy]
    inputs: type[Any] = AsTheyAre
    optimizers: Mapping[str, Optimizer] = field(default_factory=lambda: OPTIMIZERS)

    def resolve(self, name: str, arms: Mapping[str, ArmConfig]) -> ArmConfig:
        """Return the arm of a name.

        Args:
            name: ``NETWORK`` or ``NETWORK+REMEDY...``; ``fresh:`` before it names an arm that
                begins each task with the untrained network, on log-spaced tasks; ``@ARM`` after it
                takes the learning rate of that arm.
            arms: The preset's.

        Raises:
            KeyError: With what is unknown in it, and what is known.
        """
        if name.startswith(FRESH):
            arm = self.resolve(name.removeprefix(FRESH), arms)
            if "start-afresh" not in self.remedies:
                raise KeyError("no arm of this experiment starts afresh")
            # First, so that the other remedies find the network with which the task begins.
            first = {"start-afresh": self.remedies["start-afresh"]}
            return dataclasses.replace(arm, remedies=first | dict(arm.remedies), log_spaced=True)
        if AT_RATE_OF in name:
            name, _, partner = name.rpartition(AT_RATE_OF)
            arm = self.resolve(name, arms)
            rate = self.resolve(partner, arms).optimizer.learning_rate
            return dataclasses.replace(
                arm, optimizer=dataclasses.replace(arm.optimizer, learning_rate=rate)
            )
        base, *remedies = name.split("+")
        if base not in arms and base not in self.networks:
            base = ALIASES.get(base, base)
        if base in arms:
            arm = arms[base]
        elif base in self.networks:
            arm = arms[self.networks[base].like]
            network = self.networks[base].adapted(arm.network)
            arm = dataclasses.replace(arm, network=network, remedies={})
        else:
            raise KeyError(_unknown("network", base, {*self.networks, *arms}))
        for remedy in remedies:
            if remedy not in self.remedies:
                raise KeyError(_unknown("remedy", remedy, self.remedies))
            if remedy in arm.remedies:
                raise KeyError(f"{base} has {remedy} already")
            added = {**arm.remedies, remedy: self.remedies[remedy]}
            arm = dataclasses.replace(arm, remedies=added)
        return arm

    def from_json(self, content: Mapping[str, Any]) -> ArmConfig:
        """Make an arm of what ``ArmConfig.json`` returned.

        Raises:
            TypeError, ValueError: It is not that; say, its class is not registered (any more).
        """
        if not isinstance(content, Mapping):
            raise TypeError(f"{short(content)} is no arm")
        expected = {"network", "optimizer", "epochs"}
        if not expected <= {*content} <= {*expected, "inputs", "remedies", "log_spaced"}:
            raise TypeError(f"it has {', '.join(sorted(content)) or 'nothing'}"[:80])
        if type(content["epochs"]) is not int:
            raise TypeError(f"epochs is {short(content['epochs'])}")
        names = {type(remedy).__name__: name for name, remedy in self.remedies.items()}
        remedies = [
            named_from_json(_classes(self.remedies), remedy)
            for remedy in content.get("remedies", [])
        ]
        if len({type(remedy) for remedy in remedies}) < len(remedies):
            raise ValueError("it has a remedy twice")
        return ArmConfig(
            named_from_json(_classes(self.networks), content["network"]),
            self._optimizer(content["optimizer"]),
            content["epochs"],
            from_json(self.inputs, content.get("inputs", {})),
            {names[type(remedy).__name__]: remedy for remedy in remedies},
            content.get("log_spaced", False) is True,
        )

    def _optimizer(self, content: Any) -> Optimizer:
        if isinstance(content, Mapping) and "class" in content:
            chosen: Optimizer = named_from_json(_classes(self.optimizers), content)
            return chosen
        return from_json(Adam, content)


def _classes(registered: Mapping[str, Any]) -> dict[str, type[Any]]:
    return {type(value).__name__: type(value) for value in registered.values()}


def with_optimizer(arm: ArmConfig, name: str, optimizers: Mapping[str, Optimizer]) -> ArmConfig:
    """Return an arm with another optimizer, with that one's own numbers.

    Raises:
        KeyError: There is none of this name; with those that there are.
    """
    if name not in optimizers:
        raise KeyError(_unknown("optimizer", name, optimizers))
    if type(optimizers[name]) is type(arm.optimizer):
        return arm
    return dataclasses.replace(arm, optimizer=optimizers[name])


def optimizer_name(optimizer: Optimizer, optimizers: Mapping[str, Optimizer]) -> str:
    """Return under which name an optimizer is registered; its class's, if it is not."""
    names = [name for name, other in optimizers.items() if type(other) is type(optimizer)]
    return names[0] if names else type(optimizer).__name__


def _unknown(kind: str, name: str, known: Any) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), known, 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"no {kind} is called {name!r}; there are {', '.join(sorted(known)) or 'none'}{meant}"
