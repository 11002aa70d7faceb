"""Export: the layer's circuit as a Qiskit circuit, and as OpenQASM 3.

The qubits keep their numbers. Qubit 0 is the most significant bit of a basis state's index here,
and the least significant one in Qiskit; the pairs of gates and the amplitudes are turned around
accordingly. No circuit leaves this module before its states were compared with the network's own.

It needs the extra ``qiskit``, which is imported when a circuit is asked for.

Longer than 400 lines: all of it is one way from a layer to a circuit that was compared with it.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from plasticity.quantum.encoding import initial_state
from plasticity.quantum.gates import FreeCircuit
from plasticity.quantum.layer import QNN
from plasticity.quantum.reuploading import ReuploadingQNN

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

BASIS_GATES = ("cx", "rz", "sx", "x")
"""The gates that a circuit is made of unless others are named: those of many devices."""
TOLERANCE = 1e-8
"""How far apart states of norm 1 may be, in norm, that should be the same."""
MOST_ROUNDED = 1e-4
"""How far from unitary a gate may be: rounding of float32, and room for many steps of it."""
COMPARED = 4
"""Random states that a circuit without a sample is compared on."""


# ------------------------------------------------------------------------------------- what to call
def to_qiskit(
    qnn: QNN,
    x: Tensor | None = None,
    *,
    basis_gates: Sequence[str] = BASIS_GATES,
    measure: bool = False,
    tolerance: float = TOLERANCE,
) -> QuantumCircuit:
    """Return a network's circuit, in the gates of a device.

    The gates are taken in complex128 and decomposed by Qiskit (``transpile`` at optimization_level
    1). Three CX make one two-qubit gate. For the couplings of a device, transpile what is returned
    once more.

    With a sample, the circuit is compared with the network by the state that it makes of
    ``|0...0>``. Without one, it is compared on four random states, which have parts of all basis
    states: a mistake in any of these shows. One global phase is free. The network's states are
    products of its gates with the states, in torch.

    Qiskit replaces gates that are within about 1e-5 of simpler ones (of the identity, say) by
    these. A network with such gates fails the comparison unless ``tolerance`` allows them.

    Args:
        qnn: A trained network.
        x: One sample, ``(features,)``, real or complex. Its amplitude encoding, padded and
            normalized as in the layer, then comes first. Without it, the circuit has the network's
            gates alone, to be applied to a state.
        basis_gates: Names of Qiskit's gates.
        measure: Whether qubit q is measured into classical bit n-1-q at the end. So a count's key,
            as a binary number, is the index of the basis state: ``int(key, 2)``.
        tolerance: How far apart the circuit's states and the network's may be, in norm.

    Raises:
        TypeError: It is not a QNN, the sample is not a tensor, or complex where it must be real.
        ValueError: A gate is not unitary, Qiskit cannot make the circuit of those gates, x is not a
            sample of the network, or there is none where the circuit depends on it.
        RuntimeError: The circuit's states are not the network's.
        ImportError: Qiskit is not installed.
    """
    parts = _parts(qnn, x, basis_gates, tolerance)
    return _measured(parts.circuit) if measure else parts.circuit


def to_qasm3(
    qnn: QNN,
    x: Tensor | None = None,
    *,
    basis_gates: Sequence[str] = BASIS_GATES,
    measure: bool = False,
    tolerance: float = TOLERANCE,
) -> str:
    """Return a network's circuit as OpenQASM 3.

    The text is read back, and the circuit that it says is compared with the network too: numbers
    within 1e-9 of simple fractions of pi are written as these.

    Args:
        qnn: As ``to_qiskit``.
        x: As ``to_qiskit``.
        basis_gates: As ``to_qiskit``.
        measure: As ``to_qiskit``.
        tolerance: As ``to_qiskit``.

    Raises:
        TypeError: As ``to_qiskit``.
        ValueError: As ``to_qiskit``.
        RuntimeError: As ``to_qiskit``, of the circuit or of the text.
        ImportError: Qiskit is not installed, or its reader of OpenQASM 3 is not.
    """
    parts = _parts(qnn, x, basis_gates, tolerance)
    with _extra():
        import qiskit_qasm3_import  # noqa: F401  # what reads
        from qiskit import qasm3
    text: str = qasm3.dumps(_measured(parts.circuit) if measure else parts.circuit)
    read = qasm3.loads(text)
    read.remove_final_measurements()
    parts.expected.compare(read, "OpenQASM 3")
    return text


def save_qasm3(
    qnn: QNN,
    path: str | os.PathLike[str],
    x: Tensor | None = None,
    *,
    basis_gates: Sequence[str] = BASIS_GATES,
    measure: bool = False,
    tolerance: float = TOLERANCE,
) -> None:
    """Write a network's circuit to a file, as OpenQASM 3: all of it, or none.

    It raises what ``to_qasm3`` raises, and OSError where the file cannot be written; a folder that
    is missing is told before the circuit is made.

    Args:
        qnn: As ``to_qiskit``.
        path: Of the file, which is replaced.
        x: As ``to_qiskit``.
        basis_gates: As ``to_qiskit``.
        measure: As ``to_qiskit``.
        tolerance: As ``to_qiskit``.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} is missing: make it first")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    text = to_qasm3(qnn, x, basis_gates=basis_gates, measure=measure, tolerance=tolerance)
    aside = path.with_name(path.name + ".tmp")
    try:
        aside.unlink(missing_ok=True)
        # "x" does not follow links, and fails where a file has appeared since.
        with open(aside, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def qiskit_amplitudes(qnn: QNN, x: Tensor) -> Tensor:
    """Return a sample's amplitudes in Qiskit's order, to begin a circuit in that state.

    Args:
        qnn: Whose encoding it is.
        x: One sample, ``(features,)``, real or complex.

    Returns:
        ``(2**num_qubits,)`` in double precision, of norm 1. Qubit 0 is the least significant bit of
        an index.
    """
    return _turned(initial_state(x.detach().cpu(), qnn.ansatz.num_qubits, torch.float64))


def _turned(state: Tensor) -> Tensor:
    """Reverse the bits of a state's indices."""
    num_qubits = len(state).bit_length() - 1
    return state.reshape((2,) * num_qubits).permute(*reversed(range(num_qubits))).flatten()


@dataclass(frozen=True)
class CircuitCounts:
    """Say what a circuit costs on a device.

    Attributes:
        gates: The network's gates by name, the most frequent first.
        two_qubit_gates: How many of them are on two qubits, where devices err most.
        depth: Gates on the longest path through the network.
        encoding: The same of the amplitude encoding of a sample, if there is one.
    """

    gates: dict[str, int]
    two_qubit_gates: int
    depth: int
    encoding: CircuitCounts | None = None

    def __str__(self) -> str:
        """Describe it in a line, or network and encoding in a line each."""
        gates = ", ".join(f"{count:,} {name}" for name, count in self.gates.items())
        two = f"{self.two_qubit_gates:,} two-qubit gates, depth {self.depth:,}"
        line = f"{two} ({gates or 'no gates'})"
        return line if self.encoding is None else f"network: {line}\nencoding: {self.encoding}"


def count_gates(
    qnn: QNN,
    x: Tensor | None = None,
    *,
    basis_gates: Sequence[str] = BASIS_GATES,
    tolerance: float = TOLERANCE,
) -> CircuitCounts:
    """Count the gates of what ``to_qiskit`` returns, without measurements.

    The encoding is counted apart, since it costs more than the network: of 2**n amplitudes, about
    2**n CX. It raises what ``to_qiskit`` raises.

    Args:
        qnn: As ``to_qiskit``.
        x: As ``to_qiskit``.
        basis_gates: As ``to_qiskit``.
        tolerance: As ``to_qiskit``.
    """
    parts = _parts(qnn, x, basis_gates, tolerance)
    encoding = None if parts.encoding is None else _counts(parts.encoding)
    return _counts(parts.network, encoding)


def _counts(circuit: QuantumCircuit, encoding: CircuitCounts | None = None) -> CircuitCounts:
    two = sum(len(operation.qubits) == 2 for operation in circuit.data)
    return CircuitCounts(dict(circuit.count_ops()), two, circuit.depth(), encoding)


# ------------------------------------------------------------------------------------ the circuit
class _Step(NamedTuple):
    """A unitary matrix on some qubits, of which the first is its most significant bit."""

    matrix: Tensor
    qubits: tuple[int, ...]


class _Parts(NamedTuple):
    """A circuit that was found equal to the network: before and after the sample is encoded."""

    encoding: QuantumCircuit | None
    network: QuantumCircuit
    expected: _Expected

    @property
    def circuit(self) -> QuantumCircuit:
        """Put both together."""
        if self.encoding is None:
            return self.network
        return self.encoding.compose(self.network)


def _parts(qnn: QNN, x: Tensor | None, basis_gates: Sequence[str], tolerance: float) -> _Parts:
    """Return the circuit, compared with the network."""
    if isinstance(qnn, FreeCircuit):
        raise TypeError("a FreeCircuit cannot be exported: its gates are not unitary")
    if not isinstance(qnn, QNN):
        raise TypeError(f"a {type(qnn).__name__} cannot be exported: it is not a QNN")
    if x is not None and not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, one sample, not a {type(x).__name__}")
    with _extra():
        from qiskit import QuantumCircuit
    num_qubits = qnn.ansatz.num_qubits
    state = None
    with torch.no_grad():
        if x is not None:
            x = x.detach().cpu()
            state = initial_state(x, num_qubits, torch.float64)
        gates = qnn.gates().cpu()
        unitary, rounding = _unitary(gates)
        expected = _expected(num_qubits, _steps(qnn, gates, x), state, tolerance + rounding)
        steps = _steps(qnn, unitary, x)
    network = QuantumCircuit(num_qubits)
    for matrix, qubits in steps:
        network.unitary(matrix.numpy(), qubits[::-1])
    encoding = None
    if state is not None:
        encoding = QuantumCircuit(num_qubits)
        encoding.prepare_state(_turned(state).numpy(), range(num_qubits))
        encoding = _decomposed(encoding, basis_gates)
    parts = _Parts(encoding, _decomposed(network, basis_gates), expected)
    expected.compare(parts.circuit, "Qiskit's circuit")
    return parts


def _steps(qnn: QNN, gates: Tensor, x: Tensor | None) -> list[_Step]:
    """Return gates, and what a sample adds between them, in order of application."""
    steps = [_Step(*step) for step in zip(gates, qnn.ansatz.pairs, strict=True)]
    if not isinstance(qnn, ReuploadingQNN):
        return steps
    if x is None:
        name = type(qnn).__name__
        raise ValueError(f"a {name} cannot be exported without x: its circuit depends on it")
    # In double precision, as the gates: the network's own rounding is none of the circuit's.
    _, rotations = copy.deepcopy(qnn).cpu().double()._rotations(x.unsqueeze(0))
    (_, end), *later = qnn._spans
    mixed = steps[:end]
    for (start, end), angles in zip(later, rotations[:, 0], strict=True):
        turns = torch.polar(torch.ones_like(angles), -angles)  # of 0; of 1 it is the conjugate
        matrices = torch.stack([turns, turns.conj()], 1).diag_embed()
        mixed += [_Step(matrix, (qubit,)) for qubit, matrix in enumerate(matrices)]
        mixed += steps[start:end]
    return mixed


def _unitary(gates: Tensor) -> tuple[Tensor, float]:
    """Return the nearest unitary matrices, and the sum of how far away they are (spectral norm).

    The nearest to U diag(s) V* is U V* (Fan and Hoffman 1955, "Some metric inequalities in the
    space of matrices"). A product of gates is no further from theirs than that sum, to first order.
    """
    if not gates.isfinite().all():
        raise ValueError("the network's gates are not finite")
    left, values, right = torch.linalg.svd(gates)
    far = (values - 1).abs().amax(1)
    if far.max() > MOST_ROUNDED:
        gate = int(far.argmax())
        raise ValueError(
            f"gate {gate} is not unitary: it is off by {far[gate].item():.1e}, more than "
            f"{MOST_ROUNDED:.0e}"
        )
    return left @ right, float(far.sum())


def _decomposed(circuit: QuantumCircuit, basis_gates: Sequence[str]) -> QuantumCircuit:
    """Return a circuit of nothing but these gates."""
    with _extra():
        from qiskit import transpile
        from qiskit.transpiler.exceptions import TranspilerError
    names = list(basis_gates)
    try:
        return transpile(circuit, basis_gates=names, optimization_level=1)
    except (TranspilerError, ValueError) as error:  # as of "unitary": nothing is left undecomposed
        raise ValueError(f"basis_gates {names}: Qiskit cannot make the circuit of them") from error


def _measured(circuit: QuantumCircuit) -> QuantumCircuit:
    """Return a circuit whose counts have our indices of basis states as keys."""
    with _extra():
        from qiskit import ClassicalRegister
    result = circuit.copy()
    bits = ClassicalRegister(circuit.num_qubits, "c")
    result.add_register(bits)
    result.measure(range(circuit.num_qubits), list(reversed(bits)))
    return result


# ------------------------------------------------------------------------------------- the check
@dataclass(frozen=True, eq=False)
class _Expected:
    """The network's own states.

    Attributes:
        inputs: ``(states, 2**num_qubits)``, or None where a circuit starts from ``|0...0>``.
        outputs: What becomes of them, ``(states, 2**num_qubits)``.
        limit: How far from them a circuit's states may be.
    """

    inputs: Tensor | None
    outputs: Tensor
    limit: float

    def compare(self, circuit: QuantumCircuit, what: str) -> None:
        """Raise if a circuit makes other states, up to one phase."""
        with _extra():
            from qiskit.quantum_info import Statevector
        if self.inputs is None:
            found = [Statevector(circuit)]
        else:
            given = [Statevector(state.numpy()).reverse_qargs() for state in self.inputs]
            found = [state.evolve(circuit) for state in given]
        states = torch.stack([torch.from_numpy(state.reverse_qargs().data) for state in found])
        phase = torch.sgn((states.conj() * self.outputs).sum())
        distance = torch.linalg.vector_norm(states * phase - self.outputs, dim=1).max().item()
        if not distance <= self.limit:
            raise RuntimeError(
                f"{what} is not the network: their states are {distance:.1e} apart, more than "
                f"{self.limit:.1e} (tolerance)"
            )


def _expected(
    num_qubits: int, steps: Sequence[_Step], state: Tensor | None, limit: float
) -> _Expected:
    """Return what a circuit has to make: of |0...0> with a sample, else of random states."""
    if state is not None:
        return _Expected(None, _applied(steps, state.unsqueeze(0).to(torch.complex128)), limit)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(COMPARED, 2**num_qubits, dtype=torch.complex128, generator=generator)
    inputs = inputs / torch.linalg.vector_norm(inputs, dim=1, keepdim=True)
    return _Expected(inputs, _applied(steps, inputs), limit)


def _applied(steps: Sequence[_Step], states: Tensor) -> Tensor:
    """Multiply states, ``(states, 2**num_qubits)``, by all gates."""
    num_qubits = states.shape[1].bit_length() - 1
    result = states.reshape(-1, *(2,) * num_qubits)
    for matrix, qubits in steps:
        axes = [1 + qubit for qubit in qubits]
        last = list(range(-len(axes), 0))
        moved = result.movedim(axes, last)
        result = (moved.flatten(-len(axes)) @ matrix.mT).reshape(moved.shape).movedim(last, axes)
    return result.flatten(1)


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    """Say what to install where an import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"plasticity.quantum.export needs qiskit ({error}): "
            "pip install 'quantum-plasticity[qiskit]'"
        ) from None
