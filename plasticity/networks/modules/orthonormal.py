"""Orthonormal columns: the step back onto the Stiefel manifold."""

from __future__ import annotations

import torch
from torch import Tensor


def orthonormalized(matrix: Tensor) -> Tensor:
    """Return Q of W = Q R with R's diagonal positive, for a W near the manifold or far from it.

    LAPACK leaves the phases of R's diagonal open, so that Q alone could jump between two steps of
    an optimizer. With those phases moved into Q, the factor is unique, W with orthonormal columns
    stays as it is, and the map is a retraction: it agrees with the identity to first order along
    the manifold. Source: Absil, Mahony and Sepulchre 2008, "Optimization Algorithms on Matrix
    Manifolds", section 4.1.1.

    It treats the columns one after the other, as Gram and Schmidt do: the first keeps its
    direction. The sum of all steps in single precision stays within rounding of the manifold,
    since each call begins anew from W.

    Args:
        matrix: ``(rows, columns)``, real or complex, at least as many rows as columns. Columns that
            depend on each other are replaced by some that are orthonormal.
    """
    q, r = torch.linalg.qr(matrix)
    diagonal = r.diagonal()
    result: Tensor = q * torch.where(diagonal == 0, 1, diagonal.sgn())
    return result


def haar_columns(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Draw a real matrix with orthonormal columns, uniformly among all: Q of a Gaussian matrix.

    Source: Mezzadri 2007, "How to generate random matrices from the classical compact groups".
    """
    return orthonormalized(torch.randn(rows, columns, generator=generator))
