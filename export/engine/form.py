"""The form of a graph that a TensorRT takes, at the precision asked for, held against the graph it was made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx

from rar.runtime.errors import ExportError
from rar.runtime.session import session_options
from rar.runtime.session.checks import LIMITS, Run, compare

from ..graphs.half import to_half
from ..graphs.precisions import is_convolutional
from . import quantize

Precision = Literal["fp32", "fp16", "int8", "fp8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8")

# Flag of an engine's key.
WEIGHTS_ONLY = "weights-only"
# What ONNX Runtime's quantizers write for its own kernels.
_FOREIGN = frozenset(["MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear"])


@dataclass(frozen=True)
class Form:
    """A graph to build from.

    Attributes:
        path: It.
        cosine: Where it was converted, its worst cosine to fp32 over the stored runs.
    """

    path: Path
    cosine: float | None


def graph_precision(model: onnx.ModelProto, graph: str) -> Literal["fp32", "fp16"]:
    """What a bundle's graph computes in.

    Args:
        model: The graph without its weights.
        graph: Its name.

    Raises:
        ExportError: It holds operators that only ONNX Runtime knows; says at which precision to export.
    """
    foreign = Counter(node.op_type for node in model.graph.node if node.domain or node.op_type in _FOREIGN)
    if foreign:
        what = ", ".join(f"{count} {kind}" for kind, count in foreign.most_common(3))
        raise ExportError(
            f"{graph}: was quantised for ONNX Runtime ({what}), which TensorRT does not take; export a bundle with "
            "--precision fp16 (or fp32, to build at several precisions) and build its engines"
        )
    halved = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return "fp16" if halved else "fp32"


def plan_precision(
    model: onnx.ModelProto, graph: str, library: str, precision: Precision
) -> tuple[Precision, tuple[str, ...]]:
    """What one graph of a bundle is built at where a precision was asked for, and flags that say how.

    Quantised are the products with constant matrices; networks of convolutions and token tables are fp16.
    TensorRT-RTX takes int8 for weights alone (its support matrix: "INT8 WoQ"), TensorRT for weights together with
    activations. Activations of language models are not calibrated: there the weights alone are quantised, or, where
    the library cannot, nothing.

    Args:
        model: The graph without its weights.
        graph: Its name.
        library: What will build it.
        precision: What was asked for.
    """
    if precision in ("fp32", "fp16"):
        return precision, ()
    language = graph == "mllm/decoder.onnx"
    if graph == "mllm/embed.onnx" or is_convolutional(model) or (language and library == "tensorrt"):
        return "fp16", ()
    weights_only = language or (precision == "int8" and library == "tensorrt_rtx")
    return precision, (WEIGHTS_ONLY,) if weights_only else ()


def check_conversion(graph: str, exported: str, precision: Precision) -> None:
    """Refuses what cannot be made of a bundle's graph.

    Args:
        graph: Its name.
        exported: From `graph_precision`.
        precision: From `plan_precision`.

    Raises:
        ExportError: So it is.
    """
    if exported == "fp16" and precision != "fp16":
        raise ExportError(f"{graph}: is fp16; for engines at {precision} export the bundle with --precision fp32")


def prepare(
    source: Path,
    folder: Path,
    exported: Precision,
    precision: Precision,
    weights_only: bool,
    runs: Sequence[Run],
    samples: Callable[[], Iterable[quantize.Inputs]],
) -> Form:
    """Writes the graph to build from and compares it with the source.

    Args:
        source: The bundle's graph; `check_conversion` has checked it.
        folder: Where to write what is converted.
        exported: From `graph_precision`.
        precision: From `plan_precision`.
        weights_only: Whether activations are left as they are at 8 bits.
        runs: The source's stored runs.
        samples: Inputs to calibrate activations on.

    Raises:
        ExportError: The graph has nothing to quantise, or lies too far from the source.
    """
    if exported == precision:
        return Form(source, None)
    path, full = folder / source.name, source
    if precision in ("int8", "fp8"):
        full = folder / f"full-{source.name}"
        if not quantize.quantize(source, full, precision, None if weights_only else samples()):
            raise ExportError(f"{source}: has no matrix products to quantise; use --precision fp16")
    to_half(full, path)
    result = compare((run, _run_as_written(path, run)) for run in runs)
    if not result.within(LIMITS[precision]):
        raise ExportError(
            f"{source}: at {precision} it is too far from fp32: {result}; the limits are {LIMITS[precision]}; choose a "
            "higher --precision"
        )
    return Form(path, result.worst)


def _run_as_written(path: Path, run: Run) -> dict[str, npt.NDArray[np.generic]]:
    """Runs a graph on the CPU without ONNX Runtime's rewriting, which has no fp8 and moves Q/DQ pairs about.

    What lies between two fp16 products it computes in fp32 all the same: an overflow there shows on the device only,
    where the engine is compared again.
    """
    import onnxruntime as ort

    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = list(run.outputs)
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        outputs = session.run(names, dict(run.inputs))
    except Exception as error:  # ONNX Runtime raises a family of unrelated types
        raise ExportError(
            f"{path.name}: ONNX Runtime cannot run the converted graph ({error})"
            "; export the graph again at fp32 or fp16"
        ) from error
    return {name: np.asarray(array) for name, array in zip(names, outputs, strict=True)}
