"""faiss index files: flat, HNSW over flat, either with ids.

faiss itself reads the file, in this process, and trusts the sizes in it. This module relies on faiss to raise an
exception on damaged files and never to read out of bounds: the export runs where such a file was fetched, not on the
device. The sizes in the header are compared with the file's size first.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from rar.runtime.errors import InputError

from .embeddings import BLOCK, Block, Embeddings

# The first four bytes: flat by inner product, by L2, by another metric; HNSW over flat; ids around one of these.
_FLAT, _IDS = (b"IxFI", b"IxF2", b"IxFl", b"IHNf"), (b"IxMp", b"IxM2")
# Four letters, dimension, number of vectors, and the rest up to the index inside an IDMap.
_HEAD, _IDS_HEAD = struct.Struct("<4siq"), 37


def read_faiss(path: Path, labels: Sequence[str]) -> Embeddings:
    """Opens an index; faiss loads all of it.

    Args:
        path: The file.
        labels: The class of each vector; if the index has ids, the class of each id from 0.

    Raises:
        InputError: The file is missing, damaged, of another kind (a compressed index has lost its vectors) or empty, or
            its ids are not unique or have no label.
    """
    _check_head(path)
    try:
        index: Any = faiss.read_index(str(path))
    except (RuntimeError, MemoryError, ValueError) as error:
        raise InputError(
            f"{path}: faiss cannot read it ({str(error).splitlines()[0]}); write it with `faiss.write_index`"
        ) from error
    with_ids = isinstance(index, (faiss.IndexIDMap, faiss.IndexIDMap2))
    inner = _vectors_of(index)
    if not isinstance(inner, (faiss.IndexFlat, faiss.IndexHNSWFlat)):
        raise InputError(f"{path}: {type(inner).__name__} does not keep its vectors; flat and HNSW over flat do")
    count = int(inner.ntotal)
    rows = faiss.vector_to_array(index.id_map) if with_ids else np.arange(count)
    if len(rows) != count:
        raise InputError(f"{path}: {len(rows)} ids for {count} vectors; write the index again")
    _check_rows(path, rows, len(labels), with_ids=with_ids)

    def read() -> Iterator[Block]:
        # From the outer index each time: the inner one is freed with it.
        inner = _vectors_of(index)
        for start in range(0, count, BLOCK):
            stop = min(start + BLOCK, count)
            numbers = rows[start:stop].tolist()
            yield Block(
                inner.reconstruct_n(start, stop - start),
                [labels[row] for row in numbers],
                [f"{path}[{row}]" for row in numbers],
            )

    return Embeddings(count, int(inner.d), read)


def _vectors_of(index: Any) -> Any:
    return faiss.downcast_index(index.index) if hasattr(index, "id_map") else index


def write_faiss(path: Path, vectors: Iterator[npt.NDArray[np.float32]], dim: int, kind: str) -> None:
    """Writes an index of unit vectors by inner product, which is their cosine; faiss holds all of it meanwhile.

    Args:
        path: The file.
        vectors: Blocks of float32 [c, d].
        dim: d.
        kind: `flat`, or `hnsw` with 32 links.
    """
    metric = faiss.METRIC_INNER_PRODUCT
    index: Any = faiss.IndexHNSWFlat(dim, 32, metric) if kind == "hnsw" else faiss.IndexFlat(dim, metric)
    for block in vectors:
        index.add(np.ascontiguousarray(block))
    faiss.write_index(index, str(path))


def _check_head(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(_IDS_HEAD + _HEAD.size)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if head[:4] in _IDS:
        head = head[_IDS_HEAD:]
    if head[:4] not in _FLAT or len(head) < _HEAD.size:
        raise InputError(f"{path}: no flat or HNSW index of faiss; other kinds do not keep their vectors")
    _, dim, count = _HEAD.unpack_from(head)
    if dim < 1 or count < 1 or 4 * dim * count > size:
        raise InputError(f"{path}: {count} vectors of {dim} dimensions are not in {size} bytes; copy the file again")


def _check_rows(path: Path, rows: npt.NDArray[np.int64], labels: int, *, with_ids: bool) -> None:
    if not with_ids:
        if len(rows) != labels:
            raise InputError(f"{path}: {len(rows)} vectors do not fit {labels} labels; give one label a vector")
        return
    unique, counts = np.unique(rows, return_counts=True)
    if counts.max() > 1:
        raise InputError(
            f"{path}: the id {int(unique[counts.argmax()])} stands there {int(counts.max())} times"
            "; give each vector an id of its own"
        )
    if not 0 <= int(unique[0]) <= int(unique[-1]) < labels:
        wrong = int(unique[0]) if unique[0] < 0 else int(unique[-1])
        raise InputError(f"{path}: the id {wrong} has no label; there are {labels}, for the ids from 0")
