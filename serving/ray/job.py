"""`rar-recognize --engine ray`: a data set's answers as Parquet files, by all nodes of a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any

import pyarrow as pa
import ray
import ray.data
from tqdm import tqdm

from rar.runtime.cli.printable import printable
from rar.runtime.errors import RarError
from rar.runtime.loop import Asked

from .cluster import actors, check_bundles, connected, named_error, own_error, quiet
from .parts import Done, Parts
from .recognise import Recognise
from .source import Source, open_source, system_of

# Rows that an actor takes at once and that make a part. With 16 Ray's own cost was half of all; from 96 it was little.
_BLOCK = 128
# Blocks an actor at least, of a small job: else some would have nothing to do.
_SHARES = 4
_SMALLEST = 16


@dataclass(frozen=True)
class Job:
    """What is to be answered, and how.

    Attributes:
        bundle: The bundle's folder, at the same path on each node.
        sources: See `open_source`.
        out: The folder of answers, here or an address such as `s3://bucket/folder`.
        asked: Arguments of `Recognizer.recognize`.
        opened: Arguments of `Recognizer.open`.
        threads: Of each actor.
        identity: The column of Parquet files that tells rows apart.
        resume: Whether what `out` holds already is left out.
    """

    bundle: str
    sources: Sequence[str]
    out: str
    asked: Asked
    opened: Mapping[str, Any]
    threads: int = 1
    identity: str = "path"
    resume: bool = False


def run(job: Job, address: str | None = None) -> int:
    """Runs a job on the cluster at an address, or on one that is started here.

    Returns:
        0, or 2 if a picture has no answer.

    Raises:
        RarError: The input cannot be used, nodes have different bundles, a setting is out of range, or rows are missing
            or doubled in the end.
    """
    bundle = os.path.abspath(job.bundle)
    source = open_source(job.sources, job.identity)
    with connected(address):
        quiet()
        same = check_bundles(bundle)
        filesystem, folder = system_of(job.out)
        parts = Parts(filesystem, folder, source.identity)
        parts.begin({"bundle": same, "asked": dict(job.asked), "opened": _plain(job.opened)}, resume=job.resume)
        done = parts.done()
        count = actors(job.threads)
        left = source.rows - len(done.identities)
        block = max(_SMALLEST, min(_BLOCK, -(-left // (_SHARES * count))))
        work = source.work(done.identities, block)
        if left > 0 and work:
            # Only the actors ask for CPUs: whatever else did would wait for ever where they have all.
            rows = ray.data.from_arrow(work).map_batches(
                _Answer,
                batch_format="pyarrow",
                batch_size=None,
                compute=ray.data.ActorPoolStrategy(size=min(count, len(work))),
                num_cpus=job.threads,
                fn_constructor_kwargs={
                    "source": replace(source, table=None),
                    "done": ray.put(done.identities),
                    "block": block,
                    "parts": parts,
                    "bundle": bundle,
                    "column": source.column,
                    "filesystem": source.filesystem,
                    "expects": same,
                    "opened": {"threads": job.threads, **job.opened},
                    **job.asked,
                },
            )
            _follow(rows, left)
        return _checked(parts.done(), source.rows, job.out)


class _Answer(Recognise):
    """Recognises a part of the work, and writes the answers where they are made; only their number leaves the node."""

    def __init__(self, source: Source, done: ray.ObjectRef, block: int, parts: Parts, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._source, self._block, self._parts = source, block, parts
        self._done = ray.get(done)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The number of rows that were written, and the error that stopped it."""
        count, kind, message = 0, "", ""
        try:
            for rows in self._source.read(batch, self._done, self._block):
                self._parts.write(super().__call__(rows))
                count += len(rows)
        except RarError as error:  # raised, it would reach the driver without its text
            kind, message = type(error).__name__, str(error)
        return pa.table({"rows": [count], "kind": [kind], "message": [message]})


def _follow(rows: ray.data.Dataset, total: int) -> None:
    """Runs it to its end, and shows how far it is.

    Raises:
        RarError: It failed.
    """
    try:
        with tqdm(total=total, desc="pictures", unit="picture", disable=None) as bar:
            for one in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                bar.update(sum(one["rows"].to_pylist()))
                for kind, message in zip(one["kind"].to_pylist(), one["message"].to_pylist(), strict=True):
                    if kind:
                        raise named_error(kind, message)
    except ray.exceptions.RayError as error:
        raise own_error(error) from error


def _checked(done: Done, rows: int, out: str) -> int:
    found = len(done.identities)
    if found != rows or done.doubled:
        raise RarError(
            f"{out}: holds {found} answers, {done.doubled} of them doubled, to {rows} pictures; the source has "
            "changed, or its rows are not told apart by --id"
        )
    print(f"rar-recognize: {printable(out)}: {rows} pictures, {done.errors} without an answer", file=sys.stderr)
    return 2 if done.errors else 0


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON keeps them."""
    return {name: asdict(one) if is_dataclass(one) else one for name, one in settings.items()}  # type: ignore[arg-type]
