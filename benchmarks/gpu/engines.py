"""Engines of TensorRT or TensorRT-RTX, where a library is installed that knows the chip."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from rar.export.graphs.checks import store_runs
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.errors import RarError
from rar.runtime.session import ENGINE, OnnxSession, Sessions
from rar.runtime.session.checks import narrowed, sampled
from rar.runtime.session.cuda.gpu import find_gpu
from rar.runtime.session.tensorrt.library import load_library
from rar.runtime.session.tensorrt.stored import LIBRARIES

from .models import SIDE
from .step import Row, Setting, side_by_side

_MODEL, _REFERENCE = "b32-fp16", "b32-fp32"
_BATCHES = (1, 8, 32)


def run(setting: Setting) -> Iterator[Row]:
    """One row a library: why it cannot be used, or the engine's parity and speed beside the CUDA provider."""
    if setting.provider != "cuda":
        yield {"skipped": "engines run on a GPU"}
        return
    for name in LIBRARIES:
        try:
            yield from _rows(setting, name)
        except RarError as error:
            yield {"library": name, "skipped": str(error)}


def _rows(setting: Setting, name: str) -> Iterator[Row]:
    library, arch = load_library(name), find_gpu().arch
    from rar.export.engine.profiles import Shapes
    from rar.export.engine.store import Options, build_engines
    from rar.export.engine.target import choose

    path = setting.models / _MODEL
    _add_runs(path, setting.models / _REFERENCE)
    options = Options(precision="fp16", shapes=Shapes((1, 8, 32), None))
    for outcome in build_engines(path, *choose(arch, name), options):
        graph = outcome.record.graph
        yield {"library": name, "version": library.version, "graph": graph, "built": outcome.built}
    bundle = Bundle.open(path)
    engine = Sessions(bundle, ENGINE).open("clip", "visual.onnx", fp16=True)
    cuda = Sessions(bundle, "cuda").open("clip", "visual.onnx", fp16=True)
    for batch in _BATCHES:
        pixels = np.random.default_rng(0).standard_normal((batch, 3, SIDE, SIDE), np.float32)
        timed = side_by_side(
            {
                who: partial(session.run, {"pixel_values": pixels}, ["image_embeds"])
                for who, session in (("engine", engine), ("cuda", cuda))
            },
            setting.slice,
        )
        yield {"library": name, "batch": batch, "timed": {who: one.row(batch) for who, one in timed.items()}}


def _add_runs(path: Path, reference: Path) -> None:
    """Stores with the encoder what the same weights at fp32 give on the CPU, by which an engine is accepted."""
    stripped, full = Bundle.open(path), Bundle.open(reference)
    part = stripped.component("clip")
    noise = np.random.default_rng(0)
    with stage(path, "clip") as staging:
        for name in part.files:
            shutil.copyfile(stripped.file("clip", name, check=False), staging.folder / name)
        held = {}
        for graph, inputs in (
            ("visual.onnx", {"pixel_values": noise.standard_normal((2, 3, SIDE, SIDE), np.float32)}),
            ("text.onnx", {"input_ids": noise.integers(1, 1000, (2, 77))}),
        ):
            given = narrowed(inputs)
            run = sampled(given, OnnxSession(full.graph("clip", graph), "cpu").run(given))
            session = OnnxSession(staging.folder / graph, "cpu", fp16=True)
            held[graph] = store_runs(staging.folder, graph, [run], session, "fp16")
        staging.info.update(part.info, checks=held)
