"""Fisher traces, against a backward pass for each sample and class, and the authors' number."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from plasticity.metrics import jacobians
from plasticity.metrics.fisher import FisherProbe, fisher_traces, probe
from plasticity.quantum.circuits import Brickwork
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import SignedPauliZ
from tests.metrics.zoo import ZOO
from tests.oracle import DATA
from tests.tiny import tiny_learner, tiny_stream


def loop_of_fisher_traces(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple:
    """One backward pass a sample and class."""
    empirical = true = 0.0
    for sample, label in zip(x, y, strict=True):
        logits = network(sample[None])
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        log_p = logits.log_softmax(1)[0]
        for c in range(len(log_p)):
            gradients = torch.autograd.grad(log_p[c], list(network.parameters()), retain_graph=True)
            squared = sum(float(g.abs().square().sum()) for g in gradients)
            true += float(log_p[c].exp().detach()) * squared
            empirical += squared if c == label else 0
    return empirical / len(x), true / len(x)


def test_fisher_trace_that_begins_at_zero_has_no_relative_value() -> None:
    learner, stream = tiny_learner("mlp"), tiny_stream()
    with torch.no_grad():
        learner.network[2].weight.zero_()
    x, y = probe(stream[0], 0)
    columns = FisherProbe((x, y), (0.0, 0.0), 0)(learner, stream[0])
    assert math.isnan(columns["true_task0_relative"])
    assert columns["true_task0"] > 0


@pytest.mark.sampled(12)
@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
@pytest.mark.parametrize("numbers", [1, 10**9])
def test_fisher_traces_match_a_loop_over_samples_and_classes(make, numbers, monkeypatch) -> None:
    monkeypatch.setattr(jacobians, "JACOBIAN_NUMBERS", numbers)  # one sample at a time, and all
    torch.manual_seed(0)
    network = make().double()
    x, y = torch.randn(7, 8, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    torch.testing.assert_close(fisher_traces(network, x, y), loop_of_fisher_traces(network, x, y))


def test_fisher_trace_equals_the_authors_number() -> None:
    numbers = {k: torch.from_numpy(v) for k, v in np.load(DATA / "brickwork_z.npz").items()}
    network = QNN(Brickwork(10, 10), SignedPauliZ(9)).double()
    with torch.no_grad():
        network.angles.copy_(numbers["angles"])
    empirical, _ = fisher_traces(network, numbers["inputs"], numbers["labels"])
    assert empirical == pytest.approx(float(numbers["empirical_fisher_trace"]), abs=1e-8)


def test_fisher_probe_is_fixed_and_its_columns_are_ratios_of_traces() -> None:
    learner = tiny_learner("qnn")
    stream = tiny_stream()
    metric = FisherProbe.of(learner, stream[0], seed=5)
    x, y = probe(stream[0], 5)
    assert torch.equal(x, probe(stream[0], 5)[0])
    initial = fisher_traces(learner.network, x, y)
    columns = metric(learner, stream[0])
    assert columns["empirical_task0"] == columns["empirical_current"] == initial[0]
    assert columns["true_task0_relative"] == 1
    for _ in range(3):
        learner.update(*stream[0].train.batch(slice(0, 11)))
    columns = metric(learner, stream[2])
    for where, samples in (("task0", (x, y)), ("current", probe(stream[2], 5))):
        traces = loop_of_fisher_traces(learner.network, *samples)
        for kind, trace, at_start in zip(("empirical", "true"), traces, initial, strict=True):
            num_parameters = learner.network.angles.numel()
            assert columns[f"{kind}_{where}"] == pytest.approx(trace, rel=1e-4)
            assert columns[f"{kind}_{where}_per_parameter"] == pytest.approx(
                trace / num_parameters, rel=1e-4
            )
            assert columns[f"{kind}_{where}_relative"] == pytest.approx(trace / at_start, rel=1e-4)
