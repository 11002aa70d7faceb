"""What became of a circuit's gates, and how its outputs change with them."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plasticity.learning.learner import Learner
from plasticity.metrics.steps import row_steps
from plasticity.networks.trained import is_trained
from plasticity.quantum.known import is_ansatz
from plasticity.tasks.streams import Task

MOST_OUTCOMES = 64
"""Probabilities up to which a circuit's derivatives are had from all of them: decides nothing else.

Of more, fewer backward passes lead to the logits."""


@dataclass(frozen=True)
class GateDrift:
    """Tell how far a circuit's gates and their angles have gone, as means over its gates.

    With the gate exp(-i H), H = sum_k theta_k P_k with eigenvalues l_1 .. l_4:

    * ``angle_norm``: ||theta||. Angles may grow although the gates, which are unitary, cannot.
    * ``damping``: the mean of |sinc((l_i - l_j) / 2)| over the 12 pairs i != j, sinc t = sin t / t.
      By this the derivative of the gate is smaller than at theta = 0 in the 12 of 15 directions
      that do not commute with H (Daleckii-Krein; Higham, Functions of Matrices, theorem 3.11). It
      is 1 for small angles, and 0.11 where they are uniform in [0, 2 pi) (median 0.07).
    * ``displacement``: 1 - |tr(G* G_0)| / 4 of the gate G and the untrained G_0; 0 where they are
      equal up to a phase, 1 where they are orthogonal.

    Valid for: modules with ``angles`` of an ``ansatz``, ``(gates, 15)`` as of a ``QNN`` or fewer
    of which ``all_angles`` makes 15; other networks have no such column. With six angles, of real
    gates, 4 of 6 directions are damped. Gates that the readout does not depend on have no gradient,
    and do not count; frozen circuits do not either. The gates are what a method ``gates()``
    returns, where there is one: so they may be exp(-i H) times gates that are kept. Source: ours.

    Attributes:
        initial: The untrained gates of each circuit.
    """

    initial: tuple[Tensor, ...]

    @classmethod
    def of(cls, learner: Learner, first: Task, seed: int) -> GateDrift:
        """Keep the gates of the untrained learner."""
        return cls(tuple(_gates(module) for module in circuits(learner.network)))

    def __call__(self, learner: Learner, task: Task) -> dict[str, float]:
        """Return the columns; none for a network without angles that are trained."""
        norms, damping, displacement = [], [], []
        for module, initial in zip(circuits(learner.network), self.initial, strict=True):
            if not is_trained(module.angles):
                continue
            counted = _counted(module)
            angles = _all_angles(module)[counted]
            norms.append(torch.linalg.vector_norm(angles.double(), dim=1))
            damping.append(dampings(angles, of_real_gates=module.angles.shape[1] == 6))
            overlap = (_gates(module).conj() * initial)[counted].sum((1, 2))
            displacement.append(1 - overlap.abs() / 4)
        if not norms:
            return {}
        columns = {"angle_norm": norms, "damping": damping, "displacement": displacement}
        return {name: float(torch.cat(parts).mean()) for name, parts in columns.items()}


def mean_damping(module: Any) -> float:
    """Return the column ``damping`` of ``GateDrift`` for one circuit as it is now."""
    angles = _all_angles(module)[_counted(module)]
    return float(dampings(angles, of_real_gates=module.angles.shape[1] == 6).mean())


@dataclass(frozen=True)
class Gates:
    """Tell of each gate of a circuit what ``circuit`` tells of all, and how large its step is.

    For gate g, counted from 1 in the order in which the gates act (through all circuits of the
    network, if it has several):

    * ``damping_g``, ``displacement_g``: as in ``circuit``, of this gate alone;
    * ``step_g``: as in ``step``, with W the angles of this gate: eta / RMS(theta), or for SGD and
      UPGD eta ||g|| / ||theta||.

    Valid for: what ``circuit`` is valid for. Gates that the readout does not depend on have no
    column, but are counted. Source: ours.

    Attributes:
        initial: The untrained gates of each circuit.
    """

    initial: tuple[Tensor, ...]

    @classmethod
    def of(cls, learner: Learner, first: Task, seed: int) -> Gates:
        """Keep the gates of the untrained learner."""
        return cls(tuple(_gates(module) for module in circuits(learner.network)))

    def __call__(self, learner: Learner, task: Task) -> dict[str, float]:
        """Return the columns; none for a network without angles that are trained."""
        columns: dict[str, float] = {}
        before = 0
        for module, initial in zip(circuits(learner.network), self.initial, strict=True):
            counted = _counted(module)
            if is_trained(module.angles):
                angles = _all_angles(module)[counted]
                overlap = (_gates(module).conj() * initial)[counted].sum((1, 2))
                of_gates = {
                    "damping": dampings(angles, of_real_gates=module.angles.shape[1] == 6),
                    "displacement": 1 - overlap.abs() / 4,
                    "step": row_steps(learner, task, module.angles)[counted],
                }
                for name, values in of_gates.items():
                    pairs = zip(counted, values.tolist(), strict=True)
                    columns |= {f"{name}_{before + g + 1}": value for g, value in pairs}
            before += module.ansatz.num_gates
        return columns


def circuits(network: nn.Module) -> Iterator[Any]:
    """Yield the modules that have a circuit's angles, each parameter once."""
    seen = set()
    for module in network.modules():
        angles = getattr(module, "angles", None)
        if isinstance(angles, nn.Parameter) and is_ansatz(getattr(module, "ansatz", None)):
            of_all = _all_angles(module)
            if of_all.dim() == 2 and of_all.shape[1] == 15 and id(angles) not in seen:
                seen.add(id(angles))
                yield module


