"""Each intervention does what its card says, and nothing else."""

import contextlib
import copy
import math

import pytest
import torch
from torch import nn

from plasticity.errors import DoesNotFit, UsageError
from plasticity.interventions import INTERVENTIONS, USUAL, parse
from plasticity.interventions.intervention import Aged, growth_of
from plasticity.networks.layers import layers_of, norm_of
from plasticity.remedies.dead_units import dead_units, layers_with_units
from tests.interventions.aged import (
    aged,
    flat,
    intervene,
    learn,
    network_of,
    outputs,
    same,
    task,
)


@pytest.fixture(scope="module")
def mlp():
    return aged()


@pytest.fixture(scope="module")
def qnn():
    return aged("qnn")


def test_growth_is_the_norm_now_over_that_after_the_first_task(mlp):
    for number, place in ((1, 0), (2, 2)):
        now = mlp.learner.network[place].weight
        then = mlp.young["network"][f"{place}.weight"]
        expected = math.sqrt(float((now.detach() ** 2).sum()) / float((then**2).sum()))
        assert mlp.growth[number] == pytest.approx(expected)


def test_growth_of_a_circuit_is_the_loss_of_its_damping(qnn):
    from plasticity.metrics.circuits import dampings

    then, now = qnn.young["network"]["angles"], qnn.learner.network.angles
    expected = float(dampings(then).mean() / dampings(now.detach()).mean())
    assert qnn.growth == {1: pytest.approx(expected)}


# ------------------------------------------------------------------------------- learning rates
@pytest.mark.parametrize("remedies", [(), ("reset-optimizer",)])
@pytest.mark.parametrize(("layer", "place"), [("first", 0), ("last", 2), ("2", 2)])
def test_rate_makes_the_steps_of_one_layer_so_much_larger(layer, place, remedies):
    of = aged(remedies=remedies)
    changed, columns = intervene(f"rate:{layer}", of)
    assert torch.equal(flat(changed), flat(of))
    c = of.growth[1 if place == 0 else 2]
    assert columns == {"factor": c}
    plain, _ = intervene("none", of)
    steps = []
    for one in (plain, changed):
        before = [p.detach().clone() for p in one.learner.network.parameters()]
        one.learner.start_task(9)  # a new optimizer has the rate, too
        one.learner.update(*of.task.train.batch(slice(0, 8)))
        now = one.learner.network.parameters()
        steps.append([a.detach() - b for a, b in zip(now, before, strict=True)])
    for k, (expected, found) in enumerate(zip(*steps, strict=True)):
        factor = c if k // 2 == place // 2 else 1
        assert same(found, factor * expected, abs=1e-6)


def test_the_same_factor_on_another_layer_is_a_control(mlp):
    changed, columns = intervene("rate:last:first", mlp)
    assert columns == {"factor": mlp.growth[1]}
    rates = {id(p): g["lr"] for g in changed.learner.optimizer.param_groups for p in g["params"]}
    first, last = (changed.learner.network[k].weight for k in (0, 2))
    assert rates[id(last)] == pytest.approx(rates[id(first)] * mlp.growth[1])
    assert parse("rate:last:first")[1].needs_growth
    assert not parse("rate:last:2")[1].needs_growth


def test_induce_divides_all_rates_of_the_learner_after_the_first_task(mlp):
    changed, columns = intervene("induce:4", mlp)
    assert columns == {"factor": 4.0}
    young, _ = intervene("young", mlp)
    assert torch.equal(flat(changed), flat(young))
    before = flat(young).clone()
    for one in (young, changed):
        one.learner.update(*mlp.task.train.batch(slice(0, 8)))
    assert same(flat(changed) - before, (flat(young) - before) / 4, abs=1e-6)
    assert intervene("induce", mlp)[1] == {"factor": mlp.growth[1]}


# ---------------------------------------------------------------------------------------- scales
def test_rescale_gives_a_layer_its_first_norm_and_direction(mlp):
    changed, columns = intervene("rescale:first", mlp)
    c = mlp.growth[1]
    assert columns == {"factor": c}
    old, new = mlp.learner.network, changed.learner.network
    assert same(new[0].weight, old[0].weight / c)
    assert same(new[0].bias, old[0].bias / c)
    norm = torch.linalg.vector_norm(mlp.young["network"]["0.weight"])
    assert float(new[0].weight.detach().norm()) == pytest.approx(float(norm))
    assert torch.equal(new[2].weight, old[2].weight)
    assert not torch.allclose(outputs(changed), outputs(mlp))


