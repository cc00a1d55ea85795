"""The same encoder in other engines, with this package's decoding and preparation, and exact search.

So a row differs from this package's own by the engine. Beside them this package itself, on OpenVINO.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from rar.runtime.bundle.files import write_json
from rar.runtime.bundle.manifest import Bundle
from rar.runtime.encoder.info import EncoderInfo
from rar.runtime.errors import RarError
from rar.runtime.machine.cores import usable_cores
from rar.runtime.picture.load import load_image
from rar.runtime.picture.preprocess import Preprocess
from rar.runtime.session.openvino.graph import OPENVINO, PRECISION, library
from rar.runtime.stages import in_stage

from ..latency.ours import Settings, open_ours
from ..latency.work import Opened, told
from ..made import made
from .batches import ByBatch, Embed
from .pytorch import Terms, distinct, exact, network
from .torch_best import LEAST_COSINE, embedder

# `fp32` and `bf16` are the network at those precisions; `int8` is the bundle's own quantised graph.
Kind: TypeAlias = Literal["fp32", "bf16", "int8"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_SIZES = (1, 8, 32)
_GRAPH, _COSINE = "visual.xml", "cosine.json"


def prepare_openvino(kind: Kind, terms: Terms) -> None:
    """Converts the network, and compares the embeddings of some pictures with PyTorch's at fp32.

    Raises:
        RarError: It cannot be converted or run, or the bundle's graph is not int8.
    """
    bundle = Bundle.open(terms.bundle)
    if kind == "int8" and (precision := EncoderInfo.of(bundle).precision) != "int8":
        raise RarError(f"the bundle's encoder is at {precision}, not int8")
    settings: dict[str, Any] = {"encoder": bundle.component("clip").fingerprint}
    made(terms.folder / OPENVINO, settings, partial(_convert, terms))
    settings |= {"pictures": [str(picture) for picture in terms.pictures], "cosine": LEAST_COSINE}
    made(terms.folder / f"{OPENVINO}-{kind}", settings, partial(_compare, kind, terms))


def _convert(terms: Terms, folder: Path) -> None:
    told(partial(_convert_network, terms, folder / _GRAPH))


def _convert_network(terms: Terms, file: Path) -> None:
    import torch

    openvino = library()

    size = Bundle.open(terms.bundle).read_json("clip", "preprocess.json")["size"]
    module = embedder(network(terms)[0], False)
    with torch.inference_mode():
        traced = torch.jit.trace(module, torch.zeros(1, 3, size, size), check_trace=False)  # type: ignore[no-untyped-call]
    openvino.save_model(openvino.convert_model(traced), file, compress_to_fp16=False)


def _compare(kind: Kind, terms: Terms, folder: Path) -> None:
    told(partial(_write_cosine, kind, terms, folder / _COSINE))


def _write_cosine(kind: Kind, terms: Terms, file: Path) -> None:
    import torch

    pixels = _preprocess(terms)([load_image(picture) for picture in terms.pictures])
    with torch.inference_mode():
        wanted = embedder(network(terms)[0], False)(torch.from_numpy(pixels)).numpy()
    found = _engine(kind, terms)(pixels)
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
    cosine = float(((wanted * found).sum(1) / lengths).mean())
    if not cosine >= LEAST_COSINE:
        raise RarError(f"its embeddings are other ones: cosine {cosine:.3f} to PyTorch's at fp32")
    write_json(file, {"cosine": cosine})


def _preprocess(terms: Terms) -> Preprocess:
    settings = Bundle.open(terms.bundle).read_json("clip", "preprocess.json")
    return Preprocess.from_dict(settings, threads=terms.threads)


def _engine(kind: Kind, terms: Terms) -> ByBatch:
    """OpenVINO on the CPU, a program for each batch size."""
    openvino = library()
    bundle, side = Bundle.open(terms.bundle), _preprocess(terms).size
    graph = bundle.file("clip", "visual.onnx") if kind == "int8" else terms.folder / OPENVINO / _GRAPH
    core = openvino.Core()
    settings: dict[str, Any] = {PRECISION: "bf16" if kind == "bf16" else "f32"}
    settings |= {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": terms.threads or usable_cores()}

    def opener(size: int) -> Embed:
        model = core.read_model(graph)
        model.reshape([size, 3, side, side])
        compiled = core.compile_model(model, "CPU", settings)
        return lambda pixels: np.array(compiled(pixels)[0])

    return ByBatch(opener, _SIZES)


def open_openvino(kind: Kind, terms: Terms) -> Opened:
    """OpenVINO on the CPU, and the cosine that its embeddings have to PyTorch's."""
    says = json.loads((terms.folder / f"{OPENVINO}-{kind}" / _COSINE).read_text(encoding="utf-8"))
    says |= {"openvino": library().__version__}
    embed, preprocess = _engine(kind, terms), _preprocess(terms)
    search, labels = exact(terms), terms.labels()
    decoders = ThreadPoolExecutor(terms.threads or usable_cores())

    def answer(pictures: Sequence[Path], batch: int) -> list[str]:
        classes = []
        for start in range(0, len(pictures), batch):
            with in_stage("decode"):
                images = list(decoders.map(load_image, pictures[start : start + batch]))
            with in_stage("preprocess"):
                pixels = preprocess(images)
            with in_stage("embed"):
                embeddings = embed(pixels)
            with in_stage("search"):
                classes += [distinct(places, labels, terms.k)[0] for places in search(embeddings)]
        return classes

    return Opened(answer, _SIZES, compiles=True, says=lambda: says)


def need_fp32(terms: Terms) -> None:
    """Whether there is a bundle at fp32, for bf16 is computed from it.

    Raises:
        RarError: There is none.
    """
    if terms.fp32 is None:
        raise RarError("bf16 is computed from fp32; name that bundle with --fp32")


def open_ours_on_openvino(kind: Kind | None, terms: Terms) -> Opened:
    """This runtime with its provider `openvino`.

    Args:
        kind: `fp32`, or `bf16` from the same bundle; None for the bundle at its own precision.
        terms: See `Terms`.

    Raises:
        RarError: The graph is not right there, or this processor has no bf16.
    """
    bundle = terms.bundle if kind is None or terms.fp32 is None else terms.fp32
    options = {OPENVINO: {PRECISION: "bf16"}} if kind == "bf16" else None
    return open_ours(Settings(str(bundle), OPENVINO, "none", terms.k, terms.threads, options), "retrieve")
