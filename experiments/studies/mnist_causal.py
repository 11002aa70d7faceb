"""Held and free parameters on permuted MNIST, each pair at the learning rate of either arm."""

from experiments.studies._controls import CAUSAL, at_either_rate
from plasticity.studies.study import Study

STUDY = Study(
    name="mnist-causal",
    question=(
        "Does an arm whose parameters are held lose less than one like it whose parameters are "
        "free, at the learning rate of either?"
    ),
    experiment="mnist",
    preset="why",
    arms=at_either_rate("stiefel", "qnn"),
    seeds=tuple(range(100, 120)),
    settings={"num_tasks": 300},
    metrics=("deficit", "circuit"),
    compared=CAUSAL,
    causal=CAUSAL,
    confirmatory=True,
    tuning_seeds=(1000, 1001, 1002),
    rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
)