def test_soften_divides_the_logits(mlp):
    changed, _ = intervene("soften", mlp)
    assert same(outputs(changed), outputs(mlp) / mlp.growth[2], abs=1e-6)


@pytest.mark.parametrize("name", ["mlp", "deep"])
@pytest.mark.parametrize("layer", ["1", "2"])
def test_rebalance_keeps_the_function(name, layer):
    deep = nn.Sequential(
        nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.LeakyReLU(), nn.Linear(5, 3)
    )
    if (name, layer) == ("mlp", "2"):
        with pytest.raises(DoesNotFit, match="after layer 2 there is no other layer"):
            intervene("rebalance:2", aged())
        return
    torch.manual_seed(0)
    of = aged(deep if name == "deep" else "mlp")
    changed, columns = intervene(f"rebalance:{layer}", of)
    assert columns["factor"] != pytest.approx(1, abs=0.01)
    assert same(outputs(changed), outputs(of), abs=1e-5)
    sizes = zip(layers_of(of.learner.network), layers_of(changed.learner.network), strict=True)
    ratios = [norm_of(new.weights) / norm_of(old.weights) for old, new in sizes]
    c, k = columns["factor"], int(layer)
    assert ratios[k - 1 : k + 1] == pytest.approx([1 / c, c])


def adam(start, gradients, rate, epsilon=1e-8, betas=(0.9, 0.999)):
    """Return where Adam is after these gradients, from its definition."""
    theta, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for t, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        theta = theta - rate * m_hat / (v_hat.sqrt() + epsilon)
        step = rate * m_hat / (v_hat.sqrt() + epsilon)
    return step


def test_after_rebalance_adam_goes_on_as_if_it_had_always_had_the_new_coordinates():
    # Two linear layers without units: y = B (A x + a) + b, in double precision.
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    past = []
    for _ in range(20):
        x, y = torch.rand(16, 4, dtype=torch.float64), torch.rand(16, 2, dtype=torch.float64)
        optimizer.zero_grad()
        ((network(x) - y) ** 2).mean().backward()
        past.append([p.grad.clone() for p in network.parameters()])
        optimizer.step()
    c = 7.0
    first, second = layers_of(network)
    from plasticity.interventions.layers import carry_memory, move_factor

    move_factor(first, second, c)
    for parameters, growth in ((first.parameters, 1 / c), (second.weights, c)):
        for parameter in parameters:
            carry_memory(optimizer, parameter, growth)
    before = [p.detach().clone() for p in network.parameters()]
    optimizer.zero_grad()
    ((network(x) - y) ** 2).mean().backward()
    now = [p.grad.clone() for p in network.parameters()]
    optimizer.step()
    # The gradients of the past, as they would have been: A' = A / c has c times A's.
    scales = (c, c, 1 / c, 1.0)
    for k, (parameter, scale) in enumerate(zip(network.parameters(), scales, strict=True)):
        gradients = [scale * g[k] for g in past] + [now[k]]
        expected = adam(before[k], gradients, 0.05)
        assert same(before[k] - parameter, expected, abs=1e-12)


def test_rebalance_through_a_learner_carries_the_moments_in_the_same_way():
    of = aged()
    changed, columns = intervene("rebalance", of)
    c = columns["factor"]
    powers = {"0.weight": c, "0.bias": c, "2.weight": 1 / c, "2.bias": 1.0}
    for name, parameter in of.learner.network.named_parameters():
        old = of.learner.optimizer.state[parameter]
        new = changed.learner.optimizer.state[changed.learner.network.get_parameter(name)]
        assert same(new["exp_avg"], powers[name] * old["exp_avg"])
        assert same(new["exp_avg_sq"], powers[name] ** 2 * old["exp_avg_sq"], abs=0)
        assert new["step"] == old["step"]


def test_momentum_goes_along_too_and_an_unknown_memory_is_refused():
    of = aged(optimizer=lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9))
    changed, columns = intervene("rebalance", of)
    old, new = (
        one.learner.optimizer.state[one.learner.network[0].weight]["momentum_buffer"]
        for one in (of, changed)
    )
    assert same(new, columns["factor"] * old)
    with pytest.raises(DoesNotFit, match="not known how prev of Rprop scales"):
        intervene("rebalance", aged(optimizer=torch.optim.Rprop))


