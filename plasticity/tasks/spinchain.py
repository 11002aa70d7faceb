"""The XXZ chain: its Hamiltonian, all its levels, and the levels of one symmetry sector.

    H(delta) = sum_i X_i X_{i+1} + Y_i Y_{i+1} + delta Z_i Z_{i+1},  site L being site 0 again,

with Pauli matrices, so without the factor 1/4 of spins 1/2. Site 0 is the most significant bit of a
basis state's index; bit 0 is spin up (Z = +1), bit 1 spin down. H is real and symmetric, and so are
its eigenvectors taken real. It is affine in delta: H(delta) = H(0) + delta dH/d delta.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

DELTAS = tuple(k / 50 for k in range(-100, 101))
"""The 201 anisotropies -2.00, -1.98, ..., 2.00; a quotient is rounded as the decimal is."""
MIN_SITES, MAX_SITES = 4, 20
# Levels count as equal below this difference; H has norm at most (2 + |delta|) L.
_DEGENERATE = 1e-9


def check_num_sites(num_sites: int) -> None:
    """Refuse chains that are not chains, and those beyond any machine.

    Raises:
        ValueError: It is not an integer from 4 to 20.
    """
    if type(num_sites) is not int or not MIN_SITES <= num_sites <= MAX_SITES:
        limits = f"an integer from {MIN_SITES} to {MAX_SITES}"
        raise ValueError(f"the number of sites must be {limits}, not {num_sites!r}")


def hamiltonian(num_sites: int, delta: float) -> np.ndarray:
    """Return H(delta) as a dense matrix, (2**L, 2**L), float64.

    Raises:
        ValueError: The number of sites is out of range.
    """
    check_num_sites(num_sites)
    matrix = np.zeros((2**num_sites, 2**num_sites))
    for unequal, flipped in _bonds(num_sites):
        # X X + Y Y takes |01> to 2 |10> and back, and |00> and |11> to zero.
        matrix[unequal, flipped] = 2
    np.fill_diagonal(matrix, delta * _sum_zz(num_sites))
    return matrix


def eigensystem(num_sites: int, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Diagonalize H(delta) in full.

    Where levels coincide, their basis is the solver's choice, and so is every state's sign.

    Returns:
        Energies (2**L,), ascending, and states (2**L, 2**L), a row a level; both float64.

    Raises:
        ValueError: The number of sites is out of range.
    """
    return _eigh(hamiltonian(num_sites, delta))


