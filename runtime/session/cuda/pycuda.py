"""CUDA's driver through PyCUDA, in the primary context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pycuda.driver as driver

from ...errors import OutOfMemoryError, ProviderError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which PyCUDA has no name for


class PyCuda:
    """See `Driver`. PyCUDA has no CUDA graphs.

    Raises:
        ProviderError: The driver does not work.
    """

    name = "pycuda"

    def __init__(self, index: int = 0) -> None:
        with _errors():
            driver.init()
            self._context = driver.Device(index).retain_primary_context()
        # PyCUDA's objects free their resources when they are collected, so they are kept as long as their handles live.
        self._blocks: dict[int, driver.DeviceAllocation] = {}
        self._streams: dict[int, driver.Stream] = {}

    @contextmanager
    def current(self) -> Iterator[None]:
        """See `Driver`."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def allocate(self, size: int) -> int:
        """See `Driver`."""
        with _errors():
            block = driver.mem_alloc(size)
        self._blocks[int(block)] = block
        return int(block)

    def free(self, address: int) -> None:
        """See `Driver`."""
        self._blocks.pop(address).free()

    def pinned(self, size: int) -> npt.NDArray[np.uint8]:
        """See `Driver`."""
        with _errors():
            memory: npt.NDArray[np.uint8] = driver.pagelocked_empty(
                size, np.uint8, mem_flags=driver.host_alloc_flags.PORTABLE
            )
        return memory

    def stream(self) -> int:
        """See `Driver`."""
        with _errors():
            stream = driver.Stream(_NON_BLOCKING)
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def close_stream(self, stream: int) -> None:
        """See `Driver`."""
        del self._streams[stream]

    def wait(self, stream: int) -> None:
        """See `Driver`."""
        with _errors():
            self._streams[stream].synchronize()

    def fill(self, address: int, size: int, stream: int) -> None:
        """See `Driver`."""
        with _errors():
            driver.memset_d8_async(address, 0, size, self._streams[stream])

    def upload(self, address: int, array: npt.NDArray[np.uint8], stream: int) -> None:
        """See `Driver`."""
        with _errors():
            driver.memcpy_htod_async(address, array, self._streams[stream])

    def download(self, array: npt.NDArray[np.uint8], address: int, stream: int) -> None:
        """See `Driver`."""
        with _errors():
            driver.memcpy_dtoh_async(array, address, self._streams[stream])

    def copy(
        self, target: int, source: int, target_pitch: int, source_pitch: int, width: int, height: int, stream: int
    ) -> None:
        """See `Driver`."""
        block = driver.Memcpy2D()
        block.set_src_device(source)
        block.set_dst_device(target)
        block.src_pitch, block.dst_pitch = source_pitch, target_pitch
        block.width_in_bytes, block.height = width, height
        with _errors():
            block(self._streams[stream])

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Callable[[], None] | None:
        """See `Driver`."""
        return None


@contextmanager
def _errors() -> Iterator[None]:
    """Raises PyCUDA's errors as ours."""
    try:
        yield
    except driver.MemoryError as error:
        raise OutOfMemoryError(
            f"the GPU has no memory left ({error}); smaller batches or another model need less"
        ) from error
    except driver.Error as error:
        raise ProviderError(f"CUDA failed: {error}; see `nvidia-smi`") from error
