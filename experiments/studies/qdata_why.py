"""All control arms on levels of the XXZ chain: does what holds for digits hold for states?"""

from experiments.studies._controls import NETWORKS, PAIRS
from plasticity.protocol.supervised import MECHANISMS
from plasticity.studies.study import Study

STUDY = Study(
    name="qdata-why",
    question=(
        "Which property of a network keeps its plasticity where the data are quantum states: the "
        "circuit, linearity, bounded logits or bounded parameters?"
    ),
    experiment="qdata",
    preset="why",
    arms=NETWORKS,
    seeds=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    settings={"num_tasks": 500},
    metrics=(*MECHANISMS, "fresh"),
    compared=PAIRS,
    tuning_seeds=(1000, 1001, 1002),
    rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
)
