"""Loads pictures from any source to one form: uint8 RGB, upright; where asked, with their transparency."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from typing import IO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from .. import _native
from ..bundle.regular import open_regular
from ..errors import ImageError, InputError
from . import grey, mend
from .formats import broken_link, open_image

Pixels: TypeAlias = npt.NDArray[np.uint8]
Source: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | Pixels"

MAX_PIXELS = 100_000_000
MAX_SIDE = _native.MAX_SIDE

# A draft stays this much larger than the model's square, so that the following resize still averages over pixels.
_DRAFT_SIDES = 2
# Pillow holds a picture three times while it becomes an array; larger ones become it in strips of so many pixels.
_STRIP = 1 << 22

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Reading:
    """How pictures are read.

    Attributes:
        max_pixels: Limit on a picture's width times height, checked before anything of that size is allocated. Phones
            take pictures of 108 and 200 million.
        batch_bytes: Limit on what the pictures that are decoded together take, at 4 bytes a pixel. A batch over it is
            answered in parts; one picture alone may exceed it.
        tolerant: Whether of a JPEG that was cut off the part that is there is taken, and the rest is grey. The result
            says so. Otherwise such a picture is broken.
    """

    max_pixels: int = MAX_PIXELS
    batch_bytes: int = 1 << 29
    tolerant: bool = False

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            InputError: A limit is no integer above zero.
        """
        for name in ("max_pixels", "batch_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be an integer above zero, not {value!r}")


@dataclass(frozen=True)
class Decoded:
    """A decoded picture.

    Attributes:
        pixels: uint8 [H, W, 3], RGB, upright; or [H, W, 4] with its alpha if a pixel is not opaque.
        truncated: Whether the file was cut off, so that a part of it is grey.
        orientation: The EXIF orientation, 1 to 8, by which it was turned upright.
    """

    pixels: Pixels
    truncated: bool = False
    orientation: int = 1


def load_image(source: Source, max_pixels: int = MAX_PIXELS, *, draft: int | None = None) -> Pixels:
    """Decodes one picture.

    The EXIF orientation is applied. Alpha is dropped, as in CLIP's own preprocessing; `decode` keeps it. Grey of 16
    bits keeps its upper byte; of other depths it is scaled by what the file says (`rar.runtime.picture.grey`). An
    animation gives its first frame.

    Args:
        source: A path, the bytes of a file, a PIL image or a uint8 RGB array [H, W, 3].
        max_pixels: Limit on width times height, checked before anything of that size is allocated.
        draft: Side of the square that the picture will be resized to. A JPEG file is then decoded at 1/2, 1/4 or 1/8
            of its size if both sides stay at least twice as long as that: faster, but not equal to decoding it
            whole. `max_pixels` applies to its full size. Other sources are decoded as usual.

    Returns:
        uint8 [H, W, 3], RGB. An array is returned itself, not a copy.

    Raises:
        ImageError: The picture is missing, broken, of another kind or too large.
        InputError: `draft` is not an integer above zero.
    """
    if draft is not None and (isinstance(draft, bool) or not isinstance(draft, int) or draft < 1):
        raise InputError(f"draft must be an integer above zero, not {draft!r}")
    return _load(source, Reading(max_pixels), draft, alpha=False).pixels


def decode(source: Source, reading: Reading | None = None) -> Decoded:
    """Decodes one picture for models that may put transparent ones over a colour: `Preprocess` does, for each its own.

    Args:
        source: As for `load_image`.
        reading: The limits, and what is done with cut files; None for the defaults.

    Raises:
        ImageError: As `load_image`.
    """
    return _load(source, reading or Reading(), None, alpha=True)


def size_of(source: Source | bytearray | memoryview) -> tuple[int, int] | None:
    """Width and height as they are stored, from the head of the file alone; None if it cannot be read."""
    if isinstance(source, np.ndarray):
        return (source.shape[1], source.shape[0]) if source.ndim == 3 else None
    if isinstance(source, Image.Image):
        return source.size
    try:
        with _opened(source) as file:
            return open_image(file).size
    except Exception:  # decoding gives the message
        return None


