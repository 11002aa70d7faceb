"""Image data as plain arrays: MNIST, CIFAR-100, scikit-learn's digits and .npz archives.

Nothing here is shuffled, scaled or made float: the arrays hold raw values, and `Images.scale` says
what to multiply a batch by. Every fault a user can cause is a `DataError`.
"""

import contextlib
import gzip
import hashlib
import importlib
import importlib.util
import io
import math
import os
import re
import shutil
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import filelock
import numpy as np
import torch

from plasticity.errors import DataError
from plasticity.results.disk import check_regular, lock_of, memory_bytes

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
MAX_PIXELS = 2**20
# Of an .npz file. Gray images compress 3 to 10 times, drawings of two colors as float64 up to some
# 250 times, and zeros 1,000 times, which is all that zip can do.
MAX_COMPRESSION = 500
SMALL_BYTES = 2**26  # what unpacks to no more is read, however well it was compressed
MAX_IDX_BYTES = 2**26  # of a file of MNIST's, the largest of which has 47 MB
MAX_FILE_BYTES = 2**30  # of MNIST and CIFAR-100, packed or not
# Images.digest of the official MNIST files. torchvision checks what it downloads, not what it
# finds on disk, so a damaged or half-written cache is only caught here.
MNIST_DIGEST = "71d2fb5be09a2455696fc3a18cb070e3a4b9b4af1c7d368e7eade743afc74e3b"
# Rec. 601 luma with the digits TensorFlow's rgb_to_grayscale has (they sum to 0.9999).
GRAY_WEIGHTS = np.array([0.2989, 0.5870, 0.1140], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Images:
    """Hold a training and a test set of gray images with their labels.

    Attributes:
        name: "mnist", "digits", "cifar100" or the file's name.
        x_train: (N, pixels), uint8 or float32, raw values.
        y_train: (N,), int64, in 0..num_classes-1.
        x_test: (M, pixels), of x_train's dtype.
        y_test: (M,), int64, in 0..num_classes-1.
        scale: raw value times scale is the pixel as the protocols want it.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    scale: float

    @cached_property
    def num_classes(self) -> int:
        """Return the largest training label plus one."""
        return int(self.y_train.max()) + 1

    @property
    def num_pixels(self) -> int:
        """Return the number of pixels of one image."""
        return self.x_train.shape[1]

    @cached_property
    def digest(self) -> str:
        """Return the sha256 (hex) over scale and the shapes, dtypes and bytes of the arrays."""
        # The scale counts: digits as uint8 (1/16) and the same bytes from a file (1/255) differ.
        sha256 = hashlib.sha256(repr(self.scale).encode())
        for name in ARRAYS:
            array = getattr(self, name)
            sha256.update(f"{array.shape}{array.dtype.str}".encode())
            sha256.update(np.ascontiguousarray(array).data)
        return sha256.hexdigest()

    def require_nonzero(self) -> None:
        """Refuse blank images, which have no direction and so no unit norm or quantum state.

        Raises:
            DataError: An image is zero in every pixel.
        """
        for name in ("x_train", "x_test"):
            blank = ~getattr(self, name).any(axis=1)
            if blank.any():
                raise DataError(
                    f"{self.name}: image {int(blank.argmax())} of {name} is blank (all zeros), "
                    "which cannot be encoded as a state; leave it out"
                )


def load_images(dataset: str | Path, data_root: str | Path) -> Images:
    """Load a data set by the name it has on the command line.

    Args:
        dataset: "mnist", "digits", "cifar100" or a path ending in .npz.
        data_root: folder for downloads; only mnist and cifar100 use it.

    Raises:
        DataError: The name is unknown, or the data cannot be had or used.
    """
    if not isinstance(dataset, str | Path):
        raise TypeError(f"dataset {dataset!r}: must be a name or the path of an .npz file")
    dataset = str(dataset)
    data_root = Path(data_root)
    if dataset == "mnist":
        return load_mnist(data_root)
    if dataset == "cifar100":
        return load_cifar100(data_root)
    if dataset == "digits":
        return load_digits()
    if dataset.endswith(".npz"):
        return load_npz(Path(dataset))
    raise DataError(
        f"unknown dataset {dataset!r}: choose mnist, digits, cifar100 or a path ending in .npz"
    )


def load_digits() -> Images:
    """Load scikit-learn's 1,797 digits of 8x8 pixels (0..16), a fixed stratified 20% as test set.

    Source: UCI ML, optical recognition of handwritten digits (its test set), in scikit-learn.
    """
    # The order of train_test_split(test_size=0.2, random_state=0, stratify=y), test images last:
    # importing scikit-learn takes longer than the first tasks.
    order = np.load(Path(__file__).with_name("digits_order.npy"))
    num_train = len(order) * 4 // 5
    digits = _read_digits()[order]
    x, y = digits[:, :-1].astype(np.uint8), digits[:, -1].astype(np.int64)
    return Images(
        "digits", x[:num_train], y[:num_train], x[num_train:], y[num_train:], scale=1 / 16
    )


def _read_digits() -> np.ndarray:
    """Return scikit-learn's digits, ``(1797, 65)``: 64 pixels and the label."""
    package = importlib.util.find_spec("sklearn")
    if package is not None and package.origin is not None:
        file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt") as lines:
                return np.loadtxt(lines, delimiter=",")
    from sklearn.datasets import load_digits  # another version has them elsewhere

    x, y = load_digits(return_X_y=True)
    return np.column_stack([x, y])


def load_mnist(root: Path) -> Images:
    """Load MNIST (28x28, 60,000 + 10,000) from `root`, downloading what is missing or damaged.

    Its four files are in `root` itself, unpacked or as .gz, or where torchvision writes them: in
    MNIST/raw.

    Raises:
        DataError: It is not whole in `root` and cannot be downloaded.
    """
    mnist = _torchvision_datasets().MNIST

    names = [name.removesuffix(".gz") for name, _ in mnist.resources]

    def official(x_train: Any, y_train: Any, x_test: Any, y_test: Any) -> Images:
        images = Images("mnist", x_train, y_train, x_test, y_test, scale=1 / 255)
        if images.digest != MNIST_DIGEST:
            digests = f"sha256 {images.digest[:12]}..., not {MNIST_DIGEST[:12]}..."
            raise DataError(f"truncated or altered: {digests}")
        return images

    def read(root: Path, *, download: bool) -> Images:
        if all(_idx_file(root, name) for name in names):
            with contextlib.suppress(DataError):  # there may be whole ones in MNIST/raw
                return official(*(_read_idx(root, name) for name in names))
        sets = _read(mnist, root, download)
        x_train, x_test = (np.asarray(of.data).reshape(len(of.data), -1) for of in sets)
        y_train, y_test = (np.asarray(of.targets) for of in sets)
        return official(x_train, y_train, x_test, y_test)

    archives = {f"MNIST/raw/{name}": md5 for name, md5 in mnist.resources}
    # torchvision reads these files of its old releases rather than the raw ones.
    obsolete = [f"MNIST/processed/{name}" for name in (mnist.training_file, mnist.test_file)]
    others = "--dataset digits or --dataset FILE.npz"
    unpacked = [name.removesuffix(".gz") for name in archives]
    return _read_or_download("MNIST", root, read, archives, unpacked, others, obsolete)


def load_cifar100(root: Path) -> Images:
    """Load CIFAR-100 (32x32, 50,000 + 10,000, fine labels) as gray, downloading what is missing.

    Its files are pickles, which can hold code. torchvision compares the md5 of the archive with the
    official one before it unpacks it, and the md5 of each file before it opens it, every time; what
    does not match is never unpickled. Gray values are those of `to_gray`.

    Raises:
        DataError: It is not whole in `root` and cannot be downloaded.
    """
    cifar100 = _torchvision_datasets().CIFAR100

    def read(root: Path, *, download: bool) -> Images:
        train, test = _read(cifar100, root, download)
        return Images(
            "cifar100",
            to_gray(train.data),
            np.asarray(train.targets, dtype=np.int64),
            to_gray(test.data),
            np.asarray(test.targets, dtype=np.int64),
            scale=1 / 255,
        )

    archives = {cifar100.filename: cifar100.tgz_md5}
    files = [name for name, _ in (*cifar100.train_list, *cifar100.test_list)]
    unpacked = [f"{cifar100.base_folder}/{name}" for name in (*files, cifar100.meta["filename"])]
    return _read_or_download("CIFAR-100", root, read, archives, unpacked, "--dataset FILE.npz")


def load_npz(path: Path) -> Images:
    """Load an archive with the arrays x_train, y_train, x_test, y_test (the layout of Keras).

    Images are (N, H, W), (N, H, W, 1) or (N, pixels) gray, or (N, H, W, 3) RGB, made gray by
    `to_gray`. Integers of 0..255 become uint8 with scale 1/255, floats become float32 and booleans
    uint8, both with scale 1. Labels are integers, (N,) or (N, 1). Nothing is unpickled.

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
        raise DataError(f"{path} is truncated or not an .npz archive: {_cause(error)}") from error
    x_train, scale = _as_pixels(path, "x_train", arrays.pop("x_train"))
    x_test, test_scale = _as_pixels(path, "x_test", arrays.pop("x_test"))
    if (x_train.dtype, scale) != (x_test.dtype, test_scale):
        raise DataError(
            f"{path}: x_train has pixels of {x_train.dtype} times {scale:.4g}, "
            f"x_test of {x_test.dtype} times {test_scale:.4g}; store both alike"
        )
    y_train, y_test = _as_labels(path, arrays["y_train"], arrays["y_test"])
    return Images(path.name, x_train, y_train, x_test, y_test, scale)


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


def _cause(error: BaseException) -> str:
    """Return the last line of an exception's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _read_or_download(
    title: str,
    root: Path,
    read: Callable[..., Images],
    archives: Mapping[str, str],
    unpacked: Sequence[str],
    others: str,
    obsolete: Sequence[str] = (),
) -> Images:
    """Read a data set of torchvision's, after downloading it where it is not whole.

    Whatever happens to a download, the same command repeats it: it is made in a folder aside, and
    its files are moved one by one, each in one step, to where they are read from. A whole data set
    is read without the lock, by many at once, also from a disk that cannot be written.

    Args:
        title: Of the data set.
        root: Folder that holds it.
        read: Called with a root and whether to download, raises `DataError` if it is not whole.
        archives: What is downloaded: md5 by the path below the root.
        unpacked: Paths below the root of what is made of it.
        others: What to do without a network, for the message.
        obsolete: Files below the root to be removed, once there is a download.

    Raises:
        DataError: It is not whole and cannot be downloaded.
    """
    for name in (*archives, *unpacked, *obsolete):
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                check_regular(root / name, MAX_FILE_BYTES)
        except OSError as error:  # torchvision would read it to its end, which there may not be
            raise DataError(
                f"{root / name}: {error.strerror or error};\n"
                "remove it, or name another folder with --data-root"
            ) from error
    with contextlib.suppress(DataError):
        return read(root, download=False)
    aside = root / f"{title}.download"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f"{title}.lock", f"downloads {title} into {root}"):
            with contextlib.suppress(DataError):  # another process did it while this one waited
                return read(root, download=False)
            shutil.rmtree(aside, ignore_errors=True)  # left by a process that was killed
            try:
                aside.mkdir()
                _copy_intact(archives, root, aside)
                images = read(aside, download=True)
                for name in obsolete:
                    (root / name).unlink(missing_ok=True)
                # The archives first: with them, what is stopped from here on needs no network.
                files = [f.relative_to(aside) for f in aside.rglob("*") if f.is_file()]
                for file in sorted(files, key=lambda f: f.as_posix() not in archives):
                    (root / file).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(aside / file, root / file)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        return images
    except (OSError, DataError) as error:
        raise DataError(
            f"{title} is not (or not whole) in {root} and cannot be downloaded: {_cause(error)};\n"
            f"without a network use {others}, or name the folder of its files with --data-root"
        ) from error


