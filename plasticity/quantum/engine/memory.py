"""Memory that is made once, and calls on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]
"""A function of torch with all its operands, which are made once."""


class Memory:
    """Makes tensors of one dtype on one device, and counts their bytes.

    Attributes:
        dtype: Complex.
        device: Where.
        num_bytes: Of all tensors so far.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device, self.num_bytes = dtype, device, 0

    def new(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Make a tensor of undefined content, by default of the memory's dtype."""
        tensor = torch.empty(shape, dtype=dtype or self.dtype, device=self.device)
        self.num_bytes += tensor.nbytes
        return tensor
