"""Networks, by the names their arms have on the command line.

To add one, write a frozen dataclass (see ``plasticity.networks.network``) and enter it here with
its default options.
"""

from __future__ import annotations

import math

from plasticity.networks.mlp import Mlp
from plasticity.networks.network import Network
from plasticity.networks.qnn import Qnn
from plasticity.networks.quadratic import Linear, Quadratic, Stiefel, StiefelFree

NETWORKS: dict[str, Network] = {
    "mlp": Mlp(hidden=(16,)),
    "qnn": Qnn(ansatz="brickwork", depth=4, readout="log-odds", initial_angles=(0.0, 2 * math.pi)),
    "linear": Linear(),
    "quadratic": Quadratic(readout="log-odds"),
    "stiefel": Stiefel(readout="log-odds"),
    "stiefel-free": StiefelFree(readout="log-odds"),
}
