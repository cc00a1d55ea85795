"""Converts fp32 graphs to fp16; operations that overflow or lose precision at 16 bits stay at 32.

Reductions, softmax, norms, exponentials and roots stay at fp32. So does the computation of positions: fp16 cannot
distinguish 2049 from 2048. Sums and products with a 32-bit input stay at 32 bits, until a matrix product or another
operation takes 16. Inputs and outputs of the graph stay fp32. The types are in the graph, so ONNX Runtime and strongly
typed TensorRT networks compute the same (TensorRT 11 has no precision flags any more).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rar.runtime.errors import ExportError

from . import files

_WIDE = frozenset(
    [
        *("Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "GroupNormalization"),
        *("InstanceNormalization", "LpNormalization", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1"),
        *("ReduceL2", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp", "Pow", "Sqrt", "Reciprocal", "Exp", "Log"),
        *("Sin", "Cos", "CumSum", "Range", "Resize", "Constant", "ConstantOfShape", "EyeLike"),
        *("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "IsNaN", "IsInf"),
    ]
)
_POSITIONS = frozenset(["Sin", "Cos", "Range", "CumSum"])
# Sums and products, and the operations that pass a norm on to them.
_FOLLOWS = frozenset(["Add", "Sub", "Mul", "Div", "Max", "Min", "Clip", "Neg", "Abs", "Expand"])
_SHAPES = frozenset(["Shape", "Size"])
_FP32, _FP16 = TensorProto.FLOAT, TensorProto.FLOAT16
_LARGEST = float(np.finfo(np.float16).max)


def to_half(source: Path, target: Path) -> None:
    """Writes a graph at fp16.

    Args:
        source: An fp32 graph; weights beside it are read one at a time.
        target: The graph to write, its weights beside it.

    Raises:
        ExportError: The graph has control flow or a tensor whose type is unknown.
    """
    model = onnx.load(str(source), load_external_data=False)
    if any(attribute.g.node or attribute.graphs for node in model.graph.node for attribute in node.attribute):
        raise ExportError(f"{source}: has control flow, which cannot be converted to fp16; export it without")
    types = _types(model)
    unknown = [name for node in model.graph.node for name in node.output if name and not types.get(name)]
    if unknown:
        raise ExportError(
            f"{source}: the type of {unknown[0]} is unknown, so it cannot be converted to fp16; export at fp32"
        )
    conversion = _Conversion(model, types)
    nodes = list(conversion.nodes())
    narrow = onnx.ModelProto()
    narrow.CopyFrom(model)
    # Types in value_info would be wrong now.
    del narrow.graph.node[:], narrow.graph.value_info[:]
    narrow.graph.node.extend(nodes)
    files.save(narrow, target, conversion.weights(source.parent, nodes))


class _Conversion:
    """The conversion of one graph.

    Args:
        model: The fp32 graph; its nodes are changed.
        types: Element type of each tensor; kept up to date.
    """

    def __init__(self, model: onnx.ModelProto, types: dict[str, int]) -> None:
        self.graph, self.types = model.graph, types
        self.constants = {tensor.name for tensor in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        self.copies: set[tuple[str, int]] = set()

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """The nodes in their types, and the casts between them."""
        nodes = list(self.graph.node)
        for node, wide in zip(nodes, _wide(nodes, self.types), strict=True):
            wanted = _FP32 if wide else _FP16
            if node.op_type not in _SHAPES:
                for place, name in enumerate(node.input):
                    if self.types.get(name) in (_FP32, _FP16) and self.types[name] != wanted:
                        node.input[place] = _name(name, wanted)
                        if (name, wanted) not in self.copies and name not in self.constants:
                            yield helper.make_node("Cast", [name], [_name(name, wanted)], to=wanted)
                        self.copies.add((name, wanted))
            yield node
            if not wide:
                yield from self._narrow(node)

    def _narrow(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FP32:
                attribute.i = _FP16
        for place, name in enumerate(node.output):
            if self.types.get(name) != _FP32:
                continue
            if name not in self.outputs:
                self.types[name] = _FP16
                continue
            node.output[place] = _name(name, _FP16)
            self.copies.add((name, _FP16))
            yield helper.make_node("Cast", [node.output[place]], [name], to=_FP32)

    def weights(self, folder: Path, nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
        """The constants that `nodes` use, one at a time, each in the types of its uses."""
        used = {name for node in nodes for name in node.input}
        for tensor in self.graph.initializer:
            halved = (tensor.name, _FP16) in self.copies
            if tensor.name not in used and not halved:
                continue
            outside = tensor.data_location == TensorProto.EXTERNAL
            if outside:
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
                tensor.data_location = TensorProto.DEFAULT
                del tensor.external_data[:]
            if halved:
                values = numpy_helper.to_array(tensor)
                # Finite values stay finite: a mask of -3e38 becomes the lowest fp16.
                narrow = np.where(np.isinf(values), values, np.clip(values, -_LARGEST, _LARGEST)).astype(np.float16)
                yield numpy_helper.from_array(narrow, _name(tensor.name, _FP16))
            if tensor.name in used:
                yield tensor
            if outside:
                tensor.ClearField("raw_data")


def _name(name: str, kind: int) -> str:
    return f"{name}.{'fp16' if kind == _FP16 else 'fp32'}"


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of each tensor."""
    known = onnx.shape_inference.infer_shapes(model).graph
    values = (*known.input, *known.output, *known.value_info)
    types = {value.name: int(value.type.tensor_type.elem_type) for value in values}
    types.update((tensor.name, int(tensor.data_type)) for tensor in known.initializer)
    return types


def _wide(nodes: list[onnx.NodeProto], types: dict[str, int]) -> list[bool]:
    """Which nodes stay at fp32."""
    makers = {name: place for place, node in enumerate(nodes) for name in node.output}
    wide = [node.op_type in _WIDE for node in nodes]
    left = [place for place, node in enumerate(nodes) if node.op_type in _POSITIONS]
    seen = set(left)
    while left:
        place = left.pop()
        wide[place] = True
        before = {makers[name] for name in nodes[place].input if name in makers} - seen
        seen |= before
        left += before
    for place, node in enumerate(nodes):
        computed = [makers[name] for name in node.input if name in makers and types[name] == _FP32]
        if node.op_type in _FOLLOWS and any(wide[maker] for maker in computed):
            wide[place] = True
    users: dict[int, list[int]] = {}
    for place, node in enumerate(nodes):
        for name in node.input:
            users.setdefault(makers.get(name, -1), []).append(place)
    for place in reversed(range(len(nodes))):
        # A square would overflow before its sum, which is at fp32.
        if nodes[place].op_type == "Mul" and place in users and all(wide[user] for user in users[place]):
            wide[place] = True
    return wide
