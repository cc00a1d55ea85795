"""What runs a bundle's graphs is chosen in a known order, said with reasons, and never anything else in silence."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rar.runtime import Bundle, InputError, ProviderError, Recognizer
from rar.runtime import engines as engines_of
from rar.runtime.bundle import MANIFEST, stage
from rar.runtime.clip import Clip
from rar.runtime.engine_checks import Check, save_checks
from rar.runtime.engines import EngineKey, EngineRecord, Parity, Profile, Target, find, graph_sha256, info, set_parity
from rar.runtime.session import ORDER, OnnxSession, Sessions
from rar.runtime.session.choose import accept
from rar.runtime.session.gpu import find_gpu

GRAPH = "clip/visual.onnx"
TARGET = Target("tensorrt_rtx", "1.7.1.116", "sm89")
PROFILE = Profile("batch", {"pixel_values": ((1, 3, 32, 32), (2, 3, 32, 32), (4, 3, 32, 32))})


@pytest.fixture(scope="module", autouse=True)
def _no_gpu() -> None:
    try:
        found = find_gpu()
    except ProviderError:
        return
    pytest.skip(f"this is about machines without a GPU, and here is a {found.name}")


@pytest.fixture
def bundle(tiny_bundle: Path, writable: Callable[[Path], Path]) -> Path:
    return writable(tiny_bundle)


def pixels(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(2, 3, 32, 32)).astype(np.float32)


def visual(bundle: Path) -> OnnxSession:
    return OnnxSession(Bundle.open(bundle).graph("clip", "visual.onnx"))


def add_engine(root: Path, check: Check, precision: str = "fp32") -> EngineRecord:
    """An entry as `rar-export engine` writes it; the engine itself is never loaded here."""
    key = EngineKey(graph_sha256(Bundle.open(root), "clip", "visual.onnx"), TARGET, precision, (PROFILE,))
    record = EngineRecord(GRAPH, key)
    with stage(root, TARGET.component) as staging:
        (staging.folder / record.file).write_bytes(b"engine")
        save_checks(staging.folder / record.check_file, [check])
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
    with pytest.raises(InputError, match="choose auto, engine, tensorrt, tensorrt-rtx, cuda, cpu"):
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


class TestFirstComparison:
    """The session that is compared is a real one: ONNX Runtime's, of the same graph or of another."""

    def test_an_engine_that_agrees_is_accepted_and_that_is_stored(self, bundle: Path) -> None:
        session = visual(bundle)
        record = add_engine(bundle, Check("batch", {"pixel_values": pixels()}, session.run({"pixel_values": pixels()})))
        after = accept(Bundle.open(bundle), record, session, "GPU X")
        stored = find(after, GRAPH, TARGET)
        assert stored.accepted
        assert stored.parity is not None
        assert stored.parity.device == "GPU X"
        assert find(Bundle.open(bundle), GRAPH, TARGET) == stored

    def test_an_engine_that_differs_is_rejected_and_stays_so(self, bundle: Path) -> None:
        outputs = visual(bundle).run({"pixel_values": pixels(1)})
        record = add_engine(bundle, Check("batch", {"pixel_values": pixels()}, outputs))
        session = visual(bundle)
        with pytest.raises(ProviderError, match=r"is rejected: on GPU X its worst cosine .*limit 0\.9999; build it"):
            accept(Bundle.open(bundle), record, session, "GPU X")
        with pytest.raises(ProviderError, match="was rejected on GPU X"):
            find(Bundle.open(bundle), GRAPH, TARGET)

    def test_an_engine_that_gives_nan_is_rejected(self, bundle: Path) -> None:
        good = Check("batch", {"pixel_values": pixels()}, visual(bundle).run({"pixel_values": pixels()}))
        record = add_engine(bundle, Check("batch", {"pixel_values": pixels() * np.nan}, good.outputs), "int8")
        with pytest.raises(ProviderError, match="worst cosine to ONNX Runtime is nan"):
            accept(Bundle.open(bundle), record, visual(bundle), "GPU X")
        with pytest.raises(ProviderError, match="was rejected"):
            find(Bundle.open(bundle), GRAPH, TARGET)

    def test_a_bundle_that_cannot_be_written_is_compared_each_time(
        self, bundle: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        session = visual(bundle)
        record = add_engine(bundle, Check("batch", {"pixel_values": pixels()}, session.run({"pixel_values": pixels()})))
        opened = Bundle.open(bundle)
        (bundle / MANIFEST).rename(bundle / "gone.json")
        with caplog.at_level(logging.INFO, "rar"):
            assert accept(opened, record, session, "GPU X") is opened
        assert "cannot be stored" in caplog.text
        assert "was compared on GPU X" in caplog.text

    def test_the_worst_of_several_runs_counts(self, bundle: Path) -> None:
        session = visual(bundle)
        key = EngineKey(graph_sha256(Bundle.open(bundle), "clip", "visual.onnx"), TARGET, "fp32", (PROFILE,))
        record = EngineRecord(GRAPH, key)
        good = session.run({"pixel_values": pixels()})
        with stage(bundle, TARGET.component) as staging:
            (staging.folder / record.file).write_bytes(b"engine")
            runs = [
                Check("batch", {"pixel_values": pixels()}, good),
                Check("other", {"pixel_values": pixels(1)}, good),
            ]
            save_checks(staging.folder / record.check_file, runs)
            staging.info.update(info(TARGET, [record]))
        with pytest.raises(ProviderError, match="is rejected"):
            accept(Bundle.open(bundle), record, session, "GPU X")


def test_an_engine_of_another_architecture_is_not_loaded(bundle: Path) -> None:
    session = visual(bundle)
    add_engine(bundle, Check("batch", {"pixel_values": pixels()}, session.run({"pixel_values": pixels()})))
    opened = Bundle.open(bundle)
    for other in (Target("tensorrt_rtx", "1.7.1.116", "sm120"), Target("tensorrt", "10.3.0", "sm87")):
        with pytest.raises(ProviderError, match=r"those there are for sm89 by tensorrt_rtx .*run nowhere else"):
            find(opened, GRAPH, other)


def test_accepted_once_is_accepted_on_every_gpu_of_the_architecture(bundle: Path, tmp_path: Path) -> None:
    session = visual(bundle)
    record = add_engine(bundle, Check("batch", {"pixel_values": pixels()}, session.run({"pixel_values": pixels()})))
    set_parity(Bundle.open(bundle), record, Parity(1.0, "GPU X"))
    copied = shutil.copytree(bundle, tmp_path / "copied")
    assert engines_of.find(Bundle.open(copied), GRAPH, TARGET).accepted
