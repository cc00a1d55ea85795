"""GRAIN's three losses: L = L_ic + L_box + L_rd, and the matching that the last two share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from .boxes import overlap, to_corners

# DETR's weights of the matching cost.
_L1, _GIOU = 5.0, 2.0


@dataclass(frozen=True)
class Matches:
    """The matching of predicted boxes to true ones, over a batch.

    Attributes:
        pictures: int64 [M], the row of the batch.
        queries: int64 [M], the region query.
        targets: int64 [M], the true box, counted through all pictures of the batch.
    """

    pictures: Tensor
    queries: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.pictures)


def match(boxes: Tensor, truth: Sequence[Tensor]) -> Matches:
    """The cheapest assignment of each picture's boxes to its queries (Hungarian algorithm).

    The cost is 5 L1 - 2 GIoU, as in the released code; descriptions do not affect it.

    Args:
        boxes: float32 [N, q, 4], predicted; centre, width, height.
        truth: For each picture float32 [n, 4]; n may be 0. If n is above q, the q cheapest are matched.
    """
    from scipy.optimize import linear_sum_assignment

    rows: list[npt.NDArray[np.int64]] = []
    with torch.no_grad():
        counts = [len(boxes_of) for boxes_of in truth]
        everything = torch.cat(list(truth))
        picture = torch.arange(len(counts), device=boxes.device).repeat_interleave(
            torch.tensor(counts, device=boxes.device)
        )
        # Each true box against the queries of its own picture: [sum n, q].
        mine, others = everything[:, None], boxes[picture]
        far = (mine - others).abs().sum(-1)
        cost = _L1 * far - _GIOU * overlap(to_corners(mine), to_corners(others))[1]
        # A diverged network is detected by its loss.
        table = np.nan_to_num(cost.cpu().numpy().astype(np.float64))
    start = 0
    for index, count in enumerate(counts):
        targets, queries = linear_sum_assignment(table[start : start + count])
        rows.append(np.stack([np.full(len(targets), index), queries, start + targets]))
        start += count
    return Matches(*torch.from_numpy(np.concatenate(rows, 1)).to(boxes.device))


def contrast(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """L_ic, the symmetric InfoNCE of pictures and captions over the batches of all processes.

    Args:
        images: float32 [N, d], L2-normalised; N is the same in every process.
        texts: float32 [N, d], L2-normalised.
        scale: The factor of the cosines.
    """
    logits = scale * _gather(images) @ _gather(texts).T
    diagonal = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, diagonal) + functional.cross_entropy(logits.T, diagonal)) / 2


def box_loss(boxes: Tensor, truth: Sequence[Tensor], matches: Matches) -> Tensor:
    """L_box, the mean of L1 + (1 - GIoU) over the matched boxes of all processes; 0 without boxes.

    Args:
        boxes: float32 [N, q, 4], predicted.
        truth: For each picture float32 [n, 4].
        matches: See `match`.
    """
    predicted = boxes[matches.pictures, matches.queries]
    wanted = torch.cat(list(truth))[matches.targets]
    giou = overlap(to_corners(predicted), to_corners(wanted))[1]
    return ((predicted - wanted).abs().sum() + (1 - giou).sum()) / _share(len(matches), boxes.device)


def region_loss(regions: Tensor, descriptions: Tensor, meanings: Tensor, matches: Matches, scale: Tensor) -> Tensor:
    """L_rd, the cross-entropy of each matched region against this process's descriptions; 0 without regions.

    Args:
        regions: float32 [N, q, d], L2-normalised.
        descriptions: float32 [U, d], L2-normalised, no two of the same text: equal ones are not negatives.
        meanings: int64 [sum n], the description of each true box, counted as in the matches.
        matches: See `match`.
        scale: The factor of the cosines.
    """
    right = meanings[matches.targets]
    logits = scale * regions[matches.pictures, matches.queries] @ descriptions.T
    total = functional.cross_entropy(logits, right, reduction="sum") if len(right) else logits.sum()
    return total / _share(len(matches), regions.device)


def _share(count: int, device: torch.device) -> float:
    """The divisor of a sum over this process's boxes that makes the mean over processes the mean over all boxes."""
    if not dist.is_initialized():
        return max(1, count)
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return max(1.0, float(total)) / dist.get_world_size()


def _gather(vectors: Tensor) -> Tensor:
    """The vectors of all processes, in their order.

    All processes compute the same loss of them, each with gradients for its own part, which the mean over processes
    would make smaller.
    """
    if not dist.is_initialized():
        return vectors
    count = dist.get_world_size()
    every = [torch.empty_like(vectors) for _ in range(count)]
    dist.all_gather(every, vectors.detach())
    every[dist.get_rank()] = vectors + (count - 1) * (vectors - vectors.detach())
    return torch.cat(every)
