"""What remedies put into networks and losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Scaled = tuple[Tensor, list[Tensor], float]
"""A scalar, tensors, and the factor by which those are its gradients."""


class KnownGradient(torch.autograd.Function):
    """A scalar whose gradients are known: autograd would take two or three times as long."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[list[Tensor]], Scaled], *of: Tensor) -> Tensor:
        """Return the scalar, and keep its gradients."""
        value, ctx.gradients, ctx.factor = function(list(of))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradients times that of the scalar."""
        return None, *torch._foreach_mul(ctx.gradients, ctx.factor * gradient)


class ConcatenatedReLU(nn.Module):
    """Make two units of each number z: max(z, 0) of all, then max(-z, 0) of all."""

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(batch, numbers)`` to ``(batch, 2 numbers)``."""
        return torch.cat([z.relu(), z.neg().relu()], -1)


class Standardize(nn.Module):
    """Subtract running means and divide by running standard deviations; in training, follow them.

    At update t, counted from 1, and with r = max(1 - decay, 1 / (t + 1)), m the batch's means and v
    its variances (divided by the number of samples, real also for complex numbers),

        var <- (1 - r) (var + r |m - mean|^2) + r v,    mean <- (1 - r) mean + r m.

    They begin as mean 0 and variance 1, which weigh like one batch. So no batch, however small, has
    itself for its mean; and an untrained network sees its inputs as they are.

    Args:
        decay: Of the running numbers, an update.
        epsilon: Added to the variance.

    Attributes:
        mean, variance: Buffers, ``(features,)`` after the first update and scalars before.
        updates: Buffer, how many.
    """

    mean: Tensor
    variance: Tensor
    updates: Tensor

    def __init__(self, decay: float, epsilon: float) -> None:
        super().__init__()
        self.decay, self.epsilon = decay, epsilon
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, features)``, real or complex, to the same."""
        centered = x - self.mean
        if self.training and len(x):
            centered -= self._follow(centered)
        return centered * (self.variance + self.epsilon).rsqrt()

    @torch.no_grad()
    def _follow(self, centered: Tensor) -> Tensor:
        """Follow inputs less the running mean, and return how far that moved."""
        self.updates += 1
        rate = (1 / (self.updates + 1)).clamp(min=1 - self.decay)
        # By products, which are faster than torch.var_mean over the first axis.
        weights = centered.new_full((len(centered),), 1 / len(centered))
        parts = (centered.real, centered.imag) if centered.is_complex() else (centered,)
        squares = sum(weights.real @ part.square() for part in parts)
        mean = weights @ centered
        squared = mean.abs().square()
        variance = (squares - squared).clamp(min=0)
        self.variance = (1 - rate) * (self.variance + rate * squared) + rate * variance
        self.mean = self.mean + rate * mean
        return rate * mean

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *more: Any) -> None:
        # The number of features is known once there are inputs: buffers take the shapes they find.
        for name in ("mean", "variance"):
            if prefix + name in state:
                found = state[prefix + name]
                setattr(self, name, torch.empty_like(found, device=self.updates.device))
        super()._load_from_state_dict(state, prefix, *more)

    def extra_repr(self) -> str:
        """Describe it."""
        return f"decay={self.decay}, epsilon={self.epsilon}"


class Upgd(torch.optim.Optimizer):
    """Utility-based perturbed gradient descent (see the remedy ``UtilityGated``).

    Args:
        parameters: To be learned, or groups of them, as of torch's optimizers.
        learning_rate: Size of a step.
        weight_decay: Part of a weight, times the learning rate, that each step takes off.
        utility_decay: Of the running means of the utilities.
        noise: Gives the noise of a step for all parameters.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]],
        learning_rate: float,
        weight_decay: float,
        utility_decay: float,
        noise: Callable[[Sequence[Tensor]], list[Tensor] | None],
    ) -> None:
        numbers = {
            "lr": learning_rate, "weight_decay": weight_decay, "utility_decay": utility_decay,
            "step": 0,
        }  # fmt: skip
        super().__init__(parameters, numbers)
        self._noise = noise

    def __getstate__(self) -> dict[str, Any]:
        # So that a copy of a learner has its own noise; torch's optimizers copy no more than this.
        return super().__getstate__() | {"_noise": self._noise}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients."""
        groups = [
            (group, [p for p in group["params"] if p.grad is not None])
            for group in self.param_groups
        ]
        groups = [(group, parameters) for group, parameters in groups if parameters]
        for group, parameters in groups:
            gradients = [p.grad for p in parameters if p.grad is not None]
            for p in parameters:
                if not self.state[p]:
                    self.state[p]["utility"] = torch.zeros_like(p)
            utilities = [self.state[p]["utility"] for p in parameters]
            group["step"] += 1
            decay = group["utility_decay"]
            torch._foreach_mul_(utilities, decay)
            torch._foreach_addcmul_(utilities, gradients, parameters, value=decay - 1)
        if not groups:
            return
        learned = [p for _, parameters in groups for p in parameters]
        gates, noise = self.gates(learned), self._noise(learned)
        start = 0
        for group, parameters in groups:
            own = slice(start, start := start + len(parameters))
            gradients = [p.grad for p in parameters if p.grad is not None]
            if noise:
                gradients = [*torch._foreach_add(gradients, noise[own])]
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            steps = torch._foreach_mul(gradients, gates[own])
            torch._foreach_add_(parameters, steps, alpha=-2 * group["lr"])

    def gates(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return 1 - sigmoid(utility / greatest utility) of each weight that has a utility."""
        utilities = [self.state[p]["utility"] for p in parameters]
        greatest = torch.stack([utility.max() for utility in utilities]).max()
        # Where no utility is positive, the quotient of a negative one shall be very negative.
        quotients = torch._foreach_mul(utilities, -1 / greatest.clamp(min=1e-30))
        return [*torch._foreach_sigmoid(quotients)]
