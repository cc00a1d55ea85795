"""How sure a detection is: what the detector says of the box, and retrieval and ranking of the class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import InputError
from .memory import Candidate

# CLIP's own multiplier of cosines under a softmax: its learned logit scale ends at its limit, 100 (arXiv 2103.00020).
_COSINES = 100.0
# The geometric mean, as CenterNet2 and Detic merge a proposal's score and its class's (arXiv 2201.02605).
FUSION = 0.5


def probability(candidates: Sequence[Candidate], log_weight: float | None = None) -> float:
    """The best candidate's share under a softmax over a picture's candidates, 0 to 1; 1 where it is the only one.

    Args:
        candidates: In their final order, at least one.
        log_weight: What makes log-probabilities of the final scores, 1 + w for an MLLM's that were fused with weight w;
            None where they are cosines.
    """
    finals = np.array([c.similarity if c.rank_score is None else c.rank_score for c in candidates])
    scale = _COSINES if log_weight is None else log_weight
    return float(1 / np.exp(scale * (finals - finals[0])).sum())


def merged(proposal: float, share: float, fusion: float) -> float:
    """A detection's score, proposal^a * p^(1 - a), 0 to 1.

    The paper gives no formula. With a = 0 the detector's score does not count, with a = 1 only that does.

    Args:
        proposal: The detector's score of the box, 0 to 1.
        share: p, see `probability`.
        fusion: a.
    """
    return float(proposal**fusion * share ** (1 - fusion))


def check_fusion(fusion: float) -> None:
    """Passes an exponent from 0 to 1.

    Raises:
        InputError: It is none.
    """
    if isinstance(fusion, bool) or not isinstance(fusion, (int, float)) or not 0 <= fusion <= 1:
        raise InputError(f"fusion={fusion!r}; give 0 (the ranking alone) to 1 (the detector's score alone)")
