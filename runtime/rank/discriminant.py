"""Gaussian discriminant analysis as a ranker: training-free, and as new as the memory.

The score of a candidate is its log-probability among the candidates: by Bayes' rule with equal priors, from the
log-densities of the picture's embedding under the classes' normal distributions, which share one covariance
("A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation", ICLR 2024, arXiv 2402.04087). The memory keeps the
distributions and changes them with its pictures (`memory/discriminant.py`). Ranking is one product a candidate.

A class that has texts and no pictures has no mean among the pictures, and a text's vector is none: it lies apart from
them (the modality gap). Such a class keeps the probability that its similarity gives it among the candidates, under a
softmax of the cosines; the discriminant shares the rest among the classes with pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..memory import Candidate, Retrieval
from ..memory.discriminant import Discriminant
from .protocol import Floats, Opened, Query, RankerOptions, Ranking, Spec


@dataclass(frozen=True)
class DiscriminantOptions:
    """The discriminant has no settings: all that there is to it is fitted to the memory."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> DiscriminantOptions:
        """See `RankerOptions`."""
        return cls()

    def stored(self) -> dict[str, Any]:
        """See `RankerOptions`."""
        return {}

    def same(self, other: RankerOptions) -> bool:
        """See `RankerOptions`."""
        return isinstance(other, DiscriminantOptions)


class DiscriminantRanker:
    """Ranks by the memory's discriminant as it is at each call.

    Raises:
        InputError: The memory has no discriminant.
    """

    def __init__(self, memory: Retrieval) -> None:
        if memory.discriminant is None:
            raise InputError(
                "the memory has no discriminant: it holds no pictures, or an earlier release built it; "
                "fit one with `rar-export compact`"
            )
        self._memory = memory

    def rank(self, queries: Sequence[Query]) -> list[Ranking]:
        """Each candidate's log-probability."""
        if all(query.evidence is not None for query in queries):  # the candidates were drawn by it
            return [Ranking(query.evidence) for query in queries if query.evidence is not None]
        discriminant = self._memory.discriminant
        if discriminant is None:  # all pictures were removed meanwhile
            return [Ranking(np.zeros(len(query.candidates), np.float32), fallback=True) for query in queries]
        embeddings = np.array([query.embedding for query in queries], np.float32)
        likely = of_candidates(discriminant, embeddings, [query.candidates for query in queries])
        return [Ranking(scores) for scores in likely]


def of_candidates(
    discriminant: Discriminant, embeddings: Floats, candidates: Sequence[Sequence[Candidate]]
) -> list[Floats]:
    """The log-probability of each candidate among those of its picture; pictures may have unlike numbers of them.

    Args:
        discriminant: The memory's.
        embeddings: float32 [N, d], L2-normalised.
        candidates: Of each picture.
    """
    likely: list[Floats] = [np.empty(0, np.float32)] * len(candidates)
    by_size: dict[int, list[int]] = {}
    for place, row in enumerate(candidates):
        if row:
            by_size.setdefault(len(row), []).append(place)
    for places in by_size.values():
        labels = [[candidate.label for candidate in candidates[place]] for place in places]
        similarities = np.array([[c.similarity for c in candidates[place]] for place in places], np.float32)
        rows = log_probabilities(discriminant, embeddings[places], labels, similarities)
        for place, scores in zip(places, rows, strict=True):
            likely[place] = scores
    return likely


def log_probabilities(
    discriminant: Discriminant, embeddings: Floats, labels: Sequence[Sequence[str]], similarities: Floats
) -> Floats:
    """The log-probability of each candidate among a picture's candidates.

    Args:
        discriminant: The memory's.
        embeddings: float32 [N, d], L2-normalised.
        labels: k class names for each.
        similarities: float32 [N, k], theirs.

    Returns:
        float32 [N, k]; a row's exponentials sum to 1.
    """
    fit = discriminant.fit
    logits = fit.scale * discriminant.logits(embeddings, labels).astype(np.float64) + fit.lean * similarities
    similar = _log_softmax(fit.cosines * similarities.astype(np.float64))
    known = np.isfinite(logits)
    if known.all():
        return np.asarray(_log_softmax(logits), np.float32)
    # Of a picture with unknown classes the known ones together keep what their similarities give them.
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.log(np.where(known, np.exp(similar), 0).sum(1, keepdims=True))
        among_known = np.where(known, logits - np.where(known, logits, -np.inf).max(1, keepdims=True), -np.inf)
        among_known = share + among_known - np.log(np.exp(among_known).sum(1, keepdims=True))
    return np.asarray(np.where(known, among_known, similar), np.float32)


def _log_softmax(logits: Any) -> Any:
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def _open(opened: Opened, options: DiscriminantOptions) -> DiscriminantRanker:
    return DiscriminantRanker(opened.memory)


def _trials(opened: Opened) -> Iterator[tuple[DiscriminantOptions, DiscriminantRanker]]:
    if opened.memory.discriminant is not None:
        yield DiscriminantOptions(), _open(opened, DiscriminantOptions())


# It looks at the embedding alone; `features` spares a region from being drawn as a picture.
SPEC = Spec(DiscriminantOptions, _open, lambda _: "features", _trials, log_probabilities=True)
