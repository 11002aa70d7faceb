"""Remedies that replace units which are of little use by new ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

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
    length: Tensor | None = None,
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
        length: Norm that the incoming weights of a unit shall have; None: as drawn.
    """
    import torch

    incoming = layer.incoming
    columns = (slice(None), units)
    drawn = layer.rows(incoming, len(units), generator)
    if length is not None:
        drawn = drawn * (length.to(drawn) / drawn.norm(dim=1, keepdim=True))
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
class Revive(Remedy):
    """Give dead units new weights when a task begins, and do nothing else.

    A unit is dead if it is zero on all of 256 training samples of the task. Its incoming weights
    are drawn anew, in the length that those of the layer's living units have on average; its bias
    and its outgoing weights are 0, and so are the optimizer's moments of all of these (see
    ``recycle``). So the outputs stay what they were, and dead units are the only thing that
    changes. In a layer without a living unit, the weights have the length with which they are
    drawn. Before task 0 nothing is done.

    Source: ours; it isolates dead units as a cause, as ``redo`` with a threshold of 0 would, which
    looks at the batch of an update, whenever it comes. It is told where tasks begin, and sees
    training samples of the new one. For hidden ReLU units between linear layers; a layer that has,
    or is read by, frozen weights or is read with a frozen bias, is left alone. The column
    ``revive_units`` is the number of units since the last row.
    """

    declared = (Column("revive_units", "dead units that were revived"),)

    samples: int
    """Training samples on which a dead unit is zero; 0: none is looked for."""

    def __post_init__(self) -> None:
        require(self, 0, math.inf, "samples")

    def start(self, learner: Learns, seed: int) -> None:
        """Find the units."""
        from plasticity.remedies.layers import hidden_layers, replaceable, require_free

        self._learner, self._seed, self._revived = learner, seed, 0
        self._layers = replaceable(hidden_layers(learner.network, "revive"), "revive")
        require_free(learner.network, "revive")

    def before_task(self, index: int) -> None:
        """Replace the dead units, if this is not the first task."""
        samples = self._learner.samples
        if index == 0 or self.samples == 0 or samples is None:
            return
        import torch

        from plasticity.seeding import generator_for

        order = torch.randperm(
            len(samples), generator=generator_for(self._seed, "revive samples", index)
        )
        x, _ = samples.batch(
            order[: self.samples].to(next(self._learner.network.parameters()).device)
        )
        # All are found before any is replaced: what a new unit says is 0.
        dead = dead_units(self._learner.network, self._layers, x)
        for place, (layer, units) in enumerate(zip(self._layers, dead, strict=True)):
            if not layer.trained or not len(units):
                continue
            living = torch.ones(layer.incoming.out_features, dtype=torch.bool, device=x.device)
            living[units] = False
            lengths = layer.incoming.weight.detach()[living].norm(dim=1)
            generator = generator_for(self._seed, "revive", index, place)
            recycle(
                layer, units, generator, self._learner.optimizer,
                lengths.mean() if len(lengths) else None,
            )  # fmt: skip
            self._revived += len(units)

    def columns(self) -> dict[str, float]:
        """Return the number of units that were revived since the last row."""
        revived, self._revived = self._revived, 0
        return {"revive_units": float(revived)}


def dead_units(network: nn.Module, layers: list[Hidden], x: Tensor) -> list[Tensor]:
    """Return of each hidden layer the places of the units that are zero on all samples."""
    import torch

    from plasticity.networks.evaluating import evaluating

    found: dict[int, Tensor] = {}

    def look(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        found[id(module)] = (output == 0).all(0).nonzero().flatten()

    hooks = [layer.units.register_forward_hook(look) for layer in layers]
    try:
        with torch.no_grad(), evaluating(network):
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[id(layer.units)] for layer in layers]


