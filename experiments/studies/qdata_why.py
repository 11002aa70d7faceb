"""All control arms on levels of the XXZ chain: does what holds for digits hold for states?"""

from experiments.parts.study import Study
from experiments.parts.supervised import MECHANISMS

STUDY = Study(
    name="qdata-why",
    question=(
        "Which property of a network keeps its plasticity where the data are quantum states: the "
        "circuit, linearity, bounded logits or bounded parameters?"
    ),
    experiment="qdata",
    preset="why",
    arms=(
        "mlp", "qnn", "linear", "quadratic", "stiefel", "stiefel-free", "free-brickwork",
        "orthogonal-brickwork", "qnn-wrapped", "qnn-trivialised", "qnn-scaled", "qnn-relu",
        "qnn-reupload", "mlp-bounded", "mlp-wide", "mlp-small", "mlp-torus", "mlp-orthogonal",
        "mlp-orthogonal-max-min", "mlp-sphere", "mlp-sphere-ln", "mlp-sin",
    ),
    seeds=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    options=("--num-tasks", "500"),
    metrics=(*MECHANISMS, "fresh"),
    compared=(
        ("qnn", "mlp"),
        ("qnn", "free-brickwork"),
        ("orthogonal-brickwork", "free-brickwork"),
        ("stiefel", "stiefel-free"),
        ("mlp-sphere", "mlp"),
        ("mlp-bounded", "mlp"),
        ("mlp-torus", "mlp"),
    ),
    tuning_seeds=(1000, 1001, 1002),
    rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
)  # fmt: skip
