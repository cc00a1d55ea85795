"""Graphs at int8, as ONNX Runtime opens them with exact products."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from rar.export.graphs import files
from rar.export.graphs.precisions import convert
from rar.runtime.session import OnnxSession

WIDTH = 32


def test_a_weight_that_two_products_share_can_be_opened(tmp_path: Path) -> None:
    # ONNX Runtime 1.31 ends with "Attempt to replace the existing tensor" where two nodes name one int8 weight.
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "weight"], ["y"]), helper.make_node("MatMul", ["y", "weight"], ["z"])],
            "shared",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, WIDTH])],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, [8, WIDTH])],
            [numpy_helper.from_array(weight, "weight")],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    full, low = tmp_path / "full.onnx", tmp_path / "low.onnx"
    files.save(model, full)
    x = np.random.default_rng(1).standard_normal((8, WIDTH), np.float32)
    assert convert(full, low, "int8", [{"x": x}]) == "int8 rows and columns"
    kinds = [node.op_type for node in onnx.load(low, load_external_data=False).graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 2
    expected, found = x @ weight @ weight, OnnxSession(low, "cpu").run({"x": x})["z"]
    assert (expected * found).sum() > 0.999 * np.linalg.norm(expected) * np.linalg.norm(found)


def test_a_kernel_that_two_convolutions_share_can_be_opened(tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32) / np.float32(8)
    shape = [2, 8, 12, 12]
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["y"], pads=[1] * 4),
        helper.make_node("Conv", ["y", "kernel"], ["z"], pads=[1] * 4),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xz"]
    graph = helper.make_graph(nodes, "shared", ends[:1], ends[1:], [numpy_helper.from_array(kernel, "kernel")])
    full, low = tmp_path / "full.onnx", tmp_path / "low.onnx"
    files.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), full)
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    assert convert(full, low, "int8", [{"x": x}]) == "int8 static"
    expected, found = (OnnxSession(path, "cpu").run({"x": x})["z"] for path in (full, low))
    assert (expected * found).sum() > 0.99 * np.linalg.norm(expected) * np.linalg.norm(found)


def test_residual_branches_are_added_in_fp32_which_rounds_alike_everywhere(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    kernels = [
        numpy_helper.from_array(generator.standard_normal((8, 8, 3, 3)).astype(np.float32) / np.float32(8), name)
        for name in ("first", "second")
    ]
    shape = [2, 8, 12, 12]
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["y"], pads=[1] * 4),
        helper.make_node("Conv", ["y", "second"], ["branch"], pads=[1] * 4),
        helper.make_node("Add", ["branch", "y"], ["z"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xz"]
    graph = helper.make_graph(nodes, "residual", ends[:1], ends[1:], kernels)
    full, low, run = tmp_path / "full.onnx", tmp_path / "low.onnx", tmp_path / "run.onnx"
    files.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), full)
    x = generator.standard_normal(shape, np.float32)
    convert(full, low, "int8", [{"x": x}])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(run)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(low, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(run, load_external_data=False).graph.node]
    assert kinds.count("QLinearConv") == 2
    assert "Sum" in kinds
    assert "QLinearAdd" not in kinds, "ARM and x86 round it differently"
    expected, found = (OnnxSession(path, "cpu").run({"x": x})["z"] for path in (full, low))
    assert (expected * found).sum() > 0.99 * np.linalg.norm(expected) * np.linalg.norm(found)
