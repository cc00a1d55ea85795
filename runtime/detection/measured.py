"""Boxes measured in a picture as it was annotated, brought to the picture as it is seen: turned by EXIF, or resized.

An annotation file gives each picture's width and height. Tools that ignore EXIF measure in the picture as it is stored;
data sets are often downloaded at another size than they were annotated at.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import ImageError

Corners = npt.NDArray[np.float64]

# The shapes of two pictures are equal within so much, and within the rounding of a side to whole pixels.
_SHAPE = 0.005


def as_seen(boxes: Corners, measured: tuple[int, int], seen: tuple[int, int], orientation: int) -> Corners:
    """The boxes in pixels of the upright picture.

    Where the shape fits the upright picture, the boxes are scaled. Where it fits only the picture as it is stored, they
    are scaled and turned along. A turn that keeps the shape (180 degrees, a mirror, a square) cannot be told from it:
    such boxes count as upright.

    Args:
        boxes: float64 [M, 4]: x0, y0, x1, y1.
        measured: Width and height that they were measured in.
        seen: Width and height of the upright picture.
        orientation: The EXIF orientation that made it upright, 1 to 8.

    Returns:
        float64 [M, 4].

    Raises:
        ImageError: Neither fits: the picture was cut, or is another one.
    """
    if measured == seen:
        return boxes
    if _same_shape(measured, seen):
        return _scaled(boxes, measured, seen)
    stored = seen[::-1]
    if orientation >= 5 and _same_shape(measured, stored):
        return _turned(_scaled(boxes, measured, stored), stored, orientation)
    raise ImageError(
        f"its boxes were measured in a picture of {measured[0]}x{measured[1]}, but it has {seen[0]}x{seen[1]}: it was "
        "cut or is another one; take the picture that the annotations describe"
    )


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    ratio = (one[0] * other[1]) / (one[1] * other[0])
    return abs(ratio - 1) <= max(_SHAPE, 1 / min(*one, *other))


def _scaled(boxes: Corners, measured: tuple[int, int], to: tuple[int, int]) -> Corners:
    across, down = to[0] / measured[0], to[1] / measured[1]
    return np.asarray(boxes * np.array([across, down, across, down]), np.float64)


def _turned(boxes: Corners, stored: tuple[int, int], orientation: int) -> Corners:
    """Boxes of the stored picture, whose width and height are given, in the upright one; for orientations 5 to 8."""
    width, height = stored
    x0, y0, x1, y1 = boxes.T
    across = (y0, y1) if orientation in (5, 8) else (height - y1, height - y0)
    down = (x0, x1) if orientation in (5, 6) else (width - x1, width - x0)
    return np.stack([across[0], down[0], across[1], down[1]], axis=1)
