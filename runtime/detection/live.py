"""Boxes that were recognised, as supervision has them: for its trackers, zones and annotators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..picture.boxes import Boxes, box_array
from ..result import Result

if TYPE_CHECKING:
    import supervision


def to_detections(
    boxes: Boxes, results: Sequence[Result], class_ids: Mapping[str, int] | None = None
) -> supervision.Detections:
    """A picture's boxes with their results as `supervision.Detections`; a box without an answer is left out.

    Example:
        >>> numbers = {label: number for number, label in enumerate(rec.memory.labels)}
        >>> detections = to_detections(boxes, rec.recognize_regions(frame, boxes), numbers)

    Args:
        boxes: As for `Recognizer.recognize_regions`.
        results: One a box, as it gave them. Their scores become the `confidence`.
        class_ids: Number of each class, for the `class_id`; None leaves it away. `data["class_name"]` is the class.

    Raises:
        InputError: supervision is not installed, there is not one result a box, or a class has no number.
    """
    try:
        import supervision
    except ImportError as error:
        raise InputError("to_detections needs supervision; install it with `pip install supervision`") from error
    edges = box_array(boxes)
    if len(edges) != len(results):
        raise InputError(f"{len(results)} results for {len(edges)} boxes; give one a box")
    answered = [place for place, result in enumerate(results) if result.label is not None]
    labels = [str(results[place].label) for place in answered]
    if class_ids is not None and (unknown := set(labels) - set(class_ids)):
        raise InputError(f"the class {sorted(unknown)[0]!r} has no number; give one to each class of the memory")
    return supervision.Detections(
        xyxy=edges[answered].astype(np.float32).reshape(-1, 4),
        confidence=np.array([results[place].score for place in answered], np.float32),
        class_id=None if class_ids is None else np.array([class_ids[label] for label in labels], int),
        data={"class_name": np.array(labels, str)},
    )
