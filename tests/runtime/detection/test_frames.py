"""Regions of frames in batches."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rar.runtime import Recognizer
from rar.runtime.batch import Batch
from rar.runtime.detection.frames import Cutter, Frame, RegionOptions, pack
from rar.runtime.picture.load import Reading
from rar.runtime.stream.intake import Pace, Taken


class Script:
    """A live source that has one frame at a time."""

    dropped, closed = 0, False

    def __init__(self, frames: list[Frame]) -> None:
        self._left = [Taken(frame, place, 0.0) for place, frame in enumerate(frames)]

    def take(self, most: int, wait: float | None = None, until: float | None = None) -> list[Taken[Frame]]:
        return [self._left.pop(0) for _ in range(min(most, len(self._left)))]

    @property
    def over(self) -> bool:
        return not self._left


@pytest.fixture
def cutter(pictures_bundle: Path) -> Iterator[Cutter]:
    with Recognizer.open(pictures_bundle, "cpu") as recognizer, ThreadPoolExecutor(1) as decoders:
        yield Cutter(recognizer.clip.preprocess, RegionOptions(1.0, None, False), decoders, Reading(), drawn=False)


def test_the_empty_batch_after_a_frame_without_boxes_stays_empty(cutter: Cutter) -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    frames = [Frame(picture, []), Frame(picture, [[0, 0, 30, 20], [10, 10, 30, 20]])]
    # Another thread may look at the first batch only after the second was begun.
    batches: list[Batch] = list(pack(Script(frames), 1, Pace(5, 0.001), cutter, lambda _: None))
    assert [len(batch.pixels) for batch in batches] == [0, 2]
    assert [len(batch.around) for batch in batches] == [0, 2]
