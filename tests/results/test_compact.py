"""Arrays in one compressed file: equal bytes for equal arrays, nothing unpickled."""

import os
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from plasticity.errors import RecordError
from plasticity.results.compact import read_arrays, write_arrays

ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.c": np.array([True, False]),
    "word": np.array("abc"),
    "none": np.zeros((0, 3)),
}


def test_arrays_come_back_with_shape_and_type(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "new" / "x.npz", ARRAYS)
    found = read_arrays(path)
    assert [*found] == [*ARRAYS]
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_equal_arrays_give_equal_bytes_on_any_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_arrays(tmp_path / "x.npz", ARRAYS).read_bytes()
    day = time.localtime(10**9)
    monkeypatch.setattr(time, "localtime", lambda *_: day)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert write_arrays(tmp_path / "y.npz", ARRAYS).read_bytes() == first


def test_file_is_compressed(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "x.npz", {"a": np.zeros(100_000)})
    assert path.stat().st_size < 10_000


def test_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        write_arrays(tmp_path / "x.npz", {"a": np.array([{}], dtype=object)})
    assert not (tmp_path / "x.npz").exists()
    np.savez(tmp_path / "x.npz", a=np.array([{}], dtype=object))
    with pytest.raises(RecordError, match=r"x\.npz is damaged"):
        read_arrays(tmp_path / "x.npz")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 and no more"])
def test_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(RecordError, match=r"x\.npz is damaged"):
        read_arrays(tmp_path / "x.npz")


def test_file_with_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "x.npz", ARRAYS)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("a.npy").header_offset
    content[start + 60] ^= 255
    path.write_bytes(content)
    with pytest.raises(RecordError, match="is damaged"):
        read_arrays(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"x\.npz"):
        read_arrays(tmp_path / "x.npz")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written_is_an_error_of_the_record(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RecordError):
        write_arrays(tmp_path / "x.npz", ARRAYS)
