"""One GPU's memory, streams and graphs, behind the few functions of `Driver`.

Two packages provide them. cuda-python installs as wheels for x86-64 and Arm and supports CUDA graphs. PyCUDA compiles
against the toolkit and has no CUDA graphs; it is for machines without cuda-python. Both work in the device's primary
context, which PyTorch, ONNX Runtime and TensorRT use too.
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

from ...errors import ProviderError
from ..tensors import Device, Host, Tensor
from .pool import Pool, Usage

_LOG = logging.getLogger("rar")


class Driver(Protocol):
    """CUDA's driver on one device. Streams are handles, memory is addresses. Calls are asynchronous unless documented.

    Every call but `current` needs the context, so it must be inside `with driver.current():`.

    Attributes:
        name: The package behind it.
    """

    name: str

    def current(self) -> AbstractContextManager[None]:
        """Makes the primary context current for this thread, inside the block."""
        ...

    def allocate(self, size: int) -> int:
        """Device memory; raises `OutOfMemoryError`."""
        ...

    def free(self, address: int) -> None:
        """Frees device memory."""
        ...

    def pinned(self, size: int) -> npt.NDArray[np.uint8]:
        """Page-locked host memory, freed with the array; raises `OutOfMemoryError`."""
        ...

    def stream(self) -> int:
        """A new stream that does not wait for the default one."""
        ...

    def close_stream(self, stream: int) -> None:
        """Destroys a stream."""
        ...

    def wait(self, stream: int) -> None:
        """Waits until all work in the stream is done."""
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
        """Captures the work that `enqueue` submits to the stream; returns a function that launches it again.

        Returns None if the package has no CUDA graphs; nothing has run then.
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
        """Device memory of this pool in this process; an engine's weights are not included."""
        return self._pool.usage

    def trim(self) -> None:
        """Returns cached memory to the device."""
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
    """This process's GPU, one object, so that its memory is one pool.

    Raises:
        ProviderError: Neither package is installed, or the driver does not work.
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
    """The GPU, or the host if neither package is installed: each run then copies its tensors to and from the GPU."""
    try:
        return cuda()
    except ProviderError as error:
        _LOG.info("what a model keeps between runs stays in host memory: %s", error)
        return Host()


def _cuda_python() -> Driver:
    from .bindings import CudaPython

    return CudaPython()


def _pycuda() -> Driver:
    from .pycuda import PyCuda

    return PyCuda()


def as_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """A C-contiguous array's bytes, flat; no copy."""
    return array.reshape(-1).view(np.uint8)
