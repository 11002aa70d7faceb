"""Who ``experiments.bench`` compares, at what, and the proof that all compute the same.

The shapes are the project's steps. Each contestant is used as well as we know how: of the ways that
its documentation shows, the one that we found fastest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorcircuit as tc
import torch
from tensorcircuit.torchnn import TorchLayer
from torch import Tensor, nn
from torch.nn.functional import pad

from plasticity.errors import Failure
from plasticity.quantum.circuits import Ansatz, Brickwork, Ring, Staircase, light_cone, pauli_words
from plasticity.quantum.layer import QNN, Carry
from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities, Readout, SignedPauliZ
from plasticity.seeding import generator_for

TOLERANCE = 2e-3
"""Largest ||a - b|| / ||b|| of outputs and gradients that passes as equal in single precision. Most
of it is torch's matrix exponential in complex64, which all but ours use: 1e-5 a gate."""
EVALUATION_BATCH = 500
"""Samples that the other contestants evaluate at a time: they are slower with more, or fewer."""


class Disagreement(Failure):
    """A contestant's outputs or gradient are not ours."""


# ---------------------------------------------------------------------------------------- shapes
@dataclass(frozen=True)
class Shape:
    """A step that some experiment takes all the time.

    Attributes:
        ansatz: The circuit.
        readout: What is read from it.
        batch: Samples.
        features: Of each sample.
        complex_inputs: Whether samples are complex states.
        squash: Map outputs p to tanh(5 p), as the Ant policy does.
        trains: Whether the gradient of the angles is wanted; otherwise they stand still.
    """

    ansatz: Ansatz
    readout: Readout
    batch: int
    features: int
    complex_inputs: bool = False
    squash: bool = False
    trains: bool = True

    def inputs(self) -> Tensor:
        """Return ``(batch, features)`` numbers, pixels in [0, 1) or complex amplitudes."""
        generator, size = generator_for(0, "bench inputs"), (self.batch, self.features)
        if self.complex_inputs:
            return torch.randn(size, generator=generator, dtype=torch.complex64)
        return torch.rand(size, generator=generator)

    def angles(self) -> Tensor:
        """Return ``(num_gates, 15)`` uniform in [0, 2 pi)."""
        generator = generator_for(0, "bench angles")
        return 2 * math.pi * torch.rand((self.ansatz.num_gates, 15), generator=generator)

    @property
    def outcomes(self) -> int | None:
        """Return how many basis states are read, None for an expectation value."""
        return self.readout.num_outcomes(self.ansatz.num_qubits)

    def head(self, outputs: Tensor) -> Tensor:
        """Map what the readout gives to what the experiment uses."""
        return torch.tanh(5 * outputs) if self.squash else outputs

    def fewest_operations(self) -> int:
        """Count the floating point operations of a step gate by gate, on the fewest vectors.

        A 4x4 gate does 4 complex products and sums, 32 real operations, on each amplitude of each
        vector, once forward and twice backward. Vectors are the outcomes read (rows of U), the
        features (columns) or the samples (states), whichever are fewest.
        """
        vectors = min(self.batch, self.features, self.outcomes or self.batch)
        gates = len(light_cone(self.ansatz, self.readout.qubit))
        return 32 * gates * 2**self.ansatz.num_qubits * vectors * (3 if self.trains else 1)


_MNIST = Shape(Brickwork(10, 4), LogOdds(10), batch=128, features=784)
_CIFAR = Shape(Brickwork(10, 10), SignedPauliZ(9), batch=128, features=1024)
_ANT = Shape(Ring(9, 12), Probabilities(), batch=128, features=27, squash=True)
SHAPES = {
    "mnist": _MNIST,
    "cifar": _CIFAR,
    "cifar-deep": dataclasses.replace(_CIFAR, ansatz=Brickwork(10, 30)),
    "xxz": Shape(Staircase(10, 6), PauliZ(0), batch=64, features=1024, complex_inputs=True),
    "ant": _ANT,
    "ant-rollout": dataclasses.replace(_ANT, batch=16, trains=False),
    "mnist-evaluation": dataclasses.replace(_MNIST, batch=10_000, trains=False),
    "cifar-evaluation": dataclasses.replace(_CIFAR, batch=200, trains=False),
}


