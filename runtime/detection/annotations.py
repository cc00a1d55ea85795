"""Annotation files of detection data sets: COCO's, LVIS' and V3Det's, and lists of results.

All three share one JSON form: `images`, `categories` and `annotations`, with `bbox` as x, y, width, height in pixels.
LVIS v1 gives a picture's URL instead of its file name; the URL's last two parts are folder and file. Its categories
write spaces as underscores. A list of results, as detectors write it, holds `image_id`, `bbox` and `score`.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from ..errors import InputError
from ..picture.formats import LFS_POINTER, broken_link

# Why boxes are skipped; the user reads these words.
CROWD = "crowd regions"
NO_AREA = "boxes without an area"
NO_BOX = "boxes that are not four finite numbers"
NO_PICTURE = "boxes of pictures that the file does not list"
NO_CATEGORY = "boxes of categories that the file does not list"
TWICE = "annotations whose id stands there twice"

_LISTS = ("images", "annotations", "categories")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")

# COCO's ids are whole numbers, those of VisDrive and others texts.
Id: TypeAlias = int | str


@dataclass(frozen=True)
class Box:
    """A box of one picture.

    Attributes:
        bbox: x, y, width, height in pixels, as in the file.
        category_id: The true category; None for a proposal.
        score: The detector's confidence, 0 to 1; None for an annotation.
    """

    bbox: tuple[float, float, float, float]
    category_id: Id | None = None
    score: float | None = None

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 in pixels."""
        x, y, width, height = self.bbox
        return x, y, x + width, y + height


@dataclass(frozen=True)
class Annotations:
    """The content of an annotation file.

    Attributes:
        file: The file's path.
        pictures: Path of each picture by id, relative to the folder of pictures and inside it.
        categories: Name of each category by id.
        boxes: The boxes of each picture by its id, in the file's order; empty for a picture without boxes.
        skipped: How many boxes were skipped, by reason.
        sizes: Width and height of the picture that the boxes were measured in, by its id; of those that give them.
    """

    file: Path
    pictures: Mapping[Id, PurePosixPath]
    categories: Mapping[Id, str]
    boxes: Mapping[Id, Sequence[Box]]
    skipped: Counter[str]
    sizes: Mapping[Id, tuple[int, int]] = field(default_factory=dict)


def read_annotations(file: str | Path, proposals: str | Path | None = None) -> Annotations:
    """Reads an annotation file. A list of results, if given, replaces the file's boxes.

    Unusable boxes are skipped and counted in `skipped`: crowd regions, boxes without area or with values that are not
    numbers, boxes of unlisted pictures or categories, and annotations with a repeated id. The category of a proposal
    is ignored.

    Args:
        file: COCO's, LVIS' or V3Det's JSON.
        proposals: A JSON list of `image_id`, `bbox` and `score`.

    Raises:
        InputError: A file cannot be read, is cut off or has another form; it lists no picture or category, gives one id
            to two pictures or categories, or names a picture outside the folder; or a score is outside [0, 1].
    """
    content = read_json(Path(file))
    if isinstance(content, list):
        raise InputError(
            f"{file}: is a list, as detectors write results; give it with --proposals, beside the annotation file that "
            "names the pictures and categories"
        )
    if isinstance(content, dict) and "annotations" not in content:  # as in the files of test sets
        if proposals is None:
            raise InputError(f"{file}: has no annotations, as files of test sets; give a detector's with --proposals")
        content = {**content, "annotations": []}
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in _LISTS):
        raise InputError(
            f"{file}: must be a JSON object with the lists {', '.join(_LISTS)}, as COCO and LVIS have them"
        )
    images = list(_by_id(content["images"], f"{file}, images"))
    pictures = {key: _picture(row, f"{file}, images[{place}]") for place, key, row in images}
    categories = {
        key: _text(row, "name", f"{file}, categories[{place}]")
        for place, key, row in _by_id(content["categories"], f"{file}, categories")
    }
    if not pictures or not categories:
        raise InputError(f"{file}: lists no {'category' if pictures else 'picture'}; add what its boxes show and name")
    skipped: Counter[str] = Counter()
    boxes: dict[Id, list[Box]] = {key: [] for key in pictures}
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
    sizes = {key: size for _, key, row in images if (size := _size(row)) is not None}
    return Annotations(Path(file), pictures, categories, boxes, skipped, sizes)


