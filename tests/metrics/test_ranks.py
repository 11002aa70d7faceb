"""Ranks and spectra, by hand, by numpy and by a backward pass for each sample and logit."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.metrics import jacobians
from plasticity.metrics.probes import probe
from plasticity.metrics.ranks import (
    FeatureRank,
    TangentKernel,
    effective_rank,
    spectrum,
    srank,
    stable_rank,
    tangent_kernel,
)
from plasticity.metrics.units import HIDDEN_SAMPLES
from plasticity.networks.mlp import mlp
from plasticity.tasks.samples import ArraySamples
from plasticity.tasks.streams import Task
from tests.metrics.zoo import ZOO, logits_of, loop_of_gradients
from tests.tiny import (
    ARMS,
    NUM_CLASSES,
    NUM_INPUTS,
    make_adam,
    tiny_images,
    tiny_learner,
    tiny_stream,
    tiny_task,
)


def learner_of(network: nn.Module) -> Learner:
    return Learner(network, make_adam, cross_entropy)


def task_of(x: torch.Tensor) -> Task:
    samples = ArraySamples(x, torch.zeros(len(x), dtype=torch.int64))
    return Task(0, samples, samples)


# --- three ranks


@pytest.mark.parametrize(
    ("values", "effective", "least", "stable"),
    [
        ([5.0], 1, 1, 1),
        ([2.0, 0, 0], 1, 1, 1),
        ([7.0] * 6, 6, 6, 6),
        ([3.0, 1.0], math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)), 2, 10 / 9),
        ([100.0, 1.0], 1.05712, 1, 1.0001),
        ([99.0, 1.0], 1.05760, 1, 1 + 1 / 99**2),
        ([90.0, 9.5, 0.5], 1.41190, 2, 1 + (9.5**2 + 0.5**2) / 90**2),
        ([1e-30, 1e-31], 1.35613, 2, 1.01),
    ],
)
def test_ranks_of_known_singular_values(
    values: list[float], effective: float, least: int, stable: float
) -> None:
    for dtype in (torch.float32, torch.float64):
        tensor = torch.tensor(values, dtype=dtype)
        assert effective_rank(tensor) == pytest.approx(effective, rel=1e-4)
        assert srank(tensor) == least
        assert stable_rank(tensor) == pytest.approx(stable, rel=1e-5)


def test_ranks_of_nothing_are_undefined() -> None:
    for rank in (effective_rank, srank, stable_rank):
        assert math.isnan(rank(torch.zeros(3)))


def ranks_of(network: nn.Module, num_train: int = 40) -> dict[str, float]:
    learner, task = learner_of(network), tiny_stream(tiny_images(num_train=num_train))[1]
    return FeatureRank.of(learner, task, seed=3)(learner, task)


@pytest.mark.parametrize("num_train", [11, 600])
def test_ranks_of_features_match_numpy(num_train: int) -> None:
    network = mlp((NUM_INPUTS, 9, 5, NUM_CLASSES), torch.Generator().manual_seed(0))
    task = tiny_stream(tiny_images(num_train=num_train))[1]
    x, _ = probe(task, 3, HIDDEN_SAMPLES)
    assert len(x) == min(num_train, HIDDEN_SAMPLES)
    features = network[:4](x).detach().double().numpy()
    squares = np.linalg.eigvalsh(features.T @ features)[::-1]
    values = np.sqrt(np.maximum(squares, 0))
    p = values / values.sum()
    entropy = -sum(share * math.log(share) for share in p if share > 0)
    least, total = 0, 0.0
    while total < 0.99:
        total += p[least]
        least += 1
    columns = ranks_of(network, num_train)
    assert columns["effective"] == pytest.approx(math.exp(entropy), rel=1e-3)
    assert columns["srank"] == least
    assert columns["stable"] == pytest.approx((features**2).sum() / squares[0], rel=1e-4)


def test_features_of_rank_one_and_duplicated_units() -> None:
    network = mlp((NUM_INPUTS, 6, NUM_CLASSES), torch.Generator().manual_seed(0))
    with torch.no_grad():
        network[0].weight.copy_(network[0].weight[:1].abs().expand(6, -1))
    columns = ranks_of(network)
    assert columns["srank"] == 1
    assert columns["effective"] == pytest.approx(1, abs=1e-4)
    assert columns["stable"] == pytest.approx(1, abs=1e-4)
    # Twice the same units are twice the same directions.
    network = mlp((NUM_INPUTS, 6, NUM_CLASSES), torch.Generator().manual_seed(0))
    single = nn.Sequential(nn.Linear(NUM_INPUTS, 3), nn.ReLU(), nn.Linear(3, NUM_CLASSES))
    with torch.no_grad():
        network[0].bias.fill_(0.5)
        network[0].weight[3:] = network[0].weight[:3]
        single[0].weight.copy_(network[0].weight[:3])
        single[0].bias.fill_(0.5)
    of_single = ranks_of(single)
    assert of_single["effective"] > 1.05
    assert ranks_of(network) == pytest.approx(of_single, rel=1e-4)


def test_dead_features_have_an_undefined_rank_and_networks_without_features_none() -> None:
    network = mlp((NUM_INPUTS, 6, NUM_CLASSES), torch.Generator().manual_seed(0))
    with torch.no_grad():
        network[0].bias.fill_(-100)
    assert all(math.isnan(value) for value in ranks_of(network).values())
    assert ranks_of(tiny_learner("qnn").network) == {}
    assert ranks_of(nn.Linear(NUM_INPUTS, NUM_CLASSES)) == {}


# --- tangent kernel


@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
@pytest.mark.parametrize("numbers", [1, 10**9])
def test_tangent_kernel_matches_a_loop_in_whatever_basis(
    make, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jacobians, "JACOBIAN_NUMBERS", numbers)  # one function at a time, and all
    torch.manual_seed(0)
    network, x = make().double(), torch.randn(5, 8, dtype=torch.float64)
    num_classes = logits_of(network, x).shape[1]
    # Logits less their mean, all of them: no basis at all.
    identity = torch.eye(num_classes, dtype=torch.float64)
    gradients = loop_of_gradients(network, x, identity - 1 / num_classes)
    expected = torch.tensor(
        [[sum(float(a @ b) for a, b in zip(g, h, strict=True)) for h in gradients]
         for g in gradients],
        dtype=torch.float64,
    )  # fmt: skip
    torch.testing.assert_close(tangent_kernel(network, x), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("outputs", [1, 2, 7])
def test_tangent_kernel_of_a_linear_network_is_that_of_its_inputs(outputs: int) -> None:
    # z_c = w_c . x + b_c: of each of the classes - 1 contrasts, <x_n, x_m> + 1.
    x = torch.randn(6, 4)
    expected = (x @ x.T + 1).double() * (outputs - 1 if outputs > 1 else 0.5)
    torch.testing.assert_close(
        tangent_kernel(nn.Linear(4, outputs), x), expected, rtol=1e-5, atol=1e-5
    )


def columns_of(network: nn.Module, x: torch.Tensor) -> dict[str, float]:
    learner, task = learner_of(network), task_of(x)
    return TangentKernel.of(learner, task, seed=0)(learner, task)


def test_condition_and_effective_rank_of_known_kernels() -> None:
    linear = nn.Linear(3, 3, bias=False)
    columns = columns_of(linear, torch.diag(torch.tensor([1.0, 2.0, 3.0])))
    shares = np.array([1, 4, 9]) / 14
    assert columns["condition"] == pytest.approx(9, rel=1e-6)
    assert columns["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    columns = columns_of(linear, torch.eye(3))
    assert columns == pytest.approx({"condition": 1, "effective_rank": 3})


def test_condition_of_a_singular_kernel_ends_where_rounding_begins() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0]] * 5)  # five times the same sample
    columns = columns_of(nn.Linear(3, 3), x)
    assert 1e11 < columns["condition"] < 1e13 * 64
    assert columns["effective_rank"] == pytest.approx(1, abs=1e-4)


def test_a_network_without_gradients_has_no_kernel() -> None:
    network = mlp((NUM_INPUTS, 4, NUM_CLASSES), torch.Generator().manual_seed(0))
    with torch.no_grad():
        network[0].bias.fill_(-100)  # all dead: the last biases alone have gradients
    columns = columns_of(network, torch.randn(6, NUM_INPUTS))
    assert columns["effective_rank"] == pytest.approx(1, abs=1e-6)

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0 * self.unused(x)

    assert columns_of(Constant(), torch.randn(6, 3)) == {}


@pytest.mark.parametrize("arm", ARMS)
def test_kernel_is_of_64_training_samples_or_of_all(arm: str) -> None:
    learner = tiny_learner(arm)
    task = tiny_stream(tiny_images(num_train=100))[1]
    x, _ = probe(task, 7)
    assert len(x) == 64
    values = np.linalg.eigvalsh(tangent_kernel(learner.network, x).numpy())
    columns = TangentKernel.of(learner, task, seed=7)(learner, task)
    shares = values / values.sum()
    # Six pixels make few directions, so the smallest eigenvalues are rounding.
    entropy = -sum(s * math.log(s) for s in shares if s > 0)
    assert columns["effective_rank"] == pytest.approx(math.exp(entropy), rel=1e-6)
    few = TangentKernel.of(learner, tiny_task(), seed=7)(learner, tiny_task())
    assert few["effective_rank"] <= 11


# --- spectra of layers


def test_spectrum_of_a_matrix_worked_out_by_hand() -> None:
    # [[3, 0], [4, 5]]: W^T W = [[25, 20], [20, 25]] has the eigenvalues 45 and 5.
    square, wide, tall = nn.Linear(2, 2), nn.Linear(3, 2), nn.Linear(2, 3)
    with torch.no_grad():
        square.weight.copy_(torch.tensor([[3.0, 0.0], [4.0, 5.0]]))
        wide.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
        tall.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 2.0]]))
    network = nn.Sequential(square, nn.ReLU(), tall, nn.LayerNorm(3), wide)
    assert spectrum(learner_of(network), tiny_task()) == pytest.approx(
        {
            "largest_0": math.sqrt(45), "deviation_0": math.sqrt(24**2 + 24**2 + 2 * 20**2),
            "largest_1": 2, "deviation_1": math.sqrt(18),
            "largest_2": 1, "deviation_2": 0,
        }, abs=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7)])
def test_spectrum_matches_the_definition(shape: tuple[int, int]) -> None:
    layer = nn.Linear(*shape)
    w = layer.weight.detach().double().numpy()
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    columns = spectrum(learner_of(layer), tiny_task())
    assert columns["largest_0"] == pytest.approx(math.sqrt(np.linalg.eigvalsh(gram)[-1]), rel=1e-5)
    deviation = np.linalg.norm(gram - np.eye(len(gram)))
    assert columns["deviation_0"] == pytest.approx(deviation, rel=1e-5)


def test_spectrum_is_of_the_matrix_that_acts_and_of_linear_layers_only() -> None:
    columns = spectrum(learner_of(ZOO["parametrized"]()), tiny_task())
    assert columns["largest_0"] == pytest.approx(1, abs=1e-5)
    assert columns["deviation_0"] == pytest.approx(0, abs=1e-5)
    assert {*columns} == {f"{key}_{k}" for key in ("largest", "deviation") for k in (0, 1)}
    assert spectrum(tiny_learner("qnn"), tiny_task()) == {}
    assert spectrum(learner_of(nn.Embedding(3, 4)), tiny_task()) == {}


def test_spectral_normalization_is_not_moved_by_being_looked_at() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5))
    before = [b.clone() for b in layer.buffers()]
    spectrum(learner_of(layer), tiny_task())
    assert all(torch.equal(a, b) for a, b in zip(layer.buffers(), before, strict=True))
