"""From what a user asks of an index (`--dim`, `--reducer`, `--dtype`) to the reduction that is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rar.runtime.errors import InputError
from rar.runtime.memory.part import INDEX_DTYPES, IndexDtype
from rar.runtime.memory.reduction import Reduction
from rar.runtime.memory.write import stored

from .measure import Held
from .reduce import REDUCERS, Basis, Reducer, blocks, find_basis, mean_of, orthonormal

Floats = npt.NDArray[np.float32]

DEFAULT_DIM = 64
_INT8_LARGEST = 127
# R, how many of the nearest at the reduced dimension a recall target scores again.
_RESCORE = 50
# Where the search for the smallest dimension begins.
_FEWEST = 8


@dataclass(frozen=True)
class Recall:
    """A dimension given by what it must keep: this share, 0 to 1, of recall@10 after re-scoring."""

    share: float


Target: TypeAlias = int | Recall | None


@dataclass(frozen=True)
class IndexOptions:
    """What is asked of an index besides its dimension.

    Attributes:
        reducer: How the dimensions are found; see `find_basis`.
        index_dtype: What the index stores a number in.
        shards: Index files that are searched side by side.
        seed: Of what is random.

    Raises:
        InputError: A value is out of range.
    """

    reducer: Reducer = "pca"
    index_dtype: IndexDtype = "f16"
    shards: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.reducer not in REDUCERS or self.index_dtype not in INDEX_DTYPES:
            raise InputError(f"{self.reducer!r} or {self.index_dtype!r} is none of {REDUCERS} and {INDEX_DTYPES}")
        if self.shards < 1 or self.seed < 0:
            raise InputError(f"shards={self.shards}, seed={self.seed}; give shards from 1 and a seed from 0")

    def target(self, dim: str | None, full: int) -> Target:
        """What `--dim` means: see `parse_dim`; None for 64, or all where the encoder has fewer.

        Raises:
            InputError: It is out of range, or the reducer cannot do that.
        """
        if self.reducer == "none":
            if dim not in (None, "none"):
                raise InputError(f"the reducer none keeps all dimensions, but dim is {dim}; leave one of them out")
            return None
        return min(DEFAULT_DIM, full) if dim is None else parse_dim(dim, full)


def parse_dim(text: str, full: int) -> Target:
    """The index's dimension from `64`, a share such as `1/9`, `recall=99.5` or `none`.

    Raises:
        InputError: None of these, or out of range.
    """
    if text == "none":
        return None
    if text.startswith("recall="):
        return Recall(_percent(text))
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"dim {text!r} is no number, share such as 1/9, recall=99.5, or none") from error
    dim = int(value) if value.denominator == 1 and value >= 1 else round(full * value)
    if not 1 <= dim <= full:
        raise InputError(f"dim {text} asks for {dim} of the encoder's {full} dimensions; choose 1 to {full}")
    return dim


def _percent(text: str) -> float:
    try:
        percent = float(text.removeprefix("recall="))
    except ValueError as error:
        raise InputError(f"dim {text!r}: give the recall in percent, such as recall=99.5") from error
    if not 0 < percent <= 100:
        raise InputError(f"dim {text!r}: a recall is above 0 and at most 100 percent")
    return percent / 100


def fit(
    vectors: npt.NDArray[np.float16],
    target: Target,
    options: IndexOptions,
    *,
    cross_modal: bool,
    held: Callable[[], Held],
) -> Reduction:
    """Learns a reduction from the vectors it will serve.

    Args:
        vectors: float16 [n, d], L2-normalised, mapped or not.
        target: The dimension, or the recall it must keep. Fewer are kept where the vectors span fewer.
        options: Reducer, dtype and seed.
        cross_modal: Whether queries are of another modality than the vectors.
        held: Gives queries and their true neighbours; asked only where the target is a recall.

    Raises:
        InputError: The dimension is out of range, or no dimension keeps the recall.
    """
    width = vectors.shape[1]
    whole = target is None or (target == width and options.reducer == "pca")
    wanted = target if isinstance(target, int) else None
    basis = None if whole else find_basis(vectors, options.reducer, wanted, options.seed)

    def at(dim: int | None) -> Reduction:
        return _finish(vectors, basis, dim, options, cross_modal=cross_modal)

    if basis is None or not isinstance(target, Recall):
        return at(None if isinstance(target, Recall) else target)
    return _smallest(vectors, len(basis.rows), target, options.index_dtype, at, held())


def _finish(
    vectors: npt.NDArray[np.float16], basis: Basis | None, dim: int | None, options: IndexOptions, *, cross_modal: bool
) -> Reduction:
    """The reduction to the first directions of a basis, with the lengths that its vectors need."""
    if basis is None or dim is None:
        reduction = Reduction(mean_of(vectors).astype(np.float32), None, 1.0, 0.0)
    else:
        components = basis.components(dim, whiten=options.reducer == "whitened")
        if options.index_dtype == "b1":
            # Signs of principal components say little, as a few hold most of the variance: a turn spreads it evenly
            # (PCA-RR of Gong and Lazebnik, Iterative Quantization, 2011).
            turn = orthonormal(np.random.default_rng(options.seed).normal(size=(len(components),) * 2))
            components = np.asarray(turn @ components, np.float32)
        reduction = Reduction(basis.mean, components, basis.kept(dim), 0.0)
    if cross_modal:
        longest = max(float(np.linalg.norm(block, axis=1).max()) for block in _entries(reduction, vectors))
        reduction = replace(reduction, radius=max(longest, float(np.finfo(np.float32).tiny)))
    if options.index_dtype == "i8":
        largest = max(float(np.abs(block).max()) for block in _entries(reduction, vectors))
        reduction = replace(reduction, scale=max(largest / _INT8_LARGEST, float(np.finfo(np.float32).tiny)))
    return reduction


def _smallest(
    vectors: npt.NDArray[np.float16],
    most: int,
    target: Recall,
    dtype: IndexDtype,
    at: Callable[[int], Reduction],
    held: Held,
) -> Reduction:
    """The reduction to the smallest dimension that keeps a recall.

    Doubled until it does, then bisected: recall rises with the dimension (but falls again where whitening gets to
    directions of noise).
    """
    best, low, high = 0.0, 0, min(_FEWEST, most)
    while (recall := recall_at(vectors, at(high), dtype, held)) < target.share:
        best = max(best, recall)
        if high == most:
            raise InputError(
                f"no dimension keeps {100 * target.share:g} % of recall@10, at best {100 * best:.2f} %; ask for less, "
                "or for another reducer or dtype"
            )
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        if recall_at(vectors, at(middle), dtype, held) >= target.share:
            high = middle
        else:
            low = middle
    return at(high)


def recall_at(vectors: npt.NDArray[np.float16], reduction: Reduction, dtype: IndexDtype, held: Held) -> float:
    """recall@10, 0 to 1, of exact search at the reduced dimension whose nearest 50 are scored again.

    A true neighbour is found if fewer than 50 entries are nearer, so it is enough to count these.

    Args:
        vectors: float16 [n, d].
        reduction: From d to r.
        dtype: What the entries are rounded to.
        held: Queries and their true neighbours.
    """
    queries = _rounded(reduction.queries(held.queries), dtype, entries=False)
    truth = np.maximum(held.ids, 0)
    neighbours = _rounded(reduction.entries(vectors[truth.ravel()].astype(np.float32)), dtype)
    neighbours = neighbours.reshape(*truth.shape, -1)
    # |x - q|^2 less |q|^2, which is the same for all entries of a query.
    limits = (neighbours**2).sum(2) - 2 * np.einsum("qcr,qr->qc", neighbours, queries)
    nearer = np.zeros(truth.shape, np.int64)
    first = 0
    for block in _entries(reduction, vectors):
        block = _rounded(block, dtype)
        distances = (block**2).sum(1) - 2 * (queries @ block.T)
        distances[:, held.labels[first : first + len(block)] < 0] = np.inf
        for place in range(truth.shape[1]):
            # Half a step of rounding: a neighbour is not nearer than itself.
            nearer[:, place] += (distances < limits[:, place, None] - 1e-6 * np.abs(limits[:, place, None])).sum(1)
        first += len(block)
    return float((nearer < _RESCORE).mean())


def _entries(reduction: Reduction, vectors: npt.NDArray[np.float16]) -> Any:
    return (reduction.entries(block.astype(np.float32)) for block in blocks(vectors))


def _rounded(reduced: Floats, dtype: IndexDtype, *, entries: bool = True) -> Floats:
    """What the index compares by: int8's steps for its entries, signs for bits; 16 bits lose nothing that counts."""
    if dtype == "b1":
        return np.where(reduced > 0, np.float32(1), np.float32(-1))
    return stored(reduced, dtype).astype(np.float32) if dtype == "i8" and entries else reduced