# ----------------------------------------------------------------------------------- contestants
# Each is a module from inputs to the probabilities of all basis states; its parameter, the angles.
class Apply(nn.Module):
    """Make a module of a function of inputs, or of inputs and angles."""

    def __init__(self, function: Callable[..., Tensor], angles: Tensor | None = None) -> None:
        super().__init__()
        self.function = function
        self.angles = None if angles is None else nn.Parameter(angles)

    def forward(self, x: Tensor) -> Tensor:
        """Call the function."""
        return self.function(x) if self.angles is None else self.function(x, self.angles)


def gates_of(angles: Tensor) -> Tensor:
    """Return all gates, ``(num_gates, 4, 4)`` complex64, by one batched matrix exponential."""
    words = torch.from_numpy(pauli_words()).to(angles.device, torch.complex64)
    return torch.linalg.matrix_exp(torch.einsum("gk,kij->gij", -1j * angles, words))


def states_of(x: Tensor, num_qubits: int) -> Tensor:
    """Encode samples (along the last axis) as amplitudes."""
    unit = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return pad(unit, (0, 2**num_qubits - x.shape[-1])).to(torch.complex64)


def read(shape: Shape, probabilities: Tensor) -> Tensor:
    """Apply the readout to ``(batch, 2**num_qubits)`` probabilities."""
    qubit = shape.readout.qubit
    if qubit is None:
        return shape.readout(probabilities[:, : shape.outcomes])
    zero, one = probabilities.unflatten(1, (2**qubit, 2, -1)).sum((1, 3)).unbind(1)
    return shape.readout(zero - one)


@contextlib.contextmanager
def tensorcircuit_on_torch() -> Iterator[None]:
    """Set TensorCircuit's globals for its TorchLayer, and put them back.

    Its ``plain`` contractor takes gates as they come; searching for a better order, the default,
    makes a step a fifth slower.
    """
    before = tc.backend.name, tc.dtypestr
    tc.set_backend("pytorch")
    tc.set_dtype("complex64")
    try:
        with tc.runtime_contractor("plain"):
            yield
    finally:
        tc.set_backend(before[0])
        tc.set_dtype(before[1])


def tensorcircuit(shape: Shape) -> nn.Module:
    """TensorCircuit's TorchLayer as documented: the circuit of one sample, under vmap."""

    def one_sample(x: Tensor, angles: Tensor) -> Tensor:
        state = states_of(x, shape.ansatz.num_qubits)
        return shape.ansatz.circuit(angles, state).probability()  # faster than expectation_ps

    sizes, start = [(shape.ansatz.num_gates, 15)], shape.angles()
    return TorchLayer(one_sample, sizes, lambda _: start, True, use_interface=False, use_jit=False)


def plain_torch(shape: Shape) -> nn.Module:
    """Plain torch, gate by gate: the pair of qubits in front, the batch last, a product with 4x4.

    Faster here than einsum, tensordot, or a batched product that leaves the qubits in place.
    """
    n = shape.ansatz.num_qubits

    def probabilities(x: Tensor, angles: Tensor) -> Tensor:
        state = states_of(x, n).T.reshape(*[2] * n, -1)
        for gate, (a, b) in zip(gates_of(angles), shape.ansatz.pairs, strict=True):
            state = state.movedim((a, b), (0, 1))
            state = (gate @ state.reshape(4, -1)).view(state.shape).movedim((0, 1), (a, b))
        return torch.view_as_real(state.reshape(2**n, -1).T).square().sum(-1)

    return Apply(probabilities, shape.angles())


def pennylane(shape: Shape) -> nn.Module:
    """PennyLane's TorchLayer: default.qubit, backpropagation, the batch broadcast."""
    qml, n = importlib.import_module("pennylane"), shape.ansatz.num_qubits

    @qml.qnode(qml.device("default.qubit", wires=n), interface="torch", diff_method="backprop")
    def circuit(inputs: Tensor, angles: Tensor) -> Any:
        if shape.complex_inputs:
            inputs = torch.view_as_complex(inputs.unflatten(1, (-1, 2)))
        qml.StatePrep(states_of(inputs, n), wires=range(n), validate_norm=False)
        for gate, pair in zip(gates_of(angles), shape.ansatz.pairs, strict=True):
            qml.QubitUnitary(gate, wires=pair)
        return qml.probs(wires=range(n))

    start, sizes = shape.angles(), {"angles": (shape.ansatz.num_gates, 15)}
    layer = qml.qnn.TorchLayer(circuit, sizes, init_method=lambda angles: angles.data.copy_(start))
    # It turns angles and outputs into its inputs' dtype, so those must be real.
    real = Apply(lambda x: torch.view_as_real(x).flatten(1) if x.is_complex() else x)
    return nn.Sequential(real, layer)


