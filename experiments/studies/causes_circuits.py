"""Whole turns added to a circuit's angles: does the same unitary learn as well?"""

from plasticity.studies.diagnosed import Diagnosed, Hypothesis
from plasticity.studies.study import Study

STUDY = Study(
    name="causes-circuits",
    question=(
        "Does the plasticity of a circuit belong to its unitary, or to the angles in which that is "
        "written?"
    ),
    experiment="mnist",
    preset="why",
    arms=("qnn",),
    seeds=tuple(range(100, 120)),
    settings={"num_tasks": 16},
    of_arm={"qnn": {"shortest": True, "optimizer.learning_rate": 1e-2}},
    metrics=("circuit",),
    tuning_seeds=(1000, 1001, 1002),
    rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    diagnosed=(
        Diagnosed(
            "qnn",
            ("turns:1", "turns:3", "turns:10", "turns:3+unwind", "unwind", "forget"),
            tasks=20,
        ),
    ),
    hypotheses=(
        Hypothesis(
            "H6",
            "Three whole turns lower the next tasks by over 5 points, and taking them off cures.",
            (("lowers", "qnn", "turns:3", 5.0), ("restores", "qnn", "turns:3", "turns:3+unwind")),
        ),
    ),
)
