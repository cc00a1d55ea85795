"""Quantises products with constant matrices to 8 bits, as pairs of QuantizeLinear and DequantizeLinear.

TensorRT takes symmetric quantisation. Weights have a scale per column (int8), or one for all (fp8, E4M3). An input has
one scale, which covers its range on the samples.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..graphs.weights import Floats, Range, Rewriter, measure

Inputs = Mapping[str, npt.NDArray[Any]]

_LARGEST = {"int8": 127.0, "fp8": 448.0}
# Scales become fp16 with the rest of the graph; below this they would lose digits.
_LEAST_SCALE = 2.0**-14


def quantize(source: Path, target: Path, precision: Literal["int8", "fp8"], samples: Iterable[Inputs] | None) -> int:
    """Writes a graph with quantised products.

    Args:
        source: The fp32 graph.
        target: The graph to write.
        precision: The precision of weights and inputs.
        samples: Typical inputs that give the ranges of activations; None quantises the weights alone.

    Returns:
        How many products there were.
    """
    ranges = None if samples is None else _ranges(source, target.parent, samples)
    rewriter = Rewriter(source)
    zero = rewriter.constant("zero", _zeros((), precision))
    inputs: dict[str, str] = {}
    for product in rewriter.products:
        rewriter.replace(product.place)
        if ranges is not None and product.input not in inputs:
            inputs[product.input] = _input(rewriter, product.input, ranges[product.input], zero, precision)
        weight = _weight(rewriter, product.weight, precision)
        output = "" if product.bias else product.output
        product_output = rewriter.add("MatMul", [inputs.get(product.input, product.input), weight], output)
        if product.bias:
            rewriter.add("Add", [product_output, product.bias], product.output)
    rewriter.save(target)
    return len(rewriter.products)


def _ranges(source: Path, folder: Path, samples: Iterable[Inputs]) -> dict[str, Range]:
    # `measure` writes beside its graph, and a bundle's folder is not for that.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for suffix in ("", ".data"):
            if (file := source.with_name(source.name + suffix)).exists():
                shutil.copyfile(file, Path(scratch) / file.name)
        return measure(Path(scratch) / source.name, samples)


def _weight(rewriter: Rewriter, weight: Floats, precision: Literal["int8", "fp8"]) -> str:
    # A scale that fp16 holds exactly, so that the codes are for the scale that will be used.
    largest = np.abs(weight).max(0) if precision == "int8" else np.abs(weight).max()
    scale = np.maximum(largest / _LARGEST[precision], _LEAST_SCALE).astype(np.float16).astype(np.float32)
    limit = _LARGEST[precision]
    codes = np.clip(weight / scale, -limit, limit)
    codes = np.rint(codes).astype(np.int8) if precision == "int8" else codes.astype(_zeros((), precision).dtype)
    names = [
        rewriter.constant("codes", codes),
        rewriter.constant("scale", scale),
        rewriter.constant("zeros", _zeros(scale.shape, precision)),
    ]
    return rewriter.add("DequantizeLinear", names, axis=1 if scale.ndim else 0)


def _input(rewriter: Rewriter, name: str, seen: Range, zero: str, precision: str) -> str:
    share = max(float(seen.largest.max()) / _LARGEST[precision], _LEAST_SCALE)
    scale = rewriter.constant("share", np.float32(np.float16(share)))
    return rewriter.add("DequantizeLinear", [rewriter.add("QuantizeLinear", [name, scale, zero]), scale, zero])


def _zeros(shape: tuple[int, ...], precision: str) -> npt.NDArray[Any]:
    import ml_dtypes  # what onnx itself uses

    return np.zeros(shape, np.int8 if precision == "int8" else ml_dtypes.float8_e4m3fn)
