"""Memory that sessions read and write in place, on the host or on a GPU."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Tensor:
    """A contiguous array in a device's memory.

    Attributes:
        address: The address of its first element.
        shape: Its dimensions.
        dtype: Its elements.
        owner: Keeps the memory alive; the memory is freed when nothing refers to the owner.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, index: int) -> Tensor:
        """One entry of the first dimension."""
        part = self.rows(index, index + 1)
        return replace(part, shape=self.shape[1:])

    def rows(self, start: int, stop: int) -> Tensor:
        """Entries start to stop of the first dimension."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start}:{stop} of {self.shape[0]}")
        stride = math.prod(self.shape[1:]) * self.dtype.itemsize
        return replace(self, address=self.address + start * stride, shape=(stop - start, *self.shape[1:]))


class Device(Protocol):
    """Makes and copies tensors.

    Attributes:
        kind: `cpu` or `cuda`, as ONNX Runtime calls it.
    """

    kind: Literal["cpu", "cuda"]

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Tensor:
        """A tensor with undefined content.

        Raises:
            OutOfMemoryError: The device has no memory left for it.
        """
        ...

    def zeros(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Tensor:
        """A tensor of zeros; raises as `empty`."""
        ...

    def copy(
        self, target: int, source: int, *, target_pitch: int, source_pitch: int, width: int, height: int = 1
    ) -> None:
        """Copies `height` rows of `width` bytes; returns when the copy is complete.

        Args:
            target: Address of the first row to write.
            source: Address of the first row to read.
            target_pitch: Bytes from one row to the next.
            source_pitch: The same for the source.
            width: Bytes of a row.
            height: Rows.
        """
        ...


class Host:
    """The process's own memory."""

    kind: Literal["cpu", "cuda"] = "cpu"

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Tensor:
        """See `Device`."""
        return of_array(np.empty(shape, dtype))

    def zeros(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Tensor:
        """See `Device`."""
        return of_array(np.zeros(shape, dtype))

    def copy(
        self, target: int, source: int, *, target_pitch: int, source_pitch: int, width: int, height: int = 1
    ) -> None:
        """See `Device`."""
        if width and height:
            _block(target, target_pitch, width, height)[...] = _block(source, source_pitch, width, height)


def of_array(array: npt.NDArray[Any]) -> Tensor:
    """A C-contiguous array's own memory as a tensor."""
    return Tensor(array.__array_interface__["data"][0], array.shape, array.dtype, array)


def to_array(tensor: Tensor) -> npt.NDArray[Any]:
    """A host tensor's memory as an array."""
    buffer = (ctypes.c_uint8 * tensor.nbytes).from_address(tensor.address)
    # The array keeps the buffer, and the buffer what owns the memory.
    buffer.owner = tensor.owner  # type: ignore[attr-defined]
    return np.ndarray(tensor.shape, tensor.dtype, memoryview(buffer))


def _block(address: int, pitch: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    buffer = (ctypes.c_uint8 * (pitch * (height - 1) + width)).from_address(address)
    return np.ndarray((height, width), np.uint8, memoryview(buffer), strides=(pitch, 1))
