"""Ready-made graphs of other exporters and ages in a bundle's form; whole folders are in `encoder/test_ready.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rar.export.graphs import ready
from rar.runtime import ExportError
from rar.runtime.session import OnnxSession

FORM = ready.pictures(8, ("image_embeds",))
WEIGHT = np.random.default_rng(0).standard_normal((3, 100), np.float32)


def write(
    path: Path, nodes: list[onnx.NodeProto], *, opset: int = 13, functions: list[onnx.FunctionProto] | None = None
) -> None:
    """A graph whose nodes make `image_embeds` of `mean`, float32 [N, 3]; the weight is stored as numbers, not bytes."""
    first = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"]),
    ]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, WEIGHT.shape, WEIGHT.ravel().tolist())
    graph = helper.make_graph(
        [*first, *nodes],
        "old",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["batch", "dim"])],
        [weight],
    )
    domains = [helper.make_opsetid("", opset), *(helper.make_opsetid(one.domain, 1) for one in functions or ())]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=8, functions=functions), str(path))


def expected(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    rows = pixels.mean((2, 3)) @ WEIGHT
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("opset", [12, 13, 17, 18, 20])
def test_embeddings_are_normalised_in_the_operators_of_each_age(opset: int, tmp_path: Path) -> None:
    write(tmp_path / "old.onnx", [helper.make_node("MatMul", ["mean", "weight"], ["image_embeds"])], opset=opset)
    ready.take(tmp_path / "old.onnx", tmp_path / "new.onnx", FORM)
    assert (tmp_path / "new.onnx.data").stat().st_size >= WEIGHT.nbytes
    (value,) = onnx.load(str(tmp_path / "new.onnx"), load_external_data=False).graph.input
    assert [side.dim_value for side in value.type.tensor_type.shape.dim] == [0, 3, 8, 8]
    session = OnnxSession(tmp_path / "new.onnx")
    pixels = np.random.default_rng(1).standard_normal((4, 3, 8, 8), np.float32)
    np.testing.assert_allclose(session.run({"pixel_values": pixels})["image_embeds"], expected(pixels), atol=1e-5)
    blank = session.run({"pixel_values": np.zeros((1, 3, 8, 8), np.float32)})["image_embeds"]
    assert not blank.any(), "a vector of zeros stays one"


def test_functions_that_a_graph_brings_itself_are_taken(tmp_path: Path) -> None:
    body = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    mine = helper.make_function("mine", "Project", ["x", "w"], ["y"], body, [helper.make_opsetid("", 18)])
    call = helper.make_node("Project", ["mean", "weight"], ["image_embeds"], domain="mine")
    write(tmp_path / "old.onnx", [call], opset=18, functions=[mine])
    ready.take(tmp_path / "old.onnx", tmp_path / "new.onnx", FORM)
    pixels = np.random.default_rng(1).standard_normal((2, 3, 8, 8), np.float32)
    found = OnnxSession(tmp_path / "new.onnx").run({"pixel_values": pixels})["image_embeds"]
    np.testing.assert_allclose(found, expected(pixels), atol=1e-5)
    # What it calls is looked at too.
    mine.node[0].domain = "com.example"
    write(tmp_path / "old.onnx", [call], opset=18, functions=[mine])
    with pytest.raises(ExportError, match=r"MatMul of 'com\.example'"):
        ready.take(tmp_path / "old.onnx", tmp_path / "new.onnx", FORM)


def test_a_graph_that_uses_its_embeddings_further_is_taken(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["mean", "weight"], ["image_embeds"]),
        helper.make_node("Softmax", ["image_embeds"], ["image_embeds.as_given"]),  # a name that would be taken
    ]
    write(tmp_path / "old.onnx", nodes)
    ready.take(tmp_path / "old.onnx", tmp_path / "new.onnx", FORM)
    session = OnnxSession(tmp_path / "new.onnx")
    assert list(session.outputs) == ["image_embeds"]
    pixels = np.random.default_rng(1).standard_normal((2, 3, 8, 8), np.float32)
    np.testing.assert_allclose(session.run({"pixel_values": pixels})["image_embeds"], expected(pixels), atol=1e-5)


def test_weights_beyond_the_end_of_their_file_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "old.onnx", [helper.make_node("MatMul", ["mean", "weight"], ["image_embeds"])])
    model = onnx.load(str(tmp_path / "old.onnx"))
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    (tmp_path / "weights").write_bytes(WEIGHT.tobytes())
    for entries in ({"offset": "4", "length": str(WEIGHT.nbytes)}, {"offset": "-4"}, {"length": "many"}):
        del tensor.external_data[:]
        for key, value in {"location": "weights", **entries}.items():
            tensor.external_data.add(key=key, value=value)
        onnx.save(model, str(tmp_path / "old.onnx"))
        with pytest.raises(ExportError, match=r"the weight 'weight' cannot be read from .*weights"):
            ready.take(tmp_path / "old.onnx", tmp_path / "new.onnx", FORM)
