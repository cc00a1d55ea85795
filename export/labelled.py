"""Labelled pictures, class names and descriptions from folders and files."""

from __future__ import annotations

import csv
import io
import json
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rar.runtime.errors import InputError
from rar.runtime.images import find_images

T = TypeVar("T")


@dataclass(frozen=True)
class LabelledImage:
    """One picture's path and class."""

    path: Path
    label: str


def read_images(source: str | Path) -> list[LabelledImage]:
    """Reads labelled pictures.

    Args:
        source: A folder with a sub-folder a class, or a `.csv` or `.jsonl` with `path` (relative to the file)
            and `label`.

    Returns:
        The pictures: of a folder sorted by class and name, of a file in its order.

    Raises:
        InputError: Nothing there, no picture, a class without pictures, a blank or missing field.
    """
    source = Path(source)
    try:
        mode = source.stat().st_mode
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: no such folder or file ({error}); check the path") from error
    if stat.S_ISDIR(mode):
        return _read_folder(source)
    if source.suffix.lower() not in (".csv", ".jsonl"):
        raise InputError(f"{source}: pictures come from a folder, a .csv or a .jsonl")
    rows = _read_csv(source) if source.suffix.lower() == ".csv" else _read_jsonl(source)
    images = []
    for line, row in rows:
        path, label = row.get("path"), row.get("label")
        if not isinstance(path, str) or not path.strip() or not isinstance(label, str) or not label.strip():
            raise InputError(f"{source}, line {line}: needs a path and a label, both not blank")
        images.append(LabelledImage(source.parent / path, label.strip()))
    if not images:
        raise InputError(f"{source}: lists no picture")
    return images


def read_classes(file: str | Path) -> list[str]:
    """Reads class names, one a line.

    Raises:
        InputError: No such file, no name, a blank line between names, or a name that stands twice.
    """
    names = read_text(Path(file)).rstrip().split("\n")
    return check_labels([name.strip() for name in names], str(file))


def read_descriptions(file: str | Path) -> dict[str, list[str]]:
    """Reads `{class: [sentences]}` from JSON.

    Raises:
        InputError: No such file, another form, or a blank class or sentence.
    """
    content = _read_lists(file, "class", "sentences")
    return {name: [" ".join(s.split()) for s in sentences] for name, sentences in content.items()}


def read_tags(file: str | Path) -> dict[str, list[str]]:
    """Reads `{tag: [classes]}` from JSON.

    Raises:
        InputError: No such file, another form, a blank tag or one without classes, or a class that stands twice.
    """
    content = _read_lists(file, "tag", "classes")
    for tag, names in content.items():
        check_labels(names, f"{file}, tag {tag!r}")
    return content


def check_labels(labels: list[str], source: str) -> list[str]:
    """Returns the labels if each is there once and none is blank.

    Raises:
        InputError: Naming the first that is not.
    """
    if not labels or labels == [""]:
        raise InputError(f"{source}: holds no class name")
    seen: set[str] = set()
    for position, label in enumerate(labels, 1):
        if not label.strip():
            raise InputError(f"{source}, entry {position}: the class name is blank")
        if label in seen:
            raise InputError(f"{source}, entry {position}: the class {label!r} stands there twice")
        seen.add(label)
    return labels


def few_shot(images: list[LabelledImage], shots: int, seed: int) -> list[LabelledImage]:
    """Draws `shots` pictures a class (all of a class that has fewer), in the given order.

    Raises:
        InputError: `shots` is below 1, or the seed below 0.
    """
    if shots < 1 or seed < 0:
        raise InputError(f"shots={shots}, seed={seed}; give shots from 1 and a seed from 0")
    by_class: dict[str, list[int]] = {}
    for position, image in enumerate(images):
        by_class.setdefault(image.label, []).append(position)
    chance = np.random.default_rng(seed)
    kept = [int(position) for positions in by_class.values() for position in chance.permutation(positions)[:shots]]
    return [images[position] for position in sorted(kept)]


def evenly(images: Sequence[T], count: int) -> list[T]:
    """At most `count` of them, evenly spread over their order, first and last among them."""
    return [images[i] for i in np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)]


def _read_folder(folder: Path) -> list[LabelledImage]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise InputError(f"{folder}: has no sub-folder; put each class's pictures into one of its own")
    return [LabelledImage(path, cls.name) for cls in classes for path in find_images(cls)]


def _read_csv(file: Path) -> list[tuple[int, dict[str, Any]]]:
    # A stream and not lines: a quoted field may hold a line break.
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""))
    rows = []
    try:
        for row in reader:
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num + 1}: not CSV ({error})") from error
    if not {"path", "label"} <= set(reader.fieldnames or ()):
        raise InputError(
            f"{file}: needs the columns path and label, has {', '.join(reader.fieldnames or ()) or 'none'}"
        )
    return rows


def _read_jsonl(file: Path) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for line, text in enumerate(read_text(file).split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}, line {line}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"{file}, line {line}: must be an object with path and label")
        rows.append((line, row))
    return rows


def _read_lists(file: str | Path, key: str, values: str) -> dict[str, list[str]]:
    form = f"{{{key}: [{values}]}}"
    try:
        content = json.loads(read_text(Path(file)), object_pairs_hook=_unique_pairs)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not the JSON of {form} ({error})") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f"{file}: must be a JSON object of {form} with at least one {key}")
    for name, texts in content.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise InputError(f"{file}: the {key} {name!r} must be a list of {values}, none blank")
    check_labels(list(content), str(file))
    return content


def read_text(file: Path) -> str:
    """A UTF-8 file's text, line ends as they are.

    Raises:
        InputError: The file cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: cannot be read, it is not UTF-8 text ({error})") from error


def _unique_pairs(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """JSON keeps the last of two equal keys in silence; a class given twice is a mistake to name."""
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"the class {name!r} stands there twice")
        result[name] = value
    return result
