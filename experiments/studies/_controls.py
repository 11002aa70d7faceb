"""What the studies of control arms have in common."""

NETWORKS = (
    "mlp", "qnn", "linear", "quadratic", "stiefel", "stiefel-free", "free-brickwork",
    "orthogonal-brickwork", "qnn-wrapped", "qnn-trivialised", "qnn-scaled", "qnn-relu",
    "qnn-reupload", "mlp-bounded", "mlp-wide", "mlp-small", "mlp-torus", "mlp-orthogonal",
    "mlp-orthogonal-max-min", "mlp-sphere", "mlp-sphere-ln", "mlp-sin",
)  # fmt: skip
PAIRS = (
    ("qnn", "mlp"),
    ("qnn", "free-brickwork"),
    ("orthogonal-brickwork", "free-brickwork"),
    ("stiefel", "stiefel-free"),
    ("mlp-sphere", "mlp"),
    ("mlp-bounded", "mlp"),
    ("mlp-torus", "mlp"),
)
"""Arms, and what each is compared with."""
CAUSAL = (
    ("stiefel", "stiefel-free"),
    ("mlp-sphere", "mlp"),
    ("qnn", "free-brickwork"),
    ("orthogonal-brickwork", "free-brickwork"),
)
"""Arms whose parameters are held, and one like each whose parameters are free."""


def at_either_rate(*differ: str) -> tuple[str, ...]:
    """Return the arms of all causal pairs; those that ``differ`` in their rate at both, too."""
    arms = dict.fromkeys(arm for pair in CAUSAL for arm in pair)
    for arm, reference in CAUSAL:
        if arm in differ:
            arms |= dict.fromkeys((f"{arm}@{reference}", f"{reference}@{arm}"))
    return tuple(arms)