def _idx_file(folder: Path, name: str) -> Path | None:
    """Return one of MNIST's files in a folder, unpacked or not; None if it is not there."""
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _read_idx(folder: Path, name: str) -> np.ndarray:
    """Read one of MNIST's files: images as (N, pixels) uint8, or labels as (N,) int64.

    The format (idx) is four bytes, the last of which counts the dimensions; these, as big-endian
    integers of 32 bits; and the values as bytes. What it holds is compared with a digest later.

    Raises:
        DataError: It cannot be read, or is not such a file.
    """
    path = _idx_file(folder, name)
    assert path is not None
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read(MAX_IDX_BYTES)  # nor more of an archive that unpacks to very much
        dimensions = content[3]
        shape = np.frombuffer(content, ">u4", dimensions, offset=4).tolist()
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError, TypeError, IndexError) as error:
        raise DataError(f"{path} is damaged: {_cause(error)}") from error
    return values.astype(np.int64) if dimensions == 1 else values.reshape(len(values), -1)


def _copy_intact(archives: Mapping[str, str], source: Path, target: Path) -> None:
    """Copy what has the right md5, so that it need not be downloaded again."""
    check_integrity = _torchvision_datasets().utils.check_integrity
    for name, md5 in archives.items():
        if check_integrity(source / name, md5):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


