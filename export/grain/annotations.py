"""GRAIN's training data: a JSONL of pictures, captions, and boxes with descriptions.

    {"path": "a.jpg", "caption": "...", "boxes": [{"box": [x0, y0, x1, y1], "description": "...", "score": 0.5}]}

`path` is relative to the file, boxes are in pixels of the picture as it is shown (EXIF orientation applied). `score`
may be left out, and so may `boxes`: such a picture trains the caption contrast alone.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rar.runtime.errors import InputError

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class DescribedBox:
    """A box, x0, y0, x1, y1 in pixels, its description and the description's score."""

    box: Box
    description: str
    score: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """The box as the file stores it."""
        return {"box": list(self.box), "description": self.description, "score": self.score}


@dataclass(frozen=True)
class Annotation:
    """One line of the file."""

    path: Path
    caption: str
    regions: tuple[DescribedBox, ...] = ()


@dataclass(frozen=True)
class Annotations:
    """The usable lines, and the number of flaws in the others.

    Attributes:
        lines: The usable lines.
        left_out: For each kind of flaw the number of lines, boxes or descriptions that have it.
    """

    lines: list[Annotation]
    left_out: Mapping[str, int]


def read_annotations(file: str | Path) -> Annotations:
    """Reads a JSONL of annotations.

    Lines without a caption or whose picture is missing are left out, and so are boxes without a description; boxes
    that lie outside their picture are found when it is decoded.

    Raises:
        InputError: The file cannot be read, a line has another form, or no line is usable.
    """
    file = Path(file)
    lines: list[Annotation] = []
    flaws: Counter[str] = Counter()
    try:
        with file.open(encoding="utf-8-sig") as text:
            for number, line in enumerate(text, 1):
                if not line.strip():
                    continue
                annotation = _parse(line, f"{file}, line {number}", file.parent, flaws)
                if not annotation.caption:
                    flaws["lines without a caption"] += 1
                elif not os.path.isfile(annotation.path):  # also false for an impossible name
                    flaws["lines whose picture is missing"] += 1
                else:
                    flaws["lines without a box"] += not annotation.regions
                    lines.append(annotation)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: cannot be read, it is not UTF-8 text ({error}); save it as UTF-8") from error
    counted = {flaw: count for flaw, count in sorted(flaws.items()) if count}
    if not lines:
        raise InputError(
            f"{file}: no line can be used ({describe(counted) or 'it is empty'})"
            "; write them as `rar-export grain annotate` does"
        )
    return Annotations(lines, counted)


def describe(left_out: Mapping[str, int]) -> str:
    """The counts as a phrase: `3 lines without a box, 1 ...`."""
    return ", ".join(f"{count} {flaw}" for flaw, count in left_out.items())


def _parse(line: str, where: str, folder: Path, flaws: Counter[str]) -> Annotation:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); correct the line") from error
    if not isinstance(row, dict) or not isinstance(row.get("path"), str) or not row["path"].strip():
        raise InputError(f"{where}: must be an object with path, caption and boxes")
    caption, boxes = row.get("caption"), row.get("boxes")
    if not isinstance(caption, (str, type(None))) or not isinstance(boxes, (list, type(None))):
        raise InputError(f"{where}: caption must be a text and boxes a list")
    regions = [_region(box, where) for box in boxes or ()]
    described = tuple(region for region in regions if region.description)
    flaws["boxes without a description"] += len(regions) - len(described)
    return Annotation(folder / row["path"], " ".join((caption or "").split()), described)


def _region(row: Any, where: str) -> DescribedBox:
    try:
        x0, y0, x1, y1 = (float(value) for value in row["box"])
        description, score = row.get("description") or "", float(row.get("score", 1.0))
        if not isinstance(description, str) or not all(map(math.isfinite, (x0, y0, x1, y1, score))):
            raise ValueError("a description is no text, or a number is not finite")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{where}: a box must be {{box: [x0, y0, x1, y1], description: text, score: number}} ({error!r})"
        ) from error
    return DescribedBox((x0, y0, x1, y1), " ".join(description.split()), score)
