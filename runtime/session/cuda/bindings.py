"""CUDA's driver through cuda-python (`cuda.bindings.driver`)."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import driver

from ...errors import OutOfMemoryError, ProviderError


class CudaPython:
    """See `Driver`.

    Raises:
        ProviderError: The driver is missing or does not work.
    """

    name = "cuda-python"

    def __init__(self, index: int = 0) -> None:
        try:
            _call(driver.cuInit(0))
        except RuntimeError as error:  # the first call looks for the driver's library
            raise ProviderError(
                f"cuda-python finds no driver ({error}); see `nvidia-smi`, or take provider cpu"
            ) from error
        self._device = _call(driver.cuDeviceGet(index))
        self._context = _call(driver.cuDevicePrimaryCtxRetain(self._device))
        weakref.finalize(self, driver.cuDevicePrimaryCtxRelease, self._device)

    @contextmanager
    def current(self) -> Iterator[None]:
        """See `Driver`."""
        _call(driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            _call(driver.cuCtxPopCurrent())

    def allocate(self, size: int) -> int:
        """See `Driver`."""
        return int(_call(driver.cuMemAlloc(size)))

    def free(self, address: int) -> None:
        """See `Driver`."""
        _call(driver.cuMemFree(address))

    def pinned(self, size: int) -> npt.NDArray[np.uint8]:
        """See `Driver`."""
        address = int(_call(driver.cuMemHostAlloc(size, driver.CU_MEMHOSTALLOC_PORTABLE)))
        buffer = (ctypes.c_uint8 * size).from_address(address)
        weakref.finalize(buffer, self._unpin, address)
        return np.ndarray(size, np.uint8, memoryview(buffer))

    def stream(self) -> int:
        """See `Driver`."""
        return int(_call(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value)))

    def close_stream(self, stream: int) -> None:
        """See `Driver`."""
        _call(driver.cuStreamDestroy(stream))

    def wait(self, stream: int) -> None:
        """See `Driver`."""
        _call(driver.cuStreamSynchronize(stream))

    def fill(self, address: int, size: int, stream: int) -> None:
        """See `Driver`."""
        _call(driver.cuMemsetD8Async(address, 0, size, stream))

    def upload(self, address: int, array: npt.NDArray[np.uint8], stream: int) -> None:
        """See `Driver`."""
        _call(driver.cuMemcpyHtoDAsync(address, array.ctypes.data, array.nbytes, stream))

    def download(self, array: npt.NDArray[np.uint8], address: int, stream: int) -> None:
        """See `Driver`."""
        _call(driver.cuMemcpyDtoHAsync(array.ctypes.data, address, array.nbytes, stream))

    def copy(
        self, target: int, source: int, target_pitch: int, source_pitch: int, width: int, height: int, stream: int
    ) -> None:
        """See `Driver`."""
        block = driver.CUDA_MEMCPY2D()
        block.srcMemoryType = block.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        block.srcDevice, block.srcPitch = source, source_pitch
        block.dstDevice, block.dstPitch = target, target_pitch
        block.WidthInBytes, block.Height = width, height
        _call(driver.cuMemcpy2DAsync(block, stream))

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Callable[[], None] | None:
        """See `Driver`."""
        _call(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        try:
            enqueue()
        finally:
            # Always ends the capture: a stream that keeps capturing runs nothing.
            graph = _call(driver.cuStreamEndCapture(stream))
        return _Graph(graph, stream)

    def _unpin(self, address: int) -> None:
        with self.current():
            driver.cuMemFreeHost(address)


class _Graph:
    """A captured graph, launched by calling it."""

    def __init__(self, graph: Any, stream: int) -> None:
        try:
            self._launched = _call(driver.cuGraphInstantiate(graph, 0))
        finally:
            driver.cuGraphDestroy(graph)
        self._stream = stream
        weakref.finalize(self, driver.cuGraphExecDestroy, self._launched)

    def __call__(self) -> None:
        _call(driver.cuGraphLaunch(self._launched, self._stream))


def _call(result: tuple[Any, ...]) -> Any:
    """The results of a call; its error is raised as one of ours."""
    code, *values = result
    if code == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
        raise OutOfMemoryError(
            "the GPU has no memory left (CUDA_ERROR_OUT_OF_MEMORY); smaller batches or another model need less"
        )
    if code != driver.CUresult.CUDA_SUCCESS:
        raise ProviderError(f"CUDA failed: {code.name}; see `nvidia-smi`")
    return values[0] if values else None
