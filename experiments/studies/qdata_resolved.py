"""Levels of the XXZ chain of one symmetry sector: 2,000 tasks, ten seeds of both arms."""

from plasticity.studies.study import Study

STUDY = Study(
    name="qdata-resolved",
    question=(
        "Where a level means the same at every anisotropy: does an MLP lose accuracy over 2,000 "
        "pairs of levels of the XXZ chain, while a quantum neural network does not?"
    ),
    experiment="qdata",
    preset="resolved",
    arms=("mlp", "qnn"),
    seeds=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    metrics=("deficit",),
    compared=(("qnn", "mlp"),),
)
