"""Pairs of CIFAR-100's classes with the circuit of depth 30 that the paper describes; one seed."""

from plasticity.studies.study import Study

STUDY = Study(
    name="cifar-deep",
    question=(
        "Does a circuit three times as deep as the released one, as the paper describes it, learn "
        "500 pairs of CIFAR-100's classes as well at last as at first?"
    ),
    experiment="cifar",
    preset="deep",
    arms=("mlp", "qnn"),
    seeds=(0,),
    settings={"num_tasks": 500},
    metrics=("deficit",),
    compared=(("qnn", "mlp"),),
)
