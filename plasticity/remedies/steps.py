"""Remedies that change the optimizer's step, or what comes on top of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from plasticity.errors import DoesNotFit
from plasticity.learning.column import NONNEGATIVE, Column
from plasticity.learning.remedy import Learns, Remedy
from plasticity.networks.trained import is_trained, trained_parameters
from plasticity.remedies.limits import require

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass
class EqualBetas(Remedy):
    """Give both of Adam's running means the same decay.

    beta1 = beta2 = beta. After a silence, k equal gradients in a row make a step of
    (1 - beta1^k) / sqrt(1 - beta2^k) times the learning rate: up to 6.6 at the usual 0.9 and 0.999,
    and less than 1 where both are the same. So the first steps of a new task, whose gradients are
    suddenly larger, are not the longest.

    Source: Dohare et al. 2024, "Loss of plasticity in deep continual learning", with 0.99 for PPO,
    whose tasks last some 156,000 updates. At beta1 = 0.99, after 79 updates 45 % of the weights in
    the running mean are still those of gradients of the task before. Chung et al. 2024
    (``parseval``) take 0.9, with an epsilon of 1e-3. It needs Adam, and combines with ``adamw`` and
    ``reset-optimizer`` in any order. It has no column.
    """

    tuned = "beta"
    tries = (0.8, 0.9, 0.95, 0.99)

    beta: float
    """Decay of both running means, an update (Dohare et al. 2024: 0.99; Chung et al. 2024: 0.9)."""

    def __post_init__(self) -> None:
        require(self, 0, 1 - 1e-9, "beta")

    def on_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Return it with other decays."""
        _require_adam(optimizer, "equal-betas")
        for group in optimizer.param_groups:
            group["betas"] = (self.beta, self.beta)
        return optimizer

    def start(self, learner: Learns, seed: int) -> None:
        """Refuse a learner that has another optimizer after all."""
        _require_adam(learner.optimizer, "equal-betas")


