"""Annotation files of detection data sets: COCO's, LVIS' and V3Det's, and lists of results.

The three are one JSON form, `images`, `categories` and `annotations` with `bbox` as x, y, width, height in pixels. LVIS
v1 names no file of a picture but its address, of which the last two parts are folder and file; its categories write
spaces as underscores. A list of results, as detectors write them, holds `image_id`, `bbox` and `score`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from .errors import InputError

# Boxes that are passed over, by reason; the words are what the user reads.
CROWD = "crowd regions"
NO_AREA = "boxes without an area"
NO_BOX = "boxes that are not four finite numbers"
NO_PICTURE = "boxes of pictures that the file does not list"
NO_CATEGORY = "boxes of categories that the file does not list"
TWICE = "annotations whose id stands there twice"

_LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class Box:
    """A box of one picture.

    Attributes:
        bbox: x, y, width, height in pixels, as in the file.
        category_id: The true category; None for a proposal.
        score: The detector's confidence, 0 to 1; None for an annotation.
    """

    bbox: tuple[float, float, float, float]
    category_id: int | None = None
    score: float | None = None

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 in pixels."""
        x, y, width, height = self.bbox
        return x, y, x + width, y + height


@dataclass(frozen=True)
class Annotations:
    """What a file says of its pictures.

    Attributes:
        file: Where it was read from.
        pictures: Path of each picture by id, relative to the folder of pictures and inside it.
        categories: Name of each category by id.
        boxes: Those of each picture by its id, in the file's order; empty where it has none.
        skipped: How many boxes were passed over, by reason.
    """

    file: Path
    pictures: Mapping[int, PurePosixPath]
    categories: Mapping[int, str]
    boxes: Mapping[int, Sequence[Box]]
    skipped: Counter[str]


def read_annotations(file: str | Path, proposals: str | Path | None = None) -> Annotations:
    """Reads an annotation file, and instead of its boxes those of a list of results, if one is given.

    Boxes that cannot be used are passed over and counted in `skipped`: crowd regions, boxes without an area or with
    values that are no numbers, boxes of pictures or categories that are not listed, and annotations whose id was there
    before. Of proposals the category does not count.

    Args:
        file: COCO's, LVIS' or V3Det's JSON.
        proposals: A JSON list of `image_id`, `bbox` and `score`.

    Raises:
        InputError: A file cannot be read, is not whole, has another form, lists no picture or category, gives an id to
            two pictures or categories, or names a picture outside the folder; or a score is not 0 to 1.
    """
    content = read_json(Path(file))
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in _LISTS):
        raise InputError(
            f"{file}: must be a JSON object with the lists {', '.join(_LISTS)}, as COCO and LVIS have them"
        )
    pictures = {
        key: _picture(row, f"{file}, images[{place}]")
        for place, key, row in _by_id(content["images"], f"{file}, images")
    }
    categories = {
        key: _text(row, "name", f"{file}, categories[{place}]")
        for place, key, row in _by_id(content["categories"], f"{file}, categories")
    }
    if not pictures or not categories:
        raise InputError(f"{file}: lists no {'category' if pictures else 'picture'}")
    skipped: Counter[str] = Counter()
    boxes: dict[int, list[Box]] = {key: [] for key in pictures}
    if proposals is None:
        for row in usable_rows(content["annotations"], f"{file}, annotations", pictures, categories, skipped):
            if row.get("iscrowd"):
                skipped[CROWD] += 1
            elif (bbox := _bbox(row, skipped)) is not None:
                boxes[row["image_id"]].append(Box(bbox, row["category_id"]))
    else:
        for picture, box in _proposed(read_json(Path(proposals)), str(proposals), skipped):
            if picture in boxes:
                boxes[picture].append(box)
            else:
                skipped[NO_PICTURE] += 1
    return Annotations(Path(file), pictures, categories, boxes, skipped)


