"""What cures networks that have learned 250 permutations of MNIST; confirmatory, on new seeds."""

from plasticity.studies.diagnosed import Diagnosed, Hypothesis
from plasticity.studies.study import Study

LAYERS = (
    "rate:first", "rate:last:first", "rate:last", "rescale:first", "rebalance:first", "soften",
    "forget", "revive", "redraw:first", "redraw:last", "induce", "young", "young+rate:first",
)  # fmt: skip

STUDY = Study(
    name="causes-mnist",
    question=(
        "Is plasticity on permuted pixels lost because the first layer's step has become small "
        "beside its weights?"
    ),
    experiment="mnist",
    preset="why",
    arms=("mlp", "stiefel", "stiefel-free"),
    seeds=tuple(range(100, 120)),
    settings={"num_tasks": 250},
    metrics=("update_ratio", "dormant"),
    compared=(("stiefel", "stiefel-free"),),
    confirmatory=True,
    tuning_seeds=(1000, 1001, 1002),
    rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    diagnosed=(
        Diagnosed("mlp", LAYERS, tasks=10),
        Diagnosed("stiefel", ("rate:first", "forget"), tasks=10),
        Diagnosed(
            "stiefel-free",
            ("rate:first", "rescale:first", "forget", "induce", "young", "young+rate:first"),
            tasks=10,
        ),
    ),
    hypotheses=(
        Hypothesis(
            "H1", "The first layer's rate times c cures the MLP.", (("cures", "mlp", "rate:first"),)
        ),
        Hypothesis(
            "H2",
            "The last layer's rate times the same c gains the MLP less than 1 point.",
            (("gains less", "mlp", "rate:last:first", 1.0),),
        ),
        Hypothesis(
            "H5",
            "Free parameters lose over 5 points more than held ones, and their rate times c cures.",
            (
                ("loses more", "stiefel-free", "stiefel", 5.0),
                ("cures", "stiefel-free", "rate:first"),
            ),
        ),
    ),
)