def _load(source: Source, reading: Reading, draft: int | None, *, alpha: bool) -> Decoded:
    if isinstance(source, np.ndarray):
        return Decoded(_check_array(source, reading.max_pixels))
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        name = f"picture of {len(source)} bytes"
    elif isinstance(source, Image.Image):
        name = "picture"
    else:
        raise ImageError(f"a {type(source).__name__} is no picture; give a path, bytes, a PIL image or an array")
    way = _Way(name, reading.max_pixels, draft, alpha)
    try:
        if isinstance(source, Image.Image):
            return way.image(source)
        with _opened(source) as file:
            return _decode_file(file, way, reading.tolerant)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # Pillow's parsers raise almost anything on damaged files
        raise ImageError(f"{name}: cannot be decoded ({error}); the file is damaged") from error


def _opened(source: str | os.PathLike[str] | bytes | bytearray | memoryview) -> IO[bytes]:
    """A picture's file: never a pipe or a device, which would be waited for or never end.

    Raises:
        ImageError: It is missing or cannot be opened.
    """
    if not isinstance(source, (str, os.PathLike)):
        return io.BytesIO(source)
    name = os.fspath(source)
    try:
        return os.fdopen(open_regular(name, links=True), "rb")
    except FileNotFoundError as error:
        raise ImageError(f"{name}: {_missing(name)}") from error
    except (OSError, ValueError) as error:  # ValueError: a path that cannot be
        raise ImageError(
            f"{name}: cannot be opened ({getattr(error, 'strerror', None) or error})"
            "; check the path and who may read it"
        ) from error


def _decode_file(file: IO[bytes], way: _Way, tolerant: bool) -> Decoded:
    try:
        return way.file(file)
    except ImageError:
        raise
    except Exception:
        file.seek(0)
        content = file.read()
        if content.startswith(b"\x89PNG") and (smaller := mend.without_large_texts(content)) != content:
            return way.file(io.BytesIO(smaller))
        if tolerant and content.startswith(b"\xff\xd8"):
            return replace(way.file(io.BytesIO(mend.ended(content))), truncated=True)
        raise


@dataclass(frozen=True)
class _Way:
    """How a picture becomes an array."""

    name: str
    max_pixels: int
    draft: int | None
    alpha: bool

    def file(self, file: IO[bytes]) -> Decoded:
        with open_image(file) as image:
            _check_size(*image.size, self.name, self.max_pixels)
            if self.draft is not None:
                image.draft(None, (_DRAFT_SIDES * self.draft, _DRAFT_SIDES * self.draft))
            deep_png = image.format == "PNG" and grey.is_deep(image)
            return self.image(image, grey.significant_bits(file) if deep_png else None)

    def image(self, image: Image.Image, bits: int | None = None) -> Decoded:
        _check_size(*image.size, self.name, self.max_pixels)
        if grey.is_deep(image):
            levels = grey.to_8_bits(image, self.name, bits)
            upright = Image.fromarray(levels)
        else:
            image.load()
            upright = image
        keeps = self.alpha and not grey.is_deep(image) and image.has_transparency_data
        orientation = _orientation(image)
        turn = _TURNS.get(orientation)
        pixels = _array(upright if turn is None else upright.transpose(turn), "RGBA" if keeps else "RGB")
        if keeps and pixels[:, :, 3].min() == 255:
            pixels = pixels[:, :, :3]
        return Decoded(pixels, orientation=1 if turn is None else orientation)


def _array(image: Image.Image, mode: str) -> Pixels:
    """uint8 [H, W, C] in a mode of 8 bits a channel."""
    width, height = image.size
    rows = max(1, _STRIP // width)
    if rows >= height:
        return np.asarray(image if image.mode == mode else image.convert(mode))
    pixels = np.empty((height, width, len(mode)), np.uint8)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows)))
        pixels[top : top + rows] = np.asarray(strip if strip.mode == mode else strip.convert(mode))
    return pixels


def _missing(name: str) -> str:
    if os.path.islink(name):
        return f"{broken_link(name)}; download the picture again"
    return "no such file; check the path"


def _check_array(array: npt.NDArray[np.generic], max_pixels: int) -> Pixels:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(
            f"an array picture must be uint8 RGB of shape [H, W, 3], not {array.dtype} {list(array.shape)}"
        )
    _check_size(array.shape[1], array.shape[0], "picture", max_pixels)
    return array  # type: ignore[return-value]  # the dtype was just checked


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width}x{height} holds no pixel; save it again")
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{name}: {width}x{height} is over the limit of {max_pixels} pixels, or of {MAX_SIDE} on a side; shrink it"
        )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 if absent. ImageOps.exif_transpose is not used: it rewrites the other tags."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # malformed EXIF does not affect the pixels
        return 1
