"""Learners: steps by hand-written Adam, and going on from a state."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.errors import DoesNotFit
from plasticity.learning.learner import Learner
from plasticity.learning.remedy import Learns, Remedy
from plasticity.networks import NETWORKS
from plasticity.networks.mlp import mlp
from plasticity.remedies import REMEDIES
from plasticity.remedies.resets import ResetOptimizer
from plasticity.seeding import generator_for
from tests.tiny import ARMS, NUM_CLASSES, NUM_INPUTS, make_adam, same, tiny_learner, tiny_network


def batch(index: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = generator_for(0, "batch", index)
    x = torch.rand(8, NUM_INPUTS, generator=generator, dtype=dtype)
    return x, torch.randint(NUM_CLASSES, (8,), generator=generator)


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


def weights(learner: Learner) -> list[torch.Tensor]:
    return [p.detach().clone() for p in learner.network.parameters()]


@pytest.mark.parametrize("fused", [False, True])
def test_steps_match_adam_written_out_number_by_number(fused: bool) -> None:
    lr, beta1, beta2, eps = 0.03, 0.9, 0.999, 1e-7
    learner = Learner(
        mlp((NUM_INPUTS, 2, NUM_CLASSES), generator_for(0, "initial weights")).double(),
        lambda parameters: torch.optim.Adam(parameters, lr=lr, eps=eps, fused=fused),
        cross_entropy,
    )
    by_hand = copy.deepcopy(learner.network)
    first = [[0.0] * p.numel() for p in by_hand.parameters()]
    second = [[0.0] * p.numel() for p in by_hand.parameters()]
    for step in range(1, 6):
        x, y = batch(step, torch.float64)
        logits = by_hand(x)
        log_p = [row[int(k)] - row.exp().sum().log() for row, k in zip(logits, y, strict=True)]
        loss = -sum(log_p) / len(y)
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        for parameter, gradient, m, v in zip(
            by_hand.parameters(), gradients, first, second, strict=True
        ):
            numbers = parameter.flatten().tolist()
            for k, g in enumerate(gradient.flatten().tolist()):
                m[k] = beta1 * m[k] + (1 - beta1) * g
                v[k] = beta2 * v[k] + (1 - beta2) * g**2
                m_hat, v_hat = m[k] / (1 - beta1**step), v[k] / (1 - beta2**step)
                numbers[k] -= lr * m_hat / (v_hat**0.5 + eps)
            with torch.no_grad():
                parameter.copy_(torch.tensor(numbers, dtype=torch.float64).view_as(parameter))
        returned = learner.update(x, y)
        assert not returned.requires_grad
        assert returned.item() == pytest.approx(loss.item(), rel=1e-12)
        for ours, theirs in zip(weights(learner), by_hand.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("arm", ARMS)
def test_a_fresh_learner_goes_on_from_a_saved_state_bit_for_bit(arm: str) -> None:
    learner = tiny_learner(arm)
    for step in range(3):
        learner.update(*batch(step))
    saved = through_a_file(learner.state_dict())
    fresh = tiny_learner(arm, seed=7)
    assert not same(weights(fresh), weights(learner))
    fresh.load_state_dict(saved)
    for step in range(3, 6):
        assert same(fresh.update(*batch(step)), learner.update(*batch(step)))
        assert same(weights(fresh), weights(learner))
        assert same(fresh.state_dict(), learner.state_dict())


def test_two_learners_of_one_state_do_not_disturb_each_other() -> None:
    uninterrupted, learner, fresh = (tiny_learner("mlp") for _ in range(3))
    for one in (uninterrupted, learner):
        one.update(*batch(0))
    fresh.load_state_dict(learner.state_dict())
    for step in range(1, 4):
        expected = uninterrupted.update(*batch(step))
        assert same(learner.update(*batch(step)), expected)
        assert same(fresh.update(*batch(step)), expected)


@pytest.mark.parametrize("arm", ARMS)
def test_reset_optimizer_forgets_moments_and_nothing_else(arm: str) -> None:
    learner = tiny_learner(arm, ResetOptimizer())
    for step in range(3):
        learner.update(*batch(step))
    before = weights(learner)
    newborn = tiny_learner(arm)
    newborn.network.load_state_dict(learner.network.state_dict())
    unreset = tiny_learner(arm)
    unreset.load_state_dict(copy.deepcopy(learner.state_dict() | {"remedies": []}))
    learner.start_task(1)
    assert same(weights(learner), before)
    assert not learner.optimizer.state
    for one in (learner, newborn, unreset):
        one.update(*batch(3))
    for part in ("network", "optimizer"):
        assert same(learner.state_dict()[part], newborn.state_dict()[part])
    assert not same(weights(unreset), weights(newborn))


def test_an_optimizer_outlives_tasks_without_a_remedy() -> None:
    learner = tiny_learner("mlp")
    optimizer = learner.optimizer
    learner.update(*batch(0))
    learner.start_task(1)
    assert learner.optimizer is optimizer
    assert learner.optimizer.state


def test_gradients_of_an_earlier_batch_or_of_others_do_not_count() -> None:
    learner, disturbed = tiny_learner("mlp"), tiny_learner("mlp")
    for step in range(3):
        for parameter in disturbed.network.parameters():
            parameter.grad = torch.full_like(parameter, 1e3)
        assert same(learner.update(*batch(step)), disturbed.update(*batch(step)))
    assert same(weights(learner), weights(disturbed))


def test_device_is_the_networks() -> None:
    assert tiny_learner("mlp").device == torch.device("cpu")
    meta = tiny_network("mlp").to("meta")
    assert Learner(meta, make_adam, cross_entropy).device.type == "meta"


class Toy(Remedy):
    """A remedy that writes down its calls."""

    def __init__(self, calls: list, name: str = "") -> None:
        self.calls, self.name = calls, name

    def __deepcopy__(self, memo: dict) -> "Toy":
        return type(self)(self.calls, self.name)  # or the calls would be copied too


class Everywhere(Toy):
    def on_build(self, network: nn.Module) -> nn.Module:
        self.calls.append((self.name, "on_build"))
        return nn.Sequential(network, nn.Linear(NUM_CLASSES, NUM_CLASSES))

    def start(self, learner: Learns, seed: int) -> None:
        self.calls.append((self.name, "start", seed, learner.steps))
        self.learner = learner

    def before_task(self, index: int) -> None:
        self.calls.append((self.name, "before_task", index))

    def penalty(self) -> torch.Tensor:
        self.calls.append((self.name, "penalty"))
        return torch.zeros(())

    def after_update(self, step: int) -> None:
        self.calls.append((self.name, "after_update", step))

    def columns(self) -> dict[str, float]:
        return {self.name: 1.0}


def test_hooks_are_called_in_their_order_remedy_by_remedy() -> None:
    calls: list = []
    remedies = Everywhere(calls, "a"), Everywhere(calls, "b")
    learner = Learner(tiny_network("mlp"), make_adam, cross_entropy, remedies, seed=4)
    assert calls == [
        ("a", "on_build"), ("b", "on_build"), ("a", "start", 4, 0), ("b", "start", 4, 0),
    ]  # fmt: skip
    calls.clear()
    learner.start_task(5)
    assert calls == [("a", "before_task", 5), ("b", "before_task", 5)]
    for step in (1, 2):
        calls.clear()
        learner.update(*batch(step))
        assert calls == [
            ("a", "penalty"), ("b", "penalty"), ("a", "after_update", step),
            ("b", "after_update", step),
        ]  # fmt: skip
    assert learner.columns() == {"a": 1.0, "b": 1.0}
    assert learner.steps == 2


def test_what_a_remedy_builds_is_what_learns() -> None:
    learner = Learner(tiny_network("mlp"), make_adam, cross_entropy, [Everywhere([], "a")])
    assert len(learner.network) == 2
    before = weights(learner)
    learner.update(*batch(0))
    after = weights(learner)
    assert len(after) == 6
    assert all(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


class Decay(Remedy):
    """Half the squared norm of the parameters, times a strength that grows with the updates."""

    def start(self, learner: Learns, seed: int) -> None:
        self.learner, self.strength = learner, 0.1

    def penalty(self) -> torch.Tensor | None:
        if self.strength == 0.1:  # none at first
            return None
        return self.strength / 2 * sum(p.square().sum() for p in self.learner.network.parameters())

    def after_update(self, step: int) -> None:
        self.strength += 0.1

    def state_dict(self) -> dict:
        return {"strength": self.strength}

    def load_state_dict(self, state: dict) -> None:
        self.strength = state["strength"]


def test_a_penalty_is_learned_from_but_not_told_as_the_loss() -> None:
    learner = Learner(
        tiny_network("mlp"), lambda p: torch.optim.SGD(p, lr=0.1), cross_entropy, [Decay()]
    )
    for step in range(3):
        x, y = batch(step)
        by_hand = copy.deepcopy(learner.network)
        loss = cross_entropy(by_hand(x), y)
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        strength = 0.1 * (step + 1) if step else 0.0
        expected = [
            (p - 0.1 * (g + strength * p)).detach()
            for p, g in zip(by_hand.parameters(), gradients, strict=True)
        ]
        assert torch.equal(learner.update(x, y), loss.detach())
        for ours, theirs in zip(weights(learner), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_remedy_goes_on_from_the_state_that_it_saved() -> None:
    learner, fresh = tiny_learner("mlp", Decay()), tiny_learner("mlp", Decay(), seed=7)
    for step in range(3):
        learner.update(*batch(step))
    fresh.load_state_dict(through_a_file(learner.state_dict()))
    assert fresh.steps == 3
    for step in range(3, 6):
        assert same(fresh.update(*batch(step)), learner.update(*batch(step)))
        assert same(fresh.state_dict(), learner.state_dict())


def test_learners_share_no_remedy() -> None:
    remedy = Decay()
    one, other = tiny_learner("mlp", remedy), tiny_learner("mlp", remedy)
    one.update(*batch(0))
    assert [one.remedies[0].strength, other.remedies[0].strength] == [0.2, 0.1]
    assert not hasattr(remedy, "strength")


def test_a_state_of_other_remedies_is_refused() -> None:
    learner = tiny_learner("mlp", Decay())
    with pytest.raises(ValueError, match="zip"):
        learner.load_state_dict(tiny_learner("mlp").state_dict())


class Sphere(nn.Linear):
    """A layer whose weight is put back onto the unit sphere after each update."""

    @torch.no_grad()
    def after_update(self) -> None:
        self.weight /= self.weight.norm()


def test_a_module_that_must_stay_somewhere_is_put_back_after_each_update() -> None:
    calls: list = []

    class Look(Remedy):
        def start(self, learner: Learns, seed: int) -> None:
            self.learner = learner

        def after_update(self, step: int) -> None:
            calls.append(float(self.learner.network[1].weight.detach().norm()))

    network = nn.Sequential(tiny_network("mlp"), Sphere(NUM_CLASSES, NUM_CLASSES))
    learner = Learner(network, make_adam, cross_entropy, [Look()])
    for step in range(3):
        learner.update(*batch(step))
    assert calls == [pytest.approx(1.0, abs=1e-6)] * 3  # before the remedies look


class Recentered(nn.Module):
    """A sum of a parameter and a buffer, of which the parameter is zero before each task."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(NUM_CLASSES))
        self.register_buffer("center", torch.zeros(NUM_CLASSES))
        self.begun: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (self.center + self.shift)

    @torch.no_grad()
    def before_task(self, index: int) -> None:
        self.begun.append(index)
        self.center += self.shift
        self.shift.zero_()


