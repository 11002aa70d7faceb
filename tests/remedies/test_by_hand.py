"""Remedies on networks of three units, by hand: what each does to which number."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.errors import DoesNotFit
from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.networks import NETWORKS
from plasticity.networks.mlp import mlp
from plasticity.networks.network import Shape
from plasticity.remedies import REMEDIES
from plasticity.remedies.layers import glorot_rows
from plasticity.remedies.redraws import next_thresholds
from plasticity.remedies.steps import isometry_gradient
from plasticity.seeding import generator_for
from plasticity.tasks.samples import ArraySamples
from tests.remedies.small import acting, batch, learner, train
from tests.tiny import NUM_INPUTS, make_adam, same, tiny_stream


def three(*names_or_remedies: object, rate: float = 0.1, widths: tuple = (4, 3, 2)) -> Learner:
    """Return a learner of three units that descends along the gradient."""
    network = mlp(widths, torch.Generator().manual_seed(0))
    return Learner(network, lambda p: torch.optim.SGD(p, lr=rate), cross_entropy,
                   names_or_remedies, seed=3)  # fmt: skip


X = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) - 0.3
Y = torch.tensor([0, 1, 1, 0, 1, 0])


def stepped(network: nn.Module, rate: float) -> dict[str, torch.Tensor]:
    """What one step along the gradient makes of the parameters."""
    named = dict(network.named_parameters())
    gradients = torch.autograd.grad(cross_entropy(network(X), Y), [*named.values()])
    return {
        name: (p - rate * g).detach() for (name, p), g in zip(named.items(), gradients, strict=True)
    }


# --- hold


@pytest.mark.parametrize(
    ("layers", "held"),
    [
        (("all",), (0, 2)),
        (("first",), (0,)),
        (("last",), (2,)),
        (("1",), (0,)),
        (("2", "1"), (0, 2)),
    ],
)
def test_hold_cuts_the_norms_of_the_chosen_matrices_and_no_bias(layers: tuple, held: tuple) -> None:
    one = three(acting("hold", layers=layers, multiple=0.8), rate=2.0)
    first = {k: one.network[k].weight.detach().norm() for k in (0, 2)}
    expected = stepped(one.network, 2.0)
    for k in held:
        norm = expected[f"{k}.weight"].norm()
        expected[f"{k}.weight"] *= min(1.0, float(0.8 * first[k] / norm))
    one.update(X, Y)
    for name, p in one.network.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name])
    for k in held:
        norm = float(one.network[k].weight.detach().norm())
        assert norm == pytest.approx(0.8 * float(first[k]), rel=1e-5)
    assert one.columns() == {"hold_fraction": 1.0}


def test_hold_leaves_what_is_small_enough_bit_for_bit() -> None:
    one, bare = three(acting("hold", multiple=100.0)), three()
    for _ in range(5):
        one.update(X, Y)
        bare.update(X, Y)
    assert same(one.network.state_dict(), bare.network.state_dict())
    assert one.columns() == {"hold_fraction": 0.0}


def test_hold_holds_the_angles_of_a_circuit_and_refuses_layers_that_are_not_there() -> None:
    one = learner(acting("hold", multiple=0.5), arm="qnn")
    norm = float(one.network.angles.detach().norm())
    train(one, range(1))
    assert float(one.network.angles.detach().norm()) == pytest.approx(0.5 * norm, rel=1e-4)
    with pytest.raises(DoesNotFit, match=r"^hold: there is no layer 3; there are 2$"):
        three(acting("hold", layers=("3",)))
    zero = nn.Linear(4, 2)
    nn.init.zeros_(zero.weight)
    with pytest.raises(DoesNotFit, match=r"^hold: a layer begins with weights that are zero"):
        Learner(zero, make_adam, cross_entropy, [acting("hold")])


# --- revive


def with_dead(*dead: int, remedy=None, widths: tuple = (4, 3, 2)) -> Learner:
    one = three(remedy or acting("revive"), widths=widths)
    one.optimizer = torch.optim.Adam(one.network.parameters(), lr=0.01)
    one.update(X, Y)  # so that there are moments
    with torch.no_grad():
        one.network[0].bias.fill_(5.0)
        for unit in dead:
            one.network[0].bias[unit] = -100.0
    return one


def test_revive_gives_dead_units_weights_of_the_living_ones_length_and_changes_no_output() -> None:
    one = with_dead(1)
    before, outputs = copy.deepcopy(one.network), one.network(X).detach()
    one.start_task(4, ArraySamples(X, Y))
    incoming, outgoing = one.network[0], one.network[2]
    living = before[0].weight[[0, 2]].detach().norm(dim=1)
    drawn = glorot_rows(incoming, 1, generator_for(3, "revive", 4))[0]
    expected = drawn * living.mean() / drawn.norm()
    torch.testing.assert_close(incoming.weight.detach()[1], expected)
    assert float(incoming.weight.detach()[1].norm()) == pytest.approx(
        float(living.mean()), rel=1e-5
    )
    assert incoming.bias[1] == 0 and not outgoing.weight[:, 1].any()
    for k in (0, 2):
        assert torch.equal(incoming.weight[k], before[0].weight[k])
        assert torch.equal(outgoing.weight[:, k], before[2].weight[:, k])
    torch.testing.assert_close(one.network(X).detach(), outputs)
    state = one.optimizer.state
    for name in ("exp_avg", "exp_avg_sq"):
        assert not state[incoming.weight][name][1].any() and state[incoming.bias][name][1] == 0
        assert state[incoming.weight][name].any()
        assert not state[outgoing.weight][name][:, 1].any()
    assert one.columns() == {"revive_units": 1.0}
    assert one.columns() == {"revive_units": 0.0}


def test_revive_does_nothing_where_nothing_is_dead_or_known_and_before_the_first_task() -> None:
    for dead, index, samples in (
        ((), 4, ArraySamples(X, Y)), ((1,), 0, ArraySamples(X, Y)), ((1,), 4, None),
    ):  # fmt: skip
        one = with_dead(*dead)
        before = copy.deepcopy([one.network.state_dict(), one.optimizer.state_dict()])
        one.start_task(index, samples)
        assert same([one.network.state_dict(), one.optimizer.state_dict()], before)
        assert one.columns() == {"revive_units": 0.0}
        assert one.samples is None


def test_revive_of_a_layer_without_a_living_unit_draws_as_a_network_begins() -> None:
    one = with_dead(0, 1, 2)
    one.start_task(1, ArraySamples(X, Y))
    drawn = glorot_rows(one.network[0], 3, generator_for(3, "revive", 1))
    assert torch.equal(one.network[0].weight.detach(), drawn)


def test_a_unit_is_dead_only_if_it_is_zero_on_all_of_so_many_samples() -> None:
    x = torch.zeros(300, 4)
    x[17] = 50.0  # one sample in three hundred wakes it
    with torch.no_grad():
        probe = ArraySamples(x, torch.zeros(300, dtype=torch.int64))
    for samples, dead in ((300, 0.0), (100, 1.0)):
        one = with_dead(1, remedy=acting("revive", samples=samples))
        with torch.no_grad():
            one.network[0].weight[1].fill_(1.0)
        order = torch.randperm(300, generator=generator_for(3, "revive samples", 1))[:samples]
        assert (17 in order.tolist()) is (not dead)
        one.start_task(1, probe)
        assert one.columns() == {"revive_units": dead}


def test_a_stream_tells_remedies_the_samples_of_the_task_that_begins() -> None:
    one = learner(acting("revive"))
    seen = []
    act = one.remedies[0].before_task
    one.remedies[0].before_task = lambda index: (seen.append(one.samples), act(index))  # type: ignore
    stream = tiny_stream()
    for _ in train_on_stream(one, stream, epochs=1, batch_size=4, seed=0):
        pass
    expected = [task.train.batch(slice(None)) for task in stream]
    assert same([samples.batch(slice(None)) for samples in seen], expected)


# --- nap


def test_nap_puts_norms_back_and_holds_gains_and_offsets_together() -> None:
    one = three(acting("nap"), rate=0.5)
    matrices = [one.network[0].weight, one.network[3].weight]
    first = [w.detach().norm() for w in matrices]
    norm = one.network[1]
    assert isinstance(norm, nn.LayerNorm) and isinstance(one.network[2], nn.ReLU)
    expected = stepped(one.network, 0.5)
    growth = [
        abs(float(expected[k].norm() / f - 1))
        for k, f in zip(("0.weight", "3.weight"), first, strict=True)
    ]
    one.update(X, Y)
    for k, f in (("0.weight", first[0]), ("3.weight", first[1])):
        expected[k] *= f / expected[k].norm()
    together = torch.cat([expected["1.weight"], expected["1.bias"]]).norm()
    for k in ("1.weight", "1.bias"):
        expected[k] *= math.sqrt(3) / together
    for name, p in one.network.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name])
    assert one.columns()["nap_growth"] == pytest.approx(sum(growth) / 2, rel=1e-4)


def test_nap_pulls_decayed_gains_to_one_and_may_have_none() -> None:
    one = three(acting("nap", gains="decayed", decay=0.25), rate=0.5)
    expected = stepped(one.network, 0.5)
    one.update(X, Y)
    torch.testing.assert_close(one.network[1].weight.detach(), 0.75 * expected["1.weight"] + 0.25)
    torch.testing.assert_close(one.network[1].bias.detach(), 0.75 * expected["1.bias"])
    assert [name for name, _ in three(acting("nap", gains="none")).network.named_parameters()] == [
        "0.weight", "0.bias", "3.weight", "3.bias"
    ]  # fmt: skip


def test_nap_does_not_see_the_size_of_the_first_matrix() -> None:
    one, other = three(acting("nap")), three(acting("nap"))
    with torch.no_grad():
        one.network[0].weight.mul_(100.0)
        other.network[0].weight.mul_(10_000.0)
    torch.testing.assert_close(one.network(X), other.network(X), rtol=1e-3, atol=1e-3)


# --- self-normalized resets


def slow_snr(fires: list[list[bool]], eta: float, every: int, longest: int) -> list[list[int]]:
    """Return which units are replaced at each update, with lists of past silences."""
    units = len(fires[0])
    ages, thresholds = [0] * units, [longest] * units
    past: list[list[int]] = [[] for _ in range(units)]
    found = []
    for step, firing in enumerate(fires, start=1):
        replaced = []
        for u in range(units):
            if firing[u]:
                past[u] += [ages[u]] if ages[u] else []
                ages[u] = 0
            else:
                ages[u] = min(ages[u] + 1, longest)
            if ages[u] >= thresholds[u]:
                past[u].append(ages[u])
                ages[u] = 0
                replaced.append(u)
        if step % every == 0:
            for u in range(units):
                counts = sorted(past[u])
                quantile = next(
                    (a for k, a in enumerate(counts, start=1)
                     if sum(b <= a for b in counts) >= (1 - eta) * len(counts)), 1
                )  # fmt: skip
                grown = quantile if quantile < thresholds[u] else 2 * thresholds[u]
                thresholds[u], past[u] = max(1, min(grown, longest)), []
        found.append(replaced)
    return found


@pytest.mark.parametrize("eta", [0.1, 0.5])
def test_snr_replaces_units_that_are_silent_for_longer_than_they_were(eta: float) -> None:
    one = three(acting("snr", eta=eta, every=7, longest=6))
    generator = torch.Generator().manual_seed(2)
    often = torch.tensor([0.9, 0.5, 0.2])
    fires = [(torch.rand(3, generator=generator) < often).tolist() for _ in range(60)]
    expected = slow_snr(fires, eta, 7, 6)
    remedy, units = one.remedies[0], one.network[1]
    with torch.no_grad():
        for step, firing in enumerate(fires, start=1):
            units.seen = torch.tensor([[0.0] * 3, [float(f) for f in firing]])
            before = one.network[0].weight.clone()
            one.network[2].weight.fill_(1.0)
            remedy.after_update(step)
            changed = (one.network[0].weight != before).any(1).nonzero().flatten().tolist()
            assert changed == expected[step - 1], step
            assert (one.network[2].weight == 0).all(0).nonzero().flatten().tolist() == changed
    assert one.columns()["snr_recycled"] == sum(map(len, expected)) > 3


def test_thresholds_contract_at_once_and_double_up_to_the_longest() -> None:
    histogram = torch.zeros(4, 9, dtype=torch.int64)
    histogram[0, 1], histogram[0, 3] = 9, 1  # nine silences of one, one of three
    histogram[1, 5] = 1
    histogram[2, 8] = 2
    thresholds = torch.tensor([4, 5, 3, 4])
    assert next_thresholds(histogram, thresholds, 0.1).tolist() == [1, 8, 6, 1]
    assert next_thresholds(histogram, thresholds, 0.05).tolist() == [3, 8, 6, 1]


# --- churn, isometries


def test_c_chain_compares_outputs_before_and_after_an_update_on_a_batch_of_neither() -> None:
    one, bare = three(acting("c-chain", strength=2.0)), three()
    batches = [(torch.roll(X, k, 0) + k, torch.roll(Y, k)) for k in range(4)]
    befores: list[nn.Module] = []
    for x, y in batches:
        befores.append(copy.deepcopy(one.network))
        t = len(befores) - 1
        expected = 0.0
        parameters = dict(befores[t].named_parameters())
        loss = cross_entropy(befores[t](x), y)
        if t >= 2:
            reference = batches[t - 2][0]
            churn = (befores[t](reference) - befores[t - 1](reference).detach()).square().mean()
            loss, expected = loss + 2.0 * churn, 2.0 * float(churn.detach())
            assert expected > 0
        gradients = torch.autograd.grad(loss, [*parameters.values()])
        one.update(x, y)
        assert one.columns()["c_chain_penalty"] == pytest.approx(expected, rel=1e-4)
        for p, old, g in zip(one.network.parameters(), parameters.values(), gradients, strict=True):
            torch.testing.assert_close(p.detach(), (old - 0.1 * g).detach())
    for x, y in batches[:2]:
        bare.update(x, y)
    assert same(bare.network.state_dict(), befores[2].state_dict())


def test_adamo_has_moments_of_the_tasks_gradient_and_pulls_apart_from_them() -> None:
    def adam(parameters: list) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.05)

    def made(*remedies: object) -> Learner:
        network = mlp((4, 3, 2), torch.Generator().manual_seed(0))
        return Learner(network, adam, cross_entropy, remedies)

    one, bare = made(acting("adamo", strength=0.7)), made()
    for _ in range(3):
        before = [one.network[k].weight.detach().clone() for k in (0, 2)]
        bare.network.load_state_dict(one.network.state_dict())
        one.update(X, Y)
        bare.update(X, Y)
        deviations = 0.0
        for k, w in zip((0, 2), before, strict=True):
            parameter = w.clone().requires_grad_()
            gram = parameter.T @ parameter if w.shape[0] >= w.shape[1] else parameter @ parameter.T
            deviation = (gram - torch.eye(len(gram))).square().sum()
            (gradient,) = torch.autograd.grad(deviation, parameter)
            deviations += float(deviation.detach())
            torch.testing.assert_close(isometry_gradient(w)[1], gradient)
            expected = bare.network[k].weight.detach() - 0.05 * 0.7 * gradient
            torch.testing.assert_close(one.network[k].weight.detach(), expected)
            assert torch.equal(one.network[k].bias, bare.network[k].bias)
        assert one.columns()["adamo_deviation"] == pytest.approx(deviations, rel=1e-4)
        ours, theirs = (learner.optimizer.state_dict()["state"] for learner in (one, bare))
        assert same(ours, theirs)
    with pytest.raises(DoesNotFit, match=r"^adamo changes Adam; the optimizer is SGD$"):
        three(acting("adamo"))


# --- weights


@pytest.mark.parametrize("use", ["gradient", "magnitude"])
def test_selective_reinit_draws_the_weights_of_least_use_anew(use: str) -> None:
    remedy = acting("selective-reinit", fraction=0.25, every=2, use=use)
    network = mlp((4, 3, 2), torch.Generator().manual_seed(0))
    one = Learner(network, lambda p: torch.optim.Adam(p, lr=0.0), cross_entropy, [remedy], seed=3)
    before = [network[k].weight.detach().clone() for k in (0, 2)]
    one.update(X, Y)
    assert same([network[k].weight.detach() for k in (0, 2)], before)
    loss = cross_entropy(network(X), Y)
    gradients = torch.autograd.grad(loss, [network[0].weight, network[2].weight])
    one.update(X, Y)
    total = 0
    for place, (k, number) in enumerate(((0, 3), (2, 1))):  # a quarter of 12, and of 6
        w, g = before[place], gradients[place]
        sizes = (g * w if use == "gradient" else w).abs().flatten().tolist()
        least = sorted(range(len(sizes)), key=lambda i: sizes[i])[:number]
        changed = (network[k].weight.detach() != w).flatten().nonzero().flatten().tolist()
        assert changed == sorted(least)
        generator = generator_for(3, "selective-reinit", 2, place)
        drawn = glorot_rows(network[k], network[k].out_features, generator).flatten()
        moments = one.optimizer.state[network[k].weight]["exp_avg"].flatten()
        for i in least:
            assert network[k].weight.detach().flatten()[i] == drawn[i]
            assert moments[i] == 0
        total += number
    assert one.columns() == {"selective_reinit_weights": float(total)}
    assert one.remedies[0].state_dict() == {"owed": [0.0, 0.5]}


def test_soft_rescaling_scales_grown_layers_down_and_all_logits_alike() -> None:
    one, bare = three(acting("soft-rescaling", strength=0.3)), three()
    first = [one.network[k].weight.detach().norm() for k in (0, 2)]
    for learning in (one, bare):
        with torch.no_grad():
            learning.network[0].weight.mul_(3.0)
            learning.network[2].weight.mul_(0.5)  # not scaled up
            learning.network[0].bias.fill_(0.2)
        learning.update(X, Y)
    factors = []
    for k, f in zip((0, 2), first, strict=True):
        norm = bare.network[k].weight.detach().norm()
        factors.append(min(1.0, float((0.3 * f + 0.7 * norm) / norm)))
    assert factors[0] < 1 == factors[1]
    torch.testing.assert_close(
        one.network[0].weight.detach(), factors[0] * bare.network[0].weight.detach()
    )
    torch.testing.assert_close(one.network(X), factors[0] * bare.network(X))
    assert one.columns()["soft_rescaling_shrink"] == pytest.approx((1 - factors[0]) / 2, rel=1e-4)


def test_leaky_units_pass_a_hundredth_of_what_is_below_zero() -> None:
    one, bare = three(REMEDIES["leaky-relu"]), three()
    z = bare.network[0](X)
    h = torch.where(z > 0, z, 0.01 * z)
    torch.testing.assert_close(one.network(X), bare.network[2](h))


@pytest.mark.parametrize("name", ["hold", "c-chain", "nap", "leaky-relu", "soft-rescaling"])
def test_networks_of_a_layer_have_it_or_are_refused(name: str) -> None:
    built = NETWORKS["linear"].build(Shape(NUM_INPUTS, 3), generator_for(0, "initial weights"))
    if name in ("hold", "c-chain"):
        one = Learner(built, make_adam, cross_entropy, [acting(name)])
        one.update(*batch(0))
        return
    with pytest.raises(DoesNotFit, match=rf"^{name} needs hidden units"):
        Learner(built, make_adam, cross_entropy, [acting(name)])
