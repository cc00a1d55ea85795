"""One GPU's memory, streams and graphs, behind the few functions of `Driver`.

They are there twice: through cuda-python, which installs as wheels for x86-64 and Arm and knows CUDA graphs, and
through PyCUDA, which compiles against the toolkit and knows none, for machines that have only that. Both work in the
device's primary context, the one that PyTorch, ONNX Runtime and TensorRT use too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import ProviderError
from .pool import Pool, Usage
from .tensors import Device, Host, Tensor

_LOG = logging.getLogger("rar")


class Driver(Protocol):
    """CUDA's driver on one device. Streams are handles, memory is addresses; calls wait for no GPU unless they say so.

    Every call but `current` needs the context, so it stands in a `with driver.current():`.

    Attributes:
        name: The package behind it.
    """

    name: str

    def current(self) -> AbstractContextManager[None]:
        """Makes the primary context this thread's for a while."""
        ...

    def allocate(self, size: int) -> int:
        """Device memory; raises `OutOfMemoryError`."""
        ...

    def free(self, address: int) -> None:
        """Gives it back."""
        ...

    def pinned(self, size: int) -> npt.NDArray[np.uint8]:
        """Page-locked host memory, given back when the array goes; raises `OutOfMemoryError`."""
        ...

    def stream(self) -> int:
        """A new stream that does not wait for the default one."""
        ...

    def close_stream(self, stream: int) -> None:
        """Ends a stream."""
        ...

    def wait(self, stream: int) -> None:
        """Returns when all that was put into the stream is done."""
        ...

    def fill(self, address: int, size: int, stream: int) -> None:
        """Sets bytes to zero."""
        ...

    def upload(self, address: int, array: npt.NDArray[np.uint8], stream: int) -> None:
        """Host to device."""
        ...

    def download(self, array: npt.NDArray[np.uint8], address: int, stream: int) -> None:
        """Device to host."""
        ...

    def copy(
        self, target: int, source: int, target_pitch: int, source_pitch: int, width: int, height: int, stream: int
    ) -> None:
        """Device to device, `height` rows of `width` bytes."""
        ...

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Callable[[], None] | None:
        """What `enqueue` puts into the stream, as a graph: a function that launches it there again.

        None where graphs are not to be had; nothing has run then.
        """
        ...


class Cuda:
    """A GPU as a `Device`. Memory comes from a pool.

    Args:
        driver: CUDA's functions.

    Attributes:
        kind: `cuda`.
        driver: As above.
    """

    kind: Literal["cpu", "cuda"] = "cuda"

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._pool = Pool(self._allocate, self._release)
        with driver.current():
            self._stream = driver.stream()

    @property
    def usage(self) -> Usage:
        """Device memory that this process holds through here; the weights in an engine are not among it."""
        return self._pool.usage

    def trim(self) -> None:
        """Gives memory that is only kept back to the device."""
        self._pool.trim()

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Tensor:
        """See `Device`."""
        element = np.dtype(dtype)
        block = self._pool.take(math.prod(shape) * element.itemsize)
        return Tensor(block.address, tuple(shape), element, block)

    def zeros(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Tensor:
        """See `Device`."""
        tensor = self.empty(shape, dtype)
        if tensor.nbytes:
            with self.driver.current():
                self.driver.fill(tensor.address, tensor.nbytes, self._stream)
                self.driver.wait(self._stream)
        return tensor

    def copy(
        self, target: int, source: int, *, target_pitch: int, source_pitch: int, width: int, height: int = 1
    ) -> None:
        """See `Device`."""
        if width and height:
            with self.driver.current():
                self.driver.copy(target, source, target_pitch, source_pitch, width, height, self._stream)
                self.driver.wait(self._stream)

    def _allocate(self, size: int) -> int:
        with self.driver.current():
            return self.driver.allocate(size)

    def _release(self, address: int) -> None:
        with self.driver.current():
            self.driver.free(address)


@cache
def cuda() -> Cuda:
    """This process's GPU; one, so that its memory is one pool.

    Raises:
        ProviderError: Neither package is there, or the driver does not work.
    """
    reasons = []
    for open_driver in (_cuda_python, _pycuda):
        try:
            return Cuda(open_driver())
        except (ImportError, ProviderError) as error:
            reasons.append(str(error))
    raise ProviderError(
        f"no way to the GPU's memory ({'; '.join(reasons)}); `pip install cuda-python` for the driver's CUDA version"
    )


def cuda_or_host() -> Device:
    """The GPU; or the host, where neither package is there: tensors then go back and forth with each run."""
    try:
        return cuda()
    except ProviderError as error:
        _LOG.info("what a model keeps between runs stays in host memory: %s", error)
        return Host()


def _cuda_python() -> Driver:
    from .cuda_python import CudaPython

    return CudaPython()


def _pycuda() -> Driver:
    from .cuda_pycuda import PyCuda

    return PyCuda()


def as_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """A C-contiguous array's bytes, flat; no copy."""
    return array.reshape(-1).view(np.uint8)