# ------------------------------------------------------------------------------ memory, new starts
def test_forget_clears_the_optimizer_and_nothing_else(mlp):
    changed, columns = intervene("forget", mlp)
    # Two moments of each number, and a count of steps of each of four tensors.
    assert columns == {"forgotten": 2 * len(flat(mlp)) + 4}
    assert torch.equal(flat(changed), flat(mlp))
    assert not changed.learner.optimizer.state
    assert mlp.learner.optimizer.state


def test_untrained_and_young_are_the_learner_as_it_was(mlp):
    for name, state in (("untrained", mlp.untrained), ("young", mlp.young)):
        changed, _ = intervene(name, mlp)
        network = changed.learner.network.state_dict()
        assert all(torch.equal(network[key], state["network"][key]) for key in network)
        assert changed.learner.steps == state["steps"]
        assert bool(changed.learner.optimizer.state) == (name == "young")
    fresh, _ = intervene("untrained", mlp)
    twin = aged(tasks=1)
    twin.learner.load_state_dict(twin.untrained)
    assert torch.equal(
        learn(fresh.learner, [task(5), task(6)]), learn(twin.learner, [task(5), task(6)])
    )


def test_redraw_takes_one_layer_as_it_began(mlp):
    changed, _ = intervene("redraw:last", mlp)
    network, untrained = changed.learner.network, mlp.untrained["network"]
    assert torch.equal(network[2].weight, untrained["2.weight"])
    assert torch.equal(network[2].bias, untrained["2.bias"])
    assert torch.equal(network[0].weight, mlp.learner.network[0].weight)
    state = changed.learner.optimizer.state
    assert network[2].weight not in state
    assert network[0].weight in state


def test_revive_makes_new_units_of_dead_ones_and_keeps_the_outputs(mlp):
    of = Aged(copy.deepcopy(mlp.learner), mlp.task, 0, mlp.untrained, mlp.young, mlp.growth)
    with torch.no_grad():
        of.learner.network[0].bias[[2, 7]] = -100
    changed, columns = intervene("revive", of)
    layers = layers_with_units(of.learner.network, "revive")
    (dead,) = dead_units(of.learner.network, layers, of.task.train.batch(slice(0, 64))[0])
    assert columns == {"revived": len(dead)}
    assert {2, 7} <= {*dead.tolist()}
    assert same(outputs(changed), outputs(of), abs=1e-6)
    assert (changed.learner.network[2].weight[:, dead] == 0).all()


# --------------------------------------------------------------------------------------- circuits
@pytest.mark.parametrize("name", ["qnn", "orthogonal-brickwork", "qnn-scaled", "qnn-reupload"])
def test_turns_and_unwind_keep_the_outputs_and_change_the_damping(name):
    of = aged(name)
    longer, said = intervene("turns:3", of)
    assert same(outputs(longer), outputs(of), abs=2e-3)
    assert said["damping_after"] < said["damping_before"]
    shorter, said = intervene("unwind", of)
    assert same(outputs(shorter), outputs(of), abs=2e-3)
    assert said["damping_after"] > said["damping_before"]
    both, said = intervene("turns:3+unwind", of)
    assert same(flat(both), flat(shorter), abs=1e-3)


# ------------------------------------------------------------------------- nothing to do, frozen
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("rate:first:1", "mlp"), ("rate:last", "mlp"), ("rescale:first", "mlp"),
        ("rebalance", "mlp"), ("soften", "mlp"), ("revive", "mlp"), ("turns:0", "qnn"),
        ("unwind", "qnn"), ("none", "mlp"), ("rate:first", "qnn"),
    ],
)  # fmt: skip
def test_where_there_is_nothing_to_do_all_bits_stay(text, name):
    of = aged(name, tasks=1)  # the growth of a learner of age 1 is 1
    assert all(c == 1 for c in of.growth.values())
    if text == "unwind":
        of, _ = intervene("unwind", of)
    if text == "revive":
        with torch.no_grad():
            of.learner.network[0].bias.fill_(10)
    plain, _ = intervene("none", of)
    changed, columns = intervene(text, of)
    assert torch.equal(flat(changed), flat(plain))
    losses = [learn(one.learner, [task(1), task(2)]) for one in (plain, changed)]
    assert torch.equal(*losses)
    assert torch.equal(flat(changed), flat(plain))
    assert columns.get("revived", 0) == 0


