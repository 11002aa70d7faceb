"""Optimizers that torch does not have, or not for all kinds of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

MUON_RMS = 0.2
"""Root mean square of Muon's steps at a learning rate of 1 (torch's "match_rms_adamw")."""


class Sign(torch.optim.Optimizer):
    """Move each parameter by the learning rate, against the sign of its gradient.

    Of a complex parameter, the real and the imaginary part are parameters of their own.

    Args:
        parameters: To be learned, or groups of them, as of torch's optimizers.
        learning_rate: Size of a step.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], learning_rate: float) -> None:
        super().__init__(parameters, {"lr": learning_rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
            for parameter, gradient in pairs:
                if parameter.is_complex():
                    parameter = torch.view_as_real(parameter)
                    gradient = torch.view_as_real(gradient)
                parameter.add_(gradient.sign(), alpha=-group["lr"])


class Muon(torch.optim.Optimizer):
    """Torch's Muon for matrices, and torch's Adam for all other parameters.

    Both work on the groups and the state of this optimizer: so states, copies and what remedies
    clear are as those of any other. A group of matrices says ``step_rms``, the root mean square of
    a step at a learning rate of 1.

    Args:
        parameters: To be learned.
        learning_rate: Of both.
        momentum: Of Muon.
        epsilon: Of Adam's denominator.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        learning_rate: float,
        momentum: float,
        epsilon: float,
    ) -> None:
        matrices = [p for p in parameters if p.dim() == 2 and not p.is_complex()]
        others = [p for p in parameters if p.dim() != 2 or p.is_complex()]
        groups: list[dict[str, Any]] = []
        if matrices:
            muon = torch.optim.Muon(
                matrices, lr=learning_rate, momentum=momentum, weight_decay=0.0,
                adjust_lr_fn="match_rms_adamw",
            )  # fmt: skip
            groups += [{**muon.param_groups[0], "step_rms": MUON_RMS}]
        if others:
            adam = torch.optim.Adam(others, lr=learning_rate, eps=epsilon)
            groups += adam.param_groups
        super().__init__(groups, {"lr": learning_rate})
        self._parts: list[torch.optim.Optimizer] = []

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        known = [id(part.param_groups[0]) for part in self._parts]
        if known != [id(group) for group in self.param_groups]:
            self._parts = [self._part(group) for group in self.param_groups]
        for part in self._parts:
            part.step()

    def _part(self, group: dict[str, Any]) -> torch.optim.Optimizer:
        """Return an optimizer that works on a group and on the state of this one."""
        kind = torch.optim.Muon if "step_rms" in group else torch.optim.Adam
        part = kind(group["params"])
        part.param_groups, part.state = [group], self.state
        return part

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._parts = []
