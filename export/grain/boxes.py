"""DETR's forms of boxes: centre, width and height as shares of the picture, or corners."""

from __future__ import annotations

import torch
from torch import Tensor


def to_corners(boxes: Tensor) -> Tensor:
    """Float [..., 4], centre x and y, width, height -> x0, y0, x1, y1."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (arXiv 1902.09630) of boxes given by their corners.

    Args:
        a: float [..., 4]; may broadcast with `b`, such as [n, 1, 4] with [m, 4].
        b: float [..., 4].

    Returns:
        Two arrays, float [...]: IoU in [0, 1], GIoU in [-1, 1]. Boxes without area have IoU 0.
    """

    def area(low: Tensor, high: Tensor) -> Tensor:
        sides = (high - low).clamp(min=0)
        return sides[..., 0] * sides[..., 1]

    (a0, a1), (b0, b1) = (a[..., :2], a[..., 2:]), (b[..., :2], b[..., 2:])
    shared = area(torch.maximum(a0, b0), torch.minimum(a1, b1))
    union = area(a0, a1) + area(b0, b1) - shared
    hull = area(torch.minimum(a0, b0), torch.maximum(a1, b1))
    tiny = torch.finfo(a.dtype).tiny
    iou = shared / union.clamp(min=tiny)
    return iou, iou - (hull - union) / hull.clamp(min=tiny)
