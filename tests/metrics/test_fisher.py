"""Fisher traces, against a backward pass for each sample and class, and the authors' number."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from plasticity.metrics import fisher
from plasticity.metrics.fisher import FisherProbe, fisher_traces, probe
from plasticity.networks.mlp import bounded, mlp
from plasticity.quantum.circuits import Brickwork
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities, SignedPauliZ
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


class Twice(nn.Module):
    """Use a layer twice, as a recurrent network does."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.shared(self.shared(x).tanh()))


class Tied(nn.Module):
    """Share a weight between layers, and leave a layer out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(x).tanh()))


class Sequence(nn.Module):
    """See each sample as a sequence, all of which goes through one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.last = nn.Linear(2, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.each(x.unflatten(1, (4, 2))).tanh().sum(1))


class Unusual(nn.Module):
    """Have a scalar and a complex parameter beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.mixing = nn.Parameter(torch.randn(8, 8, dtype=torch.complex128))
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = torch.view_as_real(x.to(self.mixing.dtype) @ self.mixing).square().sum(-1)
        return self.last((self.scale * mixed).tanh())


FISHER_NETWORKS = {
    "a layer used twice": Twice,
    "a shared weight": Tied,
    "sequences": Sequence,
    "scalar and complex": Unusual,
    "mlp": lambda: mlp((8, 5, 3), torch.Generator().manual_seed(0)),
    "bounded mlp": lambda: bounded(mlp((8, 5, 2), torch.Generator().manual_seed(0))),
    "qnn z": lambda: QNN(Brickwork(3, 2), SignedPauliZ(2)),
    "qnn log odds": lambda: QNN(Brickwork(3, 2), LogOdds(3)),
    "one logit": lambda: QNN(Brickwork(3, 2), PauliZ(0)),
    "qnn and head": lambda: nn.Sequential(QNN(Brickwork(3, 1), Probabilities()), nn.Linear(8, 3)),
}


def test_fisher_trace_that_begins_at_zero_has_no_relative_value() -> None:
    learner, stream = tiny_learner("mlp"), tiny_stream()
    with torch.no_grad():
        learner.network[2].weight.zero_()
    x, y = probe(stream[0], 0)
    columns = FisherProbe((x, y), (0.0, 0.0), 0)(learner, stream[0])
    assert math.isnan(columns["true_task0_relative"])
    assert columns["true_task0"] > 0


@pytest.mark.parametrize("make", FISHER_NETWORKS.values(), ids=FISHER_NETWORKS)
@pytest.mark.parametrize("numbers", [1, 10**9])
def test_fisher_traces_match_a_loop_over_samples_and_classes(make, numbers, monkeypatch) -> None:
    monkeypatch.setattr(fisher, "JACOBIAN_NUMBERS", numbers)  # one sample at a time, and all
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
