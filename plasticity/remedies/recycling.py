"""Remedies that replace units which are of little use by new ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plasticity.learning.column import Column
from plasticity.learning.remedy import Learns, Remedy
from plasticity.remedies.limits import require

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from plasticity.remedies.layers import Hidden


def recycle(
    layer: Hidden,
    units: Tensor,
    generator: torch.Generator,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Make new units of some that a layer has.

    Their incoming weights are drawn as the layer says, Glorot uniform, and their biases are zero,
    as those with which the networks here begin; their outgoing weights are zero, so that they say
    nothing at first. What the optimizer remembers of these numbers, of the shape of the parameter,
    is set to zero: Adam's moments, say. Adam counts steps for whole tensors: so its bias correction
    goes on, and takes the new zeros for the means of a long time. The first steps of a new unit are
    then sized by (1 - beta1) / sqrt(1 - beta2), which is 3 at the usual betas.

    Args:
        layer: Changed in place.
        units: Their places, ``(number,)``.
        generator: Of the weights.
        optimizer: Of the network.
    """
    import torch

    incoming = layer.incoming
    columns = (slice(None), units)
    drawn = layer.rows(incoming, len(units), generator)
    with torch.no_grad():
        incoming.weight[units] = drawn.to(incoming.weight)
        places: list[tuple[Tensor, Any]] = [(incoming.weight, units), (incoming.bias, units)]
        places += [(outgoing.weight, columns) for outgoing in layer.readers]
        for parameter, where in places:
            if parameter is not incoming.weight:
                parameter[where] = 0
            for memory in optimizer.state.get(parameter, {}).values():
                if isinstance(memory, torch.Tensor) and memory.shape == parameter.shape:
                    memory[where] = 0


@dataclass
class ContinualBackprop(Remedy):
    """Replace the least useful units, a few at a time.

    Utility u <- eta u + (1 - eta) mean abs(h) sum abs(w_out), at each update, where h is the unit's
    activation and the mean is over the batch. Units that are older than ``maturity`` updates can be
    replaced: at each update ``replacement_rate`` times their number, of each layer by itself, where
    parts of a unit add up over the updates. Those of least u / (1 - eta^age) are. Their incoming
    weights are drawn anew, their outgoing weights are 0, what they gave on average goes into the
    biases of the next layer, and the optimizer's moments of their weights are 0 (see ``recycle``).

    Source: Dohare et al. 2024, "Loss of plasticity in deep continual learning", Algorithm 1, and
    the released program for the mean activation, h <- eta h + (1 - eta) mean h, and its correction
    by 1 - eta^age. Range of the rate: 1e-6 to 1e-4; at 1e-4, 16 units have one replaced in 625
    updates. That range is for 2,000 units a layer and updates of a sample each.

    Our deviations from the released program: it sets the mean activation to zero before it uses it,
    so that it never compensates a bias; here the bias is compensated, as Algorithm 1 asks. It goes
    from the first layer to the last: where two connected units are replaced at once, the weight
    between them is first zeroed, then drawn anew; here it is zero. For permuted MNIST its utility
    is "adaptable_contribution": abs(h - mean h) for h, and divided by the mean of abs(w_in). It
    draws weights as Kaiming uniform, and its Adam counts the steps of each weight anew. Outputs are
    no units: they are not replaced. For hidden ReLU units between linear layers, also in the head
    of a network with a circuit; a layer that has, or is read by, frozen weights or is read with a
    frozen bias, is left alone. The column ``continual_backprop_recycled`` is the number of units
    since the last row.
    """

    tuned = "replacement_rate"
    tries = (1e-5, 1e-4, 1e-3, 1e-2)
    declared = (
        Column(
            "continual_backprop_recycled",
            "units that continual backprop recycled",
        ),
    )

    replacement_rate: float
    """Part of the mature units that an update replaces (Dohare et al. 2024: 1e-6 to 1e-4)."""
    maturity: int
    """Updates for which a new unit is left alone."""
    utility_decay: float
    """Factor eta of the running means, an update."""

    def __post_init__(self) -> None:
        require(self, 0, 1, "replacement_rate")
        require(self, 0, math.inf, "maturity")
        require(self, 0, 1 - 1e-9, "utility_decay")

    def start(self, learner: Learns, seed: int) -> None:
        """Find the units."""
        self._learner, self._seed, self._recycled = learner, seed, 0
        self._layers = self._watch(learner.network)

    def _watch(self, network: nn.Module) -> list[Units]:
        """Return the hidden layers, from the first to the last."""
        from plasticity.remedies.layers import hidden_layers, replaceable, require_free

        layers = replaceable(hidden_layers(network, "continual-backprop"), "continual-backprop")
        require_free(network, "continual-backprop")
        return [Units(layer) for layer in layers]

    def after_update(self, step: int) -> None:
        """Follow the utilities, and replace units whose turn it is."""
        if self.replacement_rate == 0:
            return
        # From the last layer on: its new rows come before the zeros in its columns.
        for place, layer in reversed([*enumerate(self._layers)]):
            if not layer.layer.trained:
                continue
            units = layer.units_to_replace(self.replacement_rate, self.maturity, self.utility_decay)
            if units is not None:
                from plasticity.seeding import generator_for

                generator = generator_for(self._seed, "continual-backprop", step, place)
                layer.replace(units, self.utility_decay, generator, self._learner.optimizer)
                self._recycled += len(units)

    def columns(self) -> dict[str, float]:
        """Return the number of units that were replaced since the last row."""
        recycled, self._recycled = self._recycled, 0
        return {"continual_backprop_recycled": float(recycled)}

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of the units."""
        return {"layers": [layer.state_dict() for layer in self._layers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``."""
        for layer, of_layer in zip(self._layers, state["layers"], strict=True):
            layer.load_state_dict(of_layer)


