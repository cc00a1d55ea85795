"""Takes ONNX graphs that others exported, such as those for transformers.js, into the form of a bundle's graphs.

Nothing of PyTorch is needed. A graph may come from a stranger: it is read as data, it may take weights only from files
beside it, and it may use only operators that ONNX Runtime itself brings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from rar.runtime.bundle.external_data import COMPILED, contents
from rar.runtime.bundle.regular import open_regular
from rar.runtime.errors import BundleError, ExportError

from . import files

# ONNX's own operators, and those that ONNX Runtime adds: QuickGelu, MatMulNBits, GroupQueryAttention.
_DOMAINS = frozenset(["", "ai.onnx", "com.microsoft"])
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
WHOLE = (TensorProto.INT64, TensorProto.INT32)
# Elements from which on a tensor's values are written beside the graph; `files` wants them as bytes.
_LARGE = 256
# As torch.nn.functional.normalize has it: a vector of zeros stays one.
_LEAST = 1e-12
_AXES_ARE_AN_INPUT = 18  # of ReduceL2, since this version of ONNX's operators


@dataclass(frozen=True)
class Form:
    """What a bundle's graph takes and gives.

    Attributes:
        input: The input's name.
        types: Element types that it may have in the ready-made graph; the first is the bundle's.
        shape: Its dimensions after the first, which is free.
        given: Names that the output with one embedding a row may have in the ready-made graph, the best first.
        output: The output's name in the bundle: float32 [N, d], L2-normalised.
    """

    input: str
    types: tuple[int, int]
    shape: tuple[int, ...]
    given: tuple[str, ...]
    output: str


def pictures(size: int, given: tuple[str, ...]) -> Form:
    """The form of `visual.onnx`: pixel_values, float32 [N, 3, size, size] -> image_embeds."""
    return Form("pixel_values", FLOATS, (3, size, size), given, "image_embeds")


def texts(length: int, given: tuple[str, ...]) -> Form:
    """The form of `text.onnx`: input_ids, int64 [N, length] -> text_embeds."""
    return Form("input_ids", WHOLE, (length,), given, "text_embeds")


def take(source: Path, target: Path, form: Form) -> None:
    """Writes a ready-made graph in a bundle's form, with its weights beside it.

    An input `attention_mask` is replaced by ones, as CLIP's and SigLIP's texts are read: in CLIP no token sees those
    behind it, and SigLIP learned with its padding.

    Args:
        source: The `.onnx`; its weights are inside, or in files beside it.
        target: The `.onnx` to write.
        form: What the bundle's graph takes and gives.

    Raises:
        ExportError: The file is no such graph, takes weights from elsewhere, brings compiled code, uses operators that
            ONNX Runtime lacks, or has other inputs, outputs or shapes, or broken weights.
    """
    given = Given.read(source)
    _take_input(source, given.model, form)
    _give_output(source, given.model, form)
    given.write(target)


@dataclass(frozen=True)
class Given:
    """A ready-made graph, checked and without its weights.

    Attributes:
        source: The `.onnx`.
        model: What it holds; whoever takes it changes it in place.
        beside: The files that it takes weights from, by the names that it gives them.
    """

    source: Path
    model: onnx.ModelProto
    beside: Mapping[str, Path]

    @classmethod
    def read(cls, source: Path) -> Given:
        """Reads a graph as data.

        Raises:
            ExportError: It is no graph, takes weights from elsewhere, brings compiled code, or uses operators that ONNX
                Runtime lacks.
        """
        beside = _beside(source)
        try:
            model = onnx.load(str(source), load_external_data=False)
        except Exception as error:  # protobuf's own, which has another name in each of its versions
            raise ExportError(f"{source}: is no ONNX graph ({error}); download it again") from error
        _check_operators(source, model)
        return cls(source, model, beside)

    def write(self, target: Path) -> None:
        """Writes what it has become, with its weights beside it.

        Raises:
            ExportError: A weight is broken, or no initializer.
        """
        model = self.model
        # Shapes in it have free dimensions and old names.
        del model.graph.value_info[:], model.metadata_props[:]
        try:
            files.save(model, target, _weights(self.source, list(model.graph.initializer), self.beside))
        except (ExportError, OSError):
            raise
        except Exception as error:  # NumPy's, of a broken tensor, or protobuf's, of a graph over its 2 GiB
            raise ExportError(f"{self.source}: cannot be taken ({error}); download it again") from error
        if left := contents(target).files - {f"{target.name}.data"}:
            raise ExportError(
                f"{self.source}: a node takes weights from {sorted(left)[0]!r}; choose a graph whose weights are "
                "initializers"
            )


def _beside(source: Path) -> dict[str, Path]:
    """The files that a graph takes weights from, by the names that it gives them."""
    try:
        found = contents(source)
        if found.compiled:
            raise ExportError(
                f"{source}: holds compiled code (the operator {COMPILED}); do not use a graph that does this"
            )
        names = found.files
        for name in sorted(names):
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise ExportError(
                    f"{source}: takes weights from {name[:200]!r}, which is no file beside it; do not use a graph that "
                    "does this"
                )
            os.close(open_regular(source.with_name(name), links=True))
    except BundleError as error:
        raise ExportError(f"{source}: cannot be read as a graph ({error}); download it again") from error
    except OSError as error:
        raise ExportError(
            f"{source}: takes weights from {error.filename}, which cannot be read ({error.strerror}); download that too"
        ) from error
    return {name: source.with_name(name) for name in names}


def _check_operators(source: Path, model: onnx.ModelProto) -> None:
    """Refuses operators that a library of its own would have to bring."""
    local = {(function.domain, function.name) for function in model.functions}
    lists = [model.graph.node, *(function.node for function in model.functions)]
    for node in (node for nodes in lists for node in within(nodes)):
        if node.domain not in _DOMAINS and (node.domain, node.op_type) not in local:
            raise ExportError(
                f"{source}: uses the operator {node.op_type} of {node.domain!r}, which ONNX Runtime does not have; "
                "choose another variant, or another export of the model"
            )


def within(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and all those of their branches and loops."""
    left = list(nodes)
    while left:
        node = left.pop()
        yield node
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
            left += [inner for graph in graphs for inner in graph.node]


