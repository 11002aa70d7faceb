"""Task streams: which pixel goes where, and that nothing is copied to put it there."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from plasticity.errors import DataError
from plasticity.seeding import generator_for
from plasticity.tasks.images import Images, load_digits
from plasticity.tasks.streams import ClassPairs, PermutedPixels, SpinChainLevels
from tests.tiny import NUM_INPUTS, NUM_PIXELS, random_states, same, tiny_images, tiny_stream


def slow_batch(stream: PermutedPixels, raw: np.ndarray, task: int) -> list[list[float]]:
    """Pixel by pixel, in Python's numbers."""
    sources = torch.randperm(
        stream.num_inputs, generator=generator_for(stream.seed, "permutation", task)
    ).tolist()
    batch = []
    for image in raw.tolist():
        sample = [image[k] * stream.scale if k < len(image) else 0.0 for k in sources]
        norm = math.sqrt(sum(value**2 for value in sample)) if stream.unit_norm else 1.0
        batch.append([value / norm for value in sample])
    return batch


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("num_inputs", [NUM_PIXELS, NUM_PIXELS + 1, NUM_INPUTS])
def test_batches_match_a_loop_over_pixels(num_inputs: int, unit_norm: bool, dtype) -> None:
    images = tiny_images(dtype=dtype)
    stream = PermutedPixels(images, num_tasks=3, seed=4, num_inputs=num_inputs, unit_norm=unit_norm)
    for task in stream:
        splits = (
            (task.train, images.x_train, images.y_train),
            (task.test, images.x_test, images.y_test),
        )
        for samples, raw, labels in splits:
            assert len(samples) == len(raw)
            for index in (slice(0, 4), slice(3, 99), torch.tensor([5, 0, 5, 6])):
                chosen = np.arange(len(raw))[index]
                x, y = samples.batch(index)
                assert x.dtype == torch.float32
                assert y.dtype == torch.int64
                assert y.tolist() == labels[chosen].tolist()
                expected = torch.tensor(slow_batch(stream, raw[chosen], task.index))
                torch.testing.assert_close(x, expected, rtol=1e-6, atol=0)


EXTREMES = {
    "tiny": [1e-25],
    "huge": [1e25],
    "subnormal": [1e-42],
    "largest": [1.3e36],  # times pixels up to 255: the edge of float32
    "mixed": [1e25, 1.0, 1e-25, 1e-42, 1.3e36],
}


def spread(images: Images, factors: list[float]) -> Images:
    """Multiply each image by one of the factors, in float32."""
    x = [
        (of_split * np.resize(factors, (len(of_split), 1))).astype(np.float32)
        for of_split in (images.x_train, images.x_test)
    ]
    return dataclasses.replace(images, x_train=x[0], x_test=x[1], scale=1.0)