@pytest.mark.parametrize("frozen", [("0.weight", "0.bias"), ("2.weight", "2.bias")])
@pytest.mark.parametrize("text", [name for name in USUAL if name not in ("turns:3", "unwind")])
def test_frozen_parameters_stay_as_they_are(text, frozen):
    of = aged(frozen=frozen)
    try:
        changed, _ = intervene(text, of)
    except DoesNotFit as error:
        assert "\n" not in str(error)
        assert "frozen" in str(error) or "all trained" in str(error)
        return
    for name in frozen:
        kept = of.untrained["network"][name]
        assert torch.equal(changed.learner.network.get_parameter(name), kept)
    learn(changed.learner, [task(5)])
    for name in frozen:
        kept = of.untrained["network"][name]
        assert torch.equal(changed.learner.network.get_parameter(name), kept)


# --------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        ("rate:3", "mlp", "no layer 3: the network has the layers 1 to 2"),
        ("redraw:9", "mlp", "no layer 9"),
        ("turns:3", "mlp", "needs a circuit with angles that are trained"),
        ("unwind", "stiefel", "needs a circuit"),
        ("turns", "qnn-wrapped", "takes whole turns off its angles by itself"),
        ("turns", "qnn-trivialised", "takes whole turns off its angles by itself"),
        ("revive", "qnn", "needs hidden units between linear layers"),
        ("revive", "mlp-sin", "needs ReLU units"),
        ("rebalance", "mlp-sin", "needs positively homogeneous units between layers 1 and 2"),
        ("rebalance", "mlp-sphere", "off their manifold"),
        ("rebalance", "stiefel-free", "after layer 1 there is no other layer"),
        ("rescale", "qnn", "is a circuit; unwind makes its angles short"),
        ("soften", "qnn", "needs logits of a linear layer; the last one is QNN"),
        ("soften", "stiefel-free", "needs logits of a linear layer"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_line_and_nothing_is_changed(text, name, reason):
    of = aged(network_of(name), tasks=1)
    _, intervention = parse(text)
    before = flat(of).clone()
    with pytest.raises(DoesNotFit, match=reason) as refused:
        intervention.check(of.learner, of.task.train.batch(slice(0, 9))[0])
    assert "\n" not in str(refused.value)
    assert torch.equal(flat(of), before)


@pytest.mark.parametrize("name", ["mlp", "mlp-orthogonal-max-min", "mlp-bounded"])
def test_checks_change_nothing(name):
    of = aged(name, tasks=1)
    before = flat(of).clone()
    for text in USUAL:
        _, intervention = parse(text)
        with contextlib.suppress(DoesNotFit):
            intervention.check(of.learner, of.task.train.batch(slice(0, 9))[0])
        assert torch.equal(flat(of), before)
    assert of.learner.network.training


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rat:first", "did you mean rate?"),
        ("rate:1:x", "factor 'x' must be a number"),
        ("rate:1:-2", "factor -2: a positive number"),
        ("rate:1:nan", "factor nan: a positive number"),
        ("rate:1:second", "factor 'second' must be a number, first or last"),
        ("rate:1:2:3", "rate takes layer, factor"),
        ("turns:1.5", "turns '1.5' must be a whole number"),
        ("turns:-1", "turns -1: at least 0"),
        ("forget:1", "forget takes no option"),
        ("unwind+young", "young takes another state, so it must come first"),
        ("", "there are none, untrained"),
    ],
)
def test_what_cannot_be_an_intervention_is_refused_in_a_line(text, reason):
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_names_say_all_options_and_lead_back():
    assert parse("rate")[0] == "rate:first"
    assert parse("rate:1:2.50")[0] == "rate:1:2.5"
    assert parse("induce:4")[0] == "induce:4"
    assert parse("rate:1:1e30")[0] == "rate:1:1e+30"
    assert parse("rate:1:1e+30+forget")[0] == "rate:1:1e+30+forget"
    assert parse("turns+unwind")[0] == "turns:3+unwind"
    for text in USUAL:
        name, intervention = parse(text)
        assert parse(name) == (name, intervention)


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_every_intervention_has_a_card(name):
    kind = type(INTERVENTIONS[name])
    assert kind.__doc__ is not None
    assert kind.__doc__.splitlines()[0].endswith((".", ":")) or "\n\n" in kind.__doc__


def test_growth_of_the_same_network_is_one():
    network = network_of("mlp")
    assert growth_of(network, network.state_dict()) == {1: 1.0, 2: 1.0}
