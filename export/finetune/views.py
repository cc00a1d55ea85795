"""Augmented views of a training picture: without them a small model overfits the pictures.

A view is Inception's random resized crop (arXiv 1409.4842: a share of the area, an aspect ratio from 3/4 to 4/3),
mirrored half of the time, with brightness, contrast and saturation changed.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rar.runtime.picture.load import Pixels

_AREA = (0.3, 1.0)
_RATIO = (3 / 4, 4 / 3)
_COLOUR = (0.6, 1.4)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def random_view(pixels: Pixels, chance: np.random.Generator) -> Pixels:
    """One augmented view: uint8 [H, W, 3] -> uint8 [h, w, 3], to be squashed to the model's size."""
    height, width = pixels.shape[:2]
    area = chance.uniform(*_AREA) * height * width
    ratio = math.exp(chance.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
    crop_width = max(1, min(width, int(math.sqrt(area * ratio))))
    crop_height = max(1, min(height, int(math.sqrt(area / ratio))))
    top, left = int(chance.integers(height - crop_height + 1)), int(chance.integers(width - crop_width + 1))
    view = pixels[top : top + crop_height, left : left + crop_width]
    if chance.random() < 0.5:
        view = view[:, ::-1]
    return _colour(view, *chance.uniform(*_COLOUR, 3))


def _colour(view: Pixels, brightness: float, contrast: float, saturation: float) -> npt.NDArray[np.uint8]:
    changed = view.astype(np.float32) * brightness
    grey = changed @ _LUMA
    changed = (changed - grey.mean()) * contrast + grey.mean()
    grey = (changed @ _LUMA)[..., None]
    bounded = np.clip((changed - grey) * saturation + grey + 0.5, 0, 255)
    return np.asarray(bounded, np.uint8)