def sector_orbits(num_sites: int) -> np.ndarray:
    """Return which of the sector's orbits each basis state is in, (2**L,), -1 for those outside.

    The sector has L // 2 - 1 spins up, momentum 0 and even reflection parity: half filling has one
    more symmetry, the flip of all spins, and this is next to it. An orbit is what translations and
    reflections make of one basis state; they are numbered by their smallest index.

    Raises:
        ValueError: The number of sites is out of range.
    """
    check_num_sites(num_sites)
    states = np.arange(2**num_sites)
    mirrored = sum((states >> site & 1) << (num_sites - 1 - site) for site in range(num_sites))
    smallest = states
    for image in (states, mirrored):
        for _ in range(num_sites):
            image = (image << 1 | image >> (num_sites - 1)) & (2**num_sites - 1)
            smallest = np.minimum(smallest, image)
    inside = np.bitwise_count(states) == num_sites - (num_sites // 2 - 1)
    orbits = np.full(2**num_sites, -1)
    orbits[inside] = np.unique(smallest[inside], return_inverse=True)[1]
    return orbits


def sector_basis(num_sites: int) -> np.ndarray:
    """Return the sector's orthonormal basis, (dimension, 2**L) float64: a row an orbit, normalized.

    Raises:
        ValueError: The number of sites is out of range.
    """
    orbits = sector_orbits(num_sites)
    basis = (orbits == np.arange(orbits.max() + 1)[:, None]).astype(float)
    result: np.ndarray = basis / np.linalg.norm(basis, axis=1, keepdims=True)
    return result


def resolved_levels(
    num_sites: int, deltas: Sequence[float] = DELTAS
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sector's levels, each followed through all anisotropies.

    Level k is the k-th in energy at the first delta, and from then on the state that overlaps most
    with it at the delta before; so levels that cross keep their number, and every state turns
    continuously. The largest amplitude at the first delta is positive.

    Returns:
        Energies (deltas, dimension) and states (deltas, dimension, 2**L), both float64.

    Raises:
        ValueError: The number of sites is out of range, or two deltas are so far apart that the
            states before and after do not belong together one to one.
    """
    basis = sector_basis(num_sites)
    # H(0) and dH/d delta within the sector.
    exchange = sum(2 * basis[:, a] @ basis[:, b].T for a, b in _bonds(num_sites))
    slope = (basis * _sum_zz(num_sites)) @ basis.T
    energies = np.empty((len(deltas), len(basis)))
    vectors = np.empty((len(deltas), len(basis), len(basis)))
    for k, delta in enumerate(deltas):
        levels, rows = _analytic_eigh(exchange + delta * slope, slope)
        if k == 0:
            signs = _signs_of_largest(rows @ basis)
        else:
            overlaps = vectors[k - 1] @ rows.T
            match = np.abs(overlaps).argmax(axis=1)
            overlaps = overlaps[np.arange(len(basis)), match]
            # Rows and columns of the overlaps have norm 1: above sqrt(1/2) no two can meet.
            if np.abs(overlaps).min() <= np.sqrt(0.5):
                raise ValueError(
                    f"from delta {deltas[k - 1]:g} to {delta:g} a level of {num_sites} sites keeps "
                    f"an overlap of {np.abs(overlaps).min():.3f} only: the grid is too coarse there"
                )
            levels, rows, signs = levels[match], rows[match], np.sign(overlaps)
        energies[k], vectors[k] = levels, signs[:, None] * rows
    return energies, vectors @ basis


def _bonds(num_sites: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, for each bond, the basis states with unequal spins there, and with these swapped."""
    states = np.arange(2**num_sites)
    for site in range(num_sites):
        neighbors = 1 << site | 1 << (site + 1) % num_sites
        unequal = states[np.bitwise_count(states & neighbors) == 1]
        yield unequal, unequal ^ neighbors


def _sum_zz(num_sites: int) -> np.ndarray:
    """Return the diagonal of dH/d delta = sum_i Z_i Z_{i+1}, (2**L,) float64."""
    diagonal = np.full(2**num_sites, float(num_sites))
    for unequal, _ in _bonds(num_sites):
        diagonal[unequal] -= 2
    return diagonal


def _eigh(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues, ascending, and eigenvectors as rows."""
    # Not numpy's: with torch one setting decides the threads, and its solver lets others run.
    levels, columns = torch.linalg.eigh(torch.from_numpy(matrix))
    return levels.numpy(), columns.numpy().T


def _analytic_eigh(matrix: np.ndarray, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diagonalize, and where levels coincide take the basis that diagonalizes the slope as well.

    That is the basis that eigenvectors of matrix + x slope tend to for x to 0 (Rellich): where the
    degeneracy is a crossing, theirs has no jump. Levels that also share the slope stay arbitrary.
    """
    levels, rows = _eigh(matrix)
    gaps = np.flatnonzero(np.diff(levels) > _DEGENERATE * len(matrix)) + 1
    for group in np.split(np.arange(len(levels)), gaps):
        if len(group) > 1:
            rows[group] = _eigh(rows[group] @ slope @ rows[group].T)[1] @ rows[group]
    return levels, rows


def _signs_of_largest(states: np.ndarray) -> np.ndarray:
    """Return the sign of each row's largest amplitude; of equally large ones, of the first."""
    moduli = np.abs(states)
    # Equal up to rounding, or rounding would choose.
    first = (moduli >= (1 - 1e-6) * moduli.max(axis=1, keepdims=True)).argmax(axis=1)
    result: np.ndarray = np.sign(states[np.arange(len(states)), first])
    return result
