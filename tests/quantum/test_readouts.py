"""Readouts: their formulas beside the same in double precision, and what does not fit a circuit."""

import math
import pickle

import pytest
import torch

from plasticity.quantum.circuits import Brickwork
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities, SignedPauliZ


def test_log_odds_are_those_of_the_clipped_probabilities() -> None:
    numbers = [0.0, 1e-9, 1e-7, 0.1, 0.5, 1 - 1e-7, 1.0]
    p = torch.tensor([numbers], dtype=torch.float64, requires_grad=True)
    logits = LogOdds(len(numbers))(p)
    clipped = [min(max(number, 1e-7), 1 - 1e-7) for number in numbers]
    expected = [math.log(number) - math.log1p(-number) + 1e-9 for number in clipped]
    torch.testing.assert_close(logits, p.new_tensor([expected]), rtol=1e-12, atol=1e-15)
    logits.sum().backward()
    assert (p.grad[0, [0, 1, -1]] == 0).all()
    torch.testing.assert_close(p.grad[0, 3:5], p.new_tensor([1 / 0.09, 4.0]))


def test_expectations_become_columns() -> None:
    z = torch.tensor([0.25, -1.0])
    assert PauliZ(0)(z).tolist() == [[0.25], [-1.0]]
    assert SignedPauliZ(0)(z).tolist() == [[0.25, -0.25], [-1.0, 1.0]]


def test_probabilities_are_read_as_they_are() -> None:
    p = torch.rand(3, 8)
    assert Probabilities()(p) is p


@pytest.mark.parametrize(
    ("readout", "qubit", "outcomes"),
    [
        (LogOdds(3), None, 3),
        (Probabilities(), None, 16),
        (PauliZ(2), 2, None),
        (SignedPauliZ(3), 3, None),
    ],
    ids=str,
)
def test_a_readout_says_what_of_the_state_it_needs(readout, qubit, outcomes) -> None:
    assert (readout.qubit, readout.num_outcomes(4)) == (qubit, outcomes)
    assert pickle.loads(pickle.dumps(readout)) == readout


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QNN(Brickwork(3, 1), PauliZ(3)), "qubit 3 is not one of the qubits 0..2"),
        (lambda: QNN(Brickwork(3, 1), SignedPauliZ(-1)), "qubit -1 is not one of"),
        (lambda: QNN(Brickwork(3, 1), LogOdds(9)), "num_classes 9 exceeds the 8 basis states"),
        (lambda: LogOdds(0), "num_classes must be at least 1, not 0"),
    ],
)
def test_wrong_readout_is_a_clear_error(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
