"""Arrays of many runs in one small file each, to be committed and read again years later."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from plasticity.errors import RecordError
from plasticity.results.disk import disk_errors, make_folder, read_file, replace_file

MAX_ARRAYS_BYTES = 2**31  # of a file's arrays, unpacked


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays to a compressed .npz file; equal arrays give equal bytes, whatever the day.

    Args:
        path: Of the file, which ends in ``.npz``; its folder is made where there is none.
        arrays: By name. Arrays of objects are refused.

    Raises:
        RecordError: The disk is full or fails.
        ValueError: An array holds objects.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            # numpy.savez_compressed writes the time of day into the file.
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    with disk_errors(path):
        make_folder(path.parent)
        replace_file(path, buffer.getbuffer())
    return path


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what ``write_arrays`` wrote, without unpickling anything.

    Raises:
        RecordError: There is no such file, or it is damaged.
    """
    with disk_errors(path):
        if not path.exists():
            raise RecordError(f"{path}: no such file.")
        content = read_file(path, MAX_ARRAYS_BYTES)
    try:
        # np.load would take an .npy file, too, and give one array.
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_ARRAYS_BYTES:
                raise ValueError("it would fill the memory")
            return {name.removesuffix(".npy"): _read(archive, name) for name in archive.namelist()}
    except Exception as error:  # zipfile, zlib, numpy and ast each have their own for damage
        raise RecordError(f"{path} is damaged: {type(error).__name__}.") from error


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
