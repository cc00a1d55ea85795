"""What orders the candidates that retrieval found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .images import Pixels
from .memory import Candidate

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Query:
    """One picture on its way through the ranker.

    Attributes:
        pixels: uint8 [H, W, 3], the decoded picture.
        embedding: float32 [d], L2-normalised.
        candidates: The k retrieved classes, best first.
    """

    pixels: Pixels
    embedding: Floats
    candidates: Sequence[Candidate]


class Ranker(Protocol):
    """Scores the candidates of each picture; it can neither add one nor lose one."""

    def rank(self, queries: Sequence[Query]) -> list[npt.NDArray[np.floating]]:
        """For each query one score a candidate, in the candidates' order; higher is better."""
        ...
