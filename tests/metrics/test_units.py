"""Hidden units: what is seen of networks of all kinds, and who sleeps, by loops and by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, relu

from plasticity.learning.learner import Learner
from plasticity.metrics.probes import probe
from plasticity.metrics.units import HIDDEN_SAMPLES, Dormancy, hidden
from plasticity.networks.mlp import mlp
from plasticity.quantum.circuits import Brickwork
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, Probabilities
from tests.metrics.zoo import ZOO
from tests.tiny import NUM_CLASSES, NUM_INPUTS, make_adam, tiny_images, tiny_learner, tiny_stream


class Functional(nn.Module):
    """Apply its activation as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(relu(self.first(x)))


class Torus(nn.Module):
    """A layer of another kind: its weights are sines of its parameters."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.angles = nn.Parameter(torch.rand(outputs, inputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.angles.sin().T


class SineAndCosine(nn.Module):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.cat([z.sin(), z.cos()], 1)


class Reader(nn.Module):
    """Read a fixed projection of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.rand(8, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix


class TwoParts(nn.Module):
    """Have modules within modules."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 5), nn.Sequential(nn.LayerNorm(5), nn.ReLU()))
        self.head = nn.Sequential(nn.Dropout(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
    )


# What is seen: units of each layer but the last, of each ReLU, and features of the last layer.
SEEN = {
    "mlp": (ZOO["mlp"], [5], [5], 5),
    "bounded mlp": (ZOO["bounded mlp"], [5], [5], 5),
    "parametrized": (ZOO["parametrized"], [5], [5], 5),
    "tanh": (ZOO["no bias"], [5], [], 5),
    "functional": (Functional, [5], [], 5),
    "a layer used twice": (ZOO["a layer used twice"], [8, 8], [], 8),
    "sine": (
        lambda: nn.Sequential(nn.Linear(8, 5), SineAndCosine(), nn.Linear(10, 3)), [5], [], 10
    ),
    "torus": (lambda: nn.Sequential(Torus(8, 5), nn.ReLU(True), Torus(5, 3)), [5], [5], 5),
    "within modules": (TwoParts, [5, 4], [5], 4),
    "qnn and head": (ZOO["qnn and head"], [8], [], 8),
    "qnn on a layer": (ZOO["qnn on a layer"], [6], [], 6),
    "qnn, relu": (
        lambda: nn.Sequential(
            QNN(Brickwork(3, 1), Probabilities()), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)
        ),
        [8, 5], [5], 5,
    ),
    "relu of the inputs": (
        lambda: nn.Sequential(nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)), [5], [5], 5
    ),
    "relu of the outputs": (
        lambda: nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU()), [5], [5], 5
    ),
    "a fixed projection": (
        lambda: nn.Sequential(Reader(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), [5], [5], 5
    ),
}  # fmt: skip
NOTHING = {
    "linear": lambda: nn.Linear(8, 3),
    "linear and tanh": lambda: nn.Sequential(nn.Linear(8, 3), nn.Tanh()),
    "linear on a fixed projection": lambda: nn.Sequential(Reader(), nn.Linear(6, 3)),
    "linear on normalized inputs": lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3)),
    "qnn": ZOO["qnn log odds"],
    "scaled qnn": ZOO["scaled qnn"],
    "sequences": ZOO["sequences"],
    "a matrix outside": ZOO["scalar and complex"],
    "convolutions": convolutional,
    "no layer": lambda: nn.Sequential(nn.LayerNorm(8), nn.ReLU()),
}  # fmt: skip


@pytest.mark.parametrize("name", SEEN)
def test_hidden_units_are_seen_where_they_are(name: str) -> None:
    make, units, rectified, features = SEEN[name]
    torch.manual_seed(0)
    network, x = make().double(), torch.rand(7, 8, dtype=torch.float64)
    seen = hidden(network, x)
    assert [u.shape for u in seen.units] == [(7, n) for n in units]
    assert [r.shape for r in seen.rectified] == [(7, n) for n in rectified]
    assert seen.features is not None and seen.features.shape == (7, features)
    assert all((r >= 0).all() for r in seen.rectified)
    torch.testing.assert_close(seen.outputs, network.eval()(x))
    gradients = torch.autograd.grad(seen.outputs.sum(), seen.units)
    assert all(g.any() for g in gradients)


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_is_shown_of_networks_without_hidden_units_or_of_what_is_no_unit(name: str) -> None:
    network, x = NOTHING[name]().double(), torch.rand(7, 8, dtype=torch.float64)
    seen = hidden(network, x)
    assert (seen.units, seen.rectified, seen.features) == ((), (), None)
    torch.testing.assert_close(seen.outputs, network(x))


def test_hidden_units_are_what_the_modules_give_one_after_the_other() -> None:
    network, x = mlp((8, 5, 4, 3), torch.Generator().manual_seed(0)), torch.rand(7, 8)
    seen = hidden(network, x)
    values = [x]
    for layer in network:
        values.append(layer(values[-1]))
    for found, expected in zip(
        (*seen.units, *seen.rectified, seen.features, seen.outputs),
        (values[1], values[3], values[2], values[4], values[4], values[5]),
        strict=True,
    ):
        assert torch.equal(found, expected)


def test_activations_in_place_do_not_change_what_is_seen_before_them() -> None:
    network = mlp((8, 5, 3), torch.Generator().manual_seed(0))
    in_place = copy.deepcopy(network)
    in_place[1] = nn.ReLU(inplace=True)
    x = torch.rand(7, 8)
    seen, again = hidden(network, x), hidden(in_place, x)
    assert torch.equal(seen.units[0], again.units[0])
    assert (again.units[0] < 0).any()
    gradients = [torch.autograd.grad(s.outputs.sum(), s.units)[0] for s in (seen, again)]
    assert torch.equal(*gradients)


# --- dormancy


def columns_of(network: nn.Module, num_train: int = 40) -> dict[str, float]:
    learner = Learner(network, make_adam, cross_entropy)
    task = tiny_stream(tiny_images(num_train=num_train))[1]
    columns = Dormancy.of(learner, task, seed=0)(learner, task)
    return {name: value for name, value in columns.items() if not name[-1].isdigit()}


def dormant_by_a_loop(rows: list[list[list[float]]]) -> tuple[float, float]:
    """From the numbers of each layer's units for each sample: the fractions dormant and dead."""
    dormant = dead = units = 0
    for layer in rows:
        sizes = [sum(abs(row[i]) for row in layer) / len(layer) for i in range(len(layer[0]))]
        mean = sum(sizes) / len(sizes)
        dormant += sum(size / mean <= 0.025 for size in sizes)
        dead += sum(all(row[i] == 0 for row in layer) for i in range(len(sizes)))
        units += len(sizes)
    return dormant / units, dead / units


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_dormancy_matches_a_loop_over_samples_and_units(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(NUM_INPUTS, 6), activation(), nn.Linear(6, 5), activation(),
        nn.Linear(5, NUM_CLASSES),
    )  # fmt: skip
    with torch.no_grad():
        network[0].bias[2] = -100.0  # off, or saturated
        network[0].weight[3] *= 1e-3  # dormant
        network[0].bias[3] = 1e-3
        network[2].weight[:, 1] = 0.0  # nobody listens
        network[4].weight[:, 4] *= 1e-4
    learner = Learner(network, make_adam, cross_entropy)
    task = tiny_stream(tiny_images(num_train=40))[1]
    x, y = probe(task, 0, HIDDEN_SAMPLES)
    assert len(x) == 40
    activations: list[list] = [[], []]
    slopes: list[list] = [[], []]
    for sample, label in zip(x, y, strict=True):
        z1 = network[0](sample[None])
        h1 = network[1](z1)
        z2 = network[2](h1)
        h2 = network[3](z2)
        loss = cross_entropy(network[4](h2), label[None])
        gradients = torch.autograd.grad(loss, [z1, z2])
        for layer, (h, gradient) in enumerate(zip((h1, h2), gradients, strict=True)):
            activations[layer].append(h[0].tolist())
            slopes[layer].append(gradient[0].tolist())
    columns = Dormancy.of(learner, task, seed=0)(learner, task)
    fractions = columns["gradient_fraction"], columns["gradient_dead"]
    assert fractions == dormant_by_a_loop(slopes)
    assert columns["gradient_dead"] >= 2 / 11  # the saturated one, and that to which nobody listens
    if activation is nn.Tanh:
        assert {name.rstrip("_12") for name in columns} == {"gradient_fraction", "gradient_dead"}
    else:
        assert (columns["fraction"], columns["dead"]) == dormant_by_a_loop(activations)
        assert columns["fraction"] > columns["dead"] >= 1 / 11


def test_dormancy_of_known_units() -> None:
    network = nn.Sequential(
        nn.Linear(NUM_INPUTS, 4, bias=True), nn.ReLU(), nn.Linear(4, NUM_CLASSES)
    )
    with torch.no_grad():
        network[0].weight.zero_()  # activations are the biases
        network[0].bias.copy_(torch.tensor([1.0, 0.02, 0.025, -1.0]))
    # Their mean is 0.26125, and 0.025 of that is 0.0065.
    columns = columns_of(network)
    assert (columns["fraction"], columns["dead"]) == (0.25, 0.25)
    with torch.no_grad():
        network[0].bias[1] = 0.006
    columns = columns_of(network)
    assert (columns["fraction"], columns["dead"]) == (0.5, 0.25)
    with torch.no_grad():
        network[0].bias.fill_(-1.0)  # no unit is on
    assert columns_of(network) == {
        "fraction": 1, "dead": 1, "gradient_fraction": 1, "gradient_dead": 1
    }  # fmt: skip


def test_duplicated_units_sleep_no_more_than_one() -> None:
    torch.manual_seed(0)
    network = mlp((NUM_INPUTS, 6, NUM_CLASSES), torch.Generator().manual_seed(0))
    with torch.no_grad():
        network[0].weight.copy_(network[0].weight[:1].abs().expand(6, -1))
        network[2].weight.copy_(network[2].weight[:, :1].expand(-1, 6))
    columns = columns_of(network)
    assert set(columns.values()) == {0.0}


def test_features_of_a_circuit_to_which_nobody_listens_have_no_gradient() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        QNN(Brickwork(4, 1), LogOdds(8)), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, NUM_CLASSES)
    )
    with torch.no_grad():
        network[1].bias.fill_(10.0)  # the ReLU's units are on
    assert columns_of(network)["gradient_dead"] == 0
    with torch.no_grad():
        network[1].weight[:, :3] = 0.0
    columns = columns_of(network)
    assert columns["gradient_dead"] == 3 / 13
    assert columns["dead"] == 0  # of the ReLU's five alone


def test_networks_without_hidden_units_have_no_column() -> None:
    task = tiny_stream()[1]
    for network in (tiny_learner("qnn").network, nn.Linear(NUM_INPUTS, NUM_CLASSES)):
        learner = Learner(network, make_adam, cross_entropy)
        assert Dormancy.of(learner, task, 0)(learner, task) == {}
