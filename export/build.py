"""Builds one part of a memory around its `vectors.npy`: learns the reduction, indexes, measures.

Nothing here grows with the number of vectors but the index of one shard and a few bytes an entry.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rar.runtime import _native
from rar.runtime.memory.files import map_bytes, map_npy
from rar.runtime.memory.part import PartSettings, shard_name
from rar.runtime.memory.reduction import Reduction
from rar.runtime.memory.write import part_info, shard_numbers, write_entries, write_shard

from .fit import IndexOptions, Recall, Target, fit
from .measure import DEFAULT_GOAL, QUERIES, Held, choose_search, sample, spread

Floats = npt.NDArray[np.float32]
Halfs = npt.NDArray[np.float16]
Numbers = npt.NDArray[np.int64]

# Fewer entries are compared sooner than a graph is walked.
_ALWAYS_EXACT = 256
# Fewer are not worth a graph of their own.
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
    """Writes all files of a part beside its vectors.

    Entries that are evenly spread are put into the graph last: before, they are queries that it has not seen, and
    its recall and speed are measured with them.

    Args:
        folder: The part's in a staged memory, with `vectors.npy`: float16 [n, d], L2-normalised.
        labels: int32 [n], positions in the memory's labels.
        sources: n texts: where each entry came from.
        target: The dimension of the index, or the recall that it must keep.
        options: What else is asked of the index.
        cross_modal: Whether it is searched by vectors of another modality.
        queries: float32 [N, d], unit: such as will be asked across modalities. None where there are none; then the
            entries themselves are asked, and the recall stays unknown.

    Returns:
        What the manifest says of the part.

    Raises:
        InputError: The three differ in number, or what is asked of the index cannot be.
    """
    write_entries(folder, labels, sources)
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
    with tqdm(total=len(vectors), desc=f"{folder.name} index", unit="", disable=None) as bar:
        _write_shards(folder, vectors, last, reduction, settings, bar)
        if len(vectors) < _ALWAYS_EXACT:
            settings = replace(settings, search="exact", recall=1.0)
        else:
            goal = target.share if isinstance(target, Recall) else DEFAULT_GOAL
            graphs = [_native.Graph(map_bytes(_unfinished(folder, shard))) for shard in range(settings.shards)]
            settings = choose_search(graphs, vectors, reduction, settings, held(), goal, judge=judge)
        _finish_shards(folder, vectors, last, reduction, settings, bar)
    return part_info(folder, reduction, settings)


def _write_shards(
    folder: Path, vectors: Halfs, last: Numbers, reduction: Reduction, settings: PartSettings, bar: tqdm[Any]
) -> None:
    """Indexes of all entries but the last ones."""
    for shard, numbers in enumerate(shard_numbers(len(vectors), settings.shards)):
        first = numbers[~np.isin(numbers, last)]
        write_shard(_unfinished(folder, shard), vectors, first, reduction, settings, bar=bar)


def _finish_shards(
    folder: Path, vectors: Halfs, last: Numbers, reduction: Reduction, settings: PartSettings, bar: tqdm[Any]
) -> None:
    """Adds the last entries."""
    for shard, numbers in enumerate(shard_numbers(len(vectors), settings.shards)):
        unfinished, own = _unfinished(folder, shard), numbers[np.isin(numbers, last)]
        write_shard(folder / shard_name(shard), vectors, own, reduction, settings, onto=unfinished, bar=bar)
        unfinished.unlink()


def _unfinished(folder: Path, shard: int) -> Path:
    return folder / f"unfinished-{shard}"