def test_a_module_may_write_the_same_function_in_other_parameters_before_a_task() -> None:
    seen: list = []

    class Look(Remedy):
        def start(self, learner: Learns, seed: int) -> None:
            self.learner = learner

        def before_task(self, index: int) -> None:
            seen.append((index, float(self.learner.network[1].shift.detach().abs().sum())))

    network = nn.Sequential(tiny_network("mlp"), Recentered())
    learner = Learner(network, make_adam, cross_entropy, [Look()])
    recentered, (x, y) = network[1], batch(0)
    for index in (4, 7):
        learner.update(x, y)
        outputs = learner.network(x)
        moments = copy.deepcopy(learner.optimizer.state_dict())
        assert recentered.shift.detach().abs().min() > 0
        learner.start_task(index)
        assert same(learner.optimizer.state_dict(), moments)
        assert torch.equal(learner.network(x), outputs)
    assert recentered.begun == [4, 7]
    assert seen == [(4, 0.0), (7, 0.0)]  # modules come before the remedies


def test_observers_see_outputs_and_labels_before_the_update() -> None:
    learner, unseen = tiny_learner("mlp"), tiny_learner("mlp")
    x, y = batch(0)
    expected, seen = learner.network(x).detach(), []
    learner.update(x, y, [lambda outputs, labels: seen.append((outputs, labels))])
    unseen.update(x, y)
    ((outputs, labels),) = seen
    assert torch.equal(outputs, expected)
    assert torch.equal(labels, y)
    assert not outputs.requires_grad
    assert same(weights(learner), weights(unseen))


