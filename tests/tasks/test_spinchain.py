"""Tests of the XXZ chain: against Kronecker products, TensorCircuit, golden spectra, symmetries."""

from functools import reduce

import numpy as np
import pytest
import tensorcircuit as tc

from plasticity.tasks.spinchain import (
    DELTAS,
    eigensystem,
    hamiltonian,
    resolved_levels,
    sector_basis,
)
from tests.oracle import DATA, PAULI, tensorcircuit


def word(num_sites, letters):
    """Return the Kronecker product of Pauli matrices, the identity where none is named."""
    return reduce(np.kron, [PAULI[letters.get(site, "I")] for site in range(num_sites)])


def dense_hamiltonian(num_sites, delta):
    weights = {"X": 1.0, "Y": 1.0, "Z": delta}
    terms = [
        weight * word(num_sites, {site: letter, (site + 1) % num_sites: letter})
        for site in range(num_sites)
        for letter, weight in weights.items()
    ]
    return sum(terms)


def moved(num_sites, sites):
    """Return the matrix that takes the spin on sites[k] to site k."""
    order = np.arange(2**num_sites).reshape((2,) * num_sites).transpose(sites).ravel()
    return np.eye(2**num_sites)[order]


@pytest.mark.parametrize("num_sites", [4, 5, 6])
@pytest.mark.parametrize("delta", [-1.5, 0.0, 0.3])
def test_hamiltonian_is_the_sum_of_kronecker_products(num_sites, delta):
    matrix = hamiltonian(num_sites, delta)
    assert matrix.dtype == np.float64
    np.testing.assert_allclose(matrix, dense_hamiltonian(num_sites, delta), atol=1e-14)


@pytest.mark.parametrize("num_sites", [4, 7])
@pytest.mark.parametrize("delta", [-2.0, 0.7])
def test_hamiltonian_is_that_of_tensorcircuit(num_sites, delta):
    with tensorcircuit("numpy"):
        ring = tc.templates.graphs.Line1D(num_sites, pbc=True)
        expected = tc.quantum.heisenberg_hamiltonian(ring, hzz=delta, sparse=False)
        np.testing.assert_allclose(hamiltonian(num_sites, delta), expected, atol=1e-12)


def test_spectra_are_those_of_the_released_program():
    golden = np.load(DATA / "xxz_spectra.npz")
    assert len(golden.files) == 15
    for key in golden.files:
        num_sites, delta = key.removeprefix("L").split("_delta")
        energies, _ = eigensystem(int(num_sites), float(delta))
        np.testing.assert_allclose(energies, golden[key], atol=1e-9, err_msg=key)


@pytest.mark.parametrize("delta", [-1.0, 0.0, 1.98])
def test_rows_are_orthonormal_eigenvectors_in_float32(delta):
    energies, states = eigensystem(10, delta)
    assert (np.diff(energies) >= 0).all()
    states = states.astype(np.float32)
    assert np.abs(states @ hamiltonian(10, delta) - energies[:, None] * states).max() < 1e-6
    states = states.astype(np.float64)  # sums in float32 would be off by more than the states
    assert np.abs(states @ states.T - np.eye(1024)).max() < 1e-6


def test_deltas_are_the_decimal_numbers():
    assert tuple(float(f"{k * 0.02:.2f}") for k in range(-100, 101)) == DELTAS


@pytest.mark.parametrize("bad", [3, 21, 0, -4, 4.0, "10", True, None, np.int64(6)])
def test_number_of_sites_out_of_range_is_an_error_with_the_limits(bad):
    for function in (lambda n: hamiltonian(n, 0.5), sector_basis, resolved_levels):
        with pytest.raises(ValueError, match="from 4 to 20, not"):
            function(bad)


# --- the sector ---------------------------------------------------------------------------------


