"""Image data as plain arrays: MNIST, CIFAR-100, scikit-learn's digits and .npz archives.

Nothing here is shuffled, scaled or made float: the arrays hold raw values, and `Images.scale` says
what to multiply a batch by. Every fault a user can cause is a `DataError`.
"""

import contextlib
import gzip
import hashlib
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from plasticity.errors import DataError
from plasticity.tasks.downloads import (
    idx_file,
    read_idx,
    read_or_download,
    read_sets,
    torchvision_datasets,
)
from plasticity.tasks.npz import ARRAYS, read_npz, to_gray

# Images.digest of the official MNIST files. torchvision checks what it downloads, not what it
# finds on disk, so a damaged or half-written cache is only caught here.
MNIST_DIGEST = "71d2fb5be09a2455696fc3a18cb070e3a4b9b4af1c7d368e7eade743afc74e3b"


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
        return int(self.x_train.shape[1])

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
    mnist = torchvision_datasets().MNIST

    names = [name.removesuffix(".gz") for name, _ in mnist.resources]

    def official(x_train: Any, y_train: Any, x_test: Any, y_test: Any) -> Images:
        images = Images("mnist", x_train, y_train, x_test, y_test, scale=1 / 255)
        if images.digest != MNIST_DIGEST:
            digests = f"sha256 {images.digest[:12]}..., not {MNIST_DIGEST[:12]}..."
            raise DataError(f"truncated or altered: {digests}")
        return images

    def read(root: Path, *, download: bool) -> Images:
        if all(idx_file(root, name) for name in names):
            with contextlib.suppress(DataError):  # there may be whole ones in MNIST/raw
                return official(*(read_idx(root, name) for name in names))
        sets = read_sets(mnist, root, download)
        x_train, x_test = (np.asarray(of.data).reshape(len(of.data), -1) for of in sets)
        y_train, y_test = (np.asarray(of.targets) for of in sets)
        return official(x_train, y_train, x_test, y_test)

    archives = {f"MNIST/raw/{name}": md5 for name, md5 in mnist.resources}
    # torchvision reads these files of its old releases rather than the raw ones.
    obsolete = [f"MNIST/processed/{name}" for name in (mnist.training_file, mnist.test_file)]
    others = "--dataset digits or --dataset FILE.npz"
    unpacked = [name.removesuffix(".gz") for name in archives]
    return read_or_download("MNIST", root, read, archives, unpacked, others, obsolete)


def load_cifar100(root: Path) -> Images:
    """Load CIFAR-100 (32x32, 50,000 + 10,000, fine labels) as gray, downloading what is missing.

    Its files are pickles, which can hold code. torchvision compares the md5 of the archive with the
    official one before it unpacks it, and the md5 of each file before it opens it, every time; what
    does not match is never unpickled. Gray values are those of `to_gray`.

    Raises:
        DataError: It is not whole in `root` and cannot be downloaded.
    """
    cifar100 = torchvision_datasets().CIFAR100

    def read(root: Path, *, download: bool) -> Images:
        train, test = read_sets(cifar100, root, download)
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
    return read_or_download("CIFAR-100", root, read, archives, unpacked, "--dataset FILE.npz")


def load_npz(path: Path) -> Images:
    """Load an archive with the arrays x_train, y_train, x_test, y_test (the layout of Keras).

    Raises:
        DataError: As ``plasticity.tasks.npz.read_npz``, which says what the arrays may hold.
    """
    path = Path(path)
    return Images(path.name, *read_npz(path))
