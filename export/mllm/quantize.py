"""Writes the three graphs at the requested precision."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rar.runtime.session import OnnxSession

from ..encoder.parity import cosines
from ..graphs import int8, precisions
from ..graphs.weights import Rewriter, measure
from . import int4

Precision: TypeAlias = Literal["fp32", "fp16", "int8", "int4"]
Samples: TypeAlias = Iterable[Mapping[str, npt.NDArray[Any]]]

# A picture tower stays at int8 if its worst token's cosine to fp32 reaches this, else it gets fp16.
VISION_COSINE = 0.98


def convert(
    name: str, source: Path, target: Path, precision: Precision, samples: Callable[[], Samples]
) -> dict[str, Any]:
    """Writes a graph at another precision; inputs and outputs stay fp32.

    Args:
        name: `vision`, `embed` or `decoder`.
        source: The fp32 graph, on the target's file system; it is moved if nothing changes.
        target: The graph to write.
        precision: The requested precision. At `int8` and `int4` the token table has 8 bits with a scale per row, and
            the picture tower is `int8`, or `fp16` if that loses too much.
        samples: Typical inputs.

    Returns:
        `scheme`, and the measurements that chose it.
    """
    if precision == "fp32":
        for suffix in ("", ".data"):
            os.replace(f"{source}{suffix}", f"{target}{suffix}")
            os.chmod(f"{target}{suffix}", 0o644)
        return {"scheme": "fp32"}
    if precision == "fp16":
        return {"scheme": precisions.convert(source, target, "fp16", ())}
    if name == "embed":
        _quantize_table(source, target)
        return {"scheme": "int8 rows"}
    ranges = measure(source, samples())
    if name == "decoder" and precision == "int4":
        share = int4.quantize(source, target, ranges)
        return {"scheme": "int4 blocks", "int8_share": round(share, 4)}
    int8.quantize(source, target, ranges)
    if name == "decoder":
        return {"scheme": "int8 rows and columns"}
    cosine = min(_cosines(source, target, samples()))
    if cosine >= VISION_COSINE:
        return {"scheme": "int8 rows and columns", "int8_cosine": round(cosine, 5)}
    return {"scheme": precisions.convert(source, target, "fp16", ()), "int8_cosine": round(cosine, 5)}


def _cosines(source: Path, target: Path, samples: Samples) -> Iterator[float]:
    """The worst token's cosine between two picture towers, for each sample."""
    full, quantized = (OnnxSession(path, "cpu") for path in (source, target))
    for sample in samples:
        a, b = (np.asarray(session.run(sample)["image_embeds"], np.float32) for session in (full, quantized))
        yield float(cosines(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])).min())


def _quantize_table(source: Path, target: Path) -> None:
    """Writes a token table at 8 bits with a scale per row, looked up by plain operations."""
    rewriter = Rewriter(source)
    for place, lookup in enumerate(list(rewriter.model.graph.node)):
        if lookup.op_type != "Gather" or not rewriter.holds(lookup.input[0]):
            continue
        table = rewriter.array(lookup.input[0])
        scales = np.maximum(np.abs(table).max(1, keepdims=True) / np.float32(127), 1e-12)
        rewriter.replace(place)
        rounded = rewriter.constant("codes", np.rint(table / scales).astype(np.int8))
        codes = rewriter.add("Gather", [rounded, lookup.input[1]])
        rows = rewriter.add("Gather", [rewriter.constant("scales", scales), lookup.input[1]])
        rewriter.add("Mul", [rewriter.add("Cast", [codes], to=1), rows], lookup.output[0])
    rewriter.save(target)