@pytest.mark.sampled(4)
@pytest.mark.parametrize("num_sites, dimension", [(4, 1), (5, 1), (6, 3), (8, 5), (10, 16)])
def test_sector_basis_is_orthonormal_and_has_the_symmetries(num_sites, dimension):
    basis = sector_basis(num_sites)
    assert basis.shape == (dimension, 2**num_sites)
    np.testing.assert_allclose(basis @ basis.T, np.eye(dimension), atol=1e-14)
    sites = list(range(num_sites))
    magnetization = 2 * (num_sites // 2 - 1) - num_sites  # sum of Z: ups minus downs
    for row in basis:
        np.testing.assert_array_equal(moved(num_sites, sites[1:] + sites[:1]) @ row, row)
        np.testing.assert_array_equal(moved(num_sites, sites[::-1]) @ row, row)
        total = sum(np.diag(word(num_sites, {site: "Z"})) for site in sites) @ np.diag(row)
        np.testing.assert_allclose(total, magnetization * row, atol=1e-14)


@pytest.mark.parametrize("num_sites", [4, 6, 7])
def test_sector_is_all_there_is_of_its_symmetry(num_sites):
    sites = list(range(num_sites))
    shift, mirror = moved(num_sites, sites[1:] + sites[:1]), moved(num_sites, sites[::-1])
    average = sum(np.linalg.matrix_power(shift, k) for k in sites) / num_sites
    bits = np.arange(2**num_sites)[:, None] >> np.arange(num_sites) & 1
    ups = np.diag((bits == 0).sum(axis=1) == num_sites // 2 - 1)
    projector = average @ (np.eye(2**num_sites) + mirror) / 2 @ ups
    basis = sector_basis(num_sites)
    np.testing.assert_allclose(basis.T @ basis, projector, atol=1e-14)


@pytest.mark.parametrize("num_sites", [6, 8, 10])
def test_hamiltonian_does_not_leave_the_sector(num_sites):
    basis = sector_basis(num_sites)
    image = basis @ hamiltonian(num_sites, 0.7)
    np.testing.assert_allclose(image @ basis.T @ basis, image, atol=1e-12)


# --- resolved levels ----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[4, 6, 8, 10])
def resolved(request):
    return request.param, *resolved_levels(request.param)


def test_resolved_levels_are_orthonormal_eigenvectors_at_every_delta(resolved):
    num_sites, energies, states = resolved
    start = hamiltonian(num_sites, 0.0)
    slope = np.diag(hamiltonian(num_sites, 1.0))
    image = states @ start + np.array(DELTAS)[:, None, None] * slope * states
    np.testing.assert_allclose(image, energies[..., None] * states, atol=1e-12)
    gram = states @ states.transpose(0, 2, 1)
    np.testing.assert_allclose(
        gram, np.broadcast_to(np.eye(states.shape[1]), gram.shape), atol=1e-13
    )


def test_no_resolved_level_jumps(resolved):
    num_sites, energies, states = resolved
    overlaps = np.einsum("dkn,dkn->dk", states[:-1], states[1:])
    assert overlaps.min() > 0.999  # 0.66 at delta = 0, where levels cross, with any basis there
    # |dE / d delta| is an expectation of sum ZZ, and that changes by little as well.
    slopes = np.diff(energies, axis=0) / 0.02
    assert np.abs(slopes).max() <= num_sites
    assert np.abs(np.diff(slopes, axis=0)).max() < 0.05 * num_sites
    assert (np.diff(energies[0]) > 1e-9).all()


def test_levels_cross_where_delta_is_zero():
    energies, _ = resolved_levels(10)
    gaps = np.diff(np.sort(energies, axis=1), axis=1).min(axis=1)
    assert gaps[100] < 1e-12 and np.delete(gaps, 100).min() > 1e-5
    assert (np.diff(energies[-1]) < 0).any()


def test_first_of_the_largest_amplitudes_is_positive(resolved):
    _, _, states = resolved
    for state in states[0]:
        largest = np.flatnonzero(np.isclose(np.abs(state), np.abs(state).max(), rtol=1e-6))
        assert state[largest[0]] > 0


def test_resolved_levels_do_not_depend_on_the_solvers_basis(monkeypatch):
    """Have the solver turn every degenerate pair, and flip signs, as another solver might."""
    from plasticity.tasks import spinchain

    _, expected = resolved_levels(10)
    plain = spinchain._eigh
    rng = np.random.default_rng(0)

    def turned(matrix):
        levels, rows = plain(matrix)
        rows = rng.choice([-1.0, 1.0], (len(rows), 1)) * rows
        for k in np.flatnonzero(np.diff(levels) < 1e-9):
            c, s = np.cos(0.6), np.sin(0.6)
            rows[k : k + 2] = np.array([[c, -s], [s, c]]) @ rows[k : k + 2]
        return levels, rows

    monkeypatch.setattr(spinchain, "_eigh", turned)
    _, states = resolved_levels(10)
    np.testing.assert_allclose(states, expected, atol=1e-11)


def test_grid_that_is_too_coarse_to_follow_levels_is_refused():
    with pytest.raises(ValueError, match=r"from delta -2 to 2 .* 10 sites .* too coarse"):
        resolved_levels(10, [-2.0, 2.0])
