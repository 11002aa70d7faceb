"""What can be asked of ``experiments.bench``: the command line reads it before the slow imports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plasticity.errors import UsageError

SHAPES = (
    "mnist", "cifar", "cifar-deep", "xxz", "ant", "ant-rollout", "mnist-evaluation",
    "cifar-evaluation", "mlp",
)  # fmt: skip
"""Steps that can be timed: those of ``implementations``, and the classical arm's."""
CONTESTANTS = ("ours", "tensorcircuit", "plain-torch", "pennylane", "deepquantum")
"""Those of ``experiments.benchmarks.implementations``, which takes seconds to import."""


@dataclass(frozen=True)
class Options:
    """What to time and how long."""

    shapes: tuple[str, ...] = SHAPES
    """Which steps."""
    contestants: tuple[str, ...] = CONTESTANTS
    """Whose; ours is always among them."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where."""
    threads: int = 1
    """Threads of torch on the CPU."""
    seconds: float = 3.0
    """Time for each contestant and shape, but three rounds at least."""
    sweep: bool = True
    """Also time ours over numbers of qubits and depths, and draw that."""
    results: Path = Path("results/bench")
    """Folder that gets bench-<UTC time>.json, .md and .png."""

    def __post_init__(self) -> None:
        known = {"--shapes": SHAPES, "--contestants": CONTESTANTS}
        for option, chosen in (("--shapes", self.shapes), ("--contestants", self.contestants)):
            for name in set(chosen) - set(known[option]):
                raise UsageError(f"{option} {name}: must be among {', '.join(known[option])}")
        if not 1 <= self.threads <= 1024:
            raise UsageError(f"--threads {self.threads}: must be 1 to 1024")
        if not 0 < self.seconds < math.inf:
            raise UsageError(f"--seconds {self.seconds}: must be positive")
