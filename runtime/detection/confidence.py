"""A detection's confidence: the detector's score of the box merged with the class's probability."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..memory import Candidate

# CLIP's own multiplier of cosines under a softmax: its learned logit scale ends at its limit, 100 (arXiv 2103.00020).
_COSINES = 100.0
# The geometric mean of the proposal's score and the class's score, as in CenterNet2 and Detic (arXiv 2201.02605).
FUSION = 0.5


def probability(candidates: Sequence[Candidate], sharpness: float | None = None) -> float:
    """The best candidate's softmax probability among a picture's candidates; 1 if it is the only one.

    Args:
        candidates: In their final order, at least one.
        sharpness: The factor that turns final scores into log-probabilities; None for cosines of which nothing more is
            known.
    """
    return math.exp(log_probabilities(candidates, sharpness)[candidates[0].label])


def log_probabilities(candidates: Sequence[Candidate], sharpness: float | None = None) -> dict[str, float]:
    """The log of each candidate's softmax probability among a picture's candidates.

    Args:
        candidates: At least one.
        sharpness: See `probability`.
    """
    scale = _COSINES if sharpness is None else sharpness
    finals = scale * np.array([c.similarity if c.rank_score is None else c.rank_score for c in candidates])
    finals -= finals.max()
    logs = finals - np.log(np.exp(finals).sum())
    return dict(zip((c.label for c in candidates), logs.tolist(), strict=True))


def merged(proposal: float, share: float, proposal_exponent: float) -> float:
    """A detection's score, proposal^a * p^(1 - a), 0 to 1.

    The paper gives no formula. With a = 0 the detector's score does not count; with a = 1 only the detector's counts.

    Args:
        proposal: The detector's score of the box, 0 to 1.
        share: p, see `probability`.
        proposal_exponent: a, the public option `fusion`.
    """
    return float(proposal**proposal_exponent * share ** (1 - proposal_exponent))


def check_fusion(fusion: float) -> None:
    """Checks that the exponent is in [0, 1].

    Raises:
        InputError: The exponent is outside [0, 1].
    """
    if isinstance(fusion, bool) or not isinstance(fusion, (int, float)) or not 0 <= fusion <= 1:
        raise InputError(f"fusion={fusion!r}; give 0 (the ranking alone) to 1 (the detector's score alone)")
