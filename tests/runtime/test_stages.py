"""What a call says of its stages: to whoever asks, of this thread alone, each second once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from rar.runtime import Recognizer
from rar.runtime.stages import in_stage, note, recorded


def test_a_stage_is_without_those_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 4.0, 8.0, 16.0])
    monkeypatch.setattr("rar.runtime.stages.perf_counter", lambda: next(clock))
    with recorded() as seconds:
        with in_stage("search"), in_stage("rescore"):  # from 0 to 4; from 1 to 3
            pass
        with in_stage("search"):  # from 8 to 16
            pass
    assert seconds == {"search": 1.0 + 1.0 + 8.0, "rescore": 2.0}


def test_a_stage_that_fails_is_closed() -> None:
    with recorded() as seconds:
        with pytest.raises(ValueError, match="broken"), in_stage("embed"):
            raise ValueError("broken")
        with in_stage("search"):
            pass
    assert list(seconds) == ["embed", "search"]


def test_nothing_is_kept_where_nobody_asks() -> None:
    with in_stage("embed"):
        note({"decode": 1.0})
    with recorded() as seconds:
        pass
    assert seconds == {}


def test_threads_do_not_see_each_other() -> None:
    def other() -> None:
        with in_stage("search"):
            time.sleep(0.001)

    with recorded() as seconds, in_stage("embed"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert list(seconds) == ["embed"]


def test_a_recorder_inside_another_takes_what_is_its_own() -> None:
    with recorded() as outer:
        note({"decode": 1.0})
        with recorded() as inner:
            note({"decode": 2.0})
        note({"decode": 4.0})
    assert (outer, inner) == ({"decode": 5.0}, {"decode": 2.0})


def test_recognition_has_all_of_its_stages(pictures_bundle: Path, class_pictures: list[Path]) -> None:
    recognizer = Recognizer.open(pictures_bundle, "cpu")
    with recorded() as seconds:
        recognizer.recognize(class_pictures[:2], k=3, rank="wca")
    expected = {"plan", "decode", "preprocess", "hand-over", "embed", "search", "gate", "rank", "fuse"}
    assert set(seconds) - {"rescore"} == expected  # so few entries may be searched one by one
    assert all(value >= 0 for value in seconds.values())
