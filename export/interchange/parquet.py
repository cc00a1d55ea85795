"""Embeddings in Parquet: a column of vectors and one of class names, or clip-retrieval's folders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rar.runtime.bundle.arrays import map_npy
from rar.runtime.errors import InputError

from .embeddings import BLOCK, Block, Embeddings, check_numbers

# Columns with a row's source; clip-retrieval's are image_path and url.
_SOURCE_COLUMNS = ("source", "image_path", "path", "url")


def read_parquet(path: Path, embedding_column: str | None = None, label_column: str | None = None) -> Embeddings:
    """Opens a `.parquet`, or a folder of them in the order of their names.

    Raises:
        InputError: The file is missing, is not Parquet, or lacks the columns.
    """
    files = sorted(path.glob("*.parquet"), key=_by_number) if path.is_dir() else [path]
    if not files:
        raise InputError(
            f"{path}: holds no .parquet, and no img_emb as clip-retrieval writes it"
            "; name a folder that does, or a .parquet file"
        )
    schema = _schema(files[0])
    column = embedding_column or _only_vector_column(files[0], schema)
    label = label_column or "label"
    for file in files:
        _check_columns(file, _schema(file), column, label)
    count = sum(_rows(file) for file in files)
    first = next(_batches(files[0], [column]), None)
    if first is None or not len(first):
        raise InputError(f"{files[0]}: holds no row; give a file with rows")
    dim = _matrix(first.column(0), f"{files[0]}, column {column!r}").shape[1]

    def read() -> Iterator[Block]:
        for file in files:
            source = _source_column(_schema(file), (column, label))
            row = 0
            for batch in _batches(file, [column, label, *([source] if source else [])]):
                vectors = _matrix(batch.column(column), f"{file}, column {column!r}, rows from {row}")
                labels = _texts(batch.column(label), f"{file}, column {label!r}")
                yield Block(vectors, labels, _sources(batch, source, file, row))
                row += len(labels)

    return Embeddings(count, dim, read)


def read_clip_retrieval(folder: Path, label_column: str | None = None) -> Embeddings:
    """Opens what `clip-retrieval inference` writes: `img_emb/img_emb_0.npy`, ... beside `metadata/metadata_0.parquet`.

    Args:
        folder: The parent of both.
        label_column: The metadata's column of class names; None for `label`.

    Raises:
        InputError: The two do not match, a file is damaged, or the column is missing.
    """
    arrays = sorted((folder / "img_emb").glob("*.npy"), key=_by_number)
    tables = sorted((folder / "metadata").glob("*.parquet"), key=_by_number)
    if not arrays or [_number(path) for path in arrays] != [_number(path) for path in tables]:
        raise InputError(
            f"{folder}: {len(arrays)} files in img_emb and {len(tables)} in metadata do not belong together; "
            "clip-retrieval writes one of each with the same number"
        )
    label = label_column or "label"
    mapped: list[npt.NDArray[Any]] = []
    for array, table in zip(arrays, tables, strict=True):
        _check_columns(table, _schema(table), None, label)
        try:
            vectors = map_npy(array)
        except (OSError, ValueError) as error:
            raise InputError(f"{array}: not a .npy of numbers ({error}); copy it again") from error
        check_numbers(vectors.dtype, str(array))
        rows = _rows(table)
        dim = mapped[0].shape[1] if mapped else vectors.shape[-1]
        if vectors.ndim != 2 or vectors.shape != (rows, dim):
            raise InputError(
                f"{array}: shape {list(vectors.shape)} does not fit {rows} rows of {table.name}; copy both files again"
            )
        mapped.append(vectors)

    def read() -> Iterator[Block]:
        for vectors, table in zip(mapped, tables, strict=True):
            source = _source_column(_schema(table), (label,))
            row = 0
            for batch in _batches(table, [label, *([source] if source else [])]):
                labels = _texts(batch.column(label), f"{table}, column {label!r}")
                yield Block(vectors[row : row + len(labels)], labels, _sources(batch, source, table, row))
                row += len(labels)

    return Embeddings(sum(map(len, mapped)), mapped[0].shape[1], read)


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}); copy it again") from error


def _schema(path: Path) -> pa.Schema:
    with _parquet_errors(path):
        return pq.read_schema(path)


def _rows(path: Path) -> int:
    with _parquet_errors(path):
        return int(pq.read_metadata(path).num_rows)


def _batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with _parquet_errors(path), pq.ParquetFile(path) as file:
        yield from file.iter_batches(BLOCK, columns=list(columns))


def _only_vector_column(path: Path, schema: pa.Schema) -> str:
    columns = [field.name for field in schema if _is_vector(field.type)]
    if len(columns) != 1:
        raise InputError(f"{path}: {len(columns)} columns hold vectors ({', '.join(columns)}); name the one to read")
    return str(columns[0])


def _check_columns(path: Path, schema: pa.Schema, column: str | None, label: str) -> None:
    for name in (label,) if column is None else (column, label):
        if schema.names.count(name) != 1:
            raise InputError(f"{path}: has no column {name!r}, or two; it has {', '.join(schema.names)}")
    if column is not None and not _is_vector(schema.field(column).type):
        raise InputError(
            f"{path}: column {column!r} holds {schema.field(column).type}, not lists of floating-point"
            "; name the vectors' column with --embedding-column"
        )
    if not _is_text(schema.field(label).type):
        raise InputError(f"{path}: column {label!r} holds {schema.field(label).type}; class names are strings")


def _is_vector(kind: pa.DataType) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(listed and pa.types.is_floating(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _source_column(schema: pa.Schema, taken: Sequence[str]) -> str | None:
    for name in _SOURCE_COLUMNS:
        if name not in taken and schema.names.count(name) == 1 and _is_text(schema.field(name).type):
            return name
    return None


def _matrix(column: pa.Array, where: str) -> npt.NDArray[Any]:
    """Converts lists of equal length: float [c, d]."""
    if column.null_count:
        raise InputError(f"{where}: a vector is missing; leave the row out")
    values = column.flatten()
    if values.null_count:
        raise InputError(f"{where}: a number is missing; leave the row out")
    lengths = pc.min_max(pc.list_value_length(column)).as_py()
    if lengths["min"] != lengths["max"]:
        raise InputError(f"{where}: vectors of unlike length; give vectors of one encoder")
    if not len(values):
        raise InputError(f"{where}: vectors of no dimension; name the vectors' column with --embedding-column")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(column), -1)


def _texts(column: pa.Array, where: str) -> list[str]:
    if column.null_count:
        raise InputError(f"{where}: a class name is missing; name the class or leave the row out")
    try:
        return [str(text).strip() for text in column.to_pylist()]
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error}); save the names as UTF-8") from error


def _sources(batch: pa.RecordBatch, column: str | None, path: Path, row: int) -> list[str]:
    texts = [None] * len(batch) if column is None else batch.column(column).to_pylist()
    return [text or f"{path}[{row + i}]" for i, text in enumerate(texts)]


def _number(path: Path) -> int:
    digits = re.findall(r"[0-9]+", path.stem)
    return int(digits[-1][-18:]) if digits else -1


def _by_number(path: Path) -> tuple[int, str]:
    """Sort key that puts img_emb_10 after img_emb_9, with or without leading zeros."""
    return _number(path), path.name
