"""Writes the files of one part, block by block, so that a part may be larger than memory.

`VectorWriter` writes `vectors.npy`, from which a reduction may be learned; `write_entries` and `write_index` go on.
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

from ... import _native
from ...bundle.files import utf8_path
from ...errors import InputError
from ...machine.cores import usable_cores
from ..files import NpyWriter, map_bytes, map_npy
from ..part import IndexDtype, PartSettings, shard_name
from ..reduction import Floats, Reduction
from ..sources import OFFSETS, TEXT

CONNECTIVITY = 16
EXPANSION = 128
_BLOCK = 8192
# One thread builds the same graph each time; a long build is shared by the cores.
_REPEATABLE = 10_000
_INT8_LARGEST = 127


class VectorWriter(NpyWriter):
    """`vectors.npy` of a part being written: float16 [n, d].

    Args:
        folder: The part's folder.
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
    """Checks that the vectors, float [c, d], can be searched.

    Args:
        rows: The vectors.
        first: The number of the first one.

    Raises:
        InputError: A vector is zero or not finite.
    """
    norms = np.linalg.norm(rows.astype(np.float32, copy=False), axis=1)
    wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(wrong):
        raise InputError(
            f"entry {first + int(wrong[0])} embeds to NaN, infinity or zero"
            "; the encoder is broken: check it with `rar-export verify`, or export it again"
        )


def write_entries(folder: Path, labels: npt.NDArray[np.int32], sources: Iterable[str]) -> None:
    """Writes the entries' classes and sources: `entries.npy`, `sources.npy` and `sources.utf8`.

    Args:
        folder: The part's folder, with its `vectors.npy`.
        labels: int32 [n], the class of each entry; -1 for a removed one.
        sources: n texts.

    Raises:
        InputError: The numbers of vectors, labels and sources differ.
    """
    offset = 0
    with NpyWriter(folder / OFFSETS, np.int64) as offsets, (folder / TEXT).open("wb") as text:
        offsets.append(np.zeros(1, np.int64))
        left = iter(sources)
        while block := list(islice(left, _BLOCK)):
            # Bytes of a path that are not UTF-8 are replaced.
            encoded = [source.encode("utf-8", "replace") for source in block]
            text.write(b"".join(encoded))
            ends = offset + np.cumsum([len(one) for one in encoded])
            offsets.append(ends)
            offset = int(ends[-1])
        count = offsets.rows - 1
    vectors = len(map_npy(folder / "vectors.npy"))
    if not vectors == count == len(labels):
        raise InputError(
            f"{vectors} vectors, {len(labels)} labels and {count} sources do not fit each other"
            "; give one of each an entry"
        )
    np.save(folder / "entries.npy", labels.astype(np.int32, copy=False), allow_pickle=False)


def write_index(folder: Path, reduction: Reduction, settings: PartSettings) -> PartSettings:
    """Writes `reduction.npz` and the index over the part's vectors, as many shards as the settings say.

    Args:
        folder: The part's folder, with its `vectors.npy`.
        reduction: From d to the index's dimension.
        settings: How the part is indexed.

    Returns:
        The settings with the actual number of shards: at most one per entry.
    """
    reduction.save(folder / "reduction.npz")
    vectors = map_npy(folder / "vectors.npy")
    shards = shard_numbers(len(vectors), settings.shards)
    with progress(f"{folder.name} index", len(vectors)) as bar:
        for shard, numbers in enumerate(shards):
            write_shard(folder / shard_name(shard), vectors, numbers, reduction, settings, bar=bar)
    return replace(settings, shards=len(shards))


def progress(what: str, entries: int, **options: Any) -> AbstractContextManager[tqdm[Any] | None]:
    """A progress bar for long work, None for short work.

    Forked processes share tqdm's lock: a process that is killed while it holds the lock blocks the others for good. So
    the short work on devices shows no bar.
    """
    return tqdm(total=entries, desc=what, unit="", disable=None, **options) if entries > _REPEATABLE else nullcontext()


def shard_numbers(entries: int, shards: int) -> list[npt.NDArray[np.int64]]:
    """The numbers of each shard's entries: int64, contiguous ranges of nearly equal length."""
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
    bar: tqdm[Any] | None = None,
) -> None:
    """Writes an HNSW index over some of the entries, keyed by their numbers.

    Args:
        path: The file; never a mapped one.
        vectors: float16 [n, d], all vectors of the part.
        numbers: int64, the numbers of the entries to add, in this order.
        reduction: From d to the index's dimension.
        settings: Says the dtype of what the index stores.
        onto: An index of the same kind to which they are added; it stays as it is.
        bar: Is moved on by each entry.

    Raises:
        OSError: The file cannot be written.
    """
    # Imported only here: the index builder takes half a second to load, and a search does not need it.
    from usearch.index import Index

    dtype = settings.index_dtype
    index = Index(ndim=reduction.dim, metric="l2sq", dtype=dtype, connectivity=CONNECTIVITY, expansion_add=EXPANSION)
    if onto is not None:
        with utf8_path(onto) as name:
            index.load(name)
    threads = 1 if len(index) + len(numbers) <= _REPEATABLE else usable_cores()
    for first in range(0, len(numbers), _BLOCK):
        some = numbers[first : first + _BLOCK]
        block = reduction.entries(vectors[some].astype(np.float32))
        index.add(some, stored(block, dtype), threads=threads)
        if bar is not None:
            bar.update(len(some))
    try:
        with utf8_path(path) as name:
            index.save(name)
        # Opened as a search will open it: an incomplete file must not get into a bundle.
        whole = _native.Graph(map_bytes(path)).size == len(index)
    except (RuntimeError, ValueError) as error:
        raise OSError(errno.EIO, f"the index could not be written ({error})") from error
    if not whole:
        raise OSError(errno.EIO, "the index could not be written whole")


def stored(reduced: Floats, dtype: IndexDtype) -> npt.NDArray[Any]:
    """Reduced vectors as the index is given them: i8 rounded to whole numbers, f16 as they are."""
    if dtype == "i8":
        return np.clip(np.rint(reduced), -_INT8_LARGEST, _INT8_LARGEST).astype(np.int8)
    return reduced


def part_info(folder: Path, reduction: Reduction, settings: PartSettings) -> dict[str, Any]:
    """The manifest's entry of a written part."""
    count = len(map_npy(folder / "entries.npy"))
    return {"entries": count, "index_dim": reduction.dim, "kept": reduction.kept, **settings.to_info()}
