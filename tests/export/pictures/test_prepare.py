"""What a model's own preparation makes of transparency is found by trying, kept, and compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rar.export.pictures.prepare import SQUARE, UPRIGHT_AND_FLAT, Reference, compare, with_alpha
from rar.runtime import ExportError, Preprocess

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
COLOURS = [None, (255, 255, 255), (0, 0, 0), (127, 3, 250)]


def own(colour: tuple[int, int, int] | None, late: bool = False, side: int = 32) -> Reference:
    """A processor as those of transformers and open_clip are; `late` resizes first."""

    def opaque(image: Image.Image) -> Image.Image:
        if colour is not None and image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*colour, 255)), image)
        return image.convert("RGB")

    def resized(image: Image.Image) -> Image.Image:
        return image.resize((side, side), Image.Resampling.BICUBIC)

    def prepare(image: Image.Image) -> np.ndarray:
        small = np.asarray(opaque(resized(image)) if late else resized(opaque(image)))
        return ((small / 255 - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)

    return prepare


def prepared(**settings: object) -> Preprocess:
    return Preprocess(32, MEAN, STD, fit="squash", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("side", [32, 64, 70])
def test_what_it_does_is_found(colour: tuple[int, int, int] | None, late: bool, side: int) -> None:
    pre = Preprocess(side, MEAN, STD, fit="squash")
    found = with_alpha(pre, own(colour, late, side)).to_dict()
    assert found.get("background") == (None if colour is None else list(colour))
    assert found.get("weigh_alpha", False) == late


def test_a_model_that_takes_no_transparent_picture_has_none(photos: list[Path]) -> None:
    def strict(image: Image.Image) -> np.ndarray:
        if image.mode != "RGB":
            raise ValueError("mean must have 4 elements")
        return own(None)(image)

    pre = with_alpha(prepared(), strict)
    assert pre.background is None
    assert compare(pre, strict, "tiny", photos[:2], SQUARE)["transparent"] == 0


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("colour", COLOURS)
def test_transparent_pictures_are_compared(colour: tuple[int, int, int] | None, late: bool, photos: list[Path]) -> None:
    reference = own(colour, late)
    found = compare(with_alpha(prepared(), reference), reference, "tiny", photos[:2], UPRIGHT_AND_FLAT)
    assert found["count"] == found["transparent"] == 6
    assert found["max_difference"] < 1e-5
    other = prepared(background=(9, 9, 9))
    with pytest.raises(ExportError, match="otherwise than tiny"):
        compare(other, reference, "tiny", photos[:1], SQUARE)
