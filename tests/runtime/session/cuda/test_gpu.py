"""Why there is no GPU to run on is said, with what to do."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from rar.runtime import ProviderError
from rar.runtime.session.cuda.gpu import Gpu, find_gpu
from rar.runtime.session.onnxruntime.obstacles import PROVIDERS, check_libraries, check_provider

GPU = Gpu("NVIDIA RTX 4090", "sm89", (12, 4), 24 * 2**30)


def _driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(_driver(), reason="there is a driver")
def test_no_driver() -> None:
    with pytest.raises(ProviderError, match=r"no NVIDIA driver \(libcuda\.so\.1.*install it, or start the container"):
        find_gpu()


@pytest.mark.parametrize("needed", ["12.0", "12.8", "11.8"])
def test_a_driver_of_the_same_major_version_will_do(needed: str) -> None:
    GPU.check_cuda(needed, "onnxruntime 1.31")


def test_a_driver_that_is_too_old() -> None:
    with pytest.raises(ProviderError, match=r"too old: it supports CUDA 12\.4, and onnxruntime 1\.31 was built for 13"):
        GPU.check_cuda("13.0", "onnxruntime 1.31")


def test_the_cpu_needs_nothing() -> None:
    check_provider("cpu")


@pytest.mark.skipif(_driver(), reason="there is a driver")
@pytest.mark.parametrize("provider", [name for name in PROVIDERS if name != "cpu"])
def test_each_provider_says_what_it_lacks(provider: str) -> None:
    with pytest.raises(ProviderError, match=r"no NVIDIA driver|has no .*; install the extra `gpu`"):
        check_provider(provider)


def test_a_library_that_does_not_load_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"cuda provider does not load \(.*libonnxruntime_providers_shared\.so"):
        check_libraries(tmp_path, "cuda")
