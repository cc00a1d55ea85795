"""A graph takes its weights from the bundle's own files beside it and brings no compiled code, or is not opened."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    TrainingInfoProto,
    helper,
)

from rar.runtime import Bundle, BundleError
from rar.runtime.bundle import external_data
from rar.runtime.bundle.change import stage
from rar.runtime.bundle.external_data import contents
from rar.runtime.bundle.manifest import MANIFEST
from rar.runtime.session import OnnxSession

WEIGHTS = b"\0\0\x80?\0\0\0@"  # 1 and 2


def tensor(location: str, name: str = "w", marked: bool = True) -> TensorProto:
    found = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2])
    found.external_data.add(key="location", value=location)
    found.external_data.add(key="offset", value="0")
    found.external_data.add(key="length", value="8")
    if marked:
        found.data_location = TensorProto.EXTERNAL
    return found


def model(graph: GraphProto, **rest: Any) -> ModelProto:
    return ModelProto(ir_version=8, graph=graph, opset_import=[helper.make_opsetid("", 17)], **rest)


def constant(location: str, **attribute: Any) -> NodeProto:
    attribute = attribute or {"type": AttributeProto.TENSOR, "t": tensor(location)}
    return NodeProto(op_type="Constant", output=["c"], attribute=[AttributeProto(name="value", **attribute)])


def nested(graph: GraphProto, levels: int) -> GraphProto:
    for _ in range(levels):
        branch = AttributeProto(name="then_branch", type=AttributeProto.GRAPH, g=graph)
        graph = GraphProto(node=[NodeProto(op_type="If", attribute=[branch])])
    return graph


def runs(location: str) -> ModelProto:
    """x + w, which ONNX Runtime runs."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    return model(helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [tensor(location)]))


# Where in a graph a tensor may lie.
PLACES: dict[str, Callable[[str], ModelProto]] = {
    "initializer": runs,
    "initializer that is not marked": lambda at: model(GraphProto(initializer=[tensor(at, marked=False)])),
    "sparse values": lambda at: model(GraphProto(sparse_initializer=[SparseTensorProto(values=tensor(at))])),
    "sparse indices": lambda at: model(GraphProto(sparse_initializer=[SparseTensorProto(indices=tensor(at))])),
    "constant": lambda at: model(GraphProto(node=[constant(at)])),
    "sparse constant": lambda at: model(
        GraphProto(
            node=[constant(at, type=AttributeProto.SPARSE_TENSOR, sparse_tensor=SparseTensorProto(values=tensor(at)))]
        )
    ),
    "list of tensors": lambda at: model(
        GraphProto(node=[constant(at, type=AttributeProto.TENSORS, tensors=[TensorProto(), tensor(at)])])
    ),
    "list of sparse tensors": lambda at: model(
        GraphProto(
            node=[
                constant(at, type=AttributeProto.SPARSE_TENSORS, sparse_tensors=[SparseTensorProto(indices=tensor(at))])
            ]
        )
    ),
    "list of graphs": lambda at: model(
        GraphProto(
            node=[constant(at, type=AttributeProto.GRAPHS, graphs=[GraphProto(), GraphProto(node=[constant(at)])])]
        )
    ),
    "branch of a branch": lambda at: model(nested(GraphProto(node=[constant(at)]), 2)),
    "branch's initializer": lambda at: model(nested(GraphProto(initializer=[tensor(at)]), 1)),
    "function": lambda at: model(GraphProto(), functions=[FunctionProto(name="f", node=[constant(at)])]),
    "function's attribute": lambda at: model(
        GraphProto(),
        functions=[FunctionProto(name="f", attribute_proto=[AttributeProto(name="a", t=tensor(at))])],
    ),
    "training": lambda at: model(
        GraphProto(),
        training_info=[TrainingInfoProto(algorithm=GraphProto(), initialization=GraphProto(initializer=[tensor(at)]))],
    ),
}


