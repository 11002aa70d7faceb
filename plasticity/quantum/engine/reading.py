"""From samples and weights to the probabilities that a readout needs, and back to gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plasticity.quantum.engine.constants import cached_constants
from plasticity.quantum.engine.contraction import held, holding, in_words, lease_for
from plasticity.quantum.engine.costs import Way
from plasticity.quantum.engine.planning import Plan, reversed_plan
from plasticity.quantum.engine.transforms import (
    are_transforms_active,
    is_forward_mode,
    over_batched_gradients,
)

Multiply = Callable[[Tensor, Tensor], Tensor]


def probabilities(
    way: Way,
    x: Tensor,
    norm: Tensor,
    weights: Tensor,
    outcomes: int | None,
    multiply: Multiply = torch.matmul,
) -> Tensor:
    """Return what is read of U x / norm: probabilities of basis states, or of a qubit's |0>.

    Args:
        way: What is carried through which blocks.
        x: ``(batch, features)``, real or complex.
        norm: ``(batch, 1)``.
        weights: Angles ``(num_gates, 15)`` of the whole ansatz, or its gates ``(num_gates, 4, 4)``,
            complex. Their precision is the one computed in, and that of ``x``.
        outcomes: Leading basis states that are read; None where the plan observes a qubit.
        multiply: For products of real matrices, where a program cannot be used.

    Returns:
        ``(batch, outcomes)``, or ``(batch,)``.
    """
    if not way.plan.gates or are_transforms_active() or is_forward_mode():
        return _in_words(way, x, norm, weights, outcomes, multiply)
    if not torch.is_grad_enabled():  # else the function is told that gradients are wanted
        x, norm, weights = x.detach(), norm.detach(), weights.detach()
    return _Probabilities.apply(way, x, norm, weights, outcomes)


# ----------------------------------------------------------------------------- in words of torch
def matrix_of(
    way: Way,
    weights: Tensor,
    count: int,
    sweep: Callable[[Plan, Tensor, int], Tensor] = in_words,
) -> Tensor:
    """Return how features make amplitudes, from ``count`` rows or columns of U.

    Real and imaginary parts are the last axis of a row, but the second of columns: so a row need
    not be copied, and of columns, whose outcomes are many, long runs are added.

    Returns:
        Real and imaginary parts: ``(features, outcomes, 2)`` from rows, ``(features, 2, outcomes)``
        from columns.
    """
    if way.carry == "rows":
        return torch.view_as_real(sweep(reversed_plan(way.plan), weights, count))
    return torch.view_as_real(sweep(way.plan, weights, count)).permute(1, 2, 0).contiguous()


def by_matrix(
    way: Way,
    x: Tensor,
    norm: Tensor,
    matrix: Tensor,
    outcomes: int | None,
    multiply: Multiply = torch.matmul,
) -> Tensor:
    """Return what is read, with a matrix that has at least as many features and outcomes."""
    axis, features = 2 if way.carry == "rows" else 1, x.shape[1]
    if features < matrix.shape[0]:  # taking all of it would be one more call
        matrix = matrix[:features]
    if outcomes and outcomes < matrix.shape[3 - axis]:
        matrix = matrix.narrow(3 - axis, 0, outcomes)
    if matrix.shape[1] * matrix.shape[2] < features:  # the fewer numbers are scaled
        amplitudes = _product(x, matrix, axis, multiply) / norm.unsqueeze(2)
    else:
        amplitudes = _product(x / norm, matrix, axis, multiply)
    squares = amplitudes.square().sum(axis)
    return squares if way.plan.observed is None else squares.sum(1)


def _product(x: Tensor, matrix: Tensor, axis: int, multiply: Multiply) -> Tensor:
    """Return x M in real products only; parts of M and of the result along ``axis``."""
    flat, shape = matrix.flatten(1), (x.shape[0], *matrix.shape[1:])
    if not x.is_complex():
        return multiply(x, flat).view(shape)
    real, imaginary = (multiply(part, flat).view(shape) for part in (x.real, x.imag))
    turned = torch.stack([-imaginary.select(axis, 1), imaginary.select(axis, 0)], axis)  # i times
    return real + turned


def batch_first(read: Tensor) -> Tensor:
    """Turn ``(outcomes, batch)`` around, into memory of its own: what is returned is no view.

    For any batch size it can be viewed flat and changed in place.
    """
    return read.T.clone(memory_format=torch.contiguous_format)


def _in_words(
    way: Way,
    x: Tensor,
    norm: Tensor,
    weights: Tensor,
    outcomes: int | None,
    multiply: Multiply = torch.matmul,
) -> Tensor:
    """Do what ``probabilities`` says in functions that all of torch's transforms can take."""
    if way.carry == "states":
        amplitudes = in_words(way.plan, weights, (x / norm).T)[:outcomes]
        squares = torch.view_as_real(amplitudes).square()
        if way.plan.observed is None:
            return batch_first(squares[..., 0] + squares[..., 1])
        return squares.sum(0).sum(1)
    count = outcomes if way.carry == "rows" and outcomes else x.shape[1]
    return by_matrix(way, x, norm, matrix_of(way, weights, count), outcomes, multiply)


