"""Remedies for the policies of PPO, whose hidden units are tanh units.

``L2`` and ``EqualBetas`` of ``plasticity.remedies`` are for policies as they are. See
``plasticity.rl.learner`` for when they act.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plasticity.errors import DoesNotFit
from plasticity.learning.remedy import Learns, Remedy
from plasticity.remedies import recycling

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plasticity.remedies.layers import Hidden
    from plasticity.remedies.recycling import Units


@dataclass
class LayerNorm(Remedy):
    """Normalize each hidden layer's numbers before its tanh.

    z <- (z - mean) / sqrt(variance + 1e-5), over the units of a layer, for each sample by itself.

    Source: Lyle et al. 2023, "Understanding plasticity in neural networks", where it stands before
    a ReLU. As in the other experiments it has no scale and no offset of its own: policies with it
    and without it have the same parameters and begin with the same numbers. A layer's variance
    needs two units. It has no column: where it does not act it is refused.
    """

    def policy_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return stable-baselines3's ``policy_kwargs`` with it, so that a saved policy has it."""
        from plasticity.rl.features import MlpFeatures, NormalisedTanh

        changed: dict[str, Any] = {**options, "activation_fn": NormalisedTanh}
        if options.get("features_extractor_class") is MlpFeatures:
            of_features = {**options["features_extractor_kwargs"], "activation_fn": NormalisedTanh}
            changed["features_extractor_kwargs"] = of_features
        return changed

    def start(self, learner: Learns, seed: int) -> None:
        """Refuse a policy without hidden layers that it can normalize."""
        from plasticity.rl.learner import hidden_layers

        for layer in hidden_layers(learner.network, "layer-norm"):
            if layer.incoming.out_features < 2:
                raise DoesNotFit("layer-norm: a hidden layer has 1 unit")


@dataclass
class ContinualBackprop(recycling.ContinualBackprop):
    """Replace the least useful units, a few at a time.

    Utility u <- eta u + (1 - eta) mean abs(h - m) sum abs(w_out), at each update, where h is the
    unit's activation, the mean is over the minibatch, m is the unit's running mean activation, and
    w_out are the weights of all layers that read the unit: those of the value's network in the
    value's, those of the policy's in the policy's, both for units that both share. Each hidden
    layer is by itself. Units that are older than ``maturity`` updates can be replaced: at each
    update ``replacement_rate`` times their number, where parts of a unit add up. Those of least
    u / (1 - eta^age) are. Their incoming weights are drawn anew (see ``orthogonal_rows``), their
    biases and outgoing weights are 0, what they gave on average goes into the biases of the next
    layers, and the optimizer's moments of their weights are 0. An update is a minibatch; rollouts
    and evaluations do not count.

    Source: Dohare et al. 2024, "Loss of plasticity in deep continual learning", with its numbers
    for PPO: a rate of 1e-4, a maturity of 10,000 and eta of 0.99. There it comes with ``l2`` of
    1e-4 and ``equal-betas``: ``mlp+l2+equal-betas+continual-backprop``. Our deviation: there units
    are ReLU, and u has abs(h). A tanh unit that is saturated gives 1 or -1 whatever it is shown,
    and abs(h) would call it the most useful one. So u has abs(h - m), what is lost where a unit is
    replaced by its mean; the released program knows it as "zero_contribution". The other deviations
    are those of the card for the other experiments. The column ``continual_backprop_recycled`` is
    the number of units since the last row.
    """

    def _watch(self, network: nn.Module) -> list[Units]:
        from plasticity.remedies.layers import replaceable
        from plasticity.rl.learner import TanhUnits, hidden_layers

        layers = replaceable(hidden_layers(network, "continual-backprop"), "continual-backprop")
        return [TanhUnits(layer) for layer in layers]


@dataclass
class ReDo(recycling.ReDo):
    """Replace dormant units, all at once, every so many updates.

    Score s_i = mean abs(dL/dz_i) / (mean over the layer's units of it), over the minibatch of the
    update, where z_i is what the unit is given before its tanh. Units with s_i <= threshold get new
    incoming weights (see ``orthogonal_rows``), biases, outgoing weights and moments of 0. A layer
    whose gradients are all zero is left alone: then the minibatch says nothing of single units,
    say, because all its samples are clipped. An update is a minibatch.

    Source: Sokar et al. 2023, "The dormant neuron phenomenon in deep reinforcement learning", with
    its threshold of 0.1 and period of 1,000 updates (Dohare et al. 2024 take 100 for ReDo in PPO).
    Its released program scores 256 samples of the replay memory instead, and leaves the moments of
    biases as they are. Our deviation: there units are ReLU, the score has abs(h_i), and a unit of
    score 0 has no gradient. A tanh unit is zero in the midst of where it learns, and learns nothing
    where abs(h_i) is 1. So the score has the gradient, as that of Liu et al. 2025, "Measure
    gradients, not activations! Enhancing neuronal activity in deep reinforcement learning"; the
    gradient in z_i also vanishes where the unit is saturated. What a dormant unit still gave is
    lost. The column ``redo_recycled`` is the number of units since the last row.
    """

    def _watch(self, learner: Learns) -> list[Hidden]:
        from plasticity.remedies.layers import replaceable
        from plasticity.rl.learner import hidden_layers, watch_gradients

        layers = replaceable(hidden_layers(learner.network, "redo"), "redo")

        def is_due() -> bool:
            return self.threshold >= 0 and (learner.steps + 1) % self.every == 0

        for layer in layers:
            watch_gradients(layer.incoming, is_due)
        return layers

    def _dormant(self, layer: Hidden) -> Tensor:
        from plasticity.remedies.layers import seen

        gradients = seen(layer.incoming)
        if not gradients.any():
            return gradients.new_zeros(0).long()
        return self._of_least(gradients)
