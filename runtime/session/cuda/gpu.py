"""Asks the driver itself which NVIDIA GPU is present: this needs no package and explains each failure."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from ...errors import ProviderError

_DRIVER = "libcuda.so.1"
# CUresult codes (CUDA driver API) of failures with known remedies.
_REASONS = {
    34: "libcuda.so.1 is the CUDA toolkit's stub and not a driver; take its folder out of LD_LIBRARY_PATH",
    100: "the driver sees no GPU; look at nvidia-smi and CUDA_VISIBLE_DEVICES, and start a container with the GPU",
    802: "the GPU is not ready (error 802); on a machine with NVSwitch, start nvidia-fabricmanager",
    803: "the driver's kernel module and its libraries differ in version (error 803); restart the machine",
    804: "libcuda.so.1 of a compatibility package does not support this GPU (error 804); upgrade the driver itself",
}
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True)
class Gpu:
    """A GPU and its driver.

    Attributes:
        name: Such as `NVIDIA H100 80GB HBM3`.
        arch: Compute capability, such as `sm89`.
        cuda: The highest CUDA version of the driver, such as (13, 0).
        memory: Bytes of its memory; on a Jetson, the host's memory.
    """

    name: str
    arch: str
    cuda: tuple[int, int]
    memory: int

    def check_cuda(self, needed: str, what: str) -> None:
        """Checks that the driver is new enough; within a major version any is (CUDA minor version compatibility).

        Args:
            needed: The CUDA version that the dependent package was built for, such as `13.0`.
            what: The name of that package, for the message.

        Raises:
            ProviderError: The driver is too old.
        """
        if self.cuda[0] < int(needed.split(".")[0]):
            raise ProviderError(
                f"the driver is too old: it supports CUDA {self.cuda[0]}.{self.cuda[1]}, and {what} was built for "
                f"{needed}; upgrade the driver, or install a build for CUDA {self.cuda[0]}"
            )


def find_gpu(index: int = 0) -> Gpu:
    """The GPU of that number among those visible to the process.

    Raises:
        ProviderError: There is no such GPU, or its driver does not work; the message says which and what to do.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise ProviderError(
            f"no NVIDIA driver ({error}); install it, or start the container with the NVIDIA runtime"
        ) from error
    cuda, count, device, major, minor = (ctypes.c_int() for _ in range(5))
    memory, name = ctypes.c_size_t(), ctypes.create_string_buffer(256)
    _check(driver.cuInit(0))
    _check(driver.cuDriverGetVersion(ctypes.byref(cuda)))
    _check(driver.cuDeviceGetCount(ctypes.byref(count)))
    if not 0 <= index < count.value:
        raise ProviderError(f"there is no GPU {index}: the process sees {count.value}; look at CUDA_VISIBLE_DEVICES")
    _check(driver.cuDeviceGet(ctypes.byref(device), index))
    _check(driver.cuDeviceGetName(name, len(name), device))
    _check(driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device))
    _check(driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device))
    _check(driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    return Gpu(
        name.value.decode(errors="replace"),
        f"sm{major.value}{minor.value}",
        (cuda.value // 1000, cuda.value % 1000 // 10),
        memory.value,
    )


def _check(result: int) -> None:
    if result:
        raise ProviderError(_REASONS.get(result, f"the NVIDIA driver failed with error {result}; look at nvidia-smi"))
