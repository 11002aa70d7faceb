"""What changes from task to task: pixels, labels, a part of them, again and again, or nothing."""

import itertools
from collections import Counter
from typing import Any

import pytest
import torch

from experiments.mnist import EXPERIMENT, Config
from plasticity.errors import UsageError
from plasticity.protocol.choices import with_settings
from plasticity.seeding import generator_for
from plasticity.tasks.streams import PermutedPixels
from tests.tiny import NUM_CLASSES, NUM_INPUTS, same, tiny_images

EVERY = slice(None)


def stream(num_tasks: int = 6, **changes: Any) -> PermutedPixels:
    return PermutedPixels(
        tiny_images(num_train=30), num_tasks=num_tasks, seed=5, num_inputs=NUM_INPUTS, **changes
    )


def batches(of: PermutedPixels, index: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [of[index].train.batch(EVERY), of[index].test.batch(EVERY)]


def test_said_or_not_the_defaults_are_what_tasks_were_before() -> None:
    plain, said = stream(), stream(moved=1.0, relabel=False, recurring=None)
    for index in range(6):
        assert same(batches(plain, index), batches(said, index))
        order = torch.randperm(NUM_INPUTS, generator=generator_for(5, "permutation", index))
        assert torch.equal(said.permutation(index), order)
        assert said.labels(index).tolist() == [*range(NUM_CLASSES)]


def test_relabeled_tasks_have_one_order_and_each_class_another_label() -> None:
    plain, relabeled = stream(), stream(moved=0.0, relabel=True)
    for index in range(6):
        new = relabeled.labels(index)
        assert sorted(new.tolist()) == [*range(NUM_CLASSES)]
        for (x, y), (first, old) in zip(batches(relabeled, index), batches(plain, 0), strict=True):
            assert torch.equal(x, first)
            assert y.tolist() == [int(new[label]) for label in old]
    both = stream(relabel=True)
    for index in range(6):
        for (x, y), (pixels, _), (_, labels) in zip(
            batches(both, index), batches(plain, index), batches(relabeled, index), strict=True
        ):
            assert torch.equal(x, pixels) and torch.equal(y, labels)


def test_each_label_comes_to_each_class_as_often() -> None:
    of = stream(600, relabel=True)
    drawn = Counter(tuple(of.labels(index).tolist()) for index in range(600))
    assert {*drawn} == {*itertools.permutations(range(NUM_CLASSES))}
    # Of 600 draws of one in six, 100 each; five standard deviations are 46.
    assert all(abs(count - 100) < 46 for count in drawn.values())


@pytest.mark.parametrize("moved", [0.0, 0.25, 0.5, 0.9])
def test_a_part_of_the_inputs_moves_and_no_other(moved: float) -> None:
    of = stream(400, moved=moved)
    first = of.permutation(0)
    assert torch.equal(first, stream().permutation(0))
    moving = {*of.moving().tolist()}
    assert len(moving) == round(moved * NUM_INPUTS)
    changed: Counter[int] = Counter()
    for index in range(1, 400):
        order = of.permutation(index)
        assert sorted(order.tolist()) == [*range(NUM_INPUTS)]
        changed.update((order != first).nonzero().flatten().tolist())
    assert {*changed} == moving
    # A permutation of n leaves each where it is in one case of n.
    for count in changed.values():
        assert count / 399 == pytest.approx(1 - 1 / len(moving), abs=0.12)


def test_permutations_come_back_in_turn_and_are_those_of_the_first_tasks() -> None:
    plain, of = stream(), stream(recurring=2, relabel=True)
    for index in range(6):
        assert torch.equal(of.permutation(index), plain.permutation(index % 2))
        assert torch.equal(of.labels(index), of.labels(index % 2))
        assert same(batches(of, index), batches(of, index % 2))
    assert not torch.equal(of.permutation(0), of.permutation(1))
    still = stream(recurring=1, relabel=True)
    assert all(same(batches(still, index), batches(still, 0)) for index in range(6))


def test_recurring_tasks_have_images_of_their_own() -> None:
    of = stream(recurring=1, num_train=9)
    drawn = [of[index].train.batch(EVERY)[0] for index in range(4)]
    assert not any(same(a, b) for a, b in itertools.combinations(drawn, 2))
    assert same(of[0].test.batch(EVERY), of[3].test.batch(EVERY))


def test_labels_turn_with_the_images_in_a_gradual_task() -> None:
    of = stream(relabel=True, gradual=1.0)
    plain = stream(relabel=True)
    index = next(i for i in range(1, 6) if plain.labels(i).ne(plain.labels(i - 1)).any())
    old, new = (plain[i].train.batch(EVERY) for i in (index - 1, index))
    turn = torch.rand(30, generator=generator_for(5, "gradual", index))
    x, y = of[index].train.at(0.5).batch(EVERY)
    for sample in range(30):
        pixels, labels = new if turn[sample] <= 0.5 else old
        assert torch.equal(x[sample], pixels[sample]) and y[sample] == labels[sample]


@pytest.mark.parametrize("wrong", [{"moved": -0.1}, {"moved": 1.5}, {"recurring": 0}])
def test_what_can_be_no_stream_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"moved|recurring"):
        stream(**wrong)


# --- on the command line


def config(**settings: Any) -> Config:
    return with_settings(EXPERIMENT.presets["quick"].config, settings)


@pytest.mark.parametrize(
    ("settings", "moved", "relabel", "recurring"),
    [
        ({}, 1.0, False, None),
        ({"relabel": True}, 0.0, True, None),
        ({"relabel": True, "permute": True}, 1.0, True, None),
        ({"relabel": True, "permuted_fraction": 0.3}, 0.3, True, None),
        ({"permuted_fraction": 0.0}, 0.0, False, None),
        ({"recurring": 4, "permuted_fraction": 0.5}, 0.5, False, 4),
        ({"stationary": True}, 1.0, False, 1),
        ({"stationary": True, "relabel": True}, 0.0, True, 1),
    ],
)
def test_options_choose_what_changes(
    settings: dict, moved: float, relabel: bool, recurring: int | None
) -> None:
    inputs = EXPERIMENT.presets["quick"].arms["mlp"].inputs
    chosen = config(**settings)
    found = EXPERIMENT.build.__self__.problem_of(chosen, tiny_images(), inputs).stream
    assert (found.moved, found.relabel, found.recurring) == (moved, relabel, recurring)
    # What is not said is no part of a run's name.
    identity = {*EXPERIMENT.identity(chosen, tiny_images())}
    assert identity == {*EXPERIMENT.identity(config(), tiny_images())} | {*settings}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"permute": True}, "--permute: pixels are permuted anyway"),
        ({"permuted_fraction": 1.5}, "--permuted-fraction 1.5: a part"),
        ({"relabel": True, "permute": True, "permuted_fraction": 0.5}, "say one of them"),
        ({"stationary": True, "recurring": 2}, "--stationary, --recurring: say one of them"),
        ({"recurring": 0}, "--recurring 0: must be positive"),
    ],
)
def test_options_that_contradict_each_other_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config(**settings)
