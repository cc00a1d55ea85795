"""Writes embeddings in the formats that `read` takes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from rar.runtime.bundle.files import atomic_file, fsync
from rar.runtime.errors import InputError

from .embeddings import Embeddings

EXTENSIONS = (".npy", ".parquet", ".index", ".faiss")


def write_embeddings(
    out: str | os.PathLike[str], embeddings: Embeddings, *, faiss_kind: Literal["flat", "hnsw"] = "flat"
) -> list[Path]:
    """Writes embeddings; a file is complete or absent.

    Args:
        out: A `.npy` (float16) or a faiss `.index` or `.faiss`, each with its classes in `<out>.labels.txt`, one a
            line; a `.parquet` with the columns embedding (float32), label and source; or, without a suffix, a new
            folder in clip-retrieval's layout.
        embeddings: The embeddings, of unit length.
        faiss_kind: The kind of faiss index.

    Returns:
        The written files.

    Raises:
        InputError: The path cannot be written or is a folder, or a label does not fit on a line.
    """
    path = Path(out)
    try:
        if path.suffix not in EXTENSIONS:
            return [_write_folder(path, embeddings)]
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file")
        if path.suffix == ".parquet":
            _write_parquet(path, embeddings)
            return [path]
        lines = _lines(embeddings)
        if path.suffix == ".npy":
            _write_npy(path, embeddings)
        else:
            _write_faiss(path, embeddings, faiss_kind)
        labels = path.with_name(f"{path.name}.labels.txt")
        with atomic_file(labels) as file:
            file.write(lines)
        return [path, labels]
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); check the path and who may write there"
        ) from error


def _write_npy(path: Path, embeddings: Embeddings) -> None:
    layout = {"descr": "<f2", "fortran_order": False, "shape": (embeddings.count, embeddings.dim)}
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(file, layout)
        for block in embeddings.read():
            file.write(np.ascontiguousarray(block.vectors, "<f2").data)


def _lines(embeddings: Embeddings) -> bytes:
    labels = [label for block in embeddings.read() for label in block.labels]
    for label in set(labels):
        if label != label.strip() or len(label.splitlines()) != 1:
            raise InputError(f"the class {label!r} does not fit on a line; write a .parquet instead")
    return "".join(f"{label}\n" for label in labels).encode()


def _write_parquet(path: Path, embeddings: Embeddings) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("embedding", pa.list_(pa.float32())), ("label", pa.string()), ("source", pa.string())])
    with atomic_file(path) as file, pq.ParquetWriter(file, schema) as writer:
        for block in embeddings.read():
            flat = pa.array(np.ascontiguousarray(block.vectors, np.float32).ravel())
            offsets = pa.array(np.arange(0, len(flat) + 1, embeddings.dim, dtype=np.int32))
            columns = [pa.ListArray.from_arrays(offsets, flat), pa.array(block.labels), pa.array(block.sources)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _write_folder(path: Path, embeddings: Embeddings) -> Path:
    """Writes clip-retrieval's layout: a `.npy` beside a table with each row's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.exists():
        raise InputError(f"{path}: exists already; name a new folder, or a file ending in {', '.join(EXTENSIONS)}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: {path.parent} is no folder; make it, or name a file in another")
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for folder in ("img_emb", "metadata"):
            (staging / folder).mkdir()
        _write_npy(staging / "img_emb" / "img_emb_0.npy", embeddings)
        schema = pa.schema([("image_path", pa.string()), ("label", pa.string())])
        with atomic_file(staging / "metadata" / "metadata_0.parquet") as file, pq.ParquetWriter(file, schema) as writer:
            for block in embeddings.read():
                writer.write_table(
                    pa.Table.from_arrays([pa.array(block.sources), pa.array(block.labels)], schema=schema)
                )
        staging.chmod(0o755)
        os.replace(staging, path)
        fsync(path.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return path


def _write_faiss(path: Path, embeddings: Embeddings, kind: str) -> None:
    from .faiss_index import write_faiss

    def vectors() -> Iterator[np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
        for block in embeddings.read():
            yield np.asarray(block.vectors, np.float32)

    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        write_faiss(temporary, vectors(), embeddings.dim, kind)
        fsync(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
