"""Writes the files of one part, block by block, so that a part may be larger than memory.

`write_part` writes them all. Whoever must look at the vectors first (to learn a reduction from them) writes
`vectors.npy` with `VectorWriter`, and goes on with `write_entries` and `write_index`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from .. import _native
from ..errors import InputError
from .files import NpyWriter, map_bytes, map_npy
from .part import PartSettings, shard_name
from .reduction import Floats, Reduction
from .sources import OFFSETS, TEXT

CONNECTIVITY = 16
EXPANSION = 128
_BLOCK = 8192
# One thread makes the same graph each time; where that would take long, the cores share it.
_REPEATABLE = 10_000
_INT8_LARGEST = 127


class VectorWriter(NpyWriter):
    """`vectors.npy` of a part being written: float16 [n, d].

    Args:
        folder: The part's.
        dim: d.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        super().__init__(folder / "vectors.npy", np.float16, (dim,))

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Appends float [c, d], L2-normalised.

        Raises:
            InputError: A vector is zero or not finite.
        """
        check_vectors(rows, self.rows)
        super().append(rows)


def check_vectors(rows: npt.NDArray[Any], first: int = 0) -> None:
    """Passes vectors, float [c, d], that can be searched.

    Args:
        rows: The vectors.
        first: The number of the first one.

    Raises:
        InputError: One is zero or not finite.
    """
    norms = np.linalg.norm(rows.astype(np.float32, copy=False), axis=1)
    wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(wrong):
        raise InputError(f"entry {first + int(wrong[0])} embeds to NaN, infinity or zero")


def write_part(
    folder: Path,
    vectors: Iterable[npt.NDArray[Any]],
    labels: npt.NDArray[np.int32],
    sources: Iterable[str],
    reduction: Reduction,
    settings: PartSettings | None = None,
) -> dict[str, Any]:
    """Writes one part of a memory into a staged component.

    Args:
        folder: The part's, `<staging>/pictures` or `<staging>/texts`; made.
        vectors: Blocks of float [c, d], L2-normalised: n rows in all.
        labels: int32 [n], positions in the memory's labels; -1 for an entry that was removed.
        sources: n texts: where each entry came from.
        reduction: From d to the index's dimension, already learned.
        settings: How the part is indexed and searched; the defaults if None.

    Returns:
        What the manifest says of the part.

    Raises:
        InputError: A vector is zero or not finite, or the three differ in number.
    """
    settings = settings or PartSettings()
    folder.mkdir()
    with VectorWriter(folder, len(reduction.mean)) as writer:
        for block in vectors:
            writer.append(block)
    write_entries(folder, labels, sources)
    settings = write_index(folder, reduction, settings)
    return part_info(folder, reduction, settings)


def write_entries(folder: Path, labels: npt.NDArray[np.int32], sources: Iterable[str]) -> None:
    """Writes what is known of the entries: `entries.npy`, `sources.npy` and `sources.utf8`.

    Args:
        folder: The part's, with its `vectors.npy`.
        labels: int32 [n], the class of each entry; -1 for one that was removed.
        sources: n texts.

    Raises:
        InputError: The number of vectors, labels and sources is not the same.
    """
    offset = 0
    with NpyWriter(folder / OFFSETS, np.int64) as offsets, (folder / TEXT).open("wb") as text:
        offsets.append(np.zeros(1, np.int64))
        left = iter(sources)
        while block := list(islice(left, _BLOCK)):
            # A path that is not UTF-8 is kept as far as it can be read.
            encoded = [source.encode("utf-8", "replace") for source in block]
            text.write(b"".join(encoded))
            ends = offset + np.cumsum([len(one) for one in encoded])
            offsets.append(ends)
            offset = int(ends[-1])
        count = offsets.rows - 1
    vectors = len(map_npy(folder / "vectors.npy"))
    if not vectors == count == len(labels):
        raise InputError(f"{vectors} vectors, {len(labels)} labels and {count} sources do not fit each other")
    np.save(folder / "entries.npy", labels.astype(np.int32, copy=False), allow_pickle=False)


def write_index(folder: Path, reduction: Reduction, settings: PartSettings, *, threads: int = 0) -> PartSettings:
    """Writes `reduction.npz` and the index over the part's vectors, as many shards as the settings say.

    Args:
        folder: The part's, with its `vectors.npy`.
        reduction: From d to the index's dimension.
        settings: How the part is indexed.
        threads: Threads of the build; 0 for one a core, and one where the part is small.

    Returns:
        The settings, with as many shards as there are: no more than entries.
    """
    reduction.save(folder / "reduction.npz")
    vectors = map_npy(folder / "vectors.npy")
    shards = shard_numbers(len(vectors), settings.shards)
    with _progress(f"{folder.name} index", len(vectors)) as bar:
        for shard, numbers in enumerate(shards):
            write_shard(folder / shard_name(shard), vectors, numbers, reduction, settings, threads=threads, bar=bar)
    return replace(settings, shards=len(shards))


def _progress(what: str, entries: int) -> AbstractContextManager[tqdm[Any] | None]:
    """A bar where the work takes its time, None where not.

    Forked processes share tqdm's lock: one that is killed while it holds it stops the others for good. So what a device
    does every now and then does without.
    """
    return tqdm(total=entries, desc=what, unit="", disable=None) if entries > _REPEATABLE else nullcontext()


def shard_numbers(entries: int, shards: int) -> list[npt.NDArray[np.int64]]:
    """The numbers of each shard's entries: int64, a contiguous range of almost the same length."""
    return [
        np.asarray(numbers, np.int64) for numbers in np.array_split(np.arange(entries), min(shards, max(1, entries)))
    ]