def _all_angles(module: Any) -> Tensor:
    result: Tensor = getattr(module, "all_angles", module.angles).detach()
    return result


def _counted(module: Any) -> list[int]:
    from plasticity.quantum.circuits import light_cone

    readout = getattr(module, "readout", None)
    return list(light_cone(module.ansatz, getattr(readout, "qubit", None)))


def _tells_gates(module: Any) -> bool:
    return callable(getattr(module, "gates", None))


def _gates(module: Any) -> Tensor:
    if _tells_gates(module):
        with torch.no_grad():
            result: Tensor = module.gates().to(torch.complex128).clone()
            return result
    return _exponentials(*_levels_and_vectors(_all_angles(module)))


def dampings(angles: Tensor, of_real_gates: bool = False) -> Tensor:
    """Return each gate's mean of |sinc((l_i - l_j) / 2)|, ``(gates,)`` float64.

    Args:
        angles: ``(gates, 15)``, radians.
        of_real_gates: Only those of six directions are moved in that keep the gate real. The levels
            are a, b, -b, -a then, and the directions that do not commute with H have the
            differences a + b and a - b, twice each.
    """
    levels, _ = _levels_and_vectors(angles)
    half_gaps = (levels.unsqueeze(-1) - levels.unsqueeze(-2)) / 2
    slopes = torch.sinc(half_gaps / math.pi).abs()  # torch's sinc has a factor pi
    damped = 1 - torch.eye(4, dtype=slopes.dtype, device=slopes.device)
    if of_real_gates:
        damped -= damped.new_ones(4).diag().flip(0)  # of a and -a, of b and -b
    return (slopes * damped).sum((1, 2)) / damped.sum()


