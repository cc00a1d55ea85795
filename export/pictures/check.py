"""Looks at labelled pictures before hours of work begin: which are broken, and which are there twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from tqdm import tqdm

from rar.runtime.errors import ImageError, InputError
from rar.runtime.machine.cores import usable_cores
from rar.runtime.picture.budget import in_parts
from rar.runtime.picture.load import Reading, load_image

from .labelled import LabelledImage

# What is done with pictures that are there twice.
Duplicates: TypeAlias = Literal["keep", "skip", "fail"]
DUPLICATES: tuple[Duplicates, ...] = get_args(Duplicates)
# Takes a line for the user.
Tell: TypeAlias = Callable[[str], None]

_CHUNK = 256
# Lines of a list; the rest is counted.
_LISTED = 50


def check_images(
    images: Sequence[LabelledImage],
    skip_broken: bool,
    duplicates: Duplicates,
    tell: Tell,
    reading: Reading | None = None,
) -> list[LabelledImage]:
    """The pictures that a memory is made of.

    Args:
        images: Labelled pictures.
        skip_broken: Leaves out what cannot be read, instead of an error.
        duplicates: What is done with files that hold the same bytes: `keep` lists them, `skip` leaves out all but the
            first, `fail` is an error.
        tell: Is given what was found, line by line.
        reading: How large pictures may be; None for the defaults.

    Raises:
        InputError: A picture cannot be read, or is there twice; all are named. Or none is left.
    """
    if duplicates not in DUPLICATES:
        raise InputError(f"duplicates={duplicates!r} is unknown; choose {', '.join(DUPLICATES)}")
    broken = list(_broken(images, reading or Reading()))
    if broken and not skip_broken:
        lines = [f"class {image.label!r}: {error}" for image, error in broken]
        head = f"{len(broken)} of {len(images)} pictures cannot be read"
        raise InputError(f"{head}: {_listed(lines)}; mend or remove them, or leave them out with --skip-broken")
    for line in shortened([f"skipped: class {image.label!r}: {error}" for image, error in broken]):
        tell(line)
    left_out = {id(image) for image, _ in broken}
    left = [image for image in images if id(image) not in left_out]
    if not left and images:
        raise InputError("no picture is left: all are broken; mend them, or give others")
    groups = list(same_bytes(left))
    lines = [_same(group) for group in groups]
    if groups and duplicates == "fail":
        raise InputError(
            f"{len(groups)} pictures are there more than once: {_listed(lines)}"
            "; remove the copies, or run with --duplicates skip"
        )
    for line in shortened(lines):
        tell(("skipped all but the first: " if duplicates == "skip" else "") + line)
    if duplicates == "skip":
        again = {id(image) for group in groups for image in group[1:]}
        left = [image for image in left if id(image) not in again]
    return left


def same_bytes(images: Sequence[LabelledImage]) -> Iterator[list[LabelledImage]]:
    """Groups of pictures whose files hold the same bytes, in order; those under unlike labels first."""
    by_size: dict[int, list[LabelledImage]] = {}
    for image in images:
        by_size.setdefault(os.stat(image.path).st_size, []).append(image)
    by_hash: dict[bytes, list[LabelledImage]] = {}
    for same_size in by_size.values():
        for image in same_size if len(same_size) > 1 else ():
            by_hash.setdefault(_hash(image.path), []).append(image)
    groups = [group for group in by_hash.values() if len(group) > 1]
    yield from sorted(groups, key=lambda group: len({image.label for image in group}) == 1)


def shortened(lines: Sequence[str]) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(lines) - _LISTED
    return [*lines[:_LISTED], f"... and {more} more"] if more > 0 else list(lines)


def _broken(images: Sequence[LabelledImage], reading: Reading) -> Iterator[tuple[LabelledImage, ImageError]]:
    """The pictures that cannot be read, each with the reason."""
    with (
        ThreadPoolExecutor(usable_cores()) as decoders,
        tqdm(total=len(images), desc="check", unit="", disable=None) as bar,
    ):
        for start in range(0, len(images), _CHUNK):
            for part in in_parts(images[start : start + _CHUNK], reading.batch_bytes, lambda image: image.path):
                for image, error in zip(part, decoders.map(partial(_error, reading=reading), part), strict=True):
                    if error is not None:
                        yield image, error
                bar.update(len(part))


def _error(image: LabelledImage, reading: Reading) -> ImageError | None:
    try:
        load_image(image.path, reading.max_pixels, draft=1)  # JPEGs at an eighth of their size: all of the file is read
    except ImageError as error:
        return error
    return None


def _hash(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _same(group: Sequence[LabelledImage]) -> str:
    labels = list(dict.fromkeys(image.label for image in group))
    under = f"class {labels[0]!r}" if len(labels) == 1 else f"{len(labels)} classes ({', '.join(map(repr, labels))})"
    return f"the same picture in {under}: {', '.join(str(image.path) for image in group)}"


def _listed(lines: Sequence[str]) -> str:
    return "; ".join(lines)
