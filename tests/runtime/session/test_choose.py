"""What runs a bundle's graphs is chosen in a known order, said with reasons, and never anything else in silence."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rar.runtime import Bundle, InputError, ProviderError, Recognizer
from rar.runtime.bundle.change import stage
from rar.runtime.encoder.clip import Clip
from rar.runtime.session import ORDER, OnnxSession, Sessions
from rar.runtime.session.tensorrt.stored import EngineKey, EngineRecord, Profile, Target, find, graph_sha256, info

GRAPH = "clip/visual.onnx"
TARGET = Target("tensorrt_rtx", "1.7.1.116", "sm89")
PROFILE = Profile("batch", {"pixel_values": ((1, 3, 32, 32), (2, 3, 32, 32), (4, 3, 32, 32))})


pytestmark = pytest.mark.usefixtures("no_gpu")


@pytest.fixture
def bundle(tiny_bundle: Path, writable: Callable[[Path], Path]) -> Path:
    return writable(tiny_bundle)


def add_engine(root: Path) -> EngineRecord:
    """An entry as `rar-export engine` writes it; the engine itself is never loaded here."""
    key = EngineKey(graph_sha256(Bundle.open(root), "clip", "visual.onnx"), TARGET, "fp32", (PROFILE,))
    record = EngineRecord(GRAPH, key)
    with stage(root, TARGET.component) as staging:
        (staging.folder / record.file).write_bytes(b"engine")
        staging.info.update(info(TARGET, [record]))
    return record


def test_auto_says_once_what_runs_and_why_nothing_faster_does(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = Sessions(Bundle.open(tiny_bundle))
    with caplog.at_level(logging.INFO, "rar"):
        assert sessions.open("clip", "visual.onnx").provider == "cpu"
        assert sessions.open("clip", "text.onnx").provider == "cpu"
    assert sessions.running == {GRAPH: "cpu", "clip/text.onnx": "cpu"}
    (line,) = caplog.messages
    passed = re.fullmatch(rf"{GRAPH} runs on cpu; passed over: (.*)", line)
    assert passed is not None
    assert re.match(r"engine[a-z, -]* \(no NVIDIA driver", passed[1])
    assert all(re.search(rf"\b{provider}\b.* \(", passed[1]) for provider in ORDER[1:-1])


@pytest.mark.parametrize("provider", ORDER[:-1])
def test_what_was_asked_for_by_name_runs_or_nothing_does(tiny_bundle: Path, provider: str) -> None:
    with pytest.raises(ProviderError, match=r"no NVIDIA driver|has no .*ExecutionProvider"):
        Clip(Bundle.open(tiny_bundle), provider)


def test_unknown_providers_and_options(tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match="choose auto, engine, tensorrt, tensorrt-rtx, cuda, cpu, openvino"):
        Sessions(Bundle.open(tiny_bundle), "gpu")
    with pytest.raises(InputError, match="options for an unknown provider"):
        Sessions(Bundle.open(tiny_bundle), options={"gpu": {}})


def test_the_caller_s_options_reach_onnx_runtime(tiny_bundle: Path, names_bundle: Path) -> None:
    options = {"cpu": {"session.intra_op.allow_spinning": "0"}}
    session = Sessions(Bundle.open(tiny_bundle), "cpu", options=options).open("clip", "visual.onnx")
    assert isinstance(session, OnnxSession)
    settings = session._session.get_session_options()
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    opened = Recognizer.open(names_bundle, "cpu", options=options).clip.visual
    assert isinstance(opened, OnnxSession)
    assert opened._session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_sessions_of_another_bundle_tell_together_what_runs(tiny_bundle: Path, names_bundle: Path) -> None:
    sessions = Sessions(Bundle.open(tiny_bundle), "cpu")
    sessions.of(Bundle.open(names_bundle)).open("clip", "text.onnx")
    assert sessions.running == {"clip/text.onnx": "cpu"}


def test_a_second_session_is_on_the_first_one_s_provider_and_closed_with_it(tiny_bundle: Path) -> None:
    sessions = Sessions(Bundle.open(tiny_bundle))
    first = sessions.open("clip", "visual.onnx")
    second = sessions.beside("clip", "visual.onnx", first.provider, 1)
    assert (second is not first, second.provider, sessions.running) == (True, "cpu", {GRAPH: "cpu"})
    sessions.close()
    for ask in (lambda: second.run({}), lambda: sessions.beside("clip", "visual.onnx", "cpu", 1)):
        with pytest.raises(InputError, match="closed"):
            ask()


def test_an_engine_of_another_architecture_is_not_loaded(bundle: Path) -> None:
    add_engine(bundle)
    opened = Bundle.open(bundle)
    for other in (Target("tensorrt_rtx", "1.7.1.116", "sm120"), Target("tensorrt", "10.3.0", "sm87")):
        with pytest.raises(ProviderError, match=r"those there are for sm89 by tensorrt_rtx .*run nowhere else"):
            find(opened, GRAPH, other)


@pytest.mark.parametrize("provider", ["auto", "cpu"])
def test_graphs_are_compared_again_on_all_that_runs_them_here(bundle: Path, provider: str) -> None:
    sessions = Sessions(Bundle.open(bundle), provider)
    sessions.open("clip", "visual.onnx")
    (found,) = sessions.check("clip", "visual.onnx")
    assert (found.key.graph, found.key.place.provider) == (GRAPH, "cpu")
    assert found.passed
    assert found.measured.count == 2


def test_what_cannot_run_here_cannot_be_compared_by_name(bundle: Path) -> None:
    with pytest.raises(ProviderError, match=r"no NVIDIA driver|has no .*ExecutionProvider"):
        list(Sessions(Bundle.open(bundle), "cuda").check("clip", "visual.onnx"))
