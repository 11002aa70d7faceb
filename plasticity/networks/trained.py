"""Which parameters of a network are trained: whatever asks this, asks here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plasticity.errors import DoesNotFit

if TYPE_CHECKING:
    from torch import Tensor, nn


def is_trained(tensor: Tensor) -> bool:
    """Tell whether training changes a parameter, or a tensor that is made of parameters.

    ``requires_grad`` says so, at the time of the question. A parameter with
    ``requires_grad_(False)`` is frozen: remedies do not change it, penalties and metrics do not
    count it. One that is trained, but that the outputs do not depend on, has the gradient 0. A
    buffer is never trained, whatever it holds.
    """
    return tensor.requires_grad


def trained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained, each once, in the order of ``parameters()``.

    Raises:
        DoesNotFit: There is none.
    """
    parameters = [p for p in network.parameters() if is_trained(p)]
    if not parameters:
        frozen = sum(p.numel() for p in network.parameters())
        raise DoesNotFit(
            f"{type(network).__name__} has no parameter to train ({frozen} numbers are frozen): "
            "set requires_grad_(True) of those that shall learn"
        )
    return parameters
