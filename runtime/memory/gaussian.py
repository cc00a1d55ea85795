"""The normal distribution that all classes of pictures share but for its mean, learned in bounded memory.

Gaussian discriminant analysis (Friedman 1989; for few pictures of CLIP: Wang et al., arXiv 2402.04087) takes one
covariance for all classes, shrunk towards a sphere of the same variance:

    S = (1 - s) * C + s * trace(C) / d * I          P = S^-1 = floor * I - F^T F

C is the covariance within the classes. With fewer than two pictures a class on average too little is known of that, and
C is the covariance of all pictures about their mean. Of C the directions of the largest variance are kept, in the
others it is taken to be equal in all: so F has few rows, and a memory of ten pictures stores ten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .reduction import Floats

Doubles = npt.NDArray[np.float64]
Halfs = npt.NDArray[np.float16]
Labels = npt.NDArray[np.int32]
Covariance = Literal["within", "total"]

# s. Top-1 on Grocery with 2 to all pictures a class is within half a point of its best from 0.2 to 0.5.
SHRINKAGE = 0.3
# Directions that are kept. On Grocery 128 of 1,664 lose 0.1 points of top-1, 256 none.
_DIRECTIONS = 256
# Mean variance of a direction below which nothing varies: unit vectors stored as float16 are rounded by as much.
_NOTHING = 1e-10
# Directions whose variance is a smaller share of the largest are rounding.
_ROUNDING = 1e-9
_BLOCK = 4096
# Keeps a quotient finite.
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The common precision matrix about a centre.

    Attributes:
        centre: float32 [d], the mean of the class means: logits about it are small, so float32 does for them.
        factor: float32 [r, d], F; may be mapped.
        floor: The precision in the directions that F does not tell of.
        effective: trace(P C), corrected for the means that were taken from the same pictures. A class mean of n
            pictures lies by effective / n too far out, as P measures it.
    """

    centre: Floats
    factor: Floats
    floor: float
    effective: float

    def product(self, vectors: Floats) -> Floats:
        """P (x - centre) for each vector: float32 [n, d] -> float32 [n, d]."""
        about = vectors - self.centre
        return np.asarray(self.floor * about - (about @ self.factor.T) @ self.factor, np.float32)

    def squares(self, vectors: Floats) -> Doubles:
        """(x - centre)^T P (x - centre) for each vector: float32 [n, d] -> float64 [n]."""
        about = (vectors - self.centre).astype(np.float64)
        return np.asarray(np.einsum("nd,nd->n", about, self.product(vectors).astype(np.float64)))

    def distances(self, vectors: Floats) -> Doubles:
        """How far each vector is from the centre, as the metric measures it: `squares` in units of the floor.

        Ways along which pictures of one class vary hardly count, others as in Euclid's metric: float32 [n, d] ->
        float64 [n], 0 to 4 for unit vectors.
        """
        return self.squares(vectors) / self.floor

    def cosines(self, vectors: Floats, means: Floats, weights: Floats) -> Floats:
        """The cosines in the metric of P between vectors and class means, both seen from the centre.

        Args:
            vectors: float32 [n, d].
            means: float32 [c, d].
            weights: float32 [c, d], P (m - centre) of each; zero for a class without pictures, whose cosine is then 0.

        Returns:
            float32 [n, c].
        """
        lengths = np.sqrt(np.maximum(self.squares(vectors)[:, None] * self.squares(means), _TINY))
        return np.asarray(np.clip((vectors - self.centre) @ weights.T / lengths, -1, 1), np.float32)

    def planes(self, means: Floats, counts: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """The linear discriminant of each class: x·weights + bias is its log-density at x, but for a common term.

        Args:
            means: float32 [c, d].
            counts: int64 [c], the pictures that each was taken from.

        Returns:
            Weights float32 [c, d] and biases float32 [c].
        """
        weights = self.product(means)
        bias = -0.5 * (self.squares(means) - self.effective / counts) - weights.astype(np.float64) @ self.centre
        return weights, bias.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Learned:
    """What was learned of a memory's pictures.

    Attributes:
        gaussian: The common distribution.
        means: float32 [classes, d]; zero for a class without pictures.
        counts: int64 [classes].
        covariance: What C is.
    """

    gaussian: Gaussian
    means: Floats
    counts: npt.NDArray[np.int64]
    covariance: Covariance


def learn(vectors: Halfs, labels: Labels, classes: int, free: float = 1.0) -> Learned | None:
    """Reads the pictures twice, block by block, and learns the common distribution and the means.

    Holds the classes' sums and two d x d matrices, whatever the number of pictures.

    Args:
        vectors: float16 [n, d], L2-normalised; may be mapped.
        labels: int32 [n], 0 to classes - 1; -1 for removed entries.
        classes: How many there are.
        free: Pictures a class beyond the first, on average, from which on the covariance is that within the classes.

    Returns:
        None if there are no pictures.
    """
    kept = np.flatnonzero(labels >= 0)
    if not len(kept):
        return None
    sums, counts = class_sums(vectors, labels, kept, classes)
    there = counts > 0
    means = np.zeros_like(sums)
    means[there] = sums[there] / counts[there, None]
    centre = means[there].mean(0)
    rounded = means.astype(np.float32)
    count, groups = len(kept), int(there.sum())
    covariance: Covariance = "total"
    spread, beyond = None, count - groups
    if beyond >= free * groups:
        spread = _Spread.of((block - rounded[owners] for block, owners in _blocks(vectors, labels, kept)), count)
        covariance = "within"
    if spread is None or not spread.varies(count):
        mean = (sums.sum(0) / count).astype(np.float32)
        spread = _Spread.of((block - mean for block, _ in _blocks(vectors, labels, kept)), count)
        covariance, beyond = "total", count - 1
    factor, floor, trace = spread.precision(count)
    gaussian = Gaussian(centre.astype(np.float32), factor, floor, trace * count / max(1, beyond))
    return Learned(gaussian, rounded, counts, covariance)


def class_sums(
    vectors: Halfs, labels: Labels, rows: npt.NDArray[np.int64], classes: int
) -> tuple[Doubles, npt.NDArray[np.int64]]:
    """The sum of the chosen vectors of each class, float64 [classes, d], and their number, int64 [classes]."""
    sums = np.zeros((classes, vectors.shape[1]))
    for block, owners in _blocks(vectors, labels, rows):
        order = np.argsort(owners, kind="stable")
        first = np.flatnonzero(np.diff(owners[order], prepend=-1))
        sums[owners[order[first]]] += np.add.reduceat(block[order].astype(np.float64), first)
    return sums, np.bincount(labels[rows], minlength=classes)


def _blocks(vectors: Halfs, labels: Labels, rows: npt.NDArray[np.int64]) -> Iterator[tuple[Floats, Labels]]:
    for start in range(0, len(rows), _BLOCK):
        some = rows[start : start + _BLOCK]
        yield vectors[some].astype(np.float32), labels[some]


@dataclass(frozen=True, eq=False)
class _Spread:
    """How vectors vary about their means: the products of the residuals, on whichever side is smaller.

    Attributes:
        products: float64: residuals^T residuals [d, d], or residuals residuals^T [n, n] of fewer than d.
        residuals: float32 [n, d] in the second case.
        width: d.
    """

    products: Doubles
    residuals: Floats | None
    width: int

    @classmethod
    def of(cls, blocks: Iterator[Floats], count: int) -> _Spread:
        """From the residuals of `count` vectors."""
        first = next(blocks)
        width = first.shape[1]
        if count < width:
            rows = np.concatenate([first, *blocks])
            return cls(rows.astype(np.float64) @ rows.T.astype(np.float64), rows, width)
        products = (first.T @ first).astype(np.float64)
        for block in blocks:
            products += block.T @ block
        return cls(products, None, width)

    def varies(self, count: int) -> bool:
        """Whether they do by more than rounding."""
        return float(np.trace(self.products)) > _NOTHING * count * self.width

    def precision(self, count: int) -> tuple[Floats, float, float]:
        """F float32 [r, d], the floor, and the trace of P C, for C the spread of `count` vectors."""
        if not self.varies(count):  # copies of one vector: no direction is better than another
            return np.empty((0, self.width), np.float32), float(self.width), 0.0
        values, basis = np.linalg.eigh(self.products)
        there = values > _ROUNDING * values[-1]
        there[:-_DIRECTIONS] = False
        kept, basis = values[there], basis[:, there]
        rows = basis.T if self.residuals is None else (basis.T @ self.residuals) / np.sqrt(kept)[:, None]
        variance, total = kept / count, float(values.sum()) / count
        others = self.width - len(kept)
        rest = max(0.0, total - float(variance.sum())) / others if others else 0.0
        sphere = SHRINKAGE * total / self.width
        shrunk, least = (1 - SHRINKAGE) * variance + sphere, (1 - SHRINKAGE) * rest + sphere
        factor = rows * np.sqrt(np.maximum(0, 1 / least - 1 / shrunk))[:, None]
        trace = float((variance / shrunk).sum()) + others * rest / least
        return np.ascontiguousarray(factor, np.float32), 1 / least, trace
