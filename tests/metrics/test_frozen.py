"""Frozen parameters count in no metric: each is that of what is trained, by a slow second way."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.errors import DoesNotFit
from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.metrics import METRICS
from plasticity.metrics.fisher import fisher_traces
from plasticity.metrics.probes import probe
from plasticity.metrics.ranks import tangent_kernel
from plasticity.quantum.circuits import Brickwork
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds
from tests.metrics.zoo import ZOO, logits_of
from tests.tiny import NUM_INPUTS, make_adam, tiny_images, tiny_learner, tiny_stream, tiny_task


class WithMore(nn.Sequential):
    """Layers, and a parameter that is trained but not used."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.spare = nn.Parameter(torch.ones(2, 2))


def made() -> nn.Module:
    """Freeze the first of three layers, a circuit and a bias; leave a parameter out."""
    torch.manual_seed(0)
    layers = [nn.Linear(NUM_INPUTS, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)]
    layers[2].bias.data += 1.0  # so that the units are not off
    network = WithMore(*layers, QNN(Brickwork(2, 1), LogOdds(3)), nn.Linear(3, 3))
    for part in (network[0], network[5]):
        part.requires_grad_(False)
    network[4].bias.requires_grad_(False)
    return network


def trained(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.requires_grad]


def slow(name: str, learner: Learner, before: list[torch.Tensor]) -> dict[str, float]:
    """What a metric is of the parameters that are trained."""
    network, task = learner.network, tiny_task()
    learned = trained(network)
    x, y = task.train.batch(slice(0, 128))
    gradients = torch.autograd.grad(cross_entropy(network(x), y), learned, allow_unused=True)
    whole = [
        torch.zeros_like(p) if g is None else g for p, g in zip(learned, gradients, strict=True)
    ]
    zeros = sum(int((g == 0).sum()) for g in whole) / sum(g.numel() for g in whole)
    matrices = [p for p in learned if p.dim() > 1]
    moved = [p - b for p, b in zip(learned, before, strict=True)]
    layers = [network[k].weight for k in (2, 4, 6)]
    values = [torch.linalg.svdvals(w) for w in layers]
    return {
        "weight_norm": {"": sum(p.norm() for p in matrices) / len(matrices)}
        | {"1": network.spare.norm()}  # the whole is the first layer, as it has a matrix
        | {k: network[place].weight.norm() for k, place in (("3", 2), ("4", 4), ("6", 6))},
        "gradient_norm": {"": sum(g.norm() for g in whole) / len(whole)},
        "gradient_start": {"zeros": zeros},
        "gradient_end": {"zeros": zeros, "norm": sum(g.norm() for g in whole) / len(whole)},
        "initial_distance": {
            "": torch.cat([m.flatten() for m in moved]).square().mean().sqrt()
        },
        "circuit": {},
        "spectrum": {f"largest_{k + 1}": v.max() for k, v in enumerate(values)}
        | {f"deviation_{k + 1}": (v**2 - 1).norm() for k, v in enumerate(values)},
    }[name]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "weight_norm", "gradient_norm", "gradient_start", "gradient_end", "initial_distance",
        "circuit", "spectrum",
    ],
)  # fmt: skip
def test_metrics_are_of_what_is_trained(name: str) -> None:
    learner = Learner(made(), make_adam, cross_entropy)
    metric = METRICS[name].prepared(learner, tiny_task(), 0)
    before = [p.detach().clone() for p in trained(learner.network)]
    learner.update(*tiny_task().train.batch(slice(0, 8)))
    found = metric.columns(metric.take(learner, tiny_task()))
    expected = {f"{name}_{k}".rstrip("_"): v for k, v in slow(name, learner, before).items()}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(float(torch.as_tensor(value).detach()), rel=1e-4), key


def test_what_a_task_moves_is_related_to_what_is_trained() -> None:
    learner = Learner(made(), make_adam, cross_entropy)
    before = [p.detach().clone() for p in trained(learner.network)]
    watching = METRICS["update_ratio"].take(learner, tiny_task())
    learner.update(*tiny_task().train.batch(slice(0, 8)))
    pairs = zip(trained(learner.network), before, strict=True)
    moved = sum(float((p.detach() - b).square().sum()) for p, b in pairs)
    expected = (moved / sum(float(b.square().sum()) for b in before)) ** 0.5
    assert watching.value()[""] == pytest.approx(expected)


