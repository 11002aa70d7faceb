"""A study of 14 arms whose losses are known, for what is computed of its numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plasticity.studies.numbers import Numbers
from plasticity.studies.study import Study

DROPS = {
    "mlp": 0.06, "qnn": 0.0, "linear": 0.03, "quadratic": 0.1, "stiefel": 0.0,
    "stiefel-free": 0.05, "free-brickwork": 0.12, "orthogonal-brickwork": 0.0,
    "qnn-wrapped": 0.004, "qnn-scaled": 0.0, "mlp-bounded": 0.008, "mlp-torus": 0.045,
    "mlp-sphere": -0.01, "mlp+l2-init": 0.005,
}  # fmt: skip
"""True drops of accuracy."""
UNSTEADY = "mlp-bounded"
"""The arm whose drop differs between seeds so much that nothing is shown."""
EXPECTED = {
    "mlp": "loses", "qnn": "keeps", "linear": "loses", "quadratic": "loses", "stiefel": "keeps",
    "stiefel-free": "loses", "free-brickwork": "loses", "orthogonal-brickwork": "keeps",
    "qnn-wrapped": "loses less than the margin", "qnn-scaled": "keeps", "mlp-bounded": "undecided",
    "mlp-torus": "loses", "mlp-sphere": "keeps", "mlp+l2-init": "loses less than the margin",
}  # fmt: skip
GROWING = ("mlp", "linear", "quadratic", "stiefel-free", "qnn", "mlp-torus")


def study(
    arms: tuple[str, ...] = (*DROPS,), seeds: int = 10, tasks: int = 1000, **more: Any
) -> Study:
    """Return a study of MNIST's arms on the digits, which need no download."""
    defaults: dict[str, Any] = {"compared": (("qnn", "mlp"), ("mlp-sphere", "mlp"))}
    defaults["compared"] = tuple(p for p in defaults["compared"] if {*p} <= {*arms})
    return Study(
        "made-up", "Who loses?", "mnist", "quick", arms, tuple(range(seeds)),
        {"num_tasks": tasks}, **defaults | more,
    )  # fmt: skip


def read_numbers(
    drops: Mapping[str, float] = DROPS, seeds: int = 10, tasks: int = 1000, **more: Any
) -> Numbers:
    """Return numbers of a study with true drops by arm.

    Accuracies fall in a straight line. Seeds differ in their level (SD 0.01) and in their drop (SD
    0.001, the unsteady arm's 0.03), tasks in their difficulty (0.004, the same for all arms) and by
    chance (0.002).
    """
    rng = np.random.default_rng(1)
    at = np.arange(tasks)
    tenth = tasks // 10
    fall = at / (at[-tenth:].mean() - at[1:tenth].mean())
    of_seeds, of_tasks = rng.normal(0, 0.01, (seeds, 1)), rng.normal(0, 0.004, (seeds, tasks))
    columns = {}
    for number, (arm, drop) in enumerate(drops.items()):
        sd = 0.03 if arm == UNSTEADY else 0.001
        lost = drop + rng.normal(0, sd, (seeds, 1))
        noise = of_seeds + of_tasks + rng.normal(0, 0.002, (seeds, tasks))
        grown = 3.0 if arm in GROWING else 1.02
        norm = 4 * grown ** (at / tasks) * np.exp(rng.normal(0, 0.01, (seeds, 1)))
        condition = np.full((seeds, tasks), np.nan)
        condition[:, ::50] = np.exp(rng.normal(3 + number / 3, 0.3, (seeds, len(at[::50]))))
        columns[arm] = {
            "weight_norm": norm,
            "train_loss": 1.2 - 0.1 * noise,
            "test_accuracy": 0.8 - 0.01 * number - lost * fall + noise,
            "ntk_condition": condition,
        }
    return Numbers(
        study((*drops,), seeds, tasks, **more),
        tasks,
        {arm: {c: v.astype(np.float32) for c, v in of.items()} for arm, of in columns.items()},
        {arm: np.full(seeds, tasks) for arm in drops},
        {arm: np.full(seeds, True) for arm in drops},
    )


def cells_of(path: Path, heading: str) -> list[dict[str, str]]:
    """Return the lines of the first table under a heading of a Markdown file, by its titles."""
    text = path.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=False)) for line in lines[2:]]
