"""What orders the candidates that retrieval found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from .clip import Regions
from .images import Pixels
from .memory import Candidate

Floats = npt.NDArray[np.float32]

# The rankers by the names that callers give them; `none` keeps the retrieval's order.
Rank: TypeAlias = Literal["none", "wca", "grain", "mllm"]
RANKS: tuple[Rank, ...] = get_args(Rank)


@dataclass(frozen=True)
class Query:
    """One picture on its way through the ranker.

    Attributes:
        pixels: uint8 [H, W, 3], the decoded picture.
        embedding: float32 [d], L2-normalised.
        candidates: The k retrieved classes, best first.
        features: float32 [t, C], the encoder's `image_features`; None where it gives none.
        regions: The encoder's regions; None where it gives none.
    """

    pixels: Pixels
    embedding: Floats
    candidates: Sequence[Candidate]
    features: Floats | None = None
    regions: Regions | None = None

    @property
    def margin(self) -> float:
        """By how much the best class is more similar than the second; infinite where there is no second."""
        best, *others = self.candidates
        return best.similarity - others[0].similarity if others else math.inf


@dataclass(frozen=True)
class Region:
    """A part of a picture that spoke for one of its candidates.

    Attributes:
        label: The candidate's class.
        box: x0, y0, x1, y1 in pixels.
        description: What the class says of itself that is nearest to the part.
        score: Their cosine.
    """

    label: str
    box: tuple[float, float, float, float]
    description: str
    score: float


@dataclass(frozen=True)
class Ranking:
    """What a ranker says about one picture's candidates; it can neither add one nor lose one.

    Attributes:
        scores: float32 [k], in the candidates' order; higher is better.
        fallback: Whether its answer could not be used, so that all scores are equal.
        regions: Where in the picture it saw what, the surest first, if it looks at parts.
    """

    scores: Floats
    fallback: bool = False
    regions: Sequence[Region] = ()

    def order(self, candidates: Sequence[Candidate], fusion: float = 0.0) -> list[Candidate]:
        """The candidates by falling final score, the mean of score and similarity.

        Args:
            candidates: As they were ranked.
            fusion: Weight of the similarity against the ranker's score, which weighs 1.

        Returns:
            Each with its final score; of equal ones the retrieval's first.
        """
        similarity = np.array([candidate.similarity for candidate in candidates], np.float32)
        finals = (self.scores + fusion * similarity) / (1 + fusion)
        return [replace(candidates[i], rank_score=float(finals[i])) for i in np.argsort(-finals, kind="stable")]


class Ranker(Protocol):
    """Scores the candidates of each picture."""

    def rank(self, queries: Sequence[Query]) -> list[Ranking]:
        """One ranking a query."""
        ...