def write_shard(
    path: Path,
    vectors: npt.NDArray[np.float16],
    numbers: npt.NDArray[np.int64],
    reduction: Reduction,
    settings: PartSettings,
    *,
    onto: Path | None = None,
    threads: int = 0,
    bar: tqdm[Any] | None = None,
) -> None:
    """Writes an HNSW index over some of the entries, keyed by their numbers.

    Args:
        path: The file; never one that is mapped.
        vectors: float16 [n, d], all of the part.
        numbers: int64, of the entries to add, in this order.
        reduction: From d to the index's dimension.
        settings: Says the dtype of what the index stores.
        onto: An index of the same kind to which they are added; it stays as it is.
        threads: Threads of the build; 0 for one a core, and one where the shard is small.
        bar: Is moved on by each entry.

    Raises:
        OSError: The file cannot be written.
    """
    # Only who writes an index loads what builds it: half a second, and not needed to search.
    from usearch.index import Index

    dtype = settings.index_dtype
    metric = "hamming" if dtype == "b1" else "l2sq"
    index = Index(ndim=reduction.dim, metric=metric, dtype=dtype, connectivity=CONNECTIVITY, expansion_add=EXPANSION)
    if onto is not None:
        index.load(str(onto))
    threads = threads or int(len(index) + len(numbers) <= _REPEATABLE)
    for first in range(0, len(numbers), _BLOCK):
        some = numbers[first : first + _BLOCK]
        block = reduction.entries(vectors[some].astype(np.float32))
        index.add(some, stored(block, dtype), threads=threads)
        if bar is not None:
            bar.update(len(some))
    try:
        index.save(str(path))
        # Opened as a search will open it: a file that is not whole must not get into a bundle.
        whole = _native.Graph(map_bytes(path)).size == len(index)
    except (RuntimeError, ValueError) as error:
        raise OSError(errno.EIO, f"the index could not be written ({error})") from error
    if not whole:
        raise OSError(errno.EIO, "the index could not be written whole")


def stored(reduced: Floats, dtype: str) -> npt.NDArray[Any]:
    """Reduced vectors as the index is given them: i8 rounded to whole numbers, b1 as sign bits, others as they are."""
    if dtype == "i8":
        return np.clip(np.rint(reduced), -_INT8_LARGEST, _INT8_LARGEST).astype(np.int8)
    return np.packbits(reduced > 0, axis=1) if dtype == "b1" else reduced


def part_info(folder: Path, reduction: Reduction, settings: PartSettings) -> dict[str, Any]:
    """What the manifest says of a written part."""
    count = len(map_npy(folder / "entries.npy"))
    return {"entries": count, "index_dim": reduction.dim, "kept": reduction.kept, **settings.to_info()}