@dataclass
class SelfNormalizedResets(Remedy):
    """Replace units that have been silent for longer than they ever were.

    A unit's age is the number of updates since it last fired, that is, since it was above 0 for a
    sample of the batch. Each time that it fires after a silence, the age that it had goes into the
    unit's own histogram. A unit whose age reaches its threshold is replaced (see ``recycle``), and
    this age goes into the histogram, too. Every ``every`` updates the thresholds follow: with q the
    least age up to which a part 1 - eta of the histogram lies, a threshold above q becomes q, and
    another one doubles, up to ``longest``; and the histogram begins anew. A unit that was never
    silent has the threshold 1. All begin with ``longest``.

    Source: Farias and Jozefiak 2025, "Self-normalized resets for plasticity in continual learning",
    and their released program, for histogram, doubling and bounds. Our deviations: ages count
    updates, not samples, which is the same where all batches are as large; the thresholds follow
    every so many updates, where the program is told the tasks and has them follow every so many of
    these. eta, the period and the bound have no default in the program; ours are small enough for
    tasks of some 100 updates. For hidden ReLU units between linear layers; a layer that has, or is
    read by, frozen weights or is read with a frozen bias, is left alone. The column
    ``snr_recycled`` is the number of units since the last row.
    """

    tuned = "eta"
    tries = (0.01, 0.02, 0.05, 0.1)
    declared = (Column("snr_recycled", "units that SNR recycled"),)

    eta: float
    """Part of a unit's silences that are longer than its threshold; 0: no unit is replaced."""
    every: int
    """Updates from one change of the thresholds to the next."""
    longest: int
    """Greatest threshold, in updates."""

    def __post_init__(self) -> None:
        require(self, 0, 1, "eta")
        require(self, 1, math.inf, "every", "longest")

    def start(self, learner: Learns, seed: int) -> None:
        """Find the units."""
        import torch

        from plasticity.remedies.layers import hidden_layers, replaceable, require_free, watch

        self._learner, self._seed, self._recycled = learner, seed, 0
        self._layers = replaceable(hidden_layers(learner.network, "snr"), "snr")
        require_free(learner.network, "snr")
        self._silences = []
        for layer in self._layers:
            watch(layer.units)
            units, device = layer.incoming.out_features, layer.incoming.weight.device
            self._silences.append(
                {
                    "ages": torch.zeros(units, dtype=torch.int64, device=device),
                    "thresholds": torch.full((units,), self.longest, device=device),
                    "histogram": torch.zeros(
                        units, self.longest + 1, dtype=torch.int64, device=device
                    ),
                }
            )

    def after_update(self, step: int) -> None:
        """Count the silences, and replace units that are silent for too long."""
        if self.eta == 0:
            return
        from plasticity.remedies.layers import seen
        from plasticity.seeding import generator_for

        for place, (layer, of) in reversed(
            [*enumerate(zip(self._layers, self._silences, strict=True))]
        ):
            if not layer.trained:
                continue
            ages, thresholds = of["ages"], of["thresholds"]
            silent = (seen(layer.units) <= 0).all(0)
            self._note(of, ~silent)
            ages += silent
            ages.clamp_(max=self.longest)
            too_long = ages >= thresholds
            units = too_long.nonzero().flatten()
            if len(units):
                self._note(of, too_long)
                generator = generator_for(self._seed, "snr", step, place)
                recycle(layer, units, generator, self._learner.optimizer)
                self._recycled += len(units)
            if step % self.every == 0:
                of["thresholds"] = next_thresholds(of["histogram"], thresholds, self.eta)
                of["histogram"].zero_()

    def _note(self, of: dict[str, Tensor], units: Tensor) -> None:
        """Put the ages of units into their histograms, and let them begin again."""
        of["histogram"].scatter_add_(1, of["ages"].unsqueeze(1), units.long().unsqueeze(1))
        of["ages"].masked_fill_(units, 0)

    def columns(self) -> dict[str, float]:
        """Return the number of units that were replaced since the last row."""
        recycled, self._recycled = self._recycled, 0
        return {"snr_recycled": float(recycled)}

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of the units."""
        return {"silences": self._silences}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``."""
        for mine, other in zip(self._silences, state["silences"], strict=True):
            for name, numbers in other.items():
                mine[name] = numbers.to(mine[name].device).clone()


