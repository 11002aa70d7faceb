"""Remedies that add a penalty to the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from plasticity.errors import DoesNotFit
from plasticity.learning.column import Column
from plasticity.learning.remedy import Learns, Remedy
from plasticity.networks.trained import is_trained
from plasticity.remedies.limits import require

if TYPE_CHECKING:
    from torch import Tensor

    from plasticity.remedies.modules import Scaled


@dataclass
class _Penalty(Remedy):
    """Add a penalty to the loss of each update; with strength 0, none.

    Parameters that are frozen are not counted.
    """

    column: ClassVar[str]

    strength: float
    """Factor lambda of the penalty."""

    def __post_init__(self) -> None:
        require(self, 0, math.inf, "strength")

    def start(self, learner: Learns, seed: int) -> None:
        """Find the parameters that it looks at."""
        import torch

        from plasticity.remedies.modules import KnownGradient

        self._apply = KnownGradient.apply
        self._parameters = self._find(learner, seed)
        self._sum = torch.zeros((), device=self._parameters[0].device)
        self._updates = 0

    def penalty(self) -> Tensor | None:
        """Return the penalty, in nats."""
        self._counted = [k for k, p in enumerate(self._parameters) if is_trained(p)]
        if self.strength == 0 or not self._counted:
            return None
        value: Tensor = self._apply(self._evaluate, *self._parameters)  # type: ignore[no-untyped-call]
        self._sum += value.detach()
        self._updates += 1
        return value

    def columns(self) -> dict[str, float]:
        """Return its mean over the updates since the last row, in nats."""
        mean = float(self._sum) / max(self._updates, 1)
        self._sum.zero_()
        self._updates = 0
        return {self.column: mean}

    def _find(self, learner: Learns, seed: int) -> list[Tensor]:
        """Return the parameters that it may have a gradient in."""
        return list(learner.network.parameters())

    def _evaluate(self, parameters: list[Tensor]) -> Scaled:
        """Return the penalty of those that are ``_counted``, and its gradients in all of them.

        Autograd drops the gradients of parameters that are frozen.
        """
        raise NotImplementedError

    def _squares(self, numbers: list[Tensor], factor: float) -> Tensor:
        """Return factor times the sum of squares of what belongs to parameters that count."""
        import torch

        norms = torch.stack(torch._foreach_norm([numbers[k] for k in self._counted]))
        return factor * norms.dot(norms)


@dataclass
class L2(_Penalty):
    """Penalize large parameters: weight decay by the loss's gradient.

    lambda / 2 sum theta^2, over all parameters, biases and a QNN's angles among them, so that its
    gradient is lambda theta: the ``weight_decay`` of torch's Adam. Where Adam divides the gradient
    by its size, it divides this part too; ``AdamW`` does not.

    Source: Dohare et al. 2024, "Loss of plasticity in deep continual learning", whose range is 1e-5
    to 1e-3; the default is its greatest, which cures PPO there. A QNN is pulled to the circuit that
    does nothing, whose angles are 0. Where a manifold holds all norms, the penalty is a constant,
    and what it adds to a step is undone. The column ``l2_penalty`` is the mean penalty of an update
    since the last row.
    """

    column = "l2_penalty"
    declared = (Column(column, "penalty of L2", "nats"),)
    tuned = "strength"
    tries = (1e-5, 1e-4, 1e-3, 1e-2)

    def _evaluate(self, parameters: list[Tensor]) -> Scaled:
        return self._squares(parameters, self.strength / 2), parameters, self.strength


@dataclass
class L2Init(_Penalty):
    """Penalize the distance to the first parameters.

    lambda sum (theta - theta_0)^2, over all parameters, biases and a QNN's angles among them.

    Source: Kumar, Marklund and Van Roy 2023, "Maintaining plasticity in continual learning via
    regenerative regularization". The paper writes it as above; its released program has lambda / 2,
    as ``l2`` has. So the largest strength of its sweep, 1e-2, is 5e-3 here, and the default of 1e-2
    is twice that. It is for circuits too: it pulls each angle to that with which it began. A
    network that writes its function in other parameters before each task, as ``qnn-trivialised``
    does, has no such distance and is refused. The column ``l2_init_penalty`` is the mean penalty of
    an update since the last row.
    """

    column = "l2_init_penalty"
    declared = (Column(column, "penalty of L2 init", "nats"),)
    tuned = "strength"
    tries = (5e-5, 5e-4, 5e-3, 1e-2)

    def _find(self, learner: Learns, seed: int) -> list[Tensor]:
        for module in learner.network.modules():
            if callable(getattr(module, "before_task", None)):
                raise DoesNotFit(
                    f"l2-init: {type(module).__name__} begins each task with other parameters"
                )
        parameters = super()._find(learner, seed)
        self._first = [p.detach().clone() for p in parameters]
        return parameters

    def _evaluate(self, parameters: list[Tensor]) -> Scaled:
        import torch

        distances = [*torch._foreach_sub(parameters, self._first)]
        return self._squares(distances, self.strength), distances, 2 * self.strength

    def state_dict(self) -> dict[str, Any]:
        """Return the first parameters."""
        return {"first": self._first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the first parameters of a ``state_dict``."""
        for mine, other in zip(self._first, state["first"], strict=True):
            mine.copy_(other)


