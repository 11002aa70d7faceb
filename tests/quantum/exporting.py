"""What tests of exported circuits share: networks, samples, Qiskit's numbers in our order."""

import numpy as np
import pytest
import torch

from plasticity.quantum.circuits import Ansatz
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import Probabilities
from plasticity.seeding import generator_for

qiskit = pytest.importorskip("qiskit")
qasm3 = pytest.importorskip("qiskit.qasm3")
quantum_info = pytest.importorskip("qiskit.quantum_info")
qiskit_aer = pytest.importorskip("qiskit_aer")
pytest.importorskip("qiskit_qasm3_import")

NEAR = 1e-10


def drawn(shape: tuple[int, int]) -> torch.Tensor:
    return 6.3 * torch.rand(shape, generator=generator_for(0, "angles"))


def made(ansatz: Ansatz, dtype: torch.dtype = torch.float64, seed: int = 0) -> QNN:
    generator = generator_for(seed, "angles")
    return QNN(
        ansatz,
        Probabilities(),
        lambda shape: 6.3 * torch.rand(shape, generator=generator, dtype=torch.float64),
    ).to(dtype)


def sample(kind: str, num_qubits: int) -> torch.Tensor:
    generator = generator_for(1, "sample")
    size = 2**num_qubits
    return {
        "real": lambda: torch.randn(size, generator=generator, dtype=torch.float64),
        "float32": lambda: torch.randn(size, generator=generator),
        "complex": lambda: torch.randn(size, generator=generator, dtype=torch.complex128),
        "padded": lambda: 7 * torch.rand(size - 1, generator=generator, dtype=torch.float64),
        "mostly zero": lambda: torch.arange(size).remainder(3).eq(2).double(),
        "first basis state": lambda: torch.ones(1),
        "integer": lambda: torch.arange(size),
    }[kind]()


def reversed_bits(num_qubits: int) -> list[int]:
    """Qiskit's index of each of our basis states, digit by digit."""
    return [int(f"{index:0{num_qubits}b}"[::-1], 2) for index in range(2**num_qubits)]


def state_of(circuit) -> np.ndarray:
    """What a circuit makes of |0...0>, in our order."""
    return quantum_info.Statevector(circuit).data[reversed_bits(circuit.num_qubits)]


def unitary_of(circuit) -> np.ndarray:
    """A circuit's matrix, in our order."""
    order = reversed_bits(circuit.num_qubits)
    return quantum_info.Operator(circuit).data[np.ix_(order, order)]


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of numbers, but for a global phase."""
    largest = np.unravel_index(np.abs(expected).argmax(), expected.shape)
    phase = found[largest] / expected[largest]
    return float(np.abs(found / (phase / abs(phase)) - expected).max())
