"""Fits how pictures of no class are told, and from which probability on they are refused, on held-out pictures.

No stranger is needed: a held-out picture is one as long as its own class is left out of the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rar.runtime.memory import Memory
from rar.runtime.memory.strangers import POOL, Strangers, fit_strangers, traits_of_nearest

Floats = npt.NDArray[np.float32]

# Fewer held-out pictures say too little of their worst twentieth.
_FEWEST = 20


def fit_unknown(
    memory: Memory, embeddings: Floats, truth: Sequence[str], rate: float
) -> tuple[Strangers | None, dict[str, Any] | None]:
    """How strangers are told.

    Args:
        memory: What they are strange to.
        embeddings: float32 [N, d], of held-out pictures.
        truth: The class of each.
        rate: The share of the pictures that may be refused, 0 to 1.

    Returns:
        What was fitted, and what was measured on the same pictures: how many they are, the area under the ROC curve,
        and the percentages that are refused of them and of the same as strangers. Both None where too few of the
        pictures are of a class with pictures, or nothing tells them from strangers.
    """
    discriminant = memory.discriminant
    if discriminant is None:
        return None, None
    usable = [place for place, label in enumerate(truth) if discriminant.knows(label)]
    if len(usable) < _FEWEST:
        return None, None
    vectors, own = embeddings[usable], [truth[place] for place in usable]
    nearest = memory.search_pictures(vectors, POOL + 1)
    others = [[one for one in row if one.label != label][:POOL] for row, label in zip(nearest, own, strict=True)]
    known = traits_of_nearest(discriminant, vectors, [row[:POOL] for row in nearest])
    strange = traits_of_nearest(discriminant, vectors, others)
    strangers = fit_strangers(known, strange, rate)
    if strangers is None:
        return None, None
    chances, of_strange = strangers.chances(known), strangers.chances(strange)
    return strangers, {
        "pictures": len(usable),
        "auroc": round(area(chances, of_strange), 4),
        "false_rejections": round(100 * float((chances >= strangers.limit).mean()), 2),
        "refused": round(100 * float((of_strange >= strangers.limit).mean()), 2),
    }


def area(known: npt.NDArray[np.float64], strange: npt.NDArray[np.float64]) -> float:
    """The area under the ROC curve: how often a strange picture has the higher value; equal ones count by half."""
    _, place, counts = np.unique(np.concatenate([known, strange]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    wins = ranks[len(known) :].sum() - len(strange) * (len(strange) + 1) / 2
    return float(wins / (len(known) * len(strange)))
