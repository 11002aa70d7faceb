"""Orthonormal columns: against Gram and Schmidt, near the manifold, far from it, and drawn."""

import pytest
import torch

from plasticity.networks.modules.orthonormal import haar_columns, orthonormalized
from plasticity.seeding import generator_for
from tests.networks.slow import columns_of, gram_schmidt
from tests.tiny import random_states, same

KINDS = (torch.float64, torch.complex128)


def drawn(rows: int, columns: int, dtype: torch.dtype, *purpose: int) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=dtype, generator=generator_for(0, "matrix", *purpose))


def error(matrix: torch.Tensor) -> float:
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype)
    return float(torch.linalg.matrix_norm(matrix.mH @ matrix - identity))


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("rows", [3, 7])
def test_it_is_what_gram_and_schmidt_make(dtype: torch.dtype, rows: int) -> None:
    matrix = drawn(rows, 3, dtype)
    expected = torch.tensor(gram_schmidt(columns_of(matrix)), dtype=torch.complex128).T
    torch.testing.assert_close(orthonormalized(matrix).to(torch.complex128), expected)


@pytest.mark.parametrize("dtype", KINDS)
def test_orthonormal_columns_stay_as_they_are(dtype: torch.dtype) -> None:
    on = orthonormalized(drawn(7, 3, dtype))
    torch.testing.assert_close(orthonormalized(on), on, rtol=0, atol=1e-14)
    torch.testing.assert_close(orthonormalized(-on), -on, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", KINDS)
def test_a_step_along_the_manifold_is_kept_to_first_order(dtype: torch.dtype) -> None:
    on, direction = orthonormalized(drawn(7, 3, dtype)), drawn(7, 3, dtype, 1)
    overlap = on.mH @ direction
    tangent = direction - on @ (overlap + overlap.mH) / 2
    moved_off = [
        float((orthonormalized(on + step * tangent) - (on + step * tangent)).norm())
        for step in (1e-3, 1e-4)
    ]
    assert moved_off[0] == pytest.approx(100 * moved_off[1], rel=0.05)  # of second order


def test_dependent_zero_and_huge_columns_become_orthonormal() -> None:
    same_column = torch.ones(6, 3, dtype=torch.complex64)
    for matrix in (same_column, 0 * same_column, 1e15 * drawn(6, 3, torch.complex64)):
        assert error(orthonormalized(matrix)) < 1e-5


def test_haar_columns_are_orthonormal_and_as_often_positive_as_negative() -> None:
    generator = generator_for(0, "matrix")
    matrices = [haar_columns(5, 2, generator) for _ in range(300)]
    assert max(error(matrix) for matrix in matrices) < 1e-5
    signs = torch.stack(matrices).sign().mean(0)
    assert signs.abs().max() < 0.25  # four standard deviations
    squares = torch.stack(matrices).square().mean(0)
    torch.testing.assert_close(squares, torch.full((5, 2), 1 / 5), rtol=0, atol=0.05)


def test_haar_columns_come_from_the_generator_alone() -> None:
    before = random_states()
    first, again, other = (haar_columns(5, 2, generator_for(seed, "matrix")) for seed in (0, 0, 1))
    assert same(random_states(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
