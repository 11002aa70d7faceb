"""Permuted MNIST with the arms treated alike; five seeds, three of the QNN."""

from plasticity.studies.study import Study

STUDY = Study(
    name="mnist-matched",
    question=(
        "Where both arms have the same inputs, epochs and optimizer's memory: does an MLP lose "
        "accuracy over 1,000 permutations of MNIST, while a quantum neural network does not?"
    ),
    experiment="mnist",
    preset="matched",
    arms=("mlp", "qnn"),
    seeds=(0, 1, 2, 3, 4),
    fewer_seeds={"qnn": 3},
    metrics=("deficit",),
    compared=(("qnn", "mlp"),),
)
