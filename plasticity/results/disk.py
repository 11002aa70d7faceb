"""Files and folders that a crash or a full disk leaves whole, and that are read within bounds."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import filelock

from plasticity.errors import RecordError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class UnfitFile(OSError):
    """What is not read: it is no regular file, or too large."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(errno.EINVAL, what, str(path))


def memory_bytes() -> int:
    """Return how much memory this machine has; a terabyte where the system does not tell."""
    if not hasattr(os, "sysconf"):  # Windows
        return 2**40
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_regular(path: Path, most: int | None = None) -> int:
    """Return the size of a regular file, or of the one that a link leads to.

    Raises:
        UnfitFile: It is something else, or larger than ``most`` bytes.
        OSError: There is none, or it cannot be reached.
    """
    return _fit_size(path, os.stat(path), most)


def _fit_size(path: Path, found: os.stat_result, most: int | None) -> int:
    if not stat.S_ISREG(found.st_mode):
        raise UnfitFile(path, "is no regular file")
    if most is not None and found.st_size > most:
        raise UnfitFile(path, f"is larger than {most} bytes (it has {found.st_size})")
    return found.st_size


def read_file(path: Path, most: int | None = None) -> bytes:
    """Read a regular file as it is now; what would never end or fill the memory is not read.

    A pipe waits for somebody who writes, a device gives zeros for ever, and a file with holes may
    be larger than the disk.

    Args:
        path: Of the file, or of a link to it.
        most: The number of bytes it may have; by default half of this machine's memory.

    Raises:
        UnfitFile: It is no regular file, or too large.
        OSError: There is none, or it cannot be read.
    """
    most = memory_bytes() // 2 if most is None else most
    check_regular(path, most)  # some devices do something when they are opened
    # What has come into its place since is neither waited for nor read.
    with open(os.open(path, os.O_RDONLY | _NO_WAITING), "rb") as file:
        # Up to this size: another process may be appending.
        return file.read(_fit_size(path, os.fstat(file.fileno()), most))


_NO_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def lock_of(path: Path) -> filelock.BaseFileLock:
    """Return the lock of a file; any thread may release it.

    Where the disk has no locks of the system's (``flock``), another file next to it is the lock
    for as long as it is there. It cannot be the same file: one that the system has locked stays
    when it is released, and would look as if it were held, for ever.
    """
    kind = filelock.FileLock if _has_flock(path.parent) else filelock.SoftFileLock
    name = path.name if kind is filelock.FileLock else f"{path.name}.held"
    return kind(path.with_name(name), thread_local=False)


def _has_flock(folder: Path) -> bool:
    """Tell whether files in a folder can be locked by the system."""
    if os.name != "posix":
        return True
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno != errno.ENOSYS
    finally:
        os.close(descriptor)
    return True


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the system says of a file into a `RecordError` of two lines."""
    try:
        yield
    except OSError as error:
        what, way_out = error.strerror or str(error), "Make it writable, or name other --results."
        if error.errno in _NO_ROOM:
            way_out = "Make room; the same command goes on and repeats at most the last row."
        if isinstance(error, FileExistsError | NotADirectoryError):
            what = "not a folder"
        if isinstance(error, UnfitFile):
            way_out = "Put back what was there, or remove it."
        raise RecordError(f"{error.filename or path}: {what}.\n{way_out}") from error


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Write a file aside, then put it in its place in one step.

    What lies in the aside's place is removed, never written to: a link there may lead anywhere.
    Two processes may not replace the same file at the same time.
    """
    aside = path.with_name(path.name + ".tmp")
    try:
        aside.unlink(missing_ok=True)
        # "x" does not follow links, and fails where a file has appeared since.
        with open(aside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Make the names in a folder outlive a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        with contextlib.suppress(OSError):  # some network disks refuse
            os.fsync(descriptor)
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, so that they outlive a power cut."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


@contextlib.contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Make a folder, wait until no other process writes into it, and keep others from it.

    Raises:
        RecordError: The disk is full or fails, or the folder is removed meanwhile.
    """
    with disk_errors(path):
        make_folder(path)
        with lock_of(path / "lock"):
            yield


def remove_asides(path: Path) -> None:
    """Remove what `replace_file` left in a folder when it was killed."""
    for aside in path.glob("*.tmp"):
        aside.unlink()
