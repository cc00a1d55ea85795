"""Transparent pictures over a colour: each model's own, or none where it drops the alpha."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]

# Pixels that are blended at once, so that a large picture is not held in 32 bits.
_STRIP = 1 << 18


def flattened(pixels: Pixels, background: tuple[int, int, int] | None) -> Pixels:
    """A picture without its alpha; equal to Pillow's `alpha_composite` over the colour, bit for bit.

    Args:
        pixels: uint8 [H, W, 4], RGBA; or [H, W, 3], which is returned itself.
        background: RGB of what shows through; None drops the alpha, as `convert("RGB")` does.

    Returns:
        uint8 [H, W, 3].
    """
    if pixels.shape[2] == 3:
        return pixels
    if background is None:
        return np.ascontiguousarray(pixels[:, :, :3])
    height, width, _ = pixels.shape
    flat = np.empty((height, width, 3), np.uint8)
    below = np.array(background, np.uint32)
    rows = max(1, _STRIP // max(1, width))
    for top in range(0, height, rows):
        strip = pixels[top : top + rows].astype(np.uint32)
        alpha = strip[:, :, 3:]
        # Pillow's rounding: 7 more bits, and a division by 255 in two shifts.
        sums = (strip[:, :, :3] * alpha + below * (255 - alpha) + 128) << 7
        flat[top : top + rows] = ((sums >> 8) + sums) >> 15
    return flat


def weighted(pixels: Pixels) -> Pixels:
    """Colours times their alpha, as Pillow has them while it resizes: uint8 [H, W, 4] -> uint8 [H, W, 3]."""
    sums = pixels[:, :, :3] * pixels[:, :, 3:].astype(np.uint32) + 128
    return np.asarray(((sums >> 8) + sums) >> 8, np.uint8)


def unweighted(colours: Pixels, alpha: Pixels) -> Pixels:
    """The other way round, as Pillow ends a resize; where nothing shows, the colour stays as it is.

    Args:
        colours: uint8 [H, W, 3].
        alpha: uint8 [H, W, 1].

    Returns:
        uint8 [H, W, 4].
    """
    plain = (alpha == 0) | (alpha == 255)
    whole = np.minimum(255, 255 * colours.astype(np.uint32) // np.maximum(alpha, 1)).astype(np.uint8)
    return np.concatenate([np.where(plain, colours, whole), alpha], axis=2)
