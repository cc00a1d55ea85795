"""Pictures as callers give them: what is one picture, and what of it the caller may change or close afterwards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image

from ..errors import ImageError
from . import load
from .load import Decoded, Reading, Source

Given: TypeAlias = "Source | bytearray | memoryview | BinaryIO"
# On its way through a stream: as it was given, decoded already, or broken.
Picture: TypeAlias = "Given | Decoded | ImageError"

# A file object may be a pipe without an end.
_MOST_BYTES = 1 << 30
_URL = re.compile(r"([a-z][a-z0-9+.-]{1,20}):/|(data):", re.IGNORECASE)
# Pillow's images are not safe to share between threads, and they cannot be keys: one of these for each by its address.
_LOCKS = tuple(Lock() for _ in range(64))


def is_single(images: Any) -> bool:
    """Whether it is one picture, and no iterable of them: a file object and a buffer could be iterated, too."""
    one = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Image.Image)
    return isinstance(images, one) or hasattr(images, "read")


def own(given: Given, reading: Reading) -> Source | Decoded | ImageError:
    """The picture as nobody else can change it: for a source that goes on, and may reuse or close what it gave.

    Arrays and buffers are copied, file objects are read, PIL images are decoded. Paths and bytes stay as they are, and
    are decoded later, by several threads.

    Returns:
        The picture, or why it cannot be read.
    """
    if isinstance(given, np.ndarray):
        return np.array(given)
    if isinstance(given, Image.Image):
        return decode(given, reading)
    try:
        return _plain(given)
    except ImageError as error:
        return error


def decode(given: Picture, reading: Reading) -> Decoded | ImageError:
    """Decodes a picture, whatever the caller gave; never two threads the same PIL image or file object.

    Returns:
        As `load.decode`, or why the picture cannot be read. An array is returned itself.
    """
    if isinstance(given, (Decoded, ImageError)):
        return given
    try:
        if isinstance(given, Image.Image):
            with _alone(given):
                return load.decode(given, reading)
        return load.decode(_plain(given), reading)
    except ImageError as error:
        return error


def check_local(name: str | os.PathLike[str]) -> None:
    """Checks that a path is no address: nothing is ever fetched.

    Raises:
        ImageError: It is a URL.
    """
    text = os.fspath(name)
    if isinstance(text, str) and (url := _URL.match(text)):
        scheme = (url[1] or url[2]).lower()
        raise ImageError(  # without the rest, which may hold a password or the whole picture
            f"{scheme}:... is a URL, and nothing is fetched from URLs; get the picture yourself and give its bytes"
        )


def _plain(given: Any) -> Source:
    """What `load_image` takes of it.

    Raises:
        ImageError: It is a URL, or cannot be read.
    """
    if isinstance(given, (str, os.PathLike)):
        check_local(given)
    try:
        if isinstance(given, (bytearray, memoryview)):
            return bytes(given)
        if hasattr(given, "read") and not isinstance(given, os.PathLike):
            with _alone(given):
                return _read(given)
    except (OSError, ValueError) as error:  # closed, or released
        raise ImageError(f"a {type(given).__name__} cannot be read ({error}); give a path or bytes") from error
    return given  # type: ignore[no-any-return]  # the rest is `load_image`'s to judge


def _read(file: Any) -> bytes:
    """The whole file, as Pillow takes it: from its beginning where it can be told to go there."""
    if hasattr(file, "seek") and (not hasattr(file, "seekable") or file.seekable()):
        file.seek(0)
    content = file.read(_MOST_BYTES + 1)
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise ImageError(f"a {type(file).__name__} gives {type(content).__name__}; open the file in binary mode")
    if len(content) > _MOST_BYTES:
        raise ImageError(f"a {type(file).__name__} gives more than {_MOST_BYTES} bytes; give one picture")
    return bytes(content)


@contextmanager
def _alone(shared: object) -> Iterator[None]:
    with _LOCKS[(id(shared) >> 4) % len(_LOCKS)]:
        yield
