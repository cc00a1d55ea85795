"""`Recognise`: what `Dataset.map_batches` of Ray Data calls."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
from pyarrow.fs import FileSystem, FileType

from rar.runtime.errors import BundleError, ImageError, InputError
from rar.runtime.loop import Asked
from rar.runtime.picture.given import Given
from rar.runtime.result import Result

from ..fingerprint import fingerprint
from ..isolated import Isolated
from ..row import Row, schema, to_row

if TYPE_CHECKING:
    from typing_extensions import Unpack

# The columns that may hold pictures, in the order in which they are looked for.
PICTURES = ("bytes", "image", "path")
# The column that says which processor answered.
MACHINE = "instruction_sets"
# Of one file; as for file objects.
_MOST_BYTES = 1 << 30


class Recognise:
    """Recognises the pictures of a batch; for `Dataset.map_batches` with `batch_format="pyarrow"`.

    An actor opens the bundle once, in a child process with as many threads as the actor was given CPUs. A picture that
    cannot be read, or that ends the process that reads it, has its `error` set.

    Example:
        >>> ray.data.read_parquet("photos.parquet").map_batches(
        ...     Recognise,
        ...     fn_constructor_kwargs={"bundle": "/srv/bundle", "k": 5},
        ...     batch_format="pyarrow",
        ...     batch_size=128,
        ...     num_cpus=1,
        ...     compute=ray.data.ActorPoolStrategy(size=2),
        ... )

    Args:
        bundle: The bundle's folder, at the same path on each node.
        column: The column with the pictures: their bytes, their paths, or Hugging Face's structs of both; by default
            the first of `bytes`, `image` and `path` that is there.
        filesystem: Where paths are read from; None for the node's own files, which several threads read.
        expects: The bundle's `fingerprint`; None takes any.
        opened: Further arguments of `Recognizer.open`.
        **asked: See `Asked`.

    Raises:
        BundleError: This node has no such bundle, or another one.
        RarError: As `Recognizer.open`.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        column: str | None = None,
        filesystem: FileSystem | None = None,
        expects: str | None = None,
        opened: Mapping[str, Any] | None = None,
        **asked: Unpack[Asked],
    ) -> None:
        if expects is not None and fingerprint(bundle) != expects:
            raise BundleError(f"{bundle}: this node has another bundle than the one that the job began with")
        self._column = column
        self._filesystem = filesystem
        self._isolated = Isolated(bundle, {"threads": given_threads(), **(opened or {})}, asked)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The batch without its pictures' bytes, and with the fields of `Row` and `instruction_sets`.

        Raises:
            InputError: The batch has no column of pictures, or one by the name of a field.
        """
        name = pictures_column(batch.schema, self._column)
        kept = batch if holds_paths(batch.schema.field(name).type) else batch.drop_columns([name])
        fields = schema().append(pa.field(MACHINE, pa.string()))
        if taken := set(fields.names) & set(kept.column_names):
            raise InputError(f"the data set has a column {taken.pop()!r}, as an answer has; rename it")
        rows = self._rows([self._picture(value) for value in batch[name].to_pylist()])
        machine = self._isolated.machine.instruction_sets
        answers = pa.Table.from_pylist([{**row, MACHINE: machine} for row in rows], fields)
        for field in fields:
            kept = kept.append_column(field, answers[field.name])
        return kept

    def _rows(self, pictures: list[Given | ImageError]) -> list[Row]:
        answered = iter(self._isolated.rows([one for one in pictures if not isinstance(one, ImageError)]))
        provider = self._isolated.machine.provider
        return [
            to_row(Result(error=one), provider) if isinstance(one, ImageError) else next(answered) for one in pictures
        ]

    def _picture(self, value: Any) -> Given | ImageError:
        """The picture of one cell."""
        if isinstance(value, Mapping):  # Hugging Face's
            value = value.get("path") if value.get("bytes") is None else value["bytes"]
        if value is None:
            return ImageError("the row has no picture")
        if isinstance(value, str) and self._filesystem is not None:
            return read(self._filesystem, value)
        picture: Given = value
        return picture


def given_threads() -> int | None:
    """Threads for the CPUs that Ray gave this worker; None outside Ray."""
    if not ray.is_initialized():
        return None
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))


def pictures_column(columns: pa.Schema, asked: str | None = None) -> str:
    """The column that holds pictures.

    Raises:
        InputError: There is none.
    """
    for name in PICTURES if asked is None else (asked,):
        if name in columns.names:
            return name
    wanted = ", ".join(PICTURES) if asked is None else asked
    raise InputError(f"no column {wanted} in {', '.join(columns.names)}; say which one holds the pictures")


def read(filesystem: FileSystem, path: str) -> bytes | ImageError:
    """The bytes of a file, or why it cannot be read."""
    try:
        found = filesystem.get_file_info(path)
        if found.type != FileType.File:
            return ImageError(f"{path}: no such file")
        if found.size is not None and found.size > _MOST_BYTES:
            return ImageError(f"{path}: has {found.size} bytes, more than {_MOST_BYTES}; leave it out")
        with filesystem.open_input_stream(path) as file:
            return bytes(file.read())
    except (OSError, pa.ArrowException) as error:
        return ImageError(f"{path}: cannot be read ({error})")


def holds_paths(kind: pa.DataType) -> bool:
    """Whether a column of this type has paths, and no bytes."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
