"""A ranker's scores of held-out pictures, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime.rank.protocol import Query, Ranker, Weights
from rar.runtime.rank.tuning import Fused

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_CHUNK = 16


@dataclass(frozen=True)
class Judged:
    """A ranker's scores of held-out pictures.

    Attributes:
        similarity: float32 [N, k], the retrieval's.
        scores: float32 [N, k], the ranker's.
        right: bool [N, k], the true class; a row is all False if the retrieval missed it.
        milliseconds: Median per picture, over the chunks.
        evidence: float32 [N, k], the discriminant's log-probabilities; None where it takes no part.
    """

    similarity: Floats
    scores: Floats
    right: Bools
    milliseconds: float = 0.0
    evidence: Floats | None = None

    def finals(self, weights: Weights, scores: Floats | None = None) -> Floats:
        """The final scores as the runtime makes them, float32 [N, k]; of other scores than the ranker's if given."""
        return weights.finals(self.scores if scores is None else scores, self.similarity, self.evidence)

    def hits(self, weights: Weights | float, scores: Floats | None = None) -> Bools:
        """Whether each picture's best final score is the true class's: bool [N]; ties go to the first candidate."""
        weights = weights if isinstance(weights, Weights) else Weights(weights)
        best = self.finals(weights, scores).argmax(1)
        return np.asarray(self.right[np.arange(len(best)), best])

    def top1(self, weights: Weights | float, scores: Floats | None = None) -> float:
        """Share of the pictures whose best final score is the true class's."""
        return float(self.hits(weights, scores).mean())

    def before(self, first: Fused | None) -> Bools:
        """Whether each picture is right without the ranker: by evidence and similarity, or in the retrieval's order."""
        if first is None or self.evidence is None:
            return self.right[:, 0]
        return self.hits(first.weights, self.evidence)

    def final(self, fused: Fused | None, first: Fused | None = None) -> Bools:
        """Whether each picture is right in the end; `fused` is None for a ranker that is not used."""
        return self.before(first) if fused is None else self.hits(fused.weights)

    def gated(self, weights: Weights | float, skipped: Bools, first: Fused | None = None) -> Bools:
        """As `hits`, with the order that there is without the ranker for the skipped pictures."""
        return np.where(skipped, self.before(first), self.hits(weights))


def judge(ranker: Ranker, queries: Sequence[Query], truth: Sequence[str], name: str = "ranking") -> Judged:
    """Ranks queries and compares with the truth."""
    similarity, scores, right, evidence, times = [], [], [], [], []
    for start in tqdm(range(0, len(queries), _CHUNK), desc=name, disable=None):
        part = queries[start : start + _CHUNK]
        # Without the evidence: the discriminant would hand it back, and seem to take no time.
        asked = [replace(query, evidence=None) for query in part]
        began = perf_counter()
        scores += [ranking.scores for ranking in ranker.rank(asked)]
        times.append(1e3 * (perf_counter() - began) / len(part))
        similarity += [query.similarities for query in part]
        evidence += [query.evidence for query in part if query.evidence is not None]
        labels = truth[start : start + _CHUNK]
        right += [[c.label == label for c in query.candidates] for query, label in zip(part, labels, strict=True)]
    told = np.stack(evidence) if len(evidence) == len(scores) else None
    return Judged(np.stack(similarity), np.stack(scores), np.array(right), float(np.median(times)), told)
