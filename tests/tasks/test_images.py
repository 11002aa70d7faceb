"""Tests of plasticity.tasks.images: no download, no file from outside, torchvision's readers."""

import gzip
import hashlib
import http.server
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import urllib.request
import warnings
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

from plasticity.errors import DataError
from plasticity.tasks import downloads, npz
from plasticity.tasks import images as data
from plasticity.tasks.images import Images, load_cifar100, load_images, load_mnist, load_npz

ROOT = Path(__file__).parents[2]


def small_arrays(**changes):
    """Return 12 training and 6 test images of 4x5 pixels in 3 classes, with changes."""
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (12, 4, 5), dtype=np.uint8),
        "y_train": np.arange(12, dtype=np.uint8) % 3,
        "x_test": rng.integers(0, 256, (6, 4, 5), dtype=np.uint8),
        "y_test": np.arange(6, dtype=np.uint8) % 3,
    }
    return {name: value for name, value in (arrays | changes).items() if value is not None}


def write_npz(path, **changes):
    np.savez_compressed(path, **small_arrays(**changes))
    return path


def message_of(function, *arguments):
    """Return the message of the DataError that the call raises; it has at most two lines."""
    with pytest.raises(DataError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert message.count("\n") <= 1
    return message


def put(array, position, value):
    array = array.copy()
    array[position] = value
    return array


def slow_gray(rgb):
    """Return one pixel's gray value as TensorFlow has it, in scalars."""
    value = np.float32(0)
    for channel, weight in zip(rgb, (0.2989, 0.5870, 0.1140), strict=True):
        value += np.float32(channel) * np.float32(1 / 255) * np.float32(weight)
    return int(np.floor(value * np.float32(255.5)))


@pytest.fixture
def no_network(monkeypatch):
    """Make every download fail as it does on a machine without a network, and count the tries."""
    tries = []

    def fail(request, *args, **kwargs):
        tries.append(request.full_url)
        print("as older versions of torchvision do")
        raise URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    return tries


# --- archives -----------------------------------------------------------------------------------


def test_archive_is_read_back(tmp_path):
    arrays = small_arrays()
    images = load_npz(write_npz(tmp_path / "some.npz"))
    assert (images.name, images.num_classes, images.num_pixels) == ("some.npz", 3, 20)
    assert images.scale == 1 / 255
    assert images.x_train.dtype == np.uint8 and images.y_train.dtype == np.int64
    for name, array in arrays.items():
        expected = array.reshape(len(array), -1) if name.startswith("x") else array
        np.testing.assert_array_equal(getattr(images, name), expected)


@pytest.mark.parametrize(
    "dtype, kept, scale",
    [
        ("uint8", "uint8", 1 / 255),
        ("int64", "uint8", 1 / 255),
        (">u2", "uint8", 1 / 255),
        ("bool", "uint8", 1.0),
        ("float16", "float32", 1.0),
        (">f4", "float32", 1.0),
        ("float64", "float32", 1.0),
    ],
)
def test_pixel_dtypes_keep_their_values(tmp_path, dtype, kept, scale):
    values = small_arrays()
    x = {name: (values[name] % 2).astype(dtype) for name in ("x_train", "x_test")}
    images = load_npz(write_npz(tmp_path / "a.npz", **x))
    assert images.x_train.dtype == images.x_test.dtype == kept
    assert images.scale == scale
    np.testing.assert_array_equal(images.x_train, (values["x_train"] % 2).reshape(12, 20))


@pytest.mark.parametrize("order", ["C", "F"])
def test_flat_images_and_column_labels_are_accepted_in_any_memory_order(tmp_path, order):
    arrays = small_arrays()
    changes = {
        "x_train": np.asarray(arrays["x_train"].reshape(12, 20), order=order),
        "x_test": np.asarray(arrays["x_test"], order=order),
        "y_train": arrays["y_train"][:, None].astype(">i4"),
    }
    images = load_npz(write_npz(tmp_path / "a.npz", **changes))
    assert images.digest == load_npz(write_npz(tmp_path / "b.npz")).digest
    assert images.x_test.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_rgb_archive_is_made_gray(tmp_path, dtype):
    rgb = np.random.default_rng(1).integers(0, 256, (18, 4, 5, 3))
    path = write_npz(
        tmp_path / "rgb.npz", x_train=rgb[:12].astype(dtype), x_test=rgb[12:].astype(dtype)
    )
    images = load_npz(path)
    if dtype == "float32":
        expected = (rgb[:12] @ [0.2989, 0.5870, 0.1140]).reshape(12, 20)
        np.testing.assert_allclose(images.x_train, expected, rtol=1e-6)
        assert images.x_train.dtype == np.float32
    else:
        expected = [[slow_gray(pixel) for pixel in image.reshape(20, 3)] for image in rgb[:12]]
        np.testing.assert_array_equal(images.x_train, expected)


@pytest.mark.parametrize("changed", ["x_train", "y_train", "x_test", "y_test"])
def test_digest_changes_with_any_one_value(tmp_path, changed):
    base = load_npz(write_npz(tmp_path / "a.npz"))
    array = small_arrays()[changed]
    for position in (0, -1):
        entry = (position,) * array.ndim
        other = put(array, entry, (array[entry] + 1) % 3)
        assert load_npz(write_npz(tmp_path / "b.npz", **{changed: other})).digest != base.digest


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, bool])
def test_gray_images_may_have_a_last_dimension_of_one(tmp_path, dtype):
    flat = {name: (array > 99 if dtype is bool else array.astype(dtype))
            for name, array in small_arrays().items() if name[0] == "x"}  # fmt: skip
    deep = {name: array[..., None] for name, array in flat.items()}
    with_one, without = (load_npz(write_npz(tmp_path / "a.npz", **x)) for x in (deep, flat))
    assert with_one.digest == without.digest


