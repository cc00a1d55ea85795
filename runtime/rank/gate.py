"""How sure the candidates' order is before a ranker runs; the gate uses it to skip the ranker.

The margin between the two best similarities hardly predicts where a ranker would do better: both come from the same few
neighbours. A linear discriminant (`memory/discriminant.py`) uses all entries of all classes at once. Where it clearly
agrees with the nearest neighbour, a ranker can gain almost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .protocol import Floats, Query, Weights


def sureness(queries: Sequence[Query], fused: Weights | None = None) -> Floats:
    """The gate's margins, float32 [N].

    Args:
        queries: The pictures and their candidates.
        fused: How the discriminant's evidence and the similarities are added up to the score whose margin is taken, the
            best candidate's over the second; None for the margin of the similarities alone.
    """
    if fused is None:
        return np.array([query.margin for query in queries], np.float32)
    return np.array([_margin(query, fused) for query in queries], np.float32)


def _margin(query: Query, fused: Weights) -> float:
    if query.evidence is None:  # the memory has lost its discriminant: nothing is sure
        return -math.inf
    if len(query.evidence) < 2:
        return math.inf
    second, best = np.sort(fused.finals(query.evidence, query.similarities))[-2:]
    return float(best - second)
