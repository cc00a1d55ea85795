"""Transparent pictures: over the model's own colour, equal to Pillow; without one the alpha is dropped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rar.runtime import InputError, Preprocess
from rar.runtime.picture import alpha
from rar.runtime.picture.alpha import flattened

COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


def rgba(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)


def over(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """By Pillow, as the processors of SmolVLM and Idefics3 do it."""
    below = Image.new("RGBA", (pixels.shape[1], pixels.shape[0]), (*colour, 255))
    return np.asarray(Image.alpha_composite(below, Image.fromarray(pixels)).convert("RGB"))


@given(COLOURS, st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_equal_to_pillow(colour: tuple[int, int, int], height: int, width: int, seed: int) -> None:
    pixels = rgba(height, width, seed)
    np.testing.assert_array_equal(flattened(pixels, colour), over(pixels, colour))


def test_every_value_under_every_alpha() -> None:
    values, alphas = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    pixels = np.dstack([values, values[::-1], values[:, ::-1], alphas])
    for colour in ((255, 255, 255), (0, 0, 0), (127, 1, 254)):
        np.testing.assert_array_equal(flattened(pixels, colour), over(pixels, colour))


def test_strips_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = rgba(30, 7)
    monkeypatch.setattr(alpha, "_STRIP", 20)
    np.testing.assert_array_equal(flattened(pixels, (255, 255, 255)), over(pixels, (255, 255, 255)))


def preprocess(background: tuple[int, int, int] | None = None) -> Preprocess:
    return Preprocess(16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), background=background)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (10, 20, 30)])
def test_each_model_sees_its_own_colour(colour: tuple[int, int, int]) -> None:
    pixels, opaque = rgba(40, 30), rgba(20, 20)[:, :, :3]
    pre = preprocess(colour)
    np.testing.assert_array_equal(pre([pixels, opaque]), pre([over(pixels, colour), opaque]))
    boxes = [(3, 4, 20, 30), (0, 0, 30, 40)]
    np.testing.assert_array_equal(pre.regions(pixels, boxes), pre.regions(over(pixels, colour), boxes))


@pytest.mark.parametrize("colour", [None, (255, 255, 255), (10, 20, 30)])
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_alpha_that_goes_through_the_resizing_equals_pillow(colour: tuple[int, int, int] | None, fit: str) -> None:
    pixels = rgba(64, 64)
    pixels[:, :, 3] = np.linspace(0, 255, 64).astype(np.uint8)
    pre = Preprocess(16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), fit=fit, background=colour, weigh_alpha=True)
    small = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC))
    flat = small[:, :, :3] if colour is None else over(small, colour)
    expected = ((flat / 255 - pre.mean) / pre.std).transpose(2, 0, 1)
    np.testing.assert_allclose(pre([pixels])[0], expected, atol=1e-5)
    opaque = rgba(20, 20)[:, :, :3]
    np.testing.assert_array_equal(pre([pixels, opaque])[1], preprocess()([opaque])[0])
    assert Preprocess.from_dict(pre.to_dict()).to_dict() == pre.to_dict()


def test_what_is_clear_is_black_in_regions_too() -> None:
    pixels = rgba(64, 64)
    pixels[:, :32, 3], pixels[:, 32:, 3] = 0, 255
    pre = Preprocess(16, (0, 0, 0), (1, 1, 1), weigh_alpha=True)
    clear, opaque = pre.regions(pixels, [(0, 0, 32, 64), (32, 0, 64, 64)], grow=1, blur=None)
    assert not clear.any()
    np.testing.assert_array_equal(opaque, pre.regions(pixels[:, :, :3], [(32, 0, 64, 64)], grow=1, blur=None)[0])
    whole = pre([pixels])[0]
    assert not whole[:, :, :6].any()


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_what_is_not_resized_is_not_weighed(fit: str) -> None:
    pixels = rgba(16, 16)
    pre = Preprocess(16, (0, 0, 0), (1, 1, 1), fit=fit, weigh_alpha=True)
    np.testing.assert_allclose(pre([pixels])[0], pixels[:, :, :3].transpose(2, 0, 1) / np.float32(255), atol=1e-6)


def test_without_a_colour_alpha_is_dropped() -> None:
    pixels, pre = rgba(40, 30), preprocess()
    np.testing.assert_array_equal(pre([pixels]), pre([pixels[:, :, :3]]))


def test_the_colour_is_kept_with_the_settings_and_absent_in_those_of_before() -> None:
    assert Preprocess.from_dict(preprocess((1, 2, 3)).to_dict()).background == (1, 2, 3)
    before = preprocess().to_dict()
    assert "background" not in before
    assert Preprocess.from_dict(before).background is None


@pytest.mark.parametrize("colour", [(1, 2), (1, 2, 256), (1, 2, -1), "white", 255, (1.5, 2, 3)])
def test_what_is_no_colour(colour: object) -> None:
    with pytest.raises(InputError, match="background"):
        preprocess(colour)  # type: ignore[arg-type]
