"""Permuted MNIST as the authors released it: 1,000 tasks; ten seeds, three of the QNN."""

from plasticity.studies.study import Study

STUDY = Study(
    name="mnist-released",
    question=(
        "As the authors released the program: does an MLP lose accuracy over 1,000 permutations of "
        "MNIST, while a quantum neural network does not?"
    ),
    experiment="mnist",
    preset="released",
    arms=("mlp", "qnn"),
    seeds=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    fewer_seeds={"qnn": 3},
    metrics=("deficit",),
    compared=(("qnn", "mlp"),),
)
