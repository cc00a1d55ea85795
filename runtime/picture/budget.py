"""Pictures decoded together take memory together: sixteen PNGs of 94 kB may take 6 GB. So they come in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from ..errors import ImageError
from .given import Given, Picture
from .load import Decoded, size_of

T = TypeVar("T")

_BYTES_A_PIXEL = 4


def decoded_bytes(given: Picture) -> int:
    """What a picture takes when it is decoded, by its head; 0 if that cannot be read."""
    if isinstance(given, Decoded):
        return given.pixels.nbytes
    size = None if isinstance(given, ImageError) or hasattr(given, "read") else size_of(given)
    return 0 if size is None else _BYTES_A_PIXEL * size[0] * size[1]


def in_parts(sources: Sequence[T], limit: int, of: Callable[[T], Picture] | None = None) -> list[list[T]]:
    """Pictures in order, in parts that are within a limit or hold one picture.

    Args:
        sources: What the pictures are in.
        limit: Decoded bytes of a part.
        of: The picture in one of `sources`; None if they are the pictures.
    """
    if len(sources) == 1:  # its head is not read twice
        return [list(sources)]
    parts: list[list[T]] = []
    held = 0
    for source in sources:
        size = decoded_bytes(cast("Given", source) if of is None else of(source))
        if not parts or held + size > limit:
            parts.append([])
            held = 0
        parts[-1].append(source)
        held += size
    return parts
