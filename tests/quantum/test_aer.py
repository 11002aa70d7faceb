"""The layer on a device beside Qiskit Aer, on the gates that the circuit is exported in."""

import numpy as np
import pytest
import scipy.stats
import torch

pytest.importorskip("qiskit")
pytest.importorskip("qiskit_aer")

from qiskit_aer import AerSimulator
from qiskit_aer import noise as aer

from plasticity.quantum.circuits import Brickwork, Ring
from plasticity.quantum.device import NoiseModel
from plasticity.quantum.export import qiskit_amplitudes, to_qiskit
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, Probabilities

CX_ERROR, FLIPS = 0.02, (0.03, 0.08)
# Each gate is three CX, and each CX is depolarized.
NOISE = NoiseModel(depolarizing=1 - (1 - CX_ERROR) ** 3, readout_error=FLIPS)


def aer_noise() -> aer.NoiseModel:
    """Noise on the names of transpiled gates, and on measurements."""
    model = aer.NoiseModel()
    model.add_all_qubit_quantum_error(aer.depolarizing_error(CX_ERROR, 2), ["cx"])
    to_one, to_zero = FLIPS
    model.add_all_qubit_readout_error([[1 - to_one, to_one], [to_zero, 1 - to_zero]])
    return model


def layer(ansatz, readout) -> QNN:
    generator = torch.Generator().manual_seed(0)
    return QNN(ansatz, readout, lambda shape: 3 * torch.rand(shape, generator=generator)).double()


def circuit_of(qnn: QNN, x: torch.Tensor, *, measure: bool):
    """The sample's state without noise, then the network's gates."""
    network = to_qiskit(qnn, measure=measure)
    n = qnn.ansatz.num_qubits
    state = torch.nn.functional.pad(x, (0, 2**n - len(x))) / x.norm()
    turned = state.reshape((2,) * n).permute(*reversed(range(n))).flatten()
    torch.testing.assert_close(qiskit_amplitudes(qnn, x), turned, rtol=0, atol=1e-15)
    begin = network.copy_empty_like()
    begin.set_statevector(turned.numpy())
    return begin.compose(network, clbits=network.clbits)


@pytest.mark.parametrize("ansatz", [Brickwork(4, 2), Ring(3, 3)])
def test_probabilities_are_those_of_aer_on_transpiled_gates(ansatz) -> None:
    qnn, n = layer(ansatz, Probabilities()), ansatz.num_qubits
    x = torch.randn(2**n - 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    circuit = circuit_of(qnn, x, measure=False)
    assert circuit.count_ops()["cx"] == 3 * ansatz.num_gates
    circuit.save_probabilities()
    simulator = AerSimulator(method="density_matrix", noise_model=aer_noise())
    read = np.asarray(simulator.run(circuit).result().data(0)["probabilities"])
    read = read.reshape((2,) * n).transpose()
    flip = np.array([[1 - FLIPS[0], FLIPS[1]], [FLIPS[0], 1 - FLIPS[1]]])
    for qubit in range(n):
        read = np.moveaxis(np.tensordot(flip, read, ([1], [qubit])), 0, qubit)
    ours = qnn.on_device(NOISE).probabilities(x.unsqueeze(0))[0].detach().numpy()
    np.testing.assert_allclose(ours, read.flatten(), rtol=0, atol=1e-10)
    exact = qnn(x.unsqueeze(0))[0].detach().numpy()
    assert np.abs(exact - read.flatten()).max() > 0.01  # there is noise


def test_counts_of_aer_under_noise_follow_our_probabilities() -> None:
    shots = 20_000
    qnn = layer(Brickwork(4, 2), LogOdds(5))
    x = torch.rand(16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    simulator = AerSimulator(
        method="density_matrix", noise_model=aer_noise(), seed_simulator=3, shots=shots
    )
    counts = simulator.run(circuit_of(qnn, x, measure=True)).result().get_counts()
    of_outcome = [0] * 16
    for key, count in counts.items():
        of_outcome[int(key, 2)] += count
    p = qnn.on_device(NOISE).probabilities(x.unsqueeze(0))[0].detach().numpy()
    seen = np.array([*of_outcome[:5], sum(of_outcome[5:])])
    expected = shots * np.append(p, 1 - p.sum())
    assert scipy.stats.chisquare(seen, expected).pvalue > 0.01
    noiseless = qnn.on_device().probabilities(x.unsqueeze(0))[0].detach().numpy()
    wrong = shots * np.append(noiseless, 1 - noiseless.sum())
    assert scipy.stats.chisquare(seen, wrong).pvalue < 1e-6