@pytest.mark.parametrize("case", EXTREMES)
def test_unit_norm_of_images_whose_squares_float32_cannot_hold(case: str) -> None:
    images = spread(tiny_images(), EXTREMES[case])
    stream = PermutedPixels(images, num_tasks=2, seed=4, num_inputs=NUM_INPUTS, unit_norm=True)
    for task in stream:
        for samples, raw in ((task.train, images.x_train), (task.test, images.x_test)):
            # The loop's numbers are Python's, which hold these squares.
            expected = torch.tensor(slow_batch(stream, raw, task.index))
            torch.testing.assert_close(samples.batch(slice(None))[0], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", EXTREMES)
def test_unit_norm_of_pairs_whose_squares_float32_cannot_hold(case: str) -> None:
    images = spread(pair_images(), EXTREMES[case])
    stream = ClassPairs(images, num_tasks=3, seed=0)
    for task in stream:
        wanted = np.isin(images.y_train, stream.pair(task.index))
        raw = images.x_train[wanted].astype(np.float64)
        expected = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
        x, _ = task.train.batch(slice(None))
        ours = x[np.lexsort(x.numpy().T)]
        torch.testing.assert_close(
            ours, torch.tensor(expected[np.lexsort(expected.T)]), rtol=1e-6, atol=0
        )


def test_one_extreme_image_changes_no_bit_of_the_others() -> None:
    images = tiny_images(dtype=np.float32)
    changed = dataclasses.replace(images, x_train=images.x_train.copy())
    changed.x_train[3] *= np.float32(1e-30)
    plain, other = (
        PermutedPixels(i, num_tasks=1, seed=4, num_inputs=NUM_INPUTS, unit_norm=True)[0]
        for i in (images, changed)
    )
    rest = torch.arange(len(images.x_train)) != 3
    assert same(plain.train.batch(rest)[0], other.train.batch(rest)[0])


@pytest.mark.parametrize("factor", [2.0**-100, 2.0**-40, 1.0, 2.0**40, 2.0**100])
def test_unit_vectors_are_those_of_the_plain_quotient_bit_for_bit(factor: float) -> None:
    """Rows of ordinary images that were recorded with the quotient stay what they are."""

    def quotient(x: torch.Tensor) -> torch.Tensor:
        return x / torch.linalg.vector_norm(x, dim=1, keepdim=True)

    images = tiny_images()
    stream = PermutedPixels(
        spread(images, [factor]), num_tasks=1, seed=0, num_inputs=NUM_PIXELS, unit_norm=True
    )
    plain = torch.from_numpy(images.x_train).float()
    permuted = plain.T.contiguous().index_select(0, stream.permutation(0)).T
    assert same(stream[0].train.batch(slice(None))[0], quotient(permuted * 1.0))
    images = pair_images()
    pairs = ClassPairs(spread(images, [factor]), num_tasks=1, seed=0)
    plain = torch.from_numpy(images.x_train).float()
    raw = torch.cat([plain[images.y_train == label] for label in pairs.pair(0)])
    assert same(pairs[0].train.batch(slice(None))[0], quotient(raw))


def test_digits_are_the_same_images_in_another_order_of_pixels() -> None:
    images = load_digits()
    stream = PermutedPixels(images, num_tasks=2, seed=0, num_inputs=64)
    for task in stream:
        x, y = task.test.batch(slice(None))
        assert y.tolist() == images.y_test.tolist()
        sorted_pixels = np.sort(images.x_test / 16, axis=1)
        np.testing.assert_array_equal(x.sort(dim=1).values.numpy(), sorted_pixels)
        assert not np.array_equal(x.numpy(), images.x_test / 16)


def test_tasks_are_counted_and_numbered() -> None:
    stream = tiny_stream(num_tasks=3)
    assert len(stream) == 3
    assert [task.index for task in stream] == [0, 1, 2]


def test_every_permutation_is_one_and_no_two_tasks_share_it() -> None:
    stream = tiny_stream(num_tasks=50)
    permutations = [stream.permutation(index) for index in range(50)]
    for permutation in permutations:
        assert permutation.dtype == torch.int64
        assert sorted(permutation.tolist()) == list(range(NUM_INPUTS))
    assert len({tuple(p.tolist()) for p in permutations}) == 50
    assert permutations[0].tolist() != list(range(NUM_INPUTS))


def test_a_task_is_a_function_of_seed_and_index_whatever_was_asked_before() -> None:
    forwards = [task.train.batch(slice(None)) for task in tiny_stream(num_tasks=4)]
    stream = tiny_stream(num_tasks=400)
    for index in (2, 2, 0, 3, 1):
        with torch.random.fork_rng():
            torch.manual_seed(index)
            assert same(stream[index].train.batch(slice(None)), forwards[index])
    other_seed = tiny_stream(seed=2)[0].train.batch(slice(None))
    assert not same(other_seed, forwards[0])


def test_both_arms_see_the_same_permutations_where_the_inputs_are_as_many() -> None:
    classical = PermutedPixels(tiny_images(), num_tasks=3, seed=5, num_inputs=8)
    quantum = PermutedPixels(tiny_images(), num_tasks=3, seed=5, num_inputs=8, unit_norm=True)
    for first, second in zip(classical, quantum, strict=True):
        assert same(classical.permutation(first.index), quantum.permutation(second.index))
        x, _ = first.train.batch(slice(None))
        unit, _ = second.train.batch(slice(None))
        torch.testing.assert_close(x / x.norm(dim=1, keepdim=True), unit)


def test_training_and_test_images_share_their_permutation() -> None:
    images = tiny_images(num_train=1, num_test=1)
    images.x_test[:] = images.x_train
    for task in PermutedPixels(images, num_tasks=3, seed=0, num_inputs=NUM_INPUTS):
        assert same(task.train.batch(slice(None))[0], task.test.batch(slice(None))[0])


@pytest.mark.parametrize("num_inputs", [NUM_PIXELS, NUM_INPUTS])
def test_tasks_share_one_copy_of_the_raw_images(num_inputs: int) -> None:
    stream = PermutedPixels(tiny_images(), num_tasks=2, seed=0, num_inputs=num_inputs)
    for split in ("train", "test"):
        one, two = getattr(stream[0], split), getattr(stream[1], split)
        for name in ("pixels", "labels"):
            first, second = getattr(one, name), getattr(two, name)
            assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
        assert one.pixels.dtype == torch.uint8


def test_batches_do_not_write_into_the_images() -> None:
    images = tiny_images()
    digest = images.digest
    stream = PermutedPixels(images, num_tasks=1, seed=0, num_inputs=NUM_PIXELS, unit_norm=True)
    x, _ = stream[0].train.batch(slice(None))
    x.zero_()
    assert stream[0].train.batch(slice(None))[0].all()
    del images.__dict__["digest"]  # computed anew
    assert images.digest == digest


def test_global_random_states_are_untouched() -> None:
    before = random_states()
    for task in tiny_stream():
        task.train.batch(slice(None))
    assert same(random_states(), before)


@pytest.mark.parametrize("index", [-1, 3, 100])
def test_index_out_of_range_is_named(index: int) -> None:
    with pytest.raises(IndexError, match=rf"task {index} is not one of 0\.\.2"):
        tiny_stream(num_tasks=3)[index]


def test_too_few_inputs_are_named() -> None:
    with pytest.raises(ValueError, match="6 pixels do not fit into 5 inputs"):
        PermutedPixels(tiny_images(), num_tasks=1, seed=0, num_inputs=5)


# --- pairs of classes


def pair_images(per_class: int = 40, num_classes: int = 4) -> Images:
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(num_classes).repeat(per_class))
    x = rng.integers(1, 256, (len(y), NUM_PIXELS), dtype=np.uint8)
    x[:, 0] = y + 1  # the class can be read off the first pixel
    return Images("pairs", x, y, x[:50].copy(), y[:50].copy(), scale=1 / 255)