def _take_input(source: Path, model: onnx.ModelProto, form: Form) -> None:
    """Gives the graph the form's one input."""
    inputs = inputs_of(model)
    others = inputs.keys() - {form.input}
    masked = form.input == "input_ids" and "attention_mask" in others
    if form.input not in inputs or others - ({"attention_mask"} if masked else set()):
        raise ExportError(f"{source}: takes {', '.join(sorted(inputs))}; it must take {form.input} and nothing else")
    kind = inputs[form.input].type.tensor_type.elem_type
    if kind not in form.types:
        raise ExportError(
            f"{source}: {form.input} is of type {named(kind)}; it must be {' or '.join(map(named, form.types))}"
        )
    _check_shape(source, inputs[form.input], form)
    added = []
    name = form.input
    if kind != form.types[0]:
        name = unused(model, f"{form.input}.as_stored")
        rename(model, form.input, name)
        added.append(helper.make_node("Cast", [form.input], [name], to=kind))
    if masked:
        shape, ones = unused(model, "attention_mask.shape"), unused(model, "attention_mask.ones")
        one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
        mask = inputs["attention_mask"].type.tensor_type.elem_type
        added.append(helper.make_node("Shape", [form.input], [shape]))
        added.append(helper.make_node("ConstantOfShape", [shape], [ones], value=one))
        added.append(helper.make_node("Cast", [ones], ["attention_mask"], to=mask))
    nodes = [*added, *model.graph.node]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.input.append(helper.make_tensor_value_info(form.input, form.types[0], ["N", *form.shape]))


