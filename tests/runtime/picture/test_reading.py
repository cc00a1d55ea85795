"""Limits and cut files in the whole loop: memory stays within the limit, and what is grey is marked."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rar.export.pictures.embed import embed_images
from rar.export.pictures.labelled import LabelledImage
from rar.runtime import Bundle, Frame, InputError, Reading, Recognizer, WcaOptions
from rar.runtime.encoder.clip import Clip
from rar.runtime.picture.budget import decoded_bytes, in_parts

SIDE, COUNT = 2000, 16
DECODED = 4 * SIDE * SIDE
WHOLE = COUNT * 3 * SIDE * SIDE


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small files of large pictures."""
    folder = tmp_path_factory.mktemp("large")
    paths = [folder / f"{number}.png" for number in range(COUNT)]
    for number, path in enumerate(paths):
        Image.new("RGB", (SIDE, SIDE), (number * 15, 80, 120)).save(path)
    assert sum(path.stat().st_size for path in paths) < WHOLE / 500
    return paths


@contextmanager
def held_less_than(size: float) -> Iterator[None]:
    """Of Python's own and NumPy's memory, which the decoded pictures are in."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


def opened(bundle: Path, **reading: int | bool) -> Recognizer:
    return Recognizer.open(bundle, "cpu", threads=2, wca=WcaOptions(crops=2), reading=Reading(**reading))


class TestBatches:
    @pytest.mark.parametrize("rank", ["none", "wca"])
    def test_large_pictures_are_answered_in_parts(self, pictures_bundle: Path, large: list[Path], rank: str) -> None:
        with opened(pictures_bundle) as recognizer:
            expected = recognizer.recognize(large[:2], rank=rank)
        with opened(pictures_bundle, batch_bytes=2 * DECODED) as recognizer, held_less_than(0.7 * WHOLE):
            results = list(recognizer.stream(large, rank=rank, batch_size=COUNT))
        assert [result.error for result in results] == [None] * COUNT
        assert [result.label for result in results[:2]] == [result.label for result in expected]

    def test_boxes_of_large_pictures_too(self, pictures_bundle: Path, large: list[Path]) -> None:
        frames = [Frame(path, [(0, 0, 30, 30)]) for path in large]
        with opened(pictures_bundle, batch_bytes=DECODED) as recognizer, held_less_than(0.7 * WHOLE):
            results = list(recognizer.stream_regions(frames, rank="none"))
        assert [len(of_frame) for of_frame in results] == [1] * COUNT

    def test_added_ones_too(self, pictures_bundle: Path, writable: Callable[[Path], Path], large: list[Path]) -> None:
        with opened(writable(pictures_bundle), batch_bytes=2 * DECODED) as recognizer, held_less_than(0.7 * WHOLE):
            recognizer.memory.add(large, "large")
        assert recognizer.memory.labels[-1] == "large"

    def test_and_those_of_a_build(self, pictures_bundle: Path, large: list[Path]) -> None:
        clip = Clip(Bundle.open(pictures_bundle), "cpu", 2)
        with held_less_than(0.7 * WHOLE):
            vectors = embed_images(
                clip, [LabelledImage(path, "large") for path in large], Reading(batch_bytes=2 * DECODED)
            )
        assert len(vectors) == COUNT

    def test_parts_keep_the_order_and_the_limit(self, large: list[Path]) -> None:
        small = np.zeros((10, 10, 3), np.uint8)
        sources = [large[0], small, large[1], b"no picture", large[2], small]
        parts = in_parts(sources, 2 * DECODED)
        assert [source for part in parts for source in part] == sources
        assert [sum(map(decoded_bytes, part)) <= 2 * DECODED for part in parts] == [True] * len(parts)
        assert all(len(part) == 1 for part in in_parts(sources, 1))


class TestSettings:
    def test_the_limit_of_pixels(self, pictures_bundle: Path, large: list[Path]) -> None:
        with opened(pictures_bundle, max_pixels=SIDE * SIDE - 1) as recognizer:
            (result,) = recognizer.recognize(large[0], rank="none")
            assert "2000x2000 is over the limit of 3999999" in str(result.error)
            ((boxed,),) = recognizer.stream_regions([Frame(large[0], [(0, 0, 9, 9)])], rank="none")
            assert "over the limit" in str(boxed.error)
            with pytest.raises(InputError, match="over the limit"):
                recognizer.memory.add(large[0], "large")

    def test_a_cut_jpeg_is_answered_and_marked_where_it_is_asked_for(
        self, pictures_bundle: Path, class_pictures: list[Path]
    ) -> None:
        whole = class_pictures[0].read_bytes()
        cut, end = whole[: len(whole) * 3 // 4], (40, 30)
        with opened(pictures_bundle) as recognizer:
            assert "damaged" in str(recognizer.recognize(cut, rank="none")[0].error)
        with opened(pictures_bundle, tolerant=True) as recognizer:
            results = recognizer.recognize([whole, cut, b"no picture", whole], rank="none")
            assert [result.truncated for result in results] == [False, True, False, False]
            assert results[1].label is not None
            frames = [Frame(whole, [(0, 0, *end)]), Frame(cut, [(0, 0, *end), (5, 5, *end)])]
            found = list(recognizer.stream_regions(frames, rank="none"))
            assert [[one.truncated for one in of_frame] for of_frame in found] == [[False], [True, True]]

    def test_a_transparent_picture_comes_to_the_rankers_with_its_alpha(self, pictures_bundle: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (60, 50, 4), dtype=np.uint8)
        image = Image.fromarray(pixels)
        with opened(pictures_bundle) as recognizer:
            (query,) = recognizer.queries([image])
            np.testing.assert_array_equal(query.pixels, pixels)  # type: ignore[union-attr]
            assert recognizer.recognize(image, rank="wca")[0].ranked_by == "wca"
            assert recognizer.recognize_regions(image, [(5, 6, 40, 50)], rank="wca")[0].ranked_by == "wca"