def test_pairs_are_distinct_ordered_and_a_function_of_seed_and_task() -> None:
    stream = ClassPairs(pair_images(), num_tasks=200, seed=3)
    pairs = [stream.pair(k) for k in range(200)]
    assert [stream.pair(k) for k in reversed(range(200))] == pairs[::-1]
    assert set(pairs) == {(a, b) for a in range(4) for b in range(4) if a != b}
    assert pairs != [ClassPairs(pair_images(), num_tasks=200, seed=4).pair(k) for k in range(200)]


def test_a_task_holds_all_images_of_its_pair_at_unit_norm_and_no_others() -> None:
    images = pair_images()
    stream = ClassPairs(images, num_tasks=5, seed=0)
    for index in range(5):
        task, pair = stream[index], stream.pair(index)
        for samples, x, y in (
            (task.train, images.x_train, images.y_train),
            (task.test, images.x_test, images.y_test),
        ):
            expected = sorted(
                (pair.index(label), *np.round(image / np.sqrt((image / 1.0) @ image), 5))
                for image, label in zip(x.astype(float), y, strict=True)
                if label in pair
            )
            batch, labels = samples.batch(slice(None))
            ours = sorted(
                (int(label), *np.round(image.double().numpy(), 5))
                for image, label in zip(batch, labels, strict=True)
            )
            np.testing.assert_allclose(ours, expected, atol=2e-5)
            assert len(samples) == len(expected)


