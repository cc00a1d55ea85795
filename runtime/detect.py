"""RAR's detection (arXiv 2403.13805): classes for the boxes of whole data sets, as COCO results or for supervision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from .annotations import Annotations, Box, match_labels
from .confidence import FUSION
from .errors import InputError
from .frames import BLUR, GROW, Frame
from .rank import Rank
from .recognizer import Gate, Recognizer
from .regions import Blur, Growth
from .result import Result

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Detected:
    """What was recognised in the boxes of one picture.

    Attributes:
        picture: Its id.
        path: The file that was read.
        boxes: As they were given.
        results: One a box.
        categories: Id of each class's category.
    """

    picture: int
    path: Path
    boxes: Sequence[Box]
    results: Sequence[Result]
    categories: Mapping[str, int]

    def to_coco(self) -> list[dict[str, Any]]:
        """Results as COCO's and LVIS' evaluation read them; a box without an answer has none."""
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

        Raises:
            InputError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise InputError("to_detections needs supervision; install it with `pip install supervision`") from error
        answers = list(self._answers())
        return supervision.Detections(
            xyxy=np.array([box.edges for box, _, _ in answers], np.float32).reshape(-1, 4),
            confidence=np.array([score for _, _, score in answers], np.float32),
            class_id=np.array([self.categories[label] for _, label, _ in answers], int),
            data={"class_name": np.array([label for _, label, _ in answers], str)},
        )

    def _answers(self) -> Iterator[tuple[Box, str, float]]:
        for box, result in zip(self.boxes, self.results, strict=True):
            if result.label is not None and result.score is not None:
                yield box, result.label, result.score


def detect(
    recognizer: Recognizer,
    annotations: Annotations,
    folder: Path,
    k: int = 5,
    rank: Rank | None = None,
    *,
    fusion: float = FUSION,
    grow: Growth = GROW,
    blur: Blur | float | None = BLUR,
    square: bool = False,
    gate: Gate = "off",
) -> Iterator[Detected]:
    """Recognises what is in the boxes, in bounded memory; only classes that stand for a category are looked for.

    Annotated boxes count as proposals that are sure: each score is then p^(1 - fusion).

    Args:
        recognizer: Whose memory has classes of the categories' names.
        annotations: Pictures, categories and boxes.
        folder: Where the pictures' paths begin; or where all files lie, whatever folders the paths name.
        k: Candidates a box; where there are fewer classes, all of them.
        rank: As for `Recognizer.recognize`.
        fusion: As for `Recognizer.recognize_regions`, as are the others.
        grow: As there.
        blur: As there.
        square: As there.
        gate: As there.

    Yields:
        The pictures that have boxes, in the file's order; where one cannot be read, all its results are errors.

    Raises:
        InputError: No category has a class, or a setting is out of range.
    """
    labels = recognizer.memory.labels
    categories, unknown = match_labels(annotations.categories, labels)
    if not categories:
        raise InputError(
            f"{annotations.file}: none of its {len(unknown)} categories, such as {unknown[0]!r}, is a class of the "
            "memory; build one of these names with `rar-export memory --classes`"
        )
    todo = [
        (key, _locate(folder, annotations.pictures[key]), boxes) for key, boxes in annotations.boxes.items() if boxes
    ]
    frames = (
        Frame(path, [box.edges for box in boxes], [1.0 if box.score is None else box.score for box in boxes])
        for _, path, boxes in todo
    )
    results = recognizer.stream_regions(
        frames,
        min(k, len(categories)),
        rank,
        fusion=fusion,
        grow=grow,
        blur=blur,
        square=square,
        gate=gate,
        labels=list(categories) if len(categories) < len(labels) else None,
    )
    return (Detected(key, path, boxes, own, categories) for (key, path, boxes), own in zip(todo, results, strict=True))


def _locate(folder: Path, path: PurePosixPath) -> Path:
    whole = folder / path
    return whole if whole.exists() or len(path.parts) == 1 else folder / path.name
