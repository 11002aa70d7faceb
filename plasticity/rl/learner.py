"""What remedies see of PPO: a policy whose training loop is stable-baselines3's own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.errors import DoesNotFit
from plasticity.learning.remedy import Remedy
from plasticity.remedies.layers import Hidden
from plasticity.remedies.recycling import Units
from plasticity.rl.features import MlpFeatures, NormalisedTanh, QuantumFeatures
from plasticity.tasks.samples import Samples

try:
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.torch_layers import FlattenExtractor
except ModuleNotFoundError as error:
    raise ImportError(
        f"plasticity.rl.learner needs stable-baselines3 ({error}): "
        "pip install 'quantum-plasticity[rl]'"
    ) from None


class PolicyLearner:
    """Let remedies act on a policy while PPO trains it.

    An update is a step of the optimizer, for one minibatch. stable-baselines3 computes its
    gradients and clips their norm. Then the gradients of the penalties are added, right before the
    step. So ``L2`` adds lambda theta to the clipped gradient, as Adam's ``weight_decay`` does, with
    which Dohare et al. 2024 train. Neither the clipping nor the column ``gradient_norm`` sees it.
    ``L2`` is over all parameters: it also pulls the logarithms of the policy's standard deviations
    to 0. What acts after an update acts right after the step. There are no tasks.

    Args:
        policy: Untrained; its optimizer is not replaced afterwards.
        remedies: In the order in which they act; copied.
        seed: Decides what they draw.

    Attributes:
        network: The policy.
        optimizer: The policy's.
        steps: Updates so far.

    Raises:
        DoesNotFit: A remedy is not for the policy.
    """

    def __init__(self, policy: ActorCriticPolicy, remedies: Iterable[Remedy], seed: int) -> None:
        self.remedies = tuple(copy.deepcopy(remedy) for remedy in remedies)
        self.network: nn.Module = policy
        for remedy in self.remedies:
            policy.optimizer = remedy.on_optimizer(policy.optimizer)
        self.optimizer = policy.optimizer
        self.steps = 0
        self.samples: Samples | None = None  # there are no tasks
        for remedy in self.remedies:
            remedy.start(self, seed)
        self.optimizer.register_step_pre_hook(self._add_penalties)
        self.optimizer.register_step_post_hook(self._act)

    def new_optimizer(self) -> torch.optim.Optimizer:
        """Refuse: the optimizer is stable-baselines3's."""
        raise DoesNotFit("PPO's optimizer is not replaced")

    def retract(self) -> None:
        """Do nothing: no parameter of a policy must stay on a manifold."""

    def _add_penalties(self, *_: Any) -> None:
        for remedy in self.remedies:
            penalty = remedy.penalty()
            if penalty is None:
                continue
            learned = [p for p in self.network.parameters() if p.grad is not None]
            gradients = torch.autograd.grad(penalty, learned, allow_unused=True)
            for p, gradient in zip(learned, gradients, strict=True):
                if gradient is not None:
                    assert p.grad is not None
                    p.grad.add_(gradient)

    def _act(self, *_: Any) -> None:
        self.steps += 1
        for remedy in self.remedies:
            remedy.after_update(self.steps)

    def columns(self) -> dict[str, float]:
        """Return what the remedies did since the last row."""
        return {name: value for r in self.remedies for name, value in r.columns().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what decides how the remedies go on, beside the policy and its optimizer."""
        states = [copy.deepcopy(remedy.state_dict()) for remedy in self.remedies]
        return {"steps": self.steps, "remedies": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``."""
        self.steps = state["steps"]
        for remedy, of_remedy in zip(self.remedies, state["remedies"], strict=True):
            remedy.load_state_dict(copy.deepcopy(of_remedy))


def hidden_layers(network: nn.Module, remedy: str) -> list[Hidden]:
    """Return the hidden layers of a policy: those that are shared, the policy's, the value's.

    The policy's last units are read by the layer of the actions, the value's by that of the value;
    shared ones by both, or by the first layers of their networks.

    Args:
        network: A policy whose features are observations, ``MlpFeatures`` or ``QuantumFeatures``.
        remedy: For whom, in words.

    Raises:
        DoesNotFit: There is none, or the policy is of another kind.
    """
    kinds = (FlattenExtractor, MlpFeatures, QuantumFeatures)
    if (
        not isinstance(network, ActorCriticPolicy)
        or not network.share_features_extractor
        or type(network.features_extractor) not in kinds
    ):
        raise DoesNotFit(f"{remedy} cannot see which layer feeds which in {type(network).__name__}")
    features = network.features_extractor
    shared = [*features.layers] if isinstance(features, MlpFeatures) else []
    pi, vf = [*network.mlp_extractor.policy_net], [*network.mlp_extractor.value_net]
    if not shared + pi + vf:
        raise DoesNotFit(
            f"{remedy} needs hidden units between linear layers; the policy's layers are "
            f"{type(features).__name__}, Linear"
        )
    heads = [[*pi, network.action_net], [*vf, network.value_net]]
    layers = _layers(shared, tuple(head[0] for head in heads))
    for head in heads:
        layers += _layers(head[:-1], (head[-1],))
    if any(not isinstance(layer.units, nn.Tanh | NormalisedTanh) for layer in layers):
        kind = type(layers[0].units).__name__
        raise DoesNotFit(f"{remedy} needs hidden tanh units; the policy's are {kind}")
    return layers


def _layers(chain: list[nn.Module], readers: tuple[nn.Module, ...]) -> list[Hidden]:
    """Return the hidden layers of linear layers and units in turn, and of who reads the last."""
    found = []
    for place in range(0, len(chain), 2):
        incoming, units = chain[place : place + 2]
        outgoing, *others = chain[place + 2 : place + 3] or readers
        normalized = isinstance(units, NormalisedTanh)
        found.append(Hidden(incoming, normalized, units, outgoing, (*others,), orthogonal_rows))  # type: ignore[arg-type]
    return found


def orthogonal_rows(incoming: nn.Linear, number: int, generator: torch.Generator) -> Tensor:
    """Draw so many rows of a layer's matrix, as stable-baselines3's policies begin.

    Those matrices are sqrt(2) times orthogonal ones. A row of one has a random direction and, where
    there are no more units than inputs, the length sqrt(2); where there are more, the root mean
    square length sqrt(2 inputs / units). Rows that are drawn have that length. They are not
    orthogonal to the rows that stay.

    Returns:
        ``(number, inputs)``.
    """
    rows = torch.randn(number, incoming.in_features, generator=generator)
    length = math.sqrt(2 * min(1, incoming.in_features / incoming.out_features))
    result: Tensor = length * rows / rows.norm(dim=1, keepdim=True)
    return result


class TanhUnits(Units):
    """What continual backprop knows of the tanh units of a layer."""

    def size(self, h: Tensor, mean: Tensor, decay: float) -> Tensor:
        """Return how far activations are from their running mean, on average."""
        return (h - self.activation / self.corrections(decay)).abs().mean(0)


def watch_gradients(layer: nn.Module, is_due: Callable[[], bool]) -> None:
    """Have a module keep the loss's gradient in what it gave at last in training, as ``seen``.

    Args:
        layer: Called once an update.
        is_due: Whether the gradient is wanted in this update.
    """

    def see(module: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        def keep(gradient: Tensor) -> None:
            module.seen = gradient.detach()

        if module.training and outputs.requires_grad and is_due():
            outputs.register_hook(keep)

    layer.register_forward_hook(see)