def next_thresholds(histogram: Tensor, thresholds: Tensor, eta: float) -> Tensor:
    """Return the thresholds that follow from the silences.

    Args:
        histogram: How often each unit had each age, ``(units, longest + 1)``; age 0 is no silence.
        thresholds: ``(units,)``.
        eta: Part of the silences that are longer.
    """
    import torch

    counts = histogram[:, 1:].cumsum(1)
    total = counts[:, -1:]
    enough = counts >= (1 - eta) * total
    ages = enough.int().argmax(1) + 1  # the first; of a unit without silences, 1
    longest = histogram.shape[1] - 1
    return torch.where(ages < thresholds, ages, 2 * thresholds).clamp(1, longest)


@dataclass
class SelectiveReinit(Remedy):
    """Draw the least useful weights anew, now and then.

    Every ``every`` updates, of each matrix by itself, the part ``fraction`` of its weights that are
    of least use is drawn anew, as those with which the networks here begin (Glorot uniform), and
    the optimizer's moments of these weights are 0. Parts of a weight add up. The use of a weight w
    with the gradient g of the last update is |g w|, or |w|.

    Source: Hernandez-Garcia et al. 2026, "Reinitializing weights vs units for maintaining
    plasticity in neural networks" (arXiv:2508.00212): selective weight reinitialization, with both
    measures of use, and new draws as one way to fill them in. They find it better than replacing
    units in small networks and in those with layer normalization. Our deviations: the gradient is
    that of one batch; the period is ours. For linear layers whose matrix is free; biases stay. The
    column ``selective_reinit_weights`` is the number of weights since the last row.
    """

    tuned = "fraction"
    tries = (1e-4, 1e-3, 1e-2)
    declared = (Column("selective_reinit_weights", "weights that were drawn anew"),)

    fraction: float
    """Part of the weights that are drawn anew at once; 0: none."""
    every: int
    """Updates from one draw to the next."""
    use: Literal["gradient", "magnitude"]
    """What counts: the gradient times the weight, or the weight."""

    def __post_init__(self) -> None:
        require(self, 0, 1, "fraction")
        require(self, 1, math.inf, "every")

    def start(self, learner: Learns, seed: int) -> None:
        """Find the matrices."""
        from plasticity.remedies.layers import linear_layers, require_free

        self._learner, self._seed, self._redrawn = learner, seed, 0
        layers = linear_layers(learner.network, "selective-reinit")
        require_free(learner.network, "selective-reinit")
        self._layers = list({layer.weight: layer for layer in layers}.values())
        self._owed = [0.0] * len(self._layers)

    def after_update(self, step: int) -> None:
        """Draw the least useful weights anew, if it is time."""
        if self.fraction == 0 or step % self.every:
            return
        import torch

        from plasticity.networks.trained import is_trained
        from plasticity.remedies.layers import glorot_rows
        from plasticity.seeding import generator_for

        for place, layer in enumerate(self._layers):
            weight = layer.weight
            if not is_trained(weight) or weight.grad is None:
                continue
            self._owed[place] += self.fraction * weight.numel()
            number = int(self._owed[place])
            if not number:
                continue
            self._owed[place] -= number
            with torch.no_grad():
                use = (weight.grad * weight if self.use == "gradient" else weight).abs()
                chosen = use.flatten().argsort(stable=True)[:number]
                generator = generator_for(self._seed, "selective-reinit", step, place)
                drawn = glorot_rows(layer, layer.out_features, generator).to(weight)
                weight.view(-1)[chosen] = drawn.view(-1)[chosen]
                for memory in self._learner.optimizer.state.get(weight, {}).values():
                    if isinstance(memory, torch.Tensor) and memory.shape == weight.shape:
                        memory.view(-1)[chosen] = 0
            self._redrawn += number

    def columns(self) -> dict[str, float]:
        """Return the number of weights that were drawn anew since the last row."""
        redrawn, self._redrawn = self._redrawn, 0
        return {"selective_reinit_weights": float(redrawn)}

    def state_dict(self) -> dict[str, Any]:
        """Return the parts of weights that add up."""
        return {"owed": list(self._owed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``."""
        self._owed = list(state["owed"])


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
