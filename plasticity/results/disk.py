"""Files and folders that a crash or a full disk leaves whole."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from plasticity.errors import RecordError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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


def remove_asides(path: Path) -> None:
    """Remove what `replace_file` left in a folder when it was killed."""
    for aside in path.glob("*.tmp"):
        aside.unlink()