@pytest.mark.sampled(20)
@pytest.mark.parametrize("which", ["first", "last", "biases"])
@pytest.mark.parametrize("of", [name for name in ZOO if name != "scalar and complex"])
def test_fisher_traces_and_tangent_kernel_are_of_what_is_trained(of: str, which: str) -> None:
    torch.manual_seed(0)
    network = ZOO[of]().double()
    names = [name for name, _ in network.named_parameters()]
    biases = [name for name in names if name.endswith("bias")]
    kinds = {"first": names[:1], "last": names[-1:], "biases": biases}
    for name, p in network.named_parameters():
        p.requires_grad_(name not in kinds[which])
    x, y = torch.randn(5, 8, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1])
    learned = trained(network)
    if not learned:
        for call in (lambda: fisher_traces(network, x, y), lambda: tangent_kernel(network, x)):
            with pytest.raises(DoesNotFit, match="no parameter to train"):
                call()
        return
    rows, empirical, true = [], 0.0, 0.0
    for sample, label in zip(x, y, strict=True):
        logits = logits_of(network, sample[None])[0]
        centered = logits - logits.mean()
        logs, own = logits.log_softmax(0), []
        for c in range(len(logits)):
            for value in (centered[c], logs[c]):
                gradients = torch.autograd.grad(
                    value, learned, retain_graph=True, allow_unused=True
                )
                own.append(torch.cat([torch.zeros(1).double()] + [
                    g.flatten() if g is not None else torch.zeros(p.numel()).double()
                    for g, p in zip(gradients, learned, strict=True)
                ]))  # fmt: skip
        rows.append(torch.stack(own[::2]))
        squares = torch.stack([g.square().sum() for g in own[1::2]])
        empirical += float(squares[label]) / len(x)
        true += float(logs.detach().exp() @ squares) / len(x)
    assert fisher_traces(network, x, y) == pytest.approx((empirical, true), rel=1e-6, abs=1e-12)
    stacked = torch.stack(rows).flatten(1)
    torch.testing.assert_close(tangent_kernel(network, x), stacked @ stacked.T)


def test_numbers_per_parameter_are_those_of_trained_ones() -> None:
    learner = Learner(made(), make_adam, cross_entropy)
    columns = METRICS["fisher"].prepared(learner, tiny_task(), 0).take(learner, tiny_task())
    count = sum(p.numel() for p in trained(learner.network))
    x, y = probe(tiny_task(), 0)
    trace, _ = fisher_traces(learner.network, x, y)
    assert columns["empirical_current_per_parameter"] == pytest.approx(trace / count)


def test_random_features_are_input_of_the_layers_that_learn() -> None:
    layers = [nn.Linear(NUM_INPUTS, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)]
    whole, rest = nn.Sequential(*layers), nn.Sequential(*layers[2:])
    layers[0].requires_grad_(False)
    task = tiny_task()
    learner = Learner(whole, make_adam, cross_entropy)
    for name in ("dormant", "feature_rank"):
        metric = METRICS[name].prepared(learner, task, 0)
        found = metric.take(learner, task)
        x, y = probe(task, 0, 512)
        features = torch.stack([*nn.Sequential(*layers[:2])(x)]).detach()
        samples = type(task)(0, Given(features, y), Given(features, y))
        other = Learner(rest, make_adam, cross_entropy)
        again = METRICS[name].prepared(other, samples, 0).take(other, samples)
        # In the whole, the frozen layer is the first.
        again = {k.replace("_1", "_2") if k[-1].isdigit() else k: v for k, v in again.items()}
        assert found == pytest.approx(again, rel=1e-4)


class Given:
    """Samples that are there."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: object) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[indices], self.y[indices]  # type: ignore[index]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_can_be_taken_of_a_network_that_is_frozen_in_part(name: str) -> None:
    network = made()
    frozen = {p: p.detach().clone() for p in network.parameters() if not p.requires_grad}
    learner = Learner(network, make_adam, cross_entropy)
    stream = tiny_stream(tiny_images(num_train=16))
    metric = METRICS[name].prepared(learner, stream[0], 0)
    rows = [*train_on_stream(learner, stream, epochs=1, batch_size=4, seed=0, metrics=[metric])]
    columns = [k for k in rows[-1] if metric.owns(k)]
    assert bool(columns) is (name not in ("circuit", "gate"))
    assert all(math.isfinite(rows[-1][k]) for k in columns)
    assert all(torch.equal(p, old) for p, old in frozen.items())


def test_what_is_kept_is_made_anew_where_something_is_frozen() -> None:
    learner, task = tiny_learner("mlp"), tiny_task()
    metrics = [METRICS[name].prepared(learner, task, 0) for name in ("gradient_norm", "ntk")]
    before = [metric.take(learner, task) for metric in metrics]
    learner.network[0].requires_grad_(False)
    after = [metric.take(learner, task) for metric in metrics]
    assert before[0] != after[0]
    assert before[1] != after[1]
