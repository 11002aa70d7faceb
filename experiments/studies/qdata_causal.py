"""Held and free parameters on the XXZ chain, each pair at the learning rate of either arm."""

from experiments.studies._controls import CAUSAL, at_either_rate
from plasticity.studies.study import Study

STUDY = Study(
    name="qdata-causal",
    question=(
        "Does an arm whose parameters are held lose less than one like it whose parameters are "
        "free, at the learning rate of either, where the data are quantum states?"
    ),
    experiment="qdata",
    preset="why",
    arms=at_either_rate("qnn", "orthogonal-brickwork", "mlp-sphere"),
    seeds=tuple(range(100, 120)),
    settings={"num_tasks": 500},
    of_arm={"mlp-sphere": {"hidden": (64, 64)}},  # as the MLP has
    metrics=("deficit", "circuit"),
    compared=CAUSAL,
    causal=CAUSAL,
    confirmatory=True,
    tuning_seeds=(1000, 1001, 1002),
    rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
)
