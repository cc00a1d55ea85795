"""Regions against what Pillow, NumPy and SciPy do step by step."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from pillow_reference import resize

from rar.runtime.errors import ImageError, InputError
from rar.runtime.picture.boxes import Blur, box_problems, grown, pixel_boxes
from rar.runtime.picture.preprocess import Preprocess, native_features

LEVELS = native_features()["available"]
SIZE = 40

Pixels = npt.NDArray[np.uint8]
Edges = tuple[int, int, int, int]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAR_SIMD", request.param)
    return str(request.param)


def preprocess(threads: int = 1, size: int = SIZE) -> Preprocess:
    return Preprocess(size, (0, 0, 0), (1 / 255,) * 3, threads=threads)


def photo(height: int, width: int, seed: int = 0) -> Pixels:
    """Noise over slopes and an edge."""
    chance = np.random.default_rng(seed)
    slope = np.linspace(0, 200, width)[None, :, None] * np.linspace(1, 0.2, height)[:, None, None]
    pixels = slope + chance.integers(0, 56, (height, width, 3))
    pixels[height // 3 : height // 2] = 255
    return pixels.astype(np.uint8)


def levels_of(result: npt.NDArray[np.float32]) -> Pixels:
    return np.asarray(np.rint(result).transpose(0, 2, 3, 1), np.uint8)


def squashed(pixels: Pixels, size: int = SIZE) -> Pixels:
    return resize(pixels, size, size)


def pillow_region(pixels: Pixels, box: Edges, around: Edges, radius: float) -> Pixels:
    """Blur the frame, paste the box, crop."""
    frame = Image.fromarray(pixels)
    blurred = frame.filter(ImageFilter.GaussianBlur(radius))
    blurred.paste(frame.crop(box), box[:2])
    return np.asarray(blurred.crop(around))


boxes_in_frame = st.tuples(st.integers(0, 99), st.integers(0, 69), st.integers(1, 100), st.integers(1, 70)).map(
    lambda it: (it[0], it[1], min(it[0] + it[2], 100), min(it[1] + it[3], 70))
)


@given(
    boxes=st.lists(boxes_in_frame, min_size=1, max_size=4),
    radius=st.one_of(st.just(0.0), st.floats(0.01, 60)),
    grow=st.floats(1, 4),
    simd=st.sampled_from(LEVELS),
    threads=st.integers(1, 3),
)
@example(boxes=[(0, 0, 100, 70)], radius=2000.0, grow=1.0, simd="scalar", threads=1)
@example(boxes=[(50, 30, 51, 31)], radius=0.3, grow=16.0, simd="scalar", threads=1)
@settings(deadline=None, max_examples=150)
def test_pillow_blur_equals_blurring_the_frame_then_paste_crop_resize(
    boxes: list[Edges], radius: float, grow: float, simd: str, threads: int
) -> None:
    pixels = photo(70, 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAR_SIMD", simd)
        pre = preprocess(threads)
    result = pre.regions(pixels, boxes, grow, Blur(radius, "pixels", "pillow"))
    for box, region in zip(boxes, levels_of(result), strict=True):
        around = grown(box, grow, 100, 70, square=False)
        np.testing.assert_array_equal(region, squashed(pillow_region(pixels, box, around, radius)))


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 2.0, 5.9, 6.0, 7.5, 13.0, 40.0, 150.0])
def test_gaussian_blur_is_within_two_levels_of_the_real_one(level: str, sigma: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    pixels = photo(180, 240)
    exact = ndimage.gaussian_filter(
        pixels.astype(float), (sigma, sigma, 0), mode="nearest", truncate=8.0 if sigma < 50 else 4.0
    )
    # A box of one pixel, shown at its own size: nearly all of the region is blurred.
    region = levels_of(
        preprocess(size=96).regions(pixels, [(100, 90, 101, 91)], 16.0, Blur(sigma, "pixels"), square=True)
    )[0]
    around = grown((100, 90, 101, 91), 16.0, 240, 180, square=True)
    reference = squashed(np.rint(exact).astype(np.uint8)[around[1] : around[3], around[0] : around[2]], 96)
    away = np.ones((96, 96), bool)
    away[38:58, 38:58] = False  # the sharp pixel and what the filter makes of it
    difference = np.abs(region.astype(int) - reference.astype(int))[away]
    assert difference.max() <= 2
    assert difference.mean() < 0.4


def test_gaussian_blur_is_the_same_at_every_level() -> None:
    pixels = photo(120, 160)
    results = []
    for simd in LEVELS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAR_SIMD", simd)
            results.append(preprocess().regions(pixels, [(20, 30, 60, 80), (3, 4, 5, 6)], 2.0, Blur(0.3)))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_blurring_a_flat_picture_changes_nothing(level: str) -> None:
    pixels = np.full((50, 60, 3), (0, 128, 255), np.uint8)
    for method in ("gaussian", "pillow"):
        for radius in (0.4, 3.0, 30.0, 3000.0):
            blur = Blur(radius, "pixels", method)
            result = levels_of(preprocess().regions(pixels, [(10, 10, 20, 30)], 2.0, blur))
            np.testing.assert_array_equal(result[0], squashed(pixels[:SIZE, :SIZE]))


@pytest.mark.parametrize("radius", [0.8, 2.5, 12.0, 40.0])
@pytest.mark.parametrize("method", ["gaussian", "pillow"])
def test_shared_blur_gives_what_single_regions_get(level: str, radius: float, method: Any) -> None:
    pixels = photo(150, 200)
    boxes = [(x, y, x + 30, y + 25) for x in range(0, 170, 20) for y in range(0, 120, 20)]
    blur = Blur(radius, "pixels", method)
    together = preprocess(threads=3).regions(pixels, boxes, 1.5, blur)
    alone = np.concatenate([preprocess().regions(pixels, [box], 1.5, blur) for box in boxes])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("options", [{}, {"grow": 1.0}, {"grow": 3.0}], ids=str)
def test_shared_blur_holds_all_that_regions_show(level: str, options: dict[str, Any]) -> None:
    chance = np.random.default_rng(2)
    pixels = photo(230, 310)
    left, top = chance.integers(0, (280, 200), (40, 2)).T
    width, height = chance.integers(1, 90, (40, 2)).T
    edges = zip(left, top, np.minimum(left + width, 310), np.minimum(top + height, 230), strict=True)
    boxes = [tuple(int(edge) for edge in box) for box in edges]
    blur = Blur(5.0, "pixels")
    pre = preprocess()
    pre.regions(255 - pixels, [(0, 0, 310, 230)] * 2, 1.0, blur)  # another picture in its memory
    together = pre.regions(pixels, boxes, blur=blur, **options)
    for position, box in enumerate(boxes):
        np.testing.assert_array_equal(together[position], pre.regions(pixels, [box], blur=blur, **options)[0])


def test_radius_is_a_share_of_the_longer_side() -> None:
    pixels = photo(90, 120)
    by_box = preprocess().regions(pixels, [(20, 20, 60, 40)], 2.0, 0.25)
    by_pixels = preprocess().regions(pixels, [(20, 20, 60, 40)], 2.0, Blur(10.0, "pixels"))
    np.testing.assert_array_equal(by_box, by_pixels)


@pytest.mark.parametrize("blur", [None, 0, Blur(0.0), Blur(0.0, "pixels", "pillow")])
def test_without_blur_a_region_is_the_crop(level: str, blur: Blur | float | None) -> None:
    pixels = photo(70, 100)
    result = levels_of(preprocess().regions(pixels, [(30, 20, 50, 40)], 2.0, blur))
    np.testing.assert_array_equal(result[0], squashed(pixels[10:50, 20:60]))


def test_growth_may_depend_on_the_objects_size() -> None:
    steps = [(32, 3.0), (96, 2.0), (math.inf, 1.5)]
    assert grown((100, 100, 110, 110), steps, 999, 999, square=False) == (90, 90, 120, 120)
    assert grown((100, 100, 140, 140), steps, 999, 999, square=False) == (80, 80, 160, 160)
    assert grown((100, 100, 300, 300), steps, 999, 999, square=False) == (50, 50, 350, 350)


def test_square_grows_the_shorter_side() -> None:
    assert grown((40, 40, 60, 50), 2.0, 100, 100, square=True) == (30, 25, 70, 65)


def test_boxes_cover_every_pixel_they_touch() -> None:
    assert pixel_boxes([(10.2, 5.9, 10.3, 6.1), (-5, -5, 3.5, 200)], 100, 70) == [(10, 5, 11, 7), (0, 0, 4, 70)]


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_fit_is_that_of_a_picture(level: str, fit: str) -> None:
    pixels = photo(70, 100)
    pre = preprocess()
    like = Preprocess(SIZE, (0, 0, 0), (1 / 255,) * 3, fit=fit)
    result = pre.regions(pixels, [(10, 20, 70, 40)], 1.0, None, fit=fit)
    np.testing.assert_array_equal(result, like([pixels[20:40, 10:70]]))


def test_output_buffer_and_float16() -> None:
    pixels = photo(70, 100)
    boxes = [(10, 10, 30, 30), (50, 20, 90, 60)]
    plain = preprocess().regions(pixels, boxes)
    out = np.zeros((2, 3, SIZE, SIZE), np.float32)
    assert preprocess().regions(pixels, boxes, out=out) is out
    np.testing.assert_array_equal(out, plain)
    np.testing.assert_array_equal(preprocess().regions(pixels, boxes, dtype=np.float16), plain.astype(np.float16))


@pytest.mark.parametrize("boxes", [[], np.empty((0, 4))])
def test_no_box_gives_an_empty_batch(boxes: Any) -> None:
    assert preprocess().regions(photo(20, 20), boxes).shape == (0, 3, SIZE, SIZE)


BAD_BOXES = [
    (5, 5, 5, 9),
    (5, 5, 9, 5),
    (9, 5, 5, 9),
    (float("nan"), 0, 5, 5),
    (0, 0, float("inf"), 5),
    (100, 0, 120, 5),
    (-20, 0, 0, 5),
    (0, -9, 5, 0),
    (0, 70, 5, 99),
    (-1e308, -1e308, -1e307, 1e308),
]


@pytest.mark.parametrize("bad", BAD_BOXES)
def test_bad_box_is_named_and_the_others_can_be_told_beforehand(bad: tuple[float, ...]) -> None:
    boxes = [(0, 0, 5, 5), bad]
    with pytest.raises(ImageError, match="region 1: box"):
        preprocess().regions(photo(70, 100), boxes)
    good, problem = box_problems(boxes, 100, 70)
    assert good is None
    assert problem


@pytest.mark.parametrize(
    "box", [(-1e308, -1e308, 1e308, 1e308), (-50, -50, 1, 1), (99, 69, 100, 70), (99.5, 0, 1e9, 1e-9)]
)
def test_partly_outside_and_one_pixel_boxes_are_taken(level: str, box: tuple[float, ...]) -> None:
    assert np.isfinite(preprocess().regions(photo(70, 100), [box], 1.5)).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (3, 2000)])
def test_tiny_and_long_pictures_are_taken(level: str, shape: tuple[int, int]) -> None:
    pixels = photo(*shape)
    for blur in (Blur(0.5), Blur(5, "pixels", "pillow"), Blur(9000, "pixels"), Blur(9000, "pixels", "pillow")):
        assert np.isfinite(preprocess().regions(pixels, [(0, 0, 1, 1)], 16, blur)).all()


@pytest.mark.parametrize(
    ("boxes", "options"),
    [
        ([(0, 0, 5)], {}),
        ([0, 0, 5, 5], {}),
        ("boxes", {}),
        ([(0, 0, 5, "x")], {}),
        ([(0, 0, 5, 5)], {"grow": 0.5}),
        ([(0, 0, 5, 5)], {"grow": 1e300}),
        ([(0, 0, 5, 5)], {"grow": float("nan")}),
        ([(0, 0, 5, 5)], {"grow": [(32, 2.0)]}),
        ([(0, 0, 5, 5)], {"grow": []}),
        ([(0, 0, 5, 5)], {"grow": "large"}),
        ([(0, 0, 5, 5)], {"blur": -1}),
        ([(0, 0, 5, 5)], {"blur": float("nan")}),
        ([(0, 0, 5, 5)], {"blur": "much"}),
        ([(0, 0, 5, 5)], {"fit": "stretch"}),
        ([(0, 0, 5, 5)], {"dtype": np.float64}),
        ([(0, 0, 5, 5)], {"out": np.zeros((2, 3, SIZE, SIZE), np.float32)}),
    ],
)
def test_bad_settings_are_refused(boxes: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        preprocess().regions(photo(70, 100), boxes, **options)


@pytest.mark.parametrize(
    ("radius", "unit", "method"), [(-1, "box", "gaussian"), (1, "cm", "gaussian"), (1, "box", "x")]
)
def test_bad_blur_is_refused(radius: float, unit: Any, method: Any) -> None:
    with pytest.raises(InputError):
        Blur(radius, unit, method)