def match_labels(categories: Mapping[Id, str], labels: Iterable[str]) -> tuple[dict[str, Id], list[str]]:
    """Maps classes of a memory to categories.

    A category matches the class of exactly its name. Otherwise it matches the class of its name with spaces, because
    LVIS writes spaces as underscores. Synonyms do not count: several categories may share one. If two categories match
    one class, the first in the file gets it.

    Returns:
        Class -> category id, and the names of the categories without a class.
    """
    known = set(labels)
    matched: dict[str, Id] = {}
    for key, name in sorted(categories.items(), key=lambda item: item[1] not in known):
        label = name if name in known else name.replace("_", " ")
        if label in known:
            matched.setdefault(label, key)
    taken = set(matched.values())
    return matched, [name for key, name in categories.items() if key not in taken]


def read_json(file: Path) -> Any:
    """A file's JSON.

    Raises:
        InputError: The file cannot be read, or is cut off.
    """
    content = b""
    try:
        content = file.read_bytes()
        return json.loads(content)
    except OSError as error:
        if file.is_symlink() and not file.exists():
            raise InputError(f"{file}: {broken_link(file)}; download the file again") from error
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        if content.startswith(LFS_POINTER):
            raise InputError(f"{file}: a pointer of Git LFS and not the file itself; run `git lfs pull`") from error
        raise InputError(f"{file}: not JSON, or not whole ({error}); write or download it again") from error


def _by_id(rows: Sequence[Any], where: str) -> Iterator[tuple[int, Id, Mapping[str, Any]]]:
    """Place, id and row of each picture or category."""
    seen = set()
    for place, row in enumerate(rows):
        if not isinstance(row, dict) or not _is_id(row.get("id")):
            raise InputError(f"{where}[{place}]: must be an object with an id, a whole number or a text")
        if row["id"] in seen:
            raise InputError(f"{where}[{place}]: the id {row['id']} stands there twice; give each its own")
        seen.add(row["id"])
        yield place, row["id"], row


def _picture(row: Mapping[str, Any], where: str) -> PurePosixPath:
    """The picture's path, checked to be relative and inside its folder: the file is untrusted."""
    if "file_name" in row or "coco_url" not in row:
        text = _text(row, "file_name", where)
        if _DRIVE.match(text):
            raise InputError(f"{where}: {text!r} is a path of one Windows machine; name a file inside the folder")
        path = PurePosixPath(text.replace("\\", "/"))
    else:
        url = _text(row, "coco_url", where)
        try:
            path = PurePosixPath(*PurePosixPath(urlsplit(url).path).parts[-2:])
        except ValueError as error:
            raise InputError(f"{where}: {url!r} is no address ({error}); correct it") from error
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in str(path):
        raise InputError(f"{where}: {str(path)!r} leaves the folder of the pictures; name a file inside it")
    return path


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: needs a {key} that is not blank")
    return value


def usable_rows(
    rows: Sequence[Any], where: str, pictures: Container[Id], categories: Container[Id], skipped: Counter[str]
) -> Iterator[Mapping[str, Any]]:
    """The annotations of listed pictures and categories, crowd regions included.

    Args:
        rows: As in the file.
        where: What they are called in messages.
        pictures: Ids of the listed pictures.
        categories: Ids of the listed categories.
        skipped: Counts the other annotations by reason.

    Raises:
        InputError: A row is not an object with an `image_id`.
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


def _proposed(rows: Any, where: str, skipped: Counter[str]) -> Iterator[tuple[Id, Box]]:
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
        raise InputError(f"{where}: must be an object with an image_id, a whole number or a text")


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


def _size(row: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height that the file gives a picture; None without both."""
    try:
        width, height = (int(_number(row[key])) for key in ("width", "height"))
    except (KeyError, ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _is_id(value: object) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool) and value != ""