# ------------------------------------------------------------------------------- in one function
class _Probabilities(torch.autograd.Function):
    """All of it in one function, by a program.

    When a second derivative is asked for, or one by a transform, the functions above take over.
    """

    @staticmethod
    def forward(
        ctx: Any, way: Way, x: Tensor, norm: Tensor, weights: Tensor, outcomes: int | None
    ) -> Tensor:
        grad = any(ctx.needs_input_grad)
        reading = KINDS[way.carry](way, x, norm, weights, outcomes, grad)
        result = reading.run()
        if grad:
            ctx.way, ctx.outcomes = way, outcomes
            ctx.save_for_backward(x, norm, weights, holding(norm, reading))
        return result

    @staticmethod
    @over_batched_gradients
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        device = grad.device.type
        if not torch.is_autocast_enabled(device):
            return _Probabilities._pull_back(ctx, grad)
        with torch.autocast(device, enabled=False):
            return _Probabilities._pull_back(ctx, grad)

    @staticmethod
    def _pull_back(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, norm, weights, holder = ctx.saved_tensors
        way, outcomes = ctx.way, ctx.outcomes
        if torch.is_grad_enabled() or are_transforms_active() or is_forward_mode():
            pull_back = torch.func.vjp(
                lambda x, norm, weights: _in_words(way, x, norm, weights, outcomes),
                x,
                norm,
                weights,
            )[1]
            return None, *pull_back(grad), None
        reading = held(holder)
        if reading is None:
            reading = KINDS[way.carry](way, x, norm, weights, outcomes, True)
            reading.run()
        return None, *reading.pull_back(grad, ctx.needs_input_grad[1]), None


class _Reading:
    """A batch on its way through a program and back.

    Args:
        way: What is carried through which blocks.
        x: ``(batch, features)``.
        norm: ``(batch, 1)``.
        weights: Angles or gates.
        outcomes: As of ``probabilities``.
        grad: Whether ``pull_back`` will be called.
    """

    def __init__(
        self, way: Way, x: Tensor, norm: Tensor, weights: Tensor, outcomes: int | None, grad: bool
    ) -> None:
        self.plan, self.x, self.norm, self.weights = way.plan, x, norm, weights
        self.outcomes, self.grad = outcomes, grad
        self._scale = norm.reciprocal()

    def run(self) -> Tensor:
        """Return what is read."""
        raise NotImplementedError

    def pull_back(self, grad: Tensor, of_x: bool) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Return the gradients of x and norm, or None, and that of weights."""
        raise NotImplementedError

    def _contract(self, plan: Plan, states: Tensor | None, count: int) -> Tensor:
        self._lease = lease_for(plan, self.weights, states, count, grad=self.grad)
        return self._lease.program.run(self.weights, states)

    def _grad_of_final(self, count: int) -> Tensor:
        """Return where the conjugated gradient of the first ``count`` amplitudes is to be put."""
        whole = self._lease.program.final_grad
        if count == len(whole):
            return whole
        whole[count:].zero_()
        return whole[:count]


class _Rows(_Reading):
    """Rows of U: vectors of a program are the outcomes, and amplitudes the features.

    Samples are the last axis of amplitudes: so the products with the data are a third faster.
    """

    def run(self) -> Tensor:
        final = self._contract(reversed_plan(self.plan), None, self.outcomes or 0)
        x, self._rows = self.x, final[: self.x.shape[1]]
        if x.is_complex():
            amplitudes = torch.view_as_real(torch.mm(self._rows.T, x.T)).movedim(2, 1)
        else:
            amplitudes = torch.mm(self._reals().T, x.T).unflatten(0, (-1, 2))
        self._amplitudes = amplitudes.mul_(self._scale.view(-1))
        return batch_first(amplitudes.square().sum(1))

    def _reals(self) -> Tensor:
        return torch.view_as_real(self._rows).view(len(self._rows), -1)

    def pull_back(self, grad: Tensor, of_x: bool) -> tuple[Tensor | None, Tensor | None, Tensor]:
        x = self.x
        # Half of the amplitudes' gradient; the other half comes with the signs.
        half = self._amplitudes * (grad * self._scale).T.contiguous().unsqueeze(1)
        conjugate = half * _conjugating(grad.dtype, grad.device)[0].view(2, 1)
        target = self._grad_of_final(x.shape[1])
        if x.is_complex():
            of_product = torch.view_as_complex(conjugate.movedim(1, 2).contiguous())
            torch.mm(x.T, of_product.T, out=target)
        else:  # faster than the product the other way around, which is the gradient itself
            turned = torch.mm(conjugate.flatten(0, 1), x)
            torch.view_as_real(target).view(x.shape[1], -1).copy_(turned.T)
        of_weights = self._lease.program.pull_back(None, of=self.weights)
        if not of_x:
            return None, None, of_weights
        of_norm = -2 * (half * self._amplitudes).sum((0, 1)).unsqueeze(1)
        if x.is_complex():
            of_product = torch.view_as_complex(half.movedim(1, 2).contiguous()).T
            return 2 * of_product @ self._rows.mH, of_norm, of_weights
        return 2 * half.flatten(0, 1).T @ self._reals().T, of_norm, of_weights


class _Columns(_Reading):
    """Columns of U: vectors of a program are the features."""

    def run(self) -> Tensor:
        self._unit = _scaled(self.x, self._scale)
        final = self._contract(self.plan, None, self.x.shape[1])[: self.outcomes]
        if self.x.is_complex():
            self._columns = final.T
            self._amplitudes = torch.view_as_real(self._unit @ self._columns).movedim(2, 1)
        else:  # real products, and long runs of real and of imaginary parts
            self._columns = torch.view_as_real(final).permute(1, 2, 0).flatten(1)
            self._amplitudes = torch.mm(self._unit, self._columns).unflatten(1, (2, -1))
        real, imaginary = self._amplitudes.unbind(1)
        squares = (real * real).addcmul_(imaginary, imaginary)
        return squares if self.plan.observed is None else squares.sum(1)

    def pull_back(self, grad: Tensor, of_x: bool) -> tuple[Tensor | None, Tensor | None, Tensor]:
        unit, (_, _, count) = self._unit, self._amplitudes.shape
        grad = grad if self.plan.observed is None else grad.unsqueeze(1)
        half = self._amplitudes * grad.unsqueeze(1)  # of the amplitudes' gradient
        target = self._grad_of_final(count)
        if unit.is_complex():
            of_product = torch.view_as_complex(half.movedim(1, 2).contiguous())
            torch.mm(of_product.conj_physical().T, 2 * unit, out=target)
        else:
            of_product = half.flatten(1)
            of_columns = torch.mm(unit.T, of_product).unflatten(1, (2, -1))
            (signs,) = _conjugating(grad.dtype, grad.device)
            torch.mul(of_columns.permute(2, 0, 1), signs, out=torch.view_as_real(target))
        of_weights = self._lease.program.pull_back(None, of=self.weights)
        if not of_x:
            return None, None, of_weights
        return *_of_scaled(2 * of_product @ self._columns.mH, unit, self._scale), of_weights


class _States(_Reading):
    """States: vectors of a program are the samples."""

    def run(self) -> Tensor:
        self._unit = _scaled(self.x, self._scale)
        final = self._contract(self.plan, self._unit.T, len(self.x))
        self._amplitudes = torch.view_as_real(final[: self.outcomes])
        if self.plan.observed is not None:  # first along rows that are long in memory
            return self._amplitudes.square().sum(0).sum(1)
        real, imaginary = self._amplitudes.square().unbind(2)  # a sum over axis 2 is slow
        return batch_first(real + imaginary)

    def pull_back(self, grad: Tensor, of_x: bool) -> tuple[Tensor | None, Tensor | None, Tensor]:
        target = self._grad_of_final(len(self._amplitudes))
        (signs,) = _conjugating(grad.dtype, grad.device)
        grad = grad if grad.dim() == 1 else grad.T
        torch.mul(self._amplitudes, grad.unsqueeze(-1) * signs, out=torch.view_as_real(target))
        of_weights = self._lease.program.pull_back(self._unit.T, of=self.weights)
        if not of_x:
            return None, None, of_weights
        of_unit = self._lease.program.start_grad()[: self.x.shape[1]].T
        of_unit = of_unit if self.x.is_complex() else of_unit.real
        return *_of_scaled(of_unit, self._unit, self._scale), of_weights


KINDS: dict[str, type[_Reading]] = {"rows": _Rows, "columns": _Columns, "states": _States}


@cached_constants
def _conjugating(dtype: torch.dtype, device: torch.device) -> tuple[Tensor]:
    """Return twice the signs of real and imaginary parts in a conjugate."""
    return (torch.tensor([2, -2], dtype=dtype, device=device),)


def _scaled(x: Tensor, scale: Tensor) -> Tensor:
    """Return x times real numbers, without making those complex."""
    if not x.is_complex():
        return x * scale
    return torch.view_as_complex(torch.view_as_real(x) * scale.unsqueeze(2))


def _of_scaled(grad: Tensor, unit: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of norm from that of x / norm."""
    along = (grad.conj() * unit).real if unit.is_complex() else grad * unit
    return grad * scale, -along.sum(1, keepdim=True) * scale