def _read(dataset: Any, root: Path, download: bool) -> tuple[Any, Any]:
    """Return torchvision's training and test set; only its progress bars reach the terminal.

    Raises:
        DataError: They are not there, not whole, or cannot be downloaded.
    """
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # numpy 2.4.0 to 2.4.4 on CIFAR's old pickles (numpy#31177).
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        try:
            return dataset(root, train=True, download=download), dataset(root, train=False)
        except Exception as error:  # a damaged file can raise anything, even a bare AssertionError
            raise DataError(_cause(error)) from error


@contextlib.contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock file, waiting for whoever has it; ``doing`` tells the user what that one does."""
    lock = lock_of(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        # At once: whoever waits for minutes must know why, and there is nothing to return yet.
        print(f"waiting for another process that {doing}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


_operators: list[torch.library.Library] = []  # an operator lives as long as its Library


def _torchvision_datasets() -> ModuleType:
    """Import torchvision.datasets, also where torchvision's compiled operators do not load.

    torchvision from PyPI is built for CUDA. Beside a CPU torch its operators are missing, and its
    import dies while describing them (nms, then qnms). The dataset readers need none of them, so
    each missing one is declared, without a body, and the import tried again.
    """
    for _ in range(16):
        try:
            return importlib.import_module("torchvision.datasets")
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
                del sys.modules[module]
            # Not "DEF": that is an error where another Library already has the namespace.
            _operators.append(torch.library.Library("torchvision", "FRAGMENT"))
            _operators[-1].define(f"{missing[1]}() -> ()")
    raise DataError("torchvision does not import beside this torch: install a matching pair")


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
        raise DataError(f"{path}: {name} is damaged: {_cause(error)}") from error


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
