"""What a job reads: folders, globs and files of pictures, or Parquet of bytes or paths; here or on a file system."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from rar.runtime.errors import InputError
from rar.runtime.picture.folder import find, is_hidden
from rar.runtime.picture.formats import suffixes

from .recognise import holds_paths, pictures_column

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
_PARQUET = ".parquet"
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Source:
    """The pictures of a job.

    Attributes:
        filesystem: Where files are; None for local ones.
        identity: The column that tells rows apart, and that stands beside the answers.
        column: The column that holds the pictures.
        rows: How many there are.
        table: The identities and the pictures' paths; None where there are bytes, which only actors read.
        groups: The row groups of Parquet files of bytes: a file and a number each.
    """

    filesystem: FileSystem | None
    identity: str
    column: str
    rows: int
    table: pa.Table | None = None
    groups: Sequence[tuple[str, int]] = ()

    def work(self, done: pa.Array, block: int) -> list[pa.Table]:
        """What is left, in parts for one call of an actor each: some rows, or the place of a row group.

        Args:
            done: The identities of the rows that are left out.
            block: Rows of a part.
        """
        if self.table is None:
            return [pa.table({"file": [file], "group": [group]}) for file, group in self.groups]
        left = without(self.table, self.identity, done)
        return [left.slice(at, block).combine_chunks() for at in range(0, len(left), block)]

    def read(self, work: pa.Table, done: pa.Array, block: int) -> Iterator[pa.Table]:
        """The rows of a part, some at a time; for an actor."""
        if not self.groups:
            yield work
            return
        system = self.filesystem or LocalFileSystem()
        columns = list(dict.fromkeys((self.identity, self.column)))
        for file, group in zip(work["file"].to_pylist(), work["group"].to_pylist(), strict=True):
            with pq.ParquetFile(system.open_input_file(file)) as parquet:
                for rows in parquet.iter_batches(block, row_groups=[group], columns=columns):
                    if len(some := without(pa.Table.from_batches([rows]), self.identity, done)):
                        yield some


def without(rows: pa.Table, identity: str, done: pa.Array) -> pa.Table:
    """The rows whose identity is not among those done."""
    if not len(done):
        return rows
    return rows.filter(pc.invert(pc.is_in(rows[identity], value_set=done.cast(rows[identity].type))))


def open_source(names: Sequence[str], identity: str = "path") -> Source:
    """Looks at what is named; lists folders, and reads the heads of Parquet files.

    Args:
        names: Folders, globs and files, or addresses such as `s3://bucket/folder`, all on one file system.
        identity: The column of Parquet files that tells rows apart.

    Raises:
        InputError: There is nothing, or it cannot be read, or pictures and Parquet are mixed.
    """
    found = [_system(name) for name in names]
    if not found:
        raise InputError("give folders, globs or files of pictures, or Parquet files of them")
    filesystem = found[0][0]
    if any(other != filesystem for other, _ in found):
        raise InputError(f"{names[0]} and {names[-1]} are on two file systems; run a job for each")
    files = [file for _, path in found for file in _files(filesystem, path)]
    parquet = [file for file in files if file.endswith(_PARQUET)]
    if parquet and len(parquet) < len(files):
        raise InputError(f"{', '.join(names)}: holds pictures and Parquet files; name one or the other")
    if not parquet:
        paths = list(dict.fromkeys(files))
        return Source(filesystem, "path", "path", len(paths), pa.table({"path": pa.array(paths, pa.string())}))
    heads = [_head(filesystem, file) for file in parquet]
    schemas = [head.schema.to_arrow_schema() for head in heads]
    column = pictures_column(schemas[0])
    for file, schema in zip(parquet, schemas, strict=True):
        if column not in schema.names:
            raise InputError(f"{file}: has no column {column!r}, as {parquet[0]} has; run a job for each")
        if identity not in schema.names:
            raise InputError(f"{file}: has no column {identity!r}, which tells rows apart; name one with --id")
    count = sum(head.num_rows for head in heads)
    if holds_paths(schemas[0].field(column).type):
        columns = list(dict.fromkeys((identity, column)))
        tables = [pq.read_table(file, columns=columns, filesystem=filesystem) for file in parquet]
        return Source(filesystem, identity, column, count, pa.concat_tables(tables))
    groups = [(file, group) for file, head in zip(parquet, heads, strict=True) for group in range(head.num_row_groups)]
    return Source(filesystem, identity, column, count, None, groups)


def system_of(name: str) -> tuple[FileSystem, str]:
    """The file system of a path or an address, and the path in it.

    Raises:
        InputError: There is no such file system.
    """
    filesystem, path = _system(name)
    return (LocalFileSystem() if filesystem is None else filesystem), path


def _system(name: str) -> tuple[FileSystem | None, str]:
    if not _SCHEME.match(name):
        return None, str(Path(name).absolute())
    try:
        filesystem, path = FileSystem.from_uri(name)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{name}: cannot be opened ({error})") from error
    return (None if isinstance(filesystem, LocalFileSystem) else filesystem), path


def _files(filesystem: FileSystem | None, path: str) -> list[str]:
    """The pictures, or the Parquet files, that a path names, sorted."""
    if filesystem is None and not _GLOB.search(path) and Path(path).is_dir():
        tables = sorted(str(file) for file in Path(path).rglob(f"*{_PARQUET}") if not is_hidden(file.name))
        return tables or [str(image) for image in find(Path(path)).images]
    system = filesystem or LocalFileSystem()
    # Of a glob, the folder above its first star is listed.
    fixed = path if (star := _GLOB.search(path)) is None or system.get_file_info(path).type == FileType.File else ""
    root = fixed or posixpath.dirname(path[: star.start()] if star else path)
    try:
        info = system.get_file_info(root)
        if info.type == FileType.File:
            return [root]
        listed = system.get_file_info(FileSelector(root, recursive=True, allow_not_found=True))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be listed ({error})") from error
    inside = [one.path for one in listed if one.type == FileType.File and not _in_hidden(one.path[len(root) :])]
    if not fixed:
        inside = [file for file in inside if fnmatchcase(file, path)]
    known = (*suffixes(), _PARQUET)
    files = sorted(file for file in inside if file.lower().endswith(known))
    if not files:
        raise InputError(f"{path}: there is no picture and no Parquet file; check the path")
    return files


def _in_hidden(path: str) -> bool:
    return any(is_hidden(part) for part in path.split("/") if part)


def _head(filesystem: FileSystem | None, file: str) -> Any:
    try:
        return pq.read_metadata(file, filesystem=filesystem)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: no Parquet file ({error}); leave it out") from error
