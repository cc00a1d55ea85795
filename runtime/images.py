"""Pictures from anywhere to one form: uint8 RGB, upright."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError, InputError

Pixels: TypeAlias = npt.NDArray[np.uint8]
Source: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | Pixels"

# Pictures come from strangers: only the plain raster formats are parsed (no PostScript, no fonts, no video).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_PIXELS = 100_000_000


def load_image(source: Source, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decodes one picture.

    The EXIF orientation is applied; alpha is dropped, as CLIP's own preprocessing does; 16-bit greys keep
    their upper byte; of an animation the first frame is taken.

    Args:
        source: A path, the bytes of a file, a PIL image or a uint8 RGB array [H, W, 3].
        max_pixels: Limit on width times height, checked before anything of that size is allocated.

    Returns:
        uint8 [H, W, 3], RGB. An array is returned as it is, not copied.

    Raises:
        ImageError: The picture is missing, broken, of another kind or too large.
    """
    if isinstance(source, np.ndarray):
        return _check_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _to_rgb(source, "picture", max_pixels)
    file: str | io.BytesIO
    if isinstance(source, (str, os.PathLike)):
        name = file = os.fspath(source)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        name, file = f"picture of {len(source)} bytes", io.BytesIO(source)
    else:
        raise ImageError(f"a {type(source).__name__} is no picture; give a path, bytes, a PIL image or an array")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            with Image.open(file, formats=FORMATS) as image:
                return _to_rgb(image, name, max_pixels)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file; check the path") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture, or none of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        if isinstance(error, ImageError):
            raise
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
    if width * height > max_pixels:
        raise ImageError(f"{name}: {width}x{height} is over the limit of {max_pixels} pixels; shrink it first")


def _to_rgb(image: Image.Image, name: str, max_pixels: int) -> Pixels:
    _check_size(*image.size, name, max_pixels)
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):  # 16-bit files; Pillow's own convert would clip them to white
        grey = np.asarray(upright).astype(np.float64)
        if upright.mode.startswith("I"):
            grey = grey / 256
        return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.asarray(upright.convert("RGB"))
