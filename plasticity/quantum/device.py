"""A quantum layer as a device would run it: with noise and a finite number of measurements.

Nothing is simulated sample by sample. The circuit does not depend on the data, and neither does its
noise, so the probability of each outcome is ``p_k(x) = <x| E_k |x>``, with effective measurement
operators E_k that are computed once. It is exact. Measurements (shots) are then drawn from their
law, which is multinomial.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from plasticity.quantum.calls import on_samples, outside_of_graphs
from plasticity.quantum.circuits import Ansatz
from plasticity.quantum.encoding import checked_samples, precision_of
from plasticity.quantum.engine.operators import (
    as_matrices,
    as_operators,
    basis_states,
    expectations,
    pull_back,
    pulling_back,
    reading_zero,
)
from plasticity.quantum.engine.transforms import is_transformed, may_be_kept
from plasticity.quantum.readouts import Readout

OUTCOMES = 32
"""Outcomes whose operators are made at once: at 10 qubits each is an array of 4 MiB."""

SAMPLES = 256
"""Samples evaluated at once, where no gradient is asked for."""

MOST_SHOTS = 2**53
"""Counts are drawn as float64, which has all whole numbers up to this one."""


@dataclass(frozen=True)
class NoiseModel:
    """Say how gates and measurements err.

    After each two-qubit gate, in this order: both of its qubits are depolarized, then each of them
    is damped. All measured bits are flipped independently.

    Args:
        depolarizing: Probability l with which the two qubits of a gate are replaced by the
            maximally mixed state: rho -> (1 - l) rho + l tr_ab(rho) x I/4. It is Qiskit Aer's
            ``depolarizing_error(l, 2)``; in TensorCircuit,
            ``isotropicdepolarizingchannel(15 l / 16, 2)``. If a device makes a gate of three CX,
            each depolarized with probability m, then l = 1 - (1 - m)**3.
        amplitude_damping: Probability g with which each qubit of a gate falls from 1 to 0: Kraus
            operators [[1, 0], [0, sqrt(1 - g)]] and [[0, sqrt(g)], [0, 0]]. Over a time t it is
            1 - exp(-t / T1).
        readout_error: Probability to read a bit wrongly; or two: to read 1 where it is 0, and to
            read 0 where it is 1.

    Each may be a number of Python, NumPy or torch; it is kept as a float.

    Raises:
        ValueError: A probability is outside [0, 1], or not finite.
        TypeError: It is no number.

    Example:
        >>> NoiseModel(depolarizing=1e-3, readout_error=0.01)
        NoiseModel(depolarizing=0.001, amplitude_damping=0.0, readout_error=0.01)
    """

    depolarizing: float = 0.0
    amplitude_damping: float = 0.0
    readout_error: float | tuple[float, float] = 0.0

    def __post_init__(self) -> None:
        kept = {
            "depolarizing": _probability("depolarizing", self.depolarizing),
            "amplitude_damping": _probability("amplitude_damping", self.amplitude_damping),
        }
        given: Any = self.readout_error
        several = isinstance(given, Sequence) or getattr(given, "ndim", 0) > 0
        if several and not isinstance(given, str):
            if len(given) != 2:
                raise ValueError(f"readout_error {given}: one probability, or two")
            error: Any = tuple(_probability("readout_error", value) for value in given)
        else:
            error = _probability("readout_error", given)
        for name, value in (kept | {"readout_error": error}).items():
            object.__setattr__(self, name, value)

    @property
    def flips(self) -> tuple[float, float]:
        """Return the probabilities to read 1 where it is 0, and 0 where it is 1."""
        if isinstance(self.readout_error, tuple):
            return self.readout_error
        return self.readout_error, self.readout_error


def _probability(name: str, value: Any) -> float:
    """Return a number of Python, NumPy or torch as a float, or raise."""
    number = _plain_number(value)
    if number is None:
        raise TypeError(f"{name} {value!r}: a probability is a number in [0, 1]")
    if not 0 <= number <= 1:  # NaN, too, is outside
        raise ValueError(f"{name} {number}: a probability is in [0, 1]")
    return float(number)


def _whole_shots(value: Any) -> int | None:
    """Return a number of shots as an int, or raise."""
    if value is None:
        return None
    number = _plain_number(value)
    wanted = "a whole number, at least 1, or None for infinitely many"
    if number is None:
        raise TypeError(f"shots {value!r}: {wanted}")
    if not (1 <= number < math.inf and number == int(number)):
        raise ValueError(f"shots {number}: {wanted}")
    if number > MOST_SHOTS:
        raise ValueError(f"shots {number}: at most 2**53 can be counted; None: infinitely many")
    return int(number)


def _plain_number(value: Any) -> Any:
    """Return a real number of Python, NumPy or torch as Python's; None if it is something else."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and value.ndim == 0:
        value = value.item()
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return value if is_number else None