def match_labels(categories: Mapping[int, str], labels: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """Which class of a memory stands for which category.

    A category is the class of exactly its name; or else, because LVIS writes spaces as underscores, the class of its
    name with spaces. Synonyms do not count: several categories may share one. Of two categories of one class the first
    in the file has it.

    Returns:
        Class -> category id, and the names of the categories that no class stands for.
    """
    known = set(labels)
    matched: dict[str, int] = {}
    for key, name in sorted(categories.items(), key=lambda item: item[1] not in known):
        label = name if name in known else name.replace("_", " ")
        if label in known:
            matched.setdefault(label, key)
    taken = set(matched.values())
    return matched, [name for key, name in categories.items() if key not in taken]


def read_json(file: Path) -> Any:
    """A file's JSON.

    Raises:
        InputError: It cannot be read, or is not whole.
    """
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON, or not whole ({error}); write or download it again") from error


def _by_id(rows: Sequence[Any], where: str) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """Place, id and row of each picture or category."""
    seen = set()
    for place, row in enumerate(rows):
        if not isinstance(row, dict) or not _is_id(row.get("id")):
            raise InputError(f"{where}[{place}]: must be an object with an integer id")
        if row["id"] in seen:
            raise InputError(f"{where}[{place}]: the id {row['id']} stands there twice; give each its own")
        seen.add(row["id"])
        yield place, row["id"], row


def _picture(row: Mapping[str, Any], where: str) -> PurePosixPath:
    """The picture's path, which neither leaves its folder nor is absolute: the file comes from strangers."""
    if "file_name" in row or "coco_url" not in row:
        path = PurePosixPath(_text(row, "file_name", where))
    else:
        path = PurePosixPath(*PurePosixPath(urlsplit(_text(row, "coco_url", where)).path).parts[-2:])
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in str(path):
        raise InputError(f"{where}: {str(path)!r} leaves the folder of the pictures; name a file inside it")
    return path


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: needs a {key} that is not blank")
    return value


def usable_rows(
    rows: Sequence[Any], where: str, pictures: Container[int], categories: Container[int], skipped: Counter[str]
) -> Iterator[Mapping[str, Any]]:
    """The annotations that say something of a listed picture and category, crowd regions among them.

    Args:
        rows: As in the file.
        where: What they are called in messages.
        pictures: Ids of those that are listed.
        categories: Likewise.
        skipped: Counts the others by reason.

    Raises:
        InputError: A row is no object with an integer `image_id`.
    """
    seen = set()
    for place, row in enumerate(rows):
        _check_row(row, f"{where}[{place}]")
        key = row.get("id")
        if key is not None and repr(key) in seen:
            skipped[TWICE] += 1
            continue
        seen.add(repr(key))
        if row["image_id"] not in pictures:
            skipped[NO_PICTURE] += 1
        elif not _is_id(row.get("category_id")) or row["category_id"] not in categories:
            skipped[NO_CATEGORY] += 1
        elif _bbox(row, skipped) is not None:
            yield row


def _proposed(rows: Any, where: str, skipped: Counter[str]) -> Iterator[tuple[int, Box]]:
    if not isinstance(rows, list):
        raise InputError(f"{where}: must be a JSON list of image_id, bbox and score, as detectors write results")
    for place, row in enumerate(rows):
        _check_row(row, f"{where}[{place}]")
        score = row.get("score")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
            raise InputError(f"{where}[{place}]: the score is {score!r}; give 0 to 1")
        if (bbox := _bbox(row, skipped)) is not None:
            yield row["image_id"], Box(bbox, score=float(score))


def _check_row(row: Any, where: str) -> None:
    if not isinstance(row, dict) or not _is_id(row.get("image_id")):
        raise InputError(f"{where}: must be an object with an integer image_id")


def _bbox(row: Mapping[str, Any], skipped: Counter[str]) -> tuple[float, float, float, float] | None:
    try:
        x, y, width, height = map(_number, row["bbox"])
    except (KeyError, TypeError, ValueError, OverflowError):
        skipped[NO_BOX] += 1
        return None
    if width <= 0 or height <= 0:
        skipped[NO_AREA] += 1
        return None
    return x, y, width, height


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
