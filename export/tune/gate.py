"""Fits the margin from which a ranker may be left out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rar.runtime.rank.protocol import Weights
from rar.runtime.rank.tuning import Fused

from .judged import Judged

# The share that is skipped, of the pictures that a loss allows to skip.
_SHARE = 0.9


def fit_gate(
    judged: Judged,
    weights: Weights | float,
    loss: float,
    margins: npt.NDArray[np.float32],
    first: Fused | None = None,
) -> dict[str, float]:
    """The margin from which the ranker is skipped: somewhat higher than the stated loss requires.

    Args:
        judged: The ranker on held-out pictures.
        weights: What counts beside its scores.
        loss: Percentage points of top-1 that may be lost.
        margins: float32 [N], how sure the order of each picture is without it (`sureness`).
        first: How the order without it is made; None for the retrieval's.

    Returns:
        `margin`; `skipped`, the share of pictures at or above it; `top1`, in percent, with it.
    """
    if judged.similarity.shape[1] < 2:
        return {"margin": 0.0, "skipped": 1.0, "top1": round(100 * judged.top1(weights), 2)}
    order = np.argsort(-margins, kind="stable")  # the surest first
    gained = judged.before(first)[order].astype(int) - judged.hits(weights)[order]
    lost = -np.concatenate([[0], np.cumsum(gained)])  # when the surest n keep the order without the ranker
    # Pictures of equal margin are skipped or ranked together.
    apart = np.concatenate([[True], np.diff(margins[order]) < 0, [True]])
    allowed = np.flatnonzero(apart & (lost <= loss / 100 * len(order) + 1e-9))
    # A picture with an unknown margin is never sure.
    allowed = allowed[allowed <= int((margins > -np.inf).sum())]
    # At the exact limit of the loss, other pictures would lose more.
    count = int(allowed[-1] if allowed[-1] == len(order) else allowed[allowed <= _SHARE * allowed[-1]][-1])
    if count:
        margin = margins[order[count - 1]]
        # Halfway to the next, which must not be skipped: the last bit of a margin depends on the batch.
        if count < len(order) and margins[order[count]] < (middle := (margin + margins[order[count]]) / 2):
            margin = middle
    else:
        margin = np.nextafter(margins.max(), np.float32(np.inf))
    skipped = margins >= np.float32(margin)
    hits = judged.gated(weights, skipped, first)
    return {"margin": float(margin), "skipped": float(skipped.mean()), "top1": round(100 * float(hits.mean()), 2)}
