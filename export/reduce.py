"""Learns the reduction of a memory's vectors; whatever the method, the result is one linear map, a `Reduction`.

Vectors are read block by block, so they may lie in a mapped file larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime.errors import InputError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
# float16 or float32 [n, d], in memory or mapped.
Vectors: TypeAlias = npt.NDArray[Any]

Reducer: TypeAlias = Literal["pca", "whitened", "truncate", "random", "none"]
REDUCERS: tuple[Reducer, ...] = get_args(Reducer)

_BLOCK = 4096
# Directions whose share of the largest variance is below are not there: rounding made them.
_NO_VARIANCE = 1e-10
# And what equal vectors seem to vary by, as a share of their squared length.
_ROUNDING = 1e-24
# Whitening divides by the deviation; below this share of the largest variance it would blow up noise.
_WHITEN_FLOOR = 1e-6
_OVERSAMPLE = 16
_POWER_PASSES = 4
# Multiplications that a covariance may cost where a randomised basis would be cheaper: half a minute on two cores.
_AFFORDABLE = 1e12


@dataclass(frozen=True)
class Basis:
    """Orthonormal directions in the order in which they are kept; a prefix of them is a projection.

    Attributes:
        mean: float32 [d] of the vectors.
        rows: float32 [m, d], orthonormal.
        variance: float64 [m], of the vectors along each row.
        total: Variance of the vectors in all directions.
    """

    mean: Floats
    rows: Floats
    variance: Doubles
    total: float

    def components(self, dim: int, *, whiten: bool = False) -> Floats:
        """The first `dim` rows, or all where there are fewer: float32 [min(dim, m), d].

        Args:
            dim: How many.
            whiten: Scales each to unit variance of the vectors; directions in which next to nothing varies go.
        """
        if not whiten:
            return self.rows[:dim]
        there = self.variance[:dim] > self.variance[0] * _WHITEN_FLOOR
        if not there.any():
            return self.rows[:1]
        return np.asarray(self.rows[:dim][there] / np.sqrt(self.variance[:dim][there, None]), np.float32)

    def kept(self, dim: int) -> float:
        """Share of the variance that the first `dim` rows keep, 0 to 1."""
        return min(1.0, float(self.variance[:dim].sum()) / self.total) if self.total > 0 else 1.0


def find_basis(vectors: Vectors, reducer: Reducer, dim: int | None, seed: int = 0) -> Basis:
    """The directions that a reducer keeps, best first.

    Args:
        vectors: float [n, d].
        reducer: `pca` or `whitened`: principal components; `truncate`: the coordinates in their order (Matryoshka
            towers, arXiv 2205.13147); `random`: a random orthogonal projection (Johnson-Lindenstrauss).
        dim: How many directions will be kept at most; None for d.
        seed: Of what is random.

    Raises:
        InputError: `dim` is out of range, or `reducer` is `none`.
    """
    width = vectors.shape[1]
    if reducer == "none":
        raise InputError("the reducer none keeps the vectors as they are; there is nothing to find")
    if dim is not None and not 1 <= dim <= width:
        raise InputError(f"cannot keep {dim} of {width} dimensions; choose 1 to {width}, or none")
    wanted = width if dim is None else dim
    if reducer == "truncate":
        return _along(vectors, np.eye(wanted, width, dtype=np.float32))
    if reducer == "random":
        gaussian = np.random.default_rng(seed).normal(size=(width, wanted))
        return _along(vectors, np.ascontiguousarray(orthonormal(gaussian).T, np.float32))
    if len(vectors) < width:
        return _gram_pca(vectors, wanted)
    passes = _POWER_PASSES + 1
    exact, randomised = float(len(vectors)) * width**2, 2.0 * len(vectors) * width * (wanted + _OVERSAMPLE) * passes
    if exact <= max(_AFFORDABLE, randomised):
        return covariance_pca(vectors, wanted)
    return randomised_pca(vectors, wanted, seed)


def covariance_pca(vectors: Vectors, dim: int) -> Basis:
    """Exact principal components from the covariance, which is summed up block by block.

    Args:
        vectors: float [n, d].
        dim: Components to keep.
    """
    mean = mean_of(vectors)
    scatter = np.zeros((vectors.shape[1],) * 2)
    for block in _centred(vectors, mean):
        scatter += block.T @ block
    values, basis = np.linalg.eigh(scatter)
    values, rows = values[::-1].clip(0), basis[:, ::-1].T
    return _principal(mean, rows[:dim], values[:dim], float(values.sum()), len(vectors))


def randomised_pca(vectors: Vectors, dim: int, seed: int = 0) -> Basis:
    """Principal components by randomised subspace iteration (Halko, Martinsson, Tropp 2011, algorithms 4.4 and 5.3).

    The vectors are passed through a few times and only d x (dim + 16) numbers are kept, so it suits more vectors
    and wider ones than the covariance does.

    Args:
        vectors: float [n, d].
        dim: Components to keep.
        seed: Of the first guess.
    """
    mean, width = mean_of(vectors), vectors.shape[1]
    guess = np.random.default_rng(seed).normal(size=(width, min(width, dim + _OVERSAMPLE)))
    space = orthonormal(guess)
    for _ in range(_POWER_PASSES):
        image = np.zeros_like(space)
        for block in _centred(vectors, mean):
            image += block.T @ (block @ space)
        space = orthonormal(image)
    inner, total = np.zeros((space.shape[1],) * 2), 0.0
    for block in _centred(vectors, mean):
        projected = block @ space
        inner += projected.T @ projected
        total += float((block**2).sum())
    values, turn = np.linalg.eigh(inner)
    values, rows = values[::-1].clip(0), (space @ turn[:, ::-1]).T
    return _principal(mean, rows[:dim], values[:dim], total, len(vectors))


def _gram_pca(vectors: Vectors, dim: int) -> Basis:
    """Exact principal components of fewer vectors than dimensions: the smaller Gram matrix has the same spectrum."""
    mean = mean_of(vectors)
    centred = vectors.astype(np.float64) - mean
    values, basis = np.linalg.eigh(centred @ centred.T)
    values, basis = values[::-1].clip(0), basis[:, ::-1]
    there = int((values > values[0] * _NO_VARIANCE).sum())
    rows = (basis[:, :there].T @ centred) / np.sqrt(values[:there, None])
    return _principal(mean, rows[:dim], values[:dim][: len(rows)], float(values.sum()), len(vectors))


def _principal(mean: Doubles, rows: Doubles, scatter: Doubles, total: float, count: int) -> Basis:
    rounding = _ROUNDING * count * float(mean @ mean)
    there = scatter > max(_NO_VARIANCE * scatter.max(initial=0.0), rounding)
    if not there.any():  # one vector, or copies of one: nothing varies, and any direction serves
        return Basis(mean.astype(np.float32), np.eye(1, len(mean), dtype=np.float32), np.zeros(1), 0.0)
    rows = rows[there]
    # A fixed sign makes a rebuilt memory equal to the first.
    signs = np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(1)])
    turned = np.ascontiguousarray(rows * signs[:, None], np.float32)
    return Basis(mean.astype(np.float32), turned, scatter[there] / count, total / count)


def _along(vectors: Vectors, rows: Floats) -> Basis:
    mean = mean_of(vectors)
    variance, total = np.zeros(len(rows)), 0.0
    for block in _centred(vectors, mean):
        variance += ((block @ rows.T) ** 2).sum(0)
        total += float((block**2).sum())
    return Basis(mean.astype(np.float32), rows, variance / len(vectors), total / len(vectors))


def mean_of(vectors: Vectors) -> Doubles:
    """float64 [d]."""
    total = np.zeros(vectors.shape[1])
    for block in blocks(vectors):
        total += block.sum(0, dtype=np.float64)
    return total / len(vectors)


def blocks(vectors: Vectors) -> Iterator[Vectors]:
    """The vectors in order, some thousands at a time; a pass that takes long shows how far it is."""
    for start in tqdm(range(0, len(vectors), _BLOCK), desc="reduction", unit="", leave=False, delay=1, disable=None):
        yield vectors[start : start + _BLOCK]


def orthonormal(columns: Doubles) -> Doubles:
    """An orthonormal basis of what the columns span, each with the sign that makes it unique: float64 [d, m]."""
    space, triangle = np.linalg.qr(columns)
    signs = np.sign(np.diagonal(triangle))
    return np.asarray(space * np.where(signs == 0, 1, signs))


def _centred(vectors: Vectors, mean: Doubles) -> Iterator[Doubles]:
    for block in blocks(vectors):
        yield np.subtract(block, mean, dtype=np.float64)
