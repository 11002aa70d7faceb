"""Networks of squared overlaps, and the linear one: maps, gradients, and where parameters stay."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from plasticity.errors import DoesNotFit
from plasticity.learning.learner import Learner
from plasticity.networks import NETWORKS
from plasticity.networks.modules.quadratic import Overlaps
from plasticity.networks.network import Network, Shape
from plasticity.networks.qnn import Qnn
from plasticity.networks.quadratic import Linear, Quadratic, Stiefel, StiefelFree
from plasticity.seeding import generator_for
from tests.networks.slow import (
    assert_outputs_and_gradients,
    columns_of,
    gram_schmidt,
    squared_overlaps,
)
from tests.oracle import dense_unitary
from tests.tiny import make_adam

FAMILY = (Quadratic, Stiefel, StiefelFree)
SMALL = Shape(inputs=5, outputs=3)  # 8 amplitudes, 3 of them padding


def built(network: Network, shape: Shape = SMALL, seed: int = 0) -> Any:
    return network.build(shape, generator_for(seed, "initial weights"))


def states(count: int, shape: Shape = SMALL, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, shape.inputs, dtype=dtype, generator=generator_for(0, "inputs"))


def distance(vectors: torch.Tensor) -> float:
    """Of U* U from the identity."""
    matrix = torch.view_as_complex(vectors.detach().double())
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype)
    return float(torch.linalg.matrix_norm(matrix.mH @ matrix - identity))


def slow_logits(readout: str, p: list[float], outputs: int) -> list[float]:
    if readout == "difference":
        return [p[1] - p[0]] if outputs == 1 else [p[0] - p[1], p[1] - p[0]]
    if readout == "log":
        scores = [math.log(max(v, 1e-7)) for v in p]
    else:
        clipped = [min(max(v, 1e-7), 1 - 1e-7) for v in p]
        scores = [math.log(v) - math.log(1 - v) + 1e-9 for v in clipped]
    return [scores[1] - scores[0]] if outputs == 1 else scores


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.parametrize(
    ("readout", "outputs"),
    [
        ("log-odds", 3),
        ("log-odds", 1),
        ("log", 3),
        ("log", 1),
        ("difference", 2),
        ("difference", 1),
    ],
)
def test_outputs_and_gradients_are_those_of_sums_written_out(
    family: type, readout: str, outputs: int, dtype: torch.dtype
) -> None:
    shape = Shape(SMALL.inputs, outputs)
    network = built(family(readout), shape).double()
    x = states(4, shape, dtype)

    def slow() -> list[list[float]]:
        columns = columns_of(network.vectors)
        if family is StiefelFree:
            columns = gram_schmidt(columns)
        overlaps = [squared_overlaps(columns, sample) for sample in x.tolist()]
        return [slow_logits(readout, p, outputs) for p in overlaps]

    assert_outputs_and_gradients(network, x, slow)


@pytest.mark.parametrize("outputs", [3, 1])
def test_linear_is_a_matrix_and_a_bias(outputs: int) -> None:
    shape = Shape(SMALL.inputs, outputs)
    network = built(Linear(), shape).double()
    (layer,) = network
    x = states(4, shape)
    with torch.no_grad():
        layer.bias.copy_(torch.arange(outputs))

    def slow() -> list[list[float]]:
        return [
            [
                sum(w * v for w, v in zip(row, sample, strict=True)) + b
                for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            ]
            for sample in x.tolist()
        ]

    assert_outputs_and_gradients(network, x, slow)


def test_rows_of_a_circuits_unitary_make_the_circuits_map() -> None:
    circuit = built(Qnn("brickwork", 2, "log-odds", (0.0, 2 * math.pi)), Shape(6, 3)).double()
    unitary = torch.from_numpy(dense_unitary(circuit.ansatz, circuit.angles.detach()))
    for family in (Quadratic, Stiefel):
        network = built(family("log-odds"), Shape(6, 3)).double()
        with torch.no_grad():
            network.vectors.copy_(torch.view_as_real(unitary[:3].T.contiguous()))
        for dtype in (torch.float64, torch.complex128):
            x = states(4, Shape(6, 3), dtype)
            torch.testing.assert_close(network(x), circuit(x))


@pytest.mark.parametrize("family", FAMILY)
def test_neither_norm_nor_phase_of_the_input_counts(family: type) -> None:
    network = built(family("log-odds")).double()
    x = states(4)
    torch.testing.assert_close(network(x * 1e3), network(x))
    torch.testing.assert_close(network(x.to(torch.complex128)), network(x))
    torch.testing.assert_close(network(x * complex(0.6, 0.8)), network(x))


@pytest.mark.parametrize("family", FAMILY)
def test_one_logit_is_that_of_two_classes(family: type) -> None:
    one, two = (built(family("log-odds"), Shape(6, outputs)).double() for outputs in (1, 2))
    x = states(4, Shape(6, 1))
    p = two(x).softmax(1)[:, 1:]
    torch.testing.assert_close(one(x).sigmoid(), p)


@pytest.mark.parametrize("family", FAMILY)
def test_a_difference_is_a_logit_of_two_classes_only(family: type) -> None:
    with pytest.raises(DoesNotFit, match=r"^readout difference gives 1 or 2 logits, .* 3$"):
        built(family("difference"), Shape(6, 3))


def test_a_difference_of_orthonormal_vectors_is_bounded_as_z_is() -> None:
    network = built(Stiefel("difference"), Shape(4, 1))
    u = torch.view_as_complex(network.vectors.detach())
    torch.testing.assert_close(network(u.T.conj()).detach(), torch.tensor([[-1.0], [1.0]]))


# ------------------------------------------------------------------------------------- parameters
@pytest.mark.parametrize(
    ("name", "shape", "number"),
    [
        ("linear", Shape(784, 10), 7_850),
        ("linear", Shape(1024, 1), 1_025),
        *[(name, Shape(784, 10), 2 * 1024 * 10) for name in ("quadratic", "stiefel")],
        *[("stiefel-free", Shape(1024, outputs), 2 * 1024 * 2) for outputs in (1, 2)],
    ],
)
def test_numbers_of_parameters(name: str, shape: Shape, number: int) -> None:
    assert sum(p.numel() for p in built(NETWORKS[name], shape).parameters()) == number


def test_free_vectors_begin_with_parts_of_variance_one_half_over_the_amplitudes() -> None:
    for family in (Quadratic, StiefelFree):
        vectors = built(family("log-odds"), Shape(784, 10)).vectors.detach()
        assert vectors.mean().abs() < 1e-3
        assert vectors.var() * 2 * 1024 == pytest.approx(1, rel=0.05)


def test_the_three_begin_with_the_same_draws_and_two_of_them_with_the_same_outputs() -> None:
    free, retracted, factorized = (built(family("log-odds")).double() for family in FAMILY)
    assert torch.equal(free.vectors, factorized.vectors)
    x = states(4)
    torch.testing.assert_close(retracted(x), factorized(x), rtol=1e-5, atol=1e-5)  # built in single
    assert distance(retracted.vectors) < 1e-6 < distance(free.vectors)


def learned(network: Network, updates: int, rate: float, shape: Shape = SMALL) -> Learner:
    """Train on random labels in single precision."""
    loss = cross_entropy if shape.outputs > 1 else one_logit_loss
    learner = Learner(built(network, shape), lambda p: torch.optim.Adam(p, lr=rate), loss)
    generator = generator_for(0, "batches")
    for _ in range(updates):
        x = torch.rand(8, shape.inputs, generator=generator)
        learner.update(x, torch.randint(max(2, shape.outputs), (8,), generator=generator))
    return learner


def one_logit_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return binary_cross_entropy_with_logits(outputs.squeeze(1), labels.to(outputs.dtype))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("rate", [3e-3, 1.0])
@pytest.mark.parametrize("shape", [Shape(40, 10), Shape(40, 1), Shape(3, 4)])
def test_retracted_vectors_are_orthonormal_after_a_thousand_updates(
    shape: Shape, rate: float
) -> None:
    vectors = learned(Stiefel("log-odds"), 1000, rate, shape).network.vectors
    assert vectors.dtype == torch.float32
    assert distance(vectors) < 1e-5


def test_free_vectors_and_matrices_leave_the_manifold_and_grow() -> None:
    for family in (Quadratic, StiefelFree):
        network = built(family("log-odds"))
        after = learned(family("log-odds"), 200, 3e-2).network
        assert after.vectors.norm() > 1.1 * network.vectors.norm()
        assert distance(after.vectors) > 0.1
    assert distance(after.effective_vectors()) < 1e-5


def test_an_update_is_a_step_of_the_optimizer_and_gram_and_schmidt() -> None:
    network = built(Stiefel("log-odds")).double()
    learner = Learner(network, lambda p: torch.optim.SGD(p, lr=0.3), cross_entropy)
    x, y = states(6), torch.tensor([0, 1, 2, 0, 1, 2])
    for _ in range(3):
        by_hand = copy.deepcopy(learner.network)
        (gradient,) = torch.autograd.grad(cross_entropy(by_hand(x), y), [by_hand.vectors])
        stepped = by_hand.vectors.detach() - 0.3 * gradient
        expected = torch.tensor(gram_schmidt(columns_of(stepped)), dtype=torch.complex128).T
        learner.update(x, y)
        torch.testing.assert_close(torch.view_as_complex(network.vectors.detach()), expected)
        assert not torch.allclose(torch.view_as_complex(stepped), expected)


def test_a_larger_free_matrix_has_the_same_map_and_a_smaller_gradient() -> None:
    x, y = states(6), torch.tensor([0, 1, 2, 0, 1, 2])
    network = built(StiefelFree("log-odds")).double()
    larger = copy.deepcopy(network)
    with torch.no_grad():
        larger.vectors *= 10
    torch.testing.assert_close(larger(x), network(x))
    gradients = [
        torch.autograd.grad(cross_entropy(one(x), y), [one.vectors])[0] for one in (network, larger)
    ]
    torch.testing.assert_close(10 * gradients[1], gradients[0])
    # So the gradient is at right angles to W, and each step of gradient descent makes W larger.
    along = float((gradients[0] * network.vectors.detach()).sum())
    assert along == pytest.approx(0, abs=1e-12)


def test_adam_has_a_moment_for_each_part_as_for_a_complex_parameter() -> None:
    network = built(Quadratic("log-odds"))
    as_complex = nn.Parameter(torch.view_as_complex(network.vectors.detach().clone()))
    plain = torch.optim.Adam([network.vectors], lr=0.01, fused=False)
    of_complex = torch.optim.Adam([as_complex], lr=0.01, fused=False)
    for step in range(5):
        gradient = torch.randn((*as_complex.shape, 2), generator=generator_for(0, "g", step))
        network.vectors.grad = gradient
        as_complex.grad = torch.view_as_complex(gradient)
        plain.step()
        of_complex.step()
    torch.testing.assert_close(torch.view_as_complex(network.vectors), as_complex)


def test_free_log_odds_die_where_an_overlap_exceeds_one_and_log_does_not() -> None:
    for readout, alive in (("log-odds", False), ("log", True)):
        network = built(Quadratic(readout)).double()
        x = states(1)
        with torch.no_grad():
            network.vectors *= 1e3
        assert network.probabilities(x).min() > 1
        network(x)[0, 1].backward()
        assert bool(network.vectors.grad.any()) is alive


def test_numbers_beyond_the_inputs_get_no_gradient() -> None:
    network = built(Quadratic("log-odds"))
    learner = Learner(network, make_adam, cross_entropy)
    before = network.vectors.detach().clone()
    learner.update(torch.rand(4, 5), torch.tensor([0, 1, 2, 0]))
    changed = (network.vectors != before).flatten(1).any(1)
    assert changed.tolist() == [True] * 5 + [False] * 3


def test_a_zero_input_has_no_direction() -> None:
    network = built(Quadratic("log-odds"))
    assert isinstance(network, Overlaps)
    assert network(torch.zeros(1, 5)).isnan().all()
