"""Builds one part of a memory from its `vectors.npy`: learns the reduction, writes the index, measures it.

At any time it needs memory for the index of one shard and a few bytes per entry.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ... import _native
from ..files import map_bytes, map_npy
from ..part import Fitted, PartSettings, shard_name
from ..reduction import Reduction
from .index import IndexOptions, Recall, Target, fit
from .measure import DEFAULT_GOAL, QUERIES, Held, choose_search, sample, spread
from .write import part_info, progress, shard_numbers, write_entries, write_shard

Floats = npt.NDArray[np.float32]
Halfs = npt.NDArray[np.float16]
Numbers = npt.NDArray[np.int64]

# For fewer entries than this, an exact search is faster than any graph walk.
_ALWAYS_EXACT = 256
# A shard of fewer entries is not worth a graph of its own.
_LEAST_A_SHARD = 64


def build_part(
    folder: Path,
    labels: npt.NDArray[np.int32],
    sources: Iterable[str],
    target: Target,
    options: IndexOptions,
    *,
    cross_modal: bool = False,
    queries: Floats | None = None,
) -> dict[str, Any]:
    """Writes all files of a part beside its vectors: its entries, and what `fit_part` writes.

    Args:
        folder: The part's folder in a staged memory, with `vectors.npy`: float16 [n, d], L2-normalised.
        labels: int32 [n], positions in the memory's labels.
        sources: n texts that say where each entry came from.
        target: See `fit_part`, as for the rest.
        options: The other options of the index.
        cross_modal: Whether the queries will be vectors of another modality.
        queries: Vectors of that modality to measure with.

    Returns:
        What the manifest says of the part.

    Raises:
        InputError: The numbers of vectors, labels and sources differ, or the options do not fit the vectors.
    """
    write_entries(folder, labels, sources)
    return fit_part(folder, target, options, cross_modal=cross_modal, queries=queries)


def fit_part(
    folder: Path, target: Target, options: IndexOptions, *, cross_modal: bool = False, queries: Floats | None = None
) -> dict[str, Any]:
    """Learns a part's reduction, writes its index, and measures both.

    Some evenly spread entries are held out at first: recall and speed are measured with them as unseen queries.
    Then they are added to the graph.

    Args:
        folder: The part's folder, with `vectors.npy` and the entries' classes and sources.
        target: The dimension of the index, or the recall that it must keep.
        options: The other options of the index.
        cross_modal: Whether the queries will be vectors of another modality.
        queries: float32 [N, d], L2-normalised vectors of that modality to measure with. None if there are none; then
            the entries serve as queries, and the recall of a cross-modal part stays unknown.

    Returns:
        What the manifest says of the part.

    Raises:
        InputError: The options do not fit the vectors.
    """
    vectors = map_npy(folder / "vectors.npy")
    judge = not cross_modal or queries is not None
    last = np.empty(0, np.int64)
    if queries is None:
        last = spread(len(vectors), min(QUERIES, len(vectors) // 4))
        queries = sample(vectors, last if len(last) else None)
    asked = queries

    @cache
    def held() -> Held:
        return Held.of(vectors, asked, last)

    reduction = fit(vectors, target, options, cross_modal=cross_modal, held=held)
    reduction.save(folder / "reduction.npz")
    settings = PartSettings(
        index_dtype=options.index_dtype,
        reducer="none" if reduction.components is None else options.reducer,
        shards=max(1, min(options.shards, len(vectors) // _LEAST_A_SHARD)),
    )
    with progress(f"{folder.name} index", len(vectors)) as bar:
        _write_shards(folder, vectors, last, reduction, settings, bar)
        if len(vectors) < _ALWAYS_EXACT:
            settings = replace(settings, search="exact", recall=1.0)
        else:
            graphs = [_native.Graph(map_bytes(_unfinished(folder, shard))) for shard in range(settings.shards)]
            settings = choose_search(graphs, vectors, reduction, settings, held(), _goal(target), judge=judge)
        _finish_shards(folder, vectors, last, reduction, settings, bar)
    today = date.today().isoformat()
    fitted = Fitted(len(vectors), settings.recall, today, options.reducer, options.shards)
    return part_info(folder, reduction, replace(settings, fitted=fitted))


def measure_part(
    folder: Path, reduction: Reduction, settings: PartSettings, target: Target, queries: Floats | None, *, judge: bool
) -> PartSettings:
    """Finds the fastest way to search a part whose files are all written.

    Args:
        folder: The part's folder.
        reduction: The index's.
        settings: The settings so far.
        target: What is asked of the index.
        queries: float32 [N, d], L2-normalised; None for entries of the part, none of which finds itself.
        judge: See `choose_search`.
    """
    vectors, labels = map_npy(folder / "vectors.npy"), map_npy(folder / "entries.npy")
    there = np.flatnonzero(labels >= 0)
    if len(there) < _ALWAYS_EXACT:
        return replace(settings, search="exact", recall=1.0)
    out = np.flatnonzero(labels < 0)
    if queries is None:
        chosen = there[spread(len(there), min(QUERIES, len(there) // 4))]
        queries, out = sample(vectors, chosen), np.concatenate([out, chosen])
    graphs = [_native.Graph(map_bytes(folder / shard_name(shard))) for shard in range(settings.shards)]
    held = Held.of(vectors, queries, out)
    return choose_search(graphs, vectors, reduction, settings, held, _goal(target), judge=judge)


def _goal(target: Target) -> float:
    return target.share if isinstance(target, Recall) else DEFAULT_GOAL


def _write_shards(
    folder: Path, vectors: Halfs, last: Numbers, reduction: Reduction, settings: PartSettings, bar: tqdm[Any] | None
) -> None:
    """Writes an index of each shard without the held-out entries."""
    for shard, numbers in enumerate(shard_numbers(len(vectors), settings.shards)):
        first = numbers[~np.isin(numbers, last)]
        write_shard(_unfinished(folder, shard), vectors, first, reduction, settings, bar=bar)


def _finish_shards(
    folder: Path, vectors: Halfs, last: Numbers, reduction: Reduction, settings: PartSettings, bar: tqdm[Any] | None
) -> None:
    """Adds the held-out entries to each shard's index."""
    for shard, numbers in enumerate(shard_numbers(len(vectors), settings.shards)):
        unfinished, entries = _unfinished(folder, shard), numbers[np.isin(numbers, last)]
        write_shard(folder / shard_name(shard), vectors, entries, reduction, settings, onto=unfinished, bar=bar)
        unfinished.unlink()


def _unfinished(folder: Path, shard: int) -> Path:
    return folder / f"unfinished-{shard}"
