"""NumPy's files from strangers: an array, or a ValueError."""

import io
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rar.runtime.bundle.arrays import load_npz, map_npy

LAYOUT = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,)}"


def npy(header: str) -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(16)


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zipped(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, a=array)
    return file.getvalue()


def test_an_array_is_mapped_as_it_was_saved(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(saved(np.arange(6, dtype=np.float32).reshape(2, 3)))
    array = map_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(array, [[0, 1, 2], [3, 4, 5]])
    assert type(array) is np.ndarray
    assert not array.flags.writeable
    assert isinstance(array.base, np.memmap)


def test_an_archive_is_read_as_it_was_saved(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(zipped(np.arange(3)))
    assert {name: array.tolist() for name, array in load_npz(tmp_path / "a.npz").items()} == {"a": [0, 1, 2]}


@pytest.mark.parametrize(
    "header",
    [
        ",", "(", "'", "\\", "\0", "1 +\n  2\n 3", "(" * 9000, "-" * 9000, "1" * 20_000, "[]", "{1: 2}",
        LAYOUT % "-1", LAYOUT % ("9" * 30), LAYOUT % str(2**62), LAYOUT % "1e3",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': [('a', ('a',))], 'fortran_order': False, 'shape': ()}",
    ],
)  # fmt: skip
def test_a_header_that_is_no_layout_is_a_value_error(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.npy").write_bytes(npy(header))
    with pytest.raises(ValueError):  # noqa: PT011  # each with NumPy's or Python's own words
        map_npy(tmp_path / "a.npy")


@given(st.data())
def test_altered_bytes_give_an_array_or_a_value_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("altered") / "a"
    write, read = data.draw(st.sampled_from([(saved, map_npy), (zipped, load_npz)]))
    good = write(np.arange(8, dtype=np.float32))
    at, length = data.draw(st.integers(0, len(good))), data.draw(st.integers(0, 40))
    path.write_bytes(good[:at] + data.draw(st.binary(max_size=40)) + good[at + length :])
    with suppress(OSError, ValueError):
        read(path)


def test_several_arrays_are_not_one(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(zipped(np.arange(3)))
    with pytest.raises(ValueError, match="holds several arrays"):
        map_npy(tmp_path / "a.npy")


def test_an_archive_with_no_array_inside_is_a_value_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy(","))
    with pytest.raises(ValueError, match=r"SyntaxError|Cannot parse"):
        load_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("read", [map_npy, load_npz])
def test_a_missing_file_is_an_os_error(tmp_path: Path, read: object) -> None:
    with pytest.raises(OSError, match="No such file"):
        read(tmp_path / "none")  # type: ignore[operator]
