"""Pictures from anywhere to one form: uint8 RGB, upright."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from . import _native
from .errors import ImageError, InputError

Pixels: TypeAlias = npt.NDArray[np.uint8]
Source: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | Pixels"

# Pictures come from strangers: only the plain raster formats are parsed (no PostScript, no fonts, no video).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_PIXELS = 100_000_000
MAX_SIDE = _native.MAX_SIDE

# How much longer than the model's square a draft stays: the resize that follows then still averages over pixels.
_DRAFT_SIDES = 2

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: Source, max_pixels: int = MAX_PIXELS, *, draft: int | None = None) -> Pixels:
    """Decodes one picture.

    The EXIF orientation is applied; alpha is dropped, as CLIP's own preprocessing does; 16-bit greys keep
    their upper byte; of an animation the first frame is taken.

    Args:
        source: A path, the bytes of a file, a PIL image or a uint8 RGB array [H, W, 3].
        max_pixels: Limit on width times height, checked before anything of that size is allocated.
        draft: Side of the square the picture will be resized to. The file of a JPEG is then decoded at 1/2, 1/4
            or 1/8 of its size where both of its sides stay at least twice as long as that: faster, but not equal
            to decoding it whole. `max_pixels` holds for its full size. Other sources are decoded as ever.

    Returns:
        uint8 [H, W, 3], RGB. An array is returned as it is, not copied.

    Raises:
        ImageError: The picture is missing, broken, of another kind or too large.
        InputError: `draft` is not an integer above zero.
    """
    if draft is not None and (isinstance(draft, bool) or not isinstance(draft, int) or draft < 1):
        raise InputError(f"draft must be an integer above zero, not {draft!r}")
    if isinstance(source, np.ndarray):
        return _check_array(source, max_pixels)
    file: str | io.BytesIO | Image.Image
    if isinstance(source, Image.Image):
        name, file = "picture", source
    elif isinstance(source, (str, os.PathLike)):
        name = file = os.fspath(source)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        name, file = f"picture of {len(source)} bytes", io.BytesIO(source)
    else:
        raise ImageError(f"a {type(source).__name__} is no picture; give a path, bytes, a PIL image or an array")
    try:
        if isinstance(file, Image.Image):
            return _to_rgb(file, name, max_pixels, None)  # a draft would change the caller's image
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            with Image.open(file, formats=FORMATS) as image:
                return _to_rgb(image, name, max_pixels, draft)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file; check the path") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture, or none of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # Pillow's parsers raise almost anything on damaged files
        raise ImageError(f"{name}: cannot be decoded ({error}); the file is damaged") from error


def find_images(folder: Path) -> list[Path]:
    """The picture files under a folder, sorted, by suffix; hidden files are passed over.

    Raises:
        InputError: The folder is missing or holds no picture.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise InputError(f"{folder}: holds no picture ({', '.join(sorted(SUFFIXES))})")
    return found


def _check_array(array: npt.NDArray[np.generic], max_pixels: int) -> Pixels:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(
            f"an array picture must be uint8 RGB of shape [H, W, 3], not {array.dtype} {list(array.shape)}"
        )
    _check_size(array.shape[1], array.shape[0], "picture", max_pixels)
    return array  # type: ignore[return-value]  # the dtype was just checked


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width}x{height} holds no pixel")
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{name}: {width}x{height} is over the limit of {max_pixels} pixels, or of {MAX_SIDE} on a side; shrink it"
        )


def _to_rgb(image: Image.Image, name: str, max_pixels: int, draft: int | None) -> Pixels:
    _check_size(*image.size, name, max_pixels)
    if draft is not None:
        image.draft(None, (_DRAFT_SIDES * draft, _DRAFT_SIDES * draft))
    if image.mode.startswith(("I", "F")):  # 16-bit files; Pillow's own convert would clip them to white
        grey = np.asarray(image).astype(np.float64)
        if image.mode.startswith("I"):
            grey = grey / 256
        pixels = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
        upright = Image.fromarray(pixels)
    else:
        upright = image.convert("RGB")
    turn = _TURNS.get(_orientation(image))
    return np.asarray(upright if turn is None else upright.transpose(turn))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none. Not ImageOps.exif_transpose: it writes the other tags anew."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # odd EXIF says nothing of the pixels
        return 1