def inputs_of(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """A graph's inputs by name; old graphs list their weights as inputs too."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return {value.name: value for value in model.graph.input if value.name not in constants}


def _check_shape(source: Path, value: onnx.ValueInfoProto, form: Form) -> None:
    """A dimension may be free; one that is not must be the form's."""
    if not value.type.tensor_type.HasField("shape"):
        return
    sides = [side.dim_value for side in value.type.tensor_type.shape.dim]
    if len(sides) != 1 + len(form.shape) or sides[0] > 0:
        raise ExportError(f"{source}: {form.input} is of shape {shown(sides)}; it must be {shown((0, *form.shape))}")
    if any(side > 0 and side != wanted for side, wanted in zip(sides[1:], form.shape, strict=True)):
        raise ExportError(
            f"{source}: {form.input} is of shape {shown(sides)}, and by the folder's JSON files it must be "
            f"{shown((0, *form.shape))}; choose files that belong together"
        )


def shown(sides: Sequence[int]) -> str:
    """A shape, with N for what is free."""
    return f"[{', '.join(str(side) if side > 0 else 'N' for side in sides)}]"


def _give_output(source: Path, model: onnx.ModelProto, form: Form) -> None:
    """Gives the graph the form's one output: the embeddings of the best that is given, L2-normalised."""
    outputs = {value.name: value for value in model.graph.output}
    name = next((name for name in form.given if name in outputs), None)
    if name is None:
        raise ExportError(
            f"{source}: gives {', '.join(outputs)}; it must give {' or '.join(form.given)}, which is the embedding in "
            "the space of both towers"
        )
    kind = outputs[name].type.tensor_type.elem_type
    if kind not in FLOATS:
        raise ExportError(f"{source}: {name} is of type {named(kind)}; it must be FLOAT or FLOAT16")
    given = unused(model, f"{name}.as_given")
    rename(model, name, given)
    if form.output != name:
        rename(model, form.output, unused(model, f"{form.output}.other"))
    wide, length, long = (unused(model, f"{form.output}.{part}") for part in ("wide", "length", "long"))
    axes, least = unused(model, f"{form.output}.axes"), unused(model, f"{form.output}.least")
    model.graph.initializer.append(numpy_helper.from_array(np.array(_LEAST, np.float32), least))
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if versions.get("ai.onnx", 0) >= _AXES_ARE_AN_INPUT:
        model.graph.initializer.append(numpy_helper.from_array(np.array([1]), axes))
        reduced = helper.make_node("ReduceL2", [wide, axes], [length], keepdims=1)
    else:
        reduced = helper.make_node("ReduceL2", [wide], [length], axes=[1], keepdims=1)
    model.graph.node.extend(
        [
            helper.make_node("Cast", [given], [wide], to=TensorProto.FLOAT),
            reduced,
            helper.make_node("Max", [length, least], [long]),
            helper.make_node("Div", [wide, long], [form.output]),
        ]
    )
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(form.output, TensorProto.FLOAT, ["N", None]))


def named(kind: int) -> str:
    """An element type's name."""
    return TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else str(kind)


def unused(model: onnx.ModelProto, name: str) -> str:
    """A name that no tensor of the graph has."""
    nodes = list(within(model.graph.node))
    used = {tensor for node in nodes for tensor in (*node.input, *node.output)}
    used |= {tensor.name for tensor in model.graph.initializer}
    while name in used:
        name += "_"
    return name


def rename(model: onnx.ModelProto, old: str, new: str) -> None:
    """Gives a tensor another name wherever it is made or used."""
    for node in within(model.graph.node):
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
    for tensor in model.graph.initializer:
        if tensor.name == old:
            tensor.name = new


def _weights(
    source: Path, tensors: Sequence[onnx.TensorProto], beside: Mapping[str, Path]
) -> Iterator[onnx.TensorProto]:
    """The initializers with their values inside, one at a time."""
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            yield _loaded(source, tensor, beside)
        elif tensor.HasField("raw_data") or tensor.data_type == TensorProto.STRING or _count(tensor) < _LARGE:
            yield tensor
        else:
            yield numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)


def _count(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.float64))


def _loaded(source: Path, tensor: onnx.TensorProto, beside: Mapping[str, Path]) -> onnx.TensorProto:
    """A tensor with its values from the file beside the graph."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = beside[entries.get("location", "")] if entries.get("location") in beside else None
    try:
        if path is None:
            raise ValueError("it names no file")
        with os.fdopen(open_regular(path, links=True), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = int(entries.get("offset", 0))
            length = int(entries.get("length", size - start))
            if start < 0 or length < 0 or start + length > size:
                raise ValueError(f"bytes {start} to {start + length} of {size}")
            file.seek(start)
            values = file.read(length)
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{source}: the weight {tensor.name!r} cannot be read from {path} ({error}); download both files again"
        ) from error
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=values)
