"""Measures a part of a memory while it is built: the recall of its index, and whether an exact search is faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import _native
from ...machine.cores import usable_cores
from ..part import PartSettings
from ..reduction import Reduction

Floats = npt.NDArray[np.float32]
Halfs = npt.NDArray[np.float16]
Labels = npt.NDArray[np.int32]

# recall@10 is measured over so many queries that its standard error is 0.14 points at 99 %.
NEAREST = 10
QUERIES = 512
# The values of ef and R that are tried. The smallest ef that reaches the goal is stored, with its smallest R.
_WIDTHS = (64, 96, 128, 192, 256, 384, 512)
_RESCORED = (50, 75, 100, 150, 200, 300, 400)
# The recall@10 that the index should reach; `--dim recall=` replaces it.
DEFAULT_GOAL = 0.99
# Two kernels may round the same cosine differently by up to this much.
_SAME = 1e-6
_TIMED_QUERIES, _TIMED_SECONDS = 32, 0.25


@dataclass(frozen=True)
class Held:
    """Queries and their true neighbours.

    Attributes:
        queries: float32 [N, d], unit.
        labels: int32 [n]: 0, or -1 for entries that are left out, such as the queries themselves.
        cosines: float32 [N, c] of the c nearest entries that are not left out, best first; c is at most 10.
        ids: int64 [N, c], these entries.
    """

    queries: Floats
    labels: Labels
    cosines: Floats
    ids: npt.NDArray[np.int64]

    @classmethod
    def of(cls, vectors: Halfs, queries: Floats, out: npt.NDArray[np.int64]) -> Held:
        """Searches all entries, exactly.

        Args:
            vectors: float16 [n, d].
            queries: float32 [N, d].
            out: Entries that are left out.
        """
        labels = np.zeros(len(vectors), np.int32)
        labels[out] = -1
        count = min(NEAREST, len(vectors) - len(out))
        ids, cosines = _native.nearest(vectors, queries, count, labels, None, usable_cores())
        return cls(queries, labels, cosines, ids)

    def recall(self, cosines: Floats) -> float:
        """Share of the true neighbours, 0 to 1, that a search found.

        Args:
            cosines: float32 [N, any] of the entries found. Cosines are compared, not entries: a copy is as good.
        """
        best = -np.sort(-cosines, axis=1)[:, : self.cosines.shape[1]]
        return float((best >= self.cosines[:, -1:] - _SAME).sum() / self.cosines.size)


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """At most `most` of the numbers below `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def sample(vectors: Halfs, numbers: npt.NDArray[np.int64] | None = None) -> Floats:
    """Vectors as queries: float32 [N, d] of unit length.

    Args:
        vectors: float16 [n, d].
        numbers: Which of them; None for evenly spread ones.
    """
    chosen = vectors[spread(len(vectors), QUERIES) if numbers is None else numbers].astype(np.float32)
    return np.asarray(chosen / np.linalg.norm(chosen, axis=1, keepdims=True))


def choose_search(
    graphs: Sequence[Any],
    vectors: Halfs,
    reduction: Reduction,
    settings: PartSettings,
    held: Held,
    goal: float,
    *,
    judge: bool = True,
) -> PartSettings:
    """Finds the fastest way to search the part on this machine.

    Args:
        graphs: The index's shards; they lack the entries that `held` leaves out.
        vectors: float16 [n, d].
        reduction: The index's.
        settings: The settings so far.
        held: Queries and their true neighbours.
        goal: recall@10 that the walk should reach, 0 to 1.
        judge: Whether the queries are like those that will be asked; otherwise the recall means nothing and is None.

    Returns:
        The settings with the smallest `ef`, and then the smallest `rescore`, that reach the goal, or the largest tried.
        `search` is the faster of index and exact search for one query at a time; `recall` is that of the choice.
    """

    def walk(queries: Floats, ef: int, rescore: int, threads: int = 1) -> Floats:
        ids, _ = _native.search(graphs, reduction.queries(queries), rescore, ef, held.labels, None, threads)
        return _native.score(vectors, queries, ids, threads)

    for ef in _WIDTHS:
        nearest = walk(held.queries, ef, ef, usable_cores())
        recalls = {rescore: held.recall(nearest[:, :rescore]) for rescore in _RESCORED if rescore <= ef}
        rescore, recall = next(
            ((rescore, recall) for rescore, recall in recalls.items() if recall >= goal or not judge),
            max(recalls.items()),
        )
        if recall >= goal or not judge:
            break
    indexed = _microseconds(lambda query: walk(query, ef, rescore), held.queries)
    exact = _microseconds(lambda query: _native.nearest(vectors, query, rescore, held.labels, None), held.queries)
    settings = replace(settings, ef=ef, rescore=rescore)
    if exact <= indexed:
        return replace(settings, search="exact", recall=1.0)
    return replace(settings, search="index", recall=recall if judge else None)


def _microseconds(search: Callable[[Floats], object], queries: Floats) -> float:
    """Median time of a query, over as many queries as there is time for."""
    search(queries[:1])
    took: list[float] = []
    for row in range(min(len(queries), _TIMED_QUERIES)):
        began = perf_counter()
        search(queries[row : row + 1])
        took.append(perf_counter() - began)
        if sum(took) > _TIMED_SECONDS:
            break
    return 1e6 * float(np.median(took))
