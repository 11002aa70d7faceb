"""Images in .npz archives: checked before anything is unpacked, and made gray, bytes or floats."""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from plasticity.errors import DataError, cause_of
from plasticity.results.disk import check_regular, memory_bytes

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
MAX_PIXELS = 2**20
# Of an .npz file. Gray images compress 3 to 10 times, drawings of two colors as float64 up to some
# 250 times, and zeros 1,000 times, which is all that zip can do.
MAX_COMPRESSION = 500
SMALL_BYTES = 2**26  # what unpacks to no more is read, however well it was compressed
# Rec. 601 luma with the digits TensorFlow's rgb_to_grayscale has (they sum to 0.9999).
GRAY_WEIGHTS = np.array([0.2989, 0.5870, 0.1140], dtype=np.float32)


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Read an archive with the arrays x_train, y_train, x_test, y_test (the layout of Keras).

    Images are (N, H, W), (N, H, W, 1) or (N, pixels) gray, or (N, H, W, 3) RGB, made gray by
    `to_gray`. Integers of 0..255 become uint8 with scale 1/255, floats become float32 and booleans
    uint8, both with scale 1. Labels are integers, (N,) or (N, 1). Nothing is unpickled.

    Returns:
        Training images and labels, test images and labels, and what to multiply a pixel by.

    Raises:
        DataError: The file cannot be read, or its arrays are not such images and labels; an image
            is not zero, but so small that it is in float32; the arrays would take over half of the
            machine's memory, or `MAX_COMPRESSION` times the file and over `SMALL_BYTES`.
    """
    path = Path(path)
    try:
        check_regular(path)  # a pipe would be waited for
        with zipfile.ZipFile(path) as archive:
            arrays = _read_arrays(path, archive)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} is truncated or not an .npz archive: {cause_of(error)}") from error
    x_train, scale = _as_pixels(path, "x_train", arrays.pop("x_train"))
    x_test, test_scale = _as_pixels(path, "x_test", arrays.pop("x_test"))
    if (x_train.dtype, scale) != (x_test.dtype, test_scale):
        raise DataError(
            f"{path}: x_train has pixels of {x_train.dtype} times {scale:.4g}, "
            f"x_test of {x_test.dtype} times {test_scale:.4g}; store both alike"
        )
    y_train, y_test = _as_labels(path, arrays["y_train"], arrays["y_test"])
    return x_train, y_train, x_test, y_test, scale


def to_gray(rgb: np.ndarray) -> np.ndarray:
    """Return 0.2989 R + 0.5870 G + 0.1140 B, for uint8 rounded as TensorFlow rounds it.

    For uint8 that is floor(255.5 * gray) of the gray value in [0, 1], all in float32, as in
    `tf.image.rgb_to_grayscale` (through `tf.image.convert_image_dtype`). Grays stay what they are.
    Where TensorFlow fuses multiply and add, 31 of the 2**24 colors can differ from ours by one.

    Args:
        rgb: (N, H, W, 3), uint8 or floating point.

    Returns:
        (N, H * W), uint8 for uint8, otherwise float32.
    """
    is_bytes = rgb.dtype == np.uint8
    gray = np.empty((len(rgb), rgb.shape[1] * rgb.shape[2]), np.uint8 if is_bytes else np.float32)
    # In blocks of about 2**20 pixels: a float copy of CIFAR-100 would be 600 MB.
    block = max(1, 2**20 // max(1, gray.shape[1]))
    for start in range(0, len(rgb), block):
        pixels = rgb[start : start + block].astype(np.float32)
        if is_bytes:
            pixels *= np.float32(1 / 255)
        # Written out, not a matrix product: that would round differently from BLAS to BLAS.
        red, green, blue = (pixels[..., i] * GRAY_WEIGHTS[i] for i in range(3))
        value = (red + green + blue).reshape(len(pixels), -1)
        gray[start : start + block] = value * np.float32(255.5) if is_bytes else value
    return gray


def _read_arrays(path: Path, archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """Read the four arrays, after their headers have shown shapes and dtypes that fit."""
    missing = [name for name in ARRAYS if f"{name}.npy" not in archive.namelist()]
    if missing:
        raise DataError(f"{path}: no array {', '.join(missing)}; needed are {', '.join(ARRAYS)}")
    _check_size(path, sum(archive.getinfo(f"{name}.npy").file_size for name in ARRAYS))
    headers = {name: _read_member(path, archive, name, _read_header) for name in ARRAYS}
    for name, (shape, dtype, header_length) in headers.items():
        wanted = "biuf" if name.startswith("x") else "iu"
        if dtype.hasobject:
            raise DataError(f"{path}: {name} holds pickled Python objects, which are not read")
        if dtype.kind not in wanted or (dtype.kind == "b" and shape[3:] == (3,)):
            kinds = "integers" if wanted == "iu" else "integers, floats or (gray only) bool"
            raise DataError(f"{path}: {name} has dtype {dtype}, not {kinds}")
        # Before anything is allocated: a damaged header can ask for petabytes.
        num_bytes = archive.getinfo(f"{name}.npy").file_size - header_length
        if math.prod(shape) * dtype.itemsize != num_bytes:
            raise DataError(f"{path}: {name} has {num_bytes} bytes for {dtype} of shape {shape}")
    pixels = {}
    for split in ("train", "test"):
        x, y = headers[f"x_{split}"][0], headers[f"y_{split}"][0]
        if len(x) not in (2, 3) and not (len(x) == 4 and x[3] in (1, 3)):
            raise DataError(
                f"{path}: x_{split} has shape {x}, not (N, H, W), (N, pixels), (N, H, W, 1) or "
                "(N, H, W, 3)"
            )
        if len(y) != 1 and not (len(y) == 2 and y[1] == 1):
            raise DataError(f"{path}: y_{split} has shape {y}, not (N,) or (N, 1)")
        if x[0] != y[0]:
            raise DataError(f"{path}: {x[0]} images in x_{split}, {y[0]} labels in y_{split}")
        if x[0] == 0:
            raise DataError(f"{path}: x_{split} has shape {x}: no image")
        pixels[split] = math.prod(x[1:3])
        if not 1 <= pixels[split] <= MAX_PIXELS:
            raise DataError(
                f"{path}: x_{split} has {pixels[split]} pixels per image, not 1..{MAX_PIXELS}"
            )
    if pixels["train"] != pixels["test"]:
        raise DataError(
            f"{path}: {pixels['train']} pixels per image in x_train, {pixels['test']} in x_test"
        )
    return {
        name: _read_member(
            path, archive, name, lambda file: np.lib.format.read_array(file, allow_pickle=False)
        )
        for name in ARRAYS
    }


def _check_size(path: Path, num_bytes: int) -> None:
    """Refuse an archive that would fill the memory, before anything is unpacked."""
    packed = path.stat().st_size
    if num_bytes > max(SMALL_BYTES, MAX_COMPRESSION * packed):
        raise DataError(
            f"{path} has {packed / 1e6:.3g} MB and unpacks to {num_bytes / 1e6:.3g} MB, over "
            f"{MAX_COMPRESSION} times as much, as images do not; if they are, use numpy.savez"
        )
    memory = memory_bytes()
    if num_bytes > memory / 2:  # the other half is for copies as float32
        raise DataError(
            f"{path} unpacks to {num_bytes / 1e9:.3g} GB; this machine has {memory / 1e9:.3g} GB "
            "of memory, of which the arrays may take half; store fewer images, or as uint8"
        )


def _read_member(
    path: Path, archive: zipfile.ZipFile, name: str, read: Callable[[IO[bytes]], Any]
) -> Any:
    """Return what `read` makes of one array's file within the archive."""
    try:
        with archive.open(f"{name}.npy") as file:
            return read(file)
    except Exception as error:  # zipfile, zlib, numpy and ast each have their own for damage
        raise DataError(f"{path}: {name} is damaged: {cause_of(error)}") from error


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return the shape and the dtype in an .npy file's header, and the header's length in bytes."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, dtype, file.tell()


