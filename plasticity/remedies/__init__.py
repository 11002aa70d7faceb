"""Remedies against the loss of plasticity, by the names they have on the command line.

An arm ``mlp+reset-optimizer`` is the arm ``mlp`` with that remedy. To add one, write a class (see
``plasticity.learning.remedy``) and enter it here with its default options.
"""

from __future__ import annotations

from plasticity.learning.remedy import Remedy
from plasticity.remedies.architecture import (
    CRelu,
    InputStandardisation,
    LayerNorm,
    LeakyRelu,
    NormalizeAndProject,
)
from plasticity.remedies.penalties import L2, CChain, L2Init, Parseval, Spectral
from plasticity.remedies.projections import Hold, Isometry, SoftRescaling, WeightClipping
from plasticity.remedies.recycling import ContinualBackprop, ReDo
from plasticity.remedies.redraws import Revive, SelectiveReinit, SelfNormalizedResets
from plasticity.remedies.resets import ResetOptimizer, StartAfresh
from plasticity.remedies.steps import AdamO, AdamW, EqualBetas, ShrinkPerturb, UtilityGated

REMEDIES: dict[str, Remedy] = {
    "reset-optimizer": ResetOptimizer(),
    "start-afresh": StartAfresh(),
    "equal-betas": EqualBetas(beta=0.99),
    "l2": L2(strength=1e-3),
    "adamw": AdamW(decay=0.1),
    "l2-init": L2Init(strength=1e-2),
    "shrink-perturb": ShrinkPerturb(shrink=0.4, noise=0.01, each="task"),
    "continual-backprop": ContinualBackprop(
        replacement_rate=1e-4, maturity=100, utility_decay=0.99
    ),
    "redo": ReDo(threshold=0.1, every=1_000),
    "layer-norm": LayerNorm(),
    "crelu": CRelu(),
    "weight-clipping": WeightClipping(multiple=3.0),
    "spectral": Spectral(strength=1e-3, power=2),
    "parseval": Parseval(strength=1e-3, scale=2.0),
    "isometry": Isometry(iterations=10),
    "upgd": UtilityGated(learning_rate=0.01, noise=0.1, weight_decay=0.01, utility_decay=0.9999),
    "input-standardisation": InputStandardisation(decay=0.99),
    "hold": Hold(layers=("all",), multiple=1.0),
    "revive": Revive(samples=256),
    "nap": NormalizeAndProject(gains="jointly", decay=1e-3),
    "snr": SelfNormalizedResets(eta=0.02, every=100, longest=200),
    "c-chain": CChain(strength=0.1),
    "adamo": AdamO(strength=0.1),
    "selective-reinit": SelectiveReinit(fraction=1e-3, every=10, use="gradient"),
    "soft-rescaling": SoftRescaling(strength=1e-3),
    "leaky-relu": LeakyRelu(slope=0.01),
}
