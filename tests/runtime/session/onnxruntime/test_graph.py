"""A graph runs on the device that was asked for, or not at all; a batch that memory does not hold, in halves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from rar.runtime import Bundle, BundleError, InputError, ProviderError
from rar.runtime.session import PROVIDERS, Host, OnnxSession
from rar.runtime.session.tensors import of_array, to_array

# A GPU's memory ends where this arena's does: it is ONNX Runtime's own, which its CUDA provider uses too.
_SMALL_ARENA = """
import logging, sys
import numpy as np, onnxruntime as ort
from pathlib import Path
from rar.runtime.errors import OutOfMemoryError
from rar.runtime.session import OnnxSession
logging.basicConfig(format="%(message)s", stream=sys.stdout)
arena = ort.OrtArenaCfg({"max_mem": int(sys.argv[2]), "arena_extend_strategy": 1, "initial_chunk_size_bytes": 4096})
memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
ort.create_and_register_allocator(memory, arena)
pixels = np.random.default_rng(0).normal(size=(int(sys.argv[3]), 3, 32, 32)).astype(np.float32)
expected = OnnxSession(Path(sys.argv[1]), threads=1).run({"pixel_values": pixels})["image_embeds"]
session = OnnxSession(Path(sys.argv[1]), threads=1, options={"session.use_env_allocators": "1"})
try:
    found = session.run({"pixel_values": pixels})["image_embeds"]
    print("close", np.abs(found - expected).max() < 1e-5)
except OutOfMemoryError as error:
    print("OutOfMemoryError:", error)
"""


@pytest.fixture(scope="module")
def graph(tiny_bundle: Path) -> Path:
    return Bundle.open(tiny_bundle).graph("clip", "visual.onnx")


def test_runs_by_the_graph_s_own_names(graph: Path) -> None:
    session = OnnxSession(graph, "cpu")
    assert session.provider == "cpu"
    for batch in (1, 3):
        outputs = session.run({"pixel_values": np.zeros((batch, 3, 32, 32), np.float32)})
        assert {name: output.shape for name, output in outputs.items()} == {"image_embeds": (batch, 32)}


def test_only_the_named_outputs_are_fetched(graph: Path) -> None:
    session = OnnxSession(graph, "cpu")
    pixels = np.zeros((1, 3, 32, 32), np.float32)
    assert list(session.outputs) == ["image_embeds"]
    assert list(session.run({"pixel_values": pixels}, ["image_embeds"])) == ["image_embeds"]
    with pytest.raises(BundleError, match=r"visual\.onnx: ONNX Runtime cannot run it .*image_features"):
        session.run({"pixel_values": pixels}, ["image_features"])


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_threads_do_not_change_the_answer(graph: Path, threads: int | None) -> None:
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    expected = OnnxSession(graph, "cpu").run({"pixel_values": pixels})["image_embeds"]
    found = OnnxSession(graph, "cpu", threads).run({"pixel_values": pixels})["image_embeds"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_device_that_is_not_there(graph: Path, provider: str) -> None:
    if PROVIDERS[provider] in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime offers {provider}")
    with pytest.raises(ProviderError, match=rf"provider '{provider}' cannot run visual\.onnx.*offers .*CPU"):
        OnnxSession(graph, provider)


@pytest.mark.parametrize("provider", ["", "CPU", "gpu", "auto", "CPUExecutionProvider"])
def test_an_unknown_provider(graph: Path, provider: str) -> None:
    with pytest.raises(InputError, match="is unknown; choose cpu, cuda, tensorrt"):
        OnnxSession(graph, provider)


def test_outputs_are_written_where_the_caller_says(graph: Path) -> None:
    session = OnnxSession(graph, "cpu")
    pixels = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    expected = session.run({"pixel_values": pixels})["image_embeds"]
    target = Host().zeros((5, 32), np.float32)
    assert session.run({"pixel_values": of_array(pixels)}, into={"image_embeds": target.rows(1, 4)}) == {}
    assert np.array_equal(to_array(target)[1:4], expected)
    assert not to_array(target)[[0, 4]].any()
    mixed = session.run({"pixel_values": of_array(pixels[1:])}, ["image_embeds"])["image_embeds"]
    np.testing.assert_allclose(mixed, expected[1:], atol=1e-6)


def test_a_place_of_another_shape_is_refused(graph: Path) -> None:
    session = OnnxSession(graph, "cpu")
    pixels = np.zeros((3, 3, 32, 32), np.float32)
    with pytest.raises(BundleError, match="ONNX Runtime cannot run it"):
        session.run({"pixel_values": pixels}, into={"image_embeds": Host().empty((2, 32), np.float32)})


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (10**9, "close True"),
        (500_000, "visual.onnx: no memory for a batch of 32 .* running it in halves close True"),
        (200_000, "OutOfMemoryError: visual.onnx: the device.s memory holds neither a batch of 32 nor one of 16"),
    ],
)
def test_a_batch_that_memory_does_not_hold_is_halved_once(graph: Path, limit: int, said: str) -> None:
    command = [sys.executable, "-c", _SMALL_ARENA, str(graph), str(limit), "32"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(said, " ".join(done.stdout.split())), done.stdout


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x01", bytes(1000)])
def test_what_is_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"a\.onnx: ONNX Runtime cannot load it"):
        OnnxSession(tmp_path / "a.onnx")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"a\.onnx"):
        OnnxSession(tmp_path / "a.onnx")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(graph: Path, tmp_path: Path, share: float) -> None:
    content = graph.read_bytes()
    (tmp_path / "visual.onnx").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BundleError, match=r"visual\.onnx"):
        OnnxSession(tmp_path / "visual.onnx", "cpu")
