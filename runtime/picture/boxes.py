"""Boxes of detected objects: how far around each box the model looks, and what it sees there.

RAR's detection step crops each proposal, blurs what is not the object and adapts the crop to the object's size;
the paper gives no values, so each one here is a setting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _native
from ..errors import ImageError, InputError

Boxes: TypeAlias = "Sequence[Sequence[float]] | npt.NDArray[np.floating] | npt.NDArray[np.integer]"
Growth: TypeAlias = "float | Sequence[tuple[float, float]]"
Edges: TypeAlias = tuple[int, int, int, int]

MAX_GROWTH = 16.0


@dataclass(frozen=True)
class Blur:
    """How the surroundings of a box are blurred.

    Attributes:
        radius: The Gaussian's standard deviation, in `unit`s.
        unit: `box`, the longer side of the box, or `pixels`. With `pixels` neighbouring regions of a frame
            share one blur.
        method: `gaussian`, a true Gaussian within two levels of the real-valued one, or `pillow`, equal bit for
            bit to PIL.ImageFilter.GaussianBlur(radius) on the whole frame.

    Raises:
        InputError: The radius is negative or not finite, or a name is unknown.
    """

    radius: float = 0.1
    unit: Literal["box", "pixels"] = "box"
    method: Literal["gaussian", "pillow"] = "gaussian"

    def __post_init__(self) -> None:
        if not (isinstance(self.radius, (int, float)) and 0 <= self.radius <= _native.MAX_SIGMA):
            raise InputError(f"a blur's radius must be 0 to {_native.MAX_SIGMA:g}, not {self.radius!r}")
        if self.unit not in ("box", "pixels") or self.method not in ("gaussian", "pillow"):
            raise InputError(
                f"a blur must be in units of box or pixels, by gaussian or pillow, not {self.unit!r}, {self.method!r}"
            )

    def sigma(self, box: Edges) -> float:
        """The standard deviation in pixels for one box."""
        longest = max(box[2] - box[0], box[3] - box[1]) if self.unit == "box" else 1
        return min(self.radius * longest, _native.MAX_SIGMA)


def box_problems(boxes: Boxes, width: int, height: int) -> list[str | None]:
    """For each box, why it cannot be used on a picture of this size; None if it can.

    Raises:
        InputError: `boxes` are not [M, 4] numbers.
    """
    return [_problem(box, width, height) for box in box_array(boxes)]


def pixel_boxes(boxes: Boxes, width: int, height: int) -> list[Edges]:
    """All pixels that each box touches: x0, y0, x1, y1 in whole pixels, clipped to the picture.

    Raises:
        ImageError: A box is not finite, inverted, empty or wholly outside; the message names it.
        InputError: `boxes` are not [M, 4] numbers.
    """
    result = []
    for position, box in enumerate(box_array(boxes)):
        problem = _problem(box, width, height)
        if problem:
            raise ImageError(f"region {position}: {problem}")
        x0, y0, x1, y1 = box
        result.append(
            (
                max(math.floor(x0), 0),
                max(math.floor(y0), 0),
                min(math.ceil(x1), width),
                min(math.ceil(y1), height),
            )
        )
    return result


def grown(box: Edges, growth: Growth, width: int, height: int, square: bool) -> Edges:
    """The rectangle around a box that the model sees, cut off at the picture's border.

    Args:
        box: In whole pixels.
        growth: Factor on each side, 1 to 16; or (limit, factor) pairs. The first pair counts whose limit is at least
            the root of the box's area in pixels. The last limit must be infinite.
        width: The picture's width.
        height: The picture's height.
        square: Makes the shorter side as long as the longer one.

    Raises:
        InputError: A factor or limit is out of range.
    """
    x0, y0, x1, y1 = box
    factor = _factor(growth, math.sqrt((x1 - x0) * (y1 - y0)))
    half_width = (x1 - x0) * factor / 2
    half_height = (y1 - y0) * factor / 2
    if square:
        half_width = half_height = max(half_width, half_height)
    middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
    left, top = math.floor(middle_x - half_width), math.floor(middle_y - half_height)
    right, bottom = math.ceil(middle_x + half_width), math.ceil(middle_y + half_height)
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


def box_array(boxes: Boxes) -> npt.NDArray[np.float64]:
    """Boxes as float64 [M, 4].

    Raises:
        InputError: The boxes are not [M, 4] numbers.
    """
    try:
        array = np.asarray(boxes, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"boxes must be [M, 4] numbers: x0, y0, x1, y1 ({error})") from error
    if array.size == 0 and array.ndim <= 2:
        return np.empty((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise InputError(f"boxes must be [M, 4] numbers: x0, y0, x1, y1; not {list(array.shape)}")
    return array


def _problem(box: npt.NDArray[np.float64], width: int, height: int) -> str | None:
    x0, y0, x1, y1 = box.tolist()
    name = f"box {x0:g}, {y0:g}, {x1:g}, {y1:g}"
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        return f"{name} is not finite"
    if x1 <= x0 or y1 <= y0:
        return f"{name} is empty or inverted; it must be x0 < x1, y0 < y1"
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return f"{name} lies outside the picture of {width}x{height}"
    return None


def _factor(growth: Growth, size: float) -> float:
    steps = [(math.inf, growth)] if isinstance(growth, (int, float)) else growth
    try:
        pairs = [(float(limit), float(factor)) for limit, factor in steps]
    except (TypeError, ValueError) as error:
        raise InputError(f"grow must be a factor or (limit, factor) pairs, not {growth!r}") from error
    if not pairs or pairs[-1][0] != math.inf or not all(1 <= factor <= MAX_GROWTH for _, factor in pairs):
        raise InputError(f"grow must be factors of 1 to {MAX_GROWTH:g}, and the last limit infinite, not {growth!r}")
    return next(factor for limit, factor in pairs if size <= limit)
