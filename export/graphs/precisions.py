"""Converts fp32 ONNX graphs to fp16 and int8."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt

from .files import save

if TYPE_CHECKING:
    import onnx


Precision = Literal["fp32", "fp16", "int8"]


PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


def convert(
    source: Path, target: Path, precision: Precision, calibration: Iterable[Mapping[str, npt.NDArray[Any]]]
) -> str:
    """Writes a graph at another precision; inputs and outputs stay fp32.

    Args:
        source: The fp32 graph.
        target: The graph to write.
        precision: `fp32` copies; `fp16` see `half`; `int8` quantises a convolutional graph with fixed ranges, and the
            matrix products of any other as `int8` says.
        calibration: Typical inputs, for the ranges of activations.

    Returns:
        The scheme used: `fp32`, `fp16`, `int8 static` or `int8 rows and columns`.
    """
    import onnx

    from .half import to_half

    if precision == "fp32":
        save(onnx.load(str(source)), target)
        return "fp32"
    if precision == "fp16":
        to_half(source, target)
        return "fp16"
    if not is_convolutional(onnx.load(str(source), load_external_data=False)):
        from . import int8, weights

        int8.quantize(source, target, weights.measure(source, calibration))
        return "int8 rows and columns"
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:
        parted = Path(scratch) / source.name
        model = onnx.load(str(source))
        _copy_shared_weights(model)
        save(model, parted)
        _quantize_static(parted, target, calibration)
    model = onnx.load(str(target))
    _add_exactly(model)
    save(model, target)
    return "int8 static"


def _copy_shared_weights(model: onnx.ModelProto) -> None:
    """Gives each convolution its own weight.

    For exact products ONNX Runtime rewrites int8 weights to uint8 for each node that has them. It fails where it has
    rewritten them for another node before ("Attempt to replace the existing tensor").
    """
    import onnx

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    used = Counter[str]()
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[1] not in weights:
            continue
        used[name := node.input[1]] += 1
        if used[name] > 1:
            copy = onnx.TensorProto()
            copy.CopyFrom(weights[name])
            copy.name = node.input[1] = f"{name}.{used[name]}"
            model.graph.initializer.append(copy)


def _add_exactly(model: onnx.ModelProto) -> None:
    """Has the sums of residual branches computed in fp32, which rounds alike on every processor.

    ONNX Runtime's int8 addition multiplies and adds in one step on ARM and in two on x86. A value in the middle between
    two of int8's steps then falls to either side, and all that follows differs. It fuses `Add` to that, and leaves
    `Sum`. Measured on the starter's encoder and 7 photos: ARM's least cosine with x86 was 0.99969 and is 1.00000, and
    all convolutions agreed before too; the CPU time for a picture rises by 7 % (AVX-512 with VNNI, one thread).
    """
    quantized = {output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    for node in model.graph.node:
        if node.op_type == "Add" and quantized.issuperset(node.input):
            node.op_type = "Sum"


def is_convolutional(model: onnx.ModelProto) -> bool:
    """Whether a network consists of convolutions rather than of matrix products."""
    # A vision transformer has one convolution, its patch embedding. Ranges that are found at run time would turn
    # convolutions into ConvInteger, which is slower than fp32; fixed ones let them fuse into QLinearConv.
    return len([node for node in model.graph.node if node.op_type == "Conv"]) > 1


def _quantize_static(source: Path, target: Path, calibration: Iterable[Mapping[str, npt.NDArray[Any]]]) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        def __init__(self) -> None:
            self.inputs = iter(calibration)

        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            return dict(batch) if (batch := next(self.inputs, None)) is not None else None

    with _quiet():
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            # The heads stay fp32: they are a small share of the work, and 8 bits blur a softmax.
            op_types_to_quantize=["Conv", "Clip", "Relu", "Add"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the quantizers' advice to run a pre-processing step that these graphs do not need."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
