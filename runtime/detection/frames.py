"""Prepares pictures with boxes for the encoder: decodes ahead, cuts regions, packs batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np

from ..batch import Batch, timed
from ..errors import ImageError, InputError
from ..picture.boxes import Blur, Boxes, Edges, Growth, box_array, box_problems, grown, pixel_boxes
from ..picture.budget import decoded_bytes
from ..picture.given import Given, decode, own
from ..picture.load import Decoded, Pixels, Reading
from ..picture.preprocess import Preprocess
from ..stream.intake import Intake, Pace, Taken
from .measured import as_seen

# The bare box. On grocery scenes with the starter's encoder no other setting gained more than chance
# (docs/detection.md).
GROW: Growth = 1.0
BLUR: Blur | float | None = None

# Pictures that are decoded ahead of the current one and held in memory.
AHEAD = 4
# Longest side of a region drawn for a ranker: no supported encoder takes more.
_LARGEST = 1024


@dataclass(frozen=True)
class Frame:
    """A picture and its detected boxes.

    Attributes:
        image: As for `Recognizer.recognize`.
        boxes: [M, 4] numbers: x0, y0, x1, y1 in pixels, edges at x1 and y1 outside.
        scores: The detector's confidence in each box, 0 to 1; None if unknown.
        measured: Width and height of the picture that the boxes were measured in, where that may be stored turned, or
            have another size; the boxes are brought to the picture as it stands upright. None where they are its own.
    """

    image: Given
    boxes: Boxes
    scores: Sequence[float] | None = None
    measured: tuple[int, int] | None = None

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

    def checked(self) -> Frame:
        """Itself, after `check`."""
        self.check()
        return self

    def own(self, reading: Reading) -> Frame:
        """A copy that nobody else can change, after `check`."""
        self.check()
        scores = None if self.scores is None else tuple(self.scores)
        image: Any = own(self.image, reading)  # or an error
        return Frame(image, np.array(box_array(self.boxes)), scores, self.measured)


@dataclass(frozen=True)
class OpenFrame:
    """A frame whose boxes are being answered: its place in the source, its boxes and the detector's scores of them."""

    place: int
    boxes: int
    scores: Sequence[float] | None


@dataclass(frozen=True)
class RegionOptions:
    """How far around a box the encoder looks, and whether the surroundings are blurred; see `Preprocess.regions`."""

    grow: Growth
    blur: Blur | float | None
    square: bool


@dataclass(frozen=True)
class Cutter:
    """How regions become the encoder's input.

    Attributes:
        preprocess: The encoder's.
        options: How a box's surroundings are shown.
        decoders: Decode the pictures.
        reading: How large pictures may be, and what is done with cut ones.
        drawn: Whether a region's pixels are drawn as the encoder sees them, for a ranker; else they are the bare box.
    """

    preprocess: Preprocess
    options: RegionOptions
    decoders: ThreadPoolExecutor
    reading: Reading
    drawn: bool


def pack(
    frames: Intake[Frame], room: int, pace: Pace, cutter: Cutter, opened: Callable[[OpenFrame], None]
) -> Iterator[Batch]:
    """The regions of all frames in order, in batches; boxes of one picture may fall into two batches.

    Args:
        frames: May be endless.
        room: Frames that are decoded ahead.
        pace: Regions per batch, and how long a batch waits for more.
        cutter: How regions are made.
        opened: Is told of each frame before the batch that it ends in.

    Yields:
        Batches, and for a live source empty ones after frames without boxes. If a box or its picture cannot be used, an
        error takes the place of the pixels.

    Raises:
        InputError: A setting of the surroundings is out of range.
    """
    ahead: deque[tuple[Taken[Frame], int, Future[tuple[Decoded | ImageError, float]]]] = deque()
    filling = _Filling(cutter, pace.most)
    failed: BaseException | None = None
    while True:
        seen = 0
        # What is there is decoded ahead. Where nothing is, a frame is waited for, as long as the batch may wait.
        for _ in range(room - len(ahead)):
            if failed is not None or sum(size for _, size, _ in ahead) > cutter.reading.batch_bytes:
                break
            until = 0.0 if ahead or seen else filling.due(pace.wait)
            try:
                taken = frames.take(1, wait=0, until=until)
            except BaseException as error:  # raised below, after what came before
                taken, failed = [], error
            if not taken:
                break
            (one,) = taken
            seen += 1
            frame, count = one.item, one.item.check()
            opened(OpenFrame(one.place, count, frame.scores))
            if count:
                decoding = cutter.decoders.submit(_decode, frame.image, cutter.reading)
                ahead.append((one, decoded_bytes(frame.image), decoding))
        if ahead:
            one, _, decoding = ahead.popleft()
            decoded, seconds = decoding.result()
            filling.timings["decode"] = filling.timings.get("decode", 0.0) + seconds
            decoded, boxes = _placed(one.item, decoded)
            done = 0
            while done < len(boxes):
                done += filling.put(decoded, boxes[done:], done, one.since)
                if filling.full:
                    yield filling.batch()
                    filling = _Filling(cutter, pace.most)
        elif seen:
            if filling.empty and pace.wait is not None:
                yield filling.batch()  # no answer must wait for the next frame with boxes
                filling = _Filling(cutter, pace.most)  # the empty batch keeps its lists
        else:
            if not filling.empty:
                yield filling.batch()
                filling = _Filling(cutter, pace.most)
            if failed is not None:
                raise failed
            if frames.over:
                return


