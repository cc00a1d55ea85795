"""Fits how similarity, the discriminant's evidence and a ranker's scores are added up, by the likelihood of the truth.

The final scores are the logits of the candidates, a weighted sum with weights from 0 on. Likelihood counts how sure the
sum is of each picture and not only whether its first candidate is right; so among weights with equal top-1 it does not
choose at random, and the sum is calibrated as it is fitted. What is added is used where the truth becomes likelier by
more than chance and more pictures are right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from rar.runtime.rank.protocol import Weights
from rar.runtime.rank.tuning import Fused

from .judged import Judged

Doubles = npt.NDArray[np.float64]

# Standard deviation of the prior of a weight whose scores have a standard deviation of 1: it keeps the weights finite
# where the candidates can be told apart without an error.
_PRIOR = 10.0
_STEPS = 50
# What a gain in likelihood must be, in standard errors of its mean.
_SURE = 2.0


@dataclass(frozen=True)
class Sum:
    """A fitted sum.

    Attributes:
        weights: One for each kind of score, from 0 on; their sum of scores is a logit.
        likelihood: float64 [N], the log-probability of each picture's truth.
    """

    weights: tuple[float, ...]
    likelihood: Doubles

    def gains(self, other: Sum) -> bool:
        """Whether it explains the truth better than another does, by more than chance."""
        more = self.likelihood - other.likelihood
        return len(more) > 0 and bool(more.mean() > _SURE * more.std() / math.sqrt(len(more)))


def fit_sum(kinds: list[npt.NDArray[np.floating]], right: npt.NDArray[np.bool_]) -> Sum:
    """The weights from 0 on under which the truth is likeliest.

    Args:
        kinds: Scores [N, k] of each kind.
        right: bool [N, k]; a picture whose truth is not among the candidates tells nothing.
    """
    there = right.any(1)
    scores = np.stack([kind[there].astype(np.float64) for kind in kinds], axis=-1)
    truth = right[there].argmax(1)
    if not len(scores):
        return Sum((0.0,) * len(kinds), np.zeros(0))
    scores -= scores.mean(1, keepdims=True)
    units = scores.std((0, 1))
    usable = [kind for kind in range(len(kinds)) if units[kind] > 0 and np.isfinite(units[kind])]
    best = Sum((0.0,) * len(kinds), np.full(len(scores), -math.log(scores.shape[1])))
    cost = -best.likelihood.sum()
    # The loss is convex: of the few subsets of the kinds the best with weights from 0 on is the optimum.
    for size in range(1, len(usable) + 1):
        for some in combinations(usable, size):
            chosen = list(some)
            weights, likelihood = _newton(scores[..., chosen] / units[chosen], truth)
            penalised = -likelihood.sum() + 0.5 * float(weights @ weights) / _PRIOR**2
            if (weights >= 0).all() and penalised < cost:
                full = np.zeros(len(kinds))
                full[chosen] = weights / units[chosen]
                best, cost = Sum(tuple(full.tolist()), likelihood), penalised
    return best


def _newton(scores: Doubles, truth: npt.NDArray[np.int64]) -> tuple[Doubles, Doubles]:
    """Multinomial logistic regression with a Gaussian prior: the weights, and the log-probability of each truth."""
    rows, count = np.arange(len(scores)), scores.shape[2]
    weights = np.zeros(count)

    def likely(weights: Doubles) -> tuple[Doubles, Doubles]:
        logits = scores @ weights
        logits -= logits.max(1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        return logits, logits[rows, truth]

    def cost(weights: Doubles) -> float:
        return float(-likely(weights)[1].sum() + 0.5 * weights @ weights / _PRIOR**2)

    before = cost(weights)
    for _ in range(_STEPS):
        chances = np.exp(likely(weights)[0])
        means = np.einsum("nk,nkm->nm", chances, scores)
        slope = (means - scores[rows, truth]).sum(0) + weights / _PRIOR**2
        about = scores - means[:, None]
        curve = np.einsum("nk,nkm,nkl->ml", chances, about, about) + np.eye(count) / _PRIOR**2
        step, size = np.linalg.solve(curve, slope), 1.0
        while size > 1e-6 and cost(weights - size * step) > before:
            size /= 2
        weights, after = weights - size * step, cost(weights - size * step)
        if before - after < 1e-9 * (1 + abs(before)):
            break
        before = after
    return weights, likely(weights)[1]


@dataclass(frozen=True)
class First:
    """What is known before a ranker runs.

    Attributes:
        fused: How the discriminant's evidence and the similarity are added up; None where it gains nothing.
        sum: The fitted sum, of both or of the similarity alone.
        retrieval: The similarity times this is a log-probability; None where the similarity tells nothing.
    """

    fused: Fused | None
    sum: Sum
    retrieval: float | None


def fit_first(judged: Judged) -> First:
    """Whether the discriminant gains on the retrieval, and the weights of both."""
    alone = fit_sum([judged.similarity], judged.right)
    retrieval = alone.weights[0] or None
    if judged.evidence is None:
        return First(None, alone, retrieval)
    both = fit_sum([judged.evidence, judged.similarity], judged.right)
    evidence, similarity = both.weights
    if not evidence or not both.gains(alone):
        return First(None, alone, retrieval)
    fused = Fused(Weights(similarity / evidence), evidence + similarity)
    if judged.top1(fused.weights, judged.evidence) <= judged.right[:, 0].mean():
        return First(None, alone, retrieval)
    return First(fused, both, retrieval)


def fit_fused(judged: Judged, first: First) -> tuple[Fused | None, Sum]:
    """How a ranker's scores are added to what is known before it; None where they gain nothing.

    Args:
        judged: The ranker on held-out pictures.
        first: As `fit_first` found it on the same pictures.
    """
    evidence = judged.evidence if first.fused is not None else None
    kinds = [judged.scores, judged.similarity, *([] if evidence is None else [evidence])]
    both = fit_sum(kinds, judged.right)
    scores, *others = both.weights
    if not scores or not both.gains(first.sum):
        return None, first.sum
    fused = Fused(Weights(*(other / scores for other in others)), sum(both.weights))
    if judged.top1(fused.weights) <= judged.before(first.fused).mean():
        return None, first.sum
    return fused, both


def settle(judged: Judged) -> Fused | None:
    """How a ranker's scores are fused on pictures of which nothing else is known; None where they gain nothing."""
    return fit_fused(judged, fit_first(judged))[0]
