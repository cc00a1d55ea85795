"""Makes the annotations that GRAIN is trained with: from folders of pictures, by an MLLM and a detector."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from rar.runtime.errors import ExportError, ImageError, InputError
from rar.runtime.files import atomic_file
from rar.runtime.images import Pixels, load_image

from .annotations import Region
from .describe import Described

Describe = Callable[[Pixels], Described]
Detect = Callable[[Pixels, Sequence[str], float, int], list[Region]]


@dataclass(frozen=True)
class Annotated:
    """What became of the pictures: how many lines are there now, and which pictures could not be read."""

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
    """Writes a line a picture (`annotations`), going on where an earlier call was cut off.

    Args:
        pictures: The picture files.
        out: The JSONL; lines that it has are kept, and their pictures not asked about again.
        describe: Gives a picture's caption and descriptions.
        detect: Finds descriptions in a picture.
        threshold: Least score of a box.
        top: Boxes a picture, at most.

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
    """The pictures that have a line; one that was cut off in writing is taken away."""
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
