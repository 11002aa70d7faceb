"""Pairs of CIFAR-100's classes as released, 3,000 tasks; five seeds, three of the QNN."""

from plasticity.studies.study import Study

STUDY = Study(
    name="cifar-released",
    question=(
        "As the authors released the program: does an MLP lose accuracy over 3,000 pairs of "
        "classes, and its Fisher information vanish, while a quantum neural network keeps both?"
    ),
    experiment="cifar",
    preset="released",
    arms=("mlp", "qnn"),
    seeds=(0, 1, 2, 3, 4),
    fewer_seeds={"qnn": 3},
    metrics=("deficit",),
    compared=(("qnn", "mlp"),),
)
