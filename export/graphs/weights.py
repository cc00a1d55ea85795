"""Rewrites the matrix products of an ONNX graph with external weights, with one weight in memory at a time.

ONNX Runtime's own quantizers hold a model in memory several times; a decoder of seven billion weights is 28 GB at fp32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from rar.runtime.session import OnnxSession

from . import files

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Product:
    """A product with a constant matrix: `output = input @ weight (+ bias)`.

    Attributes:
        place: Position of the node in the graph.
        input: Name of the left side.
        output: Name of the result.
        weight: float32 [K, N], mapped.
        bias: Name of the bias of a `Gemm`, or "".
    """

    place: int
    input: str
    output: str
    weight: Floats
    bias: str


@dataclass
class Range:
    """Each channel's largest magnitude and mean square, [K], of a product's input on the samples."""

    largest: Floats
    square: Floats


class Rewriter:
    """A graph being rewritten.

    Args:
        source: An fp32 graph with its weights in `<name>.onnx.data`.

    Attributes:
        products: The products with constant matrices, in order.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.model = onnx.load(str(source), load_external_data=False)
        self._initializers = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._names: Counter[str] = Counter()
        self._nodes: list[list[onnx.NodeProto]] = [[node] for node in self.model.graph.node]
        self._place = 0
        self._makers = {name: node for node in self.model.graph.node for name in node.output}
        self._users = Counter(name for node in self.model.graph.node for name in node.input)
        products = map(self._product, range(len(self._nodes)), self.model.graph.node)
        self.products = [product for product in products if product is not None]

    def weigh(self) -> int:
        """Bytes of all weights at fp32."""
        return sum(self.array(name).nbytes for name in self._initializers)

    def holds(self, name: str) -> bool:
        """Whether a name is a constant of the graph."""
        return name in self._initializers

    def replace(self, place: int) -> None:
        """Nodes added from now on replace this node of the source."""
        self._place = place
        self._nodes[self._place] = []

    def scale_input(self, name: str, scale: Floats) -> bool:
        """Scales an input of products in the norm that makes it, if the norm has no other use.

        Args:
            name: The input.
            scale: float32 [K].
        """
        maker = self._makers.get(name)
        uses = sum(product.input == name for product in self.products)
        if maker is None or maker.op_type != "Mul" or self._users[name] != uses:
            return False
        for position, gain in enumerate(maker.input):
            if gain in self._initializers and self.array(gain).shape == scale.shape:
                maker.input[position] = self.constant("gain", self.array(gain) * scale)
                return True
        return False

    def array(self, name: str) -> npt.NDArray[Any]:
        """An initializer, mapped from the weights file."""
        tensor = self._initializers[name]
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return numpy_helper.to_array(tensor)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        path = self.source.with_name(entries["location"])
        return np.memmap(path, kind, "r", int(entries.get("offset", 0)), tuple(tensor.dims))

    def constant(self, name: str, value: npt.NDArray[Any] | np.generic) -> str:
        """Adds an initializer and returns its name."""
        name = self._unique(name)
        self._initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def add(self, kind: str, inputs: Sequence[str], output: str = "", *, domain: str = "", **attributes: Any) -> str:
        """Adds a node and returns its output's name."""
        output = output or self._unique(f"quantized.{kind}")
        self._nodes[self._place].append(helper.make_node(kind, list(inputs), [output], domain=domain, **attributes))
        return output

    def save(self, target: Path) -> None:
        """Writes the graph with the weights that are still used."""
        model = self.model
        nodes = [node for group in self._nodes for node in group]
        used = {name for node in nodes for name in node.input}
        del model.graph.node[:]
        # Shapes of removed tensors would mislead.
        del model.graph.value_info[:]
        model.graph.node.extend(nodes)
        if all(entry.domain != "com.microsoft" for entry in model.opset_import):
            model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        kept = [name for name in self._initializers if name in used]
        files.save(model, target, (numpy_helper.from_array(np.array(self.array(name)), name) for name in kept))

    def _product(self, place: int, node: onnx.NodeProto) -> Product | None:
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in self._initializers:
            return None
        weight = self.array(node.input[1])
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        scaled = attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1
        if weight.ndim != 2 or attributes.get("transA", 0) or scaled:
            return None
        bias = node.input[2] if len(node.input) > 2 else ""
        weight = weight.T if attributes.get("transB", 0) else weight
        return Product(place, node.input[0], node.output[0], weight, bias)

    def _unique(self, name: str) -> str:
        self._names[name] += 1
        return f"{name}.{self._names[name]}"


def measure(source: Path, samples: Iterable[Mapping[str, npt.NDArray[Any]]]) -> dict[str, Range]:
    """Runs an fp32 graph on sample inputs and measures the inputs of its products.

    Args:
        source: The graph; a second one is written beside it.
        samples: Inputs by name.

    Returns:
        Name of a product's input -> its range.
    """
    rewriter = Rewriter(source)
    names = list(dict.fromkeys(product.input for product in rewriter.products))
    model = rewriter.model
    rows = numpy_helper.from_array(np.array([0]), "measure.rows")
    flat = {name: numpy_helper.from_array(np.array([-1, _width(rewriter, name)]), f"{name}.flat") for name in names}
    model.graph.initializer.extend([rows, *flat.values()])
    for name in names:
        model.graph.node.extend(
            [
                helper.make_node("Reshape", [name, flat[name].name], [f"{name}.rows"]),
                helper.make_node("Abs", [f"{name}.rows"], [f"{name}.abs"]),
                helper.make_node("ReduceMax", [f"{name}.abs", rows.name], [f"{name}.largest"], keepdims=0),
                helper.make_node("Mul", [f"{name}.rows", f"{name}.rows"], [f"{name}.squares"]),
                helper.make_node("ReduceMean", [f"{name}.squares", rows.name], [f"{name}.square"], keepdims=0),
            ]
        )
        for part in ("largest", "square"):
            model.graph.output.append(helper.make_tensor_value_info(f"{name}.{part}", onnx.TensorProto.FLOAT, None))
    path = source.with_name(f"measured-{source.name}")
    onnx.save(model, str(path))
    session = OnnxSession(path, "cpu")
    ranges: dict[str, Range] = {}
    for count, sample in enumerate(samples):
        outputs = session.run(sample)
        for name in names:
            largest, square = (np.asarray(outputs[f"{name}.{part}"], np.float32) for part in ("largest", "square"))
            old = ranges.setdefault(name, Range(largest, square))
            ranges[name] = Range(
                np.maximum(old.largest, largest),
                np.float32(1 / (count + 1)) * (old.square * np.float32(count) + square),
            )
    return ranges


def _width(rewriter: Rewriter, name: str) -> int:
    return next(len(product.weight) for product in rewriter.products if product.input == name)