class Units:
    """What continual backprop knows of the units of a layer.

    Attributes:
        utility: Running means of the utilities, ``(units,)``, from 0.
        activation: Running means of the activations, ``(units,)``, from 0.
        ages: Updates since a unit was new, ``(units,)``; on the CPU, so that to ask for them waits
            for no device.
        owed: Parts of a unit to be replaced.
    """

    def __init__(self, layer: Hidden) -> None:
        import torch

        from plasticity.remedies.layers import watch

        self.layer = layer
        watch(layer.units)
        self.utility = torch.zeros_like(layer.incoming.bias, requires_grad=False)
        self.activation = self.utility.clone()
        self.ages = torch.zeros(len(self.utility), dtype=torch.int64)
        self.owed = 0.0

    def units_to_replace(self, rate: float, maturity: int, decay: float) -> Tensor | None:
        """Take an update into account, and return which units to replace after it, if any."""
        import torch

        from plasticity.remedies.layers import seen

        with torch.no_grad():
            h = seen(self.layer.units)
            activation = h.mean(0)
            self.activation.lerp_(activation, 1 - decay)
            self.ages += 1
            contribution = self.size(h, activation, decay)
            weights = [outgoing.weight.abs().sum(0) for outgoing in self.layer.readers]
            self.utility.lerp_(contribution * sum(weights), 1 - decay)
            mature = self.ages > maturity
            count = int(mature.sum())
            self.owed += count * rate
            number = min(int(self.owed), count)
            if number == 0:
                return None
            self.owed -= number
            utility = self.utility / self.corrections(decay)
            utility[~mature.to(utility.device)] = math.inf
            return utility.argsort(stable=True)[:number]

    def size(self, h: Tensor, mean: Tensor, decay: float) -> Tensor:
        """Return how large activations are, ``(units,)``.

        Args:
            h: Of a batch, ``(batch, units)``.
            mean: Over the batch, ``(units,)``.
            decay: Of the running means, which know the batch already.
        """
        return mean  # of ReLU units: that of the absolute values too

    def replace(
        self,
        units: Tensor,
        decay: float,
        generator: torch.Generator,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Replace units."""
        import torch

        with torch.no_grad():
            means = (self.activation / self.corrections(decay))[units]
            for outgoing in self.layer.readers:
                outgoing.bias.add_(outgoing.weight[:, units] @ means)
        recycle(self.layer, units, generator, optimizer)
        self.utility[units] = 0
        self.activation[units] = 0
        self.ages[units.cpu()] = 0

    def corrections(self, decay: float) -> Tensor:
        """Return 1 - decay^age, by which running means from 0 are too small."""
        return (1 - decay ** self.ages.double()).to(self.utility)

    def state_dict(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "utility": self.utility, "activation": self.activation, "ages": self.ages,
            "owed": self.owed,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``."""
        for name in ("utility", "activation", "ages"):
            getattr(self, name).copy_(state[name])
        self.owed = state["owed"]


@dataclass
class ReDo(Remedy):
    """Replace dormant units, all at once, every so many updates.

    Score s_i = mean abs(h_i) / (mean over the layer's units of mean abs(h)), over the batch of the
    update. Units with s_i <= threshold get new incoming weights, outgoing weights of 0, and moments
    of 0 (see ``recycle``). Where all units of a layer are silent, all are replaced.

    Source: Sokar et al. 2023, "The dormant neuron phenomenon in deep reinforcement learning", with
    its threshold of 0.1 and period of 1,000 updates. There, as here, what a dormant unit still gave
    is lost. A period of 1,000 updates is 13 tasks of 79; for permuted MNIST, Kumar et al. 2023 (see
    ``l2-init``) take one task or five. A run of fewer updates than the period does nothing, as the
    column shows. Our deviations from the released program (Dopamine): it scores 256 samples of
    their own, drawn from the replay memory, with the network after the update, and it leaves the
    moments of biases as they are. For hidden ReLU units between linear layers, also in the head of
    a network with a circuit; a layer that has, or is read by, frozen weights or is read with a
    frozen bias, is left alone. The column ``redo_recycled`` is the number of units since the last
    row.
    """

    tuned = "every"
    tries = (30, 100, 300, 1_000)
    declared = (Column("redo_recycled", "units that ReDo recycled"),)

    threshold: float
    """Greatest score of a dormant unit; below 0 there is none."""
    every: int
    """Updates from one look to the next (Sokar et al. 2023: 1,000; Kumar et al. 2023: those of a
    task, or of five)."""

    def __post_init__(self) -> None:
        require(self, -1, math.inf, "threshold")
        require(self, 1, math.inf, "every")

    def start(self, learner: Learns, seed: int) -> None:
        """Find the units."""
        self._learner, self._seed, self._recycled = learner, seed, 0
        self._layers = self._watch(learner)

    def _watch(self, learner: Learns) -> list[Hidden]:
        """Return the hidden layers, from the first to the last, and see what is scored."""
        from plasticity.remedies.layers import hidden_layers, replaceable, require_free, watch

        layers = replaceable(hidden_layers(learner.network, "redo"), "redo")
        require_free(learner.network, "redo")
        for layer in layers:
            watch(layer.units)
        return layers

    def _dormant(self, layer: Hidden) -> Tensor:
        """Return which units to replace."""
        from plasticity.remedies.layers import seen

        return self._of_least(seen(layer.units))

    def _of_least(self, numbers: Tensor) -> Tensor:
        """Return the units whose score by these numbers, ``(batch, units)``, is low enough."""
        size = numbers.abs().mean(0)
        return (size <= self.threshold * size.mean()).nonzero().flatten()

    def after_update(self, step: int) -> None:
        """Replace the dormant units if it is time."""
        if self.threshold < 0 or step % self.every:
            return  # below 0 not even where all are silent
        from plasticity.seeding import generator_for

        # From the last layer on: its new rows come before the zeros in its columns.
        for place, layer in reversed([*enumerate(self._layers)]):
            if not layer.trained:
                continue
            dormant = self._dormant(layer)
            if len(dormant):
                generator = generator_for(self._seed, "redo", step, place)
                recycle(layer, dormant, generator, self._learner.optimizer)
                self._recycled += len(dormant)

    def columns(self) -> dict[str, float]:
        """Return the number of units that were replaced since the last row."""
        recycled, self._recycled = self._recycled, 0
        return {"redo_recycled": float(recycled)}