@pytest.mark.parametrize("every", [1, 3])
def test_reset_optimizer_resets_at_multiples_of_every(every: int) -> None:
    learner = tiny_learner("mlp", ResetOptimizer(every))
    for index in range(7):
        learner.update(*batch(index))
        before = learner.optimizer
        learner.start_task(index)
        assert (learner.optimizer is not before) == (index % every == 0)


def test_nothing_to_train_is_refused_in_a_line() -> None:
    network = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(
        DoesNotFit, match=r"^Linear has no parameter to train \(6 numbers"
    ) as caught:
        Learner(network, make_adam, cross_entropy)
    assert "\n" not in str(caught.value)


def test_a_loss_that_depends_on_nothing_that_is_trained_is_refused_in_a_line() -> None:
    network = nn.Linear(2, 2)
    network.register_parameter("spare", nn.Parameter(torch.ones(())))
    network.weight.requires_grad_(False)
    network.bias.requires_grad_(False)
    learner = Learner(network, make_adam, cross_entropy)
    with pytest.raises(DoesNotFit, match=r"^the loss of Linear depends on no parameter"):
        learner.update(torch.ones(3, 2), torch.tensor([0, 1, 0]))


def test_frozen_and_unused_parameters_stay_and_a_checkpoint_goes_on() -> None:
    def made() -> Learner:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        network[0].requires_grad_(False)
        network.register_parameter("spare", nn.Parameter(torch.ones(2)))
        return Learner(network, make_adam, cross_entropy)

    x, y = torch.rand(5, 2), torch.tensor([0, 1, 0, 1, 1])
    one, other = made(), made()
    first, spare = one.network[0].weight.clone(), one.network.spare.detach().clone()
    for _ in range(3):
        one.update(x, y)
    assert torch.equal(one.network[0].weight, first)
    assert torch.equal(one.network.spare, spare)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for learner in (one, other):
        learner.update(x, y)
    assert same(one.state_dict(), other.state_dict())


