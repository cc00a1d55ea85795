"""Engines on the real TensorRT-RTX, as far as a machine without a GPU goes: what it refuses, in its own words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rar.runtime import Bundle, ProviderError
from rar.runtime.errors import OutOfMemoryError
from rar.runtime.session import Sessions
from rar.runtime.session.tensorrt.library import Library, load_library
from rar.runtime.session.tensorrt.load import Log, deserialize, explained
from rar.runtime.session.tensorrt.stored import LIBRARIES, Target, engine_file, find


@pytest.fixture(scope="module")
def library() -> Library:
    pytest.importorskip("tensorrt_rtx")
    return load_library("tensorrt_rtx")


@pytest.fixture(scope="module")
def built(tiny_bundle: Path, library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder with engines for sm89."""
    import shutil

    from rar.export.cli import main

    root = tmp_path_factory.mktemp("engines") / "bundle"
    shutil.copytree(tiny_bundle, root)
    assert main(["engine", str(root), "--target", "sm89", "--batch", "1", "2", "4"]) == 0
    return root


@pytest.mark.parametrize("content", [b"garbage" * 100, b"\0" * 4096])
def test_what_is_no_engine_is_refused_with_tensorrt_s_reason(library: Library, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(content)
    with pytest.raises(ProviderError, match=r"a\.engine: tensorrt_rtx .* cannot load this engine.*\(.*"):
        deserialize(path, library, Log(library))


@pytest.mark.usefixtures("no_gpu")
def test_an_engine_needs_a_gpu_to_be_loaded(library: Library, built: Path) -> None:
    bundle = Bundle.open(built)
    record = find(bundle, "clip/visual.onnx", Target("tensorrt_rtx", library.version, "sm89"))
    with pytest.raises(ProviderError, match=r"no NVIDIA driver, or it is too old for this TensorRT \(.*cudaError 35"):
        deserialize(engine_file(bundle, record), library, Log(library))


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_bundle_s_engines_are_passed_over(built: Path) -> None:
    sessions = Sessions(Bundle.open(built))
    found = sessions.open("clip", "visual.onnx").run({"pixel_values": np.zeros((1, 3, 32, 32), np.float32)})
    assert sessions.running == {"clip/visual.onnx": "cpu"}
    assert np.isfinite(found["image_embeds"]).all()
    with pytest.raises(ProviderError, match="no NVIDIA driver"):
        Sessions(Bundle.open(built), "engine").open("clip", "visual.onnx")


def test_the_log_gives_each_error_once(library: Library) -> None:
    log = Log(library)
    severity = library.module.ILogger.Severity
    log.logger.log(severity.ERROR, "first")
    log.logger.log(severity.WARNING, "only a warning")
    log.logger.log(severity.INTERNAL_ERROR, "second")
    assert log.take() == ["first", "second"]
    assert log.take() == []


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("Error Code 2: OutOfMemory (Requested size was 5 bytes.)", OutOfMemoryError, "has not the memory"),
        ("Cuda Runtime (cudaError 2: out of memory)", OutOfMemoryError, "has not the memory"),
        ("(cudaError 35: CUDA driver version is insufficient)", ProviderError, "too old for this TensorRT"),
        ("Error Code 1: Serialization (Serialization assertion failed)", ProviderError, "build it again"),
        ("Error Code 9: Skipping tactic", ProviderError, r"x\.engine \(Error Code 9"),
    ],
)
def test_what_tensorrt_logs_becomes_the_error_that_it_is(line: str, kind: type[ProviderError], said: str) -> None:
    error = explained("x.engine", [line])
    assert type(error) is kind
    with pytest.raises(kind, match=said):
        raise error


def test_a_library_that_is_not_there_says_where_it_comes_from() -> None:
    for name in LIBRARIES:
        try:
            assert load_library(name).name == name
        except ProviderError as error:
            assert f"{name} is not installed" in str(error)  # noqa: PT017
