"""Reads the tensors of a PyTorch checkpoint without PyTorch, and without running what the file may ask for.

The format is the one of `torch.save` before 1.6: five pickles and then the storages' values one after another. The
unpickler knows dictionaries, storages and tensors over them. A checkpoint that names anything else is refused.
"""

from __future__ import annotations

import math
import pickle  # only with the table below
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from rar.runtime.errors import ExportError

Array = npt.NDArray[np.generic]

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


@dataclass(frozen=True)
class _Storage:
    """Values that tensors share; they follow the pickles."""

    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, values: Mapping[str, Array]) -> Array:
        sizes = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise ValueError(f"a tensor has the shape {self.shape} and the strides {self.strides}")
        stored = values[self.storage.key]
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if (0 not in self.shape and last >= len(stored)) or math.prod(self.shape) > len(stored):
            raise ValueError(f"a tensor of {self.shape} reads beyond its {len(stored)} values")
        strides = [step * stored.itemsize for step in self.strides]
        view = np.lib.stride_tricks.as_strided(stored[self.offset :], self.shape, strides, writeable=False)
        return np.array(view, order="C")  # `ascontiguousarray` would give a number a dimension


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


# All that a file of tensors names. A storage's type is a number format, which nothing can call.
_KNOWN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no tensor needs")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError(f"it refers to {str(kind)[:80]}, which is no storage")
        return _Storage(key, dtype, int(count))


def read_checkpoint(path: Path) -> dict[str, Array]:
    """The tensors of a checkpoint by name.

    Raises:
        ExportError: The file is missing, is of another format, is damaged, or holds more than tensors.
    """

    def fail(why: object) -> NoReturn:
        raise ExportError(f"{path}: is no checkpoint of plain tensors ({why}); install its package again")

    try:
        with path.open("rb") as file:
            magic, version, _, content, keys = (_Unpickler(file).load() for _ in range(5))
            if (magic, version) != (_MAGIC, _VERSION) or not isinstance(content, OrderedDict):
                fail("another format")
            tensors = {str(name): tensor for name, tensor in content.items() if isinstance(tensor, _Tensor)}
            if len(tensors) != len(content):
                fail("it holds other things than tensors")
            storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
            values = {key: _values(file, storages[key]) for key in keys}
            return {name: tensor.array(values) for name, tensor in tensors.items()}
    except ExportError:
        raise
    except Exception as error:  # a damaged pickle raises any of many
        fail(error)


def _values(file: BinaryIO, storage: _Storage) -> Array:
    count = int.from_bytes(file.read(8), "little", signed=True)
    if count != storage.count:
        raise ValueError(f"a storage has {count} values where {storage.count} are announced")
    data = file.read(count * storage.dtype.itemsize)
    return np.frombuffer(data, storage.dtype, count)
