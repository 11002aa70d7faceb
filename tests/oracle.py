"""Slow, obvious second implementations, and a guard around TensorCircuit's global settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import scipy.linalg
import tensorcircuit as tc
import torch

from plasticity.quantum.circuits import Ansatz

DATA = Path(__file__).parent / "data"
PAULI = {
    "I": np.eye(2),
    "X": np.array([[0, 1], [1, 0]]),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1, -1]),
}
WORDS = ["IX", "IY", "IZ", "XI", "XX", "XY", "XZ", "YI", "YX", "YY", "YZ", "ZI", "ZX", "ZY", "ZZ"]


def dense_gate(angles: torch.Tensor) -> np.ndarray:
    """exp(-i sum_k angles_k P_k) by scipy, word by word."""
    hamiltonian = sum(
        float(angle) * np.kron(PAULI[a], PAULI[b])
        for angle, (a, b) in zip(angles, WORDS, strict=True)
    )
    return scipy.linalg.expm(-1j * hamiltonian)


def dense_unitary(ansatz: Ansatz, angles: torch.Tensor) -> np.ndarray:
    """The whole circuit as a (2**n, 2**n) matrix."""
    return dense_matrix(ansatz, np.stack([dense_gate(of_gate) for of_gate in angles.detach()]))


def dense_matrix(ansatz: Ansatz, gates: np.ndarray) -> np.ndarray:
    """The matrix of a circuit of any gates: amplitude by amplitude, gate by gate."""
    n = ansatz.num_qubits
    unitary = np.eye(2**n, dtype=complex)
    for small, (a, b) in zip(gates, ansatz.pairs, strict=True):
        large = np.zeros((2**n, 2**n), dtype=complex)
        for column in range(2**n):
            bits = [column >> (n - 1 - q) & 1 for q in range(n)]
            for out in range(4):
                changed = bits.copy()
                changed[a], changed[b] = out >> 1, out & 1
                row = int("".join(map(str, changed)), 2)
                large[row, column] = small[out, 2 * bits[a] + bits[b]]
        unitary = large @ unitary
    return unitary


def amplitudes(x: torch.Tensor, num_qubits: int) -> np.ndarray:
    """Samples as unit columns, (2**n, batch)."""
    padded = np.zeros((2**num_qubits, len(x)), dtype=complex)
    for k, sample in enumerate(x.detach().numpy()):
        padded[: len(sample), k] = sample / np.sqrt((np.abs(sample) ** 2).sum())
    return padded


def dense_probabilities(ansatz: Ansatz, angles: torch.Tensor, x: torch.Tensor) -> np.ndarray:
    """(batch, 2**n) by the dense matrix."""
    return np.abs(dense_unitary(ansatz, angles) @ amplitudes(x, ansatz.num_qubits)).T ** 2


def dense_z(ansatz: Ansatz, angles: torch.Tensor, x: torch.Tensor, qubit: int) -> np.ndarray:
    """(batch,) expectation of Z by the dense matrix."""
    n = ansatz.num_qubits
    signs = np.array([1 - 2 * (k >> (n - 1 - qubit) & 1) for k in range(2**n)])
    return dense_probabilities(ansatz, angles, x) @ signs


@contextmanager
def tensorcircuit(backend: str, dtype: str = "complex128") -> Iterator[None]:
    """Set TensorCircuit's globals and put them back, whatever happens inside."""
    before = tc.backend.name, tc.dtypestr
    tc.set_backend(backend)
    tc.set_dtype(dtype)
    try:
        yield
    finally:
        tc.set_backend(before[0])
        tc.set_dtype(before[1])
