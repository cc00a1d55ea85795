"""What the discriminant gains on pictures that it has not seen, measured on the memory's own.

Folders of pictures hold bursts: leave one out, and its twin is found. On Grocery that says 96 % for the nearest
neighbour, which finds 64 % of new photos. So each class is cut in two at the middle of its main direction; one side is
the memory, the other is asked. That says 61 % for the nearest neighbour and 74 % for the discriminant, where new photos
give 64 and 78.

The two sides differ more than new photos do, so they say too little of how sure the discriminant may be: with 16
pictures a class its probabilities would be a third of what they should. That is taken from classes which it does not
know: between the classes that are nearest to such a picture its logits vary as the cosines do, times a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .gaussian import Covariance, Doubles, Halfs, Labels, Learned, learn
from .reduction import Floats
from .strangers import RATE, Strangers, fit_strangers, traits_of

Ids = npt.NDArray[np.int64]

# Pictures that are looked at, in whole classes: so the measurement is short and bounded for any memory.
_PICTURES = 8192
# Classes that the nearest neighbours propose for each; the discriminant chooses among them.
_POOL = 20
_TURNS = 12
# The half has fewer pictures a class, and is to be measured with the same covariance all the same.
_FREE = 0.5
# One class in so many is left out to be strange to it, where there are as many.
_STRANGE = 8
# A picture's cosines times this are log-probabilities of its classes, where nothing was measured: the best on Grocery
# is 20 to 50, with one to all pictures a class.
_COSINES = 40.0
_LEAN = 20.0
# The other half of its class is more like a picture than new photos are: on Grocery twice as many of these are refused.
_UNSEEN = 0.5
# A discriminant's log-probabilities vary like cosines times this: the best on Grocery is 40 to 60 with two to all
# pictures a class, and 17 for the covariance of all pictures.
_LIKE_COSINES: Mapping[Covariance, float] = {"within": 50.0, "total": 20.0}


@dataclass(frozen=True)
class Measured:
    """How far the discriminant of a memory can be trusted.

    Attributes:
        scale: Its logits times this are log-probabilities.
        cosines: The similarities times this are.
        lean: What the similarities are multiplied by before they are added to the scaled logits. With the covariance of
            all pictures the discriminant knows nothing of what varies within a class, and finds no more than the
            nearest neighbour; the two together find a point more (Grocery, one picture a class).
        pictures: How many were asked; 0 where no class can be cut in two, or too few, and nothing was measured.
        retrieval: Share of them whose nearest neighbour is of their class.
        discriminant: Share of them for which it chooses their class.
        gains: Whether that is more by more than chance.
        strangers: How pictures of no class are told; None where that could not be measured.
    """

    scale: float
    cosines: float
    lean: float = 0.0
    pictures: int = 0
    retrieval: float = 0.0
    discriminant: float = 0.0
    gains: bool = False
    strangers: Strangers | None = None


def measure(vectors: Halfs, labels: Labels, learned: Learned) -> Measured:
    """Cuts a memory's classes in two, fits a discriminant on one side and asks it the other.

    Args:
        vectors: float16 [n, d]; may be mapped.
        labels: int32 [n], -1 for removed entries.
        learned: What was learned of all of them.
    """
    entries, class_of, classes = _sample(labels, learned.counts)
    pictures = vectors[entries]
    scale = _scale(pictures, class_of, classes, learned.covariance)
    lean = _LEAN if learned.covariance == "total" else 0.0
    asked = _cut(pictures.astype(np.float32), class_of)
    half = learn(pictures[~asked], class_of[~asked], classes, _FREE if learned.covariance == "within" else 1.0)
    # Half of the pictures may be too few for the same covariance; that of all was fitted on those that would be asked.
    if half is None or half.covariance != learned.covariance or not asked.any() or classes < 2:
        return Measured(scale, _COSINES, lean)
    weights, bias = half.gaussian.planes(half.means, half.counts)
    queries, truth = pictures[asked].astype(np.float32), class_of[asked]
    similarities = nearest_of_classes(queries, pictures[~asked].astype(np.float32), class_of[~asked], classes)
    logits = queries @ weights.T + bias
    angles = half.gaussian.cosines(queries, half.means, weights)
    strangers = _strangers(similarities, half.gaussian.distances(queries), logits, angles, truth, scale)
    proposed, logits = _pool(similarities, logits)
    right = proposed == truth[:, None]
    similar = np.take_along_axis(similarities, proposed, axis=1)
    best = (scale * logits + lean * similar).argmax(1)
    first, chosen = right[:, 0], right[np.arange(len(proposed)), best]
    there = right.any(1)
    cosines = sharpness(similar[there], right[there]) if there.any() else _COSINES
    share = float(first.mean()), float(chosen.mean())
    return Measured(scale, cosines, lean, len(truth), *share, ahead(chosen, first), strangers)


def _strangers(
    similarities: Floats, distances: Doubles, logits: Floats, cosines: Floats, truth: Labels, scale: float
) -> Strangers | None:
    """How strangers are told: pictures whose class is there, and the same where it is left out."""
    rows = np.arange(len(truth))
    known = traits_of(similarities, distances, logits, cosines, scale)
    similarities, logits, cosines = similarities.copy(), logits.copy(), cosines.copy()
    similarities[rows, truth], logits[rows, truth], cosines[rows, truth] = -1, -np.inf, -1
    return fit_strangers(known, traits_of(similarities, distances, logits, cosines, scale), _UNSEEN * RATE)


def ahead(after: npt.NDArray[np.bool_], before: npt.NDArray[np.bool_]) -> bool:
    """Whether more are right after than before, by more than chance.

    Among the pictures that only one of the two gets right, it must lead by more than one standard deviation of a fair
    coin.
    """
    won, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return won - lost > math.sqrt(won + lost)


def sharpness(scores: Floats, right: npt.NDArray[np.bool_]) -> float:
    """The factor that makes scores log-probabilities: the one under which the truth is likeliest.

    Args:
        scores: float32 [N, k].
        right: bool [N, k], the true class of each; one a row.
    """
    spread = float(np.median(scores.std(1)))
    if not spread > 0:
        return 1.0
    tried = np.geomspace(0.05, 50, 61) / spread
    lost = [_surprise(factor * scores.astype(np.float64), right) for factor in tried]
    return float(tried[int(np.argmin(lost))])


def _surprise(logits: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> float:
    """The mean negative log-probability of the truth."""
    logits = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(logits).sum(1)) - logits[right]).mean())


def nearest_of_classes(queries: Floats, vectors: Floats, labels: Labels, classes: int) -> Floats:
    """The best cosine of each query with each class: float32 [N, classes], -1 for a class without vectors."""
    order = np.argsort(labels, kind="stable")
    present, first = np.unique(labels[order], return_index=True)
    best = np.full((len(queries), classes), -1, np.float32)
    for start in range(0, len(queries), 256):  # bounds the products
        products = queries[start : start + 256] @ vectors[order].T
        best[start : start + 256, present] = np.maximum.reduceat(products, first, axis=1)
    return best


def _sample(labels: Labels, counts: Ids) -> tuple[Ids, Labels, int]:
    """Entries of whole classes, drawn evenly; the class of each, renumbered; and how many classes these are."""
    there = np.flatnonzero(counts > 0)
    drawn = np.random.default_rng(0).permutation(there)
    chosen = np.sort(drawn[: max(1, int((np.cumsum(counts[drawn]) <= _PICTURES).sum()))])
    numbers = np.full(len(counts) + 1, -1, np.int32)
    numbers[chosen] = np.arange(len(chosen))
    class_of = numbers[labels]
    entries = np.flatnonzero(class_of >= 0)[: 4 * _PICTURES]  # one class may be larger than all that is wanted
    return entries, class_of[entries], len(chosen)


def _cut(vectors: Floats, labels: Labels) -> npt.NDArray[np.bool_]:
    """Which entries lie on one side of their class's middle, along its main direction: bool [n], never all of one."""
    asked = np.zeros(len(labels), bool)
    order = np.argsort(labels, kind="stable")
    for entries in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        if len(entries) < 2:
            continue
        about = vectors[entries] - vectors[entries].mean(0)
        direction = about[np.einsum("nd,nd->n", about, about).argmax()]
        for _ in range(_TURNS):  # power iteration
            direction = about.T @ (about @ direction)
            direction /= max(float(np.linalg.norm(direction)), 1e-30)
        asked[entries[np.argsort(about @ direction, kind="stable")[: len(entries) // 2]]] = True
    return asked


def _pool(similarities: Floats, logits: Floats) -> tuple[Ids, Floats]:
    """The classes that the nearest neighbours propose, best first, and the logits of these."""
    proposed = np.argsort(-similarities, axis=1, kind="stable")[:, : min(_POOL, similarities.shape[1])]
    return proposed, np.take_along_axis(logits, proposed, axis=1)


def _scale(pictures: Halfs, class_of: Labels, classes: int, covariance: Covariance) -> float:
    """What a discriminant's logits are to be multiplied by."""
    known = class_of % _STRANGE > 0 if classes >= _STRANGE else np.ones(len(class_of), bool)
    most = learn(pictures[known], class_of[known], classes)
    if most is None or classes < 2:
        return 1.0
    there = np.flatnonzero(most.counts > 0)
    weights, bias = most.gaussian.planes(most.means[there], most.counts[there])
    strange = pictures if known.all() else pictures[~known]
    queries = strange.astype(np.float32)
    similarities = nearest_of_classes(queries, pictures[known].astype(np.float32), class_of[known], classes)[:, there]
    proposed, logits = _pool(similarities, queries @ weights.T + bias)
    spread = float(np.median(logits.std(1)))
    alike = float(np.median(np.take_along_axis(similarities, proposed, axis=1).std(1)))
    return _LIKE_COSINES[covariance] * alike / spread if spread > 0 and alike > 0 else 1.0
