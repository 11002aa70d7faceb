"""How circuits are called: by torch's compilers, and with samples in any number of dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from plasticity.quantum.encoding import check_tensor
from plasticity.quantum.engine import outside_graphs
from plasticity.quantum.engine.transforms import is_jit_tracing, never_compile

Self = TypeVar("Self")
Given = ParamSpec("Given")
Result = TypeVar("Result")


def in_rows(evaluate: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Evaluate samples as ``nn.Linear`` takes them: of any leading dimensions, or a single one.

    Args:
        evaluate: From ``(batch, features)`` to ``(batch, ...)``.
        x: ``(..., features)``.

    Returns:
        ``(..., ...)``, with the leading dimensions of ``x``.

    Raises:
        TypeError: ``x`` is no tensor.
        ValueError: It has no dimension.
    """
    check_tensor(x)
    if x.dim() == 2:
        return evaluate(x)
    if x.dim() == 0:
        raise ValueError(f"inputs must be (..., features), not of shape {tuple(x.shape)}")
    *leading, features = x.shape
    result = evaluate(x.reshape(math.prod(leading), features))
    return result.reshape(*leading, *result.shape[1:])


def outside_of_graphs(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Run a function as it is where a model is compiled, and refuse to be traced in one sentence.

    Raises:
        RuntimeError: ``torch.export``, ``torch.jit.trace`` or the export to ONNX traces it.
    """

    @wraps(function)
    def called(*args: Given.args, **named: Given.kwargs) -> Result:
        if torch.compiler.is_dynamo_compiling():
            result: Result = outside_graphs.call(function, *args, **named)
            return result
        if torch.compiler.is_exporting() or is_jit_tracing():
            raise RuntimeError(NOT_TRACED)
        return function(*args, **named)

    never_compile(called)  # its frame would be compiled anew for each circuit, up to a limit
    return called


NOT_TRACED = (
    "a quantum circuit cannot be traced, scripted or exported as it is: put qnn.as_plain_module(), "
    "matrix products with the same outputs, in the place of the QNN"
)


def on_samples(
    evaluate: Callable[[Self, Tensor], Tensor],
) -> Callable[[Self, Tensor], Tensor]:
    """Make a method for ``(batch, features)`` one for ``(..., features)``, outside of graphs."""

    @wraps(evaluate)
    def of_any_shape(self: Self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor) and x.dim() == 2:  # the usual case takes no detour
            return evaluate(self, x)
        return in_rows(lambda rows: evaluate(self, rows), x)

    return outside_of_graphs(of_any_shape)