@dataclass
class AdamW(Remedy):
    """Decay the weights beside Adam's step.

    theta <- theta - rate (Adam's step + lambda theta), with the arm's learning rate, for all
    parameters, biases and a QNN's angles among them. ``L2`` adds lambda theta to the gradient
    instead, which Adam then divides by its size. Groups of parameters keep their own numbers; an
    optimizer that has a weight decay already is refused.

    Source: Loshchilov and Hutter 2019, "Decoupled weight decay regularization". The default is
    ours: 79 updates take off 8 % of a weight at a learning rate of 1e-2. Torch's
    1e-2 takes off a tenth of that, and the 1e-5 to 1e-3 of Dohare et al. 2024 still less. A QNN is
    pulled to the circuit that does nothing, whose angles are 0. It has no column.
    """

    tuned = "decay"
    tries = (0.01, 0.03, 0.1, 0.3, 1.0)

    decay: float
    """Factor lambda of the decay; times the learning rate, the part that an update takes off."""

    def __post_init__(self) -> None:
        require(self, 0, math.inf, "decay")

    def on_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Return an AdamW with the groups of the Adam, and their numbers."""
        import torch

        _require_adam(optimizer, "adamw")
        _refuse_decay(_decay_of(optimizer), "adamw")
        own = {"weight_decay": self.decay, "decoupled_weight_decay": True}
        groups = [{**group, **own} for group in optimizer.param_groups]
        first = optimizer.param_groups[0]
        numbers = {name: first[name] for name in ("lr", "betas", "eps", "fused")}
        return torch.optim.AdamW(groups, weight_decay=self.decay, **numbers)

    def start(self, learner: Learns, seed: int) -> None:
        """Refuse a learner that has another optimizer after all."""
        _require_adam(learner.optimizer, "adamw")


@dataclass
class AdamO(Remedy):
    """Pull matrices towards isometries beside Adam's step.

    W <- W - rate (Adam's step + lambda grad R(W)), R(W) = norm(W^T W - I)_F^2, or norm(W W^T -
    I)_F^2 where that is the smaller matrix, of the W before the step, with the arm's learning rate.
    ``parseval`` adds R to the loss instead, and Adam then divides its gradient by the size of the
    whole; here the moments are those of the task's gradient alone.

    Source: Rosseau, Müller and Nowé 2026, "Preserving plasticity in continual learning via
    dynamical isometry" (arXiv:2606.09762), whose AdamO this is; another one, of Chen, Yuan and
    Zhang 2026 (arXiv:2602.05136), decouples the norm from the direction, and is not meant. The step
    size of the pull is the learning rate, as by default there; lambda is ours. All linear layers
    have it, the last one among them; biases stay. It needs Adam. Parameters that must stay on a
    manifold are refused. The column ``adamo_deviation`` is the mean over the updates since the last
    row of the sum of R over the layers.
    """

    tuned = "strength"
    tries = (0.001, 0.01, 0.1, 1.0)
    declared = (Column("adamo_deviation", "deviation from isometries", bounds=NONNEGATIVE),)

    strength: float
    """Factor lambda of the pull; times the learning rate, its step; 0: none."""

    def __post_init__(self) -> None:
        require(self, 0, math.inf, "strength")

    def start(self, learner: Learns, seed: int) -> None:
        """Find the matrices; refuse a learner that has another optimizer after all."""
        import torch

        from plasticity.remedies.layers import linear_layers, require_free

        layers = linear_layers(learner.network, "adamo")
        require_free(learner.network, "adamo")
        _require_adam(learner.optimizer, "adamo")
        self._learner = learner
        self._weights = list(dict.fromkeys(layer.weight for layer in layers))
        self._pulls: list[tuple[Tensor, Tensor]] = []
        self._sum, self._updates = torch.zeros((), device=self._weights[0].device), 0

    def penalty(self) -> Tensor | None:
        """Compute the pull of the matrices as they are before the step; add nothing to the loss."""
        self._pulls = []
        if self.strength:
            for weight in self._weights:
                if is_trained(weight):
                    deviation, gradient = isometry_gradient(weight.detach())
                    self._pulls.append((weight, gradient))
                    self._sum += deviation
            self._updates += 1
        return None

    def after_update(self, step: int) -> None:
        """Pull."""
        import torch

        rates = {
            p: group["lr"]
            for group in self._learner.optimizer.param_groups
            for p in group["params"]
        }
        with torch.no_grad():
            for weight, gradient in self._pulls:
                weight.sub_(gradient, alpha=rates[weight] * self.strength)

    def columns(self) -> dict[str, float]:
        """Return the mean deviation since the last row."""
        mean = float(self._sum) / max(self._updates, 1)
        self._sum.zero_()
        self._updates = 0
        return {"adamo_deviation": mean}


def isometry_gradient(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return norm(W^T W - I)_F^2 and its gradient; of a wide W, that of W W^T.

    Args:
        weight: ``(rows, columns)``.
    """
    import torch

    wide = weight.shape[0] < weight.shape[1]
    gram = weight @ weight.mT if wide else weight.mT @ weight
    gram = gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return gram.square().sum(), 4 * (gram @ weight if wide else weight @ gram)


def _require_adam(optimizer: torch.optim.Optimizer, remedy: str) -> None:
    import torch

    if not isinstance(optimizer, torch.optim.Adam):
        raise DoesNotFit(f"{remedy} changes Adam; the optimizer is {type(optimizer).__name__}")


def _decay_of(optimizer: torch.optim.Optimizer) -> float:
    """Return the greatest weight decay of an optimizer's groups; 0 where there is none."""
    return float(max(group.get("weight_decay", 0.0) for group in optimizer.param_groups))


def _refuse_decay(decay: float, remedy: str) -> None:
    if decay:
        raise DoesNotFit(
            f"{remedy} has a weight decay of its own; the optimizer's is {decay}: set it to 0"
        )