def _as_pixels(path: Path, name: str, x: np.ndarray) -> tuple[np.ndarray, float]:
    """Return images as (N, pixels) of uint8 or float32, and their scale."""
    scale = 1 / 255 if x.dtype.kind in "iu" else 1.0
    stored = x
    if x.dtype.kind == "f":
        with np.errstate(over="ignore", under="ignore"):  # both are found below
            x = x.astype(np.float32, copy=False)
        # The extremes first: they carry every NaN and infinity and need no mask as large as x.
        if not (np.isfinite(x.min()) and np.isfinite(x.max())):
            first = _first(name, stored, ~np.isfinite(x))
            raise DataError(f"{path}: {first}, not a finite float32")
    elif x.dtype != np.uint8:
        if x.min() < 0 or x.max() > 255:
            raise DataError(f"{path}: {_first(name, x, (x < 0) | (x > 255))}, not within 0..255")
        x = x.astype(np.uint8)
    x = to_gray(x) if x.shape[3:] == (3,) else x.reshape(len(x), -1)
    if x.dtype.kind == "f":
        for image in np.flatnonzero(~x.any(axis=1)):
            if largest := abs(stored[image]).max():
                raise DataError(
                    f"{path}: image {image} of {name} is all zeros as gray float32, its largest "
                    f"value in the file is {largest}; multiply the images by a number"
                )
    return np.ascontiguousarray(x), scale


def _as_labels(path: Path, y_train: np.ndarray, y_test: np.ndarray) -> list[np.ndarray]:
    """Return both label arrays as (N,) int64, each label in 0..C-1 and each class in training."""
    y_train, y_test = y_train.reshape(-1), y_test.reshape(-1)
    classes = np.unique(y_train)
    num_classes = int(classes[-1]) + 1
    for name, y in (("y_train", y_train), ("y_test", y_test)):
        bad = (y < 0) | (y >= num_classes)
        if bad.any():
            raise DataError(f"{path}: {_first(name, y, bad)}, not within 0..{num_classes - 1}")
    if len(classes) < num_classes:
        gap = int(np.argmax(classes != np.arange(len(classes))))
        raise DataError(
            f"{path}: {_first('y_train', y_train, y_train == classes[-1])}, but no training image "
            f"has label {gap}; number the classes from 0 without gaps"
        )
    if num_classes < 2:
        raise DataError(f"{path}: y_train has the one label 0; at least 2 classes are needed")
    return [y_train.astype(np.int64), y_test.astype(np.int64)]


def _first(name: str, array: np.ndarray, bad: np.ndarray) -> str:
    """Return "name[position] is value" for the first bad entry."""
    position = np.unravel_index(np.argmax(bad), bad.shape)
    return f"{name}[{', '.join(map(str, position))}] is {array[position]}"
