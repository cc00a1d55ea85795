"""The folder that a job fills: Parquet files that are complete or absent, named by the rows that they hold.

A block that is answered twice, because a node was lost after it had written, replaces its own file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem

from rar.runtime.errors import InputError

JOB = "job.json"
_PART, _UNFINISHED = "part-", "unfinished-"


@dataclass(frozen=True)
class Parts:
    """A folder of parts.

    Attributes:
        filesystem: Where it is.
        folder: Its path there.
        identity: The column that tells rows apart.
    """

    filesystem: FileSystem
    folder: str
    identity: str

    def write(self, rows: pa.Table) -> None:
        """Writes one part."""
        digest = hashlib.sha256("\n".join(map(repr, rows[self.identity].to_pylist())).encode())
        name = f"{_PART}{digest.hexdigest()[:24]}.parquet"
        with self._replaced(name) as file:
            pq.write_table(rows, file)

    def done(self) -> Done:
        """What the parts hold.

        Raises:
            InputError: A part is no Parquet file.
        """
        files = self._files()
        if not files:
            return Done(pa.array([], pa.string()), 0)
        try:
            rows = ds.dataset(files, filesystem=self.filesystem).to_table([self.identity, "error"])
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.folder}: a part cannot be read ({error}); remove it, then --resume") from error
        return Done(rows[self.identity].combine_chunks(), pc.count(rows["error"]).as_py())

    def begin(self, job: dict[str, Any], *, resume: bool) -> None:
        """Makes the folder and notes what the job is, or checks that it is the same job again.

        Raises:
            InputError: The folder holds something already, or another job's answers.
        """
        job = json.loads(json.dumps(job))  # as it is read back
        self.filesystem.create_dir(self.folder, recursive=True)
        there = [one.base_name for one in self.filesystem.get_file_info(FileSelector(self.folder))]
        if JOB in there:
            if not resume:
                raise InputError(f"{self.folder}: holds answers already; go on with --resume, or name another folder")
            with self.filesystem.open_input_stream(f"{self.folder}/{JOB}") as file:
                before = _parsed(file.read())
            other = sorted(key for key in {*before, *job} if before.get(key) != job.get(key))
            if other:
                raise InputError(
                    f"{self.folder}: was begun with another {', '.join(other)}; name another folder, or ask the same"
                )
            for name in there:
                if name.startswith(_UNFINISHED):
                    self.filesystem.delete_file(f"{self.folder}/{name}")
            return
        if there:
            raise InputError(f"{self.folder}: holds other files ({sorted(there)[0]}); name an empty folder")
        with self._replaced(JOB) as file:
            file.write(json.dumps(job, indent=1).encode())

    def _files(self) -> Sequence[str]:
        listed = self.filesystem.get_file_info(FileSelector(self.folder))
        return sorted(one.path for one in listed if one.base_name.startswith(_PART))

    def _replaced(self, name: str) -> _Replaced:
        # Two nodes may write the same part, where one was thought to be lost.
        unfinished = f"{self.folder}/{_UNFINISHED}{uuid4().hex[:8]}-{name}"
        return _Replaced(self.filesystem, unfinished, f"{self.folder}/{name}")


@dataclass(frozen=True)
class Done:
    """What was answered.

    Attributes:
        identities: Of the rows, with doubles where there are any.
        errors: How many have no answer.
    """

    identities: pa.Array
    errors: int

    @property
    def doubled(self) -> int:
        """How many rows are there more than once."""
        return len(self.identities) - int(pc.count_distinct(self.identities).as_py())


class _Replaced:
    """A file that has its name once it is complete."""

    def __init__(self, filesystem: FileSystem, unfinished: str, name: str) -> None:
        self._filesystem, self._unfinished, self._name = filesystem, unfinished, name

    def __enter__(self) -> Any:
        self._file = self._filesystem.open_output_stream(self._unfinished)
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            self._filesystem.move(self._unfinished, self._name)
        else:
            self._filesystem.delete_file(self._unfinished)


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        job = json.loads(content)
    except ValueError as error:
        raise InputError(f"{JOB} is damaged ({error}); name another folder") from error
    return job if isinstance(job, dict) else {}