def deepquantum(shape: Shape) -> nn.Module:
    """DeepQuantum's QubitCircuit of ready-made gates, their matrices replaced in every call."""
    circuit = importlib.import_module("deepquantum").QubitCircuit(shape.ansatz.num_qubits)
    for pair in shape.ansatz.pairs:
        circuit.any(torch.eye(4, dtype=torch.complex64), wires=list(pair))

    def probabilities(x: Tensor, angles: Tensor) -> Tensor:
        for operator, gate in zip(circuit.operators, gates_of(angles), strict=True):
            operator.matrix = gate
        states = circuit(state=circuit.amplitude_encoding(x)).squeeze(-1)
        return torch.view_as_real(states).square().sum(-1)

    return Apply(probabilities, shape.angles())


OTHERS: dict[str, Callable[[Shape], nn.Module]] = {
    "tensorcircuit": tensorcircuit,
    "plain-torch": plain_torch,
    "pennylane": pennylane,
    "deepquantum": deepquantum,
}
CONTESTANTS = ("ours", *OTHERS)
OPTIONAL = ("pennylane", "deepquantum")


def network(shape: Shape, contestant: str = "ours", carry: Carry | None = None) -> nn.Module:
    """Build a contestant; ``carry`` forces what ours carries through the gates."""
    if contestant != "ours":
        return nn.Sequential(OTHERS[contestant](shape), Apply(functools.partial(read, shape)))
    net = QNN(shape.ansatz, shape.readout, lambda _: shape.angles())
    net.f.carry = carry
    return net


# ------------------------------------------------------------------------------------------ steps
Step = Callable[[], tuple[Tensor, Tensor | None]]
"""Returns outputs and the gradient of the angles, or None where the shape does not train."""


def make_step(shape: Shape, net: nn.Module, device: torch.device | str) -> Step:
    """Return what is timed; the loss is outputs times fixed random numbers, summed."""
    net.to(device)
    x = shape.inputs().to(device)
    (angles,) = net.parameters()
    with torch.no_grad():
        size = net(x[:2]).shape[1:]
    generator = generator_for(0, "bench cotangent")
    cotangent = torch.randn((shape.batch, *size), generator=generator).to(device)

    def train() -> tuple[Tensor, Tensor]:
        outputs = shape.head(net(x))
        (gradient,) = torch.autograd.grad((outputs * cotangent).sum(), angles)
        return outputs.detach(), gradient

    @torch.no_grad()
    def evaluate() -> tuple[Tensor, None]:
        parts = x.split(shape.batch if isinstance(net, QNN) else EVALUATION_BATCH)
        return shape.head(torch.cat([net(part) for part in parts])), None

    return train if shape.trains else evaluate


def captured(step: Step) -> Step | None:
    """Return the step as a CUDA graph, if it can be captured."""
    try:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = step()
    except RuntimeError as error:
        print(f"no CUDA graph of our step: {str(error).splitlines()[0]}")
        return None

    def replay() -> tuple[Tensor, Tensor | None]:
        graph.replay()
        return result

    return replay


def disagreement(steps: Mapping[str, Step]) -> dict[str, float]:
    """Return each contestant's largest ||a - b|| / ||b|| from ours, over outputs and gradient.

    Raises:
        Disagreement: It is not below TOLERANCE.
    """
    expected = steps["ours"]()
    found = {}
    for name, step in steps.items():
        pairs = [
            (a, b) for a, b in zip(step(), expected, strict=True) if a is not None and b is not None
        ]
        found[name] = max((float((a - b).norm() / b.norm()) for a, b in pairs), key=_nan_first)
        if not found[name] < TOLERANCE:
            text = f"{name} disagrees with ours by {found[name]:.1e}, more than {TOLERANCE:.0e}"
            raise Disagreement(text)
    return found


def _nan_first(number: float) -> float:
    return math.inf if math.isnan(number) else number
