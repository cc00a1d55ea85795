"""What orders the candidates that retrieval found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ..bundle.manifest import Bundle
from ..encoder.clip import Clip, GrainRegions
from ..memory import Candidate, Retrieval
from ..picture.load import Pixels

Floats = npt.NDArray[np.float32]

# A ranker's name in the table `RANKERS`, or `none`, which keeps the retrieval's order.
Rank: TypeAlias = str
# What a ranker looks at: the decoded picture, the encoder's `image_features`, or the encoder's regions.
Needs: TypeAlias = Literal["pixels", "features", "regions"]


@dataclass(frozen=True)
class Query:
    """One picture on its way through the ranker.

    Attributes:
        pixels: uint8 [H, W, 3], the decoded picture; with alpha [H, W, 4] if it is transparent somewhere.
        embedding: float32 [d], L2-normalised.
        candidates: The k retrieved classes, best first.
        features: float32 [t, C], the encoder's `image_features`; None where it gives none.
        regions: The encoder's regions; None where it gives none.
        evidence: float32 [k], the log-probabilities that the memory's discriminant gives the candidates; None where it
            takes no part.
    """

    pixels: Pixels
    embedding: Floats
    candidates: Sequence[Candidate]
    features: Floats | None = None
    regions: GrainRegions | None = None
    evidence: Floats | None = None

    @property
    def similarities(self) -> Floats:
        """float32 [k], the candidates'."""
        return np.array([candidate.similarity for candidate in self.candidates], np.float32)

    @property
    def margin(self) -> float:
        """By how much the best class is more similar than the second; infinite where there is no second."""
        best, *others = self.candidates
        return best.similarity - others[0].similarity if others else math.inf


@dataclass(frozen=True)
class Weights:
    """What counts beside a ranker's scores, which weigh 1.

    Attributes:
        similarity: Weight of the retrieval's similarity.
        discriminant: Weight of the discriminant's log-probability, where it takes part.
    """

    similarity: float = 0.0
    discriminant: float = 0.0

    def finals(self, scores: Floats, similarities: Floats, evidence: Floats | None = None) -> Floats:
        """The final scores, the weighted mean: float32, shaped as the others."""
        # Python floats, so that the arrays stay float32.
        if evidence is None or not self.discriminant:
            return np.asarray((scores + self.similarity * similarities) / (1 + self.similarity), np.float32)
        total = scores + self.similarity * similarities + self.discriminant * evidence
        return np.asarray(total / (1 + self.similarity + self.discriminant), np.float32)


@dataclass(frozen=True)
class DescribedRegion:
    """A region that a GRAIN encoder found, and the candidate that it speaks for.

    Attributes:
        label: The candidate's class.
        box: x0, y0, x1, y1 in pixels.
        description: The class's description that is most similar to the region.
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
        fallback: Whether it could not be asked, or its answer could not be used, so that all scores are equal.
        regions: The regions that speak for candidates, most similar first; empty for rankers without regions.
    """

    scores: Floats
    fallback: bool = False
    regions: Sequence[DescribedRegion] = ()

    @classmethod
    def unranked(cls, candidates: int) -> Ranking:
        """The ranking that keeps the retrieval's order; a fallback, unless there is only one candidate."""
        return cls(np.full(candidates, -math.log(candidates), np.float32), fallback=candidates > 1)

    def order(
        self, candidates: Sequence[Candidate], fusion: float | Weights = 0.0, evidence: Floats | None = None
    ) -> list[Candidate]:
        """The candidates by falling final score, the mean of score, similarity and evidence.

        Args:
            candidates: As they were ranked.
            fusion: Weights beside the ranker's score, which weighs 1; a number is the similarity's.
            evidence: float32 [k], the discriminant's log-probabilities, where it takes part.

        Returns:
            Each with its final score; of equal ones the retrieval's first.
        """
        similarity = np.array([candidate.similarity for candidate in candidates], np.float32)
        weights = fusion if isinstance(fusion, Weights) else Weights(fusion)
        finals = weights.finals(self.scores, similarity, evidence)
        return [replace(candidates[i], rank_score=float(finals[i])) for i in np.argsort(-finals, kind="stable")]


class Ranker(Protocol):
    """Scores the candidates of each picture."""

    def rank(self, queries: Sequence[Query]) -> list[Ranking]:
        """One ranking a query."""
        ...


class RankerOptions(Protocol):
    """A ranker's settings: a frozen dataclass that checks itself."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> RankerOptions:
        """Reads what `stored` wrote.

        Raises:
            KeyError: A setting is missing.
            ValueError: One is out of range.
        """
        ...

    def stored(self) -> dict[str, Any]:
        """What of them `rar-export tune` fits, as the manifest keeps it."""
        ...

    def same(self, other: RankerOptions) -> bool:
        """Whether what was fitted with these settings (fusion, gate) holds with the others."""
        ...


@dataclass(frozen=True)
class Opened:
    """What a ranker may be made of; `threads` is None for one a core."""

    bundle: Bundle
    clip: Clip
    memory: Retrieval
    threads: int | None = None


@dataclass(frozen=True)
class Flag:
    """A ranker's setting that `rar-recognize` offers under its own name; without `choices` it is a whole number."""

    name: str
    help: str
    choices: tuple[str, ...] | None = None


OptionsT = TypeVar("OptionsT", bound=RankerOptions)


@dataclass(frozen=True)
class Spec(Generic[OptionsT]):
    """What the table says of a ranker.

    Attributes:
        options: Its settings' class; made without arguments it has the defaults.
        open: Makes the ranker. Raises InputError where the bundle lacks what it needs.
        needs: What it looks at in a bundle; a region is drawn as a picture only for who needs pixels.
        trials: What `rar-export tune` tries; nothing where the bundle lacks what it needs.
        log_probabilities: Whether its scores are log-probabilities over the candidates; else they are cosines.
        flags: The settings that `rar-recognize` offers.
    """

    options: type[OptionsT]
    open: Callable[[Opened, OptionsT], Ranker]
    needs: Callable[[Bundle], Needs]
    trials: Callable[[Opened], Iterable[tuple[OptionsT, Ranker]]]
    log_probabilities: bool = False
    flags: tuple[Flag, ...] = ()
