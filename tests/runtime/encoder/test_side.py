"""Embedding by parts side by side gives what one run gives."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from rar.runtime import Bundle, InputError, Recognizer
from rar.runtime.encoder import clip as clip_module
from rar.runtime.encoder.clip import Clip


@pytest.fixture
def clip(tiny_bundle: Path) -> Clip:
    return Clip(Bundle.open(tiny_bundle), "cpu", threads=3)


@pytest.mark.parametrize("count", [3, 6, 13, 16])
def test_parts_give_the_batchs_own_outputs_in_order(clip: Clip, count: int) -> None:
    batch = np.stack([clip.preprocess([np.full((9, 9, 3), 7 * i, np.uint8)])[0] for i in range(count)])
    begun = clip.begin(batch)
    assert begun is not None
    np.testing.assert_allclose(begun()[0].embeddings, clip.see(batch).embeddings, atol=1e-6)


def test_several_batches_may_be_begun_before_the_first_is_taken(clip: Clip) -> None:
    batches = [clip.preprocess([np.full((9, 9, 3), 20 * i + j, np.uint8) for j in range(6)]) for i in range(5)]
    begun = [clip.begin(batch) for batch in batches]
    for one, batch in zip(reversed(begun), reversed(batches), strict=True):
        assert one is not None
        np.testing.assert_allclose(one()[0].embeddings, clip.see(batch).embeddings, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 4, 11])
def test_too_few_pictures_for_even_parts_are_left_to_one_run(clip: Clip, count: int) -> None:
    assert clip.begin(clip.preprocess([np.zeros((9, 9, 3), np.uint8)] * count)) is None


def test_one_thread_has_nothing_beside_it(tiny_bundle: Path) -> None:
    clip = Clip(Bundle.open(tiny_bundle), "cpu", threads=1)
    assert clip.begin(clip.preprocess([np.zeros((9, 9, 3), np.uint8)] * 12)) is None


def test_a_large_encoder_is_not_held_twice(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_module, "_TWICE", 1000)
    assert clip.begin(clip.preprocess([np.zeros((9, 9, 3), np.uint8)] * 12)) is None


def test_a_bundle_that_is_gone_is_embedded_by_one_run(
    clip: Clip, tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "gone"
    shutil.copytree(tiny_bundle, root)
    clip = Clip(Bundle.open(root), "cpu", threads=2)
    shutil.rmtree(root)
    batch = clip.preprocess([np.zeros((9, 9, 3), np.uint8)] * 12)
    with caplog.at_level("INFO", "rar"):
        assert [clip.begin(batch), clip.begin(batch)] == [None, None]
    assert len(caplog.records) == 1
    assert "not embedded side by side" in caplog.text
    assert clip.see(batch).embeddings.shape[0] == 12


def test_what_was_begun_before_a_close_is_still_given(clip: Clip) -> None:
    batch = clip.preprocess([np.zeros((9, 9, 3), np.uint8)] * 12)
    begun = [clip.begin(batch) for _ in range(4)]
    clip.close()
    for one in begun:
        assert one is not None
        seen, seconds = one()
        assert seen.embeddings.shape[0] == 12
        assert seconds > 0
    with pytest.raises(RuntimeError, match="shutdown"):
        clip.begin(batch)


def test_what_a_run_raises_is_raised_where_it_is_waited_for(clip: Clip) -> None:
    begun = clip.begin(np.zeros((6, 3, 5, 5), np.float32))
    assert begun is not None
    with pytest.raises(Exception, match=r"visual\.onnx"):
        begun()


def test_a_stream_that_is_left_with_a_batch_begun_closes_at_once(
    pictures_bundle: Path, class_pictures: list[Path]
) -> None:
    rec = Recognizer.open(pictures_bundle, "cpu", threads=2)
    results = rec.stream(class_pictures * 20, batch_size=4, k=4)
    next(results)
    start = time.monotonic()
    rec.close()
    with pytest.raises(InputError, match="closed"):
        list(results)
    assert time.monotonic() - start < 30, "it does not answer the pictures that are left"


@pytest.mark.parametrize("batch_size", [2, 5, 16])
def test_a_stream_answers_as_single_calls_do(
    pictures_bundle: Path, class_pictures: list[Path], batch_size: int
) -> None:
    with Recognizer.open(pictures_bundle, "cpu", threads=2) as rec:
        streamed = list(rec.stream([*class_pictures, "missing.jpg", *class_pictures], batch_size=batch_size, k=4))
        single = [rec.recognize(path, k=4)[0] for path in class_pictures]
    good = [result for result in streamed if result.error is None]
    assert len(streamed) == len(good) + 1
    for one, other in zip(good, single * 2, strict=True):
        assert one.label == other.label
        np.testing.assert_allclose(one.score, other.score, atol=1e-4)
