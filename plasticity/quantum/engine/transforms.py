"""Which of torch's transforms is at work: the few names that torch keeps to itself, in one place.

``torch.func`` wraps tensors, forward-mode differentiation gives them tangents, and
``is_grads_batched=True`` batches gradients in an older way of its own. ``make_fx`` records what is
called, and ``FakeTensorMode`` has tensors without numbers. A function with a backward pass or with
memory of its own has to know, and torch has no public way to ask.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def is_transformed(tensor: Tensor) -> bool:
    """Tell whether a tensor is inside ``torch.func``, where values cannot be looked at or kept."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def is_traced() -> bool:
    """Tell whether calls go to a mode, which may record them or give tensors without numbers."""
    return torch._C._len_torch_dispatch_stack() > 0


def are_transforms_active() -> bool:
    """Tell whether ``torch.func`` transforms the function that calls this, or a mode traces it.

    Then memory that outlives the call must not be written to, and numbers must not be looked at.
    """
    return torch._C._are_functorch_transforms_active() or is_traced()


def may_be_kept(*tensors: Tensor) -> bool:
    """Tell whether tensors made now mean the same in a later call.

    Tensors of a transform or of a mode end with it, and those of a subclass have rules of their
    own. Tensors on the meta device have no numbers. While a CUDA graph is captured, nothing is
    computed yet.
    """
    if is_traced():
        return False
    for tensor in tensors:  # all() of a generator takes as long again, in each evaluation
        if (
            type(tensor) not in (Tensor, nn.Parameter)
            or is_transformed(tensor)
            or torch._is_functional_tensor(tensor)
            or tensor.is_meta
            or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
        ):
            return False
    return True


def is_forward_mode() -> bool:
    """Tell whether derivatives may be carried forwards, by ``torch.func.jvp`` or dual tensors."""
    return forward_ad._current_level >= 0


def is_jit_tracing() -> bool:
    """Tell what ``torch.jit.is_tracing`` tells, in a tenth of the time."""
    return torch._C._get_tracing_state() is not None


def never_compile(function: Callable[..., Any]) -> None:
    """Have ``torch.compile`` run a function, and what it calls, as they are.

    ``torch.compiler.disable`` says that, too, but imports the compiler and takes time in each
    call.
    """
    compiler = torch._C._dynamo.eval_frame
    skip = compiler._FrameAction.SKIP
    compiler.set_code_exec_strategy(function.__code__, compiler._FrameExecStrategy(skip, skip))


_UP_AND_DOWN = torch._C._vmapmode_increment_nesting, torch._C._vmapmode_decrement_nesting
"""How deep maps of the older way are nested is told by these alone."""


def over_batched_gradients(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Have a ``backward`` called for each gradient of a batch that autograd has made of them.

    ``torch.autograd.grad(..., is_grads_batched=True)`` and ``jacobian(..., vectorize=True)`` call
    it once, with gradients that hide a dimension and that only torch's own functions can take.

    Args:
        backward: From a context and gradients to gradients or None.
    """

    @wraps(backward)
    def mapped(ctx: Any, *grads: Any) -> Any:
        if not any(isinstance(grad, Tensor) and _is_batched(grad) for grad in grads):
            return backward(ctx, *grads)
        # One expression in C: between two calls Ctrl-C would leave the nesting as it must not be.
        nesting, _ = map(operator.call, _UP_AND_DOWN)
        level = nesting - 1
        apart = [
            torch._remove_batch_dim(grad, level, 0, 0) if _is_batched(grad) else None
            for grad in grads
        ]
        (size,) = {len(several) for several in apart if several is not None}
        results = []
        for k in range(size):
            one = [
                grad if several is None else several[k]
                for grad, several in zip(grads, apart, strict=True)
            ]
            result = backward(ctx, *one)
            results.append(result if isinstance(result, tuple) else (result,))
        together = tuple(
            None if column[0] is None else torch._add_batch_dim(torch.stack(column), 0, level)
            for column in zip(*results, strict=True)
        )
        return together if len(together) > 1 else together[0]

    never_compile(mapped)  # where a whole training step is compiled
    return mapped


def _is_batched(grad: Tensor) -> bool:
    return torch._C._functorch.is_legacy_batchedtensor(grad)
