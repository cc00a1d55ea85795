"""Which pictures show none of a memory's classes: open-set recognition, by the memory's own pictures.

The distance to the nearest class hardly tells a near stranger, such as another kind of apple: most of it comes from
what varies within any class, and is as large for the class's own pictures. What the discriminant makes of it does:

- the cosine, in the discriminant's metric, between the way from the middle of all classes to the picture and that to a
  class: whether it is the class's direction in which the picture is unlike the others;
- by how much the likeliest class is likelier than the next five.

A logistic regression makes a probability of both. It needs no strangers from outside: asked about a picture whose own
class is left out, the memory sees a near stranger. So each picture counts once as known and once as a stranger, and
the probability is that of a world where every second picture is of no class. How far strangers can be is not learned
so, but where pictures of the classes lie is: how similar their nearest picture is, and how far from the middle of all
classes they are, in the discriminant's metric. What is beyond them in both is so much the likelier a stranger; in one
only, a picture of a class that was added a minute ago would be. A picture is refused from the probability on that a
stated share of the known ones reach.

Grocery, 20 of 81 classes left out, mean of three draws: the AUROC of these strangers is 0.753, by the best cosine
0.656, by the distance to the nearest class 0.631; that of ImageNet's photos is 0.9994, by the best cosine 0.9997
(`benchmarks/results/open-set.json`). Other traits are better on the pictures that they are fitted on and worse on new
ones, the best logit most of all: it knows the class that is left out by its share in the covariance.
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
NEEDS = "that takes pictures of two classes or more, three a class on average, that differ"

# Traits: the best similarity and the distance from the middle, then what the regression looks at.
_PLACE = 2
_TRAITS = 2
_BLOCK = 256
# Classes that the best logit is compared with.
_NEXT = 5
# The log-odds grow by the square of the standard deviations by which a picture is less similar than the mean of the
# known ones, or of those by which it is farther from the middle than this many above their mean, whichever is less.
_USUAL_DISTANCE = 1.0
# Log-odds beyond which a probability would be rounded to 1, and no limit could lie above it.
_SUREST = 30.0
# Where strangers are told easily, the least sure of the known pictures is sure still: none is refused that more likely
# is of a class.
_EVEN = 0.5
# Pictures that are all copies of the memory's do not say that others are strangers: the least standard deviations, of
# the distance in shares of its mean. It is 0.24 to 0.36 on Grocery with any number of pictures a class.
_LEAST_SPREAD = 0.02
_LEAST_SHARE = 0.25
# Standard deviation of the prior of a weight of a trait whose standard deviation is 1.
_PRIOR = 10.0
# Keeps a quotient finite.
_TINY = 1e-30
_STEPS = 50


@dataclass(frozen=True)
class Strangers:
    """How strangers are told.

    Attributes:
        weights: Of the last traits, and then the constant: the log-odds that a picture is of no class.
        similarity: The mean best similarity of known pictures, and its standard deviation.
        distance: The mean of their distances from the middle, and its standard deviation.
        limit: The probability from which a picture is refused.
    """

    weights: tuple[float, ...]
    similarity: tuple[float, float]
    distance: tuple[float, float]
    limit: float

    def __post_init__(self) -> None:
        (similarity, spread), (distance, deviation) = self.similarity, self.distance
        if not (
            len(self.weights) == _TRAITS + 1
            and all(map(math.isfinite, (*self.weights, similarity, distance)))
            and all(0 < some < math.inf for some in (spread, deviation))
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
        weights, similarity, distance = (
            tuple(map(float, stored[name])) for name in ("weights", "similarity", "distance")
        )
        (mean, spread), (middle, deviation) = similarity, distance
        return cls(weights, (mean, spread), (middle, deviation), float(stored["limit"]))

    def stored(self) -> dict[str, Any]:
        """What `of` reads."""
        return {name: value if name == "limit" else list(value) for name, value in vars(self).items()}

    def chances(self, traits: Doubles) -> Doubles:
        """The probability that each picture is of no class: float64 [N, traits] -> [N]."""
        (similarity, spread), (distance, deviation) = self.similarity, self.distance
        odds = traits[:, _PLACE:] @ np.array(self.weights[:-1]) + self.weights[-1]
        unlike, far = (similarity - traits[:, 0]) / spread, (traits[:, 1] - distance) / deviation - _USUAL_DISTANCE
        odds += np.maximum(0, np.minimum(unlike, far)) ** 2
        return np.asarray(1 / (1 + np.exp(-np.clip(odds, -_SUREST, _SUREST))))


def traits_of(similarities: Floats, distances: Doubles, logits: Floats, cosines: Floats, scale: float) -> Doubles:
    """The traits by which strangers are told.

    Args:
        similarities: float32 [N, c], the best cosine of each picture with each class's pictures; -1 for none.
        distances: float64 [N], `Gaussian.distances`.
        logits: float32 [N, c], the discriminant's; minus infinity for classes that do not count.
        cosines: float32 [N, c], in its metric; -1 for classes that do not count.
        scale: Logits times this are log-probabilities.

    Returns:
        float64 [N, 4]: the best similarity; the distance; the best cosine; and by how much the best log-probability is
        above the mean of the next five, or of fewer, or above 0, which is that of the middle of all classes, where
        there is no other. NaN where no class counts.
    """
    best = -np.partition(-logits, np.arange(min(_NEXT + 1, logits.shape[1])), axis=1)[:, : _NEXT + 1].astype(np.float64)
    others = np.where(np.isfinite(best[:, 1:]), best[:, 1:], 0)
    following = others.sum(1) / np.maximum(1, np.isfinite(best[:, 1:]).sum(1))
    columns = [similarities.max(1), distances, cosines.max(1), scale * (best[:, 0] - following)]
    traits = np.stack(columns, axis=1, dtype=np.float64)
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
        float64 [N, 4]; NaN for a picture without any such class.
    """
    most = max((len(row) for row in nearest), default=0) or 1
    traits = np.empty((len(nearest), _PLACE + _TRAITS))
    for start in range(0, len(nearest), _BLOCK):  # bounds the planes that are held at once
        rows, some = nearest[start : start + _BLOCK], slice(start, start + _BLOCK)
        similarities = np.full((len(rows), most), -1, np.float32)
        for place, row in enumerate(rows):
            similarities[place, : len(row)] = [one.similarity for one in row]
        # No class has the empty name: it stands for none.
        labels = [[*(one.label for one in row), *[""] * (most - len(row))] for row in rows]
        logits, cosines, distances = discriminant.evidence(embeddings[some], labels)
        traits[some] = traits_of(similarities, distances, logits, cosines, discriminant.fit.scale)
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
    middle, unit = traits[:, _PLACE:].mean(0), traits[:, _PLACE:].std(0)
    usable = unit > 0
    if not usable.any():
        return None
    scaled = np.where(usable, (traits[:, _PLACE:] - middle) / np.where(usable, unit, 1), 0)
    truth = np.repeat([0.0, 1.0], [len(known), len(strange)])
    # As many of one as of the other.
    counts = np.repeat([0.5 / len(known), 0.5 / len(strange)], [len(known), len(strange)]) * len(traits)
    fitted = _logistic(np.column_stack([scaled, np.ones(len(scaled))]), truth, counts)
    weights = np.where(usable, fitted[:-1] / np.where(usable, unit, 1), 0)
    (similarity, distance), (spread, deviation) = known[:, :_PLACE].mean(0), known[:, :_PLACE].std(0)
    told = Strangers(
        (*weights.tolist(), float(fitted[-1] - weights @ middle)),
        (float(similarity), max(_LEAST_SPREAD, float(spread))),
        (float(distance), max(_LEAST_SHARE * float(distance), _TINY, float(deviation))),
        1.0,
    )
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
