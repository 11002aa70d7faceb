"""What is measured of each layer and each gate, by closed forms and by loops over numbers."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.mnist import EXPERIMENT
from plasticity.learning.learner import Learner
from plasticity.learning.metric import Metric
from plasticity.metrics import METRICS
from plasticity.metrics.circuits import GateDrift, dampings
from plasticity.metrics.noise import BATCHES
from plasticity.metrics.probes import probe
from plasticity.metrics.ranks import effective_rank, weighted_gram
from plasticity.networks import NETWORKS
from plasticity.networks.layers import layers_of
from plasticity.networks.mlp import mlp
from plasticity.networks.network import Shape
from plasticity.protocol.columns import added_columns, column_of
from plasticity.protocol.options import TaskOptions
from plasticity.protocol.supervised import metrics_of
from plasticity.seeding import generator_for
from tests.metrics.zoo import ZOO, logits_of, loop_of_gradients, orthogonal
from tests.tiny import make_adam, tiny_images, tiny_learner, tiny_network, tiny_stream, tiny_task

TASK = tiny_stream(tiny_images(num_train=40))[1]


def measured(name: str, learner: Learner) -> dict[str, float]:
    metric = METRICS[name].prepared(learner, tiny_stream()[0], 0)
    return metric.columns(metric.take(learner, TASK))


def norm_of(*parts: torch.Tensor) -> float:
    return math.sqrt(sum(n**2 for part in parts for n in part.flatten().tolist()))


# --- layers


def test_layers_are_counted_from_one_in_the_order_of_the_modules() -> None:
    for name, network in NETWORKS.items():
        built = network.build(Shape(16, 3), generator_for(0, "initial weights"))
        layers = layers_of(built)
        assert [layer.number for layer in layers] == [*range(1, len(layers) + 1)]
        parameters = [p for layer in layers for p in layer.parameters]
        assert len({*parameters}) == len(parameters)
        missing = {*built.parameters()} - {*parameters}
        assert [p.shape for p in missing] == ([torch.Size([])] if name == "qnn-scaled" else [])
        assert len(layers) == (
            1 if name == "qnn" or "brickwork" in name or "stiefel" in name
            else {"linear": 1, "quadratic": 1, "qnn-relu": 3}.get(name, len(layers))
        )  # fmt: skip
        assert ("mlp" in name) <= (len(layers) == 2)


def test_a_matrix_belongs_to_the_layer_that_it_is_made_for_and_a_shared_one_to_the_first() -> None:
    first, last = layers_of(orthogonal())
    assert [tuple(p.shape) for p in first.weights] == [(5, 8)] and len(first.parameters) == 2
    assert [tuple(p.shape) for p in last.parameters] == [(3, 5), (3,)]
    tied = layers_of(ZOO["a shared weight"]())
    assert [len(layer.parameters) for layer in tied] == [2, 1, 2]
    network = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 2))
    network[0].requires_grad_(False)
    frozen, last = layers_of(network)  # a normalization has no matrix
    assert (frozen.number, frozen.weights, last.number) == (1, (), 2)
    assert last.module is network[3]


# --- norms, steps, singular values


@pytest.mark.parametrize("arm", ["mlp", "qnn"])
def test_norms_and_singular_values_of_layers_match_loops(arm: str) -> None:
    learner = tiny_learner(arm)
    layers = [learner.network[0], learner.network[2]] if arm == "mlp" else [learner.network]
    weights = [getattr(layer, "weight", None) for layer in layers]
    weights = [learner.network.angles if w is None else w for w in weights]
    norms = measured("weight_norm", learner)
    values = measured("singular_value", learner)
    for k, weight in enumerate(weights, start=1):
        assert norms[f"weight_norm_{k}"] == pytest.approx(norm_of(weight), rel=1e-6)
        if arm == "mlp":
            w = weight.detach().double()
            largest = math.sqrt(max(torch.linalg.eigvalsh(w @ w.T).tolist()))
            assert values[f"singular_value_{k}"] == pytest.approx(largest, rel=1e-5)
    assert len(norms) == len(weights) + 1 and len(values) == (2 if arm == "mlp" else 0)


def test_singular_value_is_that_of_the_spectrum_where_layers_count_from_zero() -> None:
    learner = Learner(orthogonal(), make_adam, cross_entropy)
    found = measured("singular_value", learner)
    spectrum = measured("spectrum", learner)
    assert found == {
        f"singular_value_{k}": pytest.approx(spectrum[f"spectrum_largest_{k - 1}"], rel=1e-6)
        for k in (1, 2)
    }
    assert found["singular_value_1"] == pytest.approx(1, rel=1e-5)


def test_step_is_the_rate_over_the_root_mean_square_of_the_weights() -> None:
    network = mlp((6, 3, 2), torch.Generator().manual_seed(0))
    with torch.no_grad():
        network[0].weight.fill_(0.5)
        network[2].weight.copy_(torch.tensor([[3.0, 0.0, 0.0], [4.0, 0.0, 0.0]]))
    learner = Learner(network, lambda p: torch.optim.Adam(p, lr=0.02), cross_entropy)
    steps = measured("step", learner)
    assert steps == {"step_1": pytest.approx(0.04), "step_2": pytest.approx(0.02 * 6**0.5 / 5)}


def test_step_of_gradient_descent_is_what_an_update_changes_beside_the_weights() -> None:
    learner = Learner(tiny_network("mlp"), lambda p: torch.optim.SGD(p, lr=0.1), cross_entropy)
    steps = measured("step", learner)
    weights = [learner.network[k].weight for k in (0, 2)]
    before = [w.detach().clone() for w in weights]
    learner.update(*TASK.train.batch(slice(0, 128)))
    for k, (w, b) in enumerate(zip(weights, before, strict=True), start=1):
        assert steps[f"step_{k}"] == pytest.approx(norm_of(w - b) / norm_of(b), rel=1e-4)


def test_step_has_the_rate_of_the_layers_own_group_and_none_of_an_unknown_optimizer() -> None:
    network = tiny_network("mlp")
    rates = {"params": [*network[2].parameters()], "lr": 0.5}
    learner = Learner(
        network,
        lambda p: torch.optim.AdamW([{"params": p[:2]}, rates], lr=0.1),
        cross_entropy,
    )
    steps = measured("step", learner)
    for k, rate in ((1, 0.1), (2, 0.5)):
        w = network[2 * k - 2].weight
        assert steps[f"step_{k}"] == pytest.approx(rate * math.sqrt(w.numel()) / norm_of(w))
    other = Learner(network, lambda p: torch.optim.Rprop(p, lr=0.1), cross_entropy)
    assert measured("step", other) == {}
    with torch.no_grad():
        network[0].weight.zero_()
    assert [*measured("step", learner)] == ["step_2"]


def test_update_ratio_of_layers_matches_a_loop_and_makes_up_that_of_all() -> None:
    learner = tiny_learner("mlp")
    watching = METRICS["update_ratio"].take(learner, TASK)
    layers = [[*learner.network[k].parameters()] for k in (0, 2)]
    before = [[p.detach().clone() for p in layer] for layer in layers]
    learner.update(*TASK.train.batch(slice(0, 8)))
    found = METRICS["update_ratio"].columns(watching.value())
    sizes = [norm_of(*layer) for layer in before]
    moved = [
        norm_of(*(p - b for p, b in zip(layer, old, strict=True)))
        for layer, old in zip(layers, before, strict=True)
    ]
    for k in (1, 2):
        assert found[f"update_ratio_{k}"] == pytest.approx(moved[k - 1] / sizes[k - 1], rel=1e-5)
    assert found["update_ratio"] == pytest.approx(math.hypot(*moved) / math.hypot(*sizes))


# --- units


def test_sleeping_units_are_counted_where_they_are() -> None:
    network = mlp((16, 4, 5, 3), torch.Generator().manual_seed(0))
    with torch.no_grad():
        network[0].bias.fill_(5.0)
        network[0].bias[1] = -100.0
        network[2].bias.fill_(50.0)
        network[2].bias[:2] = -1000.0
        network[4].weight[:, 3] = 0.0  # nobody listens
    columns = measured("dormant", Learner(network, make_adam, cross_entropy))
    assert {k: v for k, v in columns.items() if "dead" in k} == {
        "dormant_dead": 3 / 9, "dormant_dead_1": 1 / 4, "dormant_dead_2": 2 / 5,
        "dormant_gradient_dead": 4 / 9, "dormant_gradient_dead_1": 1 / 4,
        "dormant_gradient_dead_2": 3 / 5,
    }  # fmt: skip
    assert columns["dormant_fraction_2"] >= 2 / 5


# --- gates


def test_columns_of_gates_have_the_means_of_the_circuit() -> None:
    learner = tiny_learner("qnn")
    circuit = GateDrift.of(learner, TASK, 0)
    gates = METRICS["gate"].prepared(learner, TASK, 0)
    for _ in range(3):
        learner.update(*TASK.train.batch(slice(0, 8)))
    found, means = gates.take(learner, TASK), circuit(learner, TASK)
    angles = learner.network.angles.detach()
    for name in ("damping", "displacement"):
        values = [found[f"{name}_{g}"] for g in range(1, len(angles) + 1)]
        assert sum(values) / len(values) == pytest.approx(means[name], abs=1e-7)
        assert len({*values}) > 1
    for g, row in enumerate(angles, start=1):
        assert found[f"damping_{g}"] == pytest.approx(float(dampings(row[None])))
        assert found[f"step_{g}"] == pytest.approx(0.03 * math.sqrt(15) / norm_of(row), rel=1e-5)
    assert len(found) == 3 * len(angles)


# --- batches


def by_batches(learner: Learner) -> list[list[torch.Tensor]]:
    """The gradients of eight batches of five, in all parameters."""
    x, y = probe(TASK, 0, 512)
    parameters = [*learner.network.parameters()]
    found = []
    for b in range(BATCHES):
        chosen = slice(5 * b, 5 * b + 5)
        loss = cross_entropy(learner.network(x[chosen]), y[chosen])
        found.append([*torch.autograd.grad(loss, parameters)])
    return found


@pytest.mark.parametrize("arm", ["mlp", "qnn"])
def test_readiness_and_noise_match_a_loop_over_batches_and_numbers(arm: str) -> None:
    learner = tiny_learner(arm)
    gradients = by_batches(learner)
    parts = {"": range(4), "_1": range(2), "_2": range(2, 4)} if arm == "mlp" else {"": (0,)}
    if arm == "qnn":
        parts["_1"] = (0,)
    readiness, noise = measured("readiness", learner), measured("gradient_noise", learner)
    assert len(readiness) == len(noise) == len(parts)
    for key, places in parts.items():
        vectors = [
            [n for k in places for n in of_batch[k].flatten().double().tolist()]
            for of_batch in gradients
        ]
        mean = [sum(column) / BATCHES for column in zip(*vectors, strict=True)]
        variance = sum(math.dist(v, mean) ** 2 for v in vectors) / (BATCHES - 1)
        square = sum(m**2 for m in mean)
        expected = math.sqrt(square / variance)
        assert readiness[f"readiness{key}"] == pytest.approx(expected, rel=1e-4)
        assert noise[f"gradient_noise{key}"] == pytest.approx(5 * variance / square, rel=1e-4)


def test_gradients_that_all_batches_share_have_no_noise() -> None:
    images = tiny_images(num_train=40)
    images.x_train[:], images.y_train[:] = images.x_train[0], images.y_train[0]
    task = tiny_stream(images)[1]
    learner = tiny_learner("mlp")
    metric = METRICS["gradient_noise"].prepared(learner, task, 0)
    assert all(abs(value) < 1e-9 for value in metric.take(learner, task).values())


def test_a_task_of_a_few_samples_has_no_batches_to_compare() -> None:
    learner, task = tiny_learner("mlp"), tiny_task()
    assert len(task.train) < 16
    for name in ("readiness", "gradient_noise"):
        metric = METRICS[name].prepared(learner, task, 0)
        assert metric.take(learner, task) == {}


# --- curvature


@pytest.mark.parametrize("name", ["mlp", "qnn log odds", "one logit", "parametrized", "sequences"])
def test_curvature_is_that_of_the_gauss_newton_matrix(name: str) -> None:
    torch.manual_seed(0)
    network = ZOO[name]().double()
    x = torch.rand(7, 8, dtype=torch.float64)
    classes = logits_of(network, x).shape[1]
    eye = torch.eye(classes, dtype=torch.float64)
    jacobians = loop_of_gradients(network, x, eye)
    size = len(jacobians[0][0])
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for sample, rows in zip(x, jacobians, strict=True):
        p = logits_of(network, sample[None])[0].softmax(0).detach()
        hessian = p.diag() - torch.outer(p, p)
        j = torch.stack(rows)
        matrix += j.T @ hessian @ j / len(x)
    levels = torch.linalg.eigvalsh(matrix).clamp(min=0)
    p = levels / levels.sum()
    expected = math.exp(-sum(v * math.log(v) for v in p.tolist() if v > 0))

    gram = weighted_gram(network, x) / len(x)
    found = torch.linalg.eigvalsh(gram).clamp(min=0)
    assert float(found[-1]) == pytest.approx(float(levels[-1]), rel=1e-8)
    assert effective_rank(found) == pytest.approx(expected, rel=1e-6)


def test_curvature_of_a_linear_classifier_that_knows_nothing_is_known() -> None:
    images = tiny_images(num_train=40)
    images.x_train[:] = images.x_train[0]
    task = tiny_stream(images)[0]
    network = nn.Linear(16, 4, bias=False)
    nn.init.zeros_(network.weight)
    learner = Learner(network, make_adam, cross_entropy)
    metric = METRICS["curvature"].prepared(learner, task, 0)
    columns = metric.take(learner, task)
    x = task.train.batch(slice(0, 1))[0]
    # One direction of inputs, three of logits, whose Hessian is a quarter of a projection.
    assert columns["effective_rank"] == pytest.approx(3, rel=1e-5)
    assert columns["largest"] == pytest.approx(norm_of(x) ** 2 / 4, rel=1e-5)


def test_new_columns_of_layers_are_declared_and_stand_in_no_figure_of_the_run() -> None:
    learner = Learner(mlp((16, 4, 3), torch.Generator().manual_seed(0)), make_adam, cross_entropy)
    names = ("weight_norm", "step", "dormant", "readiness", "gradient_noise", "singular_value")
    row = dict(itertools.chain(*(measured(name, learner).items() for name in names)))
    by_layer = [name for name in row if name.rpartition("_")[2].isdigit()]
    assert len(by_layer) >= 12
    assert all(column_of(EXPERIMENT, name).by == "layer" for name in by_layer)
    assert {*added_columns(EXPERIMENT, [row])} == {*row} - {*by_layer, "weight_norm"}
    assert Metric("a", lambda learner, task: 0.0).columns({"": 1.0, "2": 3.0}) == {
        "a": 1.0, "a_2": 3.0
    }  # fmt: skip


def test_what_is_always_measured_has_columns_of_layers_only_where_it_is_asked_for() -> None:
    def names(*asked: str) -> set[str]:
        (metric,) = metrics_of(("weight_norm",), TaskOptions(arms=(), metrics=asked))
        return {*metric.columns(metric.take(tiny_learner("mlp"), TASK))}

    assert names() == {"weight_norm"}
    assert names("weight_norm") == {"weight_norm", "weight_norm_1", "weight_norm_2"}