def test_digest_changes_with_shape_dtype_and_scale_and_with_nothing_else():
    arrays = [a.reshape(len(a), -1) if a.ndim > 1 else a for a in small_arrays().values()]
    digest = Images("a", *arrays, 1.0).digest
    assert len(digest) == 64 and digest == Images("b", *arrays, 1.0).digest
    wide = [arrays[0].reshape(6, 40), *arrays[1:]]
    signed = [arrays[0].view(np.int8), *arrays[1:]]
    others = [Images("a", *wide, 1.0), Images("a", *signed, 1.0), Images("a", *arrays, 0.5)]
    assert len({digest, *(images.digest for images in others)}) == 4


X, Y, T = (small_arrays()[name] for name in ("x_train", "y_train", "x_test"))
BAD_ARRAYS = {
    "missing_array": ({"y_test": None}, ["y_test"]),
    "objects": ({"x_train": np.array([{}] * 12)}, ["x_train", "object"]),
    "object_labels": ({"y_train": Y.astype(object)}, ["y_train", "object"]),
    "text": ({"x_train": X.astype(str)}, ["x_train", "<U"]),
    "complex": ({"x_test": T.astype(complex)}, ["x_test", "complex128"]),
    "one_dimension": ({"x_train": X[:, 0, 0]}, ["x_train", "(12,)"]),
    "five_dimensions": ({"x_train": X[:, None, :, :, None]}, ["x_train", "(12, 1, 4, 5, 1)"]),
    "two_channels": ({"x_test": np.stack([T, T], -1)}, ["x_test", "(6, 4, 5, 2)"]),
    "bool_rgb": ({"x_test": np.stack([T] * 3, -1) > 9}, ["x_test", "bool"]),
    "pixel_counts": ({"x_test": T[:, :, :4]}, ["20", "x_train", "16", "x_test"]),
    "label_count": ({"y_train": Y[:11]}, ["12", "x_train", "11", "y_train"]),
    "test_label_count": ({"x_test": T[:5]}, ["5", "x_test", "6", "y_test"]),
    "one_hot_labels": ({"y_train": np.eye(3, dtype=int)[Y]}, ["y_train", "(12, 3)"]),
    "scalar_labels": ({"y_train": np.int64(3)}, ["y_train", "()"]),
    "float_labels": ({"y_train": Y + 0.5}, ["y_train", "float64"]),
    "bool_labels": ({"y_test": np.ones(6, bool)}, ["y_test", "bool"]),
    "nan": ({"x_train": put(X / 255, (3, 1, 2), np.nan)}, ["x_train[3, 1, 2] is nan"]),
    "infinity": ({"x_test": put(T / 255, (5, 3, 4), -np.inf)}, ["x_test[5, 3, 4] is -inf"]),
    "float32_overflow": (
        {"x_train": put(X / 255, (0, 0, 1), 1e300)},
        ["x_train[0, 0, 1] is 1e+300, not a finite float32"],
    ),
    "float32_underflow": (
        {"x_train": put(X / 255, 3, 1e-60), "x_test": T / 255},
        ["image 3 of x_train is all zeros as gray float32", "1e-60"],
    ),
    "gray_underflow": (
        {"x_train": np.stack([X] * 3, -1) / 255, "x_test": np.full((6, 4, 5, 3), [0, 0, 1e-45])},
        ["image 0 of x_test is all zeros as gray float32", "1e-45"],
    ),
    "pixel_256": ({"x_train": put(X.astype(int), (2, 0, 4), 256)}, ["x_train[2, 0, 4] is 256"]),
    "pixel_minus_1": ({"x_test": put(T.astype("i2"), (1, 0, 0), -1)}, ["x_test[1, 0, 0] is -1"]),
    "mixed_scales": ({"x_test": T / 255}, ["x_train", "uint8", "x_test", "float32"]),
    "negative_label": ({"y_train": put(Y.astype(int), 4, -2)}, ["y_train[4] is -2"]),
    "unseen_test_label": ({"y_test": np.array([0, 1, 2, 3, 0, 1])}, ["y_test[3] is 3", "0..2"]),
    "gap_in_labels": ({"y_train": put(Y, Y == 1, 2)}, ["y_train", "label 1"]),
    "labels_from_1": ({"y_train": Y + 1}, ["y_train", "label 0"]),
    "giant_label": ({"y_train": put(Y.astype("u8"), 5, 2**64 - 1)}, ["y_train[5] is 18446744073"]),
    "one_class": ({"y_train": Y * 0, "y_test": Y[:6] * 0}, ["y_train", "2 classes"]),
    "no_training_image": ({"x_train": X[:0], "y_train": Y[:0]}, ["x_train", "(0, 4, 5)"]),
    "no_test_image": ({"x_test": T[:0], "y_test": Y[:0]}, ["x_test", "(0, 4, 5)"]),
    "no_pixel": ({"x_train": X[:, :0]}, ["x_train", "0 pixels"]),
    "too_many_pixels": (
        {"x_train": np.zeros((12, 2**20 + 1), np.uint8)},
        ["x_train", "1048577", "1048576"],
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_unusable_array_is_a_one_line_error(tmp_path, case):
    changes, parts = BAD_ARRAYS[case]
    message = message_of(load_npz, write_npz(tmp_path / "bad.npz", **changes))
    assert "\n" not in message
    for part in ["bad.npz", *parts]:
        assert part in message


@pytest.mark.parametrize("content", [b"", b"PK", b"hello, world" * 99, pickle.dumps({"x": 1})])
def test_file_that_is_no_archive_is_a_one_line_error(tmp_path, content):
    (tmp_path / "text.npz").write_bytes(content)
    assert "text.npz" in message_of(load_npz, tmp_path / "text.npz")


def test_missing_file_and_folder_are_one_line_errors(tmp_path):
    assert "gone.npz: No such file" in message_of(load_npz, tmp_path / "gone.npz")
    (tmp_path / "folder.npz").mkdir()
    assert "folder.npz: is no regular file" in message_of(load_npz, tmp_path / "folder.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have a name")
@pytest.mark.parametrize("name", ["MNIST/raw/t10k-labels-idx1-ubyte", "cifar-100-python/train"])
def test_pipes_and_devices_are_neither_waited_for_nor_read(tmp_path, no_network, name):
    os.mkfifo(tmp_path / "pipe.npz")
    assert "pipe.npz: is no regular file" in message_of(load_npz, tmp_path / "pipe.npz")
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).symlink_to("/dev/zero")
    dataset = "mnist" if "MNIST" in name else "cifar100"
    assert f"{name}: is no regular file" in message_of(load_images, dataset, tmp_path)


def test_unreadable_file_is_a_one_line_error(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "secret.npz")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything

        def refuse(*args, **kwargs):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(zipfile.ZipFile, "__init__", refuse)
    assert "secret.npz: Permission denied" in message_of(load_npz, path)


def test_truncated_archive_is_a_one_line_error(tmp_path):
    content = write_npz(tmp_path / "whole.npz").read_bytes()
    for length in range(0, len(content) - 1, 37):
        (tmp_path / "part.npz").write_bytes(content[:length])
        message = message_of(load_npz, tmp_path / "part.npz")
        assert "part.npz" in message and "\n" not in message


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_archive_is_a_one_line_error_or_the_same_data(tmp_path, save):
    path = tmp_path / "damaged.npz"
    save(path, **small_arrays())
    content, digest = path.read_bytes(), load_npz(path).digest
    rng = np.random.default_rng(2)
    for position in rng.integers(0, len(content), 300):
        path.write_bytes(put(np.frombuffer(content, np.uint8), position, rng.integers(256)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numpy on headers that look like Python 2's
                assert load_npz(path).digest == digest
        except DataError as error:
            assert "damaged.npz" in str(error) and "\n" not in str(error)


def test_checksum_damage_names_the_array(tmp_path):
    path = tmp_path / "flipped.npz"
    np.savez(path, **small_arrays())
    content = path.read_bytes()
    pixels = small_arrays()["x_test"].tobytes()
    path.write_bytes(content.replace(pixels, pixels[:-1] + bytes([pixels[-1] ^ 1])))
    message = message_of(load_npz, path)
    assert "flipped.npz" in message and "x_test" in message and "CRC" in message


def test_giant_header_is_an_error_before_anything_is_allocated(tmp_path):
    header = io.BytesIO()
    shape = (10**15, 28, 28)
    np.lib.format.write_array_header_1_0(
        header, {"shape": shape, "fortran_order": False, "descr": "|u1"}
    )
    path = tmp_path / "giant.npz"
    np.savez(path, **small_arrays(x_train=None))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", header.getvalue() + b"short")
    message = message_of(load_npz, path)
    assert "giant.npz" in message and "x_train has 5 bytes" in message and str(shape) in message


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("factors", [[1e-42], [1e-25], [1e25], [1e-42, 1e-25, 1.0, 1e25, 1e36]])
def test_tiny_and_huge_pixels_are_read_as_float32_has_them(tmp_path, factors, dtype):
    x = {}
    for name, count in (("x_train", 12), ("x_test", 6)):
        images = 1.0 + small_arrays()[name]
        x[name] = (images * np.resize(factors, (count, 1, 1))).astype(dtype)
    images = load_npz(write_npz(tmp_path / "a.npz", **x))
    images.require_nonzero()
    np.testing.assert_array_equal(images.x_train, x["x_train"].astype("f4").reshape(12, 20))
    np.testing.assert_array_equal(images.x_test, x["x_test"].astype("f4").reshape(6, 20))


def test_blank_and_partly_underflowing_float_images_are_read(tmp_path):
    x = put(put(X / 255, (0, 1), 1e-60), 1, 0.0)
    images = load_npz(write_npz(tmp_path / "a.npz", x_train=x, x_test=T / 255))
    assert not images.x_train[1].any() and images.x_train[0].any()


@pytest.mark.parametrize("bomb", ["x_train", "y_test"])
def test_archive_that_unpacks_to_far_more_than_images_do_is_refused_unread(
    tmp_path, monkeypatch, bomb
):
    monkeypatch.setattr(npz, "SMALL_BYTES", 2**16)
    path = write_npz(tmp_path / "bomb.npz", **{bomb: np.zeros((4000, 1000), np.uint8)})
    monkeypatch.setattr(npz, "_read_member", lambda *args: pytest.fail("unpacked"))
    message = message_of(load_npz, path)
    for part in ("bomb.npz", "unpacks to 4 MB", f"{npz.MAX_COMPRESSION} times", "numpy.savez"):
        assert part in message
    assert "\n" not in message


def test_zeros_that_are_not_many_are_read(tmp_path):
    x = {name: np.zeros((count, 100, 100)) for name, count in (("x_train", 12), ("x_test", 6))}
    path = write_npz(tmp_path / "zeros.npz", **x)
    assert npz.MAX_COMPRESSION * path.stat().st_size < 18 * 10**4 * 8
    assert not load_npz(path).x_train.any()


@pytest.mark.slow
def test_drawings_of_two_colors_compress_well_and_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "SMALL_BYTES", 0)
    digits = data.load_digits()
    large = np.kron((digits.x_train.reshape(-1, 8, 8) > 8), np.ones((1, 14, 14)))
    arrays = {"x_train": large, "y_train": digits.y_train, "x_test": large[:9]}
    path = write_npz(tmp_path / "drawings.npz", **arrays, y_test=digits.y_train[:9])
    assert large.nbytes > 100 * path.stat().st_size
    assert load_npz(path).num_pixels == 112**2


def test_archive_larger_than_half_the_memory_is_refused_unread(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "large.npz")
    num_bytes = sum(128 + array.nbytes for array in small_arrays().values())
    pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 2 * num_bytes}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    load_npz(path)
    pages["SC_PHYS_PAGES"] -= 2
    monkeypatch.setattr(npz, "_read_member", lambda *args: pytest.fail("unpacked"))
    message = message_of(load_npz, path)
    assert "large.npz unpacks to" in message and "of memory" in message and "\n" not in message


# --- names, digits, gray ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["minst", "digits.npy", "", "npz"])
def test_unknown_dataset_names_the_choices(tmp_path, name):
    message = message_of(load_images, name, tmp_path)
    for part in (repr(name), "mnist", "digits", "cifar100", ".npz"):
        assert part in message


def test_load_images_reads_the_path_of_an_archive(tmp_path):
    path = write_npz(tmp_path / "mine.npz")
    assert load_images(str(path), tmp_path / "unused").digest == load_npz(path).digest
    assert not (tmp_path / "unused").exists()


def test_digits_are_whole_and_the_same_in_two_calls():
    from sklearn.datasets import load_digits as sklearn_digits

    images, again = (load_images("digits", Path("unused")) for _ in range(2))
    assert images.digest == again.digest
    assert (images.name, images.num_classes, images.num_pixels) == ("digits", 10, 64)
    assert images.x_train.dtype == np.uint8 and images.scale * images.x_train.max() == 1.0
    rows = np.concatenate([images.x_train, images.x_test]).tolist()
    assert sorted(rows) == sorted(sklearn_digits().data.astype(int).tolist())


def test_digits_split_is_stratified():
    images = data.load_digits()
    train, test = np.bincount(images.y_train), np.bincount(images.y_test)
    assert (train.sum(), test.sum()) == (1437, 360)
    np.testing.assert_allclose(test, 0.2 * (train + test), atol=1.0)


def test_gray_equals_a_slow_loop_in_every_block():
    rgb = np.random.default_rng(3).integers(0, 256, (3, 600, 700, 3), dtype=np.uint8)
    gray = npz.to_gray(rgb)  # 420,000 pixels an image: two blocks
    assert gray.shape == (3, 420_000) and gray.dtype == np.uint8
    for image, position in [(0, 0), (1, 77), (2, 0), *[(2, 419_999 - i) for i in range(3000)]]:
        assert gray[image, position] == slow_gray(rgb[image].reshape(-1, 3)[position])


def test_gray_of_a_gray_pixel_is_that_pixel():
    levels = np.arange(256, dtype=np.uint8)
    rgb = np.stack([levels] * 3, axis=-1)[None, None]
    np.testing.assert_array_equal(npz.to_gray(rgb), levels[None])


def test_gray_adds_red_green_blue_in_this_order_in_float32():
    rgb = np.array([[5, 49, 41], [10, 98, 82], [20, 196, 164]], dtype=np.uint8)
    # Sums at the edge of rounding: blue + green + red gives one more.
    assert [slow_gray(pixel) for pixel in rgb] == [34, 69, 139]
    np.testing.assert_array_equal(npz.to_gray(rgb[None, None]), [[34, 69, 139]])


def test_gray_of_the_primary_colors():
    rgb = 255 * np.eye(3, dtype=np.uint8)[None, None]
    # 255.5 * (0.2989, 0.5870, 0.1140) = 76.4, 149.98, 29.1, rounded down
    np.testing.assert_array_equal(npz.to_gray(rgb), [[76, 149, 29]])


# --- torchvision --------------------------------------------------------------------------------


def idx(array):
    """Return an array of bytes in the format of the MNIST files."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def md5(content):
    return hashlib.md5(content).hexdigest()


def mnist_archives():
    """Return a small MNIST as torchvision downloads it, by file name."""
    archives = {}
    for name, array in small_arrays().items():
        part = "train" if name.endswith("train") else "t10k"
        kind = "images-idx3" if name.startswith("x") else "labels-idx1"
        archives[f"{part}-{kind}-ubyte.gz"] = gzip.compress(idx(array), mtime=0)
    return archives


RGB = np.random.default_rng(4).integers(0, 256, (9, 3, 32, 32), dtype=np.uint8)


def cifar_files():
    """Return a small CIFAR-100 as its pickled files, by name."""
    flat = RGB.reshape(9, -1)
    files = {
        "train": {"data": flat[:6], "fine_labels": [0, 1, 2, 0, 1, 2], "coarse_labels": [7] * 6},
        "test": {"data": flat[6:], "fine_labels": [2, 1, 0], "coarse_labels": [7] * 3},
        "meta": {"fine_label_names": ["apple", "baby", "can"]},
    }
    return {name: pickle.dumps(content, protocol=2) for name, content in files.items()}


def cifar_archive(files):
    """Return files as torchvision downloads them."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(archive.getvalue(), mtime=0)


def small_sets(address="http://nowhere/"):
    """Return what torchvision has to hold for official, by class and attribute."""
    files = {name: md5(content) for name, content in cifar_files().items()}
    return {
        "MNIST": {
            "mirrors": [address],
            "resources": [(name, md5(content)) for name, content in mnist_archives().items()],
        },
        "CIFAR100": {
            "url": f"{address}cifar-100-python.tar.gz",
            "tgz_md5": md5(cifar_archive(cifar_files())),
            "train_list": [["train", files["train"]]],
            "test_list": [["test", files["test"]]],
            "meta": {"filename": "meta", "key": "fine_label_names", "md5": files["meta"]},
        },
    }


@pytest.fixture
def official(tmp_path, monkeypatch):
    """Have the small data sets taken for the official ones; return the way to say from where."""
    expected = load_npz(write_npz(tmp_path / "expected.npz"))
    monkeypatch.setattr(data, "MNIST_DIGEST", expected.digest)

    def served_from(address):
        for name, attributes in small_sets(address).items():
            for attribute, value in attributes.items():
                dataset = getattr(downloads.torchvision_datasets(), name)
                monkeypatch.setattr(dataset, attribute, value)

    served_from("http://nowhere/")
    return served_from


@pytest.fixture
def mnist(tmp_path, official, no_network):
    """Write a small MNIST as .gz files; return their folder."""
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in mnist_archives().items():
        (raw / name).write_bytes(content)
    return raw


def test_mnist_is_unpacked_then_read_from_its_cache_without_network(mnist, no_network):
    root = mnist.parents[1]
    images = load_images("mnist", root)
    assert (images.name, images.num_classes, images.scale) == ("mnist", 3, 1 / 255)
    np.testing.assert_array_equal(images.x_train, X.reshape(12, 20))
    np.testing.assert_array_equal(images.y_train, Y)
    for packed in mnist.glob("*.gz"):
        packed.unlink()
    assert load_mnist(root).digest == images.digest
    assert no_network == []


@pytest.mark.parametrize("packed", [True, False])
def test_the_four_files_of_mnist_lie_in_the_root_itself_also_where_nothing_can_be_written(
    tmp_path, official, no_network, packed
):
    root = tmp_path / "files"
    root.mkdir()
    for name, content in mnist_archives().items():
        content, name = (content, name) if packed else (gzip.decompress(content), name[:-3])
        (root / name).write_bytes(content)
    before = sorted(root.iterdir())
    images = load_images("mnist", root)
    np.testing.assert_array_equal(images.x_test, T.reshape(6, 20))
    np.testing.assert_array_equal(images.y_train, Y)
    assert (images.x_train.dtype, images.y_test.dtype) == (np.uint8, np.int64)
    assert (sorted(root.iterdir()), no_network) == (before, [])


def test_damaged_files_in_the_root_are_not_read_and_whole_ones_below_it_are(mnist, no_network):
    root = mnist.parents[1]
    whole = mnist_archives()
    for damage in (b"", b"\x1f\x8b", b"\0\0\x08\xff", whole[min(whole)][:-9]):
        for name, content in whole.items():
            (root / name).write_bytes(damage if name == min(whole) else content)
        assert load_mnist(root).digest == data.MNIST_DIGEST
    for packed in mnist.glob("*"):
        packed.unlink()
    assert "not whole" in message_of(load_mnist, root)


def test_official_mnist_digest_is_checked(mnist, monkeypatch, no_network):
    root = mnist.parents[1]
    load_mnist(root)
    other = "00" * 32
    monkeypatch.setattr(data, "MNIST_DIGEST", other)
    message = message_of(load_mnist, root)
    assert "truncated or altered" in message and f"not {other[:12]}" in message
    assert no_network == []


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:3],
        lambda content: content[:9],
        lambda content: content[:-1],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content + b"\0",
        lambda content: b"\0\0\x0a" + content[3:],
        lambda content: b"<html>not found</html>",
    ],
    ids=["empty", "header_cut", "dims_cut", "short", "one_bit", "long", "type", "html"],
)
def test_damaged_mnist_cache_is_replaced_or_the_way_out_is_told(
    mnist, no_network, capfd, file, damage
):
    root = mnist.parents[1]
    whole = load_mnist(root).digest
    content = (mnist / file).read_bytes()
    (mnist / file).write_bytes(damage(content))
    assert load_mnist(root).digest == whole  # from the archives
    assert (mnist / file).read_bytes() == content
    assert no_network == []
    (mnist / file).write_bytes(damage(content))
    for packed in mnist.glob("*.gz"):
        packed.unlink()
    message = message_of(load_mnist, root)
    for part in (str(root), "no network in this test", "FILE.npz", "--data-root"):
        assert part in message
    assert (mnist / file).read_bytes() == damage(content)
    assert sorted(path.name for path in root.iterdir()) == ["MNIST", "MNIST.lock"]
    assert capfd.readouterr() == ("", "")


