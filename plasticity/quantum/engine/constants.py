"""Constant tensors, made once for each device."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

from plasticity.quantum.engine.planning import Plan
from plasticity.quantum.engine.transforms import is_traced, may_be_kept

Key = ParamSpec("Key")
Constants = tuple[Tensor, ...]

MOST_CONSTANTS = 64
"""How many constants of a kind are kept, where they belong to no plan."""


def cached_constants(build: Callable[Key, Constants]) -> Callable[Key, Constants]:
    """Keep the latest constant tensors, unless they belong to a transform or to a mode."""
    kept: dict[Any, Constants] = {}

    @wraps(build)
    def get(*key: Key.args, **named: Key.kwargs) -> Constants:
        constants = _looked_up(kept, key, build, *key, **named)
        if len(kept) > MOST_CONSTANTS:
            for old in list(kept)[:-MOST_CONSTANTS]:
                kept.pop(old, None)  # another thread may have been faster
        return constants

    return get


def constants_of_plan(
    build: Callable[[Plan, torch.device], Constants],
) -> Callable[[Plan, torch.device], Constants]:
    """Keep constant tensors as long as their plan is there, with the same exceptions."""

    @wraps(build)
    def get(plan: Plan, device: torch.device) -> Constants:
        return _looked_up(plan.kept, (build, device), build, plan, device)

    return get


def _looked_up(
    kept: dict[Any, Constants], key: Any, build: Callable[..., Constants], *args: Any, **named: Any
) -> Constants:
    # A mode may refuse tensors that were made outside.
    if not is_traced() and (constants := kept.get(key)) is not None:
        return constants
    with torch.inference_mode(False), torch._C.DisableTorchFunction():
        constants = build(*args, **named)
    if may_be_kept(*constants):
        kept[key] = constants
    return constants
