"""PNGs whose texts or profiles are larger than Pillow unpacks: the pixels are read all the same."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from rar.runtime import ImageError, load_image

MB = 1 << 20


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def text(size: int) -> bytes:
    return chunk(b"tEXt", b"Comment\0" + b"a" * size)


def packed(size: int) -> bytes:
    return chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * size))


def international(size: int) -> bytes:
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0\0" + zlib.compress(b"a" * size))


def profile(size: int) -> bytes:
    return chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"a" * size))


def png(pixels: np.ndarray, before: bytes, after: bytes = b"", exif: Image.Exif | None = None) -> bytes:
    """A sound PNG with more chunks before and after its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **({} if exif is None else {"exif": exif}))
    content = buffer.getvalue()
    head, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    return content[:head] + before + content[head:end] + after + content[end:]


@pytest.mark.parametrize("make", [text, packed, international, profile])
@pytest.mark.parametrize("size", [2 * MB, 30 * MB])
@pytest.mark.parametrize("after", [False, True])
def test_large_texts_and_profiles_are_skipped(
    make: Callable[[int], bytes], size: int, after: bool, noise: Callable[..., np.ndarray]
) -> None:
    pixels = noise(30, 40)
    content = png(pixels, b"" if after else make(size), make(size) if after else b"")
    np.testing.assert_array_equal(load_image(content), pixels)


def test_many_texts_that_are_too_much_together(noise: Callable[..., np.ndarray]) -> None:
    pixels = noise(30, 40)
    np.testing.assert_array_equal(load_image(png(pixels, packed(MB - 1) * 70)), pixels)


def test_the_picture_still_stands_upright(noise: Callable[..., np.ndarray]) -> None:
    pixels, exif = noise(30, 40), Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(load_image(png(pixels, packed(2 * MB), exif=exif)), np.rot90(pixels, -1))


def test_pillow_s_limits_stay_and_nothing_large_is_unpacked(noise: Callable[..., np.ndarray]) -> None:
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    content = png(noise(30, 40), packed(500 * MB))
    tracemalloc.start()
    load_image(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * MB
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


def test_damaged_pixels_behind_large_texts_are_refused(noise: Callable[..., np.ndarray]) -> None:
    content = png(noise(30, 40), packed(2 * MB))
    with pytest.raises(ImageError, match="damaged"):
        load_image(content[: content.index(b"IDAT") + 200])
