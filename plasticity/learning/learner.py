"""A learner is a network, an optimizer, a loss and remedies."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.errors import DoesNotFit
from plasticity.learning.remedy import Remedy
from plasticity.networks.trained import is_trained, trained_parameters
from plasticity.tasks.samples import Samples

Observer = Callable[[Tensor, Tensor], None]
"""Told the outputs and labels of each batch, right before its update."""


class Learner:
    """Learn a stream of tasks.

    A module of the network that has a method ``after_update()`` is called after each update: so
    parameters that must stay on a manifold are put back onto it. One that has a method
    ``before_task(index)`` is called before each task, and before the remedies: so a module can
    write the same function in other parameters. Neither touches the optimizer, whose moments stay.

    Parameters that are frozen (see ``is_trained``) stay as they are, whatever the remedies. The
    optimizer is given them, too: without a gradient it leaves them alone, as torch's do, and what
    is frozen or let go later, at the start of a task, say, is so from then on.

    Args:
        network: From ``(batch, features)`` to ``(batch, outputs)``.
        make_optimizer: Builds the optimizer from the network's parameters.
        loss: From outputs and labels to a scalar in nats.
        remedies: What is done against the loss of plasticity, in order; copied.
        seed: Decides what the remedies draw.

    Attributes:
        network: As the remedies have made it.
        optimizer: The optimizer at present; a remedy may replace it.
        steps: Updates so far, over all tasks.
        samples: Training samples of a task while it begins, if they are known; else None, so that
            copies have none.

    Raises:
        DoesNotFit: No parameter is trained, or a remedy is not for the network.
    """

    def __init__(
        self,
        network: nn.Module,
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        loss: Callable[[Tensor, Tensor], Tensor],
        remedies: Sequence[Remedy] = (),
        seed: int = 0,
    ) -> None:
        _check(network, make_optimizer, loss, remedies)
        self.remedies = tuple(copy.deepcopy(remedy) for remedy in remedies)
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        for remedy in self.remedies:
            network = remedy.on_build(network).to(device)
        trained_parameters(network)  # or there would be nothing to learn
        self.network = network
        self.make_optimizer = make_optimizer
        self.loss = loss
        self.steps = 0
        self._rates: list[tuple[tuple[nn.Parameter, ...], float]] = []
        self.samples: Samples | None = None
        # An update calls only what is there.
        self._retractions = _hooks(network, "after_update")
        self._between = _hooks(network, "before_task")
        self.optimizer = self.new_optimizer()
        for remedy in self.remedies:
            remedy.start(self, seed)
        self._penalties = [r.penalty for r in self.remedies if _has_own(r, "penalty")]
        self._afterwards = [r.after_update for r in self.remedies if _has_own(r, "after_update")]

    def new_optimizer(self) -> torch.optim.Optimizer:
        """Build an optimizer that remembers nothing."""
        optimizer = self.make_optimizer(list(self.network.parameters()))
        for remedy in self.remedies:
            optimizer = remedy.on_optimizer(optimizer)
        for parameters, factor in self._rates:
            _scale_rate(optimizer, parameters, factor)
        return optimizer

    def scale_rate(self, parameters: Sequence[nn.Parameter], factor: float) -> None:
        """Multiply the learning rate of some parameters, now and of every later optimizer.

        The optimizer keeps what it remembers. A factor of 1 changes nothing. The factors are no
        part of ``state_dict``.

        Raises:
            DoesNotFit: The optimizer has no learning rate.
        """
        if factor == 1:
            return
        _scale_rate(self.optimizer, parameters, factor)
        self._rates.append((tuple(parameters), factor))

    def retract(self) -> None:
        """Put parameters that must stay on a manifold back onto it; each update does."""
        for retract in self._retractions:
            retract()

    @property
    def device(self) -> torch.device:
        """Return where the network lives."""
        return next(self.network.parameters()).device

    def start_task(self, index: int, samples: Samples | None = None) -> None:
        """Let modules, then remedies, act before task ``index``.

        Args:
            index: Of the task.
            samples: Its training samples, for remedies that look at them.
        """
        self.samples = samples
        for begin in self._between:
            begin(index)
        for remedy in self.remedies:
            remedy.before_task(index)
        self.samples = None

    def update(self, x: Tensor, y: Tensor, observers: Sequence[Observer] = ()) -> Tensor:
        """Take one step of the optimizer and return the batch's loss before it, detached.

        The loss that is returned is without penalties.

        Raises:
            DoesNotFit: The loss depends on no parameter that is trained.
        """
        self.optimizer.zero_grad(set_to_none=True)
        outputs = self.network(x)
        for observe in observers:
            observe(outputs.detach(), y)
        loss = total = self.loss(outputs, y)
        for penalty in self._penalties:
            term = penalty()
            total = total if term is None else total + term
        if not is_trained(total):
            raise DoesNotFit(
                f"the loss of {type(self.network).__name__} depends on no parameter that is "
                "trained: what is trained is not used, or its graph is cut"
            )
        total.backward()
        self.optimizer.step()
        self.steps += 1
        for retract in self._retractions:
            retract()
        for act in self._afterwards:
            act(self.steps)
        return loss.detach()

    def columns(self) -> dict[str, float]:
        """Return what the remedies did since the last row."""
        return {name: value for r in self.remedies for name, value in r.columns().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return all that decides how learning goes on."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "remedies": [remedy.state_dict() for remedy in self.remedies],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.steps = state["steps"]
        for remedy, of_remedy in zip(self.remedies, state["remedies"], strict=True):
            remedy.load_state_dict(copy.deepcopy(of_remedy))


def _scale_rate(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], factor: float
) -> None:
    """Multiply the learning rate of some parameters, which get groups of their own."""
    chosen = {id(parameter) for parameter in parameters}
    for group in [*optimizer.param_groups]:
        inside = [p for p in group["params"] if id(p) in chosen]
        if not inside:
            continue
        if "lr" not in group:
            raise DoesNotFit(f"{type(optimizer).__name__} has no learning rate of its groups")
        if len(inside) < len(group["params"]):
            group["params"] = [p for p in group["params"] if id(p) not in chosen]
            group = {**group, "params": inside}
            optimizer.param_groups.append(group)
        group["lr"] = group["lr"] * factor


def _has_own(remedy: Remedy, hook: str) -> bool:
    return getattr(type(remedy), hook) is not getattr(Remedy, hook)


def _hooks(network: nn.Module, name: str) -> list[Callable[..., object]]:
    hooks = (getattr(module, name, None) for module in network.modules())
    return [hook for hook in hooks if callable(hook)]


def _check(network: Any, make_optimizer: Any, loss: Any, remedies: Any) -> None:
    """Refuse what cannot be a learner's parts.

    Raises:
        TypeError: Names the part and what it must be.
    """
    if not isinstance(network, nn.Module):
        way_out = "build it first: .build(shape, generator)" if hasattr(network, "build") else ""
        raise TypeError(
            f"network must be a torch.nn.Module, not {network!r:.100}"
            + (way_out and f"; {way_out}")
        )
    if not callable(make_optimizer):
        raise TypeError(
            "make_optimizer must make an optimizer of a list of parameters, such as "
            f"torch.optim.Adam or a lambda; it is {type(make_optimizer).__name__}"
        )
    if not callable(loss) or isinstance(loss, type):
        raise TypeError(
            "loss must be a function of outputs and labels, such as "
            f"torch.nn.functional.cross_entropy; it is {loss!r:.100}"
        )
    for remedy in remedies if isinstance(remedies, Sequence) else [remedies]:
        if not isinstance(remedy, Remedy) or remedy is remedies:
            raise TypeError(
                f"remedies must be a sequence of Remedy, such as [REMEDIES['l2']]; {remedy!r:.100}"
                + (" is no sequence" if remedy is remedies else " is none")
            )
