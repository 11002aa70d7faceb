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
