"""TensorRT-RTX itself, and bundles to build from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_mllm

from rar.runtime.tensorrt_library import Library, load_library

MLLMS = ["llava", "smolvlm", "qwen25vl", "internvl"]


@pytest.fixture(scope="session")
def rtx() -> Library:
    """The library; it builds on a machine without a GPU."""
    return load_library("tensorrt_rtx")


@pytest.fixture(scope="session")
def starter_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter's encoder at fp32. Shared: copy before writing."""
    from rar.export.starter import export_encoder

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
