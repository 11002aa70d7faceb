"""The quantum layer: amplitude encoding, an ansatz, and a readout, as a ``torch.nn.Module``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import tensorcircuit as tc
import torch
from tensorcircuit.torchnn import TorchLayer
from torch import Tensor

from plasticity.quantum.calls import NOT_TRACED, on_samples, outside_of_graphs
from plasticity.quantum.circuits import Ansatz
from plasticity.quantum.device import DeviceQNN, NoiseModel
from plasticity.quantum.encoding import checked_samples, initial_state, precision_of
from plasticity.quantum.engine.contraction import sweep
from plasticity.quantum.engine.costs import Carry as Carry
from plasticity.quantum.engine.costs import Size, Way, Ways
from plasticity.quantum.engine.gates import gate_matrices
from plasticity.quantum.engine.program import Lease
from plasticity.quantum.engine.reading import by_matrix, matrix_of, probabilities
from plasticity.quantum.engine.transforms import is_forward_mode, may_be_kept
from plasticity.quantum.engine.transforms import is_transformed as is_transformed
from plasticity.quantum.plain import PlainCircuit
from plasticity.quantum.readouts import Readout, check_circuit


# ----------------------------------------------------------------------------------- evaluation
class _Evaluate:
    """Evaluate ansatz and readout on a batch: the function inside the layer.

    It is called with the samples and with weights: the angles, ``(num_gates, 15)``, or the gates
    themselves, ``(num_gates, 4, 4)``, complex.

    Under ``no_grad`` the last contracted matrix is kept, so that while the weights stand still an
    evaluation is one product. It is used again only if weights are equal, number by number, to
    those it was made from: whatever changed them, it cannot go stale.

    Args:
        ansatz: The gates.
        readout: What is read.
        carry: Force one of the contractions instead of the cheapest; for tests and benchmarks.
        unitary: Whether the gates are known to be unitary. If not, what a readout gets are squared
            amplitudes that need not add up to 1, and Z cannot be read.
    """

    def __init__(
        self,
        ansatz: Ansatz,
        readout: Readout,
        carry: Carry | None = None,
        unitary: bool = True,
    ) -> None:
        check_circuit(ansatz, readout)
        if readout.qubit is not None and not unitary:
            raise ValueError(f"{readout} needs probabilities: gates that are not unitary give none")
        self.ansatz, self.readout, self.carry, self.unitary = ansatz, readout, carry, unitary
        self._ways = Ways(ansatz, readout.qubit, unitary)
        self._kept: tuple[Way, Tensor, Tensor] | None = None

    def __reduce__(self) -> tuple[Any, ...]:  # copies and pickles begin without a kept matrix
        return _Evaluate, (self.ansatz, self.readout, self.carry, self.unitary)

    def __call__(self, x: Tensor, weights: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(x.device.type):
            return self._evaluate(x, weights, torch.matmul)
        with torch.autocast(x.device.type, enabled=False):
            return self._evaluate(x, weights, _ExactProduct.apply)

    def _evaluate(
        self, x: Tensor, weights: Tensor, multiply: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        num_qubits, readout = self.ansatz.num_qubits, self.readout
        x, norm = checked_samples(x, num_qubits, precision_of(weights))
        outcomes = readout.num_outcomes(num_qubits)
        way = self._way(x, torch.is_grad_enabled() and weights.requires_grad)
        has_derivatives = torch.is_grad_enabled() or is_forward_mode()
        if way.carry == "states" or has_derivatives or is_transformed(weights):
            read = probabilities(way, x, norm, weights, outcomes, multiply)
        else:
            matrix = self._matrix(
                way, weights, outcomes if way.carry == "rows" and outcomes else x.shape[1]
            )
            read = by_matrix(way, x, norm, matrix, outcomes, multiply)
        if readout.qubit is None:
            return readout(read)
        return readout(2 * read - 1)  # the probability of 0 less that of 1

    def _way(self, x: Tensor, grad: bool) -> Way:
        """Return what is cheapest."""
        outcomes = self.readout.num_outcomes(self.ansatz.num_qubits)
        return self._ways.cheapest(Size(len(x), x.shape[1], outcomes, grad), self.carry)

    def _matrix(self, way: Way, weights: Tensor, count: int) -> Tensor:
        """Return the matrix of ``count`` rows or columns, or the kept one that has them."""
        if self._kept is not None and may_be_kept(weights):
            kept_way, kept_weights, kept = self._kept
            same_kind = (
                weights.dtype == kept_weights.dtype and weights.device == kept_weights.device
            )
            enough = kept.shape[1 if way.carry == "rows" else 0] >= count
            same_way = kept_way.carry == way.carry
            if same_way and enough and same_kind and torch.equal(weights, kept_weights):
                return kept
        matrix = matrix_of(way, weights, count, sweep)
        made_of = weights.detach().clone()
        if may_be_kept(made_of, matrix):
            self._kept = way, made_of, matrix
        return matrix


class _ExactProduct(torch.autograd.Function):
    """A matrix product that ``torch.autocast`` does not round, backward and forward mode included.

    Who calls ``backward`` within autocast would otherwise have the product's gradients in bfloat16.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            return a @ b

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return _ExactProduct.apply(grad, b.mT), _ExactProduct.apply(a.mT, grad)

    @staticmethod
    def jvp(ctx: Any, da: Tensor, db: Tensor) -> Tensor:
        a, b = ctx.saved_tensors
        result: Tensor = _ExactProduct.apply(da, b) + _ExactProduct.apply(a, db)
        return result