def _placed(frame: Frame, decoded: Decoded | ImageError) -> tuple[Decoded | ImageError, Boxes]:
    """The boxes as they lie in the picture that is seen, or why they cannot be brought there."""
    boxes = box_array(frame.boxes)
    if frame.measured is None or isinstance(decoded, ImageError):
        return decoded, boxes
    height, width = decoded.pixels.shape[:2]
    try:
        return decoded, as_seen(boxes, frame.measured, (width, height), decoded.orientation)
    except ImageError as error:
        return ImageError(f"{_named(frame.image)}: {error}"), boxes


def _named(source: Given) -> str:
    return os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else "picture"


def draw(frame: Pixels, box: Edges, options: RegionOptions, threads: int) -> Pixels:
    """One region as a picture: uint8 [h, w, 3], in its own shape and at most 1,024 pixels long; with alpha [h, w, 4].

    Args:
        frame: uint8 [H, W, 3], or [H, W, 4] with alpha.
        box: In whole pixels, inside the frame.
        options: How the surroundings are shown.
        threads: Threads of the preprocessor.
    """
    height, width, channels = frame.shape
    if channels == 4:  # the ranker's model puts it over a colour of its own
        alpha = np.repeat(frame[:, :, 3:], 3, axis=2)
        colours, opacity = (draw(part, box, options, threads) for part in (frame[:, :, :3], alpha))
        return np.dstack([colours, opacity[:, :, :1]])
    shape = drawn_size(grown(box, options.grow, width, height, options.square))
    side = max(shape)
    # A small enough region is padded and not resized, so each pixel keeps its value.
    padded = _painter(side, threads).regions(
        frame, [box], options.grow, options.blur, square=options.square, fit="pad"
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
    """A batch under construction: it takes regions until it is full."""

    def __init__(self, cutter: Cutter, size: int) -> None:
        self.timings: dict[str, float] = {}
        self._preprocess = cutter.preprocess
        self._options = cutter.options
        self._size = size
        self._drawn = cutter.drawn
        self._limit = cutter.reading.batch_bytes
        self._held = 0
        self._since: float | None = None
        self._began = perf_counter()
        self._tensor = np.empty((size, 3, self._preprocess.size, self._preprocess.size), np.float32)
        self._good = 0
        self._pixels: list[Pixels | ImageError] = []
        self._around: list[Edges] = []
        self._truncated: list[bool] = []

    @property
    def full(self) -> bool:
        return len(self._pixels) == self._size or self._held > self._limit

    @property
    def empty(self) -> bool:
        return not self._pixels

    def due(self, wait: float | None) -> float | None:
        """When the batch must go, by `time.monotonic`, if its first frame waits so many seconds; None for never."""
        return None if wait is None or self._since is None else self._since + wait

    def put(self, decoded: Decoded | ImageError, boxes: Boxes, first: int, since: float) -> int:
        """Adds as many boxes of a frame as fit, starting at box `first`; returns how many. The frame came `since`."""
        if self._since is None:
            self._since, self._began = since, perf_counter()
        boxes = boxes[: self._size - len(self._pixels)]
        self._truncated += [isinstance(decoded, Decoded) and decoded.truncated] * len(boxes)
        if isinstance(decoded, ImageError):
            self._pixels += [decoded] * len(boxes)
            self._around += [(0, 0, 0, 0)] * len(boxes)
            return len(boxes)
        frame = decoded.pixels
        self._held += 0 if self._drawn else frame.nbytes  # its regions are views of it
        height, width, _ = frame.shape
        problems = box_problems(boxes, width, height)
        with timed(self.timings, "preprocess"):
            sharp = pixel_boxes(
                [box for box, problem in zip(boxes, problems, strict=True) if problem is None], width, height
            )
            if sharp:
                look = self._options
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
        tensor = self._tensor[: self._good]
        return Batch(self._pixels, tensor, self.timings, self._began, around=self._around, truncated=self._truncated)

    def _add(self, frame: Pixels, box: Edges) -> None:
        x0, y0, x1, y1 = box
        look = self._options
        drawn = draw(frame, box, look, self._preprocess.threads) if self._drawn else frame[y0:y1, x0:x1]
        self._pixels.append(drawn)
        height, width, _ = frame.shape
        self._around.append(grown(box, look.grow, width, height, look.square))


def _decode(image: Given, reading: Reading) -> tuple[Decoded | ImageError, float]:
    start = perf_counter()
    return decode(image, reading), perf_counter() - start
