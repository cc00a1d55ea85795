"""RAR's detection (arXiv 2403.13805): classifies the boxes of data sets, for COCO results or `supervision`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..loop import Gate, Unknown
from ..picture.boxes import Blur, Growth
from ..rank.protocol import Rank
from ..recognizer import Recognizer
from ..result import Result
from .annotations import Annotations, Box, Id, match_labels
from .confidence import FUSION
from .frames import BLUR, GROW, Frame
from .live import to_detections

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Detected:
    """What was recognised in the boxes of one picture.

    Attributes:
        picture: Its id.
        path: The file that was read.
        boxes: The boxes that were given.
        results: One result per box.
        categories: Id of each class's category.
    """

    picture: Id
    path: Path
    boxes: Sequence[Box]
    results: Sequence[Result]
    categories: Mapping[str, Id]

    def to_coco(self) -> list[dict[str, Any]]:
        """Results in the form of COCO's and LVIS' evaluation; a box without an answer gets no result."""
        return [
            {
                "image_id": self.picture,
                "category_id": self.categories[label],
                "bbox": list(box.bbox),
                "score": score,
            }
            for box, label, score in self._answers()
        ]

    def to_detections(self) -> supervision.Detections:
        """As `supervision.Detections`: `class_id` is the category's id, `data["class_name"]` the memory's class.

        Where ids are texts, `class_id` is the category's place among `categories`.

        Raises:
            InputError: supervision is not installed.
        """
        numbers = {
            label: key if isinstance(key, int) else place for place, (label, key) in enumerate(self.categories.items())
        }
        return to_detections([box.edges for box in self.boxes], self.results, numbers)

    def _answers(self) -> Iterator[tuple[Box, str, float]]:
        for box, result in zip(self.boxes, self.results, strict=True):
            if result.label is not None and result.score is not None:
                yield box, result.label, result.score


def detect(
    recognizer: Recognizer,
    annotations: Annotations,
    folder: Path,
    k: int | None = None,
    rank: Rank | None = None,
    *,
    fusion: float = FUSION,
    grow: Growth = GROW,
    blur: Blur | float | None = BLUR,
    square: bool = False,
    gate: Gate = "off",
    unknown: Unknown = "answer",
) -> Iterator[Detected]:
    """Recognises the boxes in bounded memory; only classes that match a category are searched.

    Annotated boxes count as proposals of score 1, so each detection's score is p^(1 - fusion).

    Args:
        recognizer: Its memory must have classes with the categories' names.
        annotations: Pictures, categories and boxes.
        folder: Where the pictures' paths begin; or where all files lie, whatever folders the paths name.
        k: Candidates a box, None for 5; where there are fewer classes, all of them.
        rank: As for `Recognizer.recognize`.
        fusion: As for `Recognizer.recognize_regions`.
        grow: As there.
        blur: As there.
        square: As there.
        gate: As there.
        unknown: As there; a box that is refused gets no result.

    Yields:
        The pictures that have boxes, in the file's order. If a picture cannot be read, all its results are errors.

    Raises:
        InputError: No category matches a class, or a setting is out of range.
    """
    labels = recognizer.memory.labels
    categories, unmatched = match_labels(annotations.categories, labels)
    if not categories:
        raise InputError(
            f"{annotations.file}: none of its {len(unmatched)} categories, such as {unmatched[0]!r}, is a class of the "
            "memory; build one of these names with `rar-export memory --classes`"
        )
    todo = [
        (key, _locate(folder, annotations.pictures[key]), boxes) for key, boxes in annotations.boxes.items() if boxes
    ]
    frames = (
        Frame(
            path,
            [box.edges for box in boxes],
            [1.0 if box.score is None else box.score for box in boxes],
            measured=annotations.sizes.get(key),
        )
        for key, path, boxes in todo
    )
    results = recognizer.stream_regions(
        frames,
        k=None if k is None else min(k, len(categories)),
        rank=rank,
        fusion=fusion,
        grow=grow,
        blur=blur,
        square=square,
        gate=gate,
        unknown=unknown,
        labels=list(categories) if len(categories) < len(labels) else None,
    )
    return (
        Detected(key, path, boxes, named, categories) for (key, path, boxes), named in zip(todo, results, strict=True)
    )


def _locate(folder: Path, path: PurePosixPath) -> Path:
    whole = folder / path
    # A link to nothing is there: its own error says more than that of the bare name. Not `Path.exists`, which raises
    # on a name that is too long for the file system.
    return whole if os.path.lexists(whole) or len(path.parts) == 1 else folder / path.name
