"""Learners: steps by hand-written Adam, and going on from a state."""

import copy
import io

import pytest
import torch
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner, reset_optimizer
from plasticity.networks.mlp import mlp
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
    learner = tiny_learner(arm, reset_optimizer)
    for step in range(3):
        learner.update(*batch(step))
    before = weights(learner)
    newborn = tiny_learner(arm)
    newborn.network.load_state_dict(learner.network.state_dict())
    unreset = tiny_learner(arm)
    unreset.load_state_dict(copy.deepcopy(learner.state_dict()))
    learner.start_task(1)
    assert same(weights(learner), before)
    assert not learner.optimizer.state
    for one in (learner, newborn, unreset):
        one.update(*batch(3))
    assert same(learner.state_dict(), newborn.state_dict())
    assert not same(weights(unreset), weights(newborn))


def test_an_optimizer_outlives_tasks_without_an_intervention() -> None:
    learner = tiny_learner("mlp")
    optimizer = learner.optimizer
    learner.update(*batch(0))
    learner.start_task(1)
    assert learner.optimizer is optimizer
    assert learner.optimizer.state


def test_interventions_act_in_order_with_learner_and_task() -> None:
    calls = []
    learner = tiny_learner(
        "mlp", lambda *call: calls.append(("a", *call)), lambda *call: calls.append(("b", *call))
    )
    assert calls == []
    learner.start_task(5)
    assert calls == [("a", learner, 5), ("b", learner, 5)]


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
