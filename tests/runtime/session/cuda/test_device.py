"""The calls to CUDA through the real cuda-python, with a driver that works in host memory (`hostcuda.c`).

They run in a process of their own, whose loader finds that driver. No kernel runs there: this shows that memory is
written where it should be, accounted for and given back, and not that anything works on a GPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_HEAD = """
import ctypes, gc
import numpy as np
from rar.runtime.errors import OutOfMemoryError
from rar.runtime.session.cuda.device import as_bytes, cuda
from rar.runtime.session.cuda.gpu import find_gpu
from rar.runtime.session.tensors import Host, of_array, to_array

def held():
    found = (ctypes.c_size_t * 5)()
    ctypes.CDLL("libcuda.so.1").hostcuda_held(found)
    return dict(zip(("bytes", "blocks", "pinned", "streams", "graphs"), found))

def fetch(tensor):  # device memory is host memory here
    return to_array(tensor).copy()
"""

_GPU = """
gpu = find_gpu()
assert (gpu.name, gpu.arch, gpu.cuda, gpu.memory) == ("Host memory", "sm89", (13, 0), 2**30), gpu
try:
    find_gpu(1)
except Exception as error:
    assert "there is no GPU 1: the process sees 1" in str(error), error
else:
    raise AssertionError
"""

_MEMORY = """
device = cuda()
assert device.driver.name == "cuda-python" and device is cuda()
tensor = device.zeros((2, 3, 4), np.float32)
assert not fetch(tensor).any()
assert device.usage.held == held()["bytes"] == 512
fresh = device.empty((1000,), np.float32)
assert fetch(fresh).view(np.uint8).any()  # whatever was there
driver = device.driver
values = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
with driver.current():
    stream = driver.stream()
    pinned = driver.pinned(values.nbytes)
    pinned[:] = as_bytes(values)
    driver.upload(tensor.address, pinned, stream)
    back = driver.pinned(values.nbytes)
    driver.download(back, tensor.address, stream)
    driver.wait(stream)
    assert (back.view(np.float32) == values.reshape(-1)).all()
    launch = driver.capture(stream, lambda: driver.fill(tensor.address, tensor.nbytes, stream))
    assert fetch(tensor).any()  # captured, not run
    launch()
    assert not fetch(tensor).any()
    try:
        driver.capture(stream, lambda: 1 / 0)
    except ZeroDivisionError:
        driver.wait(stream)  # no longer capturing
    driver.close_stream(stream)
assert held()["pinned"] == 2 and held()["graphs"] == 1
del tensor, fresh, pinned, back, launch
gc.collect()
assert device.usage.held == 0 and device.usage.kept == held()["bytes"] > 0
device.trim()
assert held() == {"bytes": 0, "blocks": 0, "pinned": 0, "streams": 1, "graphs": 0}, held()
"""

_LIMIT = """
device = cuda()
tensor = device.zeros((500_000,), np.uint8)
try:
    device.empty((700_000,), np.uint8)
except OutOfMemoryError as error:
    assert "CUDA_ERROR_OUT_OF_MEMORY" in str(error)
else:
    raise AssertionError
del tensor
assert device.usage.kept
device.empty((700_000,), np.uint8)  # what was kept makes room
"""

_CACHE = """
from rar.runtime.rank.mllm.decoder import Cache, Shape
rng = np.random.default_rng(0)
shape = Shape(layers=3, kv_heads=2, head_dim=4)
device, host = cuda(), Host()

def tokens(rows, count):
    return rng.normal(size=(6, rows, 2, count, 4)).astype(np.float32)

def put(cache, values):
    new = cache.new(values.shape[3])
    ctypes.memmove(new.address, np.ascontiguousarray(values).ctypes.data, new.nbytes)
    assert cache.outputs(new).keys() == {f"present.{i}.{p}" for i in range(3) for p in ("key", "value")}
    cache.append(new, reserve=3)

expected = tokens(1, 5)
caches = [Cache(shape, device), Cache(shape, host)]
for cache in caches:
    put(cache, expected)
caches = [cache.rows([0, 0, 0]) for cache in caches]
expected = np.repeat(expected, 3, 1)
for step in range(9):
    more = tokens(3, 1)
    expected = np.concatenate([expected, more], 3)
    for cache in caches:
        put(cache, more)
caches = [cache.rows([2, 0]) for cache in caches]
expected = expected[:, [2, 0]]
for cache in caches:
    assert cache.length == 14 and cache.room >= 14
    for layer in range(3):
        for index, part in enumerate(("key", "value")):
            found = fetch(cache.inputs()[f"past_key_values.{layer}.{part}"])
            assert np.array_equal(found[:, :, :14], expected[2 * layer + index])
            assert not found[:, :, 14:].any()
del cache, caches
gc.collect()
device.trim()
assert held()["blocks"] == 0
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libcuda.so.1 that works in host memory."""
    pytest.importorskip("cuda.bindings.driver")
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("hostcuda.c")
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", folder / "libcuda.so.1", source], check=True)
    return folder


@pytest.mark.parametrize(
    ("script", "limit"),
    [(_GPU, None), (_MEMORY, None), (_LIMIT, "1000000"), (_CACHE, None)],
    ids=["gpu", "memory", "limit", "cache"],
)
def test_calls_fit_together(driver: Path, script: str, limit: str | None) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), **({"HOSTCUDA_BYTES": limit} if limit else {})}
    command = [sys.executable, "-c", _HEAD + script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
