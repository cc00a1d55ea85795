"""Labelled pictures, class names and descriptions from folders and files."""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rar.runtime.errors import InputError
from rar.runtime.memory.names import class_name, composed
from rar.runtime.picture.folder import is_hidden, look, told

from .rows import read_csv, read_jsonl, read_text

T = TypeVar("T")


@dataclass(frozen=True)
class LabelledImage:
    """One picture's path and class."""

    path: Path
    label: str


@dataclass(frozen=True)
class Labelled:
    """What a source of labelled pictures holds.

    Attributes:
        images: The pictures: a folder's sorted by class and name, a file's in its order.
        told: What was passed over, a line each.
    """

    images: list[LabelledImage]
    told: Sequence[str] = ()


def read_images(source: str | Path) -> list[LabelledImage]:
    """As `read_source`, without what was passed over.

    Raises:
        InputError: As `read_source`.
    """
    return read_source(source).images


def read_source(source: str | Path) -> Labelled:
    """Reads labelled pictures.

    Args:
        source: A folder with a sub-folder per class, or a `.csv` or `.jsonl` with `path` (relative to the file)
            and `label`.

    Raises:
        InputError: The source is missing or has no picture, a field is blank or missing, or a name cannot be a class's.
    """
    source = Path(source)
    try:
        mode = source.stat().st_mode
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: no such folder or file ({error}); check the path") from error
    if stat.S_ISDIR(mode):
        return _read_folder(source)
    if source.suffix.lower() not in (".csv", ".jsonl"):
        raise InputError(f"{source}: pictures come from a folder, a .csv or a .jsonl; give one of these")
    rows = read_csv(source) if source.suffix.lower() == ".csv" else read_jsonl(source)
    images = []
    for line, row in rows:
        path, label = row.get("path"), row.get("label")
        if not isinstance(path, str) or not path.strip() or not isinstance(label, str) or not label.strip():
            raise InputError(f"{source}, line {line}: needs a path and a label, both not blank")
        images.append(LabelledImage(source.parent / path, named(label.strip(), f"{source}, line {line}")))
    if not images:
        raise InputError(f"{source}: lists no picture; list some, or name another file")
    return Labelled(images)


def read_classes(file: str | Path) -> list[str]:
    """Reads class names, one per line.

    Raises:
        InputError: The file is missing, has no name, a blank line between names, or a repeated name.
    """
    names = read_text(Path(file)).rstrip().split("\n")
    return check_labels([name.strip() for name in names], str(file))


def read_descriptions(file: str | Path) -> dict[str, list[str]]:
    """Reads `{class: [sentences]}` from JSON.

    Raises:
        InputError: No such file, another form, or a blank class or sentence.
    """
    content = _read_lists(file, "class", "sentences")
    return {
        name: [unicode_text(" ".join(s.split()), f"{file}, class {name!r}") for s in sentences]
        for name, sentences in content.items()
    }


def unicode_text(text: str, where: str) -> str:
    """The text itself, if it can be written.

    Raises:
        InputError: It holds halves of characters (lone surrogates).
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {text!r} is not Unicode text; correct the name") from error
    return text


def read_tags(file: str | Path) -> dict[str, list[str]]:
    """Reads `{tag: [classes]}` from JSON.

    Raises:
        InputError: No such file, another form, a blank tag or one without classes, or a class that stands twice.
    """
    content = _read_lists(file, "tag", "classes")
    return {tag: check_labels(names, f"{file}, tag {tag!r}") for tag, names in content.items()}


def named(name: str, where: str, what: str = "class name") -> str:
    """A name as a memory keeps it (`rar.runtime.memory.names`).

    Raises:
        InputError: It cannot be a name.
    """
    try:
        return class_name(name, what)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def check_labels(labels: Sequence[str], source: str) -> list[str]:
    """The labels as a memory keeps them, if all are distinct names.

    Raises:
        InputError: Names the first label that is blank or repeated, or cannot be a class's name.
    """
    if not labels or list(labels) == [""]:
        raise InputError(f"{source}: holds no class name; write one a line")
    seen: dict[str, None] = {}
    for position, given in enumerate(labels, 1):
        if not given.strip():
            raise InputError(f"{source}, entry {position}: the class name is blank; name the class or remove the line")
        label = named(given, f"{source}, entry {position}")
        if label in seen:
            raise InputError(f"{source}, entry {position}: the class {label!r} stands there twice; remove one")
        seen[label] = None
    return list(seen)


def few_shot(images: list[LabelledImage], shots: int, seed: int) -> list[LabelledImage]:
    """Draws `shots` pictures per class (all of a class that has fewer), in the given order.

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
    """At most `count` of them, evenly spread over their order, with the first and the last."""
    return [images[i] for i in np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)]


def _read_folder(folder: Path) -> Labelled:
    inside = sorted(folder.iterdir())
    classes = [path for path in inside if path.is_dir() and not is_hidden(path.name)]
    if not classes:
        raise InputError(f"{folder}: has no sub-folder; put each class's pictures into one of its own")
    images, empty = [], []
    passed = Counter(
        "hidden" if is_hidden(path.name) else "beside the class folders"
        for path in inside
        if is_hidden(path.name) or not path.is_dir()
    )
    for cls in classes:
        listed = look(cls)
        label = named(cls.name, str(folder)) if listed.images else ""
        images += [LabelledImage(path, label) for path in listed.images]
        passed += listed.passed
        if not listed.images:
            empty.append(cls.name)
    if not images:
        raise InputError(
            f"{folder}: none of its {len(classes)} sub-folders holds a picture; passed over: {told(passed)}"
        )
    lines = [f"passed over: {told(passed)}"] if passed else []
    if empty:
        lines.append(f"{len(empty)} folders without pictures are no classes: {', '.join(map(repr, empty))}")
    return Labelled(images, lines)


def _read_lists(file: str | Path, key: str, values: str) -> dict[str, list[str]]:
    form = f"{{{key}: [{values}]}}"
    try:
        content = json.loads(read_text(Path(file)), object_pairs_hook=_unique_pairs)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not the JSON of {form} ({error}); correct the file") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f"{file}: must be a JSON object of {form} with at least one {key}")
    for name, texts in content.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise InputError(f"{file}: the {key} {name!r} must be a list of {values}, none blank")
    if len(names := {named(name, str(file), f"{key} name"): name for name in content}) < len(content):
        twice = next(name for name in content if names[composed(name)] != name)
        raise InputError(f"{file}: the {key} {twice!r} stands there twice, composed and decomposed; remove one")
    return {name: content[given] for name, given in names.items()}


def _unique_pairs(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Rejects repeated keys: JSON silently keeps the last of two, but a repeated class is a mistake."""
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"the class {name!r} stands there twice")
        result[name] = value
    return result
