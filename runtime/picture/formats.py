"""The picture formats that are read, and opening a file without Pillow's own limits.

Pictures come from strangers: only raster formats are parsed (no PostScript, no fonts, no video).
"""

from __future__ import annotations

import importlib.util
import os
import struct
from functools import lru_cache
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

# What Pillow reads in every build, and what it reads in some.
_ALWAYS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_SOMETIMES = ("AVIF", "JPEG2000", "JXL", "JPEGXL")
# pillow-heif's; its plugin is loaded for the first such picture only.
_HEIF = "HEIF"
_HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
LFS_POINTER = b"version https://git-lfs"
# Opened as JPEG: it is one with more pictures behind it.
_AS_JPEG = "MPO"


@lru_cache(1)
def formats() -> tuple[str, ...]:
    """The formats that this installation's Pillow reads, by Pillow's names."""
    Image.init()
    return (*_ALWAYS, *(name for name in _SOMETIMES if name in Image.OPEN))


@lru_cache(1)
def suffixes() -> frozenset[str]:
    """The suffixes of files in these formats, in small letters and with their dot."""
    known = {*formats(), _AS_JPEG}
    found = {suffix for suffix, name in Image.registered_extensions().items() if name in known}
    return frozenset(found | (_HEIF_SUFFIXES if has_heif() else set()))


def has_heif() -> bool:
    """Whether pillow-heif is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def open_image(file: IO[bytes]) -> Image.Image:
    """Opens a picture; its pixels are not decoded yet.

    `Image.open` refuses everything over a limit that holds for the whole process. Here the caller compares the size
    with a limit of its own.

    Args:
        file: At its beginning, and seekable.

    Raises:
        UnidentifiedImageError: It is no picture, or of another format; the message says what to do.
        Exception: Pillow's parsers raise almost anything on damaged files.
    """
    head = file.read(64)
    names = formats()
    if _is_heif(head):
        _register_heif()
        names = (_HEIF,)
    for name in names:
        opener, accepts = Image.OPEN[name]
        if accepts is not None and accepts(head[:16]) is not True:  # a text says why Pillow cannot
            continue
        file.seek(0)
        try:
            return opener(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    if head.startswith(LFS_POINTER):
        raise UnidentifiedImageError("a pointer of Git LFS and not the picture itself; run `git lfs pull`")
    raise UnidentifiedImageError(f"not a picture, or none of {', '.join(names)}")


def unread(path: Path) -> str:
    """What a file that is passed over is, in a few words."""
    suffix = path.suffix.lower()
    if suffix in _HEIF_SUFFIXES:
        return f"{suffix} (install the extra `heif`)"
    return suffix or "without a suffix"


def broken_link(path: str | os.PathLike[str]) -> str:
    """What to say of a link to nothing, such as one into a hub's cache whose file was not fetched."""
    return f"a link to {os.fsdecode(os.readlink(path))}, which is not there"


def _is_heif(head: bytes) -> bool:
    """Whether an ISO media file's head says HEIF and not AVIF, which Pillow reads itself."""
    if head[4:8] != b"ftyp":
        return False
    length = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[at : at + 4] for at in (8, *range(16, length - 3, 4))}
    return not brands & {b"avif", b"avis"} and bool(brands & _HEIF_BRANDS)


@lru_cache(1)
def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise UnidentifiedImageError("a HEIC or HEIF picture; install pillow-heif (extra `heif`) to read it") from error
    pillow_heif.register_heif_opener()
    Image.init()
