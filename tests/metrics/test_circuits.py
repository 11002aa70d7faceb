"""Gates and their drift against dense matrices; derivatives of outputs against differences."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.metrics.circuits import (
    GateDrift,
    circuit_jacobian,
    circuits,
    dampings,
    gate_exponentials,
    is_plain_circuit,
)
from plasticity.quantum.circuits import Ansatz, Brickwork, Ring, Staircase
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities
from tests.metrics.zoo import ZOO, Gates, OfRealGates
from tests.oracle import dense_gate, dense_probabilities
from tests.tiny import make_adam, tiny_learner, tiny_task

ZZ = 14  # the last of the words IX, IY, ..., ZZ


def random_angles(num_gates: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(num_gates, 15, generator=generator, dtype=torch.float64)


def learner_of(network: nn.Module) -> Learner:
    return Learner(network, make_adam, cross_entropy)


def derivative_by_differences(angles: torch.Tensor, word: int) -> np.ndarray:
    step = torch.zeros(15, dtype=torch.float64)
    step[word] = 1e-5
    return (dense_gate(angles + step) - dense_gate(angles - step)) / 2e-5


# --- gates


def test_gates_and_their_derivatives_match_matrix_exponentials() -> None:
    angles = random_angles(3)
    angles[2] = 0
    gates, derivatives = gate_exponentials(angles)
    for g in range(3):
        np.testing.assert_allclose(gates[g], dense_gate(angles[g]), atol=1e-12)
        for word in range(15):
            expected = derivative_by_differences(angles[g], word)
            np.testing.assert_allclose(derivatives[g, word], expected, atol=1e-8)


def test_damping_is_by_how_much_twelve_directions_of_a_gates_derivative_are_shorter() -> None:
    angles = random_angles(4)
    for g in range(4):
        directions = [derivative_by_differences(angles[g], word).ravel() for word in range(15)]
        parts = np.array([np.concatenate([d.real, d.imag]) for d in directions])
        # Of a Pauli word the norm is 2. Three directions commute with the gate and keep it.
        lengths = np.linalg.svd(parts, compute_uv=False) / 2
        np.testing.assert_allclose(lengths[:3], 1, atol=1e-8)
        assert float(dampings(angles[g : g + 1])) == pytest.approx(lengths[3:].mean(), abs=1e-8)


def test_damping_is_none_at_zero_and_known_for_a_single_word() -> None:
    angles = torch.zeros(2, 15, dtype=torch.float64)
    angles[1, ZZ] = 0.8  # levels 0.8 and -0.8, twice each: 8 of 12 pairs differ, by 1.6
    expected = [1, (4 + 8 * math.sin(0.8) / 0.8) / 12]
    assert dampings(angles).tolist() == pytest.approx(expected)


def test_damping_of_uniform_angles_is_what_the_docstring_says() -> None:
    angles = 2 * math.pi * torch.rand(2_000, 15, generator=torch.Generator().manual_seed(0))
    assert float(dampings(angles).mean()) == pytest.approx(0.11, abs=0.005)


# --- drift


def test_drift_of_an_untrained_circuit_is_zero_and_its_columns_are_means_over_gates() -> None:
    learner, task = tiny_learner("qnn"), tiny_task()
    angles = learner.network.angles.detach().double().clone()
    columns = GateDrift.of(learner, task, 0)(learner, task)
    norms = [math.sqrt(sum(a**2 for a in row)) for row in angles.tolist()]
    assert columns["angle_norm"] == pytest.approx(sum(norms) / 3)
    assert columns["damping"] == pytest.approx(float(dampings(angles).mean()))
    assert columns["displacement"] == pytest.approx(0, abs=1e-6)


def test_displacement_matches_dense_gates_before_and_after_training() -> None:
    learner, task = tiny_learner("qnn"), tiny_task()
    metric = GateDrift.of(learner, task, 0)
    before = [dense_gate(row) for row in learner.network.angles.detach()]
    for _ in range(5):
        learner.update(*task.train.batch(slice(None)))
    after = [dense_gate(row) for row in learner.network.angles.detach()]
    overlaps = [np.trace(a.conj().T @ b) for a, b in zip(after, before, strict=True)]
    expected = np.mean([1 - abs(overlap) / 4 for overlap in overlaps])
    assert expected > 0.01
    assert metric(learner, task)["displacement"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("turn", [0.0, 0.3, math.pi / 2, math.pi, 2 * math.pi])
def test_displacement_of_a_rotation_is_known_and_blind_to_phases_and_whole_turns(
    turn: float,
) -> None:
    network = QNN(Ansatz(2, ((0, 1),)), LogOdds(3), torch.zeros)
    learner, task = learner_of(network), tiny_task()
    metric = GateDrift.of(learner, task, 0)
    with torch.no_grad():
        network.angles[0, ZZ] = turn
    columns = metric(learner, task)
    assert columns["displacement"] == pytest.approx(1 - abs(math.cos(turn)), abs=1e-6)
    assert columns["angle_norm"] == pytest.approx(turn)


def test_gates_that_the_readout_does_not_depend_on_do_not_count() -> None:
    network = QNN(Ansatz(3, ((0, 1), (1, 2))), PauliZ(0), torch.zeros)
    learner, task = learner_of(network), tiny_task()
    metric = GateDrift.of(learner, task, 0)
    with torch.no_grad():
        network.angles[0, ZZ], network.angles[1, ZZ] = 0.3, 100.0
    columns = metric(learner, task)
    assert columns["angle_norm"] == pytest.approx(0.3)
    assert columns["displacement"] == pytest.approx(1 - math.cos(0.3), abs=1e-6)


def test_circuits_are_found_within_larger_networks_and_each_once() -> None:
    first, second = (QNN(Brickwork(2, 1), Probabilities(), torch.ones) for _ in range(2))
    with torch.no_grad():
        second.angles.fill_(2.0)
    network = nn.Sequential(first, nn.Linear(4, 4), first, second)
    assert [*circuits(network)] == [first, second]
    columns = GateDrift.of(learner_of(network), tiny_task(), 0)(learner_of(network), tiny_task())
    assert columns["angle_norm"] == pytest.approx(1.5 * math.sqrt(15))


def test_networks_without_angles_have_no_such_column() -> None:
    learner, task = tiny_learner("mlp"), tiny_task()
    assert GateDrift.of(learner, task, 0)(learner, task) == {}
    module = nn.Linear(15, 3)
    module.angles = nn.Parameter(torch.ones(3, 15))  # are weights, of no circuit
    assert [*circuits(module)] == []


class Trivialized(QNN):
    """Apply exp(-i H) after a gate that is kept."""

    def __init__(self) -> None:
        super().__init__(Brickwork(2, 1), LogOdds(3), torch.zeros)
        self.register_buffer("kept", gate_exponentials(torch.ones(1, 15))[0])

    def gates(self) -> torch.Tensor:
        return gate_exponentials(self.angles)[0] @ self.kept


def test_a_module_that_tells_its_gates_is_asked_for_them() -> None:
    network = Trivialized()
    learner, task = learner_of(network), tiny_task()
    metric = GateDrift.of(learner, task, 0)
    with torch.no_grad():
        network.angles[0, ZZ] = 0.3
    assert metric(learner, task)["displacement"] == pytest.approx(1 - math.cos(0.3), abs=1e-6)
    with torch.no_grad():  # moving the angles into the kept gate changes no gate
        network.kept.copy_(network.gates())
        network.angles.zero_()
    columns = metric(learner, task)
    assert columns["displacement"] == pytest.approx(1 - math.cos(0.3), abs=1e-6)
    assert columns["angle_norm"] == 0


def test_directions_of_real_gates_are_four_that_are_damped() -> None:
    network = OfRealGates().double()
    found = dampings(network.all_angles.detach(), of_real_gates=True)
    for g in range(3):
        columns = []
        for k in range(6):
            step = torch.zeros(3, 6, dtype=torch.float64)
            step[g, k] = 1e-5
            gates = []
            for sign in (1, -1):
                with torch.no_grad():
                    network.angles += sign * step
                    gates.append(dense_gate(network.all_angles[g]))
                    network.angles -= sign * step
            columns.append(((gates[0] - gates[1]) / 2e-5).ravel())
        assert np.abs(np.array(columns).imag).max() < 1e-8
        lengths = np.linalg.svd(np.array(columns).real, compute_uv=False) / 2
        np.testing.assert_allclose(lengths[:2], 1, atol=1e-8)
        assert float(found[g]) == pytest.approx(lengths[2:].mean(), abs=1e-8)


def test_drift_of_real_gates_is_that_of_their_six_angles() -> None:
    network = OfRealGates()
    learner, task = learner_of(network), tiny_task()
    columns = GateDrift.of(learner, task, 0)(learner, task)
    lengths = torch.linalg.vector_norm(network.angles.detach(), dim=1)
    assert columns["angle_norm"] == pytest.approx(float(lengths.mean()), rel=1e-6)
    expected = dampings(network.all_angles.detach(), of_real_gates=True).mean()
    assert columns["damping"] == pytest.approx(float(expected))
    assert columns["displacement"] == pytest.approx(0, abs=1e-6)


# --- derivatives of outputs


CASES = {
    "brickwork": (Brickwork(4, 2), LogOdds(3), 16),
    "ring": (Ring(3, 2), LogOdds(5), 7),
    "staircase": (Staircase(4, 3), Probabilities(), 16),
    "probabilities": (Brickwork(3, 1), Probabilities(), 5),
    "any pairs": (Ansatz(3, ((2, 0), (1, 2), (2, 0))), LogOdds(8), 8),
}


def outputs_of(ansatz, readout, angles: torch.Tensor, x: torch.Tensor) -> np.ndarray:
    p = dense_probabilities(ansatz, angles, x)[:, : readout.num_outcomes(ansatz.num_qubits)]
    return np.log(p / (1 - p)) if isinstance(readout, LogOdds) else p


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_jacobian_of_angles_matches_differences_of_dense_matrices(case: str, dtype) -> None:
    ansatz, readout, features = CASES[case]
    qnn = QNN(ansatz, readout).double()
    angles = random_angles(ansatz.num_gates)
    with torch.no_grad():
        qnn.angles.copy_(angles)
    generator = torch.Generator().manual_seed(1)
    x = 5 * torch.randn(3, features, dtype=dtype, generator=generator)
    found = circuit_jacobian(qnn, x).unflatten(2, (-1, 15))
    for gate in range(ansatz.num_gates):
        for word in (0, 6, ZZ):
            step = torch.zeros_like(angles)
            step[gate, word] = 1e-6
            upper, lower = (outputs_of(ansatz, readout, angles + s, x) for s in (step, -step))
            expected = (upper - lower) / 2e-6
            np.testing.assert_allclose(found[:, :, gate, word], expected, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_jacobian_of_angles_matches_automatic_differentiation(case: str) -> None:
    ansatz, readout, features = CASES[case]
    qnn = QNN(ansatz, readout)
    x = torch.randn(4, features, generator=torch.Generator().manual_seed(1))
    expected = torch.func.jacrev(
        lambda angles: torch.func.functional_call(qnn, {"angles": angles}, (x,))
    )(qnn.angles.detach())
    found = circuit_jacobian(qnn, x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.flatten(2), rtol=1e-3, atol=1e-3)


def test_jacobian_is_zero_where_logits_are_clipped_and_right_at_any_length_of_a_sample() -> None:
    qnn = QNN(Ansatz(2, ((0, 1),)), LogOdds(3), torch.zeros).double()
    assert not circuit_jacobian(qnn, torch.eye(4, dtype=torch.float64)[:1]).any()  # p = 1, 0, 0
    with torch.no_grad():
        qnn.angles.copy_(random_angles(1))
    x = torch.rand(2, 4, dtype=torch.float64)
    expected = circuit_jacobian(qnn, x)
    for scale in (1e-170, 1e150):
        torch.testing.assert_close(circuit_jacobian(qnn, scale * x), expected)


SHORT_WAY = {
    "qnn log odds", "free gates", "free gates, renormalised", "angles from elsewhere", "real gates",
}  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_circuits_and_nothing_else_are_known_for_what_they_are(name: str) -> None:
    torch.manual_seed(0)
    network = ZOO[name]().double()
    x = torch.randn(1, 8, dtype=torch.float64)
    for _ in range(2):
        assert is_plain_circuit(network, x) == (name in SHORT_WAY)


@pytest.mark.parametrize("name", sorted(SHORT_WAY))
def test_jacobian_of_any_circuit_matches_automatic_differentiation(name: str) -> None:
    torch.manual_seed(0)
    network = ZOO[name]().double()
    ((parameter, values),) = network.named_parameters()
    x = torch.randn(4, 8, dtype=torch.float64)
    expected = torch.func.jacrev(
        lambda numbers: torch.func.functional_call(network, {parameter: numbers}, (x,))
    )(values.detach())
    torch.testing.assert_close(circuit_jacobian(network, x), expected.flatten(2))


def test_gates_may_be_of_any_size_where_the_state_is_renormalised() -> None:
    torch.manual_seed(0)
    network = Gates(torch.rand(3, 4, 4, 2), renormalised=True)
    x = torch.randn(4, 8)
    expected = circuit_jacobian(network, x)
    for scale in (1e-12, 1e12):
        other = Gates(scale * network.parameter.detach(), renormalised=True)
        torch.testing.assert_close(scale * circuit_jacobian(other, x), expected)
