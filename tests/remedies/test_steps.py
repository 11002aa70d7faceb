"""Changed steps: torch's own optimizers, and each number by itself."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.errors import DoesNotFit
from plasticity.learning.learner import Learner
from plasticity.learning.remedy import Remedy
from plasticity.networks import NETWORKS
from plasticity.networks.network import Shape
from plasticity.quantum.layer import QNN
from plasticity.remedies import REMEDIES
from plasticity.remedies.steps import AdamW, EqualBetas, ShrinkPerturb, UtilityGated
from plasticity.seeding import generator_for
from tests.remedies.small import batch, learned, learner, network, train
from tests.tiny import NUM_CLASSES, make_adam, same

ADAM = {"lr": 0.03, "eps": 1e-7, "fused": True}  # as of make_adam
UPGD = UtilityGated(learning_rate=0.05, noise=0.1, weight_decay=0.2, utility_decay=0.7)


def written_out(make: type[torch.optim.Optimizer], arm: str, **options: object) -> Learner:
    return Learner(network(arm), lambda p: make(p, **ADAM | options), cross_entropy)


@pytest.mark.parametrize("arm", ["mlp", "qnn"])
@pytest.mark.parametrize(
    ("remedies", "expected"),
    [
        ([EqualBetas(0.97)], (torch.optim.Adam, {"betas": (0.97, 0.97)})),
        ([AdamW(0.5)], (torch.optim.AdamW, {"weight_decay": 0.5})),
        (
            [AdamW(0.5), EqualBetas(0.97)],
            (torch.optim.AdamW, {"weight_decay": 0.5, "betas": (0.97, 0.97)}),
        ),
        (
            [EqualBetas(0.97), AdamW(0.5)],
            (torch.optim.AdamW, {"weight_decay": 0.5, "betas": (0.97, 0.97)}),
        ),
    ],
)
def test_adam_is_torchs_with_the_options(arm: str, remedies: list[Remedy], expected: tuple) -> None:
    one, other = learner(*remedies, arm=arm), written_out(expected[0], arm, **expected[1])
    for step in range(10):
        one.update(*batch(step))
        other.update(*batch(step))
    assert same(learned(one), learned(other))


@pytest.mark.parametrize("remedy", [EqualBetas(0.9), AdamW(0.1)])
def test_another_optimizer_than_adam_is_refused(remedy: Remedy) -> None:
    name = "adamw" if isinstance(remedy, AdamW) else "equal-betas"
    for remedies in ([remedy, UPGD], [UPGD, remedy]):
        with pytest.raises(DoesNotFit, match=f"^{name} changes Adam; the optimizer is Upgd$"):
            learner(*remedies)
    with pytest.raises(DoesNotFit, match=f"^{name} changes Adam; the optimizer is SGD$"):
        Learner(network(), lambda p: torch.optim.SGD(p, lr=0.1), cross_entropy, [remedy])


# ------------------------------------------------------------------------------ shrink and perturb
def flat(one: Learner) -> torch.Tensor:
    return nn.utils.parameters_to_vector(one.network.parameters()).detach().clone()


@pytest.mark.parametrize("arm", ["mlp", "qnn"])
def test_each_parameter_shrinks_and_gets_noise_before_a_task(arm: str) -> None:
    one = learner(ShrinkPerturb(shrink=0.4, noise=0.25, each="task"), arm=arm)
    before = flat(one)
    one.start_task(0)
    assert torch.equal(flat(one), before)
    one.update(*batch(0))
    before, moments = flat(one), learned(one)[1]
    one.start_task(5)
    drawn = torch.randn(len(before), generator=generator_for(3, "shrink-perturb task", 5))
    expected = 0.6 * before + 0.25 * drawn
    torch.testing.assert_close(flat(one), expected)
    assert same(learned(one)[1], moments)
    distance = math.sqrt(
        sum((a - b) ** 2 for a, b in zip(expected.tolist(), before.tolist(), strict=True))
    )
    assert one.columns() == {"shrink_perturb_distance": pytest.approx(distance, rel=1e-5)}
    assert one.columns() == {"shrink_perturb_distance": 0.0}


def test_or_after_each_update() -> None:
    one, bare = learner(ShrinkPerturb(0.01, 0.02, "update")), learner()
    one.start_task(3)
    squares = 0.0
    for step in (1, 2):
        bare.network.load_state_dict(one.network.state_dict())
        one.update(*batch(step))
        bare.update(*batch(step))
        drawn = torch.randn(
            len(flat(bare)), generator=generator_for(3, "shrink-perturb update", step)
        )
        expected = 0.99 * flat(bare) + 0.02 * drawn
        torch.testing.assert_close(flat(one), expected)
        squares += float((expected - flat(bare)).square().sum())
    assert one.columns() == {"shrink_perturb_distance": pytest.approx(math.sqrt(squares), rel=1e-4)}


def test_noise_has_the_standard_deviation_that_is_said_and_differs_from_task_to_task() -> None:
    one = learner(ShrinkPerturb(0.0, 0.5, "task"), widths=(300, 100, 3))
    x = torch.rand(8, 300)
    one.update(x, batch(0)[1])
    changes = []
    for task in (1, 2):
        before = flat(one)
        one.start_task(task)
        changes.append(flat(one) - before)
    for change in changes:
        assert float(change.std()) == pytest.approx(0.5, rel=0.02)
        assert abs(float(change.mean())) < 0.01
    assert abs(float(torch.corrcoef(torch.stack(changes))[0, 1])) < 0.03


@pytest.mark.parametrize("each", ["task", "update"])
@pytest.mark.parametrize("of", ["stiefel", "mlp-sphere", "mlp-orthogonal"])
def test_parameters_that_must_stay_on_a_manifold_are_put_back_onto_it(of: str, each: str) -> None:
    built = NETWORKS[of].build(Shape(16, 3), generator_for(0, "initial weights"))
    norm = flat(Learner(built, make_adam, cross_entropy))
    one = Learner(built, make_adam, cross_entropy, [ShrinkPerturb(0.4, 0.1, each)])
    for task in range(2):
        one.start_task(task)
        after = flat(one)
        one.retract()
        torch.testing.assert_close(flat(one), after, rtol=1e-4, atol=1e-5)
        if of == "mlp-sphere":
            assert float(after.norm()) == pytest.approx(float(norm.norm()), rel=1e-4)
        one.update(*batch(task))
        after = flat(one)
        one.retract()
        torch.testing.assert_close(flat(one), after, rtol=1e-4, atol=1e-5)
    assert one.columns()["shrink_perturb_distance"] > 0


def test_angles_shrink_towards_no_rotation() -> None:
    """With all of them at 0 the circuit does nothing."""
    one = learner(ShrinkPerturb(1.0, 0.0, "task"), arm="qnn")
    one.update(*batch(0))
    one.start_task(1)
    layer = one.network
    assert isinstance(layer, QNN)
    x = batch(1)[0]
    amplitudes = x / x.norm(dim=1, keepdim=True)
    expected = layer.readout(amplitudes[:, :NUM_CLASSES].square())
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


# -------------------------------------------------- upgd
def by_hand(one: Learner, remedy: UtilityGated, steps: int) -> tuple[list[float], float]:
    """Return the weights after some steps, and the mean gate of the last, number by number."""
    weights = flat(one).tolist()
    utilities, gates = [0.0] * len(weights), [0.0] * len(weights)
    twin = learner()
    for step in range(steps):
        nn.utils.vector_to_parameters(torch.tensor(weights), twin.network.parameters())
        x, y = batch(step)
        loss = cross_entropy(twin.network(x), y)
        gradients = nn.utils.parameters_to_vector(
            torch.autograd.grad(loss, [*twin.network.parameters()])
        ).tolist()
        noise = torch.randn(len(weights), generator=generator_for(3, "upgd", step)).tolist()
        for k, (g, w) in enumerate(zip(gradients, weights, strict=True)):
            utilities[k] = remedy.utility_decay * utilities[k] - (1 - remedy.utility_decay) * g * w
        greatest = max(utilities)
        for k, (g, w) in enumerate(zip(gradients, weights, strict=True)):
            gates[k] = 1 - 1 / (1 + math.exp(-utilities[k] / greatest))
            rate = remedy.learning_rate
            step_size = 2 * rate * (g + remedy.noise * noise[k]) * gates[k]
            weights[k] = (1 - rate * remedy.weight_decay) * w - step_size
    return weights, sum(gates) / len(gates)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_upgd_is_its_rule_number_by_number(noise: float) -> None:
    remedy = dataclasses.replace(UPGD, noise=noise)
    one = learner(remedy)
    weights, gate = by_hand(one, remedy, steps=5)
    for step in range(5):
        one.update(*batch(step))
    assert flat(one).tolist() == pytest.approx(weights, rel=1e-4, abs=1e-5)
    assert one.columns() == {"upgd_gate": pytest.approx(gate, rel=1e-4)}


def test_upgd_leaves_the_gradients_as_they_are() -> None:
    one, bare = learner(UPGD), learner()
    one.update(*batch(0))
    bare.update(*batch(0))
    for ours, theirs in zip(one.network.parameters(), bare.network.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("value", [0.0, -1e-3])
def test_where_no_utility_is_positive_gates_are_finite(value: float) -> None:
    one = learner(UPGD)
    with torch.no_grad():
        for parameter in one.network.parameters():
            parameter.fill_(value)
    for step in range(3):
        one.update(*batch(step))
    assert flat(one).isfinite().all()
    assert 0 < one.columns()["upgd_gate"] <= 1


def test_upgd_with_no_update_has_no_gate() -> None:
    assert math.isnan(learner(UPGD).columns()["upgd_gate"])


def test_upgd_forgets_its_utilities_where_the_optimizer_is_reset() -> None:
    one = learner(UPGD, REMEDIES["reset-optimizer"])
    train(one, range(2))
    assert one.optimizer.state
    one.start_task(2)
    assert not one.optimizer.state
    assert one.optimizer.param_groups[0]["step"] == 0


def two_groups(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Give the first layer numbers of its own."""
    first = {"params": parameters[:2], "lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-3}
    return torch.optim.Adam([first, {"params": parameters[2:]}], lr=0.01, amsgrad=True)


def test_adamw_keeps_groups_and_their_numbers() -> None:
    one = Learner(network(), two_groups, cross_entropy, [AdamW(0.3)])
    bare = Learner(network(), two_groups, cross_entropy)
    for group, other in zip(one.optimizer.param_groups, bare.optimizer.param_groups, strict=True):
        changed = {k for k in other if k != "params" and group[k] != other[k]}
        assert changed == {"weight_decay", "decoupled_weight_decay"}
        assert len(group["params"]) == len(other["params"])
    before = [p.detach().clone() for p in one.network.parameters()]
    for learning in (one, bare):
        learning.update(*batch(0))
    rates = [0.05] * 2 + [0.01] * (len(before) - 2)
    pairs = zip(one.network.parameters(), bare.network.parameters(), strict=True)
    for (ours, theirs), old, rate in zip(pairs, before, rates, strict=True):
        torch.testing.assert_close(ours, theirs - rate * 0.3 * old)


def test_upgd_learns_alike_whatever_the_groups() -> None:
    one, other = (Learner(network(), m, cross_entropy, [UPGD]) for m in (two_groups, make_adam))
    for step in range(4):
        for learning in (one, other):
            learning.update(*batch(step))
    assert len(one.optimizer.param_groups) == 2
    assert same(one.network.state_dict(), other.network.state_dict())
    assert one.columns() == other.columns()


@pytest.mark.parametrize("remedy", [AdamW(0.1), UPGD])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_weight_decay_that_is_there_is_not_replaced_silently(remedy: Remedy, kind: type) -> None:
    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        groups = [{"params": parameters[:1], "weight_decay": 0.02}, {"params": parameters[1:]}]
        return kind(groups, weight_decay=0.0)

    with pytest.raises(DoesNotFit, match=r"has a weight decay of its own; .* is 0\.02"):
        Learner(network(), make, cross_entropy, [remedy])