def test_tasks_are_made_when_they_are_asked_for() -> None:
    stream = ClassPairs(pair_images(), num_tasks=10**9, seed=0)
    assert len(stream[10**9 - 1].train) == 80


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pair_images(per_class=31), "has 31 training images, at least 32 are needed"),
        (pair_images(num_classes=1), "a pair needs two classes"),
        (dataclasses.replace(pair_images(), y_test=np.zeros(50, dtype=np.int64)), "0 test images"),
    ],
)
def test_too_few_classes_or_images_are_named(images: Images, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ClassPairs(images, num_tasks=1, seed=0)


# ------------------------------------------------------------------------------ spin-chain levels
class FewLevels:
    """Six levels at ten anisotropies of a chain whose states tell their level and anisotropy."""

    num_levels = 6
    deltas = tuple(range(10))

    def states(self, level: int) -> np.ndarray:
        states = np.zeros((10, 8), dtype=np.float32)
        states[:, 0], states[:, 1] = level + 1, -100 - np.arange(10)
        return states


def spin_chain(**options: Any) -> SpinChainLevels:
    arguments: dict[str, Any] = {"num_tasks": 300, "seed": 0} | options
    return SpinChainLevels(FewLevels(), **arguments)  # type: ignore[arg-type]


def test_pairs_of_levels_are_distinct_and_all_come_up_in_both_orders() -> None:
    stream = spin_chain()
    pairs = [stream.pair(k) for k in range(300)]
    assert all(first != second for first, second in pairs)
    assert set(pairs) == {(a, b) for a in range(6) for b in range(6) if a != b}
    assert pairs == [spin_chain().pair(k) for k in range(300)]
    assert pairs != [spin_chain(seed=1).pair(k) for k in range(300)]


def test_states_have_the_label_of_their_level_and_a_fifth_is_held_out() -> None:
    stream = spin_chain()
    held_out = set()
    for index in range(20):
        task = stream[index]
        (x_train, y_train), (x_test, y_test) = (
            samples.batch(slice(None)) for samples in (task.train, task.test)
        )
        assert (len(x_train), len(x_test)) == (16, 4)
        x, y = torch.cat([x_train, x_test]), torch.cat([y_train, y_test])
        pair = torch.tensor(stream.pair(index))
        assert torch.equal(x[:, 0], pair[y] + 1.0)
        samples = set(zip(y.tolist(), x[:, 1].tolist(), strict=True))
        assert samples == {(label, -100.0 - k) for label in (0, 1) for k in range(10)}
        held_out.add(tuple(zip(y_test.tolist(), x_test[:, 1].tolist(), strict=True)))
    assert len(held_out) == 1  # the same anisotropies in every task
    assert y_train.dtype == torch.int64


def test_imaginary_parts_are_zeros_behind_the_real_ones() -> None:
    x, _ = spin_chain(imaginary=True)[3].train.batch(slice(None))
    plain, _ = spin_chain()[3].train.batch(slice(None))
    assert torch.equal(x, torch.cat([plain, torch.zeros_like(plain)], 1))


def test_fixed_sign_makes_the_largest_amplitude_positive_and_changes_nothing_else() -> None:
    x, _ = spin_chain(fix_sign=True)[3].train.batch(slice(None))
    plain, _ = spin_chain()[3].train.batch(slice(None))
    assert torch.equal(x, -plain)  # the second amplitude, -100 and beyond, is the largest


def test_a_chain_with_one_level_is_refused() -> None:
    levels = FewLevels()
    levels.num_levels, levels.name = 1, "short chain"
    with pytest.raises(DataError, match="short chain: a pair needs two levels"):
        SpinChainLevels(levels, num_tasks=1, seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [-1, 300])
def test_tasks_beyond_the_stream_of_levels_are_an_error(index: int) -> None:
    with pytest.raises(IndexError, match=f"task {index} is not one of"):
        spin_chain()[index]


def gradual_stream(gradual: float, num_train: int | None = None) -> PermutedPixels:
    return PermutedPixels(
        tiny_images(), num_tasks=3, seed=5, num_inputs=NUM_INPUTS, gradual=gradual,
        num_train=num_train,
    )  # fmt: skip


def test_images_turn_one_by_one_within_the_first_part_of_a_gradual_task() -> None:
    abrupt, stream = gradual_stream(0.0), gradual_stream(0.5)
    every = slice(None)
    (old, labels), (new, _) = (abrupt[index].train.batch(every) for index in (1, 2))
    turn = 0.5 * torch.rand(11, generator=generator_for(5, "gradual", 2))
    for progress in (0.0, 0.1, 0.2, 0.3, 0.49, 0.5, 1.0):
        x, y = stream[2].train.at(progress).batch(every)
        for sample in range(11):
            expected = new if turn[sample] <= progress else old
            assert torch.equal(x[sample], expected[sample])
        assert torch.equal(y, labels)
    some = torch.tensor([3, 0, 7])
    assert torch.equal(
        stream[2].train.at(0.25).batch(some)[0], stream[2].train.at(0.25).batch(every)[0][some]
    )
    assert torch.equal(stream[2].test.batch(every)[0], abrupt[2].test.batch(every)[0])


def test_the_first_task_and_abrupt_ones_do_not_change() -> None:
    assert not hasattr(gradual_stream(0.5)[0].train, "at")
    assert not hasattr(gradual_stream(0.0)[1].train, "at")


def test_a_task_learns_from_so_many_images_drawn_anew_for_each() -> None:
    whole, stream = gradual_stream(0.0), gradual_stream(0.0, num_train=4)
    chosen = []
    for index in range(3):
        every, (x, y) = (
            whole[index].train.batch(slice(None)),
            stream[index].train.batch(slice(None)),
        )
        assert len(stream[index].train) == len(y) == 4
        drawn = torch.randperm(11, generator=generator_for(5, "training images", index))[:4]
        assert torch.equal(x, every[0][drawn])
        assert torch.equal(y, every[1][drawn])
        assert len(stream[index].test) == len(whole[index].test)
        chosen.append(sorted(drawn.tolist()))
    assert len({tuple(c) for c in chosen}) == 3


def test_images_that_turn_are_the_tasks_own_where_it_has_a_part_of_them() -> None:
    stream = gradual_stream(1.0, num_train=4)
    first, last = (stream[2].train.at(p).batch(slice(None)) for p in (0.0, 1.0))
    assert torch.equal(first[1], last[1])
    assert torch.equal(first[0].sort(1).values, last[0].sort(1).values)  # the same pixels
    assert not torch.equal(first[0], last[0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"gradual": -0.1},
        {"gradual": 1.1},
        {"gradual": 0.0, "num_train": 12},
        {"gradual": 0.0, "num_train": 0},
    ],
)
def test_a_part_that_is_none_and_too_many_images_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"gradual|training images a task"):
        gradual_stream(**{"gradual": 0.0} | wrong)