@dataclass
class ShrinkPerturb(Remedy):
    """Shrink all parameters, and add noise to them.

    theta <- (1 - shrink) theta + noise N(0, 1), of all parameters but frozen ones, before each task
    or after each update. Before task 0 nothing is done. Parameters that must stay on a manifold are
    put back onto it afterwards; where a manifold holds their norm, only the noise is left.

    Sources: for tasks, Ash and Adams 2020, "On warm-starting neural network training". Their
    released program *keeps* 0.4 of the parameters, so its shrink is 0.6 here; its noise is 0.1
    times a freshly drawn network, so that each layer has its own; and it begins with a new
    optimizer. Ours by default: a shrink of 0.4, noise that is as large for all parameters, and
    moments that stay (``mlp+reset-optimizer+shrink-perturb`` clears them). For updates, Dohare et
    al. 2024, "Loss of plasticity in deep continual learning": the shrink is the learning rate times
    a weight decay of 1e-4, which is 3e-7 at their rate of 0.003, and the noise is 1e-6 to 1e-4.

    With ``each`` = task it is told where tasks begin, with ``each`` = update it is not. The angles
    of a QNN shrink towards the circuit that does nothing, and their noise is in radians. The column
    ``shrink_perturb_distance`` is the square root of the sum of the squared changes of all
    parameters since the last row.
    """

    tuned = "shrink"
    tries = (0.2, 0.4, 0.6, 0.8)
    declared = (
        Column(
            "shrink_perturb_distance", "distance moved by shrink and perturb", bounds=NONNEGATIVE
        ),
    )

    shrink: float
    """Part that is taken off (Ash and Adams 2020 before each task: 0.6; Dohare et al. 2024 after
    each update: 3e-7)."""
    noise: float
    """Standard deviation of the noise; of angles, radians (Dohare et al. 2024 after each update:
    1e-6 to 1e-4)."""
    each: Literal["task", "update"]
    """Before each task, or after each update."""

    @property
    def sees_tasks(self) -> bool:
        """Whether it is told where a task begins."""
        return self.each == "task"

    def __post_init__(self) -> None:
        require(self, 0, 1, "shrink")
        require(self, 0, math.inf, "noise")

    def start(self, learner: Learns, seed: int) -> None:
        """Find the parameters."""
        import torch

        self._learner, self._seed = learner, seed
        first = next(learner.network.parameters())
        self._squares = torch.zeros((), device=first.device)

    def before_task(self, index: int) -> None:
        """Shrink and perturb, if it is for tasks and this is not the first."""
        if self.each == "task" and index > 0:
            self._act("shrink-perturb task", index)

    def after_update(self, step: int) -> None:
        """Shrink and perturb, if it is for updates."""
        if self.each == "update":
            self._act("shrink-perturb update", step)

    def _act(self, purpose: str, index: int) -> None:
        import torch

        from plasticity.seeding import generator_for

        if self.shrink == 0 and self.noise == 0:
            return
        parameters = [p.detach() for p in trained_parameters(self._learner.network)]
        before = [p.clone() for p in parameters]
        torch._foreach_mul_(parameters, 1 - self.shrink)
        if self.noise:
            drawn = _normal(parameters, generator_for(self._seed, purpose, index))
            torch._foreach_add_(parameters, drawn, alpha=self.noise)
        self._learner.retract()
        torch._foreach_sub_(before, parameters)
        self._squares += torch.stack(torch._foreach_norm(before)).square().sum()

    def columns(self) -> dict[str, float]:
        """Return how far the parameters were moved since the last row."""
        distance = math.sqrt(float(self._squares))
        self._squares.zero_()
        return {"shrink_perturb_distance": distance}