def test_interrupted_mnist_download_goes_on_by_itself(mnist, no_network):
    load_mnist(mnist.parents[1])
    (mnist / "train-images-idx3-ubyte").write_bytes(b"cut")
    (mnist / "t10k-labels-idx1-ubyte").unlink()  # unpacked last, so one is missing
    assert load_mnist(mnist.parents[1]).digest == data.MNIST_DIGEST


@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_no_network_and_no_cache_offers_the_alternatives(tmp_path, no_network, capfd, name):
    message = message_of(load_images, name, tmp_path / "root")
    for part in (str(tmp_path / "root"), "no network in this test", "FILE.npz", "--data-root"):
        assert part in message
    assert ("--dataset digits" in message) == (name == "mnist")
    assert capfd.readouterr() == ("", "")
    assert no_network


@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_data_root_that_cannot_be_written_is_named(tmp_path, no_network, name):
    (tmp_path / "file").write_text("not a folder")
    root = tmp_path / "file" / "root"
    assert str(root) in message_of(load_images, name, root)


@pytest.fixture
def cifar(tmp_path, official, no_network):
    """Write a small CIFAR-100, packed; return root and RGB."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "cifar-100-python.tar.gz").write_bytes(cifar_archive(cifar_files()))
    return root, RGB


def test_cifar100_is_read_as_gray_with_fine_labels(cifar, no_network):
    root, rgb = cifar
    images = load_images("cifar100", root)
    assert (images.name, images.num_pixels, images.scale) == ("cifar100", 1024, 1 / 255)
    assert images.x_train.shape == (6, 1024) and images.x_train.dtype == np.uint8
    assert images.y_train.tolist() == [0, 1, 2, 0, 1, 2] and images.y_test.tolist() == [2, 1, 0]
    expected = [slow_gray(rgb[6, :, row, column]) for row in range(32) for column in range(32)]
    assert images.x_test[0].tolist() == expected
    assert load_cifar100(root).digest == images.digest
    assert no_network == []


def test_numpy_warning_about_the_official_pickles_is_not_shown(cifar, monkeypatch):
    load = pickle.load

    def warn_and_load(*args, **kwargs):
        message = "dtype(): align should be passed as Python or NumPy boolean but got `align=0`."
        warnings.warn(message, np.exceptions.VisibleDeprecationWarning, stacklevel=2)
        return load(*args, **kwargs)

    monkeypatch.setattr(pickle, "load", warn_and_load)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_cifar100(cifar[0])


class Trap:
    """Writes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"echo > {self.path}",)


