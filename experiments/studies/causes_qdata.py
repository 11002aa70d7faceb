"""What cures networks that have learned 350 pairs of XXZ levels; confirmatory, on new seeds."""

from experiments.studies.causes_mnist import LAYERS
from plasticity.studies.diagnosed import Diagnosed, Hypothesis
from plasticity.studies.study import Study

STUDY = Study(
    name="causes-qdata",
    question="Is plasticity on levels of the XXZ chain lost because units die?",
    experiment="qdata",
    preset="why",
    arms=("mlp", "stiefel-free"),
    seeds=tuple(range(100, 120)),
    settings={"num_tasks": 350},
    metrics=("update_ratio", "dormant"),
    tuning_seeds=(1000, 1001, 1002),
    rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    diagnosed=(
        Diagnosed("mlp", (*LAYERS, "young+revive"), tasks=20),
        Diagnosed("stiefel-free", ("rate:first", "rescale:first", "forget", "induce"), tasks=20),
    ),
    hypotheses=(
        Hypothesis(
            "H4",
            "Reviving the dead units cures the MLP, and gains more than the first layer's rate.",
            (("cures", "mlp", "revive"), ("gains more", "mlp", "revive", "rate:first")),
        ),
    ),
)
