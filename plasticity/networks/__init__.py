"""Networks, by the names their arms have on the command line.

To add one, write a frozen dataclass (see ``plasticity.networks.network``) and enter it here with
its default options.
"""

from __future__ import annotations

import math

from plasticity.networks.bricks import (
    FreeBrickwork,
    OrthogonalBrickwork,
    QnnTrivialised,
    QnnWrapped,
)
from plasticity.networks.compact import OrthogonalMlp, SineMlp, SmallMlp, SphereMlp, TorusMlp
from plasticity.networks.hybrids import QnnRelu, QnnReupload, QnnScaled
from plasticity.networks.mlp import Mlp
from plasticity.networks.network import Network
from plasticity.networks.qnn import Qnn
from plasticity.networks.quadratic import Linear, Quadratic, Stiefel, StiefelFree

CIRCLE = (0.0, 2 * math.pi)
NETWORKS: dict[str, Network] = {
    "mlp": Mlp(hidden=(16,)),
    "qnn": Qnn(ansatz="brickwork", depth=4, readout="log-odds", initial_angles=CIRCLE),
    "linear": Linear(),
    # With log-odds a probability beyond 1 is clipped, and the clip takes the gradient.
    "quadratic": Quadratic(readout="log"),
    "stiefel": Stiefel(readout="log-odds"),
    "stiefel-free": StiefelFree(readout="log-odds"),
    "mlp-bounded": Mlp(hidden=(16,), bounded_logits=True, logit_bound=5.0),
    "mlp-wide": Mlp(hidden=(1024,)),
    "mlp-small": SmallMlp(num_parameters=540, hidden=16),
    "mlp-torus": TorusMlp(hidden=(16,), wrap=True),
    "mlp-orthogonal": OrthogonalMlp(hidden=(16,), units="relu", kept_by="retraction"),
    "mlp-orthogonal-max-min": OrthogonalMlp(hidden=(16,), units="max-min", kept_by="retraction"),
    "mlp-sphere": SphereMlp(hidden=(16,), growth=3.0, biases="held", layer_norm=False),
    "mlp-sphere-ln": SphereMlp(hidden=(16,), growth=3.0, biases="held", layer_norm=True),
    "mlp-sin": SineMlp(hidden=(16,)),
    # Circuits: a preset's QNN says which, if the preset has one.
    "free-brickwork": FreeBrickwork("brickwork", 4, "log-odds", renormalised=True),
    "orthogonal-brickwork": OrthogonalBrickwork("brickwork", 4, "log-odds", CIRCLE),
    "qnn-wrapped": QnnWrapped("brickwork", 4, "log-odds", CIRCLE),
    "qnn-trivialised": QnnTrivialised("brickwork", 4, "log-odds", CIRCLE),
    "qnn-scaled": QnnScaled("brickwork", 4, "log-odds", CIRCLE),
    "qnn-relu": QnnRelu("brickwork", 4, CIRCLE, units=64),
    "qnn-reupload": QnnReupload("brickwork", 4, "log-odds", CIRCLE, uploads=1, first_after=0),
}

ALIASES = {"free-circuit": "free-brickwork", "orthogonal-circuit": "orthogonal-brickwork"}
"""Other names of networks. Their circuits are bricks on images only: on the XXZ chain, the gates of
these networks form a staircase, as the QNN's do there."""
