"""Boxes of pictures that EXIF turns or that were resized are cut where they belong, or the file is said not to fit."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rar.runtime import Frame, ImageError, Preprocess
from rar.runtime.detection.frames import Cutter, RegionOptions, pack
from rar.runtime.detection.measured import as_seen
from rar.runtime.picture.load import Reading, decode
from rar.runtime.stream.intake import Pace, intake

# In the picture as it is stored: a red mark on grey.
SIZE, MARK = (120, 80), (10, 20, 50, 36)
TURNS = range(1, 9)


def marked(orientation: int = 1, scale: float = 1) -> bytes:
    image = Image.new("RGB", SIZE, (90, 90, 90))
    image.paste((250, 0, 0), MARK)
    image = image.resize((round(SIZE[0] * scale), round(SIZE[1] * scale)), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def upright_mark(content: bytes) -> tuple[int, int, int, int]:
    """Where the mark is seen."""
    red = decode(content).pixels[:, :, 0] > 200
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def cut(content: bytes, box: tuple[float, ...], measured: tuple[int, int] | None) -> Any:
    """What is cut out of the picture, or the error."""
    with ThreadPoolExecutor(1) as decoders:
        pre = Preprocess(16, (0, 0, 0), (1, 1, 1))
        cutter = Cutter(pre, RegionOptions(1.0, None, False), decoders, Reading(), drawn=False)
        pace = Pace(4)
        frames = intake([Frame(content, [box], measured=measured)], pace, lambda frame: frame, Frame.checked)
        (batch,) = pack(frames, 1, pace, cutter, lambda frame: None)
    return batch.pixels[0]


def is_mark(pixels: Any) -> bool:
    return bool((np.asarray(pixels)[:, :, 0] > 200).mean() > 0.9)


@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
@pytest.mark.parametrize("scale", [1, 2, 0.5, 1.37])
def test_measured_in_the_picture_as_it_is_stored(orientation: int, scale: float) -> None:
    pixels = cut(marked(orientation, scale), MARK, SIZE)
    assert is_mark(pixels)
    turned = orientation >= 5
    assert (pixels.shape[0] > pixels.shape[1]) == turned


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("scale", [1, 2, 0.5, 1.37])
def test_measured_upright(orientation: int, scale: float) -> None:
    whole = marked(orientation)
    measured = SIZE if orientation < 5 else SIZE[::-1]
    assert is_mark(cut(marked(orientation, scale), upright_mark(whole), measured))


def test_without_a_size_boxes_are_the_upright_picture_s_own() -> None:
    assert is_mark(cut(marked(6), upright_mark(marked(6)), None))


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("measured", [(80, 80), (120, 90), (1200, 120), (500, 350)])
def test_another_shape_is_said_so(orientation: int, measured: tuple[int, int]) -> None:
    error = cut(marked(orientation), MARK, measured)
    assert isinstance(error, ImageError)
    seen = "120x80" if orientation < 5 else "80x120"
    assert f"measured in a picture of {measured[0]}x{measured[1]}, but it has {seen}" in str(error)


def test_a_turned_shape_without_a_turn_is_said_so() -> None:
    assert isinstance(cut(marked(1), MARK, SIZE[::-1]), ImageError)


@given(
    st.tuples(st.integers(50, 4000), st.integers(50, 4000)),
    st.floats(0.2, 5),
    st.sampled_from([1, 5, 6, 7, 8]),
    st.tuples(*[st.floats(0, 1)] * 4),
)
def test_rounded_sides_are_the_same_shape_and_boxes_stay_inside(
    size: tuple[int, int], scale: float, orientation: int, shares: tuple[float, float, float, float]
) -> None:
    stored = max(20, round(size[0] * scale)), max(20, round(size[1] * scale))
    seen = stored if orientation < 5 else stored[::-1]
    x, y = sorted(shares[:2]), sorted(shares[2:])
    box = np.array([[x[0] * size[0], y[0] * size[1], x[1] * size[0], y[1] * size[1]]])
    ratio = size[0] / size[1] / (stored[0] / stored[1])
    if abs(ratio - 1) > 0.004:
        return  # rounding a short side changed the shape
    found = as_seen(box, size, seen, orientation)[0]
    assert (found >= -1e-6).all()
    assert (found <= np.array([*seen, *seen]) + 1e-6).all()
    assert found[0] <= found[2]
    assert found[1] <= found[3]
    area = (x[1] - x[0]) * (y[1] - y[0]) * seen[0] * seen[1]
    assert (found[2] - found[0]) * (found[3] - found[1]) == pytest.approx(area, rel=1e-6, abs=1e-3)
