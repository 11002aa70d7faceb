"""Circuits with a mistake are not written, and what cannot be exported is said in a line."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from plasticity.networks.modules.bricks import TrivializedQNN
from plasticity.quantum.circuits import Brickwork, Ring, Staircase
from plasticity.quantum.export import TOLERANCE, count_gates, save_qasm3, to_qasm3, to_qiskit
from plasticity.quantum.gates import FreeCircuit
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities
from plasticity.quantum.reuploading import ReuploadingQNN
from tests.oracle import dense_unitary
from tests.quantum.exporting import apart, drawn, made, qasm3, qiskit, sample, unitary_of

MISMATCH = r"is not the network: their states are \d\.\de[-+]\d\d apart, more than 1\.0e-08"


# ------------------------------------------------------------------------------ mistakes are seen
def plant(patch: pytest.MonkeyPatch, change) -> None:
    """Change our gates and their qubits on the way to Qiskit, and none of those that it adds."""
    plain = qiskit.QuantumCircuit.unitary

    def unitary(self, u, qubits, **kwargs):
        if isinstance(qubits, tuple) and self.num_qubits == 4:
            changed = change(u, qubits)
            return None if changed is None else plain(self, *changed)
        return plain(self, u, qubits, **kwargs)

    patch.setattr(qiskit.QuantumCircuit, "unitary", unitary)


def reverse_pairs(patch: pytest.MonkeyPatch) -> None:
    plant(patch, lambda u, qubits: (u, qubits[::-1]))


def mirror_qubits(patch: pytest.MonkeyPatch) -> None:
    plant(patch, lambda u, qubits: (u, [3 - q for q in qubits]))


def conjugate_gates(patch: pytest.MonkeyPatch) -> None:
    plant(patch, lambda u, qubits: (u.conj(), qubits))


def round_gates(patch: pytest.MonkeyPatch) -> None:
    def rounded(u, qubits):
        left, _, right = np.linalg.svd(u.astype(np.complex64).astype(np.complex128))
        return left @ right, qubits

    plant(patch, rounded)


def lose_a_gate(patch: pytest.MonkeyPatch) -> None:
    plant(patch, lambda u, qubits: None if qubits == (3, 2) else (u, qubits))


def leave_bits(patch: pytest.MonkeyPatch) -> None:
    plain = qiskit.QuantumCircuit.prepare_state
    patch.setattr(
        qiskit.QuantumCircuit,
        "prepare_state",
        lambda self, state, qubits: plain(self, state, list(qubits)[::-1]),
    )


def lose_a_line(patch: pytest.MonkeyPatch) -> None:
    plain = qasm3.dumps

    def shorter(circuit):
        lines = plain(circuit).splitlines()
        lines.remove(next(line for line in lines if line.startswith("cx")))
        return "\n".join(lines)

    patch.setattr(qasm3, "dumps", shorter)


OF_GATES = [reverse_pairs, mirror_qubits, round_gates, conjugate_gates, lose_a_gate]
PLANTED = [
    *((mistake, kind) for mistake in OF_GATES for kind in (None, "real")),
    (leave_bits, "real"), (lose_a_line, None), (lose_a_line, "real"),
]  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("mistake", "kind"), PLANTED)
def test_a_circuit_with_a_mistake_is_not_written(
    mistake, kind: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, file = made(Staircase(4, 2)), tmp_path / "circuit.qasm"
    x = None if kind is None else sample(kind, 4)
    save_qasm3(net, file, x)
    before = file.read_bytes()
    mistake(monkeypatch)
    with pytest.raises(RuntimeError, match=MISMATCH) as said:
        save_qasm3(net, file, x)
    assert len(str(said.value).splitlines()) == 1
    assert str(said.value).startswith(
        "OpenQASM 3" if mistake is lose_a_line else "Qiskit's circuit"
    )
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["circuit.qasm"]
    if mistake is not lose_a_line:
        for export in (to_qiskit, to_qasm3, count_gates):
            with pytest.raises(RuntimeError, match="is not the network"):
                export(net, x)


def test_gates_that_qiskit_takes_for_simpler_ones_are_seen_and_can_be_allowed() -> None:
    net = made(Brickwork(4, 2))
    with torch.no_grad():
        net.angles.mul_(1e-6)
    with pytest.raises(RuntimeError, match=MISMATCH):
        to_qiskit(net)
    circuit = to_qiskit(net, tolerance=1e-3)
    expected = dense_unitary(net.ansatz, net.angles)
    assert TOLERANCE < apart(unitary_of(circuit), expected) < 1e-3
    torch.nn.init.zeros_(net.angles)
    assert to_qiskit(net).size() == 0


# --------------------------------------------------------------------------------- files, errors
def test_the_file_is_the_text_and_replaces_what_was_there(tmp_path: Path) -> None:
    net, x, file = made(Ring(3, 1)), sample("real", 3), tmp_path / "circuit.qasm"
    file.write_text("old")
    (tmp_path / "circuit.qasm.tmp").write_text("left by a process that was killed")
    save_qasm3(net, file, x, measure=True)
    assert file.read_text() == to_qasm3(net, x, measure=True)
    assert file.read_text().startswith("OPENQASM 3")
    assert "unitary" not in file.read_text()
    save_qasm3(net, str(file), basis_gates=("cz", "rz", "sx"))
    assert file.read_text() == to_qasm3(net, basis_gates=("cz", "rz", "sx"))
    assert [path.name for path in tmp_path.iterdir()] == ["circuit.qasm"]


def test_where_nothing_can_be_written_nothing_is_left(tmp_path: Path) -> None:
    net, folder = made(Ring(3, 1)), tmp_path / "folder"
    with pytest.raises(FileNotFoundError, match=r"the folder .*folder is missing: make it first"):
        save_qasm3(net, folder / "circuit.qasm")
    folder.mkdir()
    with pytest.raises(OSError, match="folder"):
        save_qasm3(net, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def not_unitary() -> QNN:
    net = TrivializedQNN(Brickwork(3, 1), Probabilities(), drawn)
    with torch.no_grad():
        net.base[1].mul_(1.25)
    return net


def diverged() -> QNN:
    net = made(Brickwork(3, 1))
    with torch.no_grad():
        net.angles[1, 2] = math.nan
    return net


def uploading() -> QNN:
    return ReuploadingQNN(Brickwork(3, 1), LogOdds(2), 4, (1,))


ERRORS = {
    "a free circuit": (
        lambda: to_qiskit(FreeCircuit(Brickwork(3, 1), LogOdds(2))),
        TypeError,
        "a FreeCircuit cannot be exported: its gates are not unitary",
    ),
    "no network with a circuit": (
        lambda: to_qasm3(torch.nn.Linear(2, 2)),
        TypeError,
        "a Linear cannot be exported: it is not a QNN",
    ),
    "no tensor": (
        lambda: to_qiskit(made(Brickwork(3, 1)), [1.0, 2.0]),
        TypeError,
        "x must be a tensor, one sample, not a list",
    ),
    "a batch": (
        lambda: to_qiskit(made(Brickwork(3, 1)), torch.ones(1, 8)),
        ValueError,
        "one sample must be (features,), not of shape (1, 8): of a batch, x[0]",
    ),
    "too many features": (
        lambda: count_gates(made(Brickwork(3, 1)), torch.ones(9)),
        ValueError,
        "9 features do not fit: 3 qubits have 1 to 8 amplitudes",
    ),
    "no state": (
        lambda: to_qiskit(made(Brickwork(3, 1)), torch.zeros(8)),
        ValueError,
        "sample 0 is zero (norm 0.0): it has no state",
    ),
    "uploads without a sample": (
        lambda: to_qiskit(uploading()),
        ValueError,
        "a ReuploadingQNN cannot be exported without x: its circuit depends on it",
    ),
    "uploads of other features": (
        lambda: to_qiskit(uploading(), torch.ones(5)),
        ValueError,
        "5 features: it is made for 4",
    ),
    "uploads of complex numbers": (
        lambda: to_qiskit(uploading(), torch.ones(4, dtype=torch.complex64)),
        TypeError,
        "the inputs are complex: what rotates qubits must be real",
    ),
    "a gate that is not unitary": (
        lambda: to_qiskit(not_unitary()),
        ValueError,
        "gate 1 is not unitary: it is off by 2.5e-01, more than 1e-04",
    ),
    "diverged": (
        lambda: to_qiskit(diverged()),
        ValueError,
        "the network's gates are not finite",
    ),
    "too few gates": (
        lambda: to_qiskit(made(Brickwork(3, 1)), basis_gates=("x", "cx")),
        ValueError,
        "basis_gates ['x', 'cx']: Qiskit cannot make the circuit of them",
    ),
    "gates as they are": (
        lambda: to_qasm3(made(Brickwork(3, 1)), basis_gates=("unitary", "cx", "rz", "sx")),
        ValueError,
        "basis_gates ['unitary', 'cx', 'rz', 'sx']: Qiskit cannot make the circuit of them",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_exported_is_one_line(case: str) -> None:
    call, kind, message = ERRORS[case]
    with pytest.raises(kind) as said:
        call()
    assert str(said.value) == message


def test_the_readout_does_not_matter() -> None:
    ansatz = Brickwork(3, 2)
    nets = [QNN(ansatz, readout, drawn) for readout in (LogOdds(3), PauliZ(1), Probabilities())]
    assert len({to_qasm3(net) for net in nets}) == 1