def test_pickles_that_are_not_the_official_ones_are_not_run(cifar, tmp_path):
    root, _ = cifar
    digest = load_cifar100(root).digest
    trap, folder = tmp_path / "trapped", root / "cifar-100-python"
    for name in ("train", "test", "meta"):
        planted = pickle.dumps(Trap(trap))
        (folder / name).write_bytes(planted)
        assert load_cifar100(root).digest == digest  # from the archive
        assert (folder / name).read_bytes() == cifar_files()[name]
    planted = cifar_archive(cifar_files() | {"train": planted, "more": planted})
    (root / "cifar-100-python.tar.gz").write_bytes(planted)
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(pickle.dumps(Trap(trap)))
        assert str(root) in message_of(load_cifar100, root)
        (folder / name).write_bytes(cifar_files()[name])
        assert load_cifar100(root).digest == digest
    assert not trap.exists()
    assert not (folder / "more").exists()
    pickle.loads(pickle.dumps(Trap(trap)))
    assert trap.exists()


def test_files_of_old_torchvision_are_removed_where_they_are_damaged_and_not_run(
    mnist, tmp_path, no_network
):
    root = mnist.parents[1]
    digest = load_mnist(root).digest
    old = root / "MNIST" / "processed"
    old.mkdir()
    for name in ("training.pt", "test.pt"):
        (old / name).write_bytes(pickle.dumps(Trap(tmp_path / "trapped")))
    assert load_mnist(root).digest == digest
    assert not (tmp_path / "trapped").exists()
    assert not list(old.iterdir())
    assert no_network == []


