"""All control arms on permuted MNIST, and the MLP with each remedy: what keeps plasticity?"""

from experiments.studies._controls import NETWORKS, PAIRS
from plasticity.protocol.supervised import MECHANISMS
from plasticity.studies.study import Study

# All but start-afresh, which keeps nothing: the metric "fresh" is the gap to it.
REMEDIES = (
    "reset-optimizer", "equal-betas", "l2", "adamw", "l2-init", "shrink-perturb",
    "continual-backprop", "redo", "layer-norm", "crelu", "weight-clipping", "spectral", "parseval",
    "isometry", "upgd", "input-standardisation",
)  # fmt: skip

STUDY = Study(
    name="mnist-why",
    question=(
        "Which property of a network keeps its plasticity on permuted MNIST: the circuit, "
        "linearity, bounded logits, bounded parameters, a scale of its inputs or resets? Is there "
        "a network with parameters that cannot grow which loses it, or one whose parameters grow "
        "which keeps it?"
    ),
    experiment="mnist",
    preset="why",
    arms=(*NETWORKS, *(f"mlp+{remedy}" for remedy in REMEDIES)),
    seeds=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    settings={"num_tasks": 300},
    metrics=(*MECHANISMS, "fresh"),
    compared=(*PAIRS, *((f"mlp+{remedy}", "mlp") for remedy in REMEDIES)),
    tuning_seeds=(1000, 1001, 1002),
    rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
)
