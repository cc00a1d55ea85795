"""Grey pictures of more than 8 bits: scaled by what the file says, or refused; never black without a word."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from rar.runtime import ImageError
from rar.runtime.picture.load import load_image

Levels = npt.NDArray[np.uint8]


def levels() -> Levels:
    """All 256 of them."""
    return np.arange(256, dtype=np.uint8).reshape(16, 16)


def tiff(values: npt.NDArray[Any], tags: dict[int, Any] | None = None) -> bytes:
    buffer = io.BytesIO()
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in (tags or {}).items():
        info[tag] = value
        if isinstance(value, float):
            info.tagtype[tag] = 11
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo=info)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(values: npt.NDArray[np.uint16], bits: int | None = None) -> bytes:
    """A PNG of 16 bits, which says how many of them count."""
    height, width = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    said = b"" if bits is None else chunk(b"sBIT", bytes([bits]))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + said + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def packed_12_bits(values: npt.NDArray[np.uint16]) -> bytes:
    """A TIFF with 12 bits a sample, as cameras and microscopes write it: two samples in three bytes."""
    height, width = values.shape
    pairs = values.reshape(-1, 2).astype(int)
    data = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)
    entries = [
        (256, 4, width), (257, 4, height), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
        (278, 4, height), (279, 4, len(data)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII" if kind == 4 else "<HHIHxx", tag, kind, 1, value) for tag, kind, value in entries
    )
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4)


def grey(content: bytes | Image.Image) -> Levels:
    loaded = load_image(content)
    assert (loaded == loaded[:, :, :1]).all()
    return loaded[:, :, 0]


def close(found: Levels, to: Levels | None = None) -> bool:
    return int(np.abs(found.astype(int) - (levels() if to is None else to)).max()) <= 1


def test_floats_of_0_to_1() -> None:
    assert close(grey(tiff((levels() / 255).astype(np.float32))))


def test_floats_that_a_sharp_filter_drove_beyond_1() -> None:
    values = (levels() / 255).astype(np.float32)
    values[0, 0], values[0, 1] = 1.0247, -0.02
    expected = levels().copy()
    expected[0, :2] = 255, 0
    assert close(grey(tiff(values)), expected)


def test_floats_of_0_to_255() -> None:
    assert close(grey(tiff(levels().astype(np.float32))))
    assert close(grey(Image.fromarray(levels()).convert("F")))


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16])
def test_a_range_that_the_file_names(dtype: Any) -> None:
    low, high = 1000.0, 3550.0
    values = (low + levels() * 10.0).astype(dtype)
    assert close(grey(tiff(values, {340: low, 341: high})))


def test_a_float_map_written_by_pillow() -> None:
    buffer = io.BytesIO()
    Image.fromarray((levels() / 255).astype(np.float32)).save(buffer, "PPM")
    assert close(grey(buffer.getvalue()))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_keep_the_upper_byte(kind: str) -> None:
    values = levels().astype(np.uint16) * 256 + 77
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    np.testing.assert_array_equal(grey(buffer.getvalue()), levels())


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
@pytest.mark.parametrize("low_bits", [0, 1])
def test_fewer_bits_in_16_that_the_file_names(bits: int, low_bits: int) -> None:
    values = (levels().astype(np.uint16) << (bits - 8)) | low_bits
    np.testing.assert_array_equal(grey(tiff(values, {281: 2**bits - 1})), levels())
    np.testing.assert_array_equal(grey(tiff(values, {341: 2**bits - 1})), levels())
    if low_bits:
        np.testing.assert_array_equal(grey(png(values, bits)), levels())
    # As PNG wants it: scaled up to 16 bits.
    np.testing.assert_array_equal(grey(png(values << (16 - bits), bits)), levels())


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("plain", [False, True])
def test_a_pgm_s_largest_value(bits: int, plain: bool) -> None:
    values = (levels().astype(np.uint16) << (bits - 8)) | 1
    body = " ".join(map(str, values.ravel())).encode() if plain else values.astype(">u2").tobytes()
    assert close(grey(b"P%d 16 16 %d\n" % (2 if plain else 5, 2**bits - 1) + body))


def test_12_bits_packed() -> None:
    values = (levels().astype(np.uint16) << 4) | 3
    np.testing.assert_array_equal(grey(packed_12_bits(values)), levels())


@pytest.mark.parametrize(("dtype", "step"), [(np.int32, 1), (np.int32, 256), (np.int32, 1 << 23)])
def test_32_bits_that_fill_8_16_or_all_of_them(dtype: Any, step: int) -> None:
    values = levels().astype(np.int64) * step
    np.testing.assert_array_equal(grey(tiff(values.astype(dtype))), levels())


def test_32_bits_without_a_sign() -> None:
    content = bytearray(tiff((levels().astype(np.uint32) << 24).view(np.int32)))
    at = content.index(struct.pack("<HHI", 339, 3, 1))
    content[at + 8 : at + 10] = struct.pack("<H", 1)
    np.testing.assert_array_equal(grey(bytes(content)), levels())


def test_white_is_zero() -> None:
    values = levels().astype(np.uint16) * 256
    content = bytearray(tiff(values))
    at = content.index(struct.pack("<HHI", 262, 3, 1))
    content[at + 8 : at + 10] = struct.pack("<H", 0)
    np.testing.assert_array_equal(grey(bytes(content)), 255 - levels())


@pytest.mark.parametrize(
    "values",
    [
        levels().astype(np.uint16) * 16,  # 12 bits in 16
        levels().astype(np.uint16),
        levels().astype(np.int32) * 10,
        levels().astype(np.int32) * 1000,
        levels().astype(np.int32) - 128,
        levels().astype(np.float32) * 257,
        levels().astype(np.float32) / 32,
        levels().astype(np.float32) - 1000,
    ],
    ids=lambda values: f"{values.dtype} {values.min()} to {values.max()}",
)
def test_what_says_nothing_and_fills_no_range_is_refused(values: npt.NDArray[Any]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    for source in (buffer.getvalue(), Image.fromarray(values)):
        with pytest.raises(ImageError, match="does not say which of them is white; save it"):
            load_image(source)


def test_black_stays_black() -> None:
    for dtype in (np.uint16, np.int32, np.float32):
        assert not grey(tiff(np.zeros((4, 4), dtype))).any()


def test_infinity_and_what_is_no_number() -> None:
    values = (levels() / 255).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    assert grey(tiff(values))[0, :3].tolist() == [0, 255, 0]


@given(st.integers(0, 2), st.floats(0.1, 1), st.booleans())
def test_never_black_without_a_word(kind: int, peak: float, named: bool) -> None:
    """Whatever the depth: bright things are bright, or the picture is refused."""
    high = [1.0, 2**12 - 1, 2**16 - 1][kind] * peak
    values = (levels() / 255 * high).astype([np.float32, np.uint16, np.uint16][kind])
    tags = {341: [1.0, 2**12 - 1, 2**16 - 1][kind]} if named else None
    try:
        found = grey(tiff(values, tags))
    except ImageError:
        assert not named
        return
    assert abs(int(found.max()) - 255 * peak) <= 2
