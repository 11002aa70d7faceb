"""Data sets of torchvision: read where they are whole, else downloaded by one process at a time."""

import contextlib
import gzip
import importlib
import io
import os
import re
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import filelock
import numpy as np
import torch

from plasticity.errors import DataError, cause_of
from plasticity.results.disk import check_regular, lock_of

MAX_IDX_BYTES = 2**26  # of a file of MNIST's, the largest of which has 47 MB
MAX_FILE_BYTES = 2**30  # of MNIST and CIFAR-100, packed or not

Data = TypeVar("Data")


def read_or_download(
    title: str,
    root: Path,
    read: Callable[..., Data],
    archives: Mapping[str, str],
    unpacked: Sequence[str],
    others: str,
    obsolete: Sequence[str] = (),
) -> Data:
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
            f"{title} is not (or not whole) in {root} and cannot be downloaded: "
            f"{cause_of(error)};\n"
            f"without a network use {others}, or name the folder of its files with --data-root"
        ) from error


def idx_file(folder: Path, name: str) -> Path | None:
    """Return one of MNIST's files in a folder, unpacked or not; None if it is not there."""
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Read one of MNIST's files: images as (N, pixels) uint8, or labels as (N,) int64.

    The format (idx) is four bytes, the last of which counts the dimensions; these, as big-endian
    integers of 32 bits; and the values as bytes. What it holds is compared with a digest later.

    Raises:
        DataError: It cannot be read, or is not such a file.
    """
    path = idx_file(folder, name)
    assert path is not None
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read(MAX_IDX_BYTES)  # nor more of an archive that unpacks to very much
        dimensions = content[3]
        shape = np.frombuffer(content, ">u4", dimensions, offset=4).tolist()
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError, TypeError, IndexError) as error:
        raise DataError(f"{path} is damaged: {cause_of(error)}") from error
    return values.astype(np.int64) if dimensions == 1 else values.reshape(len(values), -1)


def _copy_intact(archives: Mapping[str, str], source: Path, target: Path) -> None:
    """Copy what has the right md5, so that it need not be downloaded again."""
    check_integrity = torchvision_datasets().utils.check_integrity
    for name, md5 in archives.items():
        if check_integrity(source / name, md5):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


def read_sets(dataset: Any, root: Path, download: bool) -> tuple[Any, Any]:
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
            raise DataError(cause_of(error)) from error


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


def torchvision_datasets() -> ModuleType:
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
