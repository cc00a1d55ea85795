"""Turns a user's options for an index (`--dim`, `--reducer`, `--dtype`) into the reduction that is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ..part import INDEX_DTYPES, REDUCERS, IndexDtype, Reducer
from ..reduction import Reduction
from .measure import Held
from .reduce import Basis, blocks, find_basis, mean_of
from .write import stored

Floats = npt.NDArray[np.float32]

DEFAULT_DIM = 64
_INT8_LARGEST = 127
# R: a recall target scores this many of the nearest at the reduced dimension again, at full dimension.
_RESCORE = 50
# Where the search for the smallest dimension begins.
_FEWEST = 8


@dataclass(frozen=True)
class Recall:
    """Asks for the smallest dimension that keeps this recall@10, 0 to 1, after re-scoring."""

    share: float


Target: TypeAlias = int | Recall | None


@dataclass(frozen=True)
class IndexOptions:
    """The options of an index besides its dimension.

    Attributes:
        reducer: How the dimensions are found; see `find_basis`.
        index_dtype: The type in which the index stores numbers.
        shards: How many index files are searched in parallel.

    Raises:
        InputError: A value is out of range.
    """

    reducer: Reducer = "pca"
    index_dtype: IndexDtype = "f16"
    shards: int = 1

    def __post_init__(self) -> None:
        if self.reducer not in REDUCERS or self.index_dtype not in INDEX_DTYPES:
            raise InputError(
                f"{self.reducer!r} or {self.index_dtype!r} is none of {REDUCERS} and {INDEX_DTYPES}"
                "; choose one of these"
            )
        if self.shards < 1:
            raise InputError(f"shards={self.shards}; give 1 or more")

    def target(self, dim: str | None, full: int) -> Target:
        """The target that `--dim` names; see `parse_dim`. Without `--dim` it is 64, or all if the encoder has fewer.

        Raises:
            InputError: The dimension is out of range, or the reducer `none` was given one.
        """
        if self.reducer == "none":
            if dim not in (None, "none"):
                raise InputError(f"the reducer none keeps all dimensions, but dim is {dim}; leave one of them out")
            return None
        return min(DEFAULT_DIM, full) if dim is None else parse_dim(dim, full)


def parse_dim(text: str, full: int) -> Target:
    """Reads the index's dimension: `64`, a share such as `1/9`, `recall=99.5` or `none`.

    Raises:
        InputError: The text is none of these, or the dimension is out of range.
    """
    if text == "none":
        return None
    if text.startswith("recall="):
        return Recall(_percent(text))
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"dim {text!r} is no number, share such as 1/9, recall=99.5, or none; give one of these"
        ) from error
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
        raise InputError(f"dim {text!r}: a recall must be above 0 and at most 100 percent")
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
        target: The dimension, or the recall to keep. If the vectors span fewer dimensions, only those are kept.
        options: Reducer and dtype.
        cross_modal: Whether queries are of another modality than the vectors.
        held: Returns queries with their true neighbours; called only if the target is a recall.

    Raises:
        InputError: The dimension is out of range, or no dimension keeps the recall.
    """
    width = vectors.shape[1]
    whole = target is None or (target == width and options.reducer == "pca")
    wanted = target if isinstance(target, int) else None
    basis = None if whole else find_basis(vectors, options.reducer, wanted)

    def at(dim: int | None) -> Reduction:
        return _finish(vectors, basis, dim, options, cross_modal=cross_modal)

    if basis is None or not isinstance(target, Recall):
        return at(None if isinstance(target, Recall) else target)
    return _smallest(vectors, len(basis.rows), target, options.index_dtype, at, held())


def _finish(
    vectors: npt.NDArray[np.float16], basis: Basis | None, dim: int | None, options: IndexOptions, *, cross_modal: bool
) -> Reduction:
    """The reduction to the first `dim` rows of a basis, with the radius and scale that fit its vectors."""
    if basis is None or dim is None:
        reduction = Reduction(mean_of(vectors).astype(np.float32), None, 1.0, 0.0)
    else:
        reduction = Reduction(basis.mean, basis.rows[:dim], basis.kept(dim), 0.0)
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

    Recall rises with the dimension, so the dimension is doubled until the recall is reached, and then bisected.
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
    """recall@10, 0 to 1, of an exact search at the reduced dimension that scores its nearest 50 again.

    The search finds a true neighbour if fewer than 50 entries are nearer, so it is enough to count those.

    Args:
        vectors: float16 [n, d].
        reduction: From d to r.
        dtype: The index's type; the entries are rounded to it.
        held: Queries and their true neighbours.
    """
    queries = reduction.queries(held.queries)
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
            # The margin covers rounding: a neighbour must not count as nearer than itself.
            nearer[:, place] += (distances < limits[:, place, None] - 1e-6 * np.abs(limits[:, place, None])).sum(1)
        first += len(block)
    return float((nearer < _RESCORE).mean())


def _entries(reduction: Reduction, vectors: npt.NDArray[np.float16]) -> Any:
    return (reduction.entries(block.astype(np.float32)) for block in blocks(vectors))


def _rounded(reduced: Floats, dtype: IndexDtype) -> Floats:
    """Entries as the index compares them: rounded for int8, unchanged for f16, which loses nothing that counts."""
    return stored(reduced, dtype).astype(np.float32) if dtype == "i8" else reduced
