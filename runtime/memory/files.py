"""A memory's arrays on disk: mapped for reading, appended for writing."""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..bundle import arrays


def map_npy(path: Path) -> npt.NDArray[Any]:
    """Maps a `.npy` read-only.

    Raises:
        OSError: The file is missing, or cannot be mapped.
        ValueError: The file is damaged, holds a pickle, or is in Fortran order.
    """
    array = arrays.map_npy(path)
    if not array.flags.c_contiguous:
        raise ValueError(f"{path.name} is in Fortran order")
    return array


def map_bytes(path: Path) -> npt.NDArray[np.uint8]:
    """Maps a file read-only: uint8 [bytes].

    Raises:
        ValueError, OSError: The file cannot be mapped.
    """
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.empty(0, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, "r"))


class NpyWriter:
    """Appends to a `.npy`, so that it may be larger than memory.

    It does not write through a map: a full disk would then kill the process instead of raising an error.

    Args:
        path: The file to write.
        dtype: The array's dtype.
        row: The shape of one row.

    Attributes:
        rows: The number of rows so far.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, row: tuple[int, ...] = ()) -> None:
        self._dtype = np.dtype(dtype)
        self._row = row
        self.rows = 0
        self._file: BinaryIO = path.open("wb")
        self._file.write(self._head())

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Appends rows [c, ...], cast to the array's dtype.

        Raises:
            ValueError: The rows have another shape.
        """
        if rows.shape[1:] != self._row:
            raise ValueError(f"rows of shape {rows.shape[1:]} do not fit {self._row}")
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self.rows += len(rows)

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._file.write(self._head())

    def _head(self) -> bytes:
        """The header, of the same length for any number of rows: NumPy leaves room for the first dimension to grow."""
        head = io.BytesIO()
        layout = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(head, {**layout, "shape": (self.rows, *self._row)})
        return head.getvalue()