def engine(**attributes: Any) -> NodeProto:
    """A node from which the TensorRT providers of ONNX Runtime load an engine."""
    return helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=1, **attributes)


def held(graph: GraphProto) -> AttributeProto:
    return AttributeProto(name="body", type=AttributeProto.GRAPH, g=graph)


# Where in a graph a node may lie.
NODES: dict[str, ModelProto] = {
    "graph": model(GraphProto(node=[engine()])),
    "among others": model(GraphProto(node=[*(NodeProto(op_type="Relu") for _ in range(2000)), engine()])),
    "with a large engine": model(GraphProto(node=[engine(ep_cache_context=b"e" * (1 << 20))])),
    "of a domain of its own": model(GraphProto(node=[NodeProto(op_type="EPContext", domain="mine")])),
    "branch of a branch": model(nested(GraphProto(node=[engine()]), 2)),
    "list of graphs": model(
        GraphProto(
            node=[
                constant("", type=AttributeProto.GRAPHS, graphs=[GraphProto(), GraphProto(node=[engine()])]),
            ]
        )
    ),
    "function": model(GraphProto(), functions=[FunctionProto(name="f", node=[engine()])]),
    "function's attribute": model(
        GraphProto(), functions=[FunctionProto(name="f", attribute_proto=[held(GraphProto(node=[engine()]))])]
    ),
    "training": model(GraphProto(), training_info=[TrainingInfoProto(algorithm=GraphProto(node=[engine()]))]),
}


def bundle_of(root: Path, graph: ModelProto, **files: bytes) -> Path:
    with stage(root, "clip") as staging:
        (staging.folder / "v.onnx").write_bytes(graph.SerializeToString())
        for name, content in files.items():
            (staging.folder / name).write_bytes(content)
    return root


class TestBundles:
    def test_weights_of_its_own(self, tmp_path: Path) -> None:
        root = bundle_of(tmp_path / "b", runs("v.data"), **{"v.data": WEIGHTS})
        session = OnnxSession(Bundle.open(root).graph("clip", "v.onnx"))
        assert session.run({"x": np.float32([5, 5])})["y"].tolist() == [6, 7]

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("absolute", [False, True])
    def test_weights_from_elsewhere(self, tmp_path: Path, place: str, absolute: bool) -> None:
        (tmp_path / "secret.bin").write_bytes(WEIGHTS)
        location = str(tmp_path / "secret.bin") if absolute else "../../secret.bin"
        root = bundle_of(tmp_path / "b", PLACES[place](location))
        with pytest.raises(BundleError, match=r"v\.onnx: takes weights from '.*secret\.bin', which is no file beside"):
            Bundle.open(root).graph("clip", "v.onnx")

    @pytest.mark.parametrize(
        "location",
        [
            "", ".", "..", "./v.data", "sub/../v.data", "sub/v.data", "../clip/v.data", "v.data/", "V.data", "v.data\0",
            "..\\v.data", "*/_ORT_MEM_ADDR_/*", "https://example.org/v.data", "bundle.json", "x" * 100_000,
        ],
    )  # fmt: skip
    def test_a_name_that_is_none_of_the_component_s_files(self, tmp_path: Path, location: str) -> None:
        root = bundle_of(tmp_path / "b", runs(location), **{"v.data": WEIGHTS})
        with pytest.raises(BundleError, match="takes weights from") as refused:
            Bundle.open(root).graph("clip", "v.onnx")
        assert len(str(refused.value)) < 1000

    def test_a_file_beside_it_that_the_manifest_does_not_list(self, tmp_path: Path) -> None:
        root = bundle_of(tmp_path / "b", runs("v.data"))
        (root / "clip" / "v.data").write_bytes(WEIGHTS)
        with pytest.raises(
            BundleError, match=r"'v\.data', which is no file beside it that bundle\.json lists for clip"
        ):
            Bundle.open(root).graph("clip", "v.onnx")

    def test_a_file_of_another_component(self, tmp_path: Path) -> None:
        root = bundle_of(tmp_path / "b", runs("v.data"))
        with stage(root, "memory") as staging:
            (staging.folder / "v.data").write_bytes(WEIGHTS)
        manifest = json.loads((root / MANIFEST).read_text())
        parts = manifest["components"]
        parts["clip"]["files"]["v.data"] = parts["memory"]["files"]["v.data"]
        (root / MANIFEST).write_text(json.dumps(manifest))
        (root / "clip" / "v.data").write_bytes(b"what would be read instead")
        with pytest.raises(BundleError, match="takes weights from"):
            Bundle.open(root).graph("clip", "v.onnx")

    def test_a_link_out(self, tmp_path: Path) -> None:
        root = bundle_of(tmp_path / "b", runs("v.data"), **{"v.data": WEIGHTS})
        bundle = Bundle.open(root)
        (tmp_path / "secret.bin").write_bytes(WEIGHTS)
        (root / "clip" / "v.data").unlink()
        (root / "clip" / "v.data").symlink_to(tmp_path / "secret.bin")
        assert bundle.graph("clip", "v.onnx")  # it is what was exported
        (tmp_path / "secret.bin").write_bytes(WEIGHTS[::-1])
        with pytest.raises(BundleError, match="leads out of the bundle"):
            bundle.graph("clip", "v.onnx")

    def test_a_graph_under_another_ending(self, tmp_path: Path) -> None:
        """ONNX Runtime would read its own format, in which nothing is looked for here."""
        root = bundle_of(tmp_path / "b", runs("v.data"), **{"v.data": WEIGHTS})
        (root / "clip" / "v.onnx").rename(root / "clip" / "v.ort")
        text = (root / MANIFEST).read_text().replace('"clip/v.onnx"', '"clip/v.ort"')
        (root / MANIFEST).write_text(text)
        with pytest.raises(BundleError, match=r"v\.ort: is not called v\.onnx"):
            Bundle.open(root).graph("clip", "v.onnx")


