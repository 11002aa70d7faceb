"""What cures networks that have learned 200 permutations of MNIST's labels; on new seeds."""

from experiments.studies.causes_mnist import LAYERS
from plasticity.studies.diagnosed import Diagnosed
from plasticity.studies.study import Study

STUDY = Study(
    name="causes-labels",
    question="Is plasticity on new labels of known images lost because units die?",
    experiment="mnist",
    preset="labels",
    arms=("mlp",),
    seeds=tuple(range(100, 120)),
    settings={"num_tasks": 200},
    metrics=("update_ratio", "dormant"),
    tuning_seeds=(1000, 1001, 1002),
    rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    diagnosed=(Diagnosed("mlp", (*LAYERS, "young+revive"), tasks=10),),
)
