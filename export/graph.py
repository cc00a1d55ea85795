"""PyTorch modules to ONNX graphs, and the graphs to fp16 and int8."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt

from rar.runtime.errors import ExportError

if TYPE_CHECKING:
    import onnx
    import torch

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
OPSET = 20


def export_onnx(
    module: torch.nn.Module,
    example: Sequence[torch.Tensor],
    path: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Sequence[Any],
) -> None:
    """Exports a module with its weights beside the graph.

    Args:
        module: The module, in eval mode.
        example: Its inputs. A dynamic dimension must be 2 or more; 1 would be taken for a constant.
        path: The `.onnx` to write; its weights go to `<name>.onnx.data`.
        inputs: Names of the graph's inputs.
        outputs: Names of the graph's outputs.
        dynamic: For each argument of `forward` its dynamic dimensions, such as (0, 1); for `*args` a list of such.

    Raises:
        ExportError: PyTorch cannot export the module.
    """
    import onnx
    import torch

    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(example),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=tuple(map(_dynamic_shape, dynamic)),
                input_names=list(inputs),
                output_names=list(outputs),
                verbose=False,
            )
    except Exception as error:  # the exporter wraps anything that goes wrong in the model
        raise ExportError(f"PyTorch cannot export {type(module).__name__} to ONNX: {error}") from error
    finally:
        exporter_log.setLevel(level)
    if program is None:
        raise ExportError(f"PyTorch exported nothing for {type(module).__name__}")
    # Through the file: a message of protobuf ends at 2 GB, and weights beside the graph do not count towards it.
    program.save(str(path), external_data=True)
    model = onnx.load(str(path), load_external_data=False)
    # The exporter leaves stale shapes on folded initializers; ONNX Runtime's quantizers refuse those.
    weights = {initializer.name for initializer in model.graph.initializer}
    kept = [info for info in model.graph.value_info if info.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    _divide_by_roots(model)
    _multiply_columns(model)
    # Where in the Python sources each node came from: megabytes, and paths of this machine.
    del model.metadata_props[:], model.graph.metadata_props[:]
    for item in (*model.graph.node, *model.graph.initializer, *model.graph.value_info):
        del item.metadata_props[:]
    onnx.save(model, str(path))


def _divide_by_roots(model: onnx.ModelProto) -> None:
    """Writes x * (1 / sqrt(v)) as x / sqrt(v), the form in which ONNX Runtime knows a norm and fuses it."""
    makers = {node.output[0]: node for node in model.graph.node if node.op_type in ("Reciprocal", "Sqrt")}
    users = Counter(name for node in model.graph.node for name in node.input)
    gone = []
    for node in model.graph.node:
        if node.op_type != "Mul":
            continue
        for place, name in enumerate(node.input):
            inverse = makers.get(name)
            if inverse is None or inverse.op_type != "Reciprocal" or users[name] != 1:
                continue
            if (root := makers.get(inverse.input[0])) is not None and root.op_type == "Sqrt":
                node.op_type = "Div"
                node.input[:] = [node.input[1 - place], root.output[0]]
                gone.append(inverse)
                break
    for inverse in gone:
        model.graph.node.remove(inverse)


def _multiply_columns(model: onnx.ModelProto) -> None:
    """Writes a column times a row as the product of two numbers that each of its elements is.

    Rotary positions are computed so: as a matrix product a GPU may round them to the 11 bits of TF32 first.
    """
    values = (*model.graph.value_info, *model.graph.input)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in values}
    for node in model.graph.node:
        if node.op_type != "MatMul":
            continue
        columns, rows = (shapes.get(name, ()) for name in node.input)
        if columns and columns[-1].dim_value == 1 and len(rows) > 1:
            node.op_type = "Mul"


def _dynamic_shape(dimensions: Any) -> Any:
    """(0, 1) -> {0: DYNAMIC, 1: DYNAMIC}; of each where a list of such is given, as `*args` need it."""
    import torch

    if isinstance(dimensions, list):
        return tuple(map(_dynamic_shape, dimensions))
    return dict.fromkeys(dimensions, torch.export.Dim.DYNAMIC)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Writes a graph with its weights in `<name>.onnx.data`.

    ONNX Runtime maps such a file; weights inside the graph would be held twice while it is opened.
    """
    import onnx

    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)  # onnx appends to what is there
    onnx.save(model, str(path), save_as_external_data=True, location=data.name, size_threshold=1024)
    if data.exists():
        data.chmod(0o644)  # onnx makes it private; a bundle is copied between users


def convert(
    source: Path, target: Path, precision: Precision, calibration: Iterable[Mapping[str, npt.NDArray[Any]]]
) -> str:
    """Writes a graph at another precision; inputs and outputs stay fp32.

    Args:
        source: The fp32 graph.
        target: The graph to write.
        precision: `fp32` copies; `fp16` see `half`; `int8` quantises per channel.
        calibration: Inputs for the ranges of a convolutional graph's activations.

    Returns:
        The scheme used: `fp32`, `fp16`, `int8 dynamic` or `int8 static`.
    """
    import onnx

    from .half import to_half

    if precision == "fp32":
        save(onnx.load(str(source)), target)
        return "fp32"
    if precision == "fp16":
        to_half(source, target)
        return "fp16"
    convolutional = is_convolutional(onnx.load(str(source), load_external_data=False))
    if convolutional:
        _quantize_static(source, target, calibration)
    else:
        _quantize_dynamic(source, target)
    save(onnx.load(str(target)), target)
    return "int8 static" if convolutional else "int8 dynamic"


def is_convolutional(model: onnx.ModelProto) -> bool:
    """Whether a network is made of convolutions rather than of matrix products."""
    # A vision transformer has one convolution, its patch embedding. Dynamic quantisation turns convolutions
    # into ConvInteger, which is slower than fp32; ranges fixed beforehand let them fuse into QLinearConv.
    return len([node for node in model.graph.node if node.op_type == "Conv"]) > 1


def _quantize_dynamic(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


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