class _Circuit(Protocol):
    """What a layer has to have: gates that do not depend on the data."""

    ansatz: Ansatz
    readout: Readout

    def gates(self) -> Tensor:
        """Return the gates, ``(num_gates, 4, 4)``, complex, unitary."""


class DeviceQNN(nn.Module):
    """Evaluate, or train, a quantum layer under noise and with a finite number of shots.

    It shares the layer's parameters. With d = 2**num_qubits, the operators take d**2 numbers for
    each outcome, and a sample d**2 multiplications for each.

    Where gradients are asked for, those of the exact noisy probabilities are used, also with shots:
    the outputs are those of the frequencies, and their derivative is that of the readout there. A
    large circuit's operators are made twice then, so that they need not all be kept in memory.

    While no gradient is asked for, the operators of up to 32 outcomes are kept, and used again as
    long as gates and noise are the same. More are made 32 at a time, and each time anew.

    Args:
        qnn: The layer. Its gates must be unitary and independent of the data.
        noise: How it errs; None: not at all.
        shots: Measurements of each sample; None: infinitely many.
        generator: What shots are drawn from; by default torch's global generator.

    Raises:
        TypeError: ``qnn`` is no quantum layer, ``noise`` no NoiseModel, ``shots`` no number.
        ValueError: Its gates are not unitary; fewer than one shot; on calling, as ``QNN``.
    """

    def __init__(
        self,
        qnn: nn.Module,
        noise: NoiseModel | None = None,
        shots: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        shots = _whole_shots(shots)
        if not (noise is None or isinstance(noise, NoiseModel)):
            raise TypeError(f"noise {noise!r}: a NoiseModel, or None")
        _check_gates(qnn)
        self.qnn, self.noise, self.shots = qnn, noise or NoiseModel(), shots
        self.generator = generator
        self._kept: tuple[Tensor, NoiseModel, Tensor, tuple[int, ...]] | None = None

    def __getstate__(self) -> dict[str, object]:  # copies and pickles begin without operators
        return self.__dict__ | {"_kept": None}

    @property
    def ansatz(self) -> Ansatz:
        """Return the ansatz."""
        return self._circuit.ansatz

    @property
    def readout(self) -> Readout:
        """Return the readout."""
        return self._circuit.readout

    @property
    def _circuit(self) -> _Circuit:
        return self.qnn  # type: ignore[return-value]

    @property
    def _dtype(self) -> torch.dtype:
        return precision_of(next(self.qnn.parameters()))

    @on_samples
    def forward(self, x: Tensor) -> Tensor:
        """Map inputs to outputs.

        Args:
            x: ``(..., features)``, real or complex, features <= 2**num_qubits.

        Returns:
            ``(..., outputs)`` in the dtype of the layer's parameters.
        """
        read = self.probabilities(x)
        if self.shots is not None:
            frequencies = (self._drawn(read.detach()) / self.shots).to(read.dtype)
            read = read + (frequencies - read).detach()
        return self.readout(read if self.readout.qubit is None else 2 * read - 1)

    @on_samples
    def probabilities(self, x: Tensor) -> Tensor:
        """Return the probabilities of outcomes, readout errors included.

        Args:
            x: As ``forward``.

        Returns:
            ``(..., outcomes)``; of a readout of Z the probability to read 0, ``(...)``.
        """
        with torch.autocast(x.device.type, enabled=False):
            x, norm = checked_samples(x, self.ansatz.num_qubits, self._dtype)
            return self._probabilities(x / norm)

    @on_samples
    def counts(self, x: Tensor) -> Tensor:
        """Draw how often each outcome is read in ``shots`` measurements of each sample.

        Args:
            x: As ``forward``.

        Returns:
            ``(..., outcomes)`` int64, which add up to less than ``shots`` where other basis states
            were read; of a readout of Z how often 0 is read, ``(...)``.

        Raises:
            ValueError: The number of shots is not finite.
        """
        if self.shots is None:
            raise ValueError("shots None: only a finite number can be drawn")
        with torch.no_grad():
            return self._drawn(self.probabilities(x)).long()

    @outside_of_graphs
    def operators(self) -> Tensor:
        """Return the effective measurement operators E_k.

        The probability of outcome k is ``<x| E_k |x>``, with x padded and scaled to unit norm.

        Returns:
            ``(outcomes, 2**num_qubits, 2**num_qubits)``, complex, Hermitian, with eigenvalues in
            [0, 1]; of a readout of Z one operator, that of reading 0.
        """
        parts = [(as_operators(matrices), sizes) for matrices, sizes in self._operators()]
        operators, sizes = torch.cat([part for part, _ in parts]), parts[0][1]
        n = self.ansatz.num_qubits
        inside = [q for q, size in enumerate(sizes) if size > 1]
        outside = [q for q, size in enumerate(sizes) if size == 1]
        if not outside:
            return operators
        identity = torch.eye(2 ** len(outside), dtype=operators.dtype, device=operators.device)
        full = torch.kron(operators, identity)  # the qubits inside first, then those outside
        order = [*inside, *outside]
        places = [1 + order.index(q) for q in range(n)]
        full = full.view(-1, *(2,) * (2 * n)).permute(0, *places, *(n + place for place in places))
        return full.reshape(-1, 2**n, 2**n)

    def forget(self) -> None:
        """Give the memory of operators that are kept back."""
        self._kept = None

    def extra_repr(self) -> str:
        """Describe noise and shots in one line."""
        return f"{self.noise}, shots={self.shots}"

    def _operators(self) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        """Yield operators as real matrices, some outcomes at once, and the qubits' sizes."""
        gates = self._circuit.gates()
        keeps = not torch.is_grad_enabled() and may_be_kept(gates)
        if keeps and self._kept is not None:
            kept_gates, kept_noise, matrices, sizes = self._kept
            same_kind = matrices.dtype == self._dtype and matrices.device == gates.device
            if same_kind and kept_noise == self.noise and torch.equal(kept_gates, gates):
                yield matrices, sizes
                return
        self._kept = None  # before others are made
        num_outcomes = self.readout.num_outcomes(self.ansatz.num_qubits)
        for matrices, sizes in self._made(gates):
            is_all = matrices.shape[2] == (num_outcomes or 1)
            if keeps and is_all and may_be_kept(matrices):
                self._kept = gates.clone(), self.noise, matrices, sizes
            yield matrices, sizes

    def _made(self, gates: Tensor) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        """Make operators, ``OUTCOMES`` at once."""
        ansatz, readout, noise = self.ansatz, self.readout, self.noise
        transfers = pulling_back(gates, noise.depolarizing, noise.amplitude_damping).to(self._dtype)
        num_outcomes = readout.num_outcomes(ansatz.num_qubits)
        if num_outcomes is None:
            initial = reading_zero(noise.flips).unsqueeze(1).to(transfers)
            pulled, sizes = pull_back(ansatz, readout.qubit, transfers, initial)
            yield as_matrices(pulled, sizes), sizes
            return
        for some in torch.arange(num_outcomes, device=gates.device).split(OUTCOMES):
            initial = basis_states(ansatz.num_qubits, some, noise.flips).to(transfers)
            pulled, sizes = pull_back(ansatz, None, transfers, initial)
            yield as_matrices(pulled, sizes), sizes

    def _probabilities(self, x: Tensor) -> Tensor:
        """Return the probabilities of samples at unit norm."""
        n = self.ansatz.num_qubits
        read = []
        for matrices, sizes in self._operators():
            outside = [q for q, size in enumerate(sizes) if size == 1]
            states = x
            if outside:  # over their states, the probabilities are added
                inside = [q for q, size in enumerate(sizes) if size > 1]
                states = torch.nn.functional.pad(x, (0, 2**n - x.shape[1])).view(-1, *(2,) * n)
                states = states.permute(0, *(1 + q for q in (*outside, *inside)))
                states = states.reshape(-1, len(matrices))
            features = states.shape[1]
            matrices = matrices[:features, :features]
            if torch.is_grad_enabled() or is_transformed(x):
                p = expectations(states, matrices)
            else:
                p = torch.cat([expectations(some, matrices) for some in states.split(SAMPLES)])
            read.append(p.unflatten(0, (-1, 2 ** len(outside))).sum(1) if outside else p)
        p = torch.cat(read, 1).clamp(0, 1)  # rounding
        return p if self.readout.qubit is None else p.squeeze(1)

    def _drawn(self, probabilities: Tensor) -> Tensor:
        """Draw counts from the multinomial law, float64: each is binomial, given those before."""
        assert self.shots is not None
        p = probabilities.double()
        if self.readout.qubit is not None:
            return self._binomial(torch.full_like(p, self.shots), p)
        left = torch.full_like(p[:, 0], self.shots)  # shots that no outcome has had yet
        remaining = torch.ones_like(left)  # the probability of all others
        counts = []
        for of_outcome in p.unbind(1):
            share = (of_outcome / remaining.clamp(min=1e-300)).clamp(0, 1)
            counts.append(self._binomial(left, share))
            left = left - counts[-1]
            remaining = (remaining - of_outcome).clamp(min=0)
        return torch.stack(counts, 1)

    def _binomial(self, count: Tensor, p: Tensor) -> Tensor:
        return torch.binomial(count, p, generator=self.generator)


def _check_gates(qnn: nn.Module) -> None:
    if not all(hasattr(qnn, name) for name in ("ansatz", "readout", "gates")):
        raise TypeError(f"{type(qnn).__name__} is no quantum layer: it has no gates")
    with torch.no_grad():
        gates = qnn.gates().to(torch.complex128)  # type: ignore[operator]
        identity = torch.eye(4, dtype=gates.dtype, device=gates.device)
        error = float((gates.mH @ gates - identity).abs().max())
    if error > 1e-5:
        raise ValueError(
            f"gates of {type(qnn).__name__} are not unitary (by {error:.1g}): no device has them"
        )
