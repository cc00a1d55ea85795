"""Learns the reduction of a memory's vectors; whatever the method, the result is one linear map, a `Reduction`.

Vectors are read block by block, so they may lie in a mapped file larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ..part import Reducer
from .write import progress

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
# float16 or float32 [n, d], in memory or mapped.
Vectors: TypeAlias = npt.NDArray[Any]

_BLOCK = 4096
# A direction with less than this share of the largest variance is an artefact of rounding.
_NO_VARIANCE = 1e-10
# The variance that rounding gives equal vectors, as a share of their squared length.
_ROUNDING = 1e-24


@dataclass(frozen=True)
class Basis:
    """Orthonormal directions, most important first; the first m of them project to m dimensions.

    Attributes:
        mean: float32 [d], the mean of the vectors.
        rows: float32 [m, d], orthonormal.
        variance: float64 [m], the variance of the vectors along each row.
        total: Variance of the vectors in all directions.
    """

    mean: Floats
    rows: Floats
    variance: Doubles
    total: float

    def kept(self, dim: int) -> float:
        """Share of the variance that the first `dim` rows keep, 0 to 1."""
        return min(1.0, float(self.variance[:dim].sum()) / self.total) if self.total > 0 else 1.0


def find_basis(vectors: Vectors, reducer: Reducer, dim: int | None) -> Basis:
    """The directions that a reducer keeps, best first.

    Args:
        vectors: float [n, d].
        reducer: `pca`: principal components; `truncate`: the coordinates in their order (Matryoshka towers, arXiv
            2205.13147).
        dim: How many directions will be kept at most; None for d.

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
    if len(vectors) < width:
        return _gram_pca(vectors, wanted)
    return _covariance_pca(vectors, wanted)


def _covariance_pca(vectors: Vectors, dim: int) -> Basis:
    """Exact principal components from the covariance, which is summed up block by block."""
    mean = mean_of(vectors)
    scatter = np.zeros((vectors.shape[1],) * 2)
    for block in _centred(vectors, mean):
        scatter += block.T @ block
    values, basis = np.linalg.eigh(scatter)
    values, rows = values[::-1].clip(0), basis[:, ::-1].T
    return _principal(mean, rows[:dim], values[:dim], float(values.sum()), len(vectors))


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
    """The mean of the vectors: float64 [d]."""
    total = np.zeros(vectors.shape[1])
    for block in blocks(vectors):
        total += block.sum(0, dtype=np.float64)
    return total / len(vectors)


def blocks(vectors: Vectors) -> Iterator[Vectors]:
    """The vectors in order, 4,096 at a time; a long pass shows its progress."""
    with progress("reduction", len(vectors), leave=False, delay=1) as bar:
        for start in range(0, len(vectors), _BLOCK):
            yield vectors[start : start + _BLOCK]
            if bar is not None:
                bar.update(_BLOCK)


def _centred(vectors: Vectors, mean: Doubles) -> Iterator[Doubles]:
    for block in blocks(vectors):
        yield np.subtract(block, mean, dtype=np.float64)
