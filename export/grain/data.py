"""Training pictures with their texts, and batches of them in the network's form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rar.runtime.encoder.tokenizer import Tokenizer
from rar.runtime.errors import ImageError, InputError
from rar.runtime.picture.load import Pixels, load_image
from rar.runtime.picture.preprocess import Preprocess

from .annotations import Annotation
from .config import MEAN, STD, GrainConfig

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """One picture and its texts.

    Attributes:
        pixels: uint8 [H, W, 3].
        caption: The caption of the whole picture.
        boxes: float32 [n, 4], x0, y0, x1, y1 in pixels; n may be 0.
        descriptions: The description of each box.
    """

    pixels: Pixels
    caption: str
    boxes: Floats
    descriptions: Sequence[str]


class Examples(Protocol):
    """A training set or a held-out one."""

    @property
    def left_out(self) -> Counter[str]:
        """The counts of flaws found so far."""
        ...

    def __len__(self) -> int: ...

    def __call__(self, places: Sequence[int]) -> list[Example]:
        """The example at a position; the same position always gives the same example."""
        ...


class AnnotatedPictures:
    """Examples from picture files, decoded at each access.

    Args:
        lines: The annotations.
        boxes: How many of a picture's boxes are kept, by falling score.
    """

    def __init__(self, lines: Sequence[Annotation], boxes: int) -> None:
        self._lines, self._boxes = lines, boxes
        self.left_out: Counter[str] = Counter()
        self._seen: set[tuple[str, int]] = set()

    def __len__(self) -> int:
        return len(self._lines)

    def __call__(self, places: Sequence[int]) -> list[Example]:
        """See `Examples`. An unreadable picture is replaced by the next readable one.

        Raises:
            InputError: No picture can be read.
        """
        return [self._example(place) for place in places]

    def _example(self, place: int) -> Example:
        for step in range(len(self._lines)):
            number = (place + step) % len(self._lines)
            line = self._lines[number]
            try:
                pixels = load_image(line.path)
            except ImageError:
                self._note("pictures that cannot be read", number)
                continue
            regions = sorted(line.regions, key=lambda region: -region.score)[: self._boxes]
            boxes = np.array([region.box for region in regions], np.float32).reshape(-1, 4)
            boxes, inside = clip_boxes(boxes, *pixels.shape[1::-1])
            if not inside.all():
                self._note("boxes outside their picture", number, int((~inside).sum()))
            kept = [region.description for region, stays in zip(regions, inside.tolist(), strict=True) if stays]
            return Example(pixels, line.caption, boxes, kept)
        raise InputError("none of the annotated pictures can be read; check the paths in the annotation file")

    def _note(self, flaw: str, number: int, count: int = 1) -> None:
        """Counts a flaw at the first access of its line."""
        if (flaw, number) not in self._seen:
            self._seen.add((flaw, number))
            self.left_out[flaw] += count


def clip_boxes(boxes: Floats, width: int, height: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The boxes clipped to the picture, and which of them are not empty: float32 [m, 4], bool [n]."""
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    inside = np.asarray((clipped[:, 2:] > clipped[:, :2]).all(1))
    return clipped[inside], inside


@dataclass(frozen=True)
class Batch:
    """A batch in the network's form.

    Attributes:
        pixels: float32 [N, 3, S, S], normalised.
        ids: int64 [N + U, L], the N captions and U distinct descriptions, cut to the longest text.
        boxes: For each picture float32 [n, 4]: centre, width and height as shares of the picture.
        meanings: int64 [sum n], the description of each box.
    """

    pixels: Floats
    ids: Ints
    boxes: Sequence[Floats]
    meanings: Ints


class Collator:
    """Makes batches from examples.

    Attributes:
        preprocess: The picture preparation: squashed to a square, as in the released code.
        tokenizer: CLIP's tokenizer.
    """

    def __init__(self, config: GrainConfig, tokenizer: Tokenizer, threads: int | None = None) -> None:
        self.preprocess = preprocess(config, threads)
        self.tokenizer = tokenizer

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Makes one batch of the examples."""
        captions = [example.caption for example in examples]
        described = [text for example in examples for text in example.descriptions]
        distinct = list(dict.fromkeys(described))
        place = {text: number for number, text in enumerate(distinct)}
        return Batch(
            self.preprocess([example.pixels for example in examples]),
            self.tokenize([*captions, *distinct]),
            [centres(example.boxes, *example.pixels.shape[1::-1]) for example in examples],
            np.array([place[text] for text in described], np.int64),
        )

    def tokenize(self, texts: Sequence[str]) -> Ints:
        """int64 [N, L], cut to the longest text: tokens before the end token do not see those after it."""
        ids = self.tokenizer(list(texts))
        return np.asarray(ids[:, : int(ids.argmax(1).max()) + 1] if len(texts) else ids)


def centres(boxes: Floats, width: int, height: int) -> Floats:
    """float32 [n, 4], x0, y0, x1, y1 in pixels -> centre, width and height in shares of the picture."""
    shares = boxes / np.array([width, height, width, height], np.float32)
    low, high = shares[:, :2], shares[:, 2:]
    return np.concatenate([(low + high) / 2, high - low], 1).astype(np.float32)


def preprocess(config: GrainConfig, threads: int | None = None) -> Preprocess:
    """The picture preparation of a model of this shape."""
    return Preprocess(size=config.image, mean=MEAN, std=STD, filter="bicubic", fit="squash", threads=threads)


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, each prepared while the previous one is in use."""
    with ThreadPoolExecutor(1, thread_name_prefix="rar-batch") as worker:
        pending = worker.submit(next, batches, None)
        while (batch := pending.result()) is not None:
            pending = worker.submit(next, batches, None)
            yield batch
