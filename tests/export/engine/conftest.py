"""TensorRT-RTX itself, and bundles to build from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_mllm
from onnx import TensorProto, helper, numpy_helper

from rar.runtime.session.tensorrt.library import Library, load_library

MLLMS = ["llava", "smolvlm", "qwen25vl", "internvl"]


def make_model(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    """A graph from `x` [N, 8] to `y`."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.fixture(scope="session")
def rtx(tensorrt_rtx: None) -> Library:
    """The library; it builds on a machine without a GPU."""
    return load_library("tensorrt_rtx")


@pytest.fixture(scope="session")
def starter_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter's encoder at fp32. Shared: copy before writing."""
    from rar.export.starter.encoder import export_encoder

    out = tmp_path_factory.mktemp("starter-fp32") / "bundle"
    export_encoder(out, "fp32")
    return out


@pytest.fixture(params=["starter", *MLLMS])
def whole(
    request: pytest.FixtureRequest,
    exported_mllm: Callable[[str], tiny_mllm.Exported],
    tmp_path: Path,
) -> Path:
    """Each bundle in turn, as a copy of this test's own."""
    name = str(request.param)
    shared = request.getfixturevalue("starter_encoder") if name == "starter" else exported_mllm(name).bundle
    return Path(shutil.copytree(shared, tmp_path / name))


@pytest.fixture(scope="session")
def llava(exported_mllm: Callable[[str], tiny_mllm.Exported]) -> Path:
    """A bundle with a language model. Shared: copy before writing."""
    return exported_mllm("llava").bundle
