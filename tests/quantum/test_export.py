"""Circuits for devices: read back by Qiskit, sampled by Aer, and compared with dense matrices."""

import io

import numpy as np
import pytest
import tensorcircuit as tc
import torch
from scipy import stats

from plasticity.networks.modules.bricks import OrthogonalQNN, TrivializedQNN, WrappedQNN
from plasticity.quantum.circuits import Ansatz, Brickwork, Ring, Staircase
from plasticity.quantum.export import (
    CircuitCounts,
    count_gates,
    to_qasm3,
    to_qiskit,
)
from plasticity.quantum.readouts import Probabilities
from plasticity.quantum.reuploading import ReuploadingQNN
from plasticity.seeding import generator_for
from tests.oracle import amplitudes, dense_matrix, dense_unitary, tensorcircuit
from tests.quantum.exporting import (
    NEAR,
    apart,
    drawn,
    made,
    qasm3,
    qiskit_aer,
    reversed_bits,
    sample,
    state_of,
    unitary_of,
)

ANSAETZE = [
    Brickwork(4, 2), Brickwork(2, 1), Staircase(4, 2), Ring(4, 2), Ring(3, 2),
    Ansatz(4, ((3, 1), (0, 2), (2, 3), (1, 0), (3, 1))),
]  # fmt: skip


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("ansatz", ANSAETZE, ids=str)
def test_what_is_read_back_is_the_dense_matrix(ansatz: Ansatz, dtype: torch.dtype) -> None:
    net = made(ansatz, dtype)
    expected = dense_unitary(ansatz, net.angles)
    for circuit in (to_qiskit(net), qasm3.loads(to_qasm3(net))):
        assert apart(unitary_of(circuit), expected) < NEAR
        assert set(circuit.count_ops()) <= {"cx", "rz", "sx", "x"}
        assert circuit.count_ops()["cx"] == 3 * ansatz.num_gates or ansatz.num_qubits < 4


KINDS = ["real", "float32", "complex", "padded", "mostly zero", "first basis state", "integer"]