@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_whole_data_set_is_read_where_nothing_can_be_written(
    official, server, tmp_path, monkeypatch, name
):
    root = tmp_path / "root"
    official(server.address)
    digest = load_images(name, root).digest
    for used in ("locked", "_copy_intact"):
        monkeypatch.setattr(downloads, used, None)
    monkeypatch.setattr(Path, "mkdir", None)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    count = len(server.requests)
    assert load_images(name, root).digest == digest
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert len(server.requests) == count


def test_damaged_cifar100_is_unpacked_again_or_names_its_folder(cifar, no_network):
    root, _ = cifar
    digest = load_cifar100(root).digest
    (root / "cifar-100-python" / "test").write_bytes(b"cut")
    assert load_cifar100(root).digest == digest
    (root / "cifar-100-python" / "test").write_bytes(b"cut")
    (root / "cifar-100-python.tar.gz").write_bytes(b"cut")
    message = message_of(load_cifar100, root)
    assert str(root) in message and "no network in this test" in message


# --- downloads from a server on this machine -----------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves the small data sets, notes what is asked for, and can hold an answer back."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = mnist_archives() | {"cifar-100-python.tar.gz": cifar_archive(cifar_files())}
        self.address = f"http://127.0.0.1:{self.server_port}/"
        self.requests = []
        self.may_answer = threading.Event()
        self.may_answer.set()


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.strip("/")
        self.server.requests.append(name)
        self.server.may_answer.wait(600)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.files[name])))
        self.end_headers()
        self.wfile.write(self.server.files[name])

    def log_message(self, *args):
        """Write nothing."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.may_answer.set()
        server.shutdown()
        thread.join()


def start(body, server, *arguments):
    """Start a program that takes the small data sets for the official ones."""
    program = (
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from plasticity.tasks import downloads, images as data\n"
        "datasets = downloads.torchvision_datasets()\n"
        "data.MNIST_DIGEST, sets = sys.argv[1], json.loads(sys.argv[2])\n"
        "for name, attributes in sets.items():\n"
        "    for attribute, value in attributes.items():\n"
        "        setattr(getattr(datasets, name), attribute, value)\n"
    )
    sets = json.dumps(small_sets(server.address))
    words = [sys.executable, "-c", program + body, data.MNIST_DIGEST, sets, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, text=True)


FOLDERS = {"mnist": "MNIST", "cifar100": "CIFAR-100"}


@pytest.mark.parametrize("name", FOLDERS)
def test_data_set_is_downloaded_once_and_nothing_else_is_left(official, server, tmp_path, name):
    official(server.address)
    root = tmp_path / "not" / "there"
    digest = load_images(name, root).digest
    asked = list(server.requests)
    assert load_images(name, root).digest == digest
    assert server.requests == asked
    names = {path.name for path in root.iterdir()}
    assert names == {f"{FOLDERS[name]}.lock"} | (
        {"MNIST"} if name == "mnist" else {"cifar-100-python", "cifar-100-python.tar.gz"}
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_damaged_data_set_is_downloaded_again(official, server, tmp_path, name):
    official(server.address)
    root = tmp_path / "root"
    digest = load_images(name, root).digest
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for path in before:
        path.write_bytes(before[path][:-1])
    assert load_images(name, root).digest == digest
    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_download_killed_at_any_instant_is_repeated_by_the_same_command(official, server, tmp_path):
    """Kill before every call that changes the disk and in the middle of every write."""
    body = """
