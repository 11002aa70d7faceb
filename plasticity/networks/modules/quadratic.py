"""Squared overlaps of the input with complex vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from plasticity.networks.modules.orthonormal import orthonormalized
from plasticity.networks.trained import is_trained
from plasticity.quantum.calls import in_rows
from plasticity.quantum.readouts import LogOdds

Scores = Callable[[Tensor], Tensor]
"""From the squared overlaps ``(batch, vectors)`` to logits."""


class Overlaps(nn.Module):
    """Score an input by p_k = |sum_j u_kj x_j|^2 / |x|^2, where u_k are any vectors.

    Args:
        vectors: First values of the parameter.
        scores: Makes logits of the p_k.

    Attributes:
        vectors: The parameter, ``(amplitudes, vectors, 2)``: the last axis holds the real and the
            imaginary part of ``u_kj``, the first is j, the second k. An input of fewer numbers than
            amplitudes is padded with zeros. A zero input has no direction and gives NaN.
    """

    def __init__(self, vectors: Tensor, scores: Scores) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)
        self.scores = scores

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs, ``(..., features)``, real or complex, to logits, ``(..., logits)``."""
        return in_rows(lambda rows: self.scores(self._probabilities(rows)), x)

    def probabilities(self, x: Tensor) -> Tensor:
        """Return the p_k, ``(..., vectors)``."""
        return in_rows(self._probabilities, x)

    def _probabilities(self, x: Tensor) -> Tensor:
        dtype = self.vectors.dtype
        x = x.to(dtype.to_complex() if x.is_complex() else dtype)
        parts = (x.real, x.imag) if x.is_complex() else (x,)
        squared_norms = torch.stack([part.square().sum(1, keepdim=True) for part in parts]).sum(0)
        return _overlaps(parts, self.effective_vectors()).square().sum(2) / squared_norms

    def effective_vectors(self) -> Tensor:
        """Return the u_k, in the layout of ``vectors``."""
        return self.vectors


class RetractedOverlaps(Overlaps):
    """The same, where the vectors are orthonormal: the parameter itself, from the start on."""

    def __init__(self, vectors: Tensor, scores: Scores) -> None:
        super().__init__(vectors, scores)
        self.after_update()

    @torch.no_grad()
    def after_update(self) -> None:
        """Put the vectors back onto the Stiefel manifold, after a step of the optimizer."""
        if not is_trained(self.vectors):
            return
        vectors = torch.view_as_complex(self.vectors)
        vectors.copy_(orthonormalized(vectors))


class FactorizedOverlaps(Overlaps):
    """The same, where u_k are column k of Q of W = Q R, and W, the parameter, is free.

    Q is used with whatever phases it comes: p_k does not depend on them.
    """

    def effective_vectors(self) -> Tensor:
        """Return the orthonormal u_k, in the layout of ``vectors``."""
        return torch.view_as_real(torch.linalg.qr(torch.view_as_complex(self.vectors))[0])


def _overlaps(parts: tuple[Tensor, ...], vectors: Tensor) -> Tensor:
    """Return sum_j u_kj x_j as ``(batch, vectors, 2)``, by products of real matrices.

    Args:
        parts: The real part of x, and the imaginary one if it has one, ``(batch, features)``.
        vectors: The u_k.
    """
    matrix = vectors[: parts[0].shape[1]].flatten(1)
    overlaps: list[Tensor] = [(part @ matrix).unflatten(1, (-1, 2)) for part in parts]
    if len(overlaps) == 1:
        return overlaps[0]
    of_real, of_imaginary = overlaps
    real, imaginary = of_imaginary.unbind(2)
    return of_real + torch.stack([-imaginary, real], 2)  # i times those of the imaginary part


def complex_normal(amplitudes: int, vectors: int, generator: torch.Generator) -> Tensor:
    """Draw real and imaginary parts from N(0, 1 / (2 amplitudes)): squared norms are 1 on average.

    Returns:
        ``(amplitudes, vectors, 2)``.
    """
    normal = torch.randn(amplitudes, vectors, 2, generator=generator)
    result: Tensor = normal / (2 * amplitudes) ** 0.5
    return result


def log_odds(p: Tensor) -> Tensor:
    """Return log p_k - log(1 - p_k), clipped as by ``LogOdds``."""
    return LogOdds(p.shape[1])(p)


def logarithms(p: Tensor) -> Tensor:
    """Return log p_k, with p_k at least 1e-7, the lower clip of ``LogOdds``."""
    return p.clamp(min=1e-7).log()


def unchanged(p: Tensor) -> Tensor:
    """Return p_k."""
    return p


def differences(p: Tensor) -> Tensor:
    """Return p_0 - p_1 and p_1 - p_0, of two vectors."""
    return p - p.flip(1)


def second_less_first(scores: Scores, p: Tensor) -> Tensor:
    """Return the score of k = 1 less that of k = 0, ``(batch, 1)``, of two vectors."""
    first, second = scores(p).unbind(1)
    return (second - first).unsqueeze(1)
