"""Exports PyTorch modules as fp32 ONNX graphs."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rar.runtime.errors import ExportError

from .optimize import optimize

if TYPE_CHECKING:
    import onnx
    import torch


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
        example: Its inputs. A dynamic dimension must be 2 or more; the exporter takes 1 for a constant.
        path: The `.onnx` to write; its weights go to `<name>.onnx.data`.
        inputs: Names of the graph's inputs.
        outputs: Names of the graph's outputs.
        dynamic: For each argument of `forward` its dynamic dimensions, such as (0, 1); for `*args` a list of such.

    Raises:
        ExportError: PyTorch cannot export the module.
    """
    import onnx

    from .layers import Layers

    layers = Layers(module)
    try:
        with layers.opaque():
            program = _traced(module, tuple(example), dynamic, inputs, outputs)
        optimize(program.model)
        if layers.put(program.model, lambda layer, tensors, sizes: _traced(layer, tensors, [list(sizes)]).model):
            optimize(program.model)
    except ExportError:
        if not layers.found:
            raise
        # A layer that cannot be traced by itself may still be a part of its model.
        program = _traced(module, tuple(example), dynamic, inputs, outputs)
        optimize(program.model)
    # Through a file: a protobuf message is limited to 2 GB, and weights beside the graph do not count.
    program.save(str(path), external_data=True)
    model = onnx.load(str(path), load_external_data=False)
    # The exporter leaves stale shapes on folded initializers; ONNX Runtime's quantizers refuse those.
    weights = {initializer.name for initializer in model.graph.initializer}
    kept = [info for info in model.graph.value_info if info.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    _divide_by_roots(model)
    _multiply_columns(model)
    # The Python source of each node: megabytes, and paths of this machine.
    del model.metadata_props[:], model.graph.metadata_props[:]
    for item in (*model.graph.node, *model.graph.initializer, *model.graph.value_info):
        del item.metadata_props[:]
    onnx.save(model, str(path))


def _traced(
    module: torch.nn.Module,
    example: Sequence[torch.Tensor],
    dynamic: Sequence[Any],
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> Any:
    """PyTorch's program of a module, as it is.

    Raises:
        ExportError: PyTorch cannot export the module.
    """
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
                input_names=inputs,
                output_names=outputs,
                verbose=False,
                optimize=False,
            )
    except Exception as error:  # the exporter wraps every error of the model
        raise ExportError(
            f"PyTorch cannot export {type(module).__name__} to ONNX: {error}"
            "; choose another model, or another version of PyTorch"
        ) from error
    finally:
        exporter_log.setLevel(level)
    if program is None:
        raise ExportError(
            f"PyTorch exported nothing for {type(module).__name__}; choose another model, or another version of PyTorch"
        )
    return program


def _divide_by_roots(model: onnx.ModelProto) -> None:
    """Rewrites x * (1 / sqrt(v)) as x / sqrt(v), the form in which ONNX Runtime recognises and fuses a norm."""
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
    """Rewrites the matrix product of a column and a row as a broadcast multiplication.

    Rotary positions are computed this way: in a matrix product a GPU may first round them to the 11 bits of TF32.
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
    """(0, 1) -> {0: DYNAMIC, 1: DYNAMIC}; maps each element of a list, as `*args` need it."""
    import torch

    if isinstance(dimensions, list):
        return tuple(map(_dynamic_shape, dimensions))
    return dict.fromkeys(dimensions, torch.export.Dim.DYNAMIC)
