"""Finds out why a provider of ONNX Runtime cannot run here, before a session is made.

ONNX Runtime lists the providers that it was built with, not those that work. It falls back to the CPU with a line on
stderr.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
from pathlib import Path
from typing import Any

from ...errors import ProviderError
from ..cuda.gpu import find_gpu

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


def check_provider(provider: str) -> None:
    """Checks all that a provider needs: its build, a GPU, a recent enough driver, and its libraries.

    Raises:
        ProviderError: Names the first missing thing, and what to do.
    """
    import onnxruntime as ort
    from onnxruntime.capi import build_and_package_info as build

    if provider == "cpu":
        return
    if provider == "tensorrt-rtx":
        find_gpu()
        plugin_devices()
        return
    if PROVIDERS[provider] not in ort.get_available_providers():
        raise ProviderError(
            f"this onnxruntime has no {PROVIDERS[provider]} (it offers {', '.join(ort.get_available_providers())}); "
            "install the extra `gpu` in place of `cpu`, or on a Jetson the wheel for its JetPack"
        )
    gpu = find_gpu()
    if built_for := getattr(build, "cuda_version", None):
        gpu.check_cuda(built_for, f"onnxruntime {ort.__version__}")
    check_libraries(Path(ort.__file__).parent / "capi", provider)


def check_libraries(folder: Path, provider: str) -> None:
    """Checks that the provider's library loads with all its dependencies.

    Args:
        folder: The folder of onnxruntime's libraries.
        provider: `cuda` or `tensorrt`.

    Raises:
        ProviderError: The library does not load; the loader's message names what is missing.
    """
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it cannot find
            ort.preload_dlls()
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{provider}.so"))
    except OSError as error:
        hint = "install CUDA and cuDNN (`pip install 'onnxruntime-gpu[cuda,cudnn]'` brings both)"
        if "nvinfer" in str(error) or "nvonnxparser" in str(error):
            hint = (
                "install the TensorRT of that major version: onnxruntime 1.31 links TensorRT 10, and "
                "`pip install tensorrt` gives 11 (`pip install 'tensorrt-cu13>=10.15,<11'`)"
            )
        raise ProviderError(f"onnxruntime's {provider} provider does not load ({error}); {hint}") from error


def plugin_devices() -> list[Any]:
    """The GPUs that the TensorRT-RTX plugin offers to ONNX Runtime (`OrtEpDevice`).

    Raises:
        ProviderError: The plugin is not installed, does not load, or finds no GPU that it supports.
    """
    import onnxruntime as ort

    try:
        plugin = importlib.import_module(PLUGIN)
    except ImportError as error:
        raise ProviderError(
            f"the TensorRT-RTX plugin is not installed ({error}); `pip install onnxruntime-ep-nv-tensorrt-rtx-cu13`"
        ) from error
    name: str = plugin.get_ep_name()
    try:
        ort.register_execution_provider_library(name, plugin.get_library_path())
    except Exception as error:  # ONNX Runtime raises a family of unrelated types
        if "already registered" not in str(error):
            raise ProviderError(
                f"onnxruntime {ort.__version__} cannot load the TensorRT-RTX plugin ({error}); it needs "
                "onnxruntime 1.24 or later and an NVIDIA driver"
            ) from error
    devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
    if not devices:
        raise ProviderError("the TensorRT-RTX plugin finds no GPU that it supports; it needs an RTX GPU from Ampere on")
    return devices