@dataclass
class CChain(Remedy):
    """Penalize churn: what an update changed for inputs not in its batch.

    lambda mean (f_t(x) - f_{t-1}(x))^2, over outputs and samples x of a reference batch, with f_t
    the network before update t and f_{t-1} the one before update t - 1, whose outputs are kept as
    numbers. The reference batch is the one of update t - 2: so it was in neither of the updates
    t - 1, which made the change, and t, which reduces it. There is none in the first two updates.

    Source: Tang et al. 2025, "Mitigating plasticity loss in continual reinforcement learning by
    reducing churn" (C-CHAIN), there for policies and values in reinforcement learning, with
    reference batches that are drawn from a memory; 0.1 is the factor of a public port. Our
    deviations: the reference batch is an earlier one of the training, since there is no memory, and
    the outputs are logits. It takes two evaluations of a batch more an update, in the mode to
    evaluate. At the beginning of a task the reference is of the task before. The column
    ``c_chain_penalty`` is the mean penalty of an update since the last row.
    """

    tuned = "strength"
    tries = (0.01, 0.1, 1.0, 10.0)
    declared = (Column("c_chain_penalty", "penalty of C-CHAIN", "nats"),)

    strength: float
    """Factor lambda of the penalty; 0: none."""

    def __post_init__(self) -> None:
        require(self, 0, math.inf, "strength")

    def start(self, learner: Learns, seed: int) -> None:
        """Have the network keep its inputs."""
        import torch

        from plasticity.remedies.layers import keep_inputs

        self._learner = learner
        self._last: list[Tensor] = []  # inputs of the last update
        self._reference: list[Tensor] = []  # inputs, and the outputs before the last update
        if self.strength:
            keep_inputs(learner.network)
        device = next(learner.network.parameters()).device
        self._sum, self._updates = torch.zeros((), device=device), 0

    def penalty(self) -> Tensor | None:
        """Return the penalty, in nats."""
        if self.strength == 0:
            return None
        import torch

        from plasticity.networks.evaluating import evaluating
        from plasticity.remedies.layers import kept_inputs

        network, inputs = self._learner.network, kept_inputs(self._learner.network)
        term = None
        with evaluating(network):
            if self._reference:
                x, before = self._reference
                term = self.strength * (network(x) - before).abs().square().mean()
                self._sum += term.detach()
            if self._last:
                with torch.no_grad():
                    self._reference = [self._last[0], network(self._last[0])]
        self._last = [inputs]
        self._updates += 1
        return term

    def columns(self) -> dict[str, float]:
        """Return its mean over the updates since the last row, in nats."""
        mean = float(self._sum) / max(self._updates, 1)
        self._sum.zero_()
        self._updates = 0
        return {"c_chain_penalty": mean}

    def state_dict(self) -> dict[str, Any]:
        """Return the batches that are to come."""
        return {"last": list(self._last), "reference": list(self._reference)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the batches of a ``state_dict``."""
        device = self._sum.device
        self._last = [x.to(device) for x in state["last"]]
        self._reference = [x.to(device) for x in state["reference"]]


@dataclass
class Spectral(_Penalty):
    """Penalize largest singular values that are not 1, and large biases.

    lambda sum over layers of (sigma_1(W)^k - 1)^2 + norm(b)^(2k), over all linear layers, the last
    among them. sigma_1 is estimated by power iteration, one iteration an update, from vectors that
    begin at random and are kept: sigma = u . W v, gradient 2 k sigma^(k-1) (sigma^k - 1) u v^T.

    Source: Lewandowski et al. 2025, "Learning continually by spectral regularization", with k = 2;
    the default strength is the middle of a range from 1e-4 to 1e-2. Of a network with a circuit it
    sees the linear layers only. The column ``spectral_penalty`` is the mean penalty of an update
    since the last row.
    """

    column = "spectral_penalty"
    declared = (Column(column, "spectral penalty", "nats"),)
    tuned = "strength"
    tries = (1e-4, 1e-3, 1e-2)

    power: int
    """Exponent k."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 1, 100, "power")

    def _find(self, learner: Learns, seed: int) -> list[Tensor]:
        import torch

        from plasticity.remedies.layers import linear_layers
        from plasticity.seeding import generator_for

        layers = linear_layers(learner.network, "spectral")
        self._left = []
        for place, layer in enumerate(layers):
            generator = generator_for(seed, "spectral", place)
            vector = torch.randn(layer.out_features, generator=generator).to(layer.weight)
            self._left.append(vector / vector.norm())
        parameters: list[Tensor] = []
        for layer in layers:
            # What an earlier layer has, too, counts there.
            shared = {*parameters}
            pair = (layer.weight, layer.bias)
            parameters += [p.detach() if p in shared else p for p in pair]
        return parameters

    def _evaluate(self, parameters: list[Tensor]) -> Scaled:
        import torch

        weights, biases, k = parameters[::2], parameters[1::2], self.power
        rights = [left @ weight for weight, left in zip(weights, self._left, strict=True)]
        lengths = torch.stack(torch._foreach_norm(rights)).clamp(min=1e-30)
        rights = [*torch._foreach_div(rights, [*lengths.unbind()])]
        products = [weight @ right for weight, right in zip(weights, rights, strict=True)]
        # u is the product by its length, which is sigma.
        sigmas, sizes = torch.stack(torch._foreach_norm([*products, *biases])).view(2, -1)
        excess = sigmas**k - 1
        if left_out := {*range(len(parameters))} - {*self._counted}:
            excess[[place // 2 for place in left_out if place % 2 == 0]] = 0
            sizes[[place // 2 for place in left_out if place % 2]] = 0
        value = self.strength * (excess.square() + sizes ** (2 * k)).sum()
        of_sigmas = (sigmas ** (k - 1) * excess).unbind()
        of_sizes = (sizes ** (2 * k - 2)).unbind()
        self._left = [*torch._foreach_div(products, [*sigmas.clamp(min=1e-30).unbind()])]
        gradients = []
        for u, v, of_sigma, bias, of_size in zip(
            self._left, rights, of_sigmas, biases, of_sizes, strict=True
        ):
            gradients += [torch.outer(of_sigma * u, v), of_size * bias]
        return value, gradients, 2 * k * self.strength

    def state_dict(self) -> dict[str, Any]:
        """Return the vectors of the power iteration."""
        return {"left": self._left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the vectors of a ``state_dict``."""
        pairs = zip(self._left, state["left"], strict=True)
        self._left = [found.to(mine) for mine, found in pairs]


@dataclass
class Parseval(_Penalty):
    """Penalize hidden layers whose rows are not orthogonal and of the same length.

    lambda sum over layers of norm(W W^T - s I)_F^2, over all linear layers but the last, whose
    outputs have a scale of their own; biases are left alone. Where a layer has more units than
    inputs, W W^T cannot be s I; then the penalty is that of W^T W - s I, which differs by the
    constant s^2 (units - inputs) and has the same gradient.

    Source: Chung et al. 2024, "Parseval regularization for continual reinforcement learning", with
    lambda = 1e-3; s is the square of the gain: 2 for ReLU. Our deviation: their released program
    multiplies lambda by (64 / units)^2, which is 16 for layers of 16 units. So their strength there
    is 0.016 here. It begins with orthogonal matrices, too; networks here do not. The column
    ``parseval_penalty`` is the mean penalty of an update since the last row.
    """

    column = "parseval_penalty"
    declared = (Column(column, "Parseval penalty", "nats"),)
    tuned = "strength"
    tries = (1e-4, 1e-3, 1e-2, 1e-1)

    scale: float
    """Square s of the rows' length."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 0, math.inf, "scale")

    def _find(self, learner: Learns, seed: int) -> list[Tensor]:
        import torch

        from plasticity.remedies.layers import linear_layers

        layers = linear_layers(learner.network, "parseval")
        if len(layers) < 2:
            raise DoesNotFit("parseval needs a linear layer before the last one; there is none")
        weights = [*dict.fromkeys(layer.weight for layer in layers[:-1])]
        self._targets = [self.scale * torch.eye(min(w.shape)).to(w) for w in weights]
        return [*weights]

    def _evaluate(self, parameters: list[Tensor]) -> Scaled:
        import torch

        differences, gradients = [], []
        for weight, target in zip(parameters, self._targets, strict=True):
            if weight.shape[0] <= weight.shape[1]:
                difference = torch.addmm(target, weight, weight.mT, beta=-1)
                gradient = difference @ weight
            else:
                difference = torch.addmm(target, weight.mT, weight, beta=-1)
                gradient = weight @ difference
            differences.append(difference)
            gradients.append(gradient)
        return self._squares(differences, self.strength), gradients, 4 * self.strength
