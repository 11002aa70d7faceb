"""Multilayer perceptrons that differ from the plain one in one thing: that thing, and no other."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.errors import DoesNotFit
from plasticity.learning.learner import Learner
from plasticity.networks import NETWORKS
from plasticity.networks.compact import OrthogonalMlp, SineMlp, SmallMlp, SphereMlp, TorusMlp
from plasticity.networks.mlp import Mlp
from plasticity.networks.modules.compact import OnSpheres, OrthogonalHidden, TorusLinear
from plasticity.networks.modules.units import FixedProjection, MaxMin, ScaledTanh
from plasticity.networks.network import Network, Shape
from plasticity.networks.qnn import Qnn
from plasticity.protocol.serialization import from_json, to_json
from plasticity.seeding import generator_for
from tests.networks.slow import (
    assert_outputs_and_gradients,
    gram_schmidt,
    layers_applied,
    relu,
)
from tests.tiny import same

SMALL = Shape(inputs=5, outputs=3)
SPHERE = SphereMlp(hidden=(6, 4), growth=3.0, biases="held", layer_norm=False)
ORTHOGONAL = OrthogonalMlp(hidden=(4, 6, 2), units="relu", kept_by="retraction")
TORUS = TorusMlp(hidden=(4, 3), wrap=True)


def built(network: Network, shape: Shape = SMALL, seed: int = 0) -> Any:
    return network.build(shape, generator_for(seed, "initial weights"))


def in_doubles(network: Network, shape: Shape = SMALL) -> Any:
    """Build it in double precision, with biases that are not zero."""
    module = built(network, shape).double()
    generator = generator_for(0, "biases")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "bias" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return module


def inputs(count: int, shape: Shape = SMALL) -> torch.Tensor:
    generator = generator_for(0, "inputs")
    return torch.randn(count, shape.inputs, dtype=torch.float64, generator=generator)


def linears(module: nn.Module) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def numbers(module: nn.Module) -> list[tuple[list[list[float]], list[float]]]:
    return [(layer.weight.tolist(), layer.bias.tolist()) for layer in linears(module)]


def learned(
    network: Network, updates: int, rate: float, shape: Shape = SMALL, module: Any = None
) -> Any:
    """Train on random labels with Adam, in single precision if not a module in another is given."""
    learner = Learner(
        built(network, shape) if module is None else module,
        lambda p: torch.optim.Adam(p, lr=rate),
        cross_entropy,
    )
    dtype = next(learner.network.parameters()).dtype
    generator = generator_for(0, "batches")
    for _ in range(updates):
        x = torch.rand(8, shape.inputs, generator=generator)
        y = torch.randint(shape.outputs, (8,), generator=generator)
        learner.update(x.to(dtype), y)
    return learner.network


@pytest.mark.parametrize(
    ("name", "shape", "number"),
    [
        ("mlp-bounded", Shape(784, 10), 12_730),
        ("mlp-wide", Shape(784, 10), 814_090),
        ("mlp-small", Shape(784, 10), 538),
        ("mlp-torus", Shape(784, 10), 12_730),
        ("mlp-orthogonal", Shape(784, 10), 12_730),
        ("mlp-orthogonal-max-min", Shape(784, 10), 12_730),
        ("mlp-sphere", Shape(784, 10), 12_730),
        ("mlp-sphere-ln", Shape(784, 10), 12_730),
        ("mlp-sin", Shape(784, 10), 6_450),
        ("mlp-sphere", Shape(1024, 1), 16_417),
        ("mlp-sin", Shape(1024, 2), 8_234),
    ],
)
def test_numbers_of_parameters(name: str, shape: Shape, number: int) -> None:
    assert sum(p.numel() for p in built(NETWORKS[name], shape).parameters()) == number


# --------------------------------------------------------------------------------- bounded logits
def test_logits_are_bounded_by_a_scaled_tanh() -> None:
    plain, five = (built(network) for network in (Mlp((4,)), Mlp((4,), True, 5.0)))
    x = inputs(4).float() * 100
    expected = [[5 * math.tanh(z / 5) for z in row] for row in plain(x).tolist()]
    torch.testing.assert_close(five(x).detach(), torch.tensor(expected))
    assert isinstance(five[1], ScaledTanh)
    small = plain(x * 1e-4)
    torch.testing.assert_close(five(x * 1e-4), small, rtol=1e-3, atol=0)  # it begins as z


def test_a_bound_of_one_is_the_network_that_was_there_before_there_was_a_choice() -> None:
    one = built(Mlp((4,), bounded_logits=True))
    assert [type(part) for part in one] == [nn.Sequential, nn.Tanh]
    before = {"hidden": (4,), "bounded_logits": True}
    assert to_json(Mlp((4,), bounded_logits=True)) == before
    assert from_json(Mlp, {"hidden": [4]}) == Mlp((4,))
    assert to_json(Mlp((4,), True, 5.0)) == before | {"logit_bound": 5.0}


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_that_is_none_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="logit-bound"):
        Mlp((4,), True, bound)


def test_a_bound_without_bounded_logits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"logit-bound 5\.0: only for bounded logits"):
        Mlp((4,), False, 5.0)


# ------------------------------------------------------------------------------------------ small
@pytest.mark.parametrize(
    ("shape", "circuit", "number"),
    [
        (Shape(784, 10), Qnn("brickwork", 4, "log-odds", (0.0, 1.0)), 540),
        (Shape(1024, 2), Qnn("brickwork", 10, "signed-z-of-last", (0.0, 1.0)), 1_350),
        (Shape(1024, 1), Qnn("staircase", 6, "z-of-first", (0.0, 1.0)), 810),
        (Shape(64, 10), Qnn("brickwork", 4, "log-odds", (0.0, 1.0)), 300),
    ],
)
def test_small_has_as_many_parameters_as_the_circuit_to_within_one_a_unit(
    shape: Shape, circuit: Qnn, number: int
) -> None:
    assert built(circuit, shape).angles.numel() == number
    small = built(SmallMlp(number, hidden=16), shape)
    count = sum(p.numel() for p in small.parameters())
    assert number - 16 < count <= number
    assert small(torch.rand(3, shape.inputs)).shape == (3, shape.outputs)


def test_small_reads_projections_of_the_input_that_are_not_learned() -> None:
    network = SmallMlp(num_parameters=4 * 2 + 4 + 4 * 3 + 3, hidden=4)
    small = in_doubles(network)
    x = inputs(4)
    matrix = small[0].matrix

    def slow() -> list[list[float]]:
        projected = [
            [sum(v * p for v, p in zip(row, column, strict=True)) for column in matrix.T.tolist()]
            for row in x.tolist()
        ]
        return [layers_applied(row, numbers(small), relu) for row in projected]

    assert matrix.shape == (5, 2)
    assert_outputs_and_gradients(small, x, slow)
    torch.testing.assert_close(matrix.T @ matrix, 5 / 2 * torch.eye(2).double(), rtol=0, atol=1e-6)
    after = learned(network, 3, 0.1)
    assert torch.equal(after[0].matrix, built(network)[0].matrix)
    assert not torch.equal(after[1].weight, built(network)[1].weight)
    other = built(network, seed=1).double()
    assert not torch.equal(other(x), small(x))
    other.load_state_dict(small.state_dict())
    assert torch.equal(other(x), small(x))


def test_projections_have_on_average_the_squared_norm_of_the_input() -> None:
    small = built(SmallMlp(540, 16), Shape(784, 10))
    assert isinstance(small[0], FixedProjection)
    x = torch.randn(2000, 784, generator=generator_for(0, "inputs"))
    ratio = small[0](x).square().sum(1).mean() / x.square().sum(1).mean()
    assert float(ratio) == pytest.approx(1, rel=0.05)


def test_small_reads_all_inputs_where_enough_units_can() -> None:
    plenty = built(SmallMlp(20 * (5 + 1 + 3) + 3 + 8, hidden=16))
    assert same(plenty.state_dict(), built(Mlp((20,))).state_dict())


@pytest.mark.parametrize("num_parameters", [-5, 0, 1, 82])
def test_small_without_a_budget_is_refused(num_parameters: int) -> None:
    with pytest.raises(DoesNotFit, match=r"^num-parameters .* 16 hidden units .* need 83$"):
        built(SmallMlp(num_parameters, 16))
    assert built(SmallMlp(83, 16))[0].matrix.shape == (5, 1)


def test_small_says_what_it_is() -> None:
    network = SmallMlp(540, 16)
    said = network.remark(built(network, Shape(784, 10)))
    assert said.startswith("538 parameters of at most 540; ")
    assert "inputs=784, outputs=22" in said


# ------------------------------------------------------------------------------------------ torus
def test_torus_is_an_mlp_of_sines() -> None:
    torus = in_doubles(TORUS)
    x = inputs(4)

    def slow() -> list[list[float]]:
        layers = []
        for gain, layer in zip((2**0.5, 2**0.5, 1), torus[::2], strict=True):
            bound = gain * (3 / layer.weight_angles.shape[1]) ** 0.5
            weight = [[bound * math.sin(a) for a in row] for row in layer.weight_angles.tolist()]
            layers.append((weight, [bound * math.sin(a) for a in layer.bias_angles.tolist()]))
        return [layers_applied(row, layers, relu) for row in x.tolist()]

    assert_outputs_and_gradients(torus, x, slow)


def test_torus_begins_with_uniform_weights_and_biases_of_zero() -> None:
    first, _, last = built(NETWORKS["mlp-torus"], Shape(784, 10))
    for layer, gain, inputs_ in ((first, 2**0.5, 784), (last, 1.0, 16)):
        bound = gain * (3 / inputs_) ** 0.5
        assert layer.bound == pytest.approx(bound)
        weights = (bound * layer.weight_angles.detach().sin()).flatten().double()
        assert weights.abs().max() <= bound
        uniform = stats.uniform(loc=-bound, scale=2 * bound)
        assert stats.kstest(weights.numpy(), uniform.cdf).pvalue > 0.001
        assert not layer.bias_angles.any()


def test_wrapping_takes_off_whole_turns_and_nothing_else() -> None:
    angles = torch.tensor([[0.1, -3.0, 3.5, -3.5], [40.0, 2 * math.pi, -700.0, 1e-9]])
    layer = TorusLinear(angles.clone(), bound=1.0, wrap=True)
    layer.after_update()
    after = layer.weight_angles.detach()
    assert after.abs().max() <= math.pi + 1e-6
    torch.testing.assert_close(after.sin(), angles.sin(), rtol=0, atol=1e-4)
    turns = (angles - after) / (2 * math.pi)
    torch.testing.assert_close(turns, turns.round(), rtol=0, atol=1e-5)
    inside = angles.abs() < 3
    assert torch.equal(after[inside], angles[inside])  # bit for bit
    unwrapped = TorusLinear(angles.clone(), bound=1.0, wrap=False)
    unwrapped.after_update()
    assert torch.equal(unwrapped.weight_angles, angles)


def test_a_wrapped_torus_learns_as_one_that_is_not() -> None:
    wrapped, free = (
        learned(network, 60, 0.5, module=built(network).double())
        for network in (TORUS, dataclasses.replace(TORUS, wrap=False))
    )
    assert max(p.detach().abs().max() for p in wrapped.parameters()) <= math.pi
    assert max(p.detach().abs().max() for p in free.parameters()) > 1.2 * math.pi
    x = inputs(9)
    torch.testing.assert_close(wrapped(x), free(x), rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------------- orthogonal
def sorted_pairs(values: list[float]) -> list[float]:
    pairs = [sorted(values[k : k + 2]) for k in range(0, len(values), 2)]
    return [high for _, high in pairs] + [low for low, _ in pairs]


def distance(weight: torch.Tensor, gain: float) -> float:
    """Of the shorter of W W^T and W^T W, over the squared gain, from the identity."""
    matrix = weight.detach().double() / gain
    gram = matrix @ matrix.T if len(matrix) < matrix.shape[1] else matrix.T @ matrix
    return float(torch.linalg.matrix_norm(gram - torch.eye(len(gram)).double()))


@pytest.mark.parametrize("units", ["relu", "max-min"])
def test_orthogonal_is_an_mlp_with_the_units_that_are_said(units: str) -> None:
    network = in_doubles(dataclasses.replace(ORTHOGONAL, units=units))
    x = inputs(4)
    activate = relu if units == "relu" else sorted_pairs
    assert_outputs_and_gradients(
        network, x, lambda: [layers_applied(row, numbers(network), activate) for row in x.tolist()]
    )


def test_max_min_changes_no_norm_and_needs_pairs() -> None:
    z = torch.randn(4, 6, generator=generator_for(0, "z"), requires_grad=True)
    sorted_ = MaxMin()(z)
    torch.testing.assert_close(sorted_.norm(dim=1), z.norm(dim=1))
    gradient = torch.randn(4, 6, generator=generator_for(0, "g"))
    sorted_.backward(gradient)
    torch.testing.assert_close(z.grad.norm(dim=1), gradient.norm(dim=1))
    with pytest.raises(ValueError, match="units max-min come in pairs"):
        OrthogonalMlp(hidden=(4, 3), units="max-min", kept_by="retraction")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("units", ["relu", "max-min"])
@pytest.mark.parametrize("rate", [3e-3, 0.3])
def test_hidden_layers_are_orthogonal_after_a_thousand_updates(units: str, rate: float) -> None:
    gain = 2**0.5 if units == "relu" else 1.0
    network = dataclasses.replace(ORTHOGONAL, units=units)
    for module in (built(network), learned(network, 1000, rate)):
        *hidden, last = linears(module)
        assert [tuple(layer.weight.shape) for layer in hidden] == [(4, 5), (6, 4), (2, 6)]
        assert max(distance(layer.weight, gain) for layer in hidden) < 1e-5
        assert distance(last.weight, 1.0) > 0.1  # free
        assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_an_update_of_an_orthogonal_layer_is_a_step_and_gram_and_schmidt() -> None:
    network = in_doubles(ORTHOGONAL)
    learner = Learner(network, lambda p: torch.optim.SGD(p, lr=0.3), cross_entropy)
    x, y = inputs(6), torch.tensor([0, 1, 2, 0, 1, 2])
    for _ in range(3):
        by_hand = copy.deepcopy(network)
        parameters = list(by_hand.parameters())
        gradients = torch.autograd.grad(cross_entropy(by_hand(x), y), parameters)
        stepped = [p.detach() - 0.3 * g for p, g in zip(parameters, gradients, strict=True)]
        for place in (0, 2, 4):
            wide = len(stepped[place]) < stepped[place].shape[1]
            tall = stepped[place].T if wide else stepped[place]
            columns = gram_schmidt([tall[:, k].tolist() for k in range(tall.shape[1])])
            done = 2**0.5 * torch.tensor(columns, dtype=torch.complex128).real.T
            stepped[place] = done.T if wide else done
        learner.update(x, y)
        for ours, expected in zip(network.parameters(), stepped, strict=True):
            torch.testing.assert_close(ours.detach(), expected)


def test_householder_begins_with_the_same_map_and_stays_orthogonal_while_its_vectors_grow() -> None:
    network = dataclasses.replace(ORTHOGONAL, kept_by="householder")
    by_reflections, retracted = built(network), built(ORTHOGONAL)
    assert not isinstance(by_reflections, OrthogonalHidden)
    for ours, theirs in zip(linears(by_reflections), linears(retracted), strict=True):
        torch.testing.assert_close(ours.weight, theirs.weight)
    after = learned(network, 300, 0.1)
    *hidden, _ = linears(after)
    *before, _ = linears(by_reflections)
    for layer, first in zip(hidden, before, strict=True):
        assert distance(layer.weight, 2**0.5) < 1e-5
        grown, begun = (one.parametrizations.weight.original.norm() for one in (layer, first))
        assert grown > 1.1 * begun


def test_householder_has_numbers_without_gradient_and_does_not_survive_decay() -> None:
    layer = linears(built(dataclasses.replace(ORTHOGONAL, kept_by="householder")))[0]
    original = layer.parametrizations.weight.original  # (4, 5): four vectors as rows
    layer(torch.rand(3, 5)).square().sum().backward()
    assert int((original.grad == 0).sum()) == 4 * 5 // 2
    with torch.no_grad():
        original *= 0.999
    assert not layer.weight.any()


# ----------------------------------------------------------------------------------------- sphere
def norms_of(module: nn.Module, with_biases: bool = True) -> list[float]:
    return [
        math.sqrt(sum(float(p.detach().double().square().sum()) for p in held))
        for held in ([one.weight, one.bias][: 1 + with_biases] for one in linears(module))
    ]


def test_sphere_begins_as_an_mlp_with_weights_of_three_times_the_size() -> None:
    sphere, plain = built(SPHERE), built(Mlp(SPHERE.hidden))
    for ours, theirs in zip(linears(sphere), linears(plain), strict=True):
        torch.testing.assert_close(ours.weight, 3 * theirs.weight)
        assert not ours.bias.any()


@pytest.mark.parametrize("layer_norm", [False, True])
def test_sphere_is_an_mlp_with_or_without_layer_norm(layer_norm: bool) -> None:
    network = in_doubles(dataclasses.replace(SPHERE, layer_norm=layer_norm))
    x = inputs(4)

    def normalized(values: list[float]) -> list[float]:
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        return relu([(v - mean) / (variance + 1e-5) ** 0.5 for v in values])

    activate = normalized if layer_norm else relu
    assert_outputs_and_gradients(
        network, x, lambda: [layers_applied(row, numbers(network), activate) for row in x.tolist()]
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("rate", [3e-3, 0.3])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("biases", ["held", "free"])
def test_norms_are_held_over_a_thousand_updates(biases: str, layer_norm: bool, rate: float) -> None:
    network = dataclasses.replace(SPHERE, biases=biases, layer_norm=layer_norm)
    held = biases == "held"
    expected = [3 * norm for norm in norms_of(built(Mlp(SPHERE.hidden)))]
    after = learned(network, 1000, rate)
    assert norms_of(after, held) == pytest.approx(expected, rel=1e-6)
    moved = [one.bias.norm() for one in linears(after)]
    assert min(moved) > 0  # they learn
    if not held:
        assert norms_of(after)[-1] > expected[-1] * (1 + 1e-5)


def test_all_parameters_together_have_a_constant_norm() -> None:
    for network in (SPHERE, dataclasses.replace(SPHERE, layer_norm=True)):
        first, after = (
            math.sqrt(sum(float(p.detach().double().square().sum()) for p in module.parameters()))
            for module in (built(network), learned(network, 300, 0.1))
        )
        assert after == pytest.approx(first, rel=1e-6)


def test_an_update_on_spheres_is_a_step_and_a_scaling() -> None:
    for biases in ("held", "free"):
        network = in_doubles(dataclasses.replace(SPHERE, biases=biases))
        learner = Learner(network, lambda p: torch.optim.SGD(p, lr=0.3), cross_entropy)
        x, y = inputs(6), torch.tensor([0, 1, 2, 0, 1, 2])
        by_hand = copy.deepcopy(network)
        parameters = list(by_hand.parameters())
        gradients = torch.autograd.grad(cross_entropy(by_hand(x), y), parameters)
        stepped = [p.detach() - 0.3 * g for p, g in zip(parameters, gradients, strict=True)]
        learner.update(x, y)
        first = [3 * norm for norm in norms_of(built(Mlp(SPHERE.hidden)))]
        for place, norm in enumerate(first):
            weight, bias = stepped[2 * place : 2 * place + 2]
            squares = weight.square().sum() + (bias.square().sum() if biases == "held" else 0)
            scale = norm / squares.sqrt()
            layer = linears(network)[place]
            torch.testing.assert_close(layer.weight.detach(), weight * scale, rtol=1e-6, atol=0)
            of_bias = scale if biases == "held" else 1
            torch.testing.assert_close(layer.bias.detach(), bias * of_bias, rtol=1e-6, atol=0)


def test_with_layer_norm_the_projection_of_hidden_layers_changes_no_output() -> None:
    network = in_doubles(dataclasses.replace(SPHERE, layer_norm=True))
    network.after_update()
    x = inputs(7)
    before = network(x)
    with torch.no_grad():
        for layer in linears(network)[:-1]:
            layer.weight *= 5
            layer.bias *= 5
    torch.testing.assert_close(network(x), before, rtol=1e-3, atol=1e-3)  # but for its epsilon
    network.after_update()
    torch.testing.assert_close(network(x), before, rtol=1e-9, atol=1e-9)


def test_held_norms_are_part_of_the_state() -> None:
    network, other = built(SPHERE), built(SPHERE, seed=1)
    assert isinstance(network, OnSpheres)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.norms, network.norms)
    assert other.norms.tolist() == pytest.approx(norms_of(network))


@pytest.mark.parametrize("growth", [0.0, -1.0, math.inf, math.nan])
def test_a_growth_that_is_none_is_refused(growth: float) -> None:
    with pytest.raises(ValueError, match="growth"):
        dataclasses.replace(SPHERE, growth=growth)


def test_layer_norm_of_a_single_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="two units"):
        SphereMlp(hidden=(1,), growth=3.0, biases="held", layer_norm=True)


# ------------------------------------------------------------------------------------------- sine
def test_units_are_sines_and_cosines_half_as_many_each() -> None:
    network = in_doubles(SineMlp(hidden=(4, 6)))
    x = inputs(4)
    assert [tuple(layer.weight.shape) for layer in linears(network)] == [(2, 5), (3, 4), (3, 6)]

    def activate(values: list[float]) -> list[float]:
        return [math.sin(v) for v in values] + [math.cos(v) for v in values]

    assert_outputs_and_gradients(
        network, x, lambda: [layers_applied(row, numbers(network), activate) for row in x.tolist()]
    )
    with pytest.raises(ValueError, match="sines and cosines come in pairs"):
        SineMlp(hidden=(4, 3))


@pytest.mark.parametrize("hidden", [(), (0,), (4, -2)])
def test_networks_without_units_are_refused(hidden: tuple[int, ...]) -> None:
    for network in (TORUS, ORTHOGONAL, SPHERE, SineMlp((4,))):
        with pytest.raises(ValueError, match="at least one unit"):
            dataclasses.replace(network, hidden=hidden)
    with pytest.raises(ValueError, match="at least one unit"):
        SmallMlp(540, hidden=0)
