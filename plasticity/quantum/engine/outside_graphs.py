"""What runs as it is where a model is compiled: a break in the graph of ``torch.compile``.

A circuit's evaluation decides by numbers, keeps memory between calls, and has backward passes of
its own. No compiler can follow that, and none has to: it is a list of calls into torch already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch


def _call(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    return function(*args, **named)


if TYPE_CHECKING:
    call = _call


def __getattr__(name: str) -> Any:
    """Make ``call`` when it is first asked for (PEP 562), which is when a model is compiled.

    ``torch.compiler.disable`` imports the compiler. That takes seconds, and most never compile.
    """
    if name != "call":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    reason = (
        "a quantum circuit runs outside of compiled graphs; where one graph has to be whole, put "
        "qnn.as_plain_module() in the place of the QNN"
    )
    call = globals()["call"] = torch.compiler.disable(_call, reason=reason)
    return call