@pytest.mark.sampled(8)
@pytest.mark.parametrize("ansatz", ANSAETZE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_with_a_sample_what_is_read_back_has_our_state(ansatz: Ansatz, kind: str) -> None:
    """Each circuit and each kind in both precisions, in turn."""
    is_double = (ANSAETZE.index(ansatz) + KINDS.index(kind)) % 2 == 1
    net = made(ansatz, torch.float64 if is_double else torch.float32)
    x = sample(kind, ansatz.num_qubits)
    start = amplitudes(
        x.unsqueeze(0).to(x.dtype if x.is_complex() else torch.float64), net.ansatz.num_qubits
    )
    expected = (dense_unitary(ansatz, net.angles) @ start)[:, 0]
    read = qasm3.loads(to_qasm3(net, x))
    assert apart(state_of(read), expected) < NEAR
    assert set(read.count_ops()) <= {"cx", "rz", "sx", "x"}
    layer = net(x.unsqueeze(0)).detach().numpy()[0]
    np.testing.assert_allclose(np.abs(state_of(read)) ** 2, layer, atol=3e-6)


@pytest.mark.slow
def test_each_gate_is_three_cx_and_the_encoding_is_counted_apart() -> None:
    net = made(Brickwork(10, 4), torch.float32)
    counts = count_gates(net, torch.rand(784, generator=generator_for(0, "image")))
    assert counts.two_qubit_gates == counts.gates["cx"] == 3 * 36
    assert counts.depth == 93
    assert counts.encoding is not None
    assert counts.encoding.two_qubit_gates == counts.encoding.gates["cx"] == 2**10 - 11
    assert 3000 < counts.encoding.depth < 6000
    assert counts.encoding.encoding is None
    alone = count_gates(net)
    assert alone == CircuitCounts(counts.gates, 108, 93)
    assert sum(alone.gates.values()) == to_qiskit(net).size()


def test_counts_say_what_they_are() -> None:
    encoding = CircuitCounts({"cx": 1013, "x": 1}, 1013, 4500)
    counts = CircuitCounts({"rz": 354, "cx": 108}, 108, 93, encoding)
    assert str(counts) == (
        "network: 108 two-qubit gates, depth 93 (354 rz, 108 cx)\n"
        "encoding: 1,013 two-qubit gates, depth 4,500 (1,013 cx, 1 x)"
    )
    assert str(CircuitCounts({}, 0, 0)) == "0 two-qubit gates, depth 0 (no gates)"


def test_an_encoding_without_gates_is_still_counted() -> None:
    counts = count_gates(made(Brickwork(3, 1)), torch.ones(1))
    assert counts.encoding == CircuitCounts({}, 0, 0)


@pytest.mark.parametrize("basis", [("cz", "rz", "sx", "x"), ("u", "cx"), ["ecr", "rz", "sx", "x"]])
def test_other_gates_can_be_asked_for(basis) -> None:
    net, x = made(Ring(3, 2)), sample("complex", 3)
    expected = dense_unitary(net.ansatz, net.angles) @ amplitudes(x.unsqueeze(0), 3)
    text = to_qasm3(net, x, basis_gates=basis)
    assert apart(state_of(qasm3.loads(text)), expected[:, 0]) < NEAR
    assert set(to_qiskit(net, x, basis_gates=basis).count_ops()) <= set(basis)
    assert count_gates(net, x, basis_gates=basis).gates.keys() <= set(basis)


def test_export_leaves_the_network_and_tensorcircuit_as_they_are() -> None:
    net = made(Brickwork(3, 1), torch.float32)
    net.angles.grad = torch.ones_like(net.angles)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    before, settings = file.getvalue(), (tc.backend.name, tc.dtypestr)
    x = sample("real", 3).requires_grad_()
    to_qasm3(net, x)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    assert file.getvalue() == before
    assert torch.equal(net.angles.grad, torch.ones_like(net.angles))
    assert x.grad is None
    assert (tc.backend.name, tc.dtypestr) == settings
    assert to_qasm3(net, x) == to_qasm3(net, x)


# ------------------------------------------------------------------- networks with other circuits
@pytest.mark.parametrize("kind", [OrthogonalQNN, WrappedQNN, TrivializedQNN])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_constrained_networks_are_exported_by_their_gates(kind, dtype: torch.dtype) -> None:
    net = kind(Brickwork(4, 2), Probabilities(), drawn).to(dtype)
    with torch.no_grad():  # those of TrivializedQNN are zero
        net.angles.add_(torch.rand(net.angles.shape, generator=generator_for(0, "step")))
    expected = dense_matrix(net.ansatz, net.gates().detach().numpy())
    # The base of a TrivializedQNN was rounded to float32: it is that far from unitary.
    near = 1e-6 if kind is TrivializedQNN else NEAR
    circuit = qasm3.loads(to_qasm3(net))
    assert apart(unitary_of(circuit), expected) < near
    x = torch.eye(16, dtype=dtype)[3:4]
    layer = net(x).detach().numpy()[0]
    np.testing.assert_allclose(np.abs(unitary_of(circuit)[:, 3]) ** 2, layer, atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("places", [(0,), (2,), (0, 2, 3)])
def test_uploads_of_the_sample_are_exported_with_it(places, dtype: torch.dtype) -> None:
    net = ReuploadingQNN(
        Ansatz(3, ((2, 0), (0, 1), (1, 2), (2, 1))),
        Probabilities(),
        7,
        places,
        drawn,
        lambda shape: torch.randn(shape, generator=generator_for(0, "uploads")),
    ).to(dtype)
    x = sample("padded", 3)
    circuit = qasm3.loads(to_qasm3(net, x))
    layer = net(x.unsqueeze(0)).detach().numpy()[0]
    np.testing.assert_allclose(np.abs(state_of(circuit)) ** 2, layer, atol=3e-6)
    with tensorcircuit("numpy"):
        expected = np.asarray(net.double().circuit(x).state())
    assert apart(state_of(circuit), expected) < NEAR


# -------------------------------------------------------------------------------------- measured
def counted(circuit, shots: int) -> dict[str, int]:
    return qiskit_aer.AerSimulator(seed_simulator=7).run(circuit, shots=shots).result().get_counts()


@pytest.mark.parametrize("index", range(8))
def test_a_counts_key_is_our_index_of_the_basis_state(index: int) -> None:
    net = made(Brickwork(3, 1))
    torch.nn.init.zeros_(net.angles)
    x = torch.eye(8)[index]
    read = qasm3.loads(to_qasm3(net, x, measure=True))
    for circuit in (to_qiskit(net, x, measure=True), read):
        ((key, count),) = counted(circuit, 10).items()
        assert (int(key, 2), count) == (index, 10)
        places = {
            circuit.find_bit(step.qubits[0]).index: circuit.find_bit(step.clbits[0]).index
            for step in circuit.data
            if step.operation.name == "measure"
        }
        assert places == {0: 2, 1: 1, 2: 0}


def test_shots_follow_the_layers_probabilities() -> None:
    net, x = made(Ansatz(4, ((3, 1), (0, 2), (2, 3), (1, 0)))), sample("padded", 4)
    p = net(x.unsqueeze(0)).detach().numpy()[0]
    shots = 20_000
    assert p.min() * shots > 5
    observed = np.zeros(16)
    for key, count in counted(to_qiskit(net, x, measure=True), shots).items():
        observed[int(key, 2)] = count
    assert stats.chisquare(observed, shots * p).pvalue > 1e-3
    order = reversed_bits(4)  # the test sees a mistake in the order
    assert stats.chisquare(observed[order], shots * p).pvalue < 1e-9
