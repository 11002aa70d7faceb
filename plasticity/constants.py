"""Constant tensors, made once for each device, and a look at whether ``torch.func`` is at work."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

Key = ParamSpec("Key")


def is_transformed(tensor: Tensor) -> bool:
    """Tell whether a tensor is inside ``torch.func``, where values cannot be looked at or kept."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def cached_constants(
    build: Callable[Key, tuple[Tensor, ...]],
) -> Callable[Key, tuple[Tensor, ...]]:
    """Keep constant tensors, unless they were made inside a transform that ends with the call."""
    cache: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}

    @wraps(build)
    def get(*key: Key.args, **named: Key.kwargs) -> tuple[Tensor, ...]:
        if key in cache:
            return cache[key]
        with torch.inference_mode(False):
            tensors = build(*key, **named)
        if not any(is_transformed(tensor) for tensor in tensors):
            cache[key] = tensors
        return tensors

    return get
