"""fp16 graphs: what would overflow or blur stays fp32, and what ONNX Runtime makes of the rest is close."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rar.export.graphs.half import to_half
from rar.runtime import ExportError
from rar.runtime.session import OnnxSession

Node = tuple[str, list[str], str]


def make(folder: Path, nodes: list[Node], weights: dict[str, np.ndarray]) -> Path:
    """A graph from `x` and, where it is used, `ids` to `y`, converted."""
    used = {name for _, names, _ in nodes for name in names}
    inputs = [
        helper.make_tensor_value_info(name, kind, [None, None])
        for name, kind in (("x", TensorProto.FLOAT), ("ids", TensorProto.INT64))
        if name in used
    ]
    made = [
        helper.make_node(kind, names, [output], **({"to": TensorProto.FLOAT} if kind == "Cast" else {}))
        for kind, names, output in nodes
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(
        made, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(folder / "full.onnx"))
    to_half(folder / "full.onnx", folder / "half.onnx")
    onnx.checker.check_model(str(folder / "half.onnx"), full_check=True)
    return folder / "half.onnx"


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    return np.asarray(OnnxSession(path, "cpu", fp16=True).run(inputs)["y"])


def kinds(path: Path) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in onnx.load(str(path)).graph.initializer}


def test_weights_are_halved_and_inputs_and_outputs_stay(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    weight = chance.standard_normal((64, 32), np.float32)
    path = make(tmp_path, [("MatMul", ["x", "w"], "y")], {"w": weight})
    x = chance.standard_normal((3, 64), np.float32)
    assert list(kinds(path).values()) == [TensorProto.FLOAT16]
    found = run(path, x=x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, x @ weight, atol=0.05)
    assert (tmp_path / "half.onnx.data").stat().st_size == weight.nbytes // 2


def test_a_norm_of_large_values_does_not_overflow(tmp_path: Path) -> None:
    # RMS norm as it is exported: squares of 1000 are past the largest fp16.
    nodes: list[Node] = [
        ("MatMul", ["x", "w"], "h"),
        ("Mul", ["h", "h"], "square"),
        ("ReduceMean", ["square", "last"], "mean"),
        ("Add", ["mean", "eps"], "safe"),
        ("Sqrt", ["safe"], "root"),
        ("Div", ["h", "root"], "y"),
    ]
    weights = {"w": np.eye(8, dtype=np.float32), "last": np.array([-1]), "eps": np.array(1e-6, np.float32)}
    path = make(tmp_path, nodes, weights)
    x = np.linspace(500, 1500, 16, dtype=np.float32).reshape(2, 8)
    np.testing.assert_allclose(run(path, x=x), x / np.sqrt((x**2).mean(1, keepdims=True)), rtol=2e-3)
    tiny = np.full((1, 8), 1e-4, np.float32)
    np.testing.assert_allclose(run(path, x=tiny), tiny / np.sqrt(1e-8 + 1e-6), rtol=2e-3)


def test_positions_stay_exact(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Cast", ["ids"], "floats"),
        ("MatMul", ["floats", "frequencies"], "angles"),
        ("Cos", ["angles"], "cosines"),
        ("Mul", ["x", "cosines"], "y"),
    ]
    frequencies = np.array([[1.0, 0.1]], np.float32)
    path = make(tmp_path, nodes, {"frequencies": frequencies})
    ids = np.array([[2048], [2049], [4097], [8191]])
    found = run(path, x=np.ones((4, 2), np.float32), ids=ids)
    np.testing.assert_allclose(found, np.cos(ids * frequencies), atol=1e-4)


def test_a_mask_of_the_lowest_float_stays_finite(tmp_path: Path) -> None:
    lowest = np.array([[0, np.finfo(np.float32).min]], np.float32)
    path = make(
        tmp_path,
        [("MatMul", ["x", "w"], "h"), ("Add", ["h", "m"], "y")],
        {"w": np.eye(2, dtype=np.float32), "m": lowest},
    )
    found = run(path, x=np.zeros((1, 2), np.float32))
    assert np.isfinite(found).all()
    assert found[0, 1] <= -65000


def test_a_weight_in_use_at_both_types_is_there_twice(tmp_path: Path) -> None:
    nodes: list[Node] = [("MatMul", ["x", "w"], "h"), ("Softmax", ["h"], "s"), ("Mul", ["s", "w"], "y")]
    path = make(tmp_path, nodes, {"w": np.eye(4, dtype=np.float32)})
    assert sorted(kinds(path).values()) == [TensorProto.FLOAT, TensorProto.FLOAT16]
    assert run(path, x=np.ones((4, 4), np.float32)).shape == (4, 4)


def test_an_output_that_is_also_used_inside_keeps_its_name(tmp_path: Path) -> None:
    nodes: list[Node] = [("MatMul", ["x", "w"], "y"), ("MatMul", ["y", "w"], "z")]
    path = make(tmp_path, nodes, {"w": np.eye(4, dtype=np.float32)})
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(run(path, x=x), x)


def test_control_flow_is_refused(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["b"])], "b", [], [helper.make_tensor_value_info("b", 1, None)]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, [2]), helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", 1, [2])],
    )
    onnx.save(helper.make_model(graph), str(tmp_path / "full.onnx"))
    with pytest.raises(ExportError, match="control flow"):
        to_half(tmp_path / "full.onnx", tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()