# ---------------------------------------------------------------------------------------- layer
def pooled_bytes() -> int:
    """Return how many bytes of memory wait for the next training step, in all layers together.

    A step lays out its products in memory and leaves them to the next one of the same kind (the
    same circuit, batch size and dtype): on the CPU, and up to 256 MiB.
    """
    return Lease.waiting_bytes()


def empty_pool() -> None:
    """Give that memory back; the next step takes what it needs anew."""
    Lease.forget_waiting()


class QNN(TorchLayer):
    """Classify with a parametrized quantum circuit on amplitude-encoded inputs.

    Each sample is padded with zeros to 2**num_qubits, scaled to unit norm, sent through the
    ansatz's gates and read out. Exact: no sampling noise, no approximation beyond rounding.

    The samples' norm is checked on the CPU. On other devices, where looking at the numbers would
    stall the device, under ``torch.func`` and in forward mode, a zero or non-finite sample gives
    NaN.

    It computes in the precision of ``angles``, float32 or float64, also under ``torch.autocast``.

    Args:
        ansatz: ``Brickwork``, ``Staircase``, ``Ring`` or any ``Ansatz``.
        readout: ``LogOdds``, ``PauliZ``, ``SignedPauliZ`` or ``Probabilities``.
        initializer: Called with the shape of ``angles``, returns their first values; by default
            uniform in [0, 2 pi) from torch's global generator.

    Attributes:
        angles: The parameter, ``(num_gates, 15)``, radians; ``angles[g]`` acts on
            ``ansatz.pairs[g]``, in order of application.

    Raises:
        ValueError: The readout does not fit the ansatz, or there are more than 30 qubits; on
            calling, more features than amplitudes, a zero sample or a non-finite one.
        TypeError: There is no ansatz or no readout; on calling, the input is no tensor, or
            ``angles`` are neither float32 nor float64.

    Example:
        >>> from plasticity.quantum.circuits import Brickwork
        >>> from plasticity.quantum.readouts import LogOdds
        >>> net = QNN(Brickwork(num_qubits=4, depth=2), LogOdds(num_classes=3))
        >>> net(torch.rand(5, 16)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        ansatz: Ansatz,
        readout: Readout,
        initializer: Callable[[tuple[int, int]], Tensor] | None = None,
    ) -> None:
        super().__init__(
            _Evaluate(ansatz, readout),
            weights_shape=[(ansatz.num_gates, 15)],
            initializer=initializer or _uniform_angles,
            use_vmap=False,
            use_interface=False,
            use_jit=False,
        )
        # One parameter, under the name it has in the literature rather than "q_weights.0".
        self.angles: torch.nn.Parameter = self.q_weights[0]
        del self.q_weights

    @property
    def all_angles(self) -> Tensor:
        """Return the angles of all 15 Pauli words, ``(num_gates, 15)``: here, ``angles``."""
        result: Tensor = self.angles
        return result

    @outside_of_graphs
    def gates(self) -> Tensor:
        """Return the gates, ``(num_gates, 4, 4)`` complex128, differentiable."""
        return gate_matrices(self.all_angles)

    def _weights(self) -> Tensor:
        """Return what the gates are made of: all angles, or the gates in the layer's precision."""
        return self.all_angles

    @property
    def ansatz(self) -> Ansatz:
        """Return the ansatz."""
        result: Ansatz = self.f.ansatz
        return result

    @property
    def readout(self) -> Readout:
        """Return the readout."""
        result: Readout = self.f.readout
        return result

    @on_samples
    def forward(self, x: Tensor) -> Tensor:
        """Map inputs to outputs.

        Args:
            x: ``(..., features)``, real or complex, features <= 2**num_qubits. As for
                ``nn.Linear``: a batch, ``(batch, time, features)``, or one sample.

        Returns:
            ``(..., outputs)`` in the dtype of ``angles``, contiguous.
        """
        result: Tensor = self.f(x, self._weights())
        return result

    def circuit(self, x: Tensor) -> tc.Circuit:
        """Build the same circuit for one sample, to draw, export, add noise to, or check against.

        Args:
            x: One sample, ``(features,)``: of a batch, ``x[0]``.

        Returns:
            A ``tc.Circuit`` in the tensors of the TensorCircuit backend and dtype that are set.
        """
        state = initial_state(x, self.ansatz.num_qubits, self.angles.dtype)
        return self.ansatz.circuit(self._weights(), state)

    def on_device(
        self,
        noise: NoiseModel | None = None,
        shots: int | None = None,
        generator: torch.Generator | None = None,
    ) -> DeviceQNN:
        """Return this layer as a device would run it, with the same parameters.

        Args:
            noise: How gates and measurements err; None: not at all.
            shots: Measurements of each sample; None: infinitely many.
            generator: What shots are drawn from; by default torch's global generator.

        Raises:
            ValueError: Fewer than one shot.
            TypeError: ``noise`` is no NoiseModel, ``shots`` no number.

        Example:
            >>> from plasticity.quantum.circuits import Brickwork
            >>> from plasticity.quantum.device import NoiseModel
            >>> from plasticity.quantum.readouts import LogOdds
            >>> net = QNN(Brickwork(num_qubits=4, depth=2), LogOdds(num_classes=3))
            >>> noisy = net.on_device(NoiseModel(depolarizing=1e-3, readout_error=0.01), shots=1000)
            >>> noisy(torch.rand(5, 16)).shape
            torch.Size([5, 3])
        """
        return DeviceQNN(self, noise, shots, generator)

    @torch.no_grad()
    def as_plain_module(self) -> PlainCircuit:
        """Return the layer as it is now, as plain matrix products: to be traced or exported.

        ``torch.export``, ``torch.jit.trace`` and ONNX can take what is returned. Its outputs are
        the layer's, up to rounding; its matrix does not learn.

        Raises:
            TypeError: The circuit depends on the data.

        Example:
            >>> from plasticity.quantum.circuits import Brickwork
            >>> from plasticity.quantum.readouts import LogOdds
            >>> net = QNN(Brickwork(num_qubits=4, depth=2), LogOdds(num_classes=3))
            >>> exported = torch.export.export(net.as_plain_module(), (torch.rand(5, 16),))
        """
        num_qubits, qubit = self.ansatz.num_qubits, self.readout.qubit
        outcomes = self.readout.num_outcomes(num_qubits)
        size = Size(1, 2**num_qubits, outcomes, grad=False)
        way = Ways(self.ansatz, qubit).cheapest(size, "columns")
        matrix = matrix_of(way, self._weights(), 2**num_qubits, sweep)
        return PlainCircuit(matrix[..., :outcomes].clone(), self.readout)

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse ``torch.jit.script``, which asks for a module to compile by this name."""
        raise RuntimeError(NOT_TRACED)

    def extra_repr(self) -> str:
        """Describe ansatz and readout in one line."""
        ansatz = self.ansatz
        name = f"{type(ansatz).__name__}({ansatz.num_qubits} qubits, {ansatz.num_gates} gates)"
        return f"{name}, {self.readout}"


def _uniform_angles(shape: tuple[int, int]) -> Tensor:
    return 2 * math.pi * torch.rand(shape)
