"""Constant tensors, made once for each device."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

from plasticity.quantum.engine.transforms import is_transformed

Key = ParamSpec("Key")


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