@pytest.mark.parametrize(
    ("parts", "part"),
    [
        ({"network": NETWORKS["mlp"]}, r"not Mlp\(.*; build it first: .build\(shape, generator\)"),
        ({"network": torch.nn.Linear}, "network must be a torch.nn.Module, not <class"),
        ({"make_optimizer": torch.optim.SGD([torch.zeros(1)], lr=0.1)}, "make_optimizer .* is SGD"),
        ({"loss": "cross_entropy"}, "torch.nn.functional.cross_entropy; it is 'cross_entropy'"),
        ({"loss": torch.nn.CrossEntropyLoss}, "loss must be a function .* it is <class"),
        ({"remedies": ["l2"]}, "remedies must be a sequence of Remedy.* 'l2' is none"),
        ({"remedies": REMEDIES["l2"]}, r"remedies must be .* L2\(.* is no sequence"),
        ({"remedies": [type(REMEDIES["l2"])]}, "remedies must be .* is none"),
    ],
)
def test_parts_that_make_no_learner_are_named(parts: dict[str, Any], part: str) -> None:
    proper = {
        "network": torch.nn.Linear(2, 2),
        "make_optimizer": torch.optim.Adam,
        "loss": torch.nn.functional.cross_entropy,
    }
    Learner(**proper)
    with pytest.raises(TypeError, match=part):
        Learner(**proper | parts)
