"""Probes: which samples they are, what copies of a network reach on them, and churn."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.learning.loop import train_on_stream
from plasticity.learning.metric import Metric
from plasticity.learning.remedy import Remedy
from plasticity.metrics import probes
from plasticity.metrics.probes import Churn, Trainability, probe
from plasticity.networks.mlp import mlp
from plasticity.seeding import generator_for
from tests.tiny import (
    ARMS,
    NUM_CLASSES,
    NUM_INPUTS,
    make_adam,
    random_states,
    same,
    tiny_images,
    tiny_learner,
    tiny_network,
    tiny_stream,
    tiny_task,
)

# --- samples


def test_probe_is_the_same_at_every_call_and_a_larger_one_contains_it() -> None:
    task = tiny_task(num_train=100)
    before = random_states()
    x, y = probe(task, 3)
    again, labels = probe(task, 3)
    assert same(random_states(), before)
    assert torch.equal(x, again) and torch.equal(y, labels)
    larger, _ = probe(task, 3, 80)
    assert (len(x), len(larger)) == (64, 80)
    assert torch.equal(larger[:64], x)
    assert not torch.equal(probe(task, 4)[0], x)
    everything = task.train.batch(slice(None))[0].tolist()
    assert all(row in everything for row in x.tolist())
    assert len(probe(tiny_task(num_train=11), 3)[0]) == 11


# --- trainability


@pytest.mark.parametrize("arm", ARMS)
def test_trainability_matches_a_training_loop_written_out(arm: str) -> None:
    learner, stream = tiny_learner(arm), tiny_stream(tiny_images(num_train=150))
    untrained = copy.deepcopy(learner.network)
    metric = Trainability.of(learner, stream[0], seed=2)
    for _ in range(5):
        learner.update(*stream[1].train.batch(slice(0, 20)))
    columns = metric(learner, stream[1])

    order = torch.randperm(150, generator=generator_for(2, "probe", 0))[:128]
    x, _ = stream[0].train.batch(order)
    labels = torch.randint(NUM_CLASSES, (128,), generator=generator_for(2, "random labels"))
    losses = []
    for network in (copy.deepcopy(learner.network), untrained):
        optimizer = make_adam(list(network.parameters()))
        for _ in range(100):
            optimizer.zero_grad()
            cross_entropy(network(x), labels).backward()
            optimizer.step()
        with torch.no_grad():  # a circuit may be evaluated in another way, with other last bits
            losses.append(cross_entropy(network(x), labels).item())
    assert columns == {"loss": losses[0], "gap": losses[0] - losses[1]}


@pytest.mark.parametrize("arm", ARMS)
def test_an_untrained_network_has_no_gap(arm: str) -> None:
    learner = tiny_learner(arm)
    metric = Trainability.of(learner, tiny_task(), seed=0)
    assert metric(learner, tiny_task())["gap"] == 0


def test_a_dead_network_learns_no_random_labels() -> None:
    learner, task = tiny_learner("mlp"), tiny_task()
    metric = Trainability.of(learner, task, seed=0)
    with torch.no_grad():
        learner.network[0].bias.fill_(-100)
    columns = metric(learner, task)
    # It still learns how often each label comes.
    counts = torch.bincount(metric.labels, minlength=NUM_CLASSES)
    shares = counts[counts > 0] / len(metric.labels)
    assert columns["loss"] == pytest.approx(-float((shares * shares.log()).sum()), abs=0.02)
    assert columns["gap"] > 0.1


def test_a_network_that_stays_on_a_manifold_does_so_in_its_copy_and_remedies_do_not_act() -> None:
    calls = []

    class OnSphere(nn.Linear):
        def after_update(self) -> None:
            calls.append(id(self))
            with torch.no_grad():
                self.weight /= torch.linalg.vector_norm(self.weight)

    class Acts(Remedy):
        def after_update(self, step: int) -> None:
            raise AssertionError("a remedy acted")

    network = OnSphere(NUM_INPUTS, NUM_CLASSES)
    learner = Learner(network, make_adam, cross_entropy, [Acts()])
    metric = Trainability.of(learner, tiny_task(), seed=0)
    assert len(calls) == 100
    metric(learner, tiny_task())
    assert len(calls) == 200
    assert id(network) not in calls


def test_one_output_gets_labels_of_two_classes() -> None:
    def loss(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return cross_entropy(torch.cat([torch.zeros_like(outputs), outputs], 1), y)

    network = mlp((NUM_INPUTS, 5, 1), torch.Generator().manual_seed(0))
    learner, task = Learner(network, make_adam, loss), tiny_task(num_train=100)
    metric = Trainability.of(learner, task, seed=0)
    assert {*metric.labels.tolist()} == {0, 1}
    assert metric(learner, task)["gap"] == 0


# --- churn


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("every", [1, 2, 3, 10])
def test_churn_matches_a_loop_that_looks_before_and_after_updates(
    arm: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "CHURN_EVERY", every)
    monkeypatch.setattr(probes, "CHURN_SAMPLES", 5)
    learner, again, stream = tiny_learner(arm), tiny_learner(arm), tiny_stream()
    metric = Metric("churn", when="during", prepare=Churn.of).prepared(learner, stream[0], 4)
    rows = [*train_on_stream(learner, stream, epochs=2, batch_size=3, seed=0, metrics=[metric])]
    for row, task in zip(rows, stream, strict=True):
        order = torch.randperm(7, generator=generator_for(4, "churn", task.index))[:5]
        x, _ = task.test.batch(order)
        outputs, probabilities = [], []
        for epoch in range(2):
            order = torch.randperm(11, generator=generator_for(0, "order", task.index, epoch))
            for k, indices in enumerate(order.split(3)):
                before = again.network(x).detach()
                again.update(*task.train.batch(indices))
                after = again.network(x).detach()
                if epoch == 0 and k % every == 0 and k < 3:  # the next update is the same epoch's
                    outputs.append(float((after - before).abs().mean()))
                    of_classes = after.softmax(1) - before.softmax(1)
                    probabilities.append(float(of_classes.abs().mean()))
        expected = sum(outputs) / len(outputs)
        assert row["churn_outputs"] == pytest.approx(expected, rel=1e-4)
        expected = sum(probabilities) / len(probabilities)
        assert row["churn_probabilities"] == pytest.approx(expected, rel=1e-4)
        assert expected > 0


def test_the_last_update_of_a_task_is_watched_too() -> None:
    learner, task = tiny_learner("mlp"), tiny_task()
    watching = Churn.of(learner, task, 0)(learner, task)
    before = copy.deepcopy(learner.network)
    learner.update(*task.train.batch(slice(None)), [watching])
    order = torch.randperm(17, generator=generator_for(0, "churn", task.index))
    x, _ = task.test.batch(order)
    expected = (learner.network(x) - before(x)).abs().mean().item()
    assert watching.value()["outputs"] == pytest.approx(expected, rel=1e-5)


def test_updates_of_which_one_is_not_seen_are_not_taken_for_one() -> None:
    learner, task = tiny_learner("mlp"), tiny_task()
    watching = Churn.of(learner, task, 0)(learner, task)
    assert watching.value() == {}
    learner.update(*task.train.batch(slice(0, 5)), [watching])
    learner.update(*task.train.batch(slice(5, 9)))
    assert watching.value() == {}


def test_churn_of_a_linear_network_is_known() -> None:
    # z = w x: an SGD step changes z at x' by -rate (sum of the batch's gradients) x'.
    network = nn.Linear(1, 1, bias=False)
    learner = Learner(
        network, lambda p: torch.optim.SGD(p, lr=0.5), lambda outputs, y: outputs.sum() * 3
    )
    x = torch.tensor([[1.0], [2.0]])
    watching = probes.ChurnWatch(learner, torch.tensor([[1.0], [-4.0]]))
    learner.update(x, torch.tensor([0, 0]), [watching])
    columns = watching.value()
    assert columns["outputs"] == pytest.approx(0.5 * 3 * 3 * (1 + 4) / 2)


def test_no_step_no_churn_and_a_shift_of_all_logits_is_none_of_the_probabilities() -> None:
    learner, task = tiny_learner("mlp"), tiny_task()
    for group in learner.optimizer.param_groups:
        group["lr"] = 0.0
    watching = Churn.of(learner, task, 0)(learner, task)
    learner.update(*task.train.batch(slice(None)), [watching])
    assert watching.value() == {"outputs": 0, "probabilities": 0}

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.shift = tiny_network("mlp"), nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x) + self.shift

    network = Shifted()
    learner = Learner(
        network, lambda p: torch.optim.SGD([network.shift], lr=1.0), lambda out, y: out.sum()
    )
    watching = Churn.of(learner, task, 0)(learner, task)
    learner.update(*task.train.batch(slice(0, 1)), [watching])
    columns = watching.value()
    assert columns["outputs"] == pytest.approx(NUM_CLASSES)
    assert columns["probabilities"] == pytest.approx(0, abs=1e-6)
