"""Changed networks: what they compute, and from which weights."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.errors import DoesNotFit
from plasticity.learning.learner import Learner
from plasticity.metrics.fisher import FisherProbe
from plasticity.networks import NETWORKS
from plasticity.networks.mlp import Mlp
from plasticity.networks.network import Shape
from plasticity.remedies import REMEDIES
from plasticity.remedies.architecture import CRelu, InputStandardisation, LayerNorm
from plasticity.remedies.modules import Standardize
from plasticity.seeding import generator_for
from tests.remedies.small import batch, learner, network, through_a_file
from tests.tiny import make_adam, same, tiny_task


def test_layer_norm_stands_before_each_relu() -> None:
    plain, x = network(), batch(0)[0]
    normalized = LayerNorm().on_build(copy.deepcopy(plain))
    h = x.double().numpy()
    linears = [m for m in plain.modules() if isinstance(m, nn.Linear)]
    for place, layer in enumerate(linears):
        h = h @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        if place < len(linears) - 1:
            for sample in h:
                sample[:] = (sample - sample.mean()) / np.sqrt(sample.var() + 1e-5)
            h = np.maximum(h, 0)
    assert normalized(x).detach().numpy() == pytest.approx(h, abs=1e-5)
    for ours, theirs in zip(normalized.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("remedy", [LayerNorm(), CRelu()])
def test_networks_in_sequences_and_heads_of_circuits_are_changed_too(
    remedy: LayerNorm | CRelu,
) -> None:
    kind = nn.LayerNorm if isinstance(remedy, LayerNorm) else nn.Linear
    for of in (
        Mlp(hidden=(4, 6), bounded_logits=True),
        NETWORKS["qnn-relu"],
        NETWORKS["mlp-small"],
    ):
        built = of.build(Shape(16, 3), generator_for(0, "initial weights"))
        before = sum(isinstance(m, kind) for m in built.modules())
        widths = [m.out_features for m in built.modules() if isinstance(m, nn.Linear)]
        changed = remedy.on_build(built)
        assert changed(torch.rand(5, 16)).shape == (5, 3)
        if kind is nn.LayerNorm:
            after = sum(isinstance(m, kind) for m in changed.modules())
            assert after - before == len(widths) - 1
        else:
            halved = [m.out_features for m in changed.modules() if isinstance(m, nn.Linear)]
            assert halved == [width // 2 for width in widths[:-1]] + widths[-1:]


def test_crelu_gives_each_number_a_positive_and_a_negative_part() -> None:
    network_, x = CRelu().on_build(network()), batch(0)[0]
    assert isinstance(network_, nn.Sequential)
    h = x.double().numpy()
    linears = [m for m in network_ if isinstance(m, nn.Linear)]
    assert [tuple(m.weight.shape) for m in linears] == [(3, 16), (2, 6), (3, 4)]
    for place, layer in enumerate(linears):
        h = h @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        if place < 2:
            h = np.concatenate([np.maximum(h, 0), np.maximum(-h, 0)], axis=1)
    assert network_(x).detach().numpy() == pytest.approx(h, abs=1e-5)


def test_weights_under_crelu_are_glorot_uniform_for_their_width() -> None:
    chain = CRelu().on_build(network(widths=(600, 400, 3)))
    assert isinstance(chain, nn.Sequential)
    weight = chain[0].weight.detach()
    bound = (6 / (600 + 200)) ** 0.5
    assert float(weight.abs().max()) == pytest.approx(bound, rel=1e-3)
    assert float(weight.square().mean()) == pytest.approx(bound**2 / 3, rel=1e-2)


@pytest.mark.parametrize(
    ("remedies", "widths", "why"),
    [
        ([CRelu()], (16, 5, 3), "crelu: a hidden layer has 5 units, an odd number"),
        ([LayerNorm()], (16, 1, 3), "layer-norm: a hidden layer has 1 unit"),
        ([LayerNorm(), CRelu()], (16, 4, 3), "crelu: a hidden layer has a LayerNorm"),
        ([CRelu(), LayerNorm()], (16, 4, 3), "layer-norm needs ReLU units"),
        ([LayerNorm(), LayerNorm()], (16, 4, 3), "layer-norm: a hidden layer has it already"),
    ],
)
def test_what_does_not_go_together_is_refused(remedies: list, widths: tuple, why: str) -> None:
    with pytest.raises(DoesNotFit, match=why):
        learner(*remedies, widths=widths)


def test_a_refused_network_is_left_as_it_was() -> None:
    chain = network(widths=(16, 4, 5, 3))
    before = copy.deepcopy(chain.state_dict())
    with pytest.raises(DoesNotFit):
        CRelu().on_build(chain)
    assert same(chain.state_dict(), before)


# ---------------------------------------------- standardized inputs
def written_out(batches: list[np.ndarray], decay: float) -> list[np.ndarray]:
    """Return standardized batches, feature by feature."""
    found = []
    features = batches[0].shape[1]
    mean, variance = [0.0] * features, [1.0] * features
    for update, x in enumerate(batches, 1):
        rate = max(1 - decay, 1 / (update + 1))
        new = np.empty_like(x)
        for j in range(features):
            m = sum(x[:, j]) / len(x)
            v = sum(abs(x[:, j] - m) ** 2) / len(x)
            change = m - mean[j]
            variance[j] = (1 - rate) * (variance[j] + rate * abs(change) ** 2) + rate * v
            mean[j] = mean[j] + rate * change
            new[:, j] = (x[:, j] - mean[j]) / np.sqrt(variance[j] + 1e-5)
        found.append(new)
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_inputs_are_standardized_by_running_numbers(dtype: torch.dtype) -> None:
    generator = generator_for(0, "inputs")
    scale, shift = torch.tensor([1.0, 50.0, 1e-2, 0.0]), torch.tensor([0.0, -300.0, 1.0, 2.0])
    batches = [
        scale * torch.randn(size, 4, generator=generator, dtype=dtype) + shift
        for size in (8, 5, 8, 1, 8, 8)
    ]
    module = Standardize(0.7, 1e-5)
    expected = written_out([x.numpy() for x in batches], 0.7)
    for x, new in zip(batches, expected, strict=True):
        assert module(x).numpy() == pytest.approx(new, rel=1e-4, abs=1e-4)


def test_running_numbers_come_to_those_of_the_inputs() -> None:
    module = Standardize(0.99, 1e-5)
    generator = generator_for(0, "inputs")
    for _ in range(2_000):
        module(3 + 2 * torch.randn(64, 5, generator=generator))
    assert module.mean.tolist() == pytest.approx([3.0] * 5, abs=0.1)
    assert module.variance.sqrt().tolist() == pytest.approx([2.0] * 5, abs=0.1)
    x = 3 + 2 * torch.randn(10_000, 5, generator=generator)
    out = module.eval()(x)
    assert float(out.std()) == pytest.approx(1, abs=0.05)


def test_untrained_it_changes_nothing_and_a_batch_of_one_is_not_its_own_mean() -> None:
    x = batch(0)[0]
    module = Standardize(0.99, 1e-5).eval()
    torch.testing.assert_close(module(x), x, rtol=1e-4, atol=1e-5)
    assert float(module.updates) == 0
    assert module.train()(x[:1]).all()


def test_a_rare_feature_is_bounded_by_its_own_batch() -> None:
    module = Standardize(0.99, 1e-5)
    for _ in range(3_000):
        module(torch.zeros(8, 1))
    x = torch.zeros(8, 1)
    x[0] = 1.0
    assert float(module(x).abs().max()) < (8 / 0.01) ** 0.5


def test_what_it_knows_is_in_the_network_whatever_the_number_of_features() -> None:
    one = learner(InputStandardisation(0.9))
    for step in range(3):
        one.update(*batch(step))
    other = learner(InputStandardisation(0.9), seed=1)
    other.network.load_state_dict(through_a_file(one.network.state_dict()))
    with torch.no_grad():
        for network_ in (one.network.eval(), other.network.eval()):
            network_(batch(0)[0])
        assert torch.equal(one.network(batch(5)[0]), other.network(batch(5)[0]))
    # And back to an untrained one, as start-afresh goes.
    one.network.load_state_dict(learner(InputStandardisation(0.9)).network.state_dict())
    assert one.columns() == {
        "input_standardisation_mean": 0.0, "input_standardisation_deviation": 1.0,
    }  # fmt: skip


def test_columns_of_standardized_inputs_are_means_over_the_features() -> None:
    one = learner(InputStandardisation(0.9))
    one.update(*batch(0))
    (module,) = (m for m in one.network.modules() if isinstance(m, Standardize))
    mean = sum(map(abs, module.mean.tolist())) / 16
    deviation = sum(v**0.5 for v in module.variance.tolist()) / 16
    assert one.columns() == {
        "input_standardisation_mean": pytest.approx(mean, rel=1e-5),
        "input_standardisation_deviation": pytest.approx(deviation, rel=1e-5),
    }


@pytest.mark.parametrize("name", ["layer-norm", "crelu", "input-standardisation"])
def test_a_probe_of_many_gradients_at_once_works_on_changed_networks(name: str) -> None:
    one = Learner(network(), make_adam, cross_entropy, [dataclasses.replace(REMEDIES[name])])
    task = tiny_task()
    before = copy.deepcopy(one.network.state_dict())
    found = FisherProbe.of(one, task, 0)(one, task)
    assert all(np.isfinite([*found.values()]))
    assert same(one.network.state_dict(), before)