class TestCompiledCode:
    @pytest.mark.parametrize("place", NODES)
    def test_it_is_refused(self, tmp_path: Path, place: str) -> None:
        root = bundle_of(tmp_path / "b", NODES[place])
        with pytest.raises(
            BundleError, match=r"v\.onnx: holds compiled code \(EPContext\); do not use a bundle that does this"
        ):
            Bundle.open(root).graph("clip", "v.onnx")

    def test_a_name_that_only_says_so_is_none(self, tmp_path: Path) -> None:
        nodes = [NodeProto(op_type="Relu", name="EPContext"), NodeProto(op_type="EPContexts")]
        (tmp_path / "v.onnx").write_bytes(model(GraphProto(node=nodes, name="EPContext")).SerializeToString())
        assert not contents(tmp_path / "v.onnx").compiled


class TestFiles:
    @pytest.mark.parametrize("place", PLACES)
    def test_every_place(self, tmp_path: Path, place: str) -> None:
        path = tmp_path / "v.onnx"
        path.write_bytes(PLACES[place]("somewhere").SerializeToString())
        assert contents(path).files == {"somewhere"}

    def test_several(self, tmp_path: Path) -> None:
        graph = GraphProto(initializer=[tensor(f"part-{i}", f"w{i}") for i in range(500)])
        (tmp_path / "v.onnx").write_bytes(model(graph).SerializeToString())
        assert contents(tmp_path / "v.onnx").files == {f"part-{i}" for i in range(500)}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "cannot be read"),
            (b"graph", "unknown kind"),
            (b"\x3a", "does not end"),
            (b"\x3a\x05ab", "in the middle of a field"),
            (b"\x09\x00", "in the middle of a field"),
            (b"\x3a" + b"\xff" * 9, "does not end"),
            (b"\x3a" + b"\xff" * 12, "does not end"),
            (b"\x0b\x0c", "unknown kind"),
        ],
    )
    def test_what_is_no_graph(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "v.onnx").write_bytes(content)
        with pytest.raises(BundleError, match=rf"v\.onnx: .*{message}"):
            contents(tmp_path / "v.onnx")

    def test_a_folder_or_nothing(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "absent.onnx"):
            with pytest.raises(BundleError, match="cannot be read"):
                contents(path)

    def test_deeper_than_protobuf_goes(self, tmp_path: Path) -> None:
        inner = GraphProto(initializer=[tensor("somewhere")]).SerializeToString()
        for _ in range(5000):  # graph > node > attribute > graph
            for field in (6, 5, 1):
                inner = bytes([field << 3 | 2]) + _varint(len(inner)) + inner
        (tmp_path / "v.onnx").write_bytes(b"\x3a" + _varint(len(inner)) + inner)
        with pytest.raises(BundleError, match="more than 100 messages one within the other"):
            contents(tmp_path / "v.onnx")

    def test_more_fields_than_any_graph_has(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(external_data, "_MOST", 1000)
        (tmp_path / "v.onnx").write_bytes(b"\x08\x08" * 1001)
        with pytest.raises(BundleError, match="more than 1000 fields"):
            contents(tmp_path / "v.onnx")

    def test_weights_inside_are_not_read(self, tmp_path: Path) -> None:
        """One GB of weights, of which pages would be mapped if they were looked at."""
        size, path = 1 << 30, tmp_path / "v.onnx"
        name, after = TensorProto(name="w").SerializeToString(), tensor("somewhere", "v").SerializeToString()
        weights = name + b"\x4a" + _varint(size)
        rest = b"\x2a" + _varint(len(after)) + after
        first = b"\x2a" + _varint(len(weights) + size) + weights
        with path.open("wb") as file:
            file.write(b"\x3a" + _varint(len(first) + size + len(rest)) + first)
            file.seek(size, 1)  # a hole: nothing is written
            file.write(rest)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        assert contents(path).files == {"somewhere"}
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 1000


ALL = model(
    GraphProto(
        node=[
            *nested(GraphProto(node=[constant("a"), engine()], initializer=[tensor("b")]), 2).node,
            constant("c"),
            engine(),
        ],
        initializer=[tensor("d"), TensorProto(name="plain", data_type=1, dims=[2], raw_data=WEIGHTS)],
        sparse_initializer=[SparseTensorProto(values=tensor("e"), indices=tensor("f"))],
    ),
    functions=[FunctionProto(name="f", node=[constant("g")])],
).SerializeToString()


@settings(max_examples=3000)
@given(
    edits=st.lists(st.tuples(st.integers(0, len(ALL) - 1), st.integers(0, 255)), max_size=3),
    cut=st.none() | st.integers(0, len(ALL)),
    added=st.binary(max_size=8),
)
def test_never_fewer_than_protobuf_reads(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]], cut: int | None, added: bytes
) -> None:
    content = bytearray(ALL)
    for at, byte in edits:
        content[at] = byte
    path = tmp_path_factory.getbasetemp() / "edited.onnx"
    path.write_bytes(bytes(content[:cut] + added))
    try:
        found = contents(path)
    except BundleError:
        return
    try:
        parsed = ModelProto.FromString(path.read_bytes())
    except DecodeError:
        return
    assert set(_locations(parsed)) <= found.files
    assert found.compiled or not any(node.op_type == "EPContext" for node in _nodes(parsed))


def _locations(message: Message) -> Iterator[str]:
    """Whatever lies in a tensor's external data, by protobuf's own reader."""
    if isinstance(message, TensorProto):
        # What is not UTF-8 comes as bytes.
        yield from (os.fsdecode(entry.value) for entry in message.external_data if entry.key == "location")
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _locations(inner)


def _nodes(message: Message) -> Iterator[NodeProto]:
    if isinstance(message, NodeProto):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _nodes(inner)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
