"""The search of a memory's state: nearest entries of each modality, collapsed to k classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .collapse import Best, Candidate, Entry, Found, best_classes
from .part import Ids, Modality, Part
from .reduction import Floats
from .state import Scope, State
from .view import Weighing

# Entries that are looked at together, over the queries.
_CELLS = 1 << 22
# Where too few classes were found, so many times as many entries are asked for;
_MORE = 4
# and all of them, compared one by one, where that would be more than this share.
_SHARE = 1 / 16
# An entry this near to the mean is no longer any direction; float16 would decide it.
_SHORT = 0.05


@dataclass(frozen=True)
class Request:
    """What a search is asked for; see `Memory.search`."""

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
    counts = {name: max(request.k, request.rescore or state.parts[name].settings.rescore) for name in state.weights}
    if exact and (len(counts) > 1 or weighing.pool > 1 or weighing.centred):
        # A sum or mean is exact only where all of its terms are known; centring changes the order.
        counts = dict(reach)
    results: list[list[Candidate]] = [[] for _ in queries]
    pending = np.arange(len(queries))
    while len(pending):
        # Walked through to the end, a graph need not give all there is.
        last = exact is not False and all(counts[name] >= reach[name] for name in counts)
        step = max(1, _CELLS // max(1, *counts.values()))
        unfinished = []
        for start in range(0, len(pending), step):
            rows = pending[start : start + step]
            some = queries if len(rows) == len(queries) else queries[rows]
            found = _nearest(state, some, counts, request, exact, centred=weighing.centred)
            for place, row in enumerate(rows.tolist()):
                own = {name: one.of(place) for name, one in found.items()}
                best = best_classes(own, request.k, weighing.pool)
                if len(best) < request.k and not last:
                    unfinished.append(row)
                else:
                    results[row] = [_candidate(state, one) for one in best]
        pending = np.array(unfinished, np.int64)
        counts, exact = {name: _MORE * count for name, count in counts.items()}, None
        if any(counts[name] > _SHARE * reach[name] for name in counts):
            counts, exact = dict(reach), True
    return results


@dataclass(frozen=True)
class _Batch:
    """The entries of one modality that were found for several queries."""

    labels: npt.NDArray[np.int32]
    cosines: Floats
    entries: npt.NDArray[np.int64]
    weight: float
    counts: npt.NDArray[np.int64]

    def of(self, row: int) -> Found:
        """Those of one query."""
        cosines = self.cosines[row]
        there = len(cosines)
        if there and cosines[-1] == -np.inf:
            there = int(np.searchsorted(-cosines, np.inf))
        labels, entries = self.labels[row, :there], self.entries[row, :there]
        return Found(labels.tolist(), cosines[:there].tolist(), entries.tolist(), self.weight, self.counts)


def _nearest(
    state: State,
    queries: Floats,
    counts: Mapping[Modality, int],
    request: Request,
    exact: bool | None,
    *,
    centred: bool,
) -> dict[Modality, _Batch]:
    found = {}
    for name, count in counts.items():
        part = state.parts[name]
        entries, cosines = part.nearest(
            queries,
            max(1, count),
            ef=request.ef,
            allowed=request.scope.allowed,
            reach=request.scope.reach[name],
            exact=exact,
            threads=request.threads,
        )
        if centred:
            entries, cosines = _centre(part, queries, entries, cosines, request.threads)
        found[name] = _Batch(part.labels_of(entries), cosines, entries, state.weights[name], part.counts)
    return found


def _centre(part: Part, queries: Floats, entries: Ids, cosines: Floats, threads: int) -> tuple[Ids, Floats]:
    """The entries by falling cosine of the query with what is left of each when its modality's mean is taken off."""
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
    return Candidate(state.names[best.label], best.similarity, None, entry)
