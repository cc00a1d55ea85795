"""Reads embeddings in the format that their name indicates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rar.runtime.bundle.arrays import map_npy
from rar.runtime.errors import InputError

from ..pictures.rows import read_text
from .embeddings import Embeddings


def read_embeddings(
    source: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    *,
    embedding_column: str | None = None,
    label_column: str | None = None,
) -> Embeddings:
    """Opens precomputed embeddings; the vectors are read on demand.

    Args:
        source: A `.npy` of float [n, d]; a `.parquet` file, or a folder of them; a folder in clip-retrieval's layout
            (`img_emb/*.npy` beside `metadata/*.parquet`); a faiss `.index` or `.faiss`, flat or HNSW over flat, with
            ids or without.
        labels: A text file with the class of each row (for a faiss index with ids, of each id), one per line. Parquet
            has its own labels.
        embedding_column: Parquet's column of vectors; None for the only such column.
        label_column: Parquet's column of class names; None for `label`.

    Raises:
        InputError: A file is missing, damaged or has another form, or the labels do not match.
    """
    path = Path(source)
    if path.is_dir() or path.suffix == ".parquet":
        from . import parquet

        if labels is not None:
            raise InputError(f"{path}: Parquet brings its own labels; name their column instead of {labels}")
        if (path / "img_emb").is_dir():
            return parquet.read_clip_retrieval(path, label_column)
        return parquet.read_parquet(path, embedding_column, label_column)
    if embedding_column is not None or label_column is not None:
        raise InputError(f"{path}: has no columns; they are Parquet's")
    if labels is None:
        raise InputError(f"{path}: needs the class of each vector; give a file with one a line (--labels)")
    names = _read_labels(Path(labels))
    if path.suffix in (".index", ".faiss"):
        from . import faiss_index

        return faiss_index.read_faiss(path, names)
    try:
        vectors = map_npy(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a .npy of numbers ({error}); save one array with `numpy.save`") from error
    return Embeddings.of(vectors, names, str(path))


def _read_labels(path: Path) -> Sequence[str]:
    names = read_text(path).rstrip("\n").split("\n")
    if blank := [line for line, name in enumerate(names, 1) if not name.strip()]:
        raise InputError(f"{path}, line {blank[0]}: the class name is blank; name the class")
    return [name.strip() for name in names]
