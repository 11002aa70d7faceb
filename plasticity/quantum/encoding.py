"""Amplitude encoding: samples, padded and scaled to unit norm, are the amplitudes of states."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from plasticity.quantum.engine.transforms import is_forward_mode, is_traced, is_transformed


def precision_of(weights: Tensor) -> torch.dtype:
    """Return the real dtype that angles or gates are computed in, or raise."""
    given = weights.dtype
    precision = given.to_real() if weights.dim() == 3 else given
    if precision not in (torch.float32, torch.float64):
        raise TypeError(
            f"angles are {given}: a QNN computes in torch.float32 or torch.float64 "
            "(net.float(), net.double())"
        )
    return precision


def check_tensor(x: object) -> None:
    """Raise if inputs are no tensor.

    Raises:
        TypeError: They are not.
    """
    if not isinstance(x, Tensor):
        kind = "a NumPy array" if type(x).__module__ == "numpy" else f"a {type(x).__name__}"
        raise TypeError(f"inputs are {kind}, not a torch.Tensor: torch.as_tensor(x) makes one")


def checked_samples(x: Tensor, num_qubits: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return x in the layer's precision and its samples' norms, ``(batch, 1)``, or raise."""
    batch, features = x.shape
    if not 1 <= features <= 2**num_qubits:
        raise ValueError(
            f"{features} features do not fit: {num_qubits} qubits have 1 to {2**num_qubits} "
            "amplitudes"
        )
    is_complex = x.is_complex()
    if is_complex:  # what torch has only noted, as in x.conj(), x.mH and x.conj().imag
        x = x.resolve_conj()
    elif x.is_neg():
        x = x.resolve_neg()
    exact = x
    if is_complex or x.dtype != dtype:
        x = _in_precision(x, dtype)
    norm = _norms(x)
    if x.device.type != "cpu" or is_transformed(norm) or is_forward_mode() or is_traced():
        x = _within_range(exact, norm.detach())
        return x, _norms(x)
    if batch == 0:
        return x, norm
    smallest, largest = norm.detach().aminmax()
    # NaN is neither.
    if not (_smallest_norm(dtype) <= smallest.item() and largest.item() < math.inf):
        x = _within_range(exact, norm.detach())
        norm = _norms(x)
        if not bool(((norm > 0) & norm.isfinite()).all()):
            sample = int((~((norm > 0) & norm.isfinite())).flatten().nonzero()[0])
            what = "is zero" if norm[sample] == 0 else "has a non-finite value"
            raise ValueError(
                f"sample {sample} {what} (norm {norm[sample].item()}): it has no state"
            )
    return x, norm


def _in_precision(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return real or complex numbers in a real dtype's precision."""
    wanted = dtype.to_complex() if x.is_complex() else dtype
    return x if x.dtype == wanted else x.to(wanted)


def _norms(x: Tensor) -> Tensor:
    """Return the samples' norms, ``(batch, 1)``."""
    parts = torch.view_as_real(x).flatten(1) if x.is_complex() else x
    if parts.stride(1) == 1:
        result: Tensor = torch.linalg.vector_norm(parts, dim=1, keepdim=True)
        return result
    # Five times as fast as torch's norm, where features are the first axis in memory.
    return parts.square().sum(1, keepdim=True).sqrt()


@cache  # torch.finfo makes an object each time
def _smallest_norm(dtype: torch.dtype) -> float:
    """Return the norm from which on squares that underflow are lost in rounding."""
    limits = torch.finfo(dtype)
    return math.sqrt(limits.tiny) / limits.eps


def _within_range(x: Tensor, norm: Tensor) -> Tensor:
    """Divide samples whose squares under- or overflow by their largest number; leave the others.

    Only a sample's direction counts, also for its gradient, so the divisor may be any constant.

    Args:
        x: The samples as they were given: numbers that the norm's precision does not have are
            divided before they are rounded to it.
        norm: Their norms in the layer's precision.
    """
    is_fine = (norm >= _smallest_norm(norm.dtype)) & norm.isfinite()
    if x.dtype.to_real() != torch.float64:  # half precisions and integers have a smaller range
        x = _in_precision(x, norm.dtype)
    parts = torch.view_as_real(x) if x.is_complex() else x.unsqueeze(2)
    largest = parts.detach().abs().amax((1, 2)).view(-1, 1)
    divisor = torch.where(is_fine, 1, largest.clamp(min=torch.finfo(largest.dtype).tiny))
    parts = parts / divisor.unsqueeze(2)  # complex numbers, divided, have squares of the divisor
    return _in_precision(
        torch.view_as_complex(parts) if x.is_complex() else parts.squeeze(2), norm.dtype
    )


def initial_state(x: Tensor, num_qubits: int, dtype: torch.dtype) -> Tensor:
    """Return the amplitudes of one sample, ``(features,)``, in a real dtype's precision."""
    check_tensor(x)
    if x.dim() != 1:
        raise ValueError(
            f"one sample must be (features,), not of shape {tuple(x.shape)}: of a batch, x[0]"
        )
    x, norm = checked_samples(x.unsqueeze(0), num_qubits, dtype)
    state = (x / norm).squeeze(0)
    return torch.nn.functional.pad(state, (0, 2**num_qubits - len(state)))
