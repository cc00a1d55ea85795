"""Grey pictures of more than 8 bits: what is black, what is white, and 8 bits in between.

A file may say it: by its format, by TIFF's tags, by PNG's `sBIT`. Where it does not, the values themselves must fill
one of the usual ranges. Otherwise nobody knows how bright they are: the picture would turn black, or white.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import ImageError

# TIFF's tags.
_BITS, _PHOTOMETRIC, _MAX, _FORMAT, _SMIN, _SMAX = 258, 262, 281, 339, 340, 341
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2
# A range is filled where the brightest value reaches a sixteenth of it: 12 bits in 16 do not.
_FILLED = 1 / 16
# Resizing with a sharp filter leaves the range by up to so much of it.
_OVER = 0.25
# Pixels that are converted at once: a large picture is not held in float64.
_STRIP = 1 << 20


@dataclass(frozen=True)
class _Range:
    """The values of black and of white; `whole` where white is the largest value of so many bits."""

    black: float
    white: float
    whole: bool = False


def is_deep(image: Image.Image) -> bool:
    """Whether a picture is grey with more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def to_8_bits(image: Image.Image, name: str, bits: int | None = None) -> npt.NDArray[np.uint8]:
    """The grey levels of a picture of mode `I;16`, `I` or `F`: uint8 [H, W].

    16 bits keep their upper byte.

    Args:
        image: The picture.
        name: What it is called in messages.
        bits: The significant bits that a PNG names.

    Raises:
        ImageError: Neither the file nor its values say what is white.
    """
    tags: Any = getattr(image, "tag_v2", None) or {}
    values = np.asarray(image)
    if values.dtype == np.int32 and _first(tags.get(_FORMAT), _UNSIGNED) == _UNSIGNED and tags:
        values = values.view(np.uint32)  # Pillow has no unsigned 32 bits
    low, high = _extent(values)
    signed = _first(tags.get(_BITS), 0) == 16 and _first(tags.get(_FORMAT), 0) == _SIGNED
    scale = _said(image, tags, values, bits, high) or _usual(values, low, high, signed)
    if scale is None:
        raise ImageError(
            f"{name}: grey values from {low:g} to {high:g}, and the file does not say which of them is white; save it "
            "with 8 bits, over the full range of 16, as floats of 0 to 1, or as a TIFF with SMinSampleValue and "
            "SMaxSampleValue"
        )
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, _STRIP // max(1, values.shape[1]))
    for top in range(0, len(values), rows):
        grey[top : top + rows] = _levels(values[top : top + rows], scale)
    return 255 - grey if _first(tags.get(_PHOTOMETRIC), 1) == _WHITE_IS_ZERO else grey


def significant_bits(file: IO[bytes]) -> int | None:
    """The bits of a grey PNG that its chunk `sBIT` calls significant; None without one. Leaves the file's place."""
    place = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"sBIT":
                return file.read(1)[0] or None
            if kind == b"IDAT" or not length < 1 << 31:
                return None
            file.seek(length + 4, 1)
        return None
    finally:
        file.seek(place)


def _said(image: Image.Image, tags: Any, values: npt.NDArray[Any], bits: int | None, high: float) -> _Range | None:
    """The range that the file names."""
    black, white = _first(tags.get(_SMIN), 0.0), _first(tags.get(_SMAX), None)
    if white is not None and white > black:
        return _Range(float(black), float(white), whole=_all_bits(white) and not black and values.dtype.kind != "f")
    if values.dtype.kind == "f":
        return None
    if image.format == "PPM":  # Pillow has scaled it by the file's own largest value
        return _Range(0, 65535, whole=True)
    depth, largest = _first(tags.get(_BITS), 16), _first(tags.get(_MAX), None)
    if depth < 16:
        return _Range(0, 2**depth - 1, whole=True)
    if largest is not None and _all_bits(largest) and high <= largest:
        return _Range(0, largest, whole=True)
    if bits is not None and bits < 16:
        # PNG wants them scaled up to 16 bits, with the lowest repeated or 0; many writers leave them as they are.
        as_they_are = high < 2**bits and bool((values & (2 ** (16 - bits) - 1)).any())
        return _Range(0, 2**bits - 1 if as_they_are else 65535, whole=True)
    return None


def _usual(values: npt.NDArray[Any], low: float, high: float, signed: bool) -> _Range | None:
    """The one of the usual ranges that the values fill; `signed` for 16 bits, one of them the sign."""
    if low == high == 0:  # black in any range
        return _Range(0, 1)
    if values.dtype.kind == "f":
        for white in (1.0, 255.0):
            if -_OVER * white <= low and _FILLED * white * (white > 1) <= high <= (1 + _OVER) * white:
                return _Range(0, white)
        return None
    whites = [255, 65535, 2**31 - 1, 2**32 - 1]
    if values.dtype.itemsize == 2 or signed:
        whites = [32767 if signed else 65535]
    return next((_Range(0, w, whole=True) for w in whites if low >= 0 and _FILLED * w <= high <= w), None)


def _levels(values: npt.NDArray[Any], scale: _Range) -> npt.NDArray[np.uint8]:
    wide = np.nan_to_num(values.astype(np.float64), nan=scale.black, posinf=scale.white, neginf=scale.black)
    if scale.whole:  # the upper 8 bits
        wide = np.floor(wide * (256 / (scale.white + 1)))
    elif (scale.black, scale.white) != (0, 255):  # and of 0 to 255 the whole part, as Pillow's own conversion
        wide = np.rint((wide - scale.black) * (255 / (scale.white - scale.black)))
    return np.clip(wide, 0, 255).astype(np.uint8)


def _extent(values: npt.NDArray[Any]) -> tuple[float, float]:
    """The least and the largest finite value."""
    if values.dtype.kind != "f":
        return float(values.min()), float(values.max())
    finite = np.isfinite(values)
    if not finite.any():
        return 0.0, 0.0
    return float(values.min(where=finite, initial=np.inf)), float(values.max(where=finite, initial=-np.inf))


def _first(value: Any, default: Any) -> Any:
    """A tag's first value."""
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, (int, float)) else default


def _all_bits(value: float) -> bool:
    """Whether a value is the largest of 9 to 32 bits."""
    return value in {2**bits - 1 for bits in range(9, 33)}