def gate_exponentials(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gates exp(-i sum_k angles[g, k] P_k) and their derivatives in each angle.

    With H = V diag(l) V*, the derivative in theta_k is V (F o (V* P_k V)) V*, where
    F_ij = -i exp(-i (l_i + l_j) / 2) sinc((l_i - l_j) / 2).

    Args:
        angles: ``(gates, 15)``, radians.

    Returns:
        ``(gates, 4, 4)`` and ``(gates, 15, 4, 4)``, complex128.
    """
    levels, vectors = _levels_and_vectors(angles)
    half = levels / 2
    mean = half.unsqueeze(-1) + half.unsqueeze(-2)
    gap = half.unsqueeze(-1) - half.unsqueeze(-2)
    quotient = torch.polar(torch.sinc(gap / math.pi), -mean - math.pi / 2).unsqueeze(1)
    v = vectors.unsqueeze(1)
    return _exponentials(levels, vectors), v @ (quotient * (v.mH @ _words(angles) @ v)) @ v.mH


def _levels_and_vectors(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of each H; NaN if any angle is not finite."""
    hamiltonians = torch.einsum("gk,kij->gij", angles.to(torch.complex128), _words(angles))
    if hamiltonians.isfinite().all():
        result: tuple[Tensor, Tensor] = torch.linalg.eigh(hamiltonians)
        return result
    undefined = torch.full_like(hamiltonians, math.nan)
    return undefined[..., 0].real, undefined


def _exponentials(levels: Tensor, vectors: Tensor) -> Tensor:
    phases = torch.polar(torch.ones_like(levels), -levels)
    return (vectors * phases.unsqueeze(1)) @ vectors.mH


def _words(angles: Tensor) -> Tensor:
    from plasticity.quantum.circuits import pauli_words

    return torch.from_numpy(pauli_words()).to(angles.device)


def is_plain_circuit(module: nn.Module, x: Tensor) -> bool:
    """Tell whether ``circuit_jacobian`` knows a module: that it is a circuit, and nothing else.

    A ``QNN`` is. Of others that have ``ansatz``, ``readout``, ``gates()`` and one parameter, whose
    first axis counts the gates, the outputs are compared with those of these gates, once.

    Args:
        module: Any.
        x: Something to evaluate it on, ``(samples, features)``.
    """
    ansatz, readout = getattr(module, "ansatz", None), getattr(module, "readout", None)
    if not (is_ansatz(ansatz) and hasattr(readout, "num_outcomes")):
        return False
    told: Any = module
    outcomes = told.readout.num_outcomes(ansatz.num_qubits)
    parameters = list(module.parameters())
    of_gates = [p.shape[:1] for p in parameters] == [(ansatz.num_gates,)]
    if outcomes is None or outcomes > MOST_OUTCOMES or not of_gates:
        return False
    from plasticity.quantum.layer import QNN

    if type(module) is QNN:
        return True
    if not _tells_gates(module) or parameters[0].is_complex():
        return False
    if module not in _compared:
        twin: Any = copy.deepcopy(module).double()
        x = x.to(torch.complex128 if x.is_complex() else torch.float64)
        with torch.no_grad():
            expected = twin.readout(_Sweep(twin, twin.gates(), x).probabilities)
            _compared[module] = torch.allclose(twin(x), expected, rtol=1e-6, atol=1e-6)
    return _compared[module]


_compared: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


class _Sweep:
    """Samples sent through the gates of a circuit.

    Attributes:
        befores: What each gate is given, as by ``_pair_first``.
        state: What comes out, ``(samples, 2**num_qubits)``.
        outcomes: Basis states read, from 0 on.
        norm: Sum of the squared amplitudes, ``(samples, 1)``, where the module divides by it.
        probabilities: What the readout gets, ``(samples, outcomes)``.
    """

    def __init__(self, module: Any, gates: Tensor, x: Tensor) -> None:
        num_qubits = module.ansatz.num_qubits
        samples = x.to(torch.complex128)
        samples = samples / samples.abs().amax(1, keepdim=True)  # so that no square overflows
        samples = samples / torch.linalg.vector_norm(samples, dim=1, keepdim=True)
        state = nn.functional.pad(samples.to(gates.dtype), (0, 2**num_qubits - x.shape[1]))
        self.befores = []
        for gate, pair in zip(gates, module.ansatz.pairs, strict=True):
            self.befores.append(_pair_first(state, num_qubits, pair))
            state = _pair_back(gate @ self.befores[-1].flatten(1), num_qubits, pair)
        self.state = state
        self.outcomes = module.readout.num_outcomes(num_qubits)
        squares = torch.view_as_real(state).square().sum(2)
        renormalised = getattr(module, "renormalised", False)
        self.norm = squares.sum(1, keepdim=True) if renormalised else None
        self.probabilities = squares[:, : self.outcomes] / (1 if self.norm is None else self.norm)


def circuit_jacobian(module: Any, x: Tensor) -> Tensor:
    """Return the derivatives in its parameter of what a circuit's outputs are, sample by sample.

    An amplitude <k|U|x> is linear in a gate G = G_g: its derivative in G_ij is the sum over the
    other qubits of <k| G_N .. G_{g+1} at i times G_{g-1} .. G_1 |x> at j. So one sweep of the
    samples from the one side and one of the rows <k| from the other meet at each gate, in one
    product for all samples and outcomes. Where probabilities are divided by the squared norm of
    the final state, <x|U* goes along as a row of each sample.

    Args:
        module: A circuit as by ``is_plain_circuit``.
        x: ``(samples, features)``, real or complex.

    Returns:
        ``(samples, outputs, numbers of the parameter)``, in its dtype.
    """
    ansatz, num_qubits = module.ansatz, module.ansatz.num_qubits
    (parameter,) = module.parameters()
    kind = parameter.dtype.to_complex()
    gates, derivatives = (part.to(kind) for part in _gates_and_derivatives(module))
    sweep = _Sweep(module, gates, x.detach())
    samples, outcomes, state = len(x), sweep.outcomes, sweep.state
    rows = torch.eye(outcomes, 2**num_qubits, dtype=kind, device=x.device)
    own_rows = None if sweep.norm is None else state.conj()  # one a sample
    parts = []
    for g in reversed(range(ansatz.num_gates)):
        pair, before = ansatz.pairs[g], sweep.befores[g]
        after = _pair_first(rows, num_qubits, pair)
        in_gate = (after.flatten(0, 1) @ before.flatten(0, 1).mT).view(4, outcomes, 4, samples)
        of_amplitudes = torch.einsum("ikjn,pij->nkp", in_gate, derivatives[g])
        part = 2 * (state[:, :outcomes].conj().unsqueeze(2) * of_amplitudes).real
        rows = _pair_back(gates[g].mT @ after.flatten(1), num_qubits, pair)
        if own_rows is not None and sweep.norm is not None:
            after = _pair_first(own_rows, num_qubits, pair)
            in_gate = torch.einsum("inr,jnr->nij", after, before)
            of_norm = 2 * torch.einsum("nij,pij->np", in_gate, derivatives[g]).real
            part = part - sweep.probabilities.unsqueeze(2) * of_norm.unsqueeze(1)
            part = part / sweep.norm.unsqueeze(2)
            own_rows = _pair_back(gates[g].mT @ after.flatten(1), num_qubits, pair)
        parts.append(part)
    of_readout = torch.func.vmap(torch.func.jacrev(lambda p: module.readout(p.unsqueeze(0))[0]))
    result: Tensor = of_readout(sweep.probabilities) @ torch.cat(parts[::-1], 2)
    return result


def _gates_and_derivatives(module: Any) -> tuple[Tensor, Tensor]:
    """Return a circuit's gates, and their derivatives in what the parameter has for each of them.

    Returns:
        ``(gates, 4, 4)`` and ``(gates, numbers, 4, 4)``, complex.
    """
    from plasticity.quantum.layer import QNN

    (parameter,) = module.parameters()
    if type(module) is QNN:
        return gate_exponentials(parameter.detach())
    with torch.enable_grad():
        gates = module.gates()
        parts = torch.stack([gates.real, gates.imag], 3)
        # A gate depends on its own numbers alone, so each entry's sum over the gates will do.
        entries = torch.eye(32, dtype=parts.dtype, device=parts.device).view(32, 1, 4, 4, 2)
        (slopes,) = torch.autograd.grad(
            parts, parameter, entries.expand(-1, len(gates), -1, -1, -1), is_grads_batched=True
        )
    slopes = slopes.reshape(4, 4, 2, len(gates), -1).permute(3, 4, 0, 1, 2).contiguous()
    scale = _scale(module, gates).detach()
    return gates.detach() / scale, torch.view_as_complex(slopes) / scale.unsqueeze(1)


def _scale(module: Any, gates: Tensor) -> Tensor:
    """Return what to divide each gate by, so that depth leaves states in the range of numbers."""
    if getattr(module, "renormalised", False):
        result: Tensor = torch.linalg.matrix_norm(gates, keepdim=True) / 2
        return result
    return gates.real.new_ones(len(gates), 1, 1)


def _pair_first(vectors: Tensor, num_qubits: int, pair: tuple[int, int]) -> Tensor:
    """Return ``(4, vectors, rest)``: the first axis is the pair's basis states."""
    qubits = vectors.reshape(-1, *[2] * num_qubits)
    return qubits.movedim((pair[0] + 1, pair[1] + 1), (0, 1)).reshape(4, len(vectors), -1)


def _pair_back(numbers: Tensor, num_qubits: int, pair: tuple[int, int]) -> Tensor:
    """Return ``(vectors, 2**num_qubits)``, of what ``_pair_first`` returned."""
    qubits = numbers.reshape(2, 2, -1, *[2] * (num_qubits - 2))
    return qubits.movedim((0, 1), (pair[0] + 1, pair[1] + 1)).flatten(1)
