"""The search of a memory's state: nearest entries of each modality, collapsed to k classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .collapse import Best, Candidate, Entry, Hits, best_classes
from .info import Weighing
from .part import Ids, Modality, Part
from .reduction import Floats
from .state import Scope, State

# Entries that are scored together, over all queries.
_CELLS = 1 << 22
# Spare entries per class beyond `pool`: only the exact scores tell which entries are the best.
_ROOM = 3
# An entry this near to the mean has no reliable direction: float16 rounding would decide it.
_SHORT = 0.05


@dataclass(frozen=True)
class Request:
    """The parameters of a search; see `Memory.search`."""

    k: int
    scope: Scope
    rescore: int | None = None
    ef: int | None = None
    exact: bool | None = None
    threads: int = 1


def search(state: State, weighing: Weighing, queries: Floats, request: Request) -> list[list[Candidate]]:
    """The k classes most similar to each query.

    Args:
        state: The memory.
        weighing: How similarities are made.
        queries: float32 [N, d], finite.
        request: The rest; k is at most the scope's classes.
    """
    if weighing.centred:
        queries = _unit(queries - state.parts["pictures"].reduction.mean)
    reach, exact = request.scope.reach, request.exact
    asked = {name: _asked(state.parts[name], weighing.pool, request) for name in state.weights}
    if exact and (len(asked) > 1 or weighing.pool > 1 or weighing.centred):
        # A sum or mean is exact only if all of its terms are known; centring changes the order.
        asked = {name: _Asked(count, None, None) for name, count in reach.items()}
    results: list[list[Candidate]] = [[] for _ in queries]
    pending = np.arange(len(queries))
    step = max(1, _CELLS // max(1, *(one.count for one in asked.values())))
    for last in (False, True):
        unfinished = []
        for start in range(0, len(pending), step):
            rows = pending[start : start + step]
            some = queries if len(rows) == len(queries) else queries[rows]
            batches = _nearest(state, some, asked, request, exact, centred=weighing.centred)
            for place, row in enumerate(rows.tolist()):
                hits = {name: batch.of(place) for name, batch in batches.items()}
                best = best_classes(hits, request.k, weighing.pool)
                if len(best) < request.k and not last:
                    unfinished.append(row)
                else:
                    results[row] = [_candidate(state, one) for one in best]
        if not unfinished:
            break
        # The walk ended before it met k classes; a comparison with all entries finds the best of each class.
        pending, exact = np.array(unfinished, np.int64), True
    return results


@dataclass(frozen=True)
class _Asked:
    """What one modality's index must return.

    Attributes:
        count: Entries; they hold k classes if the modality has that many.
        ef: Width of the walk; the stored one if None.
        cap: Most entries per class; None for no limit.
    """

    count: int
    ef: int | None
    cap: int | None


def _asked(part: Part, pool: int, request: Request) -> _Asked:
    """Entries that hold k classes: so few per class that a large class does not keep the others out.

    The walk is as wide as for plain entries, with extra room for the k classes. If there are few classes, more entries
    per class are taken, so that the walk can end before it has met all classes.
    """
    k = request.k
    rescore = request.rescore or part.settings.rescore
    if k == 1:
        return _Asked(max(rescore, pool), request.ef, None)
    width = max(rescore, request.ef or part.settings.ef)
    met = max(k, request.scope.classes // 2)
    cap = max(pool + _ROOM, -(-rescore // k), -(-width // met))
    return _Asked(max(rescore, k * cap), min(width + k * cap, met * cap), cap)


@dataclass(frozen=True)
class _Batch:
    """The entries of one modality that were retrieved for several queries."""

    labels: npt.NDArray[np.int32]
    cosines: Floats
    entries: npt.NDArray[np.int64]
    weight: float
    counts: npt.NDArray[np.int64]

    def of(self, row: int) -> Hits:
        """The hits of one query."""
        cosines = self.cosines[row]
        there = len(cosines)
        if there and cosines[-1] == -np.inf:
            there = int(np.searchsorted(-cosines, np.inf))
        labels, entries = self.labels[row, :there], self.entries[row, :there]
        return Hits(labels.tolist(), cosines[:there].tolist(), entries.tolist(), self.weight, self.counts)


def _nearest(
    state: State,
    queries: Floats,
    asked: Mapping[Modality, _Asked],
    request: Request,
    exact: bool | None,
    *,
    centred: bool,
) -> dict[Modality, _Batch]:
    batches = {}
    for name, one in asked.items():
        part = state.parts[name]
        entries, cosines = part.nearest(
            queries,
            max(1, one.count),
            ef=one.ef,
            allowed=request.scope.allowed,
            reach=request.scope.reach[name],
            exact=exact,
            cap=one.cap,
            threads=request.threads,
        )
        if centred:
            entries, cosines = _centre(part, queries, entries, cosines, request.threads)
        batches[name] = _Batch(part.labels_of(entries), cosines, entries, state.weights[name], part.counts)
    return batches


def _centre(part: Part, queries: Floats, entries: Ids, cosines: Floats, threads: int) -> tuple[Ids, Floats]:
    """The entries by falling cosine between the query and each entry less its modality's mean."""
    mean = part.reduction.mean
    lengths = np.sqrt(np.maximum(1 - 2 * part.dots(mean, entries, threads) + mean @ mean, _SHORT**2))
    left = (cosines - (queries @ mean)[:, None]) / lengths
    left = np.where(entries < 0, -np.inf, left)
    order = np.argsort(-left, axis=1, kind="stable")
    rows = np.arange(len(queries))[:, None]
    return entries[rows, order], np.asarray(left[rows, order], np.float32)


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-30)))


def _candidate(state: State, best: Best) -> Candidate:
    entry = Entry(best.modality, state.parts[best.modality].source(best.entry))
    # float16 leaves stored vectors a little longer or shorter than 1.
    return Candidate(state.names[best.label], min(1.0, max(-1.0, best.similarity)), None, entry)
