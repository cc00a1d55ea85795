"""A graph runs on the device that was asked for, or not at all."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from rar.runtime import Bundle, BundleError, InputError, ProviderError
from rar.runtime.session import PROVIDERS, OnnxSession


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


def test_auto_falls_back_to_what_is_there_and_says_so(graph: Path) -> None:
    session = OnnxSession(graph, "auto")
    assert PROVIDERS[session.provider] in onnxruntime.get_available_providers()


@pytest.mark.parametrize("provider", ["", "CPU", "gpu", "CPUExecutionProvider"])
def test_an_unknown_provider(graph: Path, provider: str) -> None:
    with pytest.raises(InputError, match="is unknown; choose auto, cpu, cuda, tensorrt"):
        OnnxSession(graph, provider)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x01", bytes(1000)])
@pytest.mark.parametrize("provider", ["cpu", "auto"])
def test_what_is_no_graph(tmp_path: Path, content: bytes, provider: str) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"a\.onnx: ONNX Runtime cannot load it"):
        OnnxSession(tmp_path / "a.onnx", provider)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"a\.onnx"):
        OnnxSession(tmp_path / "a.onnx")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(graph: Path, tmp_path: Path, share: float) -> None:
    content = graph.read_bytes()
    (tmp_path / "visual.onnx").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BundleError, match=r"visual\.onnx"):
        OnnxSession(tmp_path / "visual.onnx", "cpu")
