"""Pictures per second of the picture tower beside PyTorch eager and compiled, fp16, from batch 1 to 256."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rar.runtime.bundle.manifest import Bundle
from rar.runtime.session import OnnxSession, Tensor
from rar.runtime.session.cuda.device import Cuda, as_bytes
from rar.runtime.session.tensors import to_array

from .models import MODELS, SIDE
from .step import Row, Setting, ratio, side_by_side

_BATCHES: dict[str, Sequence[int]] = {"b32-fp16": (1, 8, 32, 64, 128, 256), "l14-fp16": (1, 8, 32, 64)}
# A compiled model takes half a minute a batch size.
_COMPILED, _COMPILE_SECONDS = (("b32-fp16", 64), ("b32-fp16", 1), ("l14-fp16", 64), ("b32-fp16", 256)), 40.0

Call: TypeAlias = Callable[[], Any]


def run(setting: Setting) -> Iterator[Row]:
    """First all batches against eager PyTorch, then those that there is time to compile for."""
    networks = {name: _network(setting, name) for name in _BATCHES}
    # Once each: a bundle hashes a graph's weights before it gives the path.
    graphs = {name: Bundle.open(setting.models / name).graph("clip", "visual.onnx") for name in _BATCHES}
    sessions = {name: OnnxSession(graph, setting.provider, fp16=True) for name, graph in graphs.items()}
    for name, batches in _BATCHES.items():
        for batch in batches:
            baseline = {"eager": _synchronised(setting, networks[name], batch)}
            yield _row(setting, name, batch, _ours(setting, graphs[name], sessions[name], batch), baseline)
    import torch

    for name, batch in _COMPILED:
        if setting.left() < _COMPILE_SECONDS:
            yield {"model": name, "batch": batch, "skipped": f"{setting.left():.0f} s left, compiling takes more"}
            continue
        compiled = torch.compile(networks[name], mode="max-autotune", dynamic=False)
        baseline = {"compiled, max-autotune": _synchronised(setting, compiled, batch)}
        yield _row(setting, name, batch, _ours(setting, graphs[name], sessions[name], batch), baseline)


def _row(setting: Setting, name: str, batch: int, ours: dict[str, Call], baselines: dict[str, Call]) -> Row:
    timed = side_by_side({**ours, **baselines}, setting.slice)
    best = min((way for way in ours if way.startswith("ours, on")), key=lambda way: np.median(timed[way].seconds))
    return {
        "model": name, "batch": batch, "timed": {way: one.row(batch) for way, one in timed.items()},
        "ratios": {way: {"ours": best, **ratio(timed[best], timed[way])} for way in baselines},
    }  # fmt: skip


def _ours(setting: Setting, path: Path, session: OnnxSession, batch: int) -> dict[str, Call]:
    """The session with pictures that come from host memory, that lie on the device, and as one CUDA graph."""
    pixels = np.random.default_rng(0).standard_normal((batch, 3, SIDE, SIDE), np.float32)
    resident = _upload(session, pixels)
    calls: dict[str, Call] = {
        "ours, from host memory": lambda: session.run({"pixel_values": pixels}, ["image_embeds"]),
        "ours, on the device": lambda: session.run({"pixel_values": resident}, ["image_embeds"]),
    }
    if setting.provider == "cuda":
        graph = OnnxSession(path, "cuda", fp16=True, options={"enable_cuda_graph": "1"})
        shape = session.run({"pixel_values": resident}, ["image_embeds"])["image_embeds"].shape
        into = {"image_embeds": graph.device.empty(shape, np.float32)}
        calls["ours, on the device, CUDA graph"] = lambda: graph.run({"pixel_values": resident}, [], into)
    return calls


def _upload(session: OnnxSession, array: npt.NDArray[np.float32]) -> Tensor:
    """A copy of an array in the memory of a session's device."""
    tensor = session.device.empty(array.shape, array.dtype)
    if not isinstance(session.device, Cuda):
        to_array(tensor)[...] = array
        return tensor
    driver = session.device.driver
    with driver.current():
        stream = driver.stream()
        driver.upload(tensor.address, as_bytes(array), stream)
        driver.wait(stream)
        driver.close_stream(stream)
    return tensor


def _network(setting: Setting, name: str) -> Any:
    """open_clip's picture tower at fp16 and channels-last, with random weights."""
    import open_clip
    import torch

    torch.manual_seed(0)
    network = open_clip.create_model(MODELS[name].encoder).visual.eval().to(setting.torch_device, torch.float16)
    return network.to(memory_format=torch.channels_last)


def _synchronised(setting: Setting, network: Any, batch: int) -> Call:
    """A call of PyTorch on pictures that lie on the device already."""
    import torch

    pixels = torch.randn(batch, 3, SIDE, SIDE, device=setting.torch_device, dtype=torch.float16)
    pixels = pixels.to(memory_format=torch.channels_last)

    def call() -> Any:
        with torch.inference_mode():
            return network(pixels).float().cpu()  # which waits for the device

    return call
