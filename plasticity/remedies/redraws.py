"""Remedies that draw anew what is silent or of least use: dead units, silent units, weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from plasticity.learning.column import Column
from plasticity.learning.remedy import Learns, Remedy
from plasticity.remedies.limits import require
from plasticity.remedies.recycling import recycle

if TYPE_CHECKING:
    from torch import Tensor


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
        from plasticity.remedies.dead_units import layers_with_units
        from plasticity.remedies.layers import require_free

        self._learner, self._seed, self._revived = learner, seed, 0
        self._layers = layers_with_units(learner.network, "revive")
        require_free(learner.network, "revive")

    def before_task(self, index: int) -> None:
        """Replace the dead units, if this is not the first task."""
        samples = self._learner.samples
        if index == 0 or self.samples == 0 or samples is None:
            return
        import torch

        from plasticity.remedies.dead_units import dead_units, revive
        from plasticity.seeding import generator_for

        order = torch.randperm(
            len(samples), generator=generator_for(self._seed, "revive samples", index)
        )
        x, _ = samples.batch(
            order[: self.samples].to(next(self._learner.network.parameters()).device)
        )
        dead = dead_units(self._learner.network, self._layers, x)
        generator = generator_for(self._seed, "revive", index)
        revive(self._layers, dead, generator, self._learner.optimizer)
        self._revived += sum(map(len, dead))

    def columns(self) -> dict[str, float]:
        """Return the number of units that were revived since the last row."""
        revived, self._revived = self._revived, 0
        return {"revive_units": float(revived)}


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
