"""Six arms, five seeds, scikit-learn's digits: no download, done within three minutes."""

from plasticity.studies.study import Study

STUDY = Study(
    name="quick",
    question=(
        "Do six networks that learn one permutation of the same digits after another still learn "
        "the last ones as well as the first?"
    ),
    experiment="mnist",
    preset="quick",
    arms=("mlp", "mlp+l2-init", "mlp-sphere", "qnn", "stiefel", "stiefel-free"),
    seeds=(0, 1, 2, 3, 4),
    settings={"num_tasks": 40},
    metrics=("deficit",),
    compared=(("mlp-sphere", "mlp"), ("mlp+l2-init", "mlp"), ("stiefel", "stiefel-free")),
    tuning_seeds=(1000,),
    rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
)