import builtins, signal, tarfile

def kill_at(limit):
    left = limit
    def tick(*half_write):
        nonlocal left
        left -= 1
        if left == 0:
            for step in half_write:
                step()
            os.kill(os.getpid(), signal.SIGKILL)
    def audit(event, arguments):
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir"):
            tick()
    def halving_open(*arguments):
        file = builtins.open(*arguments)
        class Halving:
            def __enter__(self): return self
            def __exit__(self, *_): file.close()
            def __getattr__(self, name): return getattr(file, name)
            def write(self, data):
                tick(lambda: file.write(bytes(data)[:len(data) // 2]), file.flush)
                return file.write(data)
        return file if arguments[1] == "rb" else Halving()
    datasets.utils.open = tarfile.bltn_open = halving_open
    sys.addaudithook(audit)

def killed(limit, name, root):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress bars
        kill_at(limit)
        data.load_images(name, root)
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL

for name, folder in json.loads(sys.argv[3]).items():
    aside, limit, half_unpacked = f"{folder}.download", 1, 0
    while killed(limit, name, root := Path(sys.argv[4], name, str(limit))):
        half_unpacked += (root / aside).exists()
        print(data.load_images(name, root).digest, end=" ")
        left = [path for path in (root / aside).rglob("*") if path.is_file()]
        assert not left, left
        limit += 1
    print(half_unpacked)
"""
    process = start(body, server, json.dumps(FOLDERS), tmp_path / "roots")
    said, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint
    official(server.address)
    for name, line in zip(FOLDERS, said.splitlines(), strict=True):
        *digests, half_unpacked = line.split()
        assert set(digests) == {load_images(name, tmp_path / "whole").digest}
        assert int(half_unpacked) > 10


@pytest.mark.slow
def test_two_processes_at_once_download_once(official, server, tmp_path):
    name = "cifar100"  # the lock is that of all
    official(server.address)
    digest = load_images(name, tmp_path / "alone").digest
    asked_alone = list(server.requests)
    server.requests.clear()
    server.may_answer.clear()
    body = "print(data.load_images(sys.argv[3], Path(sys.argv[4])).digest)"
    first, second = (start(body, server, name, tmp_path / "root") for _ in range(2))
    # Whoever gets the lock waits for the server, which waits until the other has said so.
    complaints = ["", ""]

    def listen(i, process):
        for line in process.stderr:
            complaints[i] += line
            if "waiting" in line:
                server.may_answer.set()

    listeners = [
        threading.Thread(target=listen, args=arguments) for arguments in enumerate((first, second))
    ]
    for listener in listeners:
        listener.start()
    said = [process.stdout.read() for process in (first, second)]
    for process, listener in zip((first, second), listeners, strict=True):
        process.wait()
        process.stdout.close()
        listener.join()
        process.stderr.close()
    assert said == [f"{digest}\n"] * 2, complaints
    assert server.requests == asked_alone
    waiting = f"waiting for another process that downloads {FOLDERS[name]} into {tmp_path}/root\n"
    assert sum(complaint.count(waiting) for complaint in complaints) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "needs, declared", [("[]", 0), ("['nms', 'qnms']", 2)], ids=["whole", "without_operators"]
)
def test_torchvision_is_mended_only_where_its_operators_are_missing(tmp_path, needs, declared):
    (tmp_path / "torchvision" / "datasets").mkdir(parents=True)
    (tmp_path / "torchvision" / "datasets" / "__init__.py").write_text("")
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "import torch\n"
        f"for name in {needs}:\n"
        "    torch.library.register_fake(f'torchvision::{name}')(lambda: None)\n"
    )
    program = (
        "import sys\n"
        "from plasticity.tasks import downloads, images as data\n"
        "assert 'torchvision' not in sys.modules and 'sklearn' not in sys.modules\n"
        "print(downloads.torchvision_datasets().__file__, len(downloads._operators))"
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = f"{tmp_path / 'torchvision' / 'datasets' / '__init__.py'} {declared}\n"
    assert (result.stdout, result.stderr) == (expected, "")


def test_other_import_errors_of_torchvision_are_passed_on(monkeypatch):
    def fail(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(downloads.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="something else"):
        downloads.torchvision_datasets()


def test_data_set_is_a_name_or_a_path(tmp_path: Path) -> None:
    x, y = np.zeros((2, 4), np.uint8), np.array([0, 1])
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    assert load_images(tmp_path / "own.npz", str(tmp_path)).num_pixels == 4
    with pytest.raises(TypeError, match=r"dataset None: must be a name or the path of an \.npz"):
        load_images(None, tmp_path)