# --- wrong use


def changed_images(**arrays: Any) -> Images:
    return dataclasses.replace(tiny_images(), **arrays)


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"x_train": [[1.0]]}, "x_train must be a NumPy array, not list"),
        ({"y_test": torch.zeros(3)}, "y_test must be a NumPy array, not Tensor"),
        ({"x_train": np.zeros((3, 2))}, "x_train has dtype float64: must be uint8 or float32"),
        ({"y_train": np.zeros(3)}, "y_train has dtype float64: must be int64"),
        ({"x_test": np.zeros((3, 2, 2), np.uint8)}, r"x_test has shape \(3, 2, 2\): must be"),
        ({"x_train": np.zeros((0, 2), np.uint8)}, r"x_train has shape \(0, 2\)"),
        ({"y_train": np.zeros(3, np.int64)}, "images in x_train, 3 labels in y_train"),
        ({"x_test": tiny_images().x_test[:, :2]}, "pixels an image in x_train, 2 in x_test"),
    ],
)
@pytest.mark.parametrize("stream", [PermutedPixels, ClassPairs])
def test_arrays_that_are_no_images_are_named(
    stream: Any, arrays: dict[str, Any], part: str
) -> None:
    options = {"num_inputs": NUM_INPUTS} if stream is PermutedPixels else {}
    with pytest.raises((TypeError, ValueError), match=part):
        stream(changed_images(**arrays), num_tasks=1, seed=0, **options)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"num_tasks": -1}, "num_tasks -1: must not be negative"),
        ({"num_tasks": 2.5}, "num_tasks 2.5: must be an integer"),
        ({"seed": "0"}, "seed '0': must be an integer"),
        ({"seed": -1}, "seed -1: must not be negative"),
    ],
)
def test_number_of_tasks_and_seed_that_are_none_are_named(
    options: dict[str, Any], part: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=part):
        PermutedPixels(
            tiny_images(), **{"num_tasks": 1, "seed": 0, "num_inputs": NUM_INPUTS} | options
        )


def test_stream_of_something_else_says_what_it_shows() -> None:
    with pytest.raises(TypeError, match="PermutedPixels shows Images, say of load_images, not str"):
        PermutedPixels("digits", num_tasks=1, seed=0, num_inputs=64)
    with pytest.raises(TypeError, match="ClassPairs shows Images"):
        ClassPairs("cifar100", num_tasks=1, seed=0)
    with pytest.raises(TypeError, match="SpinChainLevels shows SpinLevels, say of load_levels"):
        SpinChainLevels(tiny_images(), num_tasks=1, seed=0)
    stream = PermutedPixels(tiny_images(), num_tasks=2, seed=0, num_inputs=NUM_INPUTS)
    with pytest.raises(TypeError, match=r"task slice\(0, 1, None\): must be an integer, 0 to 1"):
        stream[0:1]
