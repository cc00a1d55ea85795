"""Makes the annotations that GRAIN is trained with: from folders of pictures, by an MLLM and a detector."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from rar.runtime.bundle.files import atomic_file
from rar.runtime.errors import ExportError, ImageError, InputError
from rar.runtime.picture.load import Pixels, load_image

from .annotations import DescribedBox
from .describe import Described

Describe = Callable[[Pixels], Described]
Detect = Callable[[Pixels, Sequence[str], float, int], list[DescribedBox]]


@dataclass(frozen=True)
class Annotated:
    """The outcome: the number of lines in the file, and the pictures that could not be read."""

    lines: int
    broken: Sequence[Path]


def annotate(
    pictures: Sequence[Path],
    out: str | os.PathLike[str],
    describe: Describe,
    detect: Detect,
    threshold: float = 0.3,
    top: int = 5,
) -> Annotated:
    """Writes a line per picture (`annotations`), and resumes an interrupted call.

    Args:
        pictures: The picture files.
        out: The JSONL; existing lines are kept, and their pictures are skipped.
        describe: Gives a picture's caption and descriptions.
        detect: Finds descriptions in a picture.
        threshold: Least score of a box.
        top: Most boxes per picture.

    Raises:
        InputError: A setting is out of range.
        ExportError: The file cannot be written, or is not of this form.
    """
    if not 0 <= threshold <= 1 or top < 1:
        raise InputError(f"threshold={threshold}, top={top}; give a threshold of 0 to 1 and 1 box or more")
    file = Path(out)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        done = _done(file)
        broken = []
        with file.open("a", encoding="utf-8") as lines:
            for path in tqdm(pictures, desc="annotating", disable=None):
                name = os.path.relpath(path, file.parent)
                if name in done:
                    continue
                try:
                    pixels = load_image(path)
                except ImageError:
                    broken.append(path)
                    continue
                described = describe(pixels)
                regions = detect(pixels, described.descriptions, threshold, top)
                row = {"path": name, "caption": described.caption, "boxes": [region.to_dict() for region in regions]}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                lines.flush()
                done.add(name)
    except OSError as error:
        raise ExportError(f"{file}: cannot be written ({error.strerror or error}); begin again to go on") from error
    return Annotated(len(done), broken)


def _done(file: Path) -> set[str]:
    """The pictures that have a line; an unfinished line is removed."""
    if not file.exists():
        return set()
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        paths = {json.loads(line)["path"] for line in whole.decode().split("\n") if line.strip()}
        if not all(isinstance(path, str) for path in paths):
            raise TypeError("a path is no text")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExportError(f"{file}: holds lines that are no annotations ({error!r}); name a new file") from error
    if whole != content:
        with atomic_file(file) as kept:
            kept.write(whole)
    return paths
