"""Whether a module is a quantum layer, told without importing one.

The layer brings TensorCircuit, which takes seconds to import. A network can hold a layer only where
its module is imported already: who looks through any network for one need not import it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from plasticity.quantum.circuits import Ansatz
    from plasticity.quantum.layer import QNN


def is_qnn(value: Any) -> TypeGuard[QNN]:
    """Tell what ``isinstance(value, QNN)`` tells."""
    return _is_one("plasticity.quantum.layer", "QNN", value)


def is_ansatz(value: Any) -> TypeGuard[Ansatz]:
    """Tell what ``isinstance(value, Ansatz)`` tells."""
    return _is_one("plasticity.quantum.circuits", "Ansatz", value)


def _is_one(module: str, name: str, value: Any) -> bool:
    kind = getattr(sys.modules.get(module), name, None)  # None, too, while another thread imports
    return kind is not None and isinstance(value, kind)
