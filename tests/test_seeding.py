"""One rule of randomness: the stream is a function of seed, purpose and indices."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from plasticity.seeding import generator_for
from tests.tiny import random_states, same


def first_draws(generator: torch.Generator) -> tuple[int, ...]:
    return tuple(torch.randint(2**62, (4,), generator=generator).tolist())


def test_no_two_of_many_arguments_give_the_same_stream() -> None:
    indices = [t for length in range(4) for t in itertools.product(range(4), repeat=length)]
    arguments = [(s, p, i) for s in range(4) for p in ("order", "permutation") for i in indices]
    streams = {first_draws(generator_for(s, p, *i)) for s, p, i in arguments}
    assert len(streams) == len(arguments) == 4 * 2 * 85


def test_a_trailing_zero_among_the_indices_gives_another_stream() -> None:
    def draws(sequence: np.random.SeedSequence) -> list[int]:
        return sequence.generate_state(4).tolist()

    # The trap is still there: numpy cannot tell these two apart.
    assert draws(np.random.SeedSequence([3, 5])) == draws(np.random.SeedSequence([3, 5, 0]))
    streams = [
        first_draws(generator_for(3, "order", *indices))
        for indices in ((), (0,), (0, 0), (0, 0, 0))
    ]
    streams += [first_draws(generator_for(3, "order", 5, *[0] * count)) for count in range(3)]
    assert len(set(streams)) == len(streams)


def test_indices_are_not_strung_together_and_seed_is_not_an_index() -> None:
    calls = [(1, 2, 3), (1, 23), (12, 3), (1, 3, 2), (2, 1, 3)]
    streams = {first_draws(generator_for(seed, "order", *rest)) for seed, *rest in calls}
    assert len(streams) == len(calls)


def test_same_arguments_give_the_same_stream_in_every_process() -> None:
    # Drawn once and written down; hash() of a string would differ from process to process.
    assert generator_for(3, "permutation", 5).initial_seed() == 1612575382288320906
    assert generator_for(0, "order", 1, 2).initial_seed() == 269137817524761437
    draw = torch.randint(2**62, (1,), generator=generator_for(3, "permutation", 5))
    assert draw.item() == 2082356870323550701


def test_each_call_starts_its_stream_afresh() -> None:
    used = generator_for(1, "order", 2)
    expected = first_draws(used)
    assert first_draws(used) != expected
    assert first_draws(generator_for(1, "order", 2)) == expected


def test_generators_do_not_disturb_each_other() -> None:
    expected = first_draws(generator_for(1, "order", 2))
    ours, other = generator_for(1, "order", 2), generator_for(1, "order", 3)
    first_draws(other)
    assert first_draws(ours) == expected


def test_global_random_states_are_neither_read_nor_changed() -> None:
    expected = first_draws(generator_for(1, "order", 2))
    with torch.random.fork_rng():
        torch.manual_seed(99)
        before = random_states()
        assert first_draws(generator_for(1, "order", 2)) == expected
        assert same(random_states(), before)


def test_large_seeds_are_seeds() -> None:
    seeds = [2**31, 2**32, 2**32 + 1, 2**63, 2**64 + 5]
    assert len({first_draws(generator_for(seed, "order")) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("arguments", [(-1, "order"), (0, "order", -1), (0, "order", 3, -2)])
def test_negative_arguments_raise(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        generator_for(*arguments)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((1.5, "order"), "seed 1.5 .* must be integers"),
        (("0", "order"), "seed '0' .* must be integers"),
        ((None, "order"), "seed None"),
        ((0, "order", 0.5), r"indices \(0.5,\) must be integers"),
        ((0, 3), "purpose 3 must be text"),
    ],
)
def test_what_names_no_generator_is_told(arguments: tuple[Any, ...], part: str) -> None:
    with pytest.raises(TypeError, match=part):
        generator_for(*arguments)