def _normal(like: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Draw standard normal numbers in the shapes of tensors; on the CPU, in their order."""
    import torch

    numbers = torch.randn(sum(t.numel() for t in like), generator=generator).to(like[0])
    parts = numbers.split([t.numel() for t in like])
    return [part.view_as(t) for part, t in zip(parts, like, strict=True)]


@dataclass
class UtilityGated(Remedy):
    """Learn by gradient descent with noise, both gated by each weight's utility.

    u <- beta u + (1 - beta) (-g w), gate = 1 - sigmoid(u / greatest u of all weights), and

        w <- (1 - rate decay) w - 2 rate (g + noise N(0, 1)) gate.

    So weights of no use take whole, noisy steps (the gate of utility 0 is 1/2), and the most useful
    one half of that. It replaces Adam: the arm's learning rate and epsilon count for nothing, those
    of groups of parameters too, and the greatest u is that of all groups. ``equal-betas`` and
    ``adamw`` are refused beside it, and so is an optimizer that has a weight decay already.

    Source: Elsayed and Mahmood 2024, "Addressing loss of plasticity and catastrophic forgetting in
    continual learning". The optimizer in the README of its released program has the factor 2. The
    program that made the paper's numbers has none: so its rate of 0.01 and decay of 0.01 for
    permuted MNIST are a rate of 0.005 and a decay of 0.02 here. The default joins that rate with
    the factor 2. Our deviations: the running mean is corrected by 1 - beta^t in the numerator and
    in the greatest (so not at all), as in the paper; the program corrects the numerator only. Where
    no utility is positive, all gates of negative ones are 1. The angles of a QNN are weights as
    others; their noise is in radians. ``reset-optimizer`` and ``start-afresh`` forget the
    utilities. The column ``upgd_gate`` is the mean gate of the weights at the last update.
    """

    tuned = "learning_rate"
    tries = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    declared = (Column("upgd_gate", "mean gate of UPGD"),)

    learning_rate: float
    """Size of a step. The rate that the optimizer has otherwise counts for nothing (Elsayed and
    Mahmood 2024 for permuted MNIST: 0.005)."""
    noise: float
    """Standard deviation of the noise, on the gradient's scale."""
    weight_decay: float
    """Times the learning rate, the part that an update takes off a weight (Elsayed and Mahmood 2024
    for permuted MNIST: 0.02)."""
    utility_decay: float
    """Factor beta of the running means, an update."""

    def __post_init__(self) -> None:
        require(self, 0, math.inf, "learning_rate", "noise", "weight_decay")
        require(self, 0, 1 - 1e-9, "utility_decay")

    def on_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Return another optimizer for its parameters, in the same groups."""
        from plasticity.remedies.modules import Upgd

        self._given = 0.0 if isinstance(optimizer, Upgd) else _decay_of(optimizer)
        groups = [{"params": group["params"]} for group in optimizer.param_groups]
        return Upgd(groups, self.learning_rate, self.weight_decay, self.utility_decay, self._draw)

    def start(self, learner: Learns, seed: int) -> None:
        """Keep what the noise is drawn from; refuse to replace a weight decay."""
        _refuse_decay(self._given, "upgd")
        self._learner, self._seed = learner, seed

    def _draw(self, parameters: Sequence[Tensor]) -> list[Tensor] | None:
        from plasticity.seeding import generator_for

        if self.noise == 0:
            return None
        generator = generator_for(self._seed, "upgd", self._learner.steps)
        return [self.noise * drawn for drawn in _normal(parameters, generator)]

    def columns(self) -> dict[str, float]:
        """Return the mean gate."""
        import torch

        optimizer = self._learner.optimizer
        trained = trained_parameters(self._learner.network)
        weights = [p for p in trained if optimizer.state.get(p)]
        if not weights:
            return {"upgd_gate": math.nan}
        gates = optimizer.gates(weights)  # type: ignore[attr-defined]
        return {"upgd_gate": float(torch.cat([gate.flatten() for gate in gates]).mean())}
