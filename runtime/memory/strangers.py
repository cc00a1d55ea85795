"""Which pictures show none of a memory's classes: open-set recognition, by the memory's own pictures.

The distance to the nearest class hardly tells a near stranger, such as another kind of apple: most of it comes from
what varies within any class, and is as large for the class's own pictures. What the discriminant makes of it does:

- the cosine, in the discriminant's metric, between the way from the middle of all classes to the picture and that to a
  class: whether it is the class's direction in which the picture is unlike the others;
- by how much the likeliest class is likelier than the next five.

A logistic regression makes a probability of both. It needs no strangers from outside: asked about a picture whose own
class is left out, the memory sees a near stranger. So each picture counts once as known and once as a stranger, and
the probability is that of a world where every second picture is of no class. How far strangers can be is not learned
so, but how similar the nearest picture is to known ones is: what is less similar by more than two standard deviations
is so much the likelier a stranger. A picture is refused from the probability on that a stated share of the known ones
reach.

Grocery, 20 of 81 classes left out, mean of three draws: the AUROC of these strangers is 0.75, by the best cosine 0.66,
by the distance to the nearest class 0.63; that of ImageNet's photos is 0.998, by the best cosine 0.9997
(`benchmarks/results/open-set.json`). Other traits are better on the pictures
that they are fitted on and worse on new ones, the best logit most of all: it knows the class that is left out by its
share in the covariance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .collapse import Candidate
from .reduction import Floats

if TYPE_CHECKING:
    from .discriminant import Discriminant

Doubles = npt.NDArray[np.float64]

# Classes of the nearest pictures that are looked at.
POOL = 20
# Share of the pictures of known classes that may be refused, where nothing else is asked for.
RATE = 0.05
# What the fit needs, in words for an error.
NEEDS = "that takes pictures of two classes or more, and of one of them two that differ"

# What the regression looks at; the best similarity comes before.
_TRAITS = 2
_BLOCK = 256
# Classes that the best logit is compared with.
_NEXT = 5
# Beyond so many standard deviations of the known pictures' similarity the log-odds grow by so many times the square.
_USUAL, _BEYOND = 2.0, 2.0
# Log-odds beyond which a probability would be rounded to 1, and no limit could lie above it.
_SUREST = 30.0
# Where strangers are told easily, the least sure of the known pictures is sure still: none is refused that more likely
# is of a class.
_EVEN = 0.5
# Pictures that are all copies of the memory's do not say that others are strangers.
_LEAST_SPREAD = 0.02
# Standard deviation of the prior of a weight of a trait whose standard deviation is 1.
_PRIOR = 10.0
_STEPS = 50


@dataclass(frozen=True)
class Strangers:
    """How strangers are told.

    Attributes:
        weights: Of the traits but the similarity, and last the constant: the log-odds that a picture is of no class.
        least: The similarity below which pictures of the classes are rare.
        spread: The standard deviation of theirs.
        limit: The probability from which a picture is refused.
    """

    weights: tuple[float, ...]
    least: float
    spread: float
    limit: float

    def __post_init__(self) -> None:
        if not (
            len(self.weights) == _TRAITS + 1
            and all(map(math.isfinite, (*self.weights, self.least)))
            and 0 < self.spread < math.inf
            and 0 <= self.limit <= 1
        ):
            raise ValueError(f"{self} cannot be")

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Strangers:
        """Reads what `stored` wrote.

        Raises:
            KeyError: A setting is missing.
            TypeError, ValueError: One cannot be.
        """
        least, spread, limit = (float(stored[name]) for name in ("least", "spread", "limit"))
        return cls(tuple(map(float, stored["weights"])), least, spread, limit)

    def stored(self) -> dict[str, Any]:
        """What `of` reads."""
        return {**vars(self), "weights": list(self.weights)}

    def chances(self, traits: Doubles) -> Doubles:
        """The probability that each picture is of no class: float64 [N, traits] -> [N]."""
        odds = traits[:, 1:] @ np.array(self.weights[:-1]) + self.weights[-1]
        odds += _BEYOND * np.maximum(0, (self.least - traits[:, 0]) / self.spread) ** 2
        return np.asarray(1 / (1 + np.exp(-np.clip(odds, -_SUREST, _SUREST))))


def traits_of(similarities: Floats, logits: Floats, cosines: Floats, scale: float) -> Doubles:
    """The traits by which strangers are told.

    Args:
        similarities: float32 [N, c], the best cosine of each picture with each class's pictures; -1 for none.
        logits: float32 [N, c], the discriminant's; minus infinity for classes that do not count.
        cosines: float32 [N, c], in its metric; -1 for classes that do not count.
        scale: Logits times this are log-probabilities.

    Returns:
        float64 [N, 3]: the best similarity; the best cosine; and by how much the best log-probability is above the mean
        of the next five, or of fewer, or above 0, which is that of the middle of all classes, where there is no other.
        NaN where no class counts.
    """
    best = -np.partition(-logits, np.arange(min(_NEXT + 1, logits.shape[1])), axis=1)[:, : _NEXT + 1].astype(np.float64)
    others = np.where(np.isfinite(best[:, 1:]), best[:, 1:], 0)
    following = others.sum(1) / np.maximum(1, np.isfinite(best[:, 1:]).sum(1))
    traits = np.stack([similarities.max(1), cosines.max(1), scale * (best[:, 0] - following)], axis=1, dtype=np.float64)
    traits[~np.isfinite(best[:, 0])] = np.nan
    return traits


def traits_of_nearest(
    discriminant: Discriminant, embeddings: Floats, nearest: Sequence[Sequence[Candidate]]
) -> Doubles:
    """The traits of pictures, from the classes of the nearest pictures in a memory.

    Args:
        discriminant: The memory's.
        embeddings: float32 [N, d], L2-normalised.
        nearest: Of each, with the similarities of pictures; `POOL` classes do.

    Returns:
        float64 [N, 3]; NaN for a picture without any such class.
    """
    most = max((len(row) for row in nearest), default=0) or 1
    traits = np.empty((len(nearest), 1 + _TRAITS))
    for start in range(0, len(nearest), _BLOCK):  # bounds the planes that are held at once
        rows, some = nearest[start : start + _BLOCK], slice(start, start + _BLOCK)
        similarities = np.full((len(rows), most), -1, np.float32)
        for place, row in enumerate(rows):
            similarities[place, : len(row)] = [one.similarity for one in row]
        # No class has the empty name: it stands for none.
        labels = [[*(one.label for one in row), *[""] * (most - len(row))] for row in rows]
        logits, cosines = discriminant.logits_and_cosines(embeddings[some], labels)
        traits[some] = traits_of(similarities, logits, cosines, discriminant.fit.scale)
    return traits


def fit_strangers(known: Doubles, strange: Doubles, rate: float = RATE) -> Strangers | None:
    """Fits the probability and the limit.

    Args:
        known: float64 [N, traits], of pictures whose class is there.
        strange: float64 [M, traits], of pictures whose class is not.
        rate: The share of the known ones that may be refused. Fewer are where hardly any is as likely strange as known.

    Returns:
        None where nothing tells the two apart.
    """
    known, strange = (some[np.isfinite(some).all(1)] for some in (known, strange))
    if not len(known) or not len(strange):
        return None
    traits = np.concatenate([known, strange])
    middle, unit = traits[:, 1:].mean(0), traits[:, 1:].std(0)
    usable = unit > 0
    if not usable.any():
        return None
    scaled = np.where(usable, (traits[:, 1:] - middle) / np.where(usable, unit, 1), 0)
    truth = np.repeat([0.0, 1.0], [len(known), len(strange)])
    # As many of one as of the other.
    counts = np.repeat([0.5 / len(known), 0.5 / len(strange)], [len(known), len(strange)]) * len(traits)
    fitted = _logistic(np.column_stack([scaled, np.ones(len(scaled))]), truth, counts)
    weights = np.where(usable, fitted[:-1] / np.where(usable, unit, 1), 0)
    spread = max(_LEAST_SPREAD, float(known[:, 0].std()))
    least = float(known[:, 0].mean()) - _USUAL * spread
    told = Strangers((*weights.tolist(), float(fitted[-1] - weights @ middle)), least, spread, 1.0)
    chances = np.sort(told.chances(known))
    # Above all but so many: what is as likely as a known picture that is kept is kept.
    kept = np.nextafter(chances[max(0, math.ceil((1 - rate) * len(chances)) - 1)], 2.0)
    return replace(told, limit=float(min(1.0, max(_EVEN, kept))))


def _logistic(inputs: Doubles, truth: Doubles, counts: Doubles) -> Doubles:
    """Weights of a logistic regression with a Gaussian prior, by Newton's method with shortened steps.

    Args:
        inputs: float64 [N, m], the last column 1.
        truth: float64 [N], 0 or 1.
        counts: float64 [N], how often each counts.
    """
    prior = np.full(inputs.shape[1], 1 / _PRIOR**2)
    weights = np.zeros(inputs.shape[1])

    def cost(weights: Doubles) -> float:
        odds = inputs @ weights
        return float(counts @ (np.logaddexp(0, odds) - truth * odds) + 0.5 * prior @ weights**2)

    before = cost(weights)
    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-np.clip(inputs @ weights, -700, 700)))
        slope = inputs.T @ (counts * (chances - truth)) + prior * weights
        curve = (inputs * (counts * chances * (1 - chances))[:, None]).T @ inputs + np.diag(prior)
        step, size = np.linalg.solve(curve, slope), 1.0
        while size > 1e-6 and cost(weights - size * step) > before:
            size /= 2
        weights = weights - size * step
        after = cost(weights)
        if before - after < 1e-9 * (1 + abs(before)):
            break
        before = after
    return weights
