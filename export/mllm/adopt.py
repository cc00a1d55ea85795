"""Takes ready-made graphs of multimodal LLMs, as transformers.js has them, into the form of a bundle's.

Names and shapes are those that transformers.js' models feed and read (`sessionRun` in its modeling): `pixel_values` and
`pixel_attention_mask` -> `image_features`; `input_ids` -> `inputs_embeds`; `inputs_embeds`, `attention_mask`,
`position_ids` and `past_key_values.*` -> `logits` and `present.*`. A bundle's graphs take and give float32.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rar.runtime.errors import ExportError

from ..graphs.ready import FLOATS, WHOLE, Given, inputs_of, named, rename, shown, unused, within
from .model import Form

# Since this version of ONNX's operators `Unsqueeze` takes its axes as an input.
_LEAST_OPSET = 13
_PAST = re.compile(r"past_key_values\.(\d{1,4})\.(key|value)")
_KEEP = ("num_logits_to_keep", "logits_to_keep")
_PRODUCTS = ("MatMul", "MatMulNBits", "MatMulBnb4")
# What may lie between the last product of a language model and its logits.
_ELEMENTWISE = ("Cast", "Mul", "Div", "Add", "Tanh")


def take_vision(source: Path, target: Path, size: int) -> None:
    """Writes `vision.onnx`: pixel_values float32 [N, 3, size, size] -> image_embeds float32 [N, T, D].

    A graph that takes several tiles a picture ([N, tiles, 3, size, size], Idefics3) gets one, and no part of it masked.

    Raises:
        ExportError: The graph has other inputs or outputs.
    """
    given = _read(source)
    model, inputs = given.model, inputs_of(given.model)
    _check_names(source, inputs, ["pixel_values"], ["pixel_attention_mask"])
    pixels = inputs["pixel_values"]
    kind = _type(source, pixels, FLOATS)
    sides = _sides(pixels)
    if len(sides) not in (4, 5) or any(side > 0 for side in sides[: len(sides) - 3]) or not _fit(sides[-3:], size):
        raise ExportError(
            f"{source}: pixel_values is of shape {shown(sides)}, and by the folder's JSON files it must be "
            f"{shown((0, 3, size, size))} or {shown((0, 0, 3, size, size))}; choose files that belong together"
        )
    nodes = _Nodes(model)
    inside = _renamed(model, "pixel_values")
    tiles = nodes.add("Unsqueeze", "pixel_values", nodes.constant([1])) if len(sides) == 5 else "pixel_values"
    nodes.add("Cast", tiles, output=inside, to=kind)
    if (mask := inputs.get("pixel_attention_mask")) is not None:
        if len(sides) != 5:
            raise ExportError(f"{source}: masks a part of pictures without tiles; choose another export of the model")
        inner = _renamed(model, mask.name)
        sizes = nodes.add("Gather", nodes.add("Shape", "pixel_values"), nodes.constant([0, 2, 3]), axis=0)
        one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
        ones = nodes.add("Unsqueeze", nodes.add("ConstantOfShape", sizes, value=one), nodes.constant([1]))
        nodes.add("Cast", ones, output=inner, to=mask.type.tensor_type.elem_type)
    nodes.first()
    found = _given(source, model, "image_features", FLOATS)
    # One picture's tokens side by side, whether the graph gives [N, T, D] or [N * T, D].
    _renamed(model, "image_embeds")
    width = nodes.add("Gather", nodes.add("Shape", found), nodes.constant([-1]), axis=0)
    count = nodes.add("Gather", nodes.add("Shape", "pixel_values"), nodes.constant([0]), axis=0)
    shape = nodes.add("Concat", count, nodes.constant([-1]), width, axis=0)
    nodes.add("Cast", nodes.add("Reshape", found, shape), output="image_embeds", to=TensorProto.FLOAT)
    nodes.last()
    _set(model.graph.input, [("pixel_values", TensorProto.FLOAT, ["N", 3, size, size])])
    _set(model.graph.output, [("image_embeds", TensorProto.FLOAT, ["N", None, None])])
    given.write(target)


def take_embed(source: Path, target: Path) -> None:
    """Writes `embed.onnx`: input_ids int64 [N, L] -> inputs_embeds float32 [N, L, D].

    Raises:
        ExportError: The graph has other inputs or outputs.
    """
    given = _read(source)
    model, inputs = given.model, inputs_of(given.model)
    _check_names(source, inputs, ["input_ids"], [])
    nodes = _Nodes(model)
    kind = _type(source, inputs["input_ids"], WHOLE)
    nodes.add("Cast", "input_ids", output=_renamed(model, "input_ids"), to=kind)
    nodes.first()
    found = _given(source, model, "inputs_embeds", FLOATS)
    nodes.add("Cast", found, output="inputs_embeds", to=TensorProto.FLOAT)
    nodes.last()
    _set(model.graph.input, [("input_ids", TensorProto.INT64, ["N", "L"])])
    _set(model.graph.output, [("inputs_embeds", TensorProto.FLOAT, ["N", "L", None])])
    given.write(target)


def take_decoder(source: Path, target: Path) -> Form:
    """Writes `decoder.onnx`, whose rows see what precedes them (`rar.runtime.rank.mllm.rows`).

    It takes inputs_embeds float32 [N, L, D], attention_mask int64 [N, P + L], position_ids int64 [N, L],
    logit_positions int64 [N, M] and past_key_values.* float32 [N, kv_heads, P, head_dim], and gives logits float32
    [N, M, V] and present.* float32 [N, kv_heads, P + L, head_dim]. `logit_positions` is added: logits of all tokens of
    a prompt are much work and memory, and most are never read.

    Returns:
        Its form, without the widths `dim` and `vocab`, which are 0; attention is `rows`, and `row` with
        GroupQueryAttention.

    Raises:
        ExportError: The graph has other inputs or outputs.
    """
    given = _read(source)
    model, inputs = given.model, inputs_of(given.model)
    past = {name: match for name in inputs if (match := _PAST.fullmatch(name))}
    layers = len({int(match[1]) for match in past.values()})
    form = Form("pixel_values", layers, *_heads(source, [inputs[name] for name in past]), 0, 0, attention="rows")
    named_past = form.names("past_key_values")
    _check_names(source, inputs, ["inputs_embeds", "attention_mask", *named_past], ["position_ids", *_KEEP])
    if "position_ids" in inputs and len(_sides(inputs["position_ids"])) > 2:
        raise ExportError(f"{source}: counts positions in several dimensions; export this model with --model")
    nodes = _Nodes(model)
    for name in ("inputs_embeds", *named_past):
        nodes.add("Cast", name, output=_renamed(model, name), to=_type(source, inputs[name], FLOATS))
    for name in ("attention_mask", "position_ids"):
        if name in inputs:
            nodes.add("Cast", name, output=_renamed(model, name), to=_type(source, inputs[name], WHOLE))
    for name in _KEEP:
        if name in inputs:  # none to keep is all of them
            _type(source, inputs[name], (TensorProto.INT64,))
            zero = np.zeros([1] * len(_sides(inputs[name])), np.int64)
            model.graph.initializer.append(numpy_helper.from_array(zero, name))
    for name in {"position_ids", "logit_positions"} - inputs.keys():
        _renamed(model, name)  # of a tensor within that has the name of an input which is added
    nodes.first()
    places = nodes.add("Unsqueeze", "logit_positions", nodes.constant([-1]))
    found = _given(source, model, "logits", FLOATS)
    if (product := _head(model, found)) is not None:
        chosen = nodes.add("GatherND", product.input[0], places, batch_dims=1)
        product.input[0] = chosen
        nodes.before(product)
    else:
        found = nodes.add("GatherND", found, places, batch_dims=1)
    nodes.add("Cast", found, output="logits", to=TensorProto.FLOAT)
    for name in form.names("present"):
        nodes.add("Cast", _given(source, model, name, FLOATS), output=name, to=TensorProto.FLOAT)
    nodes.last()
    cache: list[int | str | None] = ["N", form.kv_heads, "P", form.head_dim]
    _set(
        model.graph.input,
        [
            ("inputs_embeds", TensorProto.FLOAT, ["N", "L", None]),
            ("attention_mask", TensorProto.INT64, ["N", "P + L"]),
            ("position_ids", TensorProto.INT64, ["N", "L"]),
            ("logit_positions", TensorProto.INT64, ["N", "M"]),
            *((name, TensorProto.FLOAT, cache) for name in named_past),
        ],
    )
    cache = ["N", form.kv_heads, "P + L", form.head_dim]
    _set(
        model.graph.output,
        [
            ("logits", TensorProto.FLOAT, ["N", "M", None]),
            *((name, TensorProto.FLOAT, cache) for name in form.names("present")),
        ],
    )
    given.write(target)
    grouped = any(node.op_type == "GroupQueryAttention" for node in within(model.graph.node))
    return Form(form.vision_input, layers, form.kv_heads, form.head_dim, 0, 0, attention="row" if grouped else "rows")


class _Nodes:
    """Nodes that are put together, and then placed in a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model, self._new = model, list[onnx.NodeProto]()

    def constant(self, values: Sequence[int]) -> str:
        """The name of an initializer: int64 [n]."""
        name = unused(self._model, "rar.constant")
        self._model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Adds a node; returns its output."""
        output = output or f"rar.{len(self._model.graph.node)}.{len(self._new)}"
        self._new.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def first(self) -> None:
        """Places them before all nodes."""
        nodes = [*self._new, *self._model.graph.node]
        del self._model.graph.node[:]
        self._model.graph.node.extend(nodes)
        self._new = []

    def before(self, node: onnx.NodeProto) -> None:
        """Places them before a node."""
        place = next(i for i, one in enumerate(self._model.graph.node) if one is node or one == node)
        for new in reversed(self._new):
            self._model.graph.node.insert(place, new)
        self._new = []

    def last(self) -> None:
        """Places them behind all nodes."""
        self._model.graph.node.extend(self._new)
        self._new = []


def _read(source: Path) -> Given:
    given = Given.read(source)
    version = next((one.version for one in given.model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if version < _LEAST_OPSET:
        raise ExportError(f"{source}: uses version {version} of ONNX's operators; take an export of {_LEAST_OPSET} on")
    return given


def _check_names(source: Path, inputs: dict[str, onnx.ValueInfoProto], needed: list[str], known: list[str]) -> None:
    if lacking := [name for name in needed if name not in inputs]:
        raise ExportError(f"{source}: takes no {lacking[0]}; it takes {', '.join(sorted(inputs))[:300]}")
    if strange := sorted(inputs.keys() - {*needed, *known}):
        raise ExportError(
            f"{source}: takes {strange[0][:100]!r}, which is unknown; known are {', '.join([*needed[:4], *known])}. "
            "Choose another export of the model"
        )


def _type(source: Path, value: onnx.ValueInfoProto, kinds: Sequence[int]) -> int:
    kind = value.type.tensor_type.elem_type
    if kind not in kinds:
        raise ExportError(
            f"{source}: {value.name} is of type {named(kind)}; it must be {' or '.join(map(named, kinds))}"
        )
    return int(kind)


def _sides(value: onnx.ValueInfoProto) -> list[int]:
    """The dimensions; 0 for those that are free."""
    return [side.dim_value for side in value.type.tensor_type.shape.dim]


def _fit(sides: Sequence[int], size: int) -> bool:
    return all(side in (0, wanted) for side, wanted in zip(sides, (3, size, size), strict=True))


def _heads(source: Path, past: Sequence[onnx.ValueInfoProto]) -> tuple[int, int]:
    """Heads and width of the keys and values, which all layers must share."""
    shapes = {tuple(_sides(value)) for value in past}
    if len(shapes) != 1:
        raise ExportError(
            f"{source}: has {'no' if not shapes else 'several shapes of'} past_key_values; choose a graph with a "
            "cache, decoder_model_merged, of a model whose layers are alike"
        )
    (shape,) = shapes
    if len(shape) != 4 or shape[0] or shape[2] or min(shape[1] or 0, shape[3] or 0) < 1:
        raise ExportError(
            f"{source}: past_key_values are of shape {shown(shape)}; they must be [N, heads, N, width] with heads and "
            "width fixed"
        )
    return shape[1], shape[3]


def _renamed(model: onnx.ModelProto, name: str) -> str:
    """Gives what the nodes read of an input another name, and returns it."""
    inner = unused(model, f"{name}.as_stored")
    rename(model, name, inner)
    return inner


def _given(source: Path, model: onnx.ModelProto, name: str, kinds: Sequence[int]) -> str:
    """Gives an output another name, and returns it."""
    outputs = {value.name: value for value in model.graph.output}
    if name not in outputs:
        raise ExportError(f"{source}: gives no {name}; it gives {', '.join(outputs)[:300]}")
    _type(source, outputs[name], kinds)
    inner = unused(model, f"{name}.as_given")
    rename(model, name, inner)
    return inner


def _head(model: onnx.ModelProto, logits: str) -> onnx.NodeProto | None:
    """The node that reads the last hidden states alone, if the logits come of one: a product, or its quantisation."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    heads: list[onnx.NodeProto] = []
    left, seen = [logits], set[str]()
    while left:
        name = left.pop()
        node = makers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type in (*_PRODUCTS, "DynamicQuantizeLinear"):
            heads += [node] if all(node is not head for head in heads) else []
        elif node.op_type == "MatMulInteger":
            left.append(node.input[0])
        elif node.op_type in _ELEMENTWISE:
            left += node.input
        else:
            return None
    return heads[0] if len(heads) == 1 and heads[0].input[0] in makers else None


def _set(values: Any, wanted: Sequence[tuple[str, int, Sequence[int | str | None]]]) -> None:
    """Replaces a graph's inputs or outputs."""
    del values[:]
    values.extend(helper.make_tensor_value_info(*one) for one in wanted)
