"""Pictures with boxes on their way to the encoder: decoded ahead, cut into regions, packed into batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from time import perf_counter

import numpy as np

from .batch import Batch, timed
from .errors import ImageError, InputError
from .images import Pixels, Source, load_image
from .preprocess import Preprocess
from .regions import Blur, Boxes, Edges, Growth, box_array, box_problems, grown, pixel_boxes

# The bare box: on scenes of groceries with the starter's encoder nothing gained more than chance (docs/detection.md).
GROW: Growth = 1.0
BLUR: Blur | float | None = None

# Pictures decoded ahead of the one that is cut, and held meanwhile.
_AHEAD = 4
# Longest side of a region that is drawn for a ranker: no encoder here takes more.
_LARGEST = 1024


@dataclass(frozen=True)
class Frame:
    """A picture and the boxes of what was detected in it.

    Attributes:
        image: As for `Recognizer.recognize`.
        boxes: [M, 4] numbers: x0, y0, x1, y1 in pixels, edges at x1 and y1 outside.
        scores: The detector's confidence in each box, 0 to 1; None where it gives none.
    """

    image: Source
    boxes: Boxes
    scores: Sequence[float] | None = None

    def check(self) -> int:
        """The number of boxes.

        Raises:
            InputError: The boxes are not [M, 4] numbers, or the scores are not one a box, 0 to 1.
        """
        count = len(box_array(self.boxes))
        if self.scores is not None:
            if len(self.scores) != count:
                raise InputError(f"{len(self.scores)} scores for {count} boxes; give one a box")
            for score in self.scores:
                if not 0 <= score <= 1:
                    raise InputError(f"a proposal's score is {score!r}; give 0 to 1")
        return count


@dataclass(frozen=True)
class Surround:
    """How far around a box the encoder looks, and how it sees what is there; see `Preprocess.regions`."""

    grow: Growth
    blur: Blur | float | None
    square: bool


def pack(
    frames: Iterator[Frame],
    preprocess: Preprocess,
    surround: Surround,
    size: int,
    decoders: ThreadPoolExecutor,
    *,
    drawn: bool,
) -> Iterator[Batch]:
    """The regions of all frames in order, in batches of `size`; boxes of one picture may fall into two batches.

    Args:
        frames: May be endless; four are decoded ahead.
        preprocess: The encoder's.
        surround: What of a box's surroundings is seen.
        size: Regions a batch.
        decoders: Decode the pictures.
        drawn: Whether a region's pixels are drawn as the encoder sees them, for a ranker; else they are the bare box.

    Yields:
        Batches; a box that cannot be used, or whose picture cannot, has an error in place of pixels.

    Raises:
        InputError: A setting of `surround` is out of range.
    """
    filling = _Filling(preprocess, surround, size, drawn)
    for frame, pixels, seconds in _decoded(frames, decoders):
        filling.timings["decode"] = filling.timings.get("decode", 0.0) + seconds
        boxes, done = box_array(frame.boxes), 0
        while done < len(boxes):
            done += filling.put(pixels, boxes[done:], first=done)
            if filling.full:
                yield filling.batch()
                filling = _Filling(preprocess, surround, size, drawn)
    if not filling.empty:
        yield filling.batch()


def draw(frame: Pixels, box: Edges, surround: Surround, threads: int) -> Pixels:
    """One region as a picture: uint8 [h, w, 3], in its own shape and at most 1,024 pixels long.

    Args:
        frame: uint8 [H, W, 3].
        box: In whole pixels, inside the frame.
        surround: What of the surroundings is seen.
        threads: Of the preprocessor.
    """
    height, width, _ = frame.shape
    shape = drawn_size(grown(box, surround.grow, width, height, surround.square, clip=True))
    side = max(shape)
    # Padded and not resized where the region is small enough: each value is the pixel's own.
    padded = _painter(side, threads).regions(
        frame, [box], surround.grow, surround.blur, square=surround.square, fit="pad"
    )[0]
    columns, rows = (slice((side - length) // 2, (side - length) // 2 + length) for length in shape)
    return np.ascontiguousarray(np.rint(padded[:, rows, columns]).astype(np.uint8).transpose(1, 2, 0))


def drawn_size(around: Edges) -> tuple[int, int]:
    """Width and height of a region as it is drawn."""
    width, height = around[2] - around[0], around[3] - around[1]
    ratio = max(1.0, max(width, height) / _LARGEST)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


@lru_cache(64)
def _painter(side: int, threads: int) -> Preprocess:
    return Preprocess(side, (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255), fit="pad", threads=threads)


class _Filling:
    """A batch that takes in regions until it is full."""

    def __init__(self, preprocess: Preprocess, surround: Surround, size: int, drawn: bool) -> None:
        self.timings: dict[str, float] = {}
        self._preprocess = preprocess
        self._surround = surround
        self._size = size
        self._drawn = drawn
        self._tensor = np.empty((size, 3, preprocess.size, preprocess.size), np.float32)
        self._good = 0
        self._pixels: list[Pixels | ImageError] = []
        self._around: list[Edges] = []

    @property
    def full(self) -> bool:
        return len(self._pixels) == self._size

    @property
    def empty(self) -> bool:
        return not self._pixels

    def put(self, frame: Pixels | ImageError, boxes: Boxes, first: int) -> int:
        """Takes in as many boxes of a frame as there is room for, and says how many; `first` is their first's place."""
        boxes = boxes[: self._size - len(self._pixels)]
        if isinstance(frame, ImageError):
            self._pixels += [frame] * len(boxes)
            self._around += [(0, 0, 0, 0)] * len(boxes)
            return len(boxes)
        height, width, _ = frame.shape
        problems = box_problems(boxes, width, height)
        with timed(self.timings, "preprocess"):
            sharp = pixel_boxes(
                [box for box, problem in zip(boxes, problems, strict=True) if problem is None], width, height
            )
            if sharp:
                look = self._surround
                out = self._tensor[self._good : self._good + len(sharp)]
                self._preprocess.regions(frame, sharp, look.grow, look.blur, square=look.square, out=out)
                self._good += len(sharp)
            usable = iter(sharp)
            for place, problem in enumerate(problems, first):
                if problem is None:
                    self._add(frame, next(usable))
                else:
                    self._pixels.append(ImageError(f"region {place}: {problem}"))
                    self._around.append((0, 0, 0, 0))
        return len(boxes)

    def batch(self) -> Batch:
        return Batch(self._pixels, self._tensor[: self._good], self.timings, around=self._around)

    def _add(self, frame: Pixels, box: Edges) -> None:
        x0, y0, x1, y1 = box
        look = self._surround
        drawn = draw(frame, box, look, self._preprocess.threads) if self._drawn else frame[y0:y1, x0:x1]
        self._pixels.append(drawn)
        height, width, _ = frame.shape
        self._around.append(grown(box, look.grow, width, height, look.square, clip=True))


def _decoded(
    frames: Iterator[Frame], decoders: ThreadPoolExecutor
) -> Iterator[tuple[Frame, Pixels | ImageError, float]]:
    """Each frame, its pixels or why there are none, and the seconds that took."""
    ahead: deque[tuple[Frame, Future[tuple[Pixels | ImageError, float]]]] = deque()

    def submit(count: int) -> None:
        ahead.extend((frame, decoders.submit(_decode, frame.image)) for frame in islice(frames, count))

    submit(_AHEAD)
    while ahead:
        frame, pixels = ahead.popleft()
        submit(1)
        yield (frame, *pixels.result())


def _decode(source: Source) -> tuple[Pixels | ImageError, float]:
    start = perf_counter()
    try:
        pixels: Pixels | ImageError = load_image(source)
    except ImageError as error:
        pixels = error
    return pixels, perf_counter() - start
